// Package gateway builds every room from a configuration and owns every goroutine: the public port, the admin port, the schedule, the
// journal, retention and reload.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal/embedded"
	"github.com/hooktender/hooktender/metrics"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
)

// ErrJournal says that the journal failed while the gateway ran: the process must end at once (exit code 74).
var ErrJournal = errors.New("the journal failed")

// Options of New beside the configuration.
type Options struct {
	Log     *slog.Logger                                                      // nil = nowhere
	Load    func() (*config.Config, error)                                    // reads the configuration again; nil = no reload
	Listen  func(addr string) (net.Listener, error)                           // nil = real sockets
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error) // nil = real sockets
	Random  func() float64                                                    // jitter; nil = math/rand
	Journal func(*embedded.Options)                                           // last word on the engine's options, for tests; nil = none
	Visit   func(address string) error                                        // confirms subscriptions; nil = over the network
	Version string
}

// Gateway is a configured instance. New opens the journal, Run serves until its context ends.
type Gateway struct {
	log      *slog.Logger
	opts     Options
	metrics  *metrics.Set
	engine   *embedded.Engine
	index    *dedup.Index
	enrolled *provider.Enrolments
	keys     provider.KeyStore
	recovery *recovery.Recovery
	pipeline *proxy.Pipeline
	server   *proxy.Server
	admin    *admin.Server
	public   net.Listener
	private  net.Listener
	stopping atomic.Bool
	ready    atomic.Bool
	files    fileWatch // of the certificate

	reloading sync.Mutex
	mu        sync.Mutex
	cfg       *config.Config
	started   *config.Config // the one of the start: what needs a restart is in effect as it stands there
}

// New opens the journal, builds the rooms and listens. Errors: those of embedded.Open (journal.ErrLocked, journal.ErrDamaged …), a port that is taken.
// What New has opened is closed again when it fails; otherwise Run closes it.
func New(cfg *config.Config, o Options) (g *Gateway, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Listen == nil {
		o.Listen = proxy.Listen
	}
	if o.Visit == nil {
		o.Visit = provider.NewKeys().Visit
	}
	g = &Gateway{log: o.Log, opts: o, cfg: cfg, started: cfg, metrics: metrics.New(), enrolled: provider.NewEnrolments(Enrolled(cfg.DataDir))}
	defer func(begun *Gateway) { // g is nil where New returns an error
		if err != nil {
			begun.abandon()
		}
	}(g)
	if err = g.openJournal(cfg); err != nil {
		return nil, err
	}
	if err = g.build(cfg); err != nil {
		return nil, err
	}
	if g.public, err = o.Listen(cfg.Listen); err != nil {
		return nil, fmt.Errorf("the public port: %w", err)
	}
	if g.private, err = o.Listen(cfg.Admin.Listen); err != nil {
		return nil, fmt.Errorf("the admin port: %w", err)
	}
	g.private = &sparing{Listener: g.private}
	return g, nil
}

// Enrolled is the directory in data_dir where the secrets are that senders delivered.
func Enrolled(dataDir string) string { return filepath.Join(dataDir, "enrolled") }

func (g *Gateway) abandon() {
	for _, l := range []net.Listener{g.public, g.private} {
		if l != nil {
			_ = l.Close()
		}
	}
	if g.engine != nil {
		_ = g.engine.Close()
	}
}

// OpenError says that the journal could not be opened; its text is that of its cause.
type OpenError struct{ cause error }

func (e *OpenError) Error() string { return e.cause.Error() }

// Unwrap gives the cause: one of the journal's sentinels, or an error of the file system.
func (e *OpenError) Unwrap() error { return e.cause }

// engineOptions are the options of the journal's engine that stand in the configuration.
func engineOptions(cfg *config.Config, log *slog.Logger) embedded.Options {
	o := embedded.Options{Dir: cfg.DataDir, Sync: cfg.Journal.Sync == "always", MinFree: uint64(cfg.Journal.MinFree), Memory: cfg.Journal.Memory,
		AllowTmpfs: cfg.Journal.AllowTmpfs, Retention: cfg.Retention, Log: log}
	for _, k := range cfg.Journal.EncryptionKeys {
		o.Keys = append(o.Keys, k.Bytes())
	}
	return o
}

// Salvage makes a damaged journal usable with what can be read of it (hooktender run --accept-loss), and logs how much is missing. The
// damaged files are kept.
func Salvage(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	r, err := embedded.Salvage(ctx, engineOptions(cfg, log), "", nil)
	if err != nil {
		return &OpenError{err}
	}
	log.Error("the journal was damaged: events are missing", "alarm", true, "missing_events", r.MissingEvents, "older_may_be_missing", r.OlderMayBeMissing, "missing_changes", r.MissingChanges,
		"corrupt_events", r.Corrupt, "possibly_delivered_before", r.Doubtful, "damaged_files_kept_in", r.Kept)
	return nil
}

func (g *Gateway) openJournal(cfg *config.Config) error {
	o := engineOptions(cfg, g.log)
	o.Observer, o.Synced, o.Grouped = g.observe, g.metrics.Journal.Sync.Observe, g.metrics.Journal.GroupSize.ObserveN
	if g.opts.Journal != nil {
		g.opts.Journal(&o)
	}
	var err error
	if g.engine, err = embedded.Open(o); err != nil {
		return &OpenError{err}
	}
	return nil
}

// build makes the rooms that stand on the journal.
func (g *Gateway) build(cfg *config.Config) error {
	var err error
	g.recovery = recovery.New(recovery.Options{Journal: g.engine, Log: g.log, Random: g.opts.Random, Forward: forward.Options{Dial: g.dialer()}, Measure: g.measure(),
		Steady: g.engine.Steady, Shift: g.engine.Shift})
	if g.index, err = dedup.New(cfg.Dedup, g.engine, cfg.Retention.Dedup, g.lookups()); err != nil {
		return err
	}
	g.pipeline = proxy.NewPipeline(g.engine, g.index, g.recovery, g.log)
	g.pipeline.OnNowhere(g.metrics.Source("").Requests("not_found").Inc)
	g.server = proxy.NewServer(proxy.ServerConfig{OnRefused: g.refused}, g.pipeline, g.log)
	if err = g.apply(cfg); err != nil {
		return err
	}
	g.metrics.SetGauges(g.gauges())
	g.admin, err = admin.New(admin.Options{Journal: g.engine, Core: g.recovery, Control: g, Health: g, Metrics: g.metrics.AppendText, Log: g.log,
		Tokens: tokens(cfg), Debug: cfg.Admin.Debug, Hide: hidden(cfg), AllowedHosts: hosts(cfg)})
	return err
}

func tokens(cfg *config.Config) []admin.Token {
	var out []admin.Token
	for _, t := range cfg.Admin.Tokens {
		out = append(out, admin.Token{Name: t.Name, Hash: admin.HashToken(t.Token.Bytes()), Scopes: t.Scopes})
	}
	return out
}

// hidden says what the admin port does not show.
func hidden(cfg *config.Config) func(name string) bool {
	if cfg.Admin.ShowCredentials {
		return func(string) bool { return false }
	}
	return cfg.Credential
}

// hosts are the names under which the admin port may be called beside localhost.
func hosts(cfg *config.Config) []string {
	host, _, err := net.SplitHostPort(cfg.Admin.Listen)
	if err != nil || host == "" {
		return nil
	}
	return []string{strings.Trim(host, "[]")}
}

// Addrs are the addresses of the public and the admin port.
func (g *Gateway) Addrs() (public, private net.Addr) { return g.public.Addr(), g.private.Addr() }

// Ready says whether events are taken: the journal can be written, has space, and nothing is draining. The upstream does not matter.
func (g *Gateway) Ready() (bool, string) {
	switch {
	case g.engine.Err() != nil:
		return false, "the journal failed"
	case g.stopping.Load():
		return false, "shutting down"
	case g.pipeline.Draining():
		return false, "draining"
	case !g.ready.Load():
		return false, "starting"
	case g.engine.Stats().Full:
		return false, "disk space is below journal.min_free"
	}
	return true, ""
}

// Drain refuses new events from now on and tries at once what waits for a retry; what is queued is still delivered. It is final.
func (g *Gateway) Drain() {
	g.log.Info("draining: new events are refused from now on")
	g.pipeline.Drain()
	g.recovery.Push()
}

// Started says whether the gateway has once been ready to take events.
func (g *Gateway) Started() bool { return g.ready.Load() }

// Run serves until ctx ends, then finishes what is under way (at most the longest upstream timeout and a second) and closes everything. A second
// end is not waited for: the caller ends the process. It returns ErrJournal, wrapped with the cause, as soon as the journal fails.
func (g *Gateway) Run(ctx context.Context) error {
	var journalDone, work sync.WaitGroup
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	errs := make(chan error, 8)
	journalDone.Go(func() { report(errs, g.engine.Run(engineCtx)) })

	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	work.Go(func() { report(errs, g.admin.Serve(adminCtx, g.private)) })
	g.reloading.Lock() // sources stay as they are until it is done
	err := g.recovery.Load(ctx)
	g.reloading.Unlock()
	if err != nil {
		if g.engine.Err() != nil {
			return g.journalFailed()
		}
		stopAdmin()
		work.Wait()
		if ctx.Err() != nil {
			err = nil // told to stop before it had begun
		}
		return errors.Join(err, g.public.Close(), g.engine.Close())
	}
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	recoveryCtx, stopRecovery := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRecovery()
	var deliveries sync.WaitGroup
	deliveries.Go(func() { report(errs, g.recovery.Run(recoveryCtx)) })
	work.Go(func() { g.sweep(loopCtx) })
	work.Go(func() { g.gone(loopCtx) })
	work.Go(func() { g.watchFiles(loopCtx) })
	work.Go(func() { g.trim(loopCtx) })
	var public sync.WaitGroup
	public.Go(func() { report(errs, g.server.Serve(context.WithoutCancel(ctx), g.public)) })
	g.ready.Store(true)
	g.log.Info("ready", "listen", g.public.Addr().String(), "admin", g.private.Addr().String(), "version", g.opts.Version)

	err = g.wait(ctx, errs)
	g.stopping.Store(true)
	if errors.Is(err, ErrJournal) {
		return err // nothing can be promised any more: no graceful end
	}
	g.log.Info("shutting down: finishing what is under way")
	g.recovery.Leaving()
	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.longestTimeout()+time.Second)
	defer cancel()
	if cut := g.server.Shutdown(graceful); cut != nil { // asked to stop, it stops: nothing is lost by it
		g.log.Warn("requests that did not end in time are cut off", "error", cut)
	}
	public.Wait()
	stopRecovery()
	deliveries.Wait()
	stopLoops()
	stopAdmin()
	work.Wait()
	err = errors.Join(err, g.engine.Close())
	if g.engine.Err() != nil {
		return g.journalFailed()
	}
	journalDone.Wait()
	return err
}

func report(errs chan<- error, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		errs <- err
	}
}

// wait returns when the context ends (nil), when something that must run has failed, or when the journal has.
func (g *Gateway) wait(ctx context.Context, errs <-chan error) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-errs:
		if g.engine.Err() != nil { // the rest follows from it
			return g.journalFailed()
		}
		return err
	case <-g.engine.Failed():
		return g.journalFailed()
	}
}

func (g *Gateway) journalFailed() error { return fmt.Errorf("%w: %w", ErrJournal, g.engine.Err()) }

func (g *Gateway) longestTimeout() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	longest := time.Second
	for _, u := range g.cfg.Upstreams {
		longest = max(longest, u.Timeout)
	}
	return longest
}

// sweepPause is a minute, or less where something is kept so shortly that a minute more would matter.
func (g *Gateway) sweepPause() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &g.cfg.Retention
	return min(time.Minute, max(time.Second, min(r.Dedup, r.Payload, r.Record, r.DeadLetter)/8))
}

// How often gone looks, and for how long a source or an upstream that a reload has removed must have been idle: several scrapes see its last numbers.
const (
	goneInterval = time.Minute
	goneAfter    = 5 * time.Minute
)

// gone lets go of sources and upstreams that no configuration names any more, with their series, until ctx ends.
func (g *Gateway) gone(ctx context.Context) {
	every(ctx, goneInterval, func() {
		g.reloading.Lock() // the series of a source are made before the source is
		defer g.reloading.Unlock()
		g.metrics.Keep(g.recovery.Retire(goneAfter))
	})
}

// every calls do each time that d has passed, until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			do()
		}
	}
}

// sweep applies retention: often a little, and at once again while there is more to do.
func (g *Gateway) sweep(ctx context.Context) {
	t := time.NewTimer(g.sweepPause())
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n, err := g.engine.Sweep(ctx, time.Now(), 1000)
		switch {
		case err != nil && ctx.Err() == nil:
			g.log.Error("retention", "error", err)
			t.Reset(g.sweepPause())
		case n >= 1000:
			t.Reset(10 * time.Millisecond)
		default:
			t.Reset(g.sweepPause())
		}
	}
}
