package socket

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// pair gives both ends of a connection, and a way to call f with the descriptor of the first.
func pair(t *testing.T) (a, b *net.TCPConn, on func(f func(fd uintptr))) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = dialled.(*net.TCPConn), accepted.(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return a, b, func(f func(fd uintptr)) {
		if err := raw.Control(f); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadGivesWhatIsThere(t *testing.T) {
	a, b, on := pair(t)
	buf := make([]byte, 16)
	on(func(fd uintptr) {
		if n, err := Read(fd, buf); n != 0 || err != syscall.EAGAIN {
			t.Errorf("nothing there: %d, %v", n, err)
		}
	})
	if _, err := b.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	ready(t, a)
	on(func(fd uintptr) {
		if n, err := Read(fd, buf); string(buf[:n]) != "hello" || err != nil {
			t.Errorf("%q, %v", buf[:n], err)
		}
	})
	b.CloseWrite()
	ready(t, a)
	on(func(fd uintptr) {
		if n, err := Read(fd, buf); n != 0 || err != nil {
			t.Errorf("at the end: %d, %v", n, err)
		}
	})
}

// A buffer that is full is no reason to wait, and a peer that is gone no reason for a signal.
func TestWriteTakesWhatThereIsRoomFor(t *testing.T) {
	_, b, on := pair(t)
	total := 0
	on(func(fd uintptr) {
		for chunk := make([]byte, 1<<20); ; {
			n, err := Write(fd, chunk)
			if err == syscall.EAGAIN && n == 0 {
				break
			}
			if err != nil || n == 0 {
				t.Errorf("%d, %v", n, err)
				break
			}
			if total += n; total > 1<<30 {
				t.Error("it never fills")
				break
			}
		}
	})
	b.SetLinger(0)
	b.Close()
	time.Sleep(50 * time.Millisecond)
	on(func(fd uintptr) {
		var err error
		for range 2 { // the first tells of the reset, the second would raise SIGPIPE
			_, err = Write(fd, []byte("x"))
		}
		if err != syscall.EPIPE {
			t.Errorf("to nobody: %v", err)
		}
	})
}

// ready waits until there is something to read.
func ready(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var one [1]byte
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err != syscall.EAGAIN
	}); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	_, _, on := pair(t)
	buf := make([]byte, 16)
	on(func(fd uintptr) {
		if n := testing.AllocsPerRun(100, func() { _, _ = Read(fd, buf) }); n != 0 {
			t.Errorf("%.0f allocations", n)
		}
	})
}
