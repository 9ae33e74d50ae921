package recovery

import (
	"container/heap"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

// Source is one source's part of the schedule.
type Source struct {
	r       *Recovery
	name    string
	cfg     atomic.Pointer[compiled]
	paused  atomic.Bool
	removed atomic.Bool
	arrives atomic.Bool  // a reload has brought it, and what was pending is not in the schedule yet: nobody else may put anything there
	unlaned atomic.Bool  // a reload has changed the order: what waits without a lane may need one
	pending atomic.Int64 // events in state pending
	held    atomic.Int64 // of these, reason held
	users   atomic.Int64 // calls under way that may make something pending; below 0: it is let go, and nothing may
	idle    time.Time    // since when Retire has found it unwanted; zero = it is wanted

	told  had       // in the journal; of Load and Apply
	moved time.Time // when a reload gave it another upstream; of Apply

	pausing sync.Mutex     // held from what the journal says of paused to what paused says
	cursors sync.RWMutex   // held for reading while an attempt ends: its cursor is computed, committed, and it lands; for writing while an operator sets one or decides
	watched [16]sync.Mutex // the same for resources that ordering only observes: one attempt at a time

	mu     sync.Mutex
	lanes  map[string]*lane // resources with something waiting or in flight
	queue  queue            // of these, those that wait for a time
	events events           // events without a lane that wait for a time
}

type compiled struct {
	SourceConfig
	policy *ordering.Policy
	up     *upstream
	away   time.Duration // how much longer than this one the upstreams before it have been away
}

// downtime is how long the source's upstreams have been away up to now: what waited for one of them has waited, whichever it has now.
func (c *compiled) downtime(now time.Time) time.Duration { return c.up.downtime(now) + c.away }

// lane is a resource's queue with the scheduler's bookkeeping.
type lane struct {
	*ordering.Lane
	resource string
	due      int64 // when it is to be looked at, while something in it waits for a time; nanoseconds since 1970
	index    int   // place in the queue plus one; 0 = not queued
	ready    bool  // taken from the queue, waits for a slot
	fresh    bool  // a sender waits for it
	pins     int   // requests between judging and adding
}

// queue is a heap of lanes by due time.
type queue []*lane

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].index, q[j].index = i+1, j+1 }

// Push is for container/heap.
func (q *queue) Push(x any) { l := x.(*lane); l.index = len(*q) + 1; *q = append(*q, l) }

// Pop is for container/heap.
func (q *queue) Pop() any {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	l.index = 0
	return l
}

// count follows a change of state of one of the source's events.
func (s *Source) count(old event.State, oldReason event.Reason, rec *event.Record) {
	delta := func(a *atomic.Int64, was, is bool) {
		switch {
		case is && !was:
			a.Add(1)
		case was && !is:
			a.Add(-1)
		}
	}
	delta(&s.pending, old == event.Pending, rec.State == event.Pending)
	delta(&s.held, old == event.Pending && oldReason == event.Held, rec.State == event.Pending && rec.Reason == event.Held)
}

// at schedules an event that has no lane; the zero time is now. What is due at once takes its place behind what has been due for longer.
func (s *Source) at(id event.ID, due time.Time) {
	if due.IsZero() {
		due = s.r.steady()
	}
	w := timed{due.UnixNano(), id}
	s.mu.Lock()
	s.events.push(w)
	first := s.events[0] == w
	s.mu.Unlock()
	if first {
		s.cfg.Load().up.poke()
	}
}

// wake schedules a lane. The caller holds mu.
func (s *Source) wake(l *lane, due int64) {
	switch {
	case l.Idle():
		s.settleLane(l)
		return
	case l.Flying() != nil:
		return // it is woken when that one lands
	case l.ready:
		return // it will be looked at anyway
	case l.index == 0:
		l.due = due
		heap.Push(&s.queue, l)
	case due < l.due:
		l.due = due
		heap.Fix(&s.queue, l.index-1)
	default:
		return
	}
	if l.index == 1 {
		s.cfg.Load().up.poke()
	}
}

// nanos is t as lanes and queues count it; the zero time is 0 = at once.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// lane finds or makes the lane of a resource. The caller holds mu.
func (s *Source) lane(ctx context.Context, resource string) (*lane, error) {
	if l := s.lanes[resource]; l != nil {
		return l, nil
	}
	key := event.ResourceKey{Source: s.name, Resource: resource}
	st, err := s.r.journal.Resources(ctx, []event.ResourceKey{key})
	if err != nil {
		return nil, err
	}
	l := &lane{Lane: ordering.NewLane(s.cfg.Load().policy, st[0]), resource: resource}
	s.lanes[resource] = l
	return l, nil
}

// settleLane forgets a lane that has nothing left. The caller holds mu.
func (s *Source) settleLane(l *lane) {
	if l.Idle() && l.pins == 0 && l.index == 0 && !l.ready && s.lanes[l.resource] == l {
		delete(s.lanes, l.resource)
	}
}

// relane rebuilds all lanes after a reload, since their policy may be another one now. Under one that only observed the cursors have moved without them.
func (s *Source) relane(old, p *ordering.Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		if old.Observing() {
			st, err := s.r.journal.Resources(context.Background(), []event.ResourceKey{{Source: s.name, Resource: l.resource}})
			if err != nil {
				return err
			}
			if text := st[0].Version; text != l.Cursor() {
				l.SetCursor(text)
			}
		}
		l.Adopt(p)
		s.wake(l, 0)
	}
	return nil
}

// rearrange looks at all that waits, after a reload has changed the order and before the next attempt begins: what is ordered now takes its place in the lane of its resource,
// so that the oldest goes first; what is not any more leaves its lane, and waits for no other.
func (s *Source) rearrange(due *line) {
	s.cursors.Lock() // who moves a cursor by the order that was has done so
	s.cursors.Unlock()
	s.mu.Lock()
	due.recall(s)
	waiting := s.events
	s.events = nil
	without := len(waiting)
	for _, l := range s.lanes {
		for _, e := range l.Entries() {
			waiting = append(waiting, timed{id: e.ID})
		}
	}
	s.mu.Unlock()
	for i, w := range waiting {
		rec, _, err := s.r.journal.Get(s.r.ctx, w.id, false)
		switch {
		case err != nil:
			s.r.log.Error("pending event not read", "id", w.id.String(), "error", err)
		case rec.State == event.Pending && (i < without || !laned(s.cfg.Load().policy, &rec) && s.outOfLane(&rec)):
			s.requeue(&rec, nil)
		}
	}
	if err := s.undecidedIntoLanes(); err != nil {
		s.r.log.Error("events that wait for a decision not read", "source", s.name, "error", err)
	}
}

// outOfLane takes an event out of the lane where it waits, and lets its sender go; false: it is not there.
func (s *Source) outOfLane(rec *event.Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[rec.Resource]
	if l == nil {
		return false
	}
	e, ok := l.Remove(rec.ID)
	if !ok {
		return false
	}
	if w, _ := e.Owner.(*sender); w != nil {
		signal(w.out)
	}
	s.wake(l, 0)
	return true
}

// undecidedIntoLanes is rearrange for what waits for a decision without a lane, which is in no queue.
func (s *Source) undecidedIntoLanes() error {
	ctx := s.r.ctx
	counts, err := s.r.journal.Counts(ctx)
	undecided := int64(0)
	for _, c := range counts {
		if c.Source == s.name && c.State == event.Pending && c.Reason == event.WaitingForDecision {
			undecided += c.N
		}
	}
	if undecided == 0 {
		return err
	}
	q := journal.Query{Source: s.name, States: []event.State{event.Pending}, Reasons: []event.Reason{event.WaitingForDecision}, Asc: true, Limit: 500}
	for {
		page, err := s.r.journal.List(ctx, q)
		for i := range page.Records {
			rec := &page.Records[i]
			s.requeue(rec, nil)
			if now, _, err := s.r.journal.Get(ctx, rec.ID, false); err == nil && now.Rev != rec.Rev {
				s.forget(rec) // it was decided before it was there
			}
		}
		if q.Cursor = page.Next; err != nil || q.Cursor == "" {
			return err
		}
	}
}

// forget takes an event out of the lane where it waits for a decision.
func (s *Source) forget(rec *event.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[rec.Resource]
	if l == nil {
		return
	}
	for _, e := range l.Entries() {
		if e.ID == rec.ID && e.Due == ordering.Never {
			l.Remove(rec.ID)
			s.wake(l, 0)
			return
		}
	}
}

// enlist puts a pending event from the journal into the schedule, before that runs. What was due when the process ended comes before all that is new, in
// the order in which it was accepted. rec is changed.
func (s *Source) enlist(rec *event.Record) {
	s.pending.Add(1)
	if rec.Reason == event.Held {
		s.held.Add(1)
	} else if rec.NextAt.IsZero() {
		rec.NextAt = time.Unix(0, 0)
	}
	if s.cfg.Load().policy.Policy != "none" { // else a lane would keep the page of the journal's walk
		rec.EventID, rec.Resource, rec.Version = strings.Clone(rec.EventID), strings.Clone(rec.Resource), strings.Clone(rec.Version)
	}
	s.requeue(rec, nil)
}

// requeue puts a pending event into its lane, or straight into the queue.
func (s *Source) requeue(rec *event.Record, w *sender) {
	c := s.cfg.Load()
	due := rec.NextAt
	if rec.Reason == event.WaitingForDecision {
		due = time.Unix(0, ordering.Never)
	}
	if !laned(c.policy, rec) {
		if rec.Reason == event.Held { // no longer
			due = rec.HeldSince
		}
		if rec.Reason != event.WaitingForDecision {
			s.at(rec.ID, due)
		}
		return
	}
	e := entry(c.policy, rec, s.r.steady())
	e.Owner = w
	if rec.Reason == event.Retrying || rec.Reason == event.WaitingForDecision {
		e.Due, e.Retry, e.Unknown = nanos(due), true, rec.Unknown
	}
	s.mu.Lock()
	if s.cfg.Load() != c { // rearrange may have been here already
		s.mu.Unlock()
		s.requeue(rec, w)
		return
	}
	defer s.mu.Unlock()
	l, err := s.lane(context.Background(), rec.Resource)
	if err != nil {
		s.r.log.Error("event not scheduled", "id", rec.ID.String(), "error", err)
		return
	}
	switch {
	case e.Forced:
		l.Remove(rec.ID) // it waited here for a decision
	case rec.Reason == event.WaitingForDecision && l.Has(rec.ID):
		return
	}
	l.Add(e)
	s.wake(l, 0)
}

// laned says whether an event goes through a lane: its policy orders and looks at it, and it has what the policy compares.
func laned(p *ordering.Policy, rec *event.Record) bool {
	if !p.Applies(rec) || p.Observing() || rec.Resource == "" {
		return false
	}
	_, err := p.Version(rec.Version)
	return err == nil
}

func entry(p *ordering.Policy, rec *event.Record, now time.Time) *ordering.Entry {
	v, _ := p.Version(rec.Version) // laned has seen that it parses
	e := &ordering.Entry{ID: rec.ID, EventID: rec.EventID, Version: v, Text: rec.Version, Forced: rec.Forced}
	since := rec.HeldSince
	if since.IsZero() {
		since = now // a replay waits anew
	}
	e.Release = since.Add(p.MaxWait).UnixNano()
	e.Early = rec.Reason == event.Held && !rec.NextAt.IsZero()
	return e
}

// cutOff is the transition for an attempt that a crash cut off: its outcome is unknown.
func (s *Source) cutOff(rec event.Record) journal.Transition {
	at := event.Attempt{N: rec.Attempts, Trigger: rec.LastTrigger, StartedAt: rec.LastAttemptAt, Outcome: event.OutcomeUnknown,
		ErrKind: forward.KindCrash, ErrText: "the gateway ended while the attempt was under way", Upstream: s.told.at(rec.LastAttemptAt)} // which it had then
	if at.Upstream == "" {
		at.Upstream = s.cfg.Load().up.name
	}
	rec.Unknown = true
	rec.LastErrKind, rec.LastErrText, rec.LastStatus = at.ErrKind, at.ErrText, 0
	rec.Reason, rec.NextAt = event.Retrying, s.r.steady()
	if rec.NextTrigger != event.TriggerReplay {
		rec.NextTrigger = event.TriggerRetry
	}
	if s.cfg.Load().Delivery.OnUnknown == "hold" {
		rec.Reason, rec.NextAt = event.WaitingForDecision, time.Time{}
	}
	return journal.Transition{Record: rec, Attempt: &at}
}
