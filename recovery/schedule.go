package recovery

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

// run hands slots to what is due, until the Recovery stops running. One loop per upstream; attempts run beside it.
func (u *upstream) run(ctx context.Context) {
	due := line{shares: map[*Source]int{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for u.r.running.Load() && ctx.Err() == nil && !u.gone.Load() {
		now := time.Now()
		next, more := u.collect(&due, now)
		u.release(&due)
		u.queued.Store(int64(due.len())) // before the slots are asked for: who frees one from here on sees that it is wanted
		u.mu.Lock()
		u.serve(now, due.len() > 0)
		u.mu.Unlock()
		for due.len() > 0 {
			t := due.first()
			if t.src.paused.Load() || t.src.cfg.Load().up != u {
				due.take()
				t.putBack()
				continue
			}
			if u.r.ending.Load() != nil && !t.awaited() {
				due.take()
				t.abandon()
				continue
			}
			u.mu.Lock()
			sl, why := u.try(now)
			u.mu.Unlock()
			if why != granted {
				break
			}
			due.take()
			u.start(t, sl)
			u.mu.Lock()
			u.turn = false
			u.serve(now, due.len() > 0)
			u.mu.Unlock()
		}
		if more && due.len() == 0 {
			continue
		}
		if due.len() > 0 || u.waiting() {
			if at := u.nextTry(now, due.patient()); !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
		if next.IsZero() {
			next = now.Add(time.Minute)
		}
		timer.Reset(max(0, next.Sub(now)))
		select {
		case <-u.kick:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

func (u *upstream) waiting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.waiters) > 0
}

// task is something that is due: an event without a lane, or a lane with something in it.
type task struct {
	src   *Source
	lane  *lane // nil = an event without one
	timed       // of that
}

// line is what is due and has no slot yet: what a sender waits for, and the rest, each oldest first. They take turns, so that a new event need
// not wait behind the backlog of an outage. Of each source's events without a lane it has a share only: the others stay where they take less room,
// and other sources' need not wait behind all of them.
type line struct {
	fresh, backlog []task
	turn           bool            // the backlog's
	shares         map[*Source]int // events without a lane that are in the line
}

// share is how many events without a lane a source may have in the line.
const share = 1024

func (l *line) len() int { return len(l.fresh) + len(l.backlog) }

// patient is the length of the backlog if it is all there is.
func (l *line) patient() int {
	if len(l.fresh) > 0 {
		return 0
	}
	return len(l.backlog)
}

func (l *line) add(t task) {
	q := &l.backlog
	if t.lane == nil {
		l.shares[t.src]++
	} else if t.lane.fresh {
		q = &l.fresh
	}
	*q = append(*q, t)
}

// next is the list whose turn it is; the line must not be empty.
func (l *line) next() *[]task {
	if len(l.fresh) == 0 || l.turn && len(l.backlog) > 0 {
		return &l.backlog
	}
	return &l.fresh
}

func (l *line) first() task { return (*l.next())[0] }

// take removes the first.
func (l *line) take() {
	q := l.next()
	l.turn = q == &l.fresh
	l.unshare(&(*q)[0])
	(*q)[0] = task{}
	*q = (*q)[1:]
}

func (l *line) unshare(t *task) {
	if t.lane == nil {
		if l.shares[t.src]--; l.shares[t.src] == 0 {
			delete(l.shares, t.src) // it may be of a configuration that is gone
		}
	}
}

// release gives what is of sources that have another upstream now back to them: here it might wait for long.
func (u *upstream) release(due *line) {
	u.mu.Lock()
	left := u.left
	u.left = false
	u.mu.Unlock()
	if !left {
		return
	}
	for _, q := range []*[]task{&due.fresh, &due.backlog} {
		*q = slices.DeleteFunc(*q, func(t task) bool {
			gone := t.src.cfg.Load().up != u
			if gone {
				due.unshare(&t)
				t.putBack()
			}
			return gone
		})
	}
}

// recall gives a source its events without a lane back. The caller holds mu.
func (l *line) recall(s *Source) {
	var others []task
	for _, t := range l.backlog {
		if t.src == s && t.lane == nil {
			s.events.push(t.timed)
		} else {
			others = append(others, t)
		}
	}
	l.backlog = others
	delete(l.shares, s)
}

// collect moves what is due from the sources to due, and says when the next thing will be, and whether more is due than a source's share.
func (u *upstream) collect(due *line, now time.Time) (next time.Time, more bool) {
	u.mu.Lock()
	sources := u.sources
	u.mu.Unlock()
	steady := u.r.steady().UnixNano()
	for _, s := range sources {
		if s.unlaned.Swap(false) {
			s.rearrange(due)
		}
		if s.paused.Load() {
			continue
		}
		s.mu.Lock()
		at := s.collect(due, steady)
		s.mu.Unlock()
		switch {
		case at <= steady:
			more = true
		case at < ordering.Never:
			if t := now.Add(time.Duration(at - steady)); next.IsZero() || t.Before(next) {
				next = t
			}
		}
	}
	return next, more
}

// collect moves what is due at now to the line, oldest first, as far as the source's share allows. It says when the next thing is due, which is not after now if that share is full. The
// caller holds mu.
func (s *Source) collect(to *line, now int64) (next int64) {
	for {
		laneDue, eventDue := int64(ordering.Never), int64(ordering.Never)
		if len(s.queue) > 0 {
			laneDue = s.queue[0].due
		}
		if len(s.events) > 0 && s.r.ending.Load() == nil {
			eventDue = s.events[0].due
		}
		t := task{src: s}
		switch {
		case eventDue <= min(laneDue, now) && to.shares[s] < share:
			t.timed = s.events.pop()
		case laneDue <= now:
			t.lane = heap.Pop(&s.queue).(*lane)
			t.lane.ready = true
		default:
			return min(laneDue, eventDue)
		}
		to.add(t)
	}
}

// putBack returns a task whose source was paused or moved to another upstream.
func (t *task) putBack() {
	s := t.src
	s.mu.Lock()
	if l := t.lane; l != nil {
		l.ready, l.fresh = false, false
		heap.Push(&s.queue, l)
	} else {
		s.events.push(t.timed)
	}
	s.mu.Unlock()
	if !s.paused.Load() {
		s.cfg.Load().up.poke()
	}
}

// awaited says whether a sender waits for something in the lane.
func (t *task) awaited() bool {
	if t.lane == nil {
		return false
	}
	t.src.mu.Lock()
	defer t.src.mu.Unlock()
	return slices.ContainsFunc(t.lane.Entries(), func(e *ordering.Entry) bool {
		w, _ := e.Owner.(*sender)
		return w.listening()
	})
}

// abandon leaves a task to the next start. A lane comes back where something is added.
func (t *task) abandon() {
	if l := t.lane; l != nil {
		t.src.mu.Lock()
		l.ready, l.fresh = false, false
		t.src.mu.Unlock()
	}
}

// start uses a slot for a task.
func (u *upstream) start(t task, sl slot) {
	s, l := t.src, t.lane
	if l == nil {
		u.r.crew.do(errand{src: s, slot: sl, id: t.id})
		return
	}
	s.mu.Lock()
	l.ready, l.fresh = false, false
	step := l.Next(u.r.steady().UnixNano())
	if step.Go == nil && step.Wake < ordering.Never {
		s.wake(l, step.Wake)
	}
	if len(step.Stale)+len(step.Lost) > 0 {
		s.wake(l, 0)
	}
	s.settleLane(l)
	s.mu.Unlock()
	if len(step.Stale)+len(step.Lost) > 0 {
		u.r.work.Go(func() {
			s.settleAll(step.Stale, event.Rejected, event.Stale)
			s.settleAll(step.Lost, event.Failed, event.Gap)
		})
	}
	if step.Go == nil {
		sl.cancel()
		return
	}
	u.r.crew.do(errand{src: s, slot: sl, id: step.Go.ID, lane: l, entry: step.Go, gap: step.Gap})
}

// crew makes the attempts that the upstreams' loops begin. Its goroutines are kept for the next: the stack that an attempt needs is deep, and to grow a
// new one each time costs more than all the rest of the schedule.
type crew struct {
	work *sync.WaitGroup

	mu     sync.Mutex
	idle   []chan errand // of those that wait for something to do; capacity 1
	closed bool
}

// errand is an attempt to be made.
type errand struct {
	src   *Source
	slot  slot
	id    event.ID
	lane  *lane           // nil = none
	entry *ordering.Entry // nil = none
	gap   string

	flight *flight // of an attempt that is in the journal already; nil = begin it
}

// idleCrew is how many goroutines are kept without work.
const idleCrew = 64

// do makes an attempt, without waiting for it.
func (c *crew) do(j errand) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		next := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		next <- j
		return
	}
	c.mu.Unlock()
	c.work.Go(func() {
		next := make(chan errand, 1)
		for ok := true; ok; j, ok = <-next {
			j.run()
			if !c.rest(next) {
				return
			}
		}
	})
}

// rest says that a goroutine has nothing to do; false if it is not kept.
func (c *crew) rest(next chan errand) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= idleCrew {
		return false
	}
	c.idle = append(c.idle, next)
	return true
}

// dismiss ends those that wait, and the others when they are done.
func (c *crew) dismiss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, next := range c.idle {
		close(next)
	}
	c.idle = nil
}

// backlog says whether the upstream has something due.
func (r *Recovery) backlog(u *upstream) bool { return u.queued.Load() > 0 }

// settleAll ends events that left their lane without an attempt.
func (s *Source) settleAll(es []*ordering.Entry, st event.State, why event.Reason) {
	for _, e := range es {
		rec, ok := s.r.change(e.ID, journal.Synced, func(rec *event.Record) (bool, *event.ResourceState) {
			if rec.State != event.Pending {
				return false, nil
			}
			s.end(rec, st, why)
			return true, nil
		})
		if w, _ := e.Owner.(*sender); w != nil {
			w.answer(Handled{Outcome: outcomeOf(st, why), Fate: rec.Fate()})
		}
		if ok {
			s.r.logEvent(&rec)
		}
	}
}

// end writes a final state into a record; a forced replay of what had already ended falls back to what it was.
func (s *Source) end(rec *event.Record, st event.State, why event.Reason) {
	if st == event.Failed && rec.PriorState != 0 {
		st, why = rec.PriorState, rec.PriorReason
	}
	rec.State, rec.Reason = st, why
	rec.SettledAt = time.Now()
	rec.NextAt, rec.HeldSince = time.Time{}, time.Time{}
	rec.PriorState, rec.PriorReason = 0, 0
}

// change reads a record, lets f alter it and commits, again if somebody else was faster (at most 8 times). f says false to leave it.
func (r *Recovery) change(id event.ID, d journal.Durability, f func(*event.Record) (bool, *event.ResourceState)) (event.Record, bool) {
	for range 8 {
		rec, _, err := r.journal.Get(context.Background(), id, false)
		if err != nil {
			r.log.Error("record not read", "id", id.String(), "error", err)
			return event.Record{}, false
		}
		ok, cursor := f(&rec)
		if !ok {
			return rec, false
		}
		out, err := r.journal.Commit(context.Background(), []journal.Transition{{Record: rec, Cursor: cursor}}, d)
		if err != nil {
			r.log.Error("record not written", "id", id.String(), "error", err)
			return rec, false
		}
		if out[0].Applied {
			return out[0].Record, true
		}
	}
	return event.Record{}, false
}

// sender is a request that waits for what becomes of its event.
type sender struct {
	mu   sync.Mutex
	gone bool          // answered meanwhile: nobody listens
	kept bool          // it waits for the outcome, however long that takes
	ch   chan *Handled // capacity 1
	down chan struct{} // capacity 1: nothing is sent for a while
	out  chan struct{} // capacity 1: its event has left the lane, and goes on without it
}

func newSender() *sender {
	return &sender{ch: make(chan *Handled, 1), down: make(chan struct{}, 1), out: make(chan struct{}, 1)}
}

// answer hands over the outcome; false if the request has gone.
func (w *sender) answer(h Handled) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	w.gone = true
	w.ch <- &h
	return true
}

// letGo is called when the breaker has opened.
func (u *upstream) letGo() {
	u.mu.Lock()
	sources := slices.Clone(u.sources)
	u.mu.Unlock()
	for _, s := range sources {
		s.letGo()
	}
}

// letGo tells those who wait in lanes that they wait in vain. Who comes later asks standsStill.
func (s *Source) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		for _, e := range l.Entries() {
			if w, _ := e.Owner.(*sender); w != nil {
				signal(w.down)
			}
		}
	}
}

// standsStill says whether nothing is sent for a while, or the gateway is about to go.
func (s *Source) standsStill(c *compiled) bool {
	return s.paused.Load() || c.up.isOpen() || s.r.leaving.Load()
}

// leave says that the request is answered otherwise; false if an outcome has come meanwhile, or is sure to come (in ch).
func (w *sender) leave() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || w.kept {
		return false
	}
	w.gone = true
	return true
}

// stay keeps the request until the outcome comes, which the caller sees to; false if it has gone.
func (w *sender) stay() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = !w.gone
	return w.kept
}

// listening says whether the request still waits.
func (w *sender) listening() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone
}
