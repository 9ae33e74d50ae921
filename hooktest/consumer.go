package hooktest

import (
	"context"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// Answer is what the consumer does with one request. The zero Answer is 200 without a body.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Delay  time.Duration // before it answers
	Break  bool          // read the request, then break the connection without an answer
}

// Seen is one request that the consumer saw.
type Seen struct {
	Method, URI string
	Header      http.Header
	Body        []byte
	At          time.Time
}

// Consumer is a service that takes webhooks, records every request and fails by plan. Create with NewConsumer; safe for concurrent use.
type Consumer struct {
	mu    sync.Mutex
	seen  []Seen
	count map[string]int
	plan  func(s *Seen, nth int) Answer
	srv   *http.Server
	addr  string
}

// NewConsumer makes a consumer that answers 200. It does not listen yet.
func NewConsumer() *Consumer { return &Consumer{count: map[string]int{}} }

// Plan sets what the consumer answers; nth counts the requests of the same event (Hooktender-Id) from 1. Nil = always 200.
func (c *Consumer) Plan(f func(s *Seen, nth int) Answer) {
	c.mu.Lock()
	c.plan = f
	c.mu.Unlock()
}

// Listen serves on addr (with "" on the one from before, the first time on one that FreeAddr gives) until Close.
func (c *Consumer) Listen(addr string) (string, error) {
	if addr == "" {
		addr = c.addr
	}
	if addr == "" {
		var err error
		if addr, err = FreeAddr(); err != nil {
			return "", err
		}
	}
	l, err := listen(addr)
	if err != nil {
		return "", err
	}
	c.addr = l.Addr().String()
	c.Serve(l)
	return c.addr, nil
}

// Serve serves on l in the background until Close.
func (c *Consumer) Serve(l net.Listener) {
	srv := &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	c.mu.Lock()
	c.srv = srv
	c.mu.Unlock()
	go func() { _ = srv.Serve(l) }()
}

// Close stops listening and breaks every connection: from now on dials are refused.
func (c *Consumer) Close() {
	c.mu.Lock()
	srv := c.srv
	c.srv = nil
	c.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
	}
}

// Shutdown stops listening and lets requests under way finish.
func (c *Consumer) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	srv := c.srv
	c.srv = nil
	c.mu.Unlock()
	if srv == nil {
		return nil
	}
	return srv.Shutdown(ctx)
}

// ServeHTTP records the request and answers by plan.
func (c *Consumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s := Seen{Method: r.Method, URI: r.RequestURI, Header: r.Header.Clone(), Body: body, At: time.Now()}
	id := r.Header.Get("Hooktender-Id")
	c.mu.Lock()
	c.seen = append(c.seen, s)
	c.count[id]++
	nth, plan := c.count[id], c.plan
	c.mu.Unlock()
	var a Answer
	if plan != nil {
		a = plan(&s, nth)
	}
	if a.Delay > 0 {
		select {
		case <-time.After(a.Delay):
		case <-r.Context().Done():
		}
	}
	if a.Break {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), a.Header)
	if a.Status != 0 {
		w.WriteHeader(a.Status)
	}
	_, _ = io.WriteString(w, a.Body)
}

// Seen is a copy of all requests so far.
func (c *Consumer) Seen() []Seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Seen(nil), c.seen...)
}

// Of is the requests of one sender's event id within a source, in order.
func (c *Consumer) Of(source, eventID string) []Seen {
	var out []Seen
	for _, s := range c.Seen() {
		if s.Header.Get("Hooktender-Source") == source && s.Header.Get("Hooktender-Event-Id") == eventID {
			out = append(out, s)
		}
	}
	return out
}
