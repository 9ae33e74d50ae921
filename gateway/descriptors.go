package gateway

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/proxy"
)

// sparing is the listener of the admin port: a connection that would take what is kept for upstreams and the journal is closed.
type sparing struct{ net.Listener }

// Accept gives the next connection that may stay.
func (l *sparing) Accept() (net.Conn, error) {
	_, most, _ := proxy.Descriptors(proxy.DescriptorLimit())
	for {
		c, err := l.Listener.Accept()
		if err != nil || proxy.OpenDescriptors() <= most {
			return c, err
		}
		_ = c.Close()
	}
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
