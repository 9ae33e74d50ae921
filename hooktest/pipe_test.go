package hooktest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipe(t *testing.T) {
	waits := func(t *testing.T, c *PipeConn, n int, ended bool) {
		t.Helper()
		if gotN, gotEnded := c.Waiting(); gotN != n || gotEnded != ended {
			t.Errorf("%d bytes wait, ended: %t; want %d, %t", gotN, gotEnded, n, ended)
		}
	}
	for name, f := range map[string]func(*testing.T, *PipeConn, *PipeConn){
		"what was written is read after the end, then the end": func(t *testing.T, a, b *PipeConn) {
			waits(t, b, 0, false)
			_, _ = a.Write([]byte("ab"))
			waits(t, b, 2, false)
			_ = a.Close()
			waits(t, b, 2, true)
			if got, err := io.ReadAll(b); string(got) != "ab" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("written to nobody: %v", err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("read from a closed end: %v", err)
			}
		},
		"a reader waits until its deadline": func(t *testing.T, a, b *PipeConn) {
			began := time.Now()
			_ = b.SetReadDeadline(began.Add(time.Minute))
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
				t.Errorf("%v after %s", err, time.Since(began))
			}
			_ = b.SetDeadline(time.Time{})
			time.AfterFunc(time.Hour, func() { _, _ = a.Write([]byte("x")) })
			if n, err := b.Read(make([]byte, 1)); n != 1 || err != nil || time.Since(began) != time.Hour+time.Minute {
				t.Errorf("%v after %s", err, time.Since(began))
			}
			_ = b.SetReadDeadline(began)
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a deadline that has passed: %v", err)
			}
		},
		"a deadline that was moved does not strike": func(t *testing.T, a, b *PipeConn) {
			_ = b.SetReadDeadline(time.Now().Add(time.Minute))
			_ = b.SetReadDeadline(time.Now().Add(time.Hour))
			time.AfterFunc(30*time.Minute, func() { _, _ = a.Write([]byte("x")) })
			if n, err := b.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		},
		"a writer waits for room, until its deadline": func(t *testing.T, a, b *PipeConn) {
			_ = a.SetWriteDeadline(time.Now().Add(time.Second))
			if n, err := a.Write(make([]byte, pipeBytes+9)); n != pipeBytes || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d, %v", n, err)
			}
			_ = a.SetWriteDeadline(time.Time{})
			sent := bytes.Repeat([]byte("0123456789"), pipeBytes/5)
			go func() { _, _ = a.Write(sent); _ = a.Close() }()
			if got, err := io.ReadAll(b); !bytes.Equal(got[pipeBytes:], sent) || err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		},
		"the end wakes who waits": func(t *testing.T, a, b *PipeConn) {
			time.AfterFunc(time.Second, func() { _ = b.Close() })
			if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%d, %v", n, err)
			}
			if n, err := a.Write(make([]byte, 2*pipeBytes)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%d, %v", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := Pipe()
				f(t, a, b)
			})
		})
	}
}
