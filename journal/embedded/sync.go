package embedded

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/journal"
)

// syncs is where ops wait for the disk. One goroutine at a time leads: it takes what has been written so far, syncs once and releases everybody
// whose frames that covered; meanwhile others write. Who finds nobody leading leads itself, and then the next of those who wait, so that few goroutines
// have to be woken and an idle journal adds no latency. Where many share an fsync the syncer's goroutine leads: it waits for as many again (see gather), so
// that a busy journal spends its time on events.
type syncs struct {
	synced atomic.Uint64 // frames up to here are on disk

	mu       sync.Mutex
	written  uint64 // frames up to here are written
	waiting  []*op
	shared   int   // ops that the last fsync released
	err      error // no op waits any more
	led      bool  // somebody leads; always while ops wait for what is written
	stopping bool  // the syncer's goroutine is the next to lead

	turn   chan struct{} // capacity 1: the lead, for the syncer's goroutine
	wake   chan struct{} // capacity 1: there may be enough for gather
	ledger sync.Mutex

	count, nanos atomic.Int64
}

// release ends an op with an error, nil for success. It does not block.
func (o *op) release(err error) {
	if o.err == nil {
		o.err = err
	}
	o.done <- struct{}{}
}

// end is release by the caller of own, who needs no channel to know that own has ended: then it says so.
func (o *op) end(err error, own *op) (done bool) {
	if o != own {
		o.release(err)
		return false
	}
	if o.err == nil {
		o.err = err
	}
	return true
}

// release ends the ops of a written group, or has them wait for an fsync. It says whether the caller, whose op is own or nil, is to lead that, and whether
// own has ended.
func (e *Engine) release(ops []*op, own *op) (syncs, done bool) {
	s := &e.syncs
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = max(s.written, e.wal.lsn)
	mine := own == nil
	synced := s.synced.Load()
	for _, o := range ops {
		switch {
		case s.err != nil: // an fsync failed meanwhile: no success after that
			o.err = nil
			done = o.end(s.err, own) || done
		case o.err == nil && o.durability == journal.Synced && e.opts.Sync && o.wait > synced:
			s.waiting = append(s.waiting, o)
			mine = mine || o == own
		default:
			done = o.end(nil, own) || done
		}
	}
	switch {
	case s.led:
		signal(s.wake)
	case !s.due():
	case mine:
		s.led = true
		return true, done
	default: // the caller has what it wants
		s.led = true
		s.appoint()
	}
	return false, done
}

// due says whether somebody waits for what is written. The applier may be early: it waits for what is published and not counted as written yet.
func (s *syncs) due() bool {
	return slices.ContainsFunc(s.waiting, func(o *op) bool { return o.wait <= s.written })
}

// appoint gives the lead to one of those who wait, or, where many do, to the syncer's goroutine; or gives it up. mu is held, by who leads.
func (s *syncs) appoint() {
	switch {
	case s.stopping:
	case !s.due():
		s.led = false
		return
	case s.shared < gatherFrom:
		for _, o := range s.waiting {
			if o.leads && o.wait <= s.written {
				o.leads, o.lead = false, true
				o.done <- struct{}{}
				return
			}
		}
	}
	s.turn <- struct{}{}
}

// pass gives the lead to the syncer's goroutine.
func (s *syncs) pass() { s.turn <- struct{}{} }

// leave takes the caller of an op, which has gone, out of those who may lead; if it has the lead already, the syncer's goroutine gets it.
func (s *syncs) leave(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.leads = false
	if o.lead {
		o.lead = false
		s.pass()
	}
}

// leadSync syncs once for a caller that leads, unless many wait, and appoints the next.
func (e *Engine) leadSync() {
	s := &e.syncs
	s.mu.Lock()
	many := s.shared >= gatherFrom
	s.mu.Unlock()
	if many {
		s.pass()
		return
	}
	done := false
	defer func() {
		if !done { // it panics
			_ = e.fail(errPanicked)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.appoint()
	}()
	e.syncOnce(false)
	done = true
}

// abort releases everybody with err, and whoever comes later.
func (s *syncs) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, o := range s.waiting {
		o.release(err)
	}
	s.waiting = nil
}

// syncLoop is the syncer's goroutine: it leads when it is its turn, until stop is closed; then once more for what was only written.
func (e *Engine) syncLoop(stop <-chan struct{}) {
	s := &e.syncs
	for {
		select {
		case <-s.turn:
			s.gather(stop)
			e.syncOnce(false)
			s.mu.Lock()
			s.appoint()
			s.mu.Unlock()
		case <-stop:
			s.mu.Lock()
			s.stopping = true
			led := s.led
			s.led = true
			s.mu.Unlock()
			if led {
				<-s.turn
			}
			e.syncOnce(true)
			return
		}
	}
}

const (
	gatherFrom = 8                    // ops that must have shared the last fsync
	gatherTime = 1 * time.Millisecond // at the most
)

// gather waits, where many ops shared the last fsync, until as many wait for the next one. Whoever sends as soon as it is answered comes
// back in that time; if it does not, the next wait is for fewer.
func (s *syncs) gather(stop <-chan struct{}) {
	var timer *time.Timer
	for {
		s.mu.Lock()
		enough := s.shared < gatherFrom || len(s.waiting) >= s.shared || s.err != nil
		s.mu.Unlock()
		if enough {
			break
		}
		if timer == nil {
			timer = time.NewTimer(gatherTime)
			defer timer.Stop()
		}
		select {
		case <-s.wake:
			continue
		case <-timer.C:
		case <-stop:
		}
		break
	}
}

// syncOnce syncs what is written, if somebody waits or all is set.
func (e *Engine) syncOnce(all bool) {
	s := &e.syncs
	s.mu.Lock()
	target := s.written
	if s.err != nil || target <= s.synced.Load() || !all && len(s.waiting) == 0 {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	start := time.Now()
	err := e.wal.sync()
	took := time.Since(start)
	s.count.Add(1)
	s.nanos.Add(int64(took))
	if synced := e.opts.Synced; synced != nil {
		synced(took)
	}
	if err == nil {
		err = e.reached(target)
	}
	if err != nil {
		e.fail(err)
	}
}

// reached notes that frames up to lsn are on disk and releases who waited for that.
func (e *Engine) reached(lsn uint64) error {
	s := &e.syncs
	s.ledger.Lock()
	active := e.wal.active()
	lsn = max(lsn, active.firstLSN-1) // a segment begins after the one before is whole on disk; the ledger must not name it and know less
	if lsn > s.synced.Load() {
		state := e.ledger.state
		state.synced, state.newest = lsn, active.number
		state.next, state.mark = e.nextEvent(), e.clock.mark()
		if err := e.ledger.write(state); err != nil {
			s.ledger.Unlock()
			return err
		}
		s.synced.Store(lsn)
	}
	s.ledger.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	rest := s.waiting[:0]
	for _, o := range s.waiting {
		if o.wait <= lsn {
			o.release(nil)
		} else {
			rest = append(rest, o)
		}
	}
	s.shared = len(s.waiting) - len(rest)
	clear(s.waiting[len(rest):])
	s.waiting = rest
	return nil
}

// awaitSynced waits until the frames up to lsn are on disk; the error is the journal's failure.
func (e *Engine) awaitSynced(lsn uint64) error {
	s := &e.syncs
	if s.synced.Load() >= lsn {
		return e.failure()
	}
	o := &op{wait: lsn, done: make(chan struct{}, 1)}
	s.mu.Lock()
	switch {
	case s.err != nil:
		o.release(s.err)
	case s.synced.Load() >= lsn:
		o.release(nil)
	default:
		s.waiting = append(s.waiting, o)
		switch {
		case s.led:
			signal(s.wake)
		case s.due(): // else release sees to it
			s.led = true
			s.pass()
		}
	}
	s.mu.Unlock()
	<-o.done
	return o.err
}
