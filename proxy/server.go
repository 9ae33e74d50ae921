package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/hooktender/hooktender/event"
)

// Limits of one source on the wire.
type Limits struct {
	Body        int64         // bytes; a larger body is a 413
	ReadTimeout time.Duration // whole request; later is a 408
}

// Answer is what goes back to the sender. Head holds well-formed end-to-end header lines without Content-Length,
// Transfer-Encoding, Connection and Date, which the server writes itself.
type Answer struct {
	Status int
	Head   event.Head
	Body   []byte
	Close  bool // close the connection after this answer
}

// A Handler answers requests. The server calls it only with requests that passed the strict wire check.
type Handler interface {
	// Route is asked when the head of a request is complete and its body is not read yet: the limits that hold for it.
	// path is the raw path. Unknown paths get the default limits (their answer is given by Handle).
	Route(path []byte) Limits
	// Handle answers one request. req is valid until Handle returns; the Answer's slices must be valid until the next call. The
	// Answer comes with an empty Head that has some room to append to.
	// It may be called concurrently. A panic is answered 500 and logged without request bytes.
	Handle(ctx context.Context, req *event.Request, a *Answer)
}

// ServerConfig bounds what clients may do to the server as a whole; what a source may be sent is in Limits. A zero field means
// its default.
type ServerConfig struct {
	HeadTimeout  time.Duration // from a request's first byte to the end of its head; then 408. Also for PROXY header and TLS handshake. Default 5 s
	IdleTimeout  time.Duration // for the first byte of a request; then the connection closes silently. Default 60 s
	WriteTimeout time.Duration // least time an answer has to leave, at most twice that. Default 15 s
	MaxConns     int           // connections at once; beyond it, waiting ones are closed and new ones wait. Default 16,384, less where descriptors are few
	MaxPerIP     int           // connections of one address at once; beyond it 429. Default 0 = no bound
	MaxRequests  int           // requests that are being handled at once; beyond it 503. Default 0 = no bound
	MaxBytes     int64         // bytes of bodies at once; beyond it 503. Default 0 = no bound

	// Trusted are the proxies in front: what they say about clients in X-Forwarded-For, -Proto and -Host is believed.
	Trusted []netip.Prefix
	// ProxyProtocol makes every connection of a trusted proxy begin with a PROXY header (version 1 or 2). Connections from
	// elsewhere have none.
	ProxyProtocol bool
	// TLS is spoken on every connection; nil = none is. It must not be changed once it is here; see LoadTLS.
	TLS *tls.Config

	// OnRefused is told of each request that the server answers itself, before any Handler. path is the raw target, perhaps empty,
	// valid during the call. It may be called concurrently. May be nil.
	OnRefused func(target []byte, status int)
}

func (c *ServerConfig) trusts(a netip.Addr) bool {
	for _, p := range c.Trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (c ServerConfig) withDefaults() ServerConfig {
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&c.HeadTimeout, 5 * time.Second}, {&c.IdleTimeout, time.Minute}, {&c.WriteTimeout, 15 * time.Second}} {
		if *d.p <= 0 {
			*d.p = d.v
		}
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 16_384
	}
	return c
}

// A Server reads requests from the public port, strictly (RFC 9112), and lets a Handler answer them. All methods are safe for
// concurrent use.
type Server struct {
	cfg         atomic.Pointer[ServerConfig]
	descriptors int // as many may be open with one more connection
	handler     Handler
	log         *slog.Logger
	fast        fasthttp.Server
	date        dateCache
	bytes       atomic.Int64 // of bodies in flight
	requests    atomic.Int64 // being handled

	base context.Context // of handlers; ends when Shutdown gives up waiting, or is done
	stop context.CancelFunc

	draining atomic.Bool
	crowded  atomic.Int32  // listeners that wait for room: connections end with their next answer
	drain    chan struct{} // closed when draining begins
	gone     chan struct{} // closed when Shutdown is done

	mu        sync.Mutex
	listeners []*listener
	conns     map[*conn]struct{}
	perIP     map[netip.Addr]int // connections of each address
	changed   chan struct{}      // capacity 1: a connection ended
	stopOnce  sync.Once
	stopErr   error
}

// NewServer returns a server that waits for Serve. log gets what operators should know, never bytes of requests.
func NewServer(cfg ServerConfig, h Handler, log *slog.Logger) *Server {
	public, _, _ := Descriptors(DescriptorLimit())
	s := &Server{
		descriptors: public, handler: h, log: log,
		drain: make(chan struct{}), gone: make(chan struct{}), changed: make(chan struct{}, 1),
		conns: map[*conn]struct{}{}, perIP: map[netip.Addr]int{},
	}
	s.Configure(cfg)
	s.base, s.stop = context.WithCancel(context.Background())
	s.fast = fasthttp.Server{
		Handler: s.serve, Logger: fastLog{log},
		ReadBufferSize: 128, WriteBufferSize: 512, // it reads the stand-in
		Concurrency:                  1 << 30, // the listener keeps the bound
		DisablePreParseMultipartForm: true, DisableHeaderNamesNormalizing: true, SecureErrorLogMessage: true,
		NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true,
		ReduceMemoryUsage: true, // nothing of fasthttp's is held by a connection that waits
	}
	return s
}

// Configure replaces the configuration. Connections that are open keep what concerns their beginning: PROXY header, TLS, whether they are counted.
// Where TLS begins or ends, or other client certificates are asked for, they end: with their next answer, or at once if they wait.
func (s *Server) Configure(cfg ServerConfig) {
	cfg = cfg.withDefaults()
	if old := s.cfg.Swap(&cfg); old != nil && !sameClients(old.TLS, cfg.TLS) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			if c.state.Load() != connOpening { // that one looks itself, once it is open
				c.leave()
			}
		}
	}
}

// Serve answers requests on ln, which it closes, until Shutdown is done; then it returns nil. If ctx ends first, everything stops
// at once, in-flight requests included. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	l := &listener{Listener: ln, srv: s}
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	if s.draining.Load() {
		_ = ln.Close()
	}
	defer context.AfterFunc(ctx, func() { _ = s.Shutdown(ctx) })()
	err := s.fast.Serve(l)
	if err != nil {
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	}
	<-s.gone
	return nil
}

// Shutdown stops: connections that the kernel has accepted already are served, the listeners close, kept
// connections get a second for a request that is on its way, ones that have not sent anything yet too, requests in flight are
// finished. When ctx ends first, the contexts of
// handlers end, what is left is closed, and the error is ctx's. Later calls wait for the first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() {
		defer close(s.gone)
		s.stopErr = s.shutdown(ctx)
		s.stop()
	})
	return s.stopErr
}

func (s *Server) shutdown(ctx context.Context) error {
	s.draining.Store(true)
	close(s.drain)
	s.mu.Lock()
	for _, l := range s.listeners {
		l.finish()
	}
	for c := range s.conns {
		switch c.state.Load() {
		case connActive:
		case connOpening: // a handshake cannot be taken up again
			_ = c.Conn.SetReadDeadline(time.Now().Add(freshGrace))
		default:
			_ = c.Conn.SetReadDeadline(time.Now()) // await then says how long to wait yet
		}
	}
	s.mu.Unlock()
	for s.busy() {
		select {
		case <-s.changed:
		case <-ctx.Done():
			s.abort()
			return ctx.Err()
		}
	}
	return nil
}

// busy says whether there are connections, or a listener may still bring some.
func (s *Server) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if !l.done.Load() {
			return true
		}
	}
	return len(s.conns) > 0
}

// abort ends what is left.
func (s *Server) abort() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Listener.Close()
	}
	for c := range s.conns {
		_ = c.shut()
	}
}

// route asks the Handler for limits, and keeps them within bounds. A panic means the default limits: the request
// is answered by Handle in any case.
func (s *Server) route(path []byte) (l Limits) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("route panicked", "panic", panicText(v), "stack", string(debug.Stack()))
			d := DefaultLimits()
			l = Limits{Body: d.Body, ReadTimeout: d.ReadTimeout}
		}
	}()
	l = s.handler.Route(path)
	if l.Body <= 0 || l.Body > MaxBody {
		l.Body = MaxBody
	}
	if l.ReadTimeout <= 0 {
		l.ReadTimeout = DefaultLimits().ReadTimeout
	}
	return l
}

// serve answers a connection's requests. fasthttp calls it when the first of them is there, and closes the connection when it returns.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	ctx.SetConnectionClose()
	c := ctx.Conn().(*conn)
	for {
		s.bounded(c)
		if c.closing || c.next() != nil {
			return
		}
	}
}

// bounded hands a whole request over, or sheds it.
func (s *Server) bounded(c *conn) {
	n := s.requests.Add(1)
	if most := s.cfg.Load().MaxRequests; most > 0 && n > int64(most) {
		c.shed()
	} else {
		c.fill()
		s.handle(c)
	}
	s.requests.Add(-1) // before the answer leaves: who has read it may send the next at once
	c.unreserve()
	c.answer(&c.reply)
	c.reply = Answer{}
}

// handle calls the Handler, and survives it.
func (s *Server) handle(c *conn) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("handler panicked", "panic", panicText(v), "stack", string(debug.Stack()))
			c.reply = Answer{Status: 500, Head: problemHead, Body: problems[500], Close: true}
			c.loan, c.pooled = nil, nil // somebody may still have what is in them
		}
	}()
	c.reply = Answer{Head: c.buf[len(c.buf):]}
	s.handler.Handle(s.base, &c.req, &c.reply)
	if c.reply.Status < 200 || c.reply.Status > 999 {
		s.log.Error("handler gave no valid status", "status", c.reply.Status)
		c.reply = Answer{Status: 500, Head: problemHead, Body: problems[500]}
	}
}

// panicText keeps request bytes out of the log: only the runtime's own errors are quoted.
func panicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", v)
}

// fill makes the event.Request of the request under way; it aliases the connection's buffer.
func (c *conn) fill() {
	h := &c.head
	c.req = event.Request{
		Method: methodText(h.method.of(c.buf)), Target: h.target.of(c.buf), Host: h.host.of(c.buf),
		Head: h.lines.of(c.buf), Body: c.body, Peer: c.peer, TLS: c.tls, Cert: c.cert,
	}
	if cfg := c.srv.cfg.Load(); cfg.trusts(c.peer) { // by the present configuration: a proxy's connections are kept for long
		cfg.believe(&c.req)
	}
}

// methodText is string(b) without an allocation for the usual ones.
func methodText(b []byte) string {
	for _, m := range [...]string{fasthttp.MethodPost, fasthttp.MethodGet, fasthttp.MethodPut, fasthttp.MethodHead} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// fastLog passes fasthttp's own messages on as debug lines: they are about single connections, and clients cause them.
type fastLog struct{ log *slog.Logger }

func (l fastLog) Printf(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}
