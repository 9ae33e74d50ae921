package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const secret = "bench-secret-0123456789abcdef"

// load sends signed events with unique ids over a fixed number of connections, each as fast as it is answered.
type load struct {
	o    options
	run0 int64
	next atomic.Int64
	sent atomic.Int64 // answered 2xx
}

func newLoad(o options) *load { return &load{o: o, run0: time.Now().UnixNano()} }

// run loads one target for d.
func (l *load) run(ctx context.Context, t *target, d time.Duration) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	latencies := make([][]time.Duration, l.o.connections)
	errs := make([]error, l.o.connections)
	cpu, began := cpuSeconds(t.pid), time.Now()
	for i := range l.o.connections {
		wg.Go(func() { latencies[i], errs[i] = l.connection(ctx, t) })
	}
	wg.Wait()
	took, used := time.Since(began).Seconds(), cpuSeconds(t.pid)-cpu
	for _, err := range errs {
		if err != nil {
			return sample{}, err
		}
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return sample{}, fmt.Errorf("no request was answered")
	}
	slices.Sort(all)
	n := float64(len(all))
	return sample{rps: n / took, cpu: used / n, p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

func (l *load) connection(ctx context.Context, t *target) ([]time.Duration, error) {
	c, err := net.Dial("tcp", t.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 4096)
	sign := hmac.New(sha256.New, []byte(secret))
	var buf, body []byte
	var out []time.Duration
	for ctx.Err() == nil {
		id := fmt.Sprintf("evt_%x_%d", l.run0, l.next.Add(1))
		body = append(body[:0], `{"id":"`...)
		body = append(body, id...)
		body = append(body, `","type":"invoice.paid","resource":"`...)
		body = append(body, id...)
		body = append(body, `","padding":"`...)
		for len(body) < l.o.body-2 {
			body = append(body, 'x')
		}
		body = append(body, `"}`...)
		ts := strconv.FormatInt(time.Now().Unix(), 10)
		sign.Reset()
		_, _ = io.WriteString(sign, ts+".")
		_, _ = sign.Write(body)
		buf = append(buf[:0], "POST "+t.path+" HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-Event-Id: "+id+"\r\nX-Timestamp: "+ts+"\r\nX-Signature: sha256="...)
		buf = hex.AppendEncode(buf, sign.Sum(nil))
		buf = append(buf, "\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"...)
		buf = append(buf, body...)
		began := time.Now()
		if _, err := c.Write(buf); err != nil {
			return out, err
		}
		status, err := readAnswer(r)
		if err != nil {
			return out, err
		}
		if status < 200 || status > 299 {
			return out, fmt.Errorf("answered %d", status)
		}
		out = append(out, time.Since(began))
		l.sent.Add(1)
	}
	return out, nil
}

// readAnswer reads one answer with Content-Length.
func readAnswer(r *bufio.Reader) (status int, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first:
			if len(line) < 12 {
				return 0, fmt.Errorf("answer begins with %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
		case len(line) == 0:
			_, err = r.Discard(length)
			return status, err
		case len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err != nil {
				return 0, err
			}
		}
	}
}
