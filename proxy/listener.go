package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
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
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // Go's default since 1.24; such sockets take no filter (see quiet), and no sender of webhooks speaks it
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return ln, nil
}

// A closing listener goes on accepting what waits in the kernel's backlog until nothing has come for backlogTime, twice: a machine that
// is busy may let the first pass without a look. Nobody keeps it open for longer than backlogMax.
const (
	backlogTime = 25 * time.Millisecond
	backlogMax  = 2 * time.Second
)

// A listener accepts connections within the server's bounds. Nothing but the server's end makes it stop: when descriptors run out
// it waits and tries again.
type listener struct {
	net.Listener
	srv  *Server
	done atomic.Bool // Accept has given up for good

	empty  int       // looks at the backlog that found nothing, in a row
	closes time.Time // when a closing listener stops looking; zero = it is not closing
}

// Accept is called by fasthttp, from one goroutine. io.EOF ends its loop without a complaint.
func (l *listener) Accept() (net.Conn, error) {
	for wait := time.Duration(0); ; {
		l.closing()
		nc, err := l.Listener.Accept()
		if err == nil {
			l.empty = 0
			l.srv.room()
			if c := l.srv.admit(nc); c != nil {
				return c, nil
			}
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if l.empty++; l.empty < 2 || !l.srv.draining.Load() {
				continue
			}
		}
		if l.srv.draining.Load() || errors.Is(err, net.ErrClosed) {
			_ = l.Listener.Close()
			l.done.Store(true)
			l.srv.ended()
			return nil, io.EOF
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		l.srv.log.Warn("cannot accept connections, trying again", "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-l.srv.drain:
		}
	}
}

// closing gives each look at the backlog its own time, once the server drains.
func (l *listener) closing() {
	if !l.srv.draining.Load() {
		return
	}
	now := time.Now()
	if l.closes.IsZero() {
		l.closes, l.empty = now.Add(backlogMax), 0
	}
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok && now.Before(l.closes) {
		_ = d.SetDeadline(now.Add(backlogTime))
	}
}

// finish makes Accept take what is in the backlog, and then end. Called once draining is set.
func (l *listener) finish() {
	quiet(l.Listener)
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok && d.SetDeadline(time.Now().Add(backlogTime)) == nil {
		return
	}
	_ = l.Listener.Close()
}

// room waits until there is room for one more connection, which is open already. Waiting ones make room, and busy ones once they are done.
func (s *Server) room() {
	if s.hasRoom() {
		return
	}
	s.crowded.Add(1)
	defer s.crowded.Add(-1)
	again := time.NewTicker(evictInterval)
	defer again.Stop()
	for s.evict(); !s.hasRoom() && !s.draining.Load(); {
		select {
		case <-s.changed:
		case <-s.drain:
		case <-again.C: // one that was busy may wait by now
			s.evict()
		}
	}
	s.ended() // another listener may wait too
}

func (s *Server) hasRoom() bool {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return n < s.cfg.Load().MaxConns && OpenDescriptors() <= s.descriptors
}

// evictInterval is how often room is made again where nobody has left.
const evictInterval = 20 * time.Millisecond

// evictSample is how many waiting connections are compared to find the one that has waited longest. The map's order is random.
const evictSample = 64

// evict ends a connection that waits for a request: one that has never sent any before one that has, then the one that has waited
// longest. While one that was told to end is still there, no other has to.
func (s *Server) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var worst *conn
	left := evictSample
	for c := range s.conns {
		if c.state.Load() == connActive {
			continue
		}
		if c.evict.Load() {
			return
		}
		if worst == nil || c.worse(worst) {
			worst = c
		}
		if left--; left == 0 {
			break
		}
	}
	if worst != nil {
		worst.leave()
	}
}

// leave ends the connection: with its next answer, soon if it waits for a request, at once if it has not shaken hands yet.
func (c *conn) leave() {
	c.evict.Store(true)
	if c.state.Load() != connActive {
		_ = c.Conn.SetReadDeadline(time.Now())
	}
}

func (c *conn) worse(than *conn) bool {
	a, b := c.state.Load() == connIdle, than.state.Load() == connIdle
	if a != b {
		return b
	}
	return c.since.Load() < than.since.Load()
}

// admit makes a connection of nc, or refuses it if its address has too many.
func (s *Server) admit(nc net.Conn) *conn {
	c := &conn{Conn: nc, srv: s, rw: nc}
	c.since.Store(time.Now().UnixNano())
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.peer = a.AddrPort().Addr().Unmap().WithZone("")
	}
	cfg := s.cfg.Load()
	c.trusted = cfg.trusts(c.peer)
	c.opened = cfg.TLS == nil && !(cfg.ProxyProtocol && c.trusted)
	if !c.opened {
		c.state.Store(connOpening)
	}
	if c.opened {
		c.waitOnSocket()
	}
	s.mu.Lock()
	tooMany := !s.count(c, cfg.MaxPerIP)
	if !tooMany {
		s.conns[c] = struct{}{}
	}
	if c.opened && !sameClients(cfg.TLS, s.cfg.Load().TLS) { // under mu: either we see it, or Configure sees the connection
		c.evict.Store(true)
	}
	s.mu.Unlock()
	if tooMany {
		c.broken = !c.opened // nothing can be said before a handshake
		c.refuse(faultPerIP)
		_ = nc.Close()
		return nil
	}
	return c
}

// waitOnSocket lets wait do without a buffer, if the connection is a socket.
func (c *conn) waitOnSocket() {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw, c.waitFunc, c.sendFunc = raw, c.tryRead, c.trySend
		}
	}
}

// count puts the connection on the books of its address, unless that has too many. Proxies that are trusted stand for many clients and
// are not counted. The caller holds mu.
func (s *Server) count(c *conn, most int) bool {
	if c.trusted {
		return true
	}
	if most > 0 && s.perIP[c.peer] >= most {
		return false
	}
	c.counted = c.peer
	s.perIP[c.peer]++
	return true
}

// forget takes a closed connection off the books.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		if c.counted.IsValid() {
			if s.perIP[c.counted]--; s.perIP[c.counted] <= 0 {
				delete(s.perIP, c.counted)
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
