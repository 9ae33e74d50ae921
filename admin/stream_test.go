package admin_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

// follow opens a stream and gives its lines.
func follow(t *testing.T, p *port, query, lastID string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/v1/stream"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	before := p.Core.Followed()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); p.Core.Followed() == before; time.Sleep(time.Millisecond) { // its head may come before it listens
		if time.Now().After(end) {
			t.Fatal("nobody follows")
		}
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("status %d, %s", resp.StatusCode, kind)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		defer resp.Body.Close()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// next gives the id and the record of the next change.
func next(t *testing.T, p *port, lines <-chan string) (id, record string) {
	t.Helper()
	for {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatal("the stream ended")
			}
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "id":
				id = value
			case "data":
				record = value
			case "event":
				if value != "state" {
					t.Errorf("event: %q", value)
				}
			case "":
				if record != "" {
					if why := p.contract.Check("GET", "/v1/events/x", 200, "application/json", []byte(record)); why != "" {
						t.Error(why)
					}
					return id, record
				}
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nothing came")
		}
	}
}

func TestTheStreamCanBeTakenUpAgain(t *testing.T) {
	p := start(t, nil)
	rec := p.Receive(t, "stripe", "evt_1", admintest.Queued)
	lines := follow(t, p, "", "")
	p.Change(t, rec.ID, nil, func(r *event.Record) { r.Reason = event.Retrying })
	first, record := next(t, p, lines)
	if !strings.Contains(record, `"reason":"retrying"`) {
		t.Error(record)
	}
	p.Change(t, rec.ID, nil, func(r *event.Record) { r.State, r.Reason = event.Delivered, event.NoReason })
	if _, record := next(t, p, lines); !strings.Contains(record, `"state":"delivered"`) {
		t.Error(record)
	}
	for _, again := range []<-chan string{follow(t, p, "?cursor="+first, ""), follow(t, p, "?cursor=nonsense", first)} {
		if _, record := next(t, p, again); !strings.Contains(record, `"state":"delivered"`) {
			t.Error(record)
		}
	}
}

// A reload keeps the streams of tokens that stay, and ends those of a token that it takes away.
func TestAStreamEndsWithItsToken(t *testing.T) {
	p := start(t, tokens)
	p.token = "reader-token-01234567"
	rec := p.Receive(t, "stripe", "evt_1", admintest.Queued)
	lines := follow(t, p, "", "")
	var o admin.Options
	tokens(&o)
	set := func(tokens []admin.Token) {
		if err := p.Server.SetTokens(tokens); err != nil {
			t.Fatal(err)
		}
	}
	set(o.Tokens)
	p.Change(t, rec.ID, nil, func(r *event.Record) { r.Reason = event.Retrying })
	if _, record := next(t, p, lines); !strings.Contains(record, `"reason":"retrying"`) {
		t.Error(record)
	}
	set(o.Tokens[:1])
	p.Change(t, rec.ID, nil, func(r *event.Record) { r.State, r.Reason = event.Delivered, event.NoReason })
	for line := range lines {
		if strings.Contains(line, `"state":"delivered"`) {
			t.Fatal(line)
		}
	}
}

// A reader that has heard of nothing when its connection breaks comes back with the id of where it began.
func TestAQuietStreamSaysWhereItBegins(t *testing.T) {
	p := start(t, nil)
	rec := p.Receive(t, "stripe", "evt_1", admintest.Queued)
	var id string
	for line := range follow(t, p, "?source=stripe", "") {
		if name, value, _ := strings.Cut(line, ": "); name == "id" {
			id = value
		} else if line == "" {
			break
		}
	}
	p.Change(t, rec.ID, nil, func(r *event.Record) { r.Reason = event.Retrying })
	if _, record := next(t, p, follow(t, p, "", id)); id == "" || !strings.Contains(record, `"reason":"retrying"`) {
		t.Errorf("after %q: %s", id, record)
	}
}

// A caller that only asks for the head has its answer, and its connection goes on.
func TestTheHeadOfAStreamIsWhole(t *testing.T) {
	p := start(t, nil)
	one := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 20 * time.Second}
	defer one.CloseIdleConnections()
	for _, method := range []string{"HEAD", "GET"} {
		path := map[string]string{"HEAD": "/v1/stream", "GET": "/livez"}[method]
		req, err := http.NewRequest(method, p.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := one.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s %s: %d", method, path, resp.StatusCode)
		}
	}
}

func TestWaitsAndStreamsEndWithTheServer(t *testing.T) {
	p := start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := admin.New(admin.Options{Journal: p.Journal, Core: p.Core, Control: p.Control, Health: p.Control})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, l) }()
	p.Receive(t, "stripe", "evt_1", admintest.Queued)
	base := "http://" + l.Addr().String()
	stream, err := http.Get(base + "/v1/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	status := make(chan int, 1)
	go func() {
		resp, err := http.Get(base + "/v1/events/evt_1?wait=60s")
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	for end := time.Now().Add(20 * time.Second); srv.Waiting() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 4500*time.Millisecond { // after five seconds they would be cut off
		t.Errorf("took %s", d)
	}
	if got := <-status; got != 200 {
		t.Errorf("the wait was answered %d", got)
	}
}
