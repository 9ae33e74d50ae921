package hooktest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// Network is a network in memory, for testing/synctest bubbles: connections are Pipes, so waiting on them is durably blocking. The zero
// Network is ready to use. Safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

type listener struct {
	net    *Network
	addr   *net.TCPAddr
	name   string
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

// Listen listens on an address and port; a port in use is an error.
func (n *Network) Listen(addr string) (net.Listener, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	tcp := net.TCPAddrFromAddrPort(ap)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = map[string]*listener{}
	}
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: tcp, Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: tcp, name: addr, accept: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects to host:port. Where nobody listens it is refused.
func (n *Network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	here, there := Pipe()
	select {
	case l.accept <- conn{there, l.addr, client}:
		return conn{here, client, l.addr}, nil
	case <-l.done:
		return nil, refused
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
}

// client is where all connections come from.
var client = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}

// conn gives a pipe's end TCP addresses.
type conn struct {
	*PipeConn
	local, remote *net.TCPAddr
}

// LocalAddr is the end's own address.
func (c conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end's.
func (c conn) RemoteAddr() net.Addr { return c.remote }

// Accept waits for the next connection; net.ErrClosed after Close.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener; connections stay.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		delete(l.net.listeners, l.name)
		l.net.mu.Unlock()
	})
	return nil
}

// Addr is the address listened on.
func (l *listener) Addr() net.Addr { return l.addr }
