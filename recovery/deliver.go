package recovery

import (
	"context"
	"log/slog"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

// Outcome of an event's way through the gateway, as the sender is told (SPEC §3).
type Outcome string

const (
	Delivered   Outcome = "delivered"
	Failed      Outcome = "failed"
	Returned    Outcome = "returned"
	Accepted    Outcome = "accepted"
	Held        Outcome = "held"
	Duplicate   Outcome = "duplicate"
	Stale       Outcome = "stale"
	Quarantined Outcome = "quarantined"
	Unavailable Outcome = "unavailable"
)

// Handled says what became of an event, as far as its sender is concerned.
type Handled struct {
	Outcome    Outcome
	Fate       event.Fate      // of the event; with Duplicate, of the one that is known
	Result     *forward.Result // the upstream's answer, where the sender gets it
	RetryAfter time.Duration   // with Unavailable; 0 = the default
	Key        int             // with Duplicate: under which of the keys it is known
}

// Submission is a verified event that is new, or that its sender sends again after it had failed.
type Submission struct {
	Record  event.Record // of a redelivery: the record as it is in the journal. Changed by Deliver
	Again   bool         // a redelivery
	Payload *event.Payload
	Keys    []event.Key
	Aliases []event.Key

	known  event.Fate        // of a refused claim: the event that has the key
	key    int               // … and which of the keys it is
	accept [1]journal.Accept // room for the call
	result forward.Result    // room for Handled.Result
}

// Deliver takes over an event: its place in the order, its record, and, where the mode says so, its first attempt, for which the sender waits.
// sub is changed, and holds the Result; neither it nor the payload, which may alias the request, is used once Deliver has returned. An error means that nothing is known to be stored; journal.ErrFull
// and journal.ErrFailed are answered 503.
func (s *Source) Deliver(ctx context.Context, sub *Submission) (Handled, error) {
	if !s.enter() { // its request began long before a reload took the source away
		return Handled{Outcome: Unavailable}, nil
	}
	defer s.exit()
	c := s.cfg.Load()
	if s.pending.Load() >= int64(c.Pending) {
		return Handled{Outcome: Unavailable}, nil
	}
	rec := &sub.Record
	if sub.Again {
		s.reopen(rec)
	} else { // as it was found, should it come here twice
		rec.NextTrigger, rec.OrderNote = event.TriggerInitial, ""
		rec.NextAt, rec.HeldSince, rec.SettledAt = time.Time{}, time.Time{}, time.Time{}
	}
	rec.State, rec.Reason = event.Pending, event.Queued
	if laned(c.policy, rec) {
		return s.deliverInOrder(ctx, c, sub)
	}
	if err := s.note(ctx, c, rec); err != nil {
		return Handled{}, err
	}
	switch mode := c.Delivery.Mode; {
	case mode == "store" && !sub.Again && !s.paused.Load() && c.Delivery.OnUnknown != "hold":
		return s.deliverSoon(ctx, c, sub)
	case mode == "store":
		return s.queueUp(ctx, c, sub, Accepted)
	case s.paused.Load() && mode == "proxy":
		return Handled{Outcome: Unavailable}, nil
	case s.paused.Load():
		return s.queueUp(ctx, c, sub, Accepted)
	}
	return s.deliverNow(ctx, c, sub)
}

// reopen makes a failed record fresh for another run of attempts.
func (s *Source) reopen(rec *event.Record) {
	rec.NextTrigger = event.TriggerRedelivery
	rec.Charged, rec.FirstTryAt, rec.OutageAtTry = 0, time.Time{}, 0
	rec.SettledAt, rec.NextAt, rec.HeldSince = time.Time{}, time.Time{}, time.Time{}
	rec.Forced, rec.PriorState, rec.PriorReason, rec.Gap, rec.OrderNote = false, 0, 0, "", ""
	rec.Resolution = nil
}

// note writes into the record what ordering would have done, where it only observes.
func (s *Source) note(ctx context.Context, c *compiled, rec *event.Record) error {
	p := c.policy
	if !p.Observing() || !p.Applies(rec) || rec.Resource == "" {
		return nil
	}
	v, err := p.Version(rec.Version)
	if err != nil {
		return nil // observe: what cannot be compared passes
	}
	st, err := s.r.journal.Resources(ctx, []event.ResourceKey{{Source: s.name, Resource: rec.Resource}})
	if err != nil {
		return err
	}
	if d := ordering.NewLane(p, st[0]).Judge(v); d == ordering.Stale || d == ordering.Jump || d == ordering.Hold {
		rec.OrderNote = d.String()
	}
	return nil
}

// store writes the event, whose record rec is: a new one is claimed, one that comes again is reopened. False: another event has one of its keys,
// and rec stays as it is.
func (s *Source) store(ctx context.Context, sub *Submission, rec *event.Record, at *event.Attempt, d journal.Durability) (bool, error) {
	if sub.Again {
		out, err := s.r.journal.Commit(ctx, []journal.Transition{{Record: *rec, Attempt: at, Payload: sub.Payload}}, d)
		if err != nil {
			return false, err
		}
		if !out[0].Applied {
			sub.known, sub.key = out[0].Record.Fate(), 0
			return false, nil
		}
		*rec = out[0].Record
		return true, nil
	}
	a := &sub.accept[0]
	a.Record, a.Payload, a.Keys, a.Aliases = *rec, sub.Payload, sub.Keys, sub.Aliases
	v, err := s.r.journal.Accept(ctx, sub.accept[:], d)
	if err != nil {
		return false, err
	}
	if !v[0].Accepted {
		sub.known, sub.key = v[0].Record.Fate(), v[0].Key
		return false, nil
	}
	*rec = v[0].Record
	return true, nil
}

// duplicate is what the sender is told when store says false.
func (sub *Submission) duplicate() Handled {
	return Handled{Outcome: Duplicate, Fate: sub.known, Key: sub.key}
}

// queueUp stores the event for the schedule and answers at once.
func (s *Source) queueUp(ctx context.Context, c *compiled, sub *Submission, as Outcome) (Handled, error) {
	if ok, err := s.store(ctx, sub, &sub.Record, nil, journal.Synced); err != nil || !ok {
		return sub.duplicate(), err
	}
	s.r.logEvent(&sub.Record)
	s.requeue(&sub.Record, nil)
	return Handled{Outcome: as, Fate: sub.Record.Fate()}, nil
}

// deliverSoon stores the event with its first attempt under way, answers, and has the attempt made with the bytes in hand (store, without a
// lane): nothing has to be written or read between the two. Where there is no slot at once, the schedule takes over. It is not for events that
// must not be sent twice: after a crash in between, whether anything was sent would be unknown.
func (s *Source) deliverSoon(ctx context.Context, c *compiled, sub *Submission) (Handled, error) {
	sl, ok := c.up.spare()
	cfg, client := s.aim()
	if ok && cfg != c { // since it came in
		sl.cancel()
		ok = false
	}
	if !ok {
		return s.queueUp(ctx, c, sub, Accepted)
	}
	f := s.r.flight()
	f.src, f.cfg, f.client, f.rec, f.slot = s, c, client, sub.Record, sl
	f.prepare(time.Now())
	if ok, err := s.store(ctx, sub, &f.rec, nil, journal.Synced); err != nil || !ok {
		sl.cancel()
		s.r.put(f)
		return sub.duplicate(), err
	}
	s.r.logEvent(&f.rec)
	f.keep(sub.Payload)
	h := Handled{Outcome: Accepted, Fate: f.rec.Fate()}
	s.r.crew.do(errand{src: s, flight: f})
	return h, nil
}

// deliverNow makes the first attempt while the sender waits (proxy and hybrid, without a lane).
func (s *Source) deliverNow(ctx context.Context, c *compiled, sub *Submission) (Handled, error) {
	if c.Delivery.Mode == "hybrid" && c.up.isOpen() {
		return s.queueUp(ctx, c, sub, Accepted) // its sender is not kept waiting for a probe
	}
	now := time.Now()
	deadline := now.Add(s.patience(c))
	sl, why := c.up.acquire(ctx, now, deadline)
	cfg, client := s.aim()
	if why == granted && (s.paused.Load() || cfg.up != c.up || laned(cfg.policy, &sub.Record)) { // since it began to wait
		sl.cancel()
		why = busy
	}
	if why != granted {
		if c.Delivery.Mode == "proxy" {
			h := Handled{Outcome: Unavailable}
			if why == down {
				h.RetryAfter = c.up.retryAfter()
			}
			return h, nil
		}
		return s.queueUp(ctx, c, sub, Accepted)
	}
	f := s.r.flight()
	f.src, f.cfg, f.client, f.slot = s, cfg, client, sl
	f.rec, f.payload, f.waiting = sub.Record, sub.Payload, c.Delivery.Mode == "proxy"
	f.prepare(time.Now())
	var begun *event.Attempt
	durable := journal.Written
	if sub.Again { // a new event's record says itself that its first attempt is under way
		begun = f.begun()
		durable = journal.Synced // it may have been acknowledged before it failed
	}
	ok, err := s.store(ctx, sub, &f.rec, begun, durable)
	if err != nil || !ok {
		sl.cancel()
		return sub.duplicate(), err
	}
	s.r.logEvent(&f.rec)
	f.wire.Begin(s.r.ctx, f.client, f.call())
	if f.waiting {
		deadline = time.Time{}
	}
	if f.wire.Wait(deadline) {
		h := f.finish(&sub.result)
		s.r.put(f)
		return h, nil
	}
	// The sender's time is up, the attempt's is not: it goes on, and its result is recorded.
	f.payload = nil
	fate := f.rec.Fate()
	s.r.work.Go(func() {
		f.wire.Wait(time.Time{})
		f.finish(new(forward.Result))
	})
	if _, err := s.r.journal.Commit(ctx, nil, journal.Synced); err != nil {
		return Handled{}, err
	}
	return Handled{Outcome: Accepted, Fate: fate}, nil
}

// patience is how long the sender may wait.
func (s *Source) patience(c *compiled) time.Duration {
	if c.Delivery.Mode == "proxy" {
		c.up.mu.Lock()
		defer c.up.mu.Unlock()
		return c.up.cfg.Timeout
	}
	return c.Delivery.Deadline
}

// deliverInOrder puts the event into its resource's lane.
func (s *Source) deliverInOrder(ctx context.Context, c *compiled, sub *Submission) (Handled, error) {
	rec := &sub.Record
	mode := c.Delivery.Mode
	if mode == "proxy" && (s.paused.Load() || c.up.isDown(time.Now())) {
		h := Handled{Outcome: Unavailable}
		if !s.paused.Load() {
			h.RetryAfter = c.up.retryAfter()
		}
		return h, nil
	}
	e := entry(c.policy, rec, s.r.steady())
	l, d, err := s.judge(ctx, c, rec, e)
	if err != nil {
		return Handled{}, err
	}
	if l == nil {
		return Handled{Outcome: Unavailable}, nil
	}
	defer s.unpin(l, e)
	switch d {
	case ordering.Stale:
		return s.reject(ctx, sub, event.Stale)
	case ordering.Jump:
		return s.reject(ctx, sub, event.VersionJump)
	case ordering.Hold:
		rec.Reason = event.Held
	}
	rec.HeldSince = s.r.steady()
	if d == ordering.Hold {
		rec.NextAt = rec.HeldSince.Add(c.policy.MaxWait)
	}
	// While nothing is sent its sender is not kept waiting.
	store := mode == "store" || d == ordering.Hold || s.paused.Load() || mode == "hybrid" && s.standsStill(c)
	durable := journal.Written
	if store {
		durable = journal.Synced
	}
	if ok, err := s.store(ctx, sub, rec, nil, durable); err != nil || !ok {
		return sub.duplicate(), err
	}
	s.r.logEvent(rec)
	var w *sender
	if !store {
		w = newSender()
	}
	s.mu.Lock()
	if !laned(s.cfg.Load().policy, rec) { // a reload has taken the order away meanwhile
		s.mu.Unlock()
		s.requeue(rec, nil)
		_, err := s.r.journal.Commit(ctx, nil, journal.Synced)
		return Handled{Outcome: Accepted, Fate: rec.Fate()}, err
	}
	l.Expected(e)
	early := e.Early
	e = entry(l.Policy(), rec, s.r.steady()) // which may be another one than judged it
	e.Early = early
	if w != nil {
		e.Owner = w
	}
	l.Add(e)
	if l.index == 0 && !l.ready && !store {
		l.fresh = true
	}
	s.wake(l, 0)
	s.mu.Unlock()
	if w != nil && s.standsStill(c) { // since it was asked last: those who were let go then did not include this one
		signal(w.down)
	}
	switch {
	case d == ordering.Hold:
		return Handled{Outcome: Held, Fate: rec.Fate()}, nil
	case store:
		return Handled{Outcome: Accepted, Fate: rec.Fate()}, nil
	}
	return s.await(ctx, c, l, e, w, rec)
}

// await waits for the event's turn and its first attempt, as long as the sender may wait.
func (s *Source) await(ctx context.Context, c *compiled, l *lane, e *ordering.Entry, w *sender, rec *event.Record) (Handled, error) {
	t := time.NewTimer(s.patience(c))
	defer t.Stop()
	down := w.down
	if c.Delivery.Mode != "hybrid" {
		down = nil
	}
	letGo := false
	select {
	case h := <-w.ch:
		return *h, nil
	case <-t.C:
	case <-down:
		letGo = true
	case <-w.out:
		letGo = true
	case <-ctx.Done():
	}
	s.mu.Lock()
	flying := l.Flying() == e
	var release time.Time
	if e.Early { // by now: the first version went back to its sender
		release = time.Unix(0, e.Release)
	}
	s.mu.Unlock()
	if !w.leave() {
		return *<-w.ch, nil // of an attempt that runs: bounded by the upstream's timeout
	}
	if _, err := s.r.journal.Commit(ctx, nil, journal.Synced); err != nil {
		return Handled{}, err
	}
	if flying || letGo {
		return Handled{Outcome: Accepted, Fate: rec.Fate()}, nil
	}
	held := s.hold(rec.ID, release)
	if held.ID.IsZero() {
		held = *rec
	}
	return Handled{Outcome: Held, Fate: held.Fate()}, nil
}

// hold makes a held event of one that is queued, until release if there is one, and gives the record; the zero record if that could not be read.
func (s *Source) hold(id event.ID, release time.Time) event.Record {
	held, _ := s.r.change(id, journal.Written, func(now *event.Record) (bool, *event.ResourceState) {
		waits := now.State == event.Pending && now.Reason == event.Queued
		now.Reason = event.Held
		if !release.IsZero() {
			now.NextAt = release
		}
		if now.HeldSince.IsZero() { // a replay waits anew
			now.HeldSince = s.r.steady()
		}
		return waits, nil
	})
	return held
}

// judge finds the lane, pins it and asks the policy. No lane: a bound is reached.
func (s *Source) judge(ctx context.Context, c *compiled, rec *event.Record, e *ordering.Entry) (*lane, ordering.Decision, error) {
	if c.Delivery.Mode == "store" && e.Version.Known() {
		s.awaitLanding(ctx, rec.Resource, e.Version)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes[rec.Resource] == nil && len(s.lanes) >= c.Resources {
		return nil, 0, nil
	}
	l, err := s.lane(ctx, rec.Resource)
	if err != nil {
		return nil, 0, err
	}
	d := ordering.Pass
	switch p := l.Policy(); {
	case p == c.policy:
		d = l.Judge(e.Version)
	case laned(p, rec): // a reload has come between
		e.Version, _ = p.Version(rec.Version)
		d = l.Judge(e.Version)
	}
	if d == ordering.Hold {
		// What fills a gap, or waits for one that is on its way, is never refused: that would keep the rest held.
		if l.Early() >= c.policy.MaxHeld || s.held.Load() >= int64(c.Held) {
			s.settleLane(l)
			return nil, 0, nil
		}
	}
	if e.Early = d == ordering.Hold; d != ordering.Stale && d != ordering.Jump {
		l.Expect(e)
	}
	l.pins++
	return l, d, nil
}

// awaitLanding returns when no attempt of a version that is not older than v, and that can be seen to have ended, has yet to land in its lane; or after a second. What
// comes as soon as a newer version can be seen to be delivered is told that it is stale.
func (s *Source) awaitLanding(ctx context.Context, resource string, v ordering.Version) {
	for range 1000 {
		var flying event.ID
		s.mu.Lock()
		if l := s.lanes[resource]; l != nil && l.Flying() != nil && !l.Flying().Version.Less(v) {
			flying = l.Flying().ID
		}
		s.mu.Unlock()
		if flying.IsZero() {
			return
		}
		if rec, _, err := s.r.journal.Get(ctx, flying, false); err != nil || rec.State == event.Pending {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *Source) unpin(l *lane, e *ordering.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.pins--
	if l.Expected(e) {
		s.wake(l, 0) // what waited for it
	}
	s.settleLane(l)
}

// reject records an event that goes no further.
func (s *Source) reject(ctx context.Context, sub *Submission, why event.Reason) (Handled, error) {
	s.end(&sub.Record, event.Rejected, why)
	if ok, err := s.store(ctx, sub, &sub.Record, nil, journal.Synced); err != nil || !ok {
		return sub.duplicate(), err
	}
	s.r.logEvent(&sub.Record)
	return Handled{Outcome: outcomeOf(event.Rejected, why), Fate: sub.Record.Fate()}, nil
}

// handledAs is what the sender is told after an attempt.
func handledAs(rec *event.Record) Outcome {
	if rec.State == event.Pending {
		return Accepted
	}
	return outcomeOf(rec.State, rec.Reason)
}

func outcomeOf(st event.State, why event.Reason) Outcome {
	switch {
	case st == event.Delivered, st == event.Replayed:
		return Delivered
	case why == event.Returned:
		return Returned
	case why == event.Exhausted, why == event.Gap:
		return Accepted // the gateway had taken it over: the sender is not asked to retry
	case why == event.Stale:
		return Stale
	case why == event.VersionJump:
		return Quarantined
	}
	return Failed
}

// logEvent writes the one line that an event has.
func (r *Recovery) logEvent(rec *event.Record) {
	if !r.log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, "event", slog.String("id", rec.ID.String()), slog.String("source", rec.Source),
		slog.String("event_id", rec.EventID), slog.String("type", rec.Type), slog.String("resource", rec.Resource), slog.String("version", rec.Version),
		slog.String("state", rec.State.String()), slog.String("reason", rec.Reason.String()), slog.Int("body_bytes", rec.BodyBytes))
}

// logAttempt writes the one line that an attempt has.
func (r *Recovery) logAttempt(rec *event.Record, at *event.Attempt) {
	if !r.log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, "attempt", slog.String("id", rec.ID.String()), slog.String("source", rec.Source),
		slog.String("event_id", rec.EventID), slog.Int("n", at.N), slog.String("trigger", at.Trigger.String()), slog.String("outcome", at.Outcome.String()),
		slog.Int("status", at.Status), slog.String("error", at.ErrKind), slog.Int64("duration_ms", at.Duration.Milliseconds()),
		slog.String("state", rec.State.String()), slog.String("reason", rec.Reason.String()))
}
