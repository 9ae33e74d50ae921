package admin

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9090} }

// A connection that somebody has opened and not used does not hold up the end of the process; it did for 5 s.
func TestAnUnusedConnectionDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Options: Options{Log: slog.New(slog.DiscardHandler)}, stopping: make(chan struct{}), life: context.Background()}
		s.tokens.Store(&[]Token{})
		ctx, stop := context.WithCancel(t.Context())
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		ended := make(chan error)
		go func() { ended <- s.Serve(ctx, l) }()
		ours, theirs := net.Pipe()
		defer ours.Close()
		l.conns <- theirs
		synctest.Wait()
		begun := time.Now()
		stop()
		if err := <-ended; err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("it took %s (%v)", time.Since(begun), err)
		}
	})
}
