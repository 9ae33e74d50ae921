// Package recovery brings accepted events to their end: first attempts and retries, the breaker of each upstream, the turn of each
// resource, dead letters, and replays that operators ask for. Its schedule lives in memory and is built from the journal at start;
// the journal is the truth. See DESIGN.md.
package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

// Options of New.
type Options struct {
	Journal journal.Journal
	Log     *slog.Logger
	Forward forward.Options
	Random  func() float64 // jitter, in [0, 1); nil = math/rand
	Measure Measure        // may have nil members
	// Steady is the clock of the schedule: it does not jump when somebody sets the wall clock, nor over a restart. Shift is
	// what a time of it lacks to the wall clock. Nil: time.Now, and nothing.
	Steady func() time.Time
	Shift  func() time.Duration
}

// Measure is told what happens, for metrics. Members may be nil; they must not block.
type Measure struct {
	Upstream func(name string) func(o event.Outcome, d time.Duration) // gives who is told of its attempts
	Replay   func(result string)
}

// SourceConfig is what recovery needs to know of one source.
type SourceConfig struct {
	Name, Path, Provider string
	Delivery             DeliveryConfig
	Ordering             ordering.Config
	Pending              int           // events that may wait
	Held                 int           // events that may be held
	Resources            int           // resources with something waiting
	Binds                string        // what the signature authenticates: body, crc32 or origin
	JoinedID             bool          // event ids are joined from parts, which are percent-encoded already
	Tolerance            time.Duration // the age of a signature from which on Resign is asked; 0 = never
	// Resign signs head and body anew as of now; false if the scheme cannot. Nil = never.
	Resign func(head event.Head, p *event.Payload, now time.Time) (event.Head, bool)
}

// Config is what Apply takes: every upstream and every source.
type Config struct {
	Upstreams map[string]forward.Config
	Sources   []SourceConfig
}

// Recovery owns the schedule. Create with New, configure with Apply, then Load once, then Run. Safe for concurrent use.
type Recovery struct {
	journal journal.Journal
	log     *slog.Logger
	forward forward.Options
	random  func() float64
	measure Measure
	steady  func() time.Time // of NextAt, FirstTryAt and HeldSince, and of all that is due
	shift   func() time.Duration
	hub     hub

	mu        sync.RWMutex
	sources   map[string]*Source
	upstreams map[string]*upstream
	loaded    bool
	orphans   map[string]int // pending events of sources that were not configured, for the log; of Load

	flights sync.Pool      // of *flight
	crew    crew           // makes the attempts that no request makes itself
	work    sync.WaitGroup // attempts and loops
	running atomic.Bool
	leaving atomic.Bool               // Push or Leaving was called
	ending  atomic.Pointer[time.Time] // when Leaving was; nil = not yet
	ctx     context.Context           // ends attempts for good: hard stop
	stop    context.CancelFunc
	started []func() // loops that wait for Run
	starts  sync.Mutex

	jobs    jobs
	singles singles
}

// New makes an unconfigured Recovery. It starts nothing.
func New(o Options) *Recovery {
	r := &Recovery{journal: o.Journal, log: o.Log, forward: o.Forward, random: o.Random, measure: o.Measure,
		sources: map[string]*Source{}, upstreams: map[string]*upstream{}}
	if r.random == nil {
		r.random = rand.Float64
	}
	if r.steady, r.shift = o.Steady, o.Shift; r.steady == nil {
		r.steady, r.shift = time.Now, func() time.Duration { return 0 }
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.crew.work = &r.work
	r.hub.init()
	r.jobs.init()
	return r
}

// Apply sets upstreams and sources, at start and on reload, one call at a time. Sources that are no longer named keep delivering what is pending to
// the upstream they had; what is pending of one that was not there is taken up. On an error nothing has changed that matters.
func (r *Recovery) Apply(c Config) error {
	fresh, err := r.apply(c)
	var counts []journal.Count
	if len(fresh) > 0 && err == nil {
		counts, err = r.journal.Counts(context.Background())
	}
	for _, s := range fresh {
		if err == nil {
			err = r.takeUp(context.Background(), s, counts)
		}
		s.arrives.Store(false)
		s.attach() // not before: the order is that of all that waits
	}
	if r.loaded {
		r.rememberUpstreams(context.Background())
	}
	return err
}

func (r *Recovery) rememberUpstreams(ctx context.Context) {
	for _, s := range r.sources {
		s.remember(ctx)
	}
	for _, u := range r.upstreams {
		if u.untold {
			u.untold = false
			u.remember()
		}
	}
}

// apply gives the sources that are new since Load.
func (r *Recovery) apply(c Config) (fresh []*Source, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named := map[string]bool{}
	for _, sc := range c.Sources {
		named[sc.Name] = true
	}
	for name, s := range r.sources {
		if !named[name] {
			if err := r.keepUpstream(s, c.Upstreams); err != nil {
				return nil, err
			}
		}
	}
	for name, cfg := range c.Upstreams {
		if _, err := r.applyUpstream(name, cfg); err != nil {
			return nil, err
		}
	}
	for _, sc := range c.Sources {
		known := r.sources[sc.Name] != nil
		if err := r.applySource(sc); err != nil {
			return fresh, err
		}
		if !known && r.loaded {
			fresh = append(fresh, r.sources[sc.Name])
		}
	}
	for name, s := range r.sources {
		s.removed.Store(!named[name])
	}
	for name, u := range r.upstreams {
		_, u.named = c.Upstreams[name]
	}
	return fresh, nil
}

func (r *Recovery) applyUpstream(name string, cfg forward.Config) (*upstream, error) {
	u := r.upstreams[name]
	if u == nil {
		u = &upstream{r: r, name: name, kick: make(chan struct{}, 1)}
	}
	if err := u.configure(cfg, r.forward); err != nil {
		return nil, err
	}
	if r.upstreams[name] == nil {
		if r.measure.Upstream != nil {
			u.measure = r.measure.Upstream(name)
		}
		if r.loaded { // what waits may have waited for it before
			if err := u.recall(context.Background()); err != nil {
				return nil, err
			}
		}
		r.upstreams[name] = u
		r.begin(func() { u.run(r.ctx) })
	}
	return u, nil
}

// keepUpstream makes sure that what is pending of a source that goes still reaches the old upstream (SPEC §12): where its name is about to mean
// another address, the old one goes on under its URL, as if the source had named that.
func (r *Recovery) keepUpstream(s *Source, next map[string]forward.Config) error {
	old := s.cfg.Load()
	old.up.mu.Lock()
	cfg, state := old.up.cfg, old.up.breaker
	old.up.mu.Unlock()
	if n, named := next[old.up.name]; !named || n.URL == cfg.URL {
		return nil
	}
	if state.state == halfOpen { // that probe is not this one's
		state.state, state.next = open, time.Now()
	}
	fresh := r.upstreams[cfg.URL] == nil
	up, err := r.applyUpstream(cfg.URL, cfg)
	if err != nil {
		return err
	}
	kept := *old
	kept.up, kept.Delivery.Upstream = up, up.name
	if fresh {
		up.mu.Lock()
		up.breaker = state
		up.mu.Unlock()
	}
	kept.away = old.awayOn(up)
	s.cfg.Store(&kept)
	old.up.detach(s)
	s.attach()
	return nil
}

func (r *Recovery) applySource(sc SourceConfig) error {
	policy, err := ordering.NewPolicy(sc.Ordering)
	if err != nil {
		return fmt.Errorf("source %s: ordering: %w", sc.Name, err)
	}
	up := r.upstreams[sc.Delivery.Upstream]
	if up == nil {
		return fmt.Errorf("source %s: no upstream %q", sc.Name, sc.Delivery.Upstream)
	}
	s := r.sources[sc.Name]
	if s == nil {
		s = &Source{r: r, name: sc.Name, lanes: map[string]*lane{}}
		s.arrives.Store(r.loaded)
		r.sources[sc.Name] = s
	}
	fresh := &compiled{SourceConfig: sc, policy: policy, up: up}
	if was := s.cfg.Load(); was != nil {
		fresh.away = was.awayOn(up)
	}
	old := s.cfg.Swap(fresh)
	switch {
	case old == nil && !r.loaded:
		s.attach()
	case old != nil && old.up != up:
		s.moved = time.Now()
		old.up.detach(s)
		s.attach()
	}
	if old != nil {
		if err := s.relane(old.policy, policy); err != nil {
			return fmt.Errorf("source %s: %w", sc.Name, err)
		}
		if !reflect.DeepEqual(old.Ordering, sc.Ordering) {
			s.unlaned.Store(true)
		}
	}
	up.poke()
	return nil
}

// awayOn is what away is once the source has the upstream up.
func (c *compiled) awayOn(up *upstream) time.Duration {
	if c.up == up {
		return c.away
	}
	now := time.Now()
	return c.downtime(now) - up.downtime(now)
}

// attach lets the source's upstream take what is due.
func (s *Source) attach() {
	up := s.cfg.Load().up
	up.mu.Lock()
	up.sources = append(up.sources, s)
	up.mu.Unlock()
	up.poke()
}

func (u *upstream) detach(s *Source) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, x := range u.sources {
		if x == s {
			u.sources = append(u.sources[:i:i], u.sources[i+1:]...)
			u.left = true
			u.poke()
			return
		}
	}
}

// begin runs f under Run, now or once Run begins.
func (r *Recovery) begin(f func()) {
	r.starts.Lock()
	defer r.starts.Unlock()
	if r.running.Load() {
		r.work.Go(f)
		return
	}
	r.started = append(r.started, f)
}

// Source is the handle of a configured source; nil if there is none of that name, or what was pending of it is still being taken up.
func (r *Recovery) Source(name string) *Source {
	if s := r.known(name); s != nil && !s.arrives.Load() {
		return s
	}
	return nil
}

// known is Source, also while it arrives.
func (r *Recovery) known(name string) *Source {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sources[name]
}

// Load builds the schedule from the journal: breakers, pauses, jobs and every pending event. Attempts that a crash cut off become
// unknown outcomes. Call it once, after Apply and before Run and before any Deliver.
func (r *Recovery) Load(ctx context.Context) error {
	for _, u := range r.upstreams {
		if err := u.recall(ctx); err != nil {
			return err
		}
	}
	for _, s := range r.sources {
		if err := s.recall(ctx); err != nil {
			return err
		}
	}
	if err := r.loadSingles(ctx); err != nil { // before one of their events can end
		return err
	}
	if err := r.loadPending(ctx); err != nil {
		return err
	}
	r.rememberUpstreams(ctx)
	return r.loadReplays(ctx)
}

func (r *Recovery) loadPending(ctx context.Context) error {
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	r.orphans = map[string]int{}
	err := r.journal.Pending(ctx, func(page []event.Record) error { return r.enlist(ctx, page) })
	if err != nil {
		return fmt.Errorf("pending events: %w", err)
	}
	for name, n := range r.orphans {
		r.log.Warn("pending events of a source that is not configured stay pending until it is", "source", name, "events", n)
	}
	r.loaded = true
	return nil
}

// recall restores the source's pause from the journal, and what its upstreams were away.
func (s *Source) recall(ctx context.Context) error {
	s.pausing.Lock()
	raw, err := s.r.journal.MetaGet(ctx, "paused/"+s.name)
	s.paused.Store(raw != nil)
	s.pausing.Unlock()
	if err != nil {
		return err
	}
	return s.recallUpstream(ctx)
}

// takeUp puts into the schedule what was pending of a source that a reload has brought back.
func (r *Recovery) takeUp(ctx context.Context, s *Source, counts []journal.Count) error {
	waits := func(c journal.Count) bool { return c.Source == s.name && c.State == event.Pending && c.N > 0 }
	if err := s.recall(ctx); err != nil || !slices.ContainsFunc(counts, waits) {
		return err
	}
	q := journal.Query{Source: s.name, States: []event.State{event.Pending}, Asc: true, Limit: 500}
	for {
		page, err := r.journal.List(ctx, q)
		if err == nil {
			err = r.enlist(ctx, page.Records)
		}
		if q.Cursor = page.Next; err != nil || q.Cursor == "" {
			return err
		}
	}
}

// enlist puts pending events from the journal into the schedule; those of sources that are not configured stay where they are. The records are changed.
func (r *Recovery) enlist(ctx context.Context, page []event.Record) error {
	var cut []journal.Transition
	for i := range page {
		rec := &page[i]
		if s := r.sources[rec.Source]; s == nil {
			r.orphans[rec.Source]++
		} else if rec.Reason == event.Delivering {
			cut = append(cut, s.cutOff(*rec))
		} else {
			s.enlist(rec)
		}
	}
	return r.commitCut(ctx, cut)
}

// makeRoom is for as many events as wait, so that reading a million of them does not copy what is there again and again.
func (r *Recovery) makeRoom(ctx context.Context) error {
	counts, err := r.journal.Counts(ctx)
	if err != nil {
		return fmt.Errorf("pending events: %w", err)
	}
	for _, c := range counts {
		if s := r.sources[c.Source]; s != nil && c.State == event.Pending && s.cfg.Load().policy.Policy == "none" {
			s.events = slices.Grow(s.events, cap(s.events)+int(c.N+c.N/8)) // a row for each reason
		}
	}
	return nil
}

// commitCut records the attempts that a crash cut off and puts their events into the schedule.
func (r *Recovery) commitCut(ctx context.Context, ts []journal.Transition) error {
	if len(ts) == 0 {
		return nil
	}
	out, err := r.journal.Commit(ctx, ts, journal.Written)
	if err != nil {
		return fmt.Errorf("interrupted attempts: %w", err)
	}
	for i := range out {
		if out[i].Applied {
			r.log.Info("attempt interrupted by the end of the process", "id", out[i].Record.ID.String(), "source", out[i].Record.Source,
				"event_id", out[i].Record.EventID, "attempt", out[i].Record.Attempts)
			r.sources[out[i].Record.Source].enlist(&out[i].Record)
		}
	}
	return nil
}

// Run makes the attempts that are due until ctx ends, then waits for those under way, at most the longest upstream timeout, and at most that and a second since
// Leaving. What does not finish stays pending in the journal.
func (r *Recovery) Run(ctx context.Context) error {
	r.starts.Lock()
	r.running.Store(true)
	for _, f := range r.started {
		r.work.Go(f)
	}
	r.started = nil
	r.starts.Unlock()
	<-ctx.Done()
	r.hub.close()
	r.mu.RLock()
	var longest time.Duration
	for _, u := range r.upstreams {
		u.mu.Lock()
		longest = max(longest, u.cfg.Timeout)
		u.mu.Unlock()
	}
	r.mu.RUnlock()
	r.jobs.halt()
	if began := r.ending.Load(); began != nil {
		longest = min(longest, time.Until(began.Add(longest+time.Second)))
	}
	r.draining(longest)
	return nil
}

// draining stops the loops and waits for attempts under way.
func (r *Recovery) draining(longest time.Duration) {
	idle := make(chan struct{})
	hard := time.AfterFunc(longest, r.stop)
	defer hard.Stop()
	r.starts.Lock()
	r.running.Store(false)
	r.starts.Unlock()
	r.mu.RLock()
	for _, u := range r.upstreams {
		u.poke()
	}
	r.mu.RUnlock()
	r.crew.dismiss()
	go func() { r.work.Wait(); close(idle) }()
	<-idle
	r.stop()
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, u := range r.upstreams {
		u.client.Close()
	}
}

// Observe is the journal's observer: it wakes those who wait for an event and keeps the number of pending events.
func (r *Recovery) Observe(old event.State, oldReason event.Reason, rec *event.Record) {
	r.mu.RLock()
	s := r.sources[rec.Source]
	r.mu.RUnlock()
	if s != nil {
		s.count(old, oldReason, rec)
	}
	r.countIfReplayed(old, rec)
	if rec.ReplayID != "" && old == event.Pending {
		r.singles.changed(rec)
	}
	r.hub.changed(old, oldReason, rec)
}
