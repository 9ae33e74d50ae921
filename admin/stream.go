package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
)

// A stream begins as soon as nothing speaks against it, with its id where the reader has none, else with a comment; it says that it is alive every heartbeat, and drops a reader that
// takes longer than streamWrite for one event.
const (
	streamOpen  = 50 * time.Millisecond
	heartbeat   = 15 * time.Second
	streamWrite = 10 * time.Second
)

func (s *Server) stream(c *call) error {
	v, err := c.query("cursor", "source")
	if err != nil {
		return err
	}
	cursor := v.Get("cursor")
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		cursor = last
	}
	source := v.Get("source")
	if err := s.checkSource(c.r.Context(), source); err != nil {
		return err
	}
	if !s.streams.enter(maxStreams) {
		return fail(http.StatusServiceUnavailable, "too many calls wait already").retry(time.Second)
	}
	defer s.streams.leave()
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	ctx, stop := s.untilStop(c.r.Context())
	defer stop()
	out := &sse{w: c.w, rc: http.NewResponseController(c.w), head: c.r.Method == http.MethodHead, allowed: s.stillMay(c.r, "events:read")}
	done := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		if out.beat(done) != nil {
			stop()
		}
	})
	err = s.Core.Changes(ctx, cursor, func(id string, rec *event.Record) error {
		switch {
		case rec == nil:
			return out.write([]byte("id: " + id + "\n\n")) // no event: a reader keeps it as the id to come back with
		case source != "" && rec.Source != source:
			return nil
		}
		runtime.Gosched() // deliveries go first: a hundred streams that catch up would take their turns of 10 ms each
		return out.event(id, s.show(rec))
	})
	close(done)
	beats.Wait()
	if out.begun || err == nil || errors.Is(err, context.Canceled) {
		return nil // the reader sees the end and comes back with its last id
	}
	return err
}

// stillMay says whether the caller of r has scope now: a reload may have taken the token away since the call began.
func (s *Server) stillMay(r *http.Request, scope string) func() bool {
	var checked *[]Token
	return func() bool {
		if tokens := s.tokens.Load(); tokens != checked {
			who, problem := s.authenticate(r)
			if problem != nil || !who.may(scope) {
				return false
			}
			checked = tokens
		}
		return true
	}
}

// sse writes a stream of server-sent events. Its methods may be called concurrently.
type sse struct {
	rc      *http.ResponseController
	head    bool        // only the head is wanted: the stream ends where it would begin
	allowed func() bool // whether the stream may go on

	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
}

// beat begins the stream, then keeps it alive until done.
func (o *sse) beat(done <-chan struct{}) error {
	next := streamOpen
	for {
		select {
		case <-done:
			return nil
		case <-time.After(next):
		}
		if err := o.write([]byte(": alive\n\n")); err != nil {
			return err
		}
		next = heartbeat
	}
}

func (o *sse) event(id string, e api.Event) error {
	data, err := api.Encode(e)
	if err != nil {
		return err
	}
	id = strings.NewReplacer("\n", "", "\r", "").Replace(id)
	return o.write(fmt.Appendf(nil, "event: state\nid: %s\ndata: %s\n\n", id, bytes.TrimSuffix(data, []byte("\n"))))
}

func (o *sse) write(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.begun && !o.allowed():
		return io.EOF
	case !o.begun:
		o.begun = true
		h := o.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no")
		o.w.WriteHeader(http.StatusOK)
	}
	_ = o.rc.SetWriteDeadline(now().Add(streamWrite))
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	if o.head {
		return io.EOF
	}
	return o.rc.Flush()
}
