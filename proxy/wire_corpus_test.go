package proxy_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/proxy"
)

func TestRawRequests(t *testing.T) {
	cases, err := hooktest.ReadRawCases("testdata/rawhttp")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 480 {
		t.Errorf("the corpus has %d cases", len(cases))
	}
	up := newRecorder(t)
	addr := newFrontend(t, "http://"+up.Addr, proxy.ServerConfig{})
	for _, c := range cases {
		t.Run(strings.TrimSuffix(c.File, ".txt"), func(t *testing.T) {
			for _, wrong := range c.Run(addr, up) {
				t.Error(wrong)
			}
		})
	}
}

func newRecorder(t testing.TB) *hooktest.Recorder {
	t.Helper()
	r, err := hooktest.NewRecorder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
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
