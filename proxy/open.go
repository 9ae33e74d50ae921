package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/valyala/fasthttp"
)

var faultProxyHeader = &wireFault{400, "malformed PROXY header"}

// open does what comes before the first request: the PROXY header of a trusted proxy, then the TLS handshake. Bytes of a request that
// have come along are in buf afterwards.
func (c *conn) open() error {
	cfg := c.srv.cfg.Load()
	c.opened = true
	now := time.Now()
	by := now.Add(cfg.HeadTimeout)
	c.deadlineExact(by)
	c.writeBy = by
	_ = c.Conn.SetWriteDeadline(by)
	switch { // after the deadline: either we see it, or it has been changed, see Shutdown and leave
	case c.srv.draining.Load():
		c.deadlineExact(now.Add(freshGrace))
	case c.evict.Load():
		c.deadlineExact(now)
	}
	if cfg.ProxyProtocol && c.trusted {
		if err := c.readProxyHeader(cfg); err != nil {
			return err
		}
	}
	if cfg.TLS != nil {
		if err := c.handshake(cfg.TLS); err != nil {
			return err
		}
	} else {
		c.waitOnSocket()
	}
	c.readBy, c.writeBy = time.Time{}, time.Time{}
	c.state.Store(connFresh)
	if !sameClients(cfg.TLS, c.srv.cfg.Load().TLS) { // after state: either we see it, or Configure sees us open
		c.evict.Store(true)
	}
	return c.enlist(cfg)
}

// enlist counts the connection under the address that its PROXY header has named.
func (c *conn) enlist(cfg *ServerConfig) error {
	if c.counted.IsValid() || c.trusted {
		return nil
	}
	c.srv.mu.Lock()
	ok := c.srv.count(c, cfg.MaxPerIP)
	c.srv.mu.Unlock()
	if !ok {
		return faultPerIP
	}
	return nil
}

// readProxyHeader reads the header that a trusted proxy begins with, and takes the client's address from it.
func (c *conn) readProxyHeader(cfg *ServerConfig) error {
	c.acquire()
	for {
		n, err := c.rw.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		peer, size, f := parseProxyHeader(c.buf)
		switch {
		case f != nil:
			return f
		case size > 0:
			if peer.IsValid() {
				c.peer = peer
				c.trusted = cfg.trusts(peer)
			}
			c.buf = c.buf[:copy(c.buf, c.buf[size:])]
			return nil
		case err != nil:
			c.broken = true
			c.release()
			return io.EOF
		case len(c.buf) == cap(c.buf):
			return faultProxyHeader
		}
	}
}

// handshake makes the connection speak TLS.
func (c *conn) handshake(cfg *tls.Config) error {
	under := c.Conn
	if len(c.buf) > 0 {
		under = &begunConn{c.Conn, append([]byte(nil), c.buf...)}
	}
	c.release()
	tc := tls.Server(under, cfg)
	err := tc.Handshake()
	if err == nil {
		c.rw, c.tls = tc, true
		if chains := tc.ConnectionState().VerifiedChains; len(chains) > 0 {
			c.cert = chains[0][0]
		}
		return nil
	}
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil && isMethodStart(e.RecordHeader[:]) {
		// Plain HTTP on a TLS port deserves an answer that its sender can read.
		c.linger = true
		_, _ = io.WriteString(c.Conn, plainOnTLS)
	}
	if tell := c.srv.cfg.Load().OnRefused; tell != nil {
		tell(nil, fasthttp.StatusBadRequest)
	}
	c.srv.log.Debug("TLS handshake failed", "peer", c.peer.String(), "error", err)
	c.broken = !c.linger
	return io.EOF
}

const plainOnTLS = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: 66\r\n\r\n" +
	`{"type":"about:blank","title":"this port speaks TLS","status":400}`

// isMethodStart says whether b may be the begin of a request without TLS.
func isMethodStart(b []byte) bool {
	return slices.Contains([]string{"POST ", "GET /", "HEAD ", "PUT /", "OPTIO", "PATCH", "DELET"}, string(b))
}

// begunConn is a connection of which some bytes have been read already.
type begunConn struct {
	net.Conn
	begun []byte
}

// Read gives those bytes first.
func (b *begunConn) Read(p []byte) (int, error) {
	if len(b.begun) == 0 {
		return b.Conn.Read(p)
	}
	n := copy(p, b.begun)
	b.begun = b.begun[n:]
	return n, nil
}
