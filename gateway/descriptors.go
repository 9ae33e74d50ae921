package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/proxy"
)

// sparing is the listener of the admin port: a connection that would take what is kept for upstreams and the journal is closed, and so is
// one beyond a third of all that may be open, lest the public port has none.
type sparing struct {
	net.Listener
	open atomic.Int64
}

// Accept gives the next connection that may stay.
func (l *sparing) Accept() (net.Conn, error) {
	limit := proxy.DescriptorLimit()
	_, most, _ := proxy.Descriptors(limit)
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if n := l.open.Add(1); uint64(n) <= limit/3 && proxy.OpenDescriptors() <= most {
			return &spared{Conn: c, l: l}, nil
		}
		l.open.Add(-1)
		_ = c.Close()
	}
}

// spared is a connection that counts while it is open.
type spared struct {
	net.Conn
	l    *sparing
	once sync.Once
}

// Close may be called again.
func (c *spared) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

// dialWait is how long a dial waits for a descriptor before it looks again.
const dialWait = 10 * time.Millisecond

// dialer opens connections to upstreams, over IPv4 and IPv6 (RFC 8305). While they would take what is kept for the journal a dial waits,
// for as long as its attempt may: that nothing could be sent is no fault of the upstream's.
func (g *Gateway) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if g.opts.Dial != nil {
		return g.opts.Dial
	}
	_, _, most := proxy.Descriptors(proxy.DescriptorLimit())
	d := &net.Dialer{KeepAlive: 30 * time.Second, ControlContext: func(context.Context, string, string, syscall.RawConn) error {
		if proxy.OpenDescriptors() > most {
			return syscall.EMFILE
		}
		return nil
	}}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		for {
			c, err := d.DialContext(ctx, network, addr)
			if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
				return c, err
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(dialWait):
			}
		}
	}
}
