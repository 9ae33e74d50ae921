package hooktest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/journal/embedded"
	"github.com/hooktender/hooktender/proxy"
)

// Addresses inside a bubble.
const (
	PublicAddr   = "127.0.0.1:8080"
	AdminAddr    = "127.0.0.1:9090"
	ConsumerAddr = "127.0.0.1:3000"
)

// Bubble is a whole gateway in a testing/synctest bubble: real journal, real pipeline, a network in memory, and time that passes as fast as
// everybody waits. Call Warm before the first bubble, create a Bubble inside one, and Stop it before the bubble ends.
type Bubble struct {
	Net      *Network
	Consumer *Consumer
	text     string
	dir      string
	change   []func(*gateway.Options)
	stop     func() error
}

// Warm lets the HTTP server, and the resolver of names, start what they start once per process. Call it before the first bubble, outside any: a goroutine that lives as long as the
// process must not belong to a bubble.
func Warm() error {
	n := &Network{}
	l, err := n.Listen(PublicAddr)
	if err != nil {
		return err
	}
	s := proxy.NewServer(proxy.ServerConfig{}, plain{}, slog.New(slog.DiscardHandler))
	go func() { _ = s.Serve(context.Background(), l) }()
	b := &Bubble{Net: n}
	_, _, err = b.roundTrip(PublicAddr, http.MethodPost, "/", Request{Header: http.Header{}})
	_, _ = net.DefaultResolver.LookupIPAddr(context.Background(), "localhost") // whatever it says: it has its configuration now
	return errors.Join(err, s.Shutdown(context.Background()))
}

// plain answers 200 to everything.
type plain struct{}

// Route allows anything small.
func (plain) Route([]byte) proxy.Limits { return proxy.Limits{Body: 1 << 10, ReadTimeout: time.Second} }

// Handle answers 200.
func (plain) Handle(_ context.Context, _ *event.Request, a *proxy.Answer) { a.Status = http.StatusOK }

// NewBubble starts a gateway with the `sources:` (and whatever else) given, its journal in dir, on PublicAddr and AdminAddr. Secrets are
// looked up with env; change has the last word on how the gateway is built. The consumer listens on ConsumerAddr once Up is called.
func NewBubble(dir, sources string, env func(string) (string, bool), change ...func(*gateway.Options)) (*Bubble, error) {
	b := &Bubble{Net: &Network{}, Consumer: NewConsumer(), dir: dir, change: change}
	b.text = fmt.Sprintf("version: 1\nlisten: %q\nadmin: {listen: %q}\ndata_dir: %q\njournal: {min_free: 0, allow_tmpfs: true}\n%s", PublicAddr, AdminAddr, dir, sources)
	return b, b.Start(env)
}

// Start starts the gateway (again) on the same files.
func (b *Bubble) Start(env func(string) (string, bool)) error {
	cfg, err := config.Parse("bubble.yaml", []byte(b.text), env)
	if err != nil {
		return err
	}
	o := gateway.Options{Listen: b.Net.Listen, Dial: b.Net.Dial, Journal: func(o *embedded.Options) { o.InBubble = true }}
	for _, f := range b.change {
		f(&o)
	}
	g, err := gateway.New(cfg, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	for range 1000 {
		if ok, _ := g.Ready(); ok {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("the gateway did not become ready: %w", b.stop())
}

// Stop ends the gateway gracefully, and lets half a minute pass: workers of the HTTP server sleep for a while before they end, and a bubble
// must not end before them.
func (b *Bubble) Stop() error {
	err := b.stop()
	time.Sleep(30 * time.Second)
	return err
}

// Up lets the consumer listen; Down makes dials to it refused.
func (b *Bubble) Up() error {
	l, err := b.Net.Listen(ConsumerAddr)
	if err == nil {
		b.Consumer.Serve(l)
	}
	return err
}

// Down closes the consumer.
func (b *Bubble) Down() { b.Consumer.Close() }

// Post sends a request to the public port on a connection of its own and gives the answer's status and Hooktender-Outcome.
func (b *Bubble) Post(path string, r Request) (status int, outcome string, err error) {
	status, head, err := b.Ask(path, r)
	return status, head.Get("Hooktender-Outcome"), err
}

// Ask is Post that gives the whole header of the answer.
func (b *Bubble) Ask(path string, r Request) (status int, head http.Header, err error) {
	resp, _, err := b.roundTrip(PublicAddr, http.MethodPost, path, r)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, resp.Header, nil
}

// Admin asks the admin port and gives status and body.
func (b *Bubble) Admin(path string) (status int, body []byte, err error) {
	resp, body, err := b.roundTrip(AdminAddr, http.MethodGet, path, Request{Header: http.Header{}})
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, body, nil
}

// AdminPost sends JSON to the admin port and gives status and body.
func (b *Bubble) AdminPost(path, body string) (status int, answer []byte, err error) {
	resp, answer, err := b.roundTrip(AdminAddr, http.MethodPost, path, Request{Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)})
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, answer, nil
}

func (b *Bubble) roundTrip(addr, method, path string, r Request) (*http.Response, []byte, error) {
	c, err := b.Net.Dial(context.Background(), "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	req, err := http.NewRequest(method, "http://"+addr+path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, nil, err
	}
	req.Header, req.Close = r.Header.Clone(), true
	return exchange(c, req)
}

func exchange(c net.Conn, req *http.Request) (*http.Response, []byte, error) {
	failed := make(chan error, 1)
	go func() { failed <- req.Write(c) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = c.Close()
	<-failed
	return resp, body, err
}
