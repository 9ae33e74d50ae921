package embedded

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/journal"
)

// syncs is where ops wait for the disk. The syncer takes what has been written so far, syncs once and releases everybody
// whose frames it covered; meanwhile the writer goes on. The next fsync begins when the last one has returned and somebody
// waits; where many share one, it waits for as many again (see gather), so that an idle journal adds no latency and a busy one
// spends its time on events.
type syncs struct {
	synced atomic.Uint64 // frames up to here are on disk

	mu      sync.Mutex
	written uint64 // frames up to here are written
	waiting []*op
	shared  int   // ops that the last fsync released
	behind  bool  // somebody waits for frames that are published and not counted as written yet
	err     error // no op waits any more

	ledger sync.Mutex
	wake   chan struct{}

	count, nanos atomic.Int64
}

// release ends an op with an error, nil for success. It does not block.
func (o *op) release(err error) {
	if o.err == nil {
		o.err = err
	}
	o.done <- struct{}{}
}

// release ends the ops of a written group, or hands them to the syncer.
func (e *Engine) release(ops []*op) {
	s := &e.syncs
	s.mu.Lock()
	s.written = max(s.written, e.wal.lsn)
	wake := s.behind
	s.behind = false
	synced := s.synced.Load()
	for _, o := range ops {
		switch {
		case s.err != nil: // the syncer failed meanwhile: no success after that
			o.err = nil
			o.release(s.err)
		case o.err == nil && o.durability == journal.Synced && e.opts.Sync && o.wait > synced:
			s.waiting = append(s.waiting, o)
			wake = true
		default:
			o.release(nil)
		}
	}
	s.mu.Unlock()
	if wake {
		s.signal()
	}
}

func (s *syncs) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
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

// syncLoop syncs while somebody waits, until stop is closed; then once more for what was only written.
func (e *Engine) syncLoop(stop <-chan struct{}) {
	for {
		select {
		case <-e.syncs.wake:
			e.syncs.gather(stop)
			e.syncOnce(false)
		case <-stop:
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
		s.behind = len(s.waiting) > 0 // release says when to look again
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
	if lsn > s.synced.Load() {
		state := e.ledger.state
		state.synced, state.newest = lsn, e.wal.active().number
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
	if len(rest) > 0 {
		s.signal()
	}
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
		s.signal()
	}
	s.mu.Unlock()
	<-o.done
	return o.err
}
