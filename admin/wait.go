package admin

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

const (
	maxWait    = 60 * time.Second // bounds a wait; a longer one is as long
	maxWaits   = 16 << 10         // calls that wait at the same time
	maxStreams = 1024             // streams at the same time
	tidyEvery  = 256              // calls that have begun to wait
	tidyPause  = 100 * time.Millisecond
)

var duration = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`)

// places counts what goes on at the same time.
type places struct{ n atomic.Int64 }

// enter takes one of limit places; leave gives it back. False: all are taken.
func (p *places) enter(limit int64) bool {
	if p.n.Add(1) > limit {
		p.n.Add(-1)
		return false
	}
	return true
}

func (p *places) leave() { p.n.Add(-1) }

// Waiting is how many calls wait for an event now.
func (s *Server) Waiting() int { return int(s.waits.n.Load()) }

func waitParams(v url.Values) (time.Duration, func(*event.Record) bool, error) {
	until := (*event.Record).Terminal
	switch name := v.Get("until"); name {
	case "", "terminal":
	case "delivered":
		until = func(r *event.Record) bool { return r.State == event.Delivered || r.State == event.Replayed }
	default:
		return 0, nil, fail(http.StatusBadRequest, "until must be terminal or delivered")
	}
	if !v.Has("wait") {
		return 0, until, nil
	}
	text := v.Get("wait")
	wait, err := time.ParseDuration(text)
	if err != nil && duration.MatchString(text) {
		wait, err = maxWait, nil // more than a Duration holds
	}
	if err != nil || wait < 0 {
		return 0, nil, fail(http.StatusBadRequest, "wait must be a duration, as in 30s")
	}
	return min(wait, maxWait), until, nil
}

// await answers once until says yes to the event, or when time is up. A call that must wait costs little: its connection is taken over from
// the HTTP server, whose buffers and goroutines end, and what is left is a small goroutine that answers and closes. Whether the caller has
// gone meanwhile is found out when it is answered.
func (s *Server) await(c *call, source, id string, wait time.Duration, until func(*event.Record) bool) error {
	if !s.waits.enter(maxWaits) {
		return fail(http.StatusServiceUnavailable, "too many calls wait already").retry(time.Second)
	}
	woken, stop := s.Core.Watch(source, id, until)
	w := &waiter{s: s, source: source, id: id, until: until, woken: woken, done: func() { stop(); s.waits.leave() }}
	rec, err := s.Core.Find(c.r.Context(), source, id)
	if err == nil && until(&rec) || err != nil && !errors.Is(err, journal.ErrNotFound) {
		w.done()
		return s.found(c.w, &rec, err)
	}
	s.detached.Add(1) // before the HTTP server forgets the connection: Shutdown must wait for one of the two
	conn, _, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		defer s.detached.Done()
		defer w.done()
		w.wait(wait)
		rec, err := s.Core.Find(c.r.Context(), source, id)
		return s.found(c.w, &rec, err)
	}
	_ = conn.SetDeadline(time.Time{}) // a fault shows when the answer is written
	w.conn, w.header, w.head = conn, c.w.Header().Clone(), c.r.Method == http.MethodHead
	go func() {
		defer s.detached.Done()
		s.tidy()
		w.run(wait)
	}()
	return nil
}

// tidy collects what many calls leave behind when their connections are taken over, about 16 KiB each. Without it thousands of calls that
// wait would take their own size once more, until the heap has doubled.
func (s *Server) tidy() {
	if s.begun.Add(1)%tidyEvery != 0 || s.waits.n.Load() < tidyEvery || !s.tidying.CompareAndSwap(false, true) {
		return
	}
	s.detached.Go(func() {
		runtime.GC()
		select {
		case <-time.After(tidyPause):
		case <-s.stopping:
		}
		s.tidying.Store(false)
	})
}

// found answers with a record, or with the error that came in its place.
func (s *Server) found(w http.ResponseWriter, rec *event.Record, err error) error {
	if err != nil {
		return s.notFound(err)
	}
	return answer(w, http.StatusOK, s.show(rec))
}

// waiter is a call that waits, off the HTTP server.
type waiter struct {
	s          *Server
	conn       net.Conn
	header     http.Header
	head       bool
	source, id string
	until      func(*event.Record) bool
	woken      <-chan struct{}
	done       func()
}

// wait returns when the event may be as wanted, after d, or when the server stops.
func (w *waiter) wait(d time.Duration) (up bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.woken:
		return false
	case <-t.C:
	case <-w.s.stopping:
	}
	return true
}

func (w *waiter) run(d time.Duration) {
	defer w.done()
	defer w.conn.Close()
	for end := now().Add(d); ; {
		up := w.wait(end.Sub(now()))
		if w.answer(up) {
			return
		}
	}
}

// answer writes the record as it is if it is as wanted, or if time is up.
func (w *waiter) answer(up bool) bool {
	rec, err := w.s.Core.Find(w.s.life, w.source, w.id)
	if !up && (err == nil && !w.until(&rec) || errors.Is(err, journal.ErrNotFound)) {
		return false
	}
	out := &buffered{header: w.header}
	if err := w.s.found(out, &rec, err); err != nil {
		w.s.asProblem(err).write(out)
	}
	out.header.Set("Date", now().UTC().Format(http.TimeFormat))
	out.header.Set("Connection", "close")
	out.header.Set("Content-Length", strconv.Itoa(len(out.body)))
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", out.status, http.StatusText(out.status))
	_ = out.header.Write(&b) // to memory
	b.WriteString("\r\n")
	if !w.head {
		b.Write(out.body)
	}
	_ = w.conn.SetWriteDeadline(now().Add(writeTimeout))
	_, _ = w.conn.Write(b.Bytes()) // the peer may be gone
	return true
}
