package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options are what a Client takes from its surroundings. The zero value is right for production.
type Options struct {
	// Dial opens a connection; nil = TCP over IPv4 and IPv6 (RFC 8305). It must honour ctx.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the base of the configuration for https; ServerName and the least version, 1.2, are filled in where absent. May be nil.
	TLS *tls.Config
	// Now is the clock that dates attempts; nil = time.Now. Deadlines of connections are reckoned from it.
	Now func() time.Time
}

// IdleTimeout is how long an unused connection to an upstream is kept.
const IdleTimeout = 30 * time.Second

// restingLinks is how many idle connections are kept beyond the attempts that may run at once, for those that rest.
const restingLinks = 64

// A Client talks to one upstream. All methods are safe for concurrent use; it does not bound how many exchanges run at once.
type Client struct {
	name    string
	timeout time.Duration
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	now     func() time.Time
	tls     *tls.Config // nil = http
	addr    string      // to dial
	host    string      // for the Host header
	prefix  string      // in front of every path

	pool  pool
	trust trust
}

// New makes a client for the upstream called name. It connects to nothing yet. The error tells of a URL that Config.Check refuses.
func New(name string, cfg Config, opts Options) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("upstream %q: url: is no http or https URL", name)
	}
	c := &Client{
		name: name, timeout: cfg.Timeout, dial: opts.Dial, now: opts.Now,
		host: withoutZone(u.Host), prefix: strings.TrimSuffix(u.EscapedPath(), "/"),
	}
	if c.timeout <= 0 {
		c.timeout = Default().Timeout
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.dial == nil {
		c.dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	if u.Scheme == "https" {
		if u.Port() == "" {
			port = "443"
		}
		c.tls = clientTLS(opts.TLS, withoutZone(u.Hostname()))
		if cfg.CAFile != "" {
			if c.tls.RootCAs, err = cfg.authorities(); err != nil {
				return nil, fmt.Errorf("upstream %q: %w", name, err)
			}
		}
	}
	c.addr = net.JoinHostPort(u.Hostname(), port)
	c.pool.bound = max(1, cfg.MaxInFlight) + restingLinks
	return c, nil
}

// withoutZone takes the name of an interface off an IPv6 address: it says how to get there from here, and means nothing there (RFC 6874 §4).
func withoutZone(host string) string {
	before, after, _ := strings.Cut(host, "%")
	if _, rest, ok := strings.Cut(after, "]"); ok {
		before += "]" + rest
	}
	return before
}

func clientTLS(base *tls.Config, host string) *tls.Config {
	cfg := &tls.Config{}
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
}

// Name of the upstream.
func (c *Client) Name() string { return c.name }

// Do is one whole exchange: it blocks until there is a Result, for at most the upstream's timeout. ctx is for hard shutdown: its end
// breaks the exchange off.
func (c *Client) Do(ctx context.Context, call *Call) Result {
	var x Exchange
	x.Begin(ctx, c, call)
	x.Wait(time.Time{})
	return x.Result()
}

// CloseIdle closes the connections that no exchange uses.
func (c *Client) CloseIdle() { c.pool.drop() }

// Close closes idle connections, and from now on every connection whose exchange ends. Exchanges under way go on.
func (c *Client) Close() {
	c.pool.shut()
	c.pool.drop()
}

// connect dials, and for https shakes hands; no byte of a request is sent.
func (c *Client) connect(ctx context.Context, by time.Time) (*link, error) {
	ctx, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	nc, err := c.dial(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	if c.tls == nil {
		return newLink(nc), nil
	}
	under := &sealed{Conn: nc}
	tc := tls.Client(under, c.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, &tlsError{err}
	}
	l := newLink(nc)
	l.nc, l.tls, l.sealed = tc, true, under
	return l, nil
}

type tlsError struct{ err error }

func (e *tlsError) Error() string { return "tls: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// dialKind sorts errors of connect.
func dialKind(err error) string {
	var dns *net.DNSError
	var hello *tlsError
	switch {
	case errors.As(err, &hello):
		return KindTLS
	case errors.As(err, &dns):
		return KindDNS
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.ECONNRESET):
		return KindRefused
	}
	return KindDial
}

// trust remembers whether the upstream behaves on kept connections. One that sends answers nobody asked for, or closes without
// saying so, is spoken to on new connections only for a while, twice as long each time, so that no event gets another's answer and
// few attempts end in doubt.
type trust struct {
	until   atomic.Int64 // unix nanoseconds
	mu      sync.Mutex
	strikes int
}

// Bounds of the time without reuse.
const (
	firstPenalty = 10 * time.Second
	maxStrikes   = 6 // 10 s · 2^6 ≈ 11 min
)

func (t *trust) lost(now time.Time) bool { return now.UnixNano() < t.until.Load() }

func (t *trust) lose(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost(now) {
		return
	}
	if last := t.until.Load(); last != 0 && now.UnixNano()-last > int64(firstPenalty<<maxStrikes) {
		t.strikes = 0
	}
	t.until.Store(now.Add(firstPenalty << t.strikes).UnixNano())
	t.strikes = min(t.strikes+1, maxStrikes)
}
