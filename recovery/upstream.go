package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
)

// upstream is a consumer with what bounds the attempts at it: concurrency, rate and breaker. Its queue holds what is due and waits for one of them.
type upstream struct {
	r    *Recovery
	name string
	kick chan struct{} // capacity 1: something changed, look again

	measure func(o event.Outcome, d time.Duration) // is told of each attempt; may be nil

	queued atomic.Int64 // due and without a slot
	untold bool         // the journal still has the breaker of another address; of Load and Apply
	memory sync.Mutex   // held by remember
	named  bool         // in the configuration; guarded by Recovery.mu
	idle   time.Time    // since when Retire has found it unwanted; zero = it is wanted
	gone   atomic.Bool  // it is let go: its loop ends

	mu       sync.Mutex
	cfg      forward.Config
	client   *forward.Client
	breaker  breaker
	inflight int
	tokens   float64
	filled   time.Time
	waiters  []*waiter // requests that wait for a slot, oldest first
	turn     bool      // whose turn it is when both a request and the queue want a slot
	sources  []*Source
	left     bool // some source has another upstream since the loop looked last
	moves    int  // how often a reload has given it another URL
}

// A slot is the right to make one attempt.
type slot struct {
	up    *upstream
	probe bool
	moves int // of the upstream, then
}

type waiter struct {
	granted chan slot // capacity 1
}

// refusal says why there is no slot.
type refusal uint8

const (
	granted refusal = iota
	busy            // concurrency or rate
	down            // the breaker is open
)

func (u *upstream) poke() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// configure sets the upstream's configuration, at start and on reload. A new URL starts with a closed breaker.
func (u *upstream) configure(cfg forward.Config, dial forward.Options) error {
	u.mu.Lock()
	same := u.client != nil && u.cfg == cfg && cfg.CAFile == ""
	u.mu.Unlock()
	if same {
		return nil // connections, breaker and rate go on as they are
	}
	client, err := forward.New(u.name, cfg, dial)
	if err != nil {
		return fmt.Errorf("upstream %s: %w", u.name, err)
	}
	u.mu.Lock()
	old, moved := u.client, u.cfg.URL != cfg.URL && u.client != nil
	u.cfg, u.client = cfg, client
	u.breaker.cfg = cfg.Breaker
	if u.breaker.wait == 0 {
		u.breaker.wait = cfg.Breaker.Probe
	}
	u.breaker.hurry(time.Now())
	if moved {
		u.breaker = breaker{cfg: cfg.Breaker, wait: cfg.Breaker.Probe, outage: u.breaker.downtime(time.Now())}
		u.moves++
		u.untold = true
	}
	u.tokens, u.filled = max(1, cfg.Rate), time.Now()
	u.mu.Unlock()
	if old != nil {
		old.Close()
	}
	u.poke()
	return nil
}

// try takes a slot if there is one. The caller holds mu.
func (u *upstream) try(now time.Time) (slot, refusal) {
	full := u.inflight >= u.cfg.MaxInFlight || u.breaker.ramp > 0 && u.inflight >= u.breaker.ramp
	u.fill(now)
	if full || u.cfg.Rate > 0 && u.tokens < 1 {
		if u.breaker.state != closed {
			return slot{}, down
		}
		return slot{}, busy
	}
	ok, probe := u.breaker.admit(now)
	if !ok {
		return slot{}, down
	}
	if u.cfg.Rate > 0 {
		u.tokens--
	}
	u.inflight++
	return slot{u, probe, u.moves}, granted
}

// fill adds the tokens of the time since it was called last. The caller holds mu.
func (u *upstream) fill(now time.Time) {
	if u.cfg.Rate > 0 {
		u.tokens = min(max(1, u.cfg.Rate), u.tokens+now.Sub(u.filled).Seconds()*u.cfg.Rate)
		u.filled = now
	}
}

// spare takes a slot that nobody else waits for, of an upstream that is well; false: there is none, or the gateway is about to go.
func (u *upstream) spare() (slot, bool) {
	if u.queued.Load() > 0 || u.r.ending.Load() != nil {
		return slot{}, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.waiters) > 0 || u.breaker.state != closed || u.breaker.ramp > 0 {
		return slot{}, false
	}
	s, why := u.try(time.Now())
	return s, why == granted
}

// acquire waits from now until then for a slot; it gives busy if there was none in time, and down at once if the breaker is open.
func (u *upstream) acquire(ctx context.Context, now, until time.Time) (slot, refusal) {
	u.mu.Lock()
	if len(u.waiters) == 0 {
		if s, why := u.try(now); why != busy {
			u.mu.Unlock()
			return s, why
		}
	}
	w := &waiter{granted: make(chan slot, 1)}
	u.waiters = append(u.waiters, w)
	u.mu.Unlock()
	u.poke()
	t := time.NewTimer(until.Sub(now))
	defer t.Stop()
	select {
	case s, ok := <-w.granted:
		if !ok {
			return slot{}, down
		}
		return s, granted
	case <-t.C:
	case <-ctx.Done():
	}
	return u.leave(w)
}

// leave takes a waiter out of the line; if it was served meanwhile, that counts.
func (u *upstream) leave(w *waiter) (slot, refusal) {
	u.mu.Lock()
	for i, x := range u.waiters {
		if x == w {
			u.waiters = append(u.waiters[:i], u.waiters[i+1:]...)
			u.mu.Unlock()
			return slot{}, busy
		}
	}
	u.mu.Unlock()
	s, ok := <-w.granted
	if !ok {
		return slot{}, down
	}
	return s, granted
}

// serve hands free slots to waiting requests, one at a time in turn with the queue (queued: it wants one too), and tells them where the breaker is open. The caller holds mu.
func (u *upstream) serve(now time.Time, queued bool) {
	for len(u.waiters) > 0 {
		if queued && u.turn && u.breaker.state == closed {
			u.turn = false
			return
		}
		s, why := u.try(now)
		switch why {
		case busy:
			return
		case down:
			close(u.waiters[0].granted)
		case granted:
			u.turn = true
			u.waiters[0].granted <- s
		}
		u.waiters = u.waiters[1:]
	}
}

// cancel gives back a slot that was not used.
func (s slot) cancel() {
	s.up.mu.Lock()
	s.up.inflight--
	if s.up.cfg.Rate > 0 {
		s.up.tokens++ // or lanes that had nothing to send would eat up the rate
	}
	if s.probe && s.moves == s.up.moves {
		s.up.breaker.cancel()
	}
	s.up.mu.Unlock()
	s.up.poke()
}

// done gives back a slot after an attempt, and says whether the breaker is open now.
func (s slot) done(o event.Outcome, status int, now time.Time) (isOpen bool) {
	u := s.up
	u.mu.Lock()
	u.inflight--
	changed := s.moves == u.moves && u.breaker.report(o, status, s.probe, now) // else it tells of an address that is left
	if u.breaker.ramp > u.cfg.MaxInFlight {
		u.breaker.ramp = 0
	}
	isOpen = u.breaker.state != closed
	if changed {
		u.tokens = min(u.tokens, 1) // what was not used during an outage is no burst after it
	}
	wanted := len(u.waiters) > 0 || changed
	u.mu.Unlock()
	if changed {
		if isOpen {
			u.letGo()
		}
		u.remember()
		u.r.log.Warn("breaker", "upstream", u.name, "state", map[bool]string{true: "open", false: "closed"}[isOpen])
	}
	if wanted || u.r.backlog(u) {
		u.poke()
	}
	return isOpen
}

// stored is what survives a restart of a breaker.
type stored struct {
	Open    bool          `json:"open"`
	Since   time.Time     `json:"since"` // steady
	Outage  time.Duration `json:"outage"`
	URL     string        `json:"url"`
	Failing int           `json:"failures"`
}

// remember writes the breaker to the journal, so that an outage stays one across a restart.
func (u *upstream) remember() {
	u.memory.Lock() // the last to write must be the last to have looked
	defer u.memory.Unlock()
	u.mu.Lock()
	b := u.breaker
	st := stored{Open: b.state != closed, Outage: b.outage, URL: u.cfg.URL, Failing: b.failures}
	u.mu.Unlock()
	if st.Open {
		st.Since = u.r.steady().Add(-time.Since(b.since))
	}
	raw, err := json.Marshal(st)
	if err == nil {
		err = u.r.journal.MetaPut(context.Background(), "breaker/"+u.name, raw, journal.Written)
	}
	if err != nil {
		u.r.log.Error("breaker not stored", "upstream", u.name, "error", err)
	}
}

// recall restores the breaker from the journal.
func (u *upstream) recall(ctx context.Context) error {
	raw, err := u.r.journal.MetaGet(ctx, "breaker/"+u.name)
	if err != nil || raw == nil {
		return err
	}
	var st stored
	if err := json.Unmarshal(raw, &st); err != nil {
		return fmt.Errorf("stored breaker of %s: %w", u.name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	b, now := &u.breaker, time.Now()
	b.outage = st.Outage
	if !st.Open {
		return nil
	}
	if away := max(0, u.r.steady().Sub(st.Since)); st.URL == u.cfg.URL {
		b.state, b.since, b.failures = open, now.Add(-away), st.Failing
		b.wait, b.next = b.cfg.Probe, now
	} else { // the new one starts closed, and events have waited all the same
		b.outage += away
		u.untold = true
	}
	return nil
}

// had is what is stored of a source's upstream, so that a restart that brings another one makes none of an outage forgotten.
type had struct {
	Upstream string        `json:"upstream"`
	Away     time.Duration `json:"away"` // see compiled
	Before   string        `json:"before,omitempty"`
	Until    time.Time     `json:"until,omitzero"` // attempts that began before that went to Before
}

// at names the upstream of an attempt that began at a time.
func (h *had) at(began time.Time) string {
	if began.Before(h.Until) {
		return h.Before
	}
	return h.Upstream
}

// remember writes to the journal which upstream the source has, if that is not what it says.
func (s *Source) remember(ctx context.Context) {
	c := s.cfg.Load()
	now := s.told
	now.Upstream, now.Away = c.up.name, c.away
	if now == s.told {
		return
	}
	if s.told.Upstream != "" && s.told.Upstream != now.Upstream {
		if now.Before, now.Until = s.told.Upstream, s.moved; now.Until.IsZero() {
			now.Until = time.Now()
		}
		c.up.remember() // away is counted from what that has been away, which may be nowhere but in memory yet
	}
	raw, err := json.Marshal(now)
	if err == nil {
		err = s.r.journal.MetaPut(ctx, "upstream/"+s.name, raw, journal.Written)
	}
	if err != nil {
		s.r.log.Error("upstream of a source not stored", "source", s.name, "error", err)
		return
	}
	s.told = now
}

// recallUpstream adds to an upstream that is not the one before how much longer that was away.
func (s *Source) recallUpstream(ctx context.Context) error {
	raw, err := s.r.journal.MetaGet(ctx, "upstream/"+s.name)
	if err != nil || raw == nil {
		return err
	}
	if err := json.Unmarshal(raw, &s.told); err != nil {
		return fmt.Errorf("stored upstream of source %s: %w", s.name, err)
	}
	c := *s.cfg.Load()
	c.away = s.told.Away
	if old := s.told.Upstream; old != c.up.name {
		before := s.r.upstreams[old]
		if before == nil {
			before = &upstream{r: s.r, name: old}
			if err := before.recall(ctx); err != nil {
				return err
			}
		}
		now := time.Now()
		c.away += before.downtime(now) - c.up.downtime(now)
	}
	s.cfg.Store(&c)
	return nil
}

// downtime is the upstream's accumulated outage up to now.
func (u *upstream) downtime(now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.breaker.downtime(now)
}

// wanted says whether something is under way to it or waits for it.
func (u *upstream) wanted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.sources {
		if s.pending.Load() > 0 {
			return true
		}
	}
	return u.inflight > 0
}

// isDown says whether the breaker is open and no probe is due.
func (u *upstream) isDown(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.breaker.state != closed && (u.breaker.state == halfOpen || now.Before(u.breaker.next))
}

// isOpen says whether the breaker is not closed.
func (u *upstream) isOpen() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.breaker.state != closed
}

// portion is how much of a rate a backlog is given at once, as time: attempts that begin together share a commit and its fsync.
const portion = 10 * time.Millisecond

// nextTry is when a slot may become free by the passing of time alone: a token, or a probe. Zero = it does not. backlog is the number of attempts that
// want one where nobody waits for them, else 0.
func (u *upstream) nextTry(now time.Time, backlog int) (at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inflight >= u.cfg.MaxInFlight {
		return at // whoever gives a slot back says so
	}
	if u.cfg.Rate > 0 && u.tokens < 1 {
		wanted := 1.0
		if len(u.waiters) == 0 && u.breaker.ramp == 0 {
			wanted = max(1, min(u.cfg.Rate*portion.Seconds(), float64(backlog)))
		}
		wait := min((wanted-u.tokens)/u.cfg.Rate*float64(time.Second), 1<<62) // a century, for rates that are next to nothing
		at = now.Add(time.Duration(wait) + 1)                                 // not a moment too early
	}
	if u.breaker.state == open && u.breaker.next.After(at) {
		at = u.breaker.next // a probe takes a token, too
	}
	return at
}

func (u *upstream) status() UpstreamStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	st := UpstreamStatus{Name: u.name, URL: u.cfg.URL, Breaker: u.breaker.state.String(), InFlight: u.inflight, ConsecutiveFailures: u.breaker.failures}
	if u.breaker.state == open {
		st.NextProbeAt = u.breaker.next
	}
	return st
}

// retryAfter is what a sender is told while the breaker is open: the probe interval, whole seconds, at least 1.
func (u *upstream) retryAfter() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.breaker.cfg.Probe
}
