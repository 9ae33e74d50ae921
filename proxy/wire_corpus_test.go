package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/proxy"
)

// A rawCase is one file of testdata/rawhttp, sent verbatim on a connection of its own. reject: the request must not reach the
// upstream, and the status is one of Status (0 = closed without an answer). accept: forwarded with exactly that body. either: the RFC
// leaves room, but the upstream conditions hold whenever it is forwarded.
type rawCase struct {
	File     string   `json:"file"`
	Verdict  string   `json:"verdict"`
	RFC      string   `json:"rfc"`
	Why      string   `json:"why"`
	Status   []int    `json:"status"`
	Requests *int     `json:"upstream_requests"`
	BodyHex  *string  `json:"upstream_body_hex"`
	Forbid   []string `json:"upstream_forbid"`
	Require  []string `json:"upstream_require"`
	Close    bool     `json:"close"`
	Half     bool     `json:"half_close_after_send"`
}

func TestRawRequests(t *testing.T) {
	var index struct{ Cases []rawCase }
	data, err := os.ReadFile("testdata/rawhttp/index.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Cases) < 174 {
		t.Errorf("the corpus has %d cases", len(index.Cases))
	}
	up := newRecorder(t)
	addr := newFrontend(t, up.URL, proxy.ServerConfig{})
	for _, c := range index.Cases {
		t.Run(strings.TrimSuffix(c.File, ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("testdata/rawhttp", c.File))
			if err != nil {
				t.Fatal(err)
			}
			c.judge(t, sendRaw(t, addr, raw, c.Half || !c.Close), up)
		})
	}
}

func (c *rawCase) judge(t *testing.T, got rawAnswer, up *recorder) {
	t.Helper()
	if !slices.Contains(c.Status, got.status) {
		t.Errorf("RFC %s (%s): status %d, want one of %v", c.RFC, c.Why, got.status, c.Status)
	}
	if c.Close && !got.closed {
		t.Errorf("RFC %s: the connection stays open after the answer", c.RFC)
	}
	seen := up.requests()
	if c.Requests != nil && len(seen) != *c.Requests {
		t.Errorf("RFC %s (%s): the upstream saw %d requests, want %d", c.RFC, c.Why, len(seen), *c.Requests)
	}
	for _, r := range seen {
		if want, err := hex.DecodeString(deref(c.BodyHex)); c.BodyHex != nil && (err != nil || !bytes.Equal(r.body, want)) {
			t.Errorf("the upstream got body %q, want %q", r.body, want)
		}
		all := lower(string(r.head) + string(r.body))
		for _, f := range c.Forbid {
			if strings.Contains(all, lower(bytesOf(f))) {
				t.Errorf("%q must not reach the upstream:\n%s", f, r.head)
			}
		}
		for _, f := range c.Require {
			if !strings.Contains(all, lower(bytesOf(f))) {
				t.Errorf("%q must reach the upstream:\n%s", f, r.head)
			}
		}
	}
}

// lower is strings.ToLower for ASCII in bytes of any kind.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

type rawAnswer struct {
	status int // the first final one
	closed bool
	all    []byte
}

// sendRaw writes raw on a new connection and reads what comes back until the connection ends. half says that nothing more will come, so
// that it ends in any case; else the server has to end it.
func sendRaw(t *testing.T, addr string, raw []byte, half bool) (a rawAnswer) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(raw) // fails where the server has seen enough
		if half {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	a.all, err = io.ReadAll(c)
	a.closed = !errors.Is(err, os.ErrDeadlineExceeded)
	br := bufio.NewReader(bytes.NewReader(a.all))
	for a.status < 200 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			a.status = 0
			return a
		}
		a.status = resp.StatusCode
	}
	return a
}

// newFrontend starts a Server that forwards POST /hook to upstream, and gives its address.
func newFrontend(t testing.TB, upstream string, cfg proxy.ServerConfig) string {
	t.Helper()
	client, err := forward.New("app", forward.Config{URL: upstream, Timeout: 5 * time.Second, MaxInFlight: 64}, forward.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return newServer(t, cfg, forwarder{client})
}

// newServer starts a Server on loopback and stops it at the test's end.
func newServer(t testing.TB, cfg proxy.ServerConfig, h proxy.Handler) string {
	t.Helper()
	addr, _ := startServer(t, cfg, h)
	return addr
}

func startServer(t testing.TB, cfg proxy.ServerConfig, h proxy.Handler) (string, *proxy.Server) {
	t.Helper()
	ln, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.NewServer(cfg, h, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String(), s
}

// A forwarder is the simplest gateway: POST /hook goes to the upstream, its answer goes back.
type forwarder struct{ client *forward.Client }

func (f forwarder) Route([]byte) proxy.Limits {
	return proxy.Limits{Body: 1 << 20, ReadTimeout: 5 * time.Second}
}

func (f forwarder) Handle(ctx context.Context, req *event.Request, a *proxy.Answer) {
	switch {
	case string(req.Path()) != "/hook":
		a.Status = 404
		return
	case req.Method != "POST":
		a.Status, a.Head = 405, event.Head("Allow: POST\r\n")
		return
	}
	r := f.client.Do(ctx, &forward.Call{Method: req.Method, Path: req.Target, Head: req.Head, Body: req.Body})
	a.Status, a.Head, a.Body = r.Status, r.Head, r.Body
	if r.Status == 0 {
		a.Status, a.Body = 502, []byte(r.ErrKind)
	}
}

// A recorder is an upstream that keeps the bytes it gets and answers 200.
type recorder struct {
	URL string
	mu  sync.Mutex
	got []recorded
}

type recorded struct{ head, body []byte }

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{URL: "http://" + ln.Addr().String()}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		var head []byte
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			line, err := br.ReadBytes('\n')
			if err != nil {
				return
			}
			head = append(head, line...)
		}
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), br)))
		if err != nil {
			_, _ = io.WriteString(c, "HTTP/1.1 599 Bad Upstream Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		body := make([]byte, req.ContentLength)
		if _, err := io.ReadFull(br, body); err != nil {
			return
		}
		r.mu.Lock()
		r.got = append(r.got, recorded{head, body})
		r.mu.Unlock()
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// requests gives what came since the last call.
func (r *recorder) requests() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}
