package hooktest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Network is a network in memory, for testing/synctest bubbles: connections are net.Pipe, so waiting on them is durably blocking. The zero
// Network is ready to use. Safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

type listener struct {
	net    *Network
	addr   address
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

type address string

// Network is "tcp", so that code which looks at addresses takes it for one.
func (a address) Network() string { return "tcp" }

// String is host:port.
func (a address) String() string { return string(a) }

// Listen listens on host:port; a port in use is an error.
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = map[string]*listener{}
	}
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: address(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: address(addr), accept: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects to host:port. Where nobody listens it is refused.
func (n *Network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	here, there := net.Pipe()
	select {
	case l.accept <- conn{there, l.addr}:
		return conn{here, address("127.0.0.1:40000")}, nil
	case <-l.done:
		return nil, refused
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
	}
}

// conn gives a pipe's end addresses that look like TCP's.
type conn struct {
	net.Conn
	addr address
}

// LocalAddr is the end's own address.
func (c conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr is a loopback address.
func (c conn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }

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
		delete(l.net.listeners, string(l.addr))
		l.net.mu.Unlock()
	})
	return nil
}

// Addr is the address listened on.
func (l *listener) Addr() net.Addr { return l.addr }
