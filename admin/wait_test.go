package admin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

// A wait that takes over its connection answers like any other call: headers, HEAD, the connection's end.
func TestAnAnswerAfterAWaitIsAWholeAnswer(t *testing.T) {
	p := start(t, nil)
	rec := p.Receive(t, "stripe", "evt_1", admintest.Queued)
	time.AfterFunc(30*time.Millisecond, func() {
		p.Change(t, rec.ID, nil, func(r *event.Record) { r.State, r.Reason = event.Delivered, event.NoReason })
	})
	got := p.want(200, "GET", "/v1/events/evt_1?wait=10s", "")
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got.header.Get(name) != want {
			t.Errorf("%s: %q", name, got.header.Get(name))
		}
	}
	if at, err := http.ParseTime(got.header.Get("Date")); err != nil || time.Since(at) > time.Minute {
		t.Errorf("Date: %v", got.header)
	}
	if head := p.want(404, "HEAD", "/v1/events/evt_none?wait=10ms", ""); len(head.body) != 0 || head.header.Get("Content-Length") == "0" {
		t.Errorf("HEAD: %q, %v", head.body, head.header)
	}
	if got := p.want(404, "GET", "/v1/events/evt_none?wait=10ms", ""); got.at("was_received") != "no" || got.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s", got.body)
	}
}

// The end of the server answers those who wait, and leaves nobody behind.
func TestTheEndOfTheServerEndsWaits(t *testing.T) {
	g := admintest.Start(t, nil)
	rec := g.Receive(t, "stripe", "evt_1", admintest.Queued)
	s, err := admin.New(admin.Options{Journal: g.Journal, Core: g.Core, Control: g.Control, Health: g.Control})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var served, asked sync.WaitGroup
	served.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	answers := make(chan string, 20)
	for range cap(answers) {
		asked.Go(func() {
			resp, err := http.Get("http://" + l.Addr().String() + "/v1/events/" + rec.ID.String() + "?wait=60s")
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			answers <- resp.Status + " " + string(body)
		})
	}
	for end := time.Now().Add(10 * time.Second); s.Waiting() < cap(answers); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d wait", s.Waiting())
		}
	}
	began := time.Now()
	stop()
	served.Wait()
	asked.Wait()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	for range cap(answers) {
		if a := <-answers; !strings.HasPrefix(a, "200 OK") || !strings.Contains(a, `"state":"pending"`) {
			t.Error(a)
		}
	}
}
