package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Time-outs and bounds of the port.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second
	writeTimeout  = 30 * time.Second // an answer; a wait or a stream sets its own
	idleTimeout   = 60 * time.Second
	listTimeout   = 10 * time.Second // a list may have to wait for the index, which waits for space where the disk is full

	mutationTimeout = 5 * time.Minute
	stopTimeout     = 5 * time.Second
	freshTimeout    = time.Second // for the first request of a connection, when the port ends
	maxHeader       = 16 << 10
	maxBody         = 4 << 20 // of a mutation
)

// now is the clock.
func now() time.Time { return time.Now() }

// Server is the admin port. Create with New; safe for concurrent use.
type Server struct {
	Options
	started   time.Time
	hosts     map[string]bool
	routes    []route
	tokens    atomic.Pointer[[]Token]
	logins    loginLimit
	strangers event.Lines // audit lines of calls without a token that is known
	idem      answers
	debug     atomic.Bool // see SetDebug
	hide      atomic.Pointer[func(header string) bool]
	public    atomic.Bool // the listener is reachable from other hosts
	waits     places
	begun     atomic.Int64 // waits so far
	tidying   atomic.Bool
	streams   places

	stopOnce sync.Once
	stopping chan struct{}   // closed when waits and streams must end
	detached sync.WaitGroup  // waits that have taken over their connection
	life     context.Context // of what outlives its request
}

// SetTokens replaces the tokens, on reload. Calls under way keep what they had; a stream, which would go on for ever, ends with its
// token. ErrOpen if none are left on a listener beyond loopback.
func (s *Server) SetTokens(tokens []Token) error {
	known := map[string]bool{}
	for _, sc := range scopes {
		known[sc] = true
	}
	for _, t := range tokens {
		for _, sc := range t.Scopes {
			if !known[sc] {
				return fmt.Errorf("admin: token %q: no such scope: %q", t.Name, sc)
			}
		}
	}
	if len(tokens) == 0 && s.public.Load() {
		return ErrOpen
	}
	kept := append([]Token(nil), tokens...)
	s.tokens.Store(&kept)
	return nil
}

// SetHide says which headers' values are not shown, on reload; nil = event.Credential.
func (s *Server) SetHide(hide func(header string) bool) {
	if hide == nil {
		hide = event.Credential
	}
	s.hide.Store(&hide)
}

// SetDebug switches /debug/pprof on or off, on reload.
func (s *Server) SetDebug(on bool) { s.debug.Store(on) }

// Serve answers on l until ctx ends, then finishes what is in flight (at most 5 s; waits and streams end at once), closes l and returns
// nil. Any other error is the listener's, or ErrOpen.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !loopback(l.Addr()) {
		if len(*s.tokens.Load()) == 0 {
			return ErrOpen
		}
		s.public.Store(true)
	}
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	var fresh sync.Map // connections without a request so far: Shutdown would wait for one for 5 s
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			fresh.Store(c, nil)
		} else {
			fresh.Delete(c)
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("admin port: %w", err)
	case <-ctx.Done():
	}
	s.stopOnce.Do(func() { close(s.stopping) })
	fresh.Range(func(c, _ any) bool {
		_ = c.(net.Conn).SetReadDeadline(now().Add(freshTimeout))
		return true
	})
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close()
	}
	s.detached.Wait() // they have been told; each writes one answer
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin port: %w", err)
	}
	return nil
}

// untilStop is ctx that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func loopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}
