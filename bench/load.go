//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// work is what one target gets in one round.
type work struct {
	connections int
	body        int
	duration    time.Duration
	rate        float64       // requests per second, by the clock; 0 = each connection as fast as it is answered
	duplicates  float64       // share of requests that repeat an event that was answered before
	patience    time.Duration // how long the last answers may take; 0 = 30 s
	resources   uint64        // how many there are; 0 = each event has its own
}

// result is what the senders saw.
type result struct {
	latency  histogram // at a rate: from the intended start
	answered uint64
	fresh    uint64 // of them with a new id: so many have to arrive
	took     time.Duration
}

// A load sends signed events. It runs in one thread over epoll, and a request is a patch of a prepared text and one write: it takes little of
// the machine, and the same for every target. Several may run at the same time.
type load struct {
	run0 uint32
	next atomic.Uint64 // number of the last event
}

func newLoad(run uint32) *load { return &load{run0: run} }

// sender is one connection.
type sender struct {
	fd      int
	buf     []byte // the request
	sent    int    // bytes of it that are written
	in      [4096]byte
	have    int
	began   time.Time
	waiting bool
	number  uint64
	repeat  bool
}

// driver is one run of a load.
type driver struct {
	l       *load
	w       work
	form    *requestForm
	t       *target
	epoll   int
	senders []*sender
	byFD    map[int32]*sender
	idle    []*sender // at a rate: a queue, the longest idle first
	busy    int
	due     float64 // repeats owed
	end     time.Time
	res     result
}

// run sends to one target until the time is over and everything is answered. Any answer but a 2xx is an error.
func (l *load) run(ctx context.Context, t *target, w work) (result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if w.patience == 0 {
		w.patience = 30 * time.Second
	}
	d := &driver{l: l, w: w, t: t, form: newRequestForm(t.path, l.run0, w.body, time.Now()), byFD: map[int32]*sender{}}
	d.form.resources = w.resources
	defer d.close()
	if err := d.connect(); err != nil {
		return result{}, err
	}
	began := time.Now()
	d.end = began.Add(w.duration)
	var err error
	if w.rate > 0 {
		err = d.byClock(ctx, began)
	} else {
		err = d.closed(ctx)
	}
	d.res.took = time.Since(began)
	if err == nil && d.res.answered == 0 {
		err = errors.New("no request was answered")
	}
	return d.res, err
}

func (d *driver) connect() (err error) {
	if d.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	for range d.w.connections {
		fd, err := dialRaw(d.t.addr)
		if err != nil {
			return err
		}
		s := &sender{fd: fd, buf: bytes.Clone(d.form.text)}
		d.senders, d.byFD[int32(fd)] = append(d.senders, s), s
		if err := watch(d.epoll, fd); err != nil {
			return err
		}
	}
	return nil
}

func (d *driver) close() {
	for _, s := range d.senders {
		_ = syscall.Close(s.fd)
	}
	_ = syscall.Close(d.epoll)
}

// dialRaw connects and gives the socket, non-blocking and without Nagle's delay.
func dialRaw(addr string) (int, error) {
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return rawSocket(c.(*net.TCPConn))
}

// rawSocket gives a copy of the descriptor that the runtime's poller knows nothing of.
func rawSocket(c *net.TCPConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	fd, dupErr := 0, error(nil)
	if err := raw.Control(func(p uintptr) {
		if fd, dupErr = syscall.Dup(int(p)); dupErr == nil {
			syscall.CloseOnExec(fd)
			dupErr = syscall.SetNonblock(fd, true)
		}
	}); err != nil {
		return 0, err
	}
	return fd, dupErr
}

// watch asks for edges: one call for the life of the connection.
func watch(epoll, fd int) error {
	const edge = 1 << 31
	return syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | edge, Fd: int32(fd)})
}

// closed lets every connection send again as soon as it is answered.
func (d *driver) closed(ctx context.Context) error {
	now := time.Now()
	for _, s := range d.senders {
		if err := d.send(s, now); err != nil {
			return err
		}
	}
	return d.loop(ctx, func(s *sender, now time.Time) error {
		if now.Before(d.end) {
			return d.send(s, now)
		}
		return nil
	}, func(time.Time) (time.Duration, error) { return time.Second, nil })
}

// byClock begins a request every 1/rate, on whichever connection is free. Where none is, the request waits, and its latency counts from when it should have begun.
func (d *driver) byClock(ctx context.Context, began time.Time) error {
	interval := time.Duration(float64(time.Second) / d.w.rate)
	d.idle = append(d.idle, d.senders...)
	next := began
	return d.loop(ctx, func(s *sender, _ time.Time) error {
		d.idle = append(d.idle, s)
		return nil
	}, func(now time.Time) (time.Duration, error) {
		for next.Before(d.end) && !now.Before(next) && len(d.idle) > 0 {
			s := d.idle[0]
			d.idle = d.idle[1:]
			if err := d.send(s, next); err != nil {
				return 0, err
			}
			next = next.Add(interval)
		}
		switch {
		case !next.Before(d.end):
			return -1, nil
		case len(d.idle) == 0:
			return time.Second, nil
		}
		return max(next.Sub(now), 0), nil
	})
}

// loop waits for answers and hands each to answered; begin sends what is due and says how long to wait at most (negative: nothing more will be sent).
// It ends when nothing is sent any more and all is answered.
func (d *driver) loop(ctx context.Context, answered func(*sender, time.Time) error, begin func(time.Time) (time.Duration, error)) error {
	var events [256]syscall.EpollEvent
	late := d.end.Add(d.w.patience)
	for {
		now := time.Now()
		wait, err := begin(now)
		if err != nil {
			return err
		}
		if d.busy == 0 && (wait < 0 || !now.Before(d.end)) {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case now.After(late):
			return fmt.Errorf("%d requests have no answer after %s", d.busy, d.w.patience)
		case wait < 0:
			wait = time.Second
		}
		n, err := epollWait(d.epoll, events[:], wait)
		if err != nil {
			return err
		}
		for _, ev := range events[:n] {
			s := d.byFD[ev.Fd]
			if !s.waiting {
				continue
			}
			if s.sent < len(s.buf) {
				if err := s.flush(); err != nil {
					return err
				}
			}
			done, err := s.read()
			if err != nil {
				return err
			}
			if done {
				now := time.Now()
				d.note(s, now)
				if err := answered(s, now); err != nil {
					return err
				}
			}
		}
	}
}

// note records an answer.
func (d *driver) note(s *sender, now time.Time) {
	s.waiting = false
	d.busy--
	d.res.latency.add(now.Sub(s.began))
	d.res.answered++
	if s.repeat {
		return
	}
	d.res.fresh++
	d.t.remember(s.number)
}

// send begins a request.
func (d *driver) send(s *sender, began time.Time) error {
	d.due += d.w.duplicates
	s.repeat = false
	if d.due >= 1 && len(d.t.answered) > 0 {
		d.due--
		s.repeat, s.number = true, d.t.recall()
	} else {
		s.number = d.l.next.Add(1)
	}
	d.form.write(s.buf, s.number)
	s.began, s.sent, s.have, s.waiting = began, 0, 0, true
	d.busy++
	return s.flush()
}

func (s *sender) flush() error {
	for s.sent < len(s.buf) {
		n, err := rawWrite(s.fd, s.buf[s.sent:])
		switch {
		case err == syscall.EAGAIN:
			return nil
		case err != 0:
			return fmt.Errorf("send: %w", err)
		}
		s.sent += n
	}
	return nil
}

var headEnd = []byte("\r\n\r\n")

// read takes what has come and says whether the answer is complete.
func (s *sender) read() (bool, error) {
	for {
		n, err := rawRead(s.fd, s.in[s.have:])
		switch {
		case err == syscall.EAGAIN:
			return false, nil
		case err != 0:
			return false, fmt.Errorf("read: %w", err)
		case n == 0:
			return false, errors.New("the connection was closed in place of an answer")
		}
		s.have += n
		in := s.in[:s.have]
		i := bytes.Index(in, headEnd)
		if i < 0 {
			if s.have == len(s.in) {
				return false, errors.New("the head of an answer is too long")
			}
			continue
		}
		status, length, bad := answerHead(in[:i+2])
		if bad != nil {
			return false, bad
		}
		if i+4+length > len(s.in) {
			return false, errors.New("an answer is too long")
		}
		if s.have < i+4+length {
			continue
		}
		if status < 200 || status > 299 {
			return false, fmt.Errorf("answered %s", in)
		}
		return true, nil
	}
}

// answerHead reads the status and Content-Length.
func answerHead(head []byte) (status, length int, err error) {
	if len(head) < 12 {
		return 0, 0, fmt.Errorf("answer begins with %q", head)
	}
	if status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return 0, 0, err
	}
	v, ok := headValue(head, "content-length:")
	if !ok {
		return 0, 0, fmt.Errorf("answer without Content-Length: %q", head)
	}
	n, ok := decimal(v)
	if !ok {
		return 0, 0, fmt.Errorf("Content-Length %q", v)
	}
	return status, int(n), nil
}

// headValue gives the value of a field. name is in lower case and ends with a colon.
func headValue(head []byte, name string) ([]byte, bool) {
	for len(head) > 0 {
		i := bytes.IndexByte(head, '\n')
		if i < 0 {
			i = len(head) - 1
		}
		line := head[:i+1]
		head = head[i+1:]
		if len(line) > len(name) && line[0]|0x20 == name[0] && line[len(name)-1] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name):]), true
		}
	}
	return nil, false
}
