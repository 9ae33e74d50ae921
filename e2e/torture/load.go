package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// letter is one event as its sender has it.
type letter struct {
	path, id, resource string
	version            int
	body               []byte
}

// senders send what real senders send: fresh events, repeats, the same event twice at once, versions out of order, forged requests; and what was not acknowledged again.
type senders struct {
	book  *ledger.Book
	g     *gateway
	n     int
	pad   int // largest padding of a body
	next  atomic.Int64
	mu    sync.Mutex
	again []letter
}

func body(id, resource string, version, pad int) []byte {
	v := ""
	if resource != "" {
		v = fmt.Sprintf(`,"resource":%q,"version":%d`, resource, version)
	}
	return fmt.Appendf(nil, `{"id":%q,"type":"t"%s,"pad":%q}`, id, v, strings.Repeat("p", pad))
}

// run sends until ctx ends or nobody answers any more.
func (s *senders) run(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	for w := range s.n {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for ctx.Err() == nil && s.one(ctx, rnd) {
			}
		})
	}
	wg.Wait()
}

// one sends one event, or a few that belong together; false = the gateway is gone.
func (s *senders) one(ctx context.Context, rnd *rand.Rand) bool {
	if l, ok := s.retry(rnd); ok {
		return s.send(ctx, l)
	}
	n := s.next.Add(1)
	id := fmt.Sprintf("evt_%d", n)
	l := letter{path: "/s", id: id, body: body(id, "", 0, rnd.IntN(s.pad))}
	switch x := rnd.IntN(100); {
	case x < 5:
		return s.forged(ctx, rnd, n)
	case x < 10: // twice at once
		var wg sync.WaitGroup
		wg.Go(func() { s.send(ctx, l) })
		ok := s.send(ctx, l)
		wg.Wait()
		return ok
	case x < 20: // and again
		return s.send(ctx, l) && s.send(ctx, l)
	case x < 40: // versions of a resource, shuffled
		resource := fmt.Sprintf("r%d", n)
		for _, v := range rnd.Perm(4) {
			id := fmt.Sprintf("ord_%d_%d", n, v+1)
			if !s.send(ctx, letter{"/o", id, resource, v + 1, body(id, resource, v+1, 10)}) {
				return false
			}
		}
		return true
	}
	return s.send(ctx, l)
}

func (s *senders) retry(rnd *rand.Rand) (letter, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.again) == 0 || rnd.IntN(2) == 0 {
		return letter{}, false
	}
	l := s.again[0]
	s.again = s.again[1:]
	return l, true
}

// send sends a letter and keeps it for later if it was not acknowledged.
func (s *senders) send(ctx context.Context, l letter) bool {
	s.book.Send(l.id, l.body, false)
	status, _ := s.post(ctx, l, hooktest.Custom(secret, l.body, time.Now()))
	if status < 200 || status > 299 {
		s.mu.Lock()
		s.again = append(s.again, l)
		s.mu.Unlock()
	}
	return status != 0
}

// forged sends what was not signed with the secret, or altered after it was.
func (s *senders) forged(ctx context.Context, rnd *rand.Rand, n int64) bool {
	id := fmt.Sprintf("forged_%d", n)
	b := body(id, "", 0, 10)
	r := hooktest.Custom("another-secret-0123456789", b, time.Now())
	if rnd.IntN(2) == 0 {
		r = hooktest.Custom(secret, body(id, "", 0, 11), time.Now())
		r.Body = b
	}
	s.book.Send(id, b, true)
	status, _ := s.post(ctx, letter{path: "/s", id: id, body: b}, r)
	return status != 0
}

// post sends a request and notes the answer; status 0 = none.
func (s *senders) post(ctx context.Context, l letter, r hooktest.Request) (status int, head http.Header) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.g.public+l.path, bytes.NewReader(r.Body))
	if err != nil {
		return 0, nil
	}
	req.Header = r.Header.Clone()
	resp, err := s.g.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	s.book.Answer(l.id, resp.StatusCode, resp.Header.Get("Hooktender-Outcome"), l.resource, l.version)
	return resp.StatusCode, resp.Header
}

// consumer takes events, or does not.
type consumer struct {
	book    *ledger.Book
	down    atomic.Bool // answers 503
	slow    atomic.Int64
	arrived atomic.Int64
	srv     *http.Server
	addr    string
}

func newConsumer(book *ledger.Book) (*consumer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &consumer{book: book, addr: l.Addr().String()}
	c.srv = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = c.srv.Serve(l) }()
	return c, nil
}

func (c *consumer) close() { _ = c.srv.Close() }

// ServeHTTP takes one event.
func (c *consumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil { // cut off on the way: it never arrived
		panic(http.ErrAbortHandler)
	}
	var what struct {
		Resource string
		Version  int
	}
	c.arrived.Add(1)
	_ = json.Unmarshal(raw, &what) // altered bytes are the ledger's business
	a := c.book.Arrive(r.Header.Get("Hooktender-Event-Id"), raw, r.Header.Get("Idempotency-Key"), r.Header.Get("Hooktender-Redelivered") == "possible", what.Resource, what.Version)
	if d := c.slow.Load(); d > 0 {
		time.Sleep(time.Duration(rand.Int64N(d)))
	}
	status := 200
	if c.down.Load() {
		status = 503
	}
	c.book.Done(a, status)
	w.WriteHeader(status)
}
