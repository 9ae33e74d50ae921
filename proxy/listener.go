package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// Listen opens a TCP listener on "host:port". Without a host, or with [::], it takes IPv4 and IPv6; with 0.0.0.0 IPv4 only.
func Listen(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	network := "tcp"
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		network = "tcp4"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return ln, nil
}

// backlogTime is how long a closing listener goes on accepting what waits in the kernel's backlog.
const backlogTime = 25 * time.Millisecond

// A listener accepts connections within the server's bounds. Nothing but the server's end makes it stop: when descriptors run out
// it waits and tries again.
type listener struct {
	net.Listener
	srv  *Server
	done atomic.Bool // Accept has given up for good
}

// Accept is called by fasthttp, from one goroutine. io.EOF ends its loop without a complaint.
func (l *listener) Accept() (net.Conn, error) {
	for wait := time.Duration(0); ; {
		nc, err := l.Listener.Accept()
		if err == nil {
			l.srv.room()
			if c := l.srv.admit(nc); c != nil {
				return c, nil
			}
			continue
		}
		if l.srv.draining.Load() || errors.Is(err, net.ErrClosed) {
			_ = l.Listener.Close()
			l.done.Store(true)
			l.srv.ended()
			return nil, io.EOF
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		l.srv.log.Warn("cannot accept connections, trying again", "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-l.srv.drain:
		}
	}
}

// finish makes Accept take what is in the backlog, and then end. Called once draining is set.
func (l *listener) finish() {
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok && d.SetDeadline(time.Now().Add(backlogTime)) == nil {
		return
	}
	_ = l.Listener.Close()
}

// room waits until there is room for one more connection. Idle ones make room, and busy ones once they are done.
func (s *Server) room() {
	if s.hasRoom() {
		return
	}
	s.crowded.Add(1)
	defer s.crowded.Add(-1)
	for s.dropIdle(); !s.hasRoom() && !s.draining.Load(); {
		select {
		case <-s.changed:
		case <-s.drain:
		}
	}
	s.ended() // another listener may wait too
}

func (s *Server) hasRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) < s.cfg.MaxConns
}

// dropIdle ends one connection that is between requests. The map's random order is fair enough.
func (s *Server) dropIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state.Load() == connIdle {
			_ = c.Conn.SetReadDeadline(time.Now())
			return
		}
	}
}

// admit makes a connection of nc, or refuses it if its address has too many.
func (s *Server) admit(nc net.Conn) *conn {
	c := &conn{Conn: nc, srv: s}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.peer = a.AddrPort().Addr().Unmap()
	}
	_, c.tls = nc.(*tls.Conn)
	s.mu.Lock()
	tooMany := s.cfg.MaxPerIP > 0 && s.perIP[c.peer] >= s.cfg.MaxPerIP
	if !tooMany {
		s.conns[c] = struct{}{}
		if s.cfg.MaxPerIP > 0 {
			s.perIP[c.peer]++
		}
	}
	s.mu.Unlock()
	if tooMany {
		c.refuse(faultPerIP)
		_ = nc.Close()
		return nil
	}
	return c
}

// forget takes a closed connection off the books.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		if s.cfg.MaxPerIP > 0 {
			if s.perIP[c.peer]--; s.perIP[c.peer] <= 0 {
				delete(s.perIP, c.peer)
			}
		}
	}
	s.mu.Unlock()
	s.ended()
}

// ended wakes whoever waits for connections to end.
func (s *Server) ended() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
