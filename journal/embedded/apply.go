package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hooktender/hooktender/journal"
)

// The applier brings the index up to date behind the writer: it freezes the active layer, waits until the disk has the
// frames in it (the index never knows more than the log will after a power cut), writes it out and drops it.
type applier struct {
	armed chan struct{} // the active layer got its first entry
	kick  chan struct{} // do not wait for the interval
	room  chan struct{} // a layer was dropped

	mu      sync.Mutex
	waiting []barrier
}

// A barrier waits until the index has the frames up to lsn.
type barrier struct {
	lsn  uint64
	done chan struct{}
}

func (a *applier) arm()     { signal(a.armed) }
func (a *applier) kickNow() { signal(a.kick) }

// signal wakes the receiver of a channel with room for one value.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// applyLoop runs until stop is closed; then it applies what is left.
func (e *Engine) applyLoop(stop <-chan struct{}) {
	a := &e.applier
	var due <-chan time.Time
	var armed time.Time // when due was set for the first time
	a.arm()             // for what the replay at open left
	for {
		select {
		case <-a.armed:
			if due == nil {
				due, armed = time.After(flushInterval), time.Now()
			}
			continue
		case <-due:
			if e.onlyCounts() && time.Since(armed) < countsInterval {
				due = time.After(flushInterval)
				continue
			}
			if w := e.weight(); e.space.low() && w < flushWeight && !a.awaited() {
				e.space.roomForIndex(e.index, w) // says so if not
				due = time.After(flushInterval)
				continue
			}
		case <-a.kick:
		case <-stop:
			if e.space.roomForIndex(e.index, e.weight()) { // else the next start applies the rest
				e.applyOnce()
			}
			return
		}
		due = nil
		if !e.space.roomForIndex(e.index, e.weight()) {
			due = time.After(spaceEvery)
			continue
		}
		if err := e.applyOnce(); err != nil {
			<-stop
			return
		}
	}
}

// applyOnce writes the active layer to the index. An error is the journal's failure.
func (e *Engine) applyOnce() error {
	if err := e.failure(); err != nil {
		return err
	}
	l, state := e.freeze()
	if l == nil {
		e.wakeBarriers(e.applied())
		return nil
	}
	if err := e.awaitSynced(l.last.lsn); err != nil {
		return err
	}
	if err := errors.Join(e.tendFilter(), e.flush(l, state)); err != nil {
		return e.fail(fmt.Errorf("write the index: %w", err))
	}
	e.wakeBarriers(l.last.lsn)
	signal(e.applier.room)
	return nil
}

// freeze takes the active layer; nil if it is empty. state is the index's note of how far the log is applied with it.
func (e *Engine) freeze() (*layer, []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.active.empty() {
		return nil, nil
	}
	e.frozen, e.active, e.spare = e.active, e.spare, nil
	if e.active == nil {
		e.active = newLayer()
	}
	e.active.last = e.frozen.last
	return e.frozen, e.state(e.frozen.last)
}

// state is the index's note of how far the log is applied; nil while the index is being rebuilt.
func (e *Engine) state(at position) []byte {
	if e.rebuilding {
		return nil
	}
	c := checkpointState{at: at, nextSeq: e.nextSeq, horizon: e.horizon, counts: e.counts, covers: e.covers.Load()}
	return c.encode(nil)
}

// spareItems bounds the layer that is used again: its maps keep their size.
const spareItems = 1 << 14

// flush writes the frozen layer and drops it.
func (e *Engine) flush(l *layer, state []byte) error {
	e.filters.add(l)
	if err := e.index.flush(l, e.snap, state); err != nil { // only this goroutine changes snap
		return err
	}
	snap := e.index.snapshot()
	e.mu.Lock()
	old := e.snap
	e.snap, e.frozen, e.indexed = snap, nil, l.last.lsn
	e.gen.Add(1)
	e.mu.Unlock()
	old.release()
	if len(l.items)+len(l.counts) <= spareItems {
		l.clear()
		e.mu.Lock()
		e.spare = l
		e.mu.Unlock()
	}
	return nil
}

// applied is the number of a frame up to which the index has everything.
func (e *Engine) applied() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	switch {
	case e.frozen != nil:
		return e.frozen.last.lsn - 1
	case e.active.empty():
		return e.active.last.lsn
	}
	return 0
}

// awaited says that somebody waits for the index: a kick may have come while there was no space.
func (a *applier) awaited() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting) > 0
}

func (e *Engine) wakeBarriers(lsn uint64) {
	a := &e.applier
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := a.waiting[:0]
	for _, b := range a.waiting {
		if b.lsn <= lsn {
			close(b.done)
		} else {
			rest = append(rest, b)
		}
	}
	clear(a.waiting[len(rest):])
	a.waiting = rest
	if len(rest) > 0 {
		a.kickNow()
	}
}

// settle waits until the index has everything written so far, notes included.
func (e *Engine) settle(ctx context.Context) error { return e.settleFor(ctx, 0) }

// settleFor waits until the index has the frames up to lsn, without notes; 0 is settle.
func (e *Engine) settleFor(ctx context.Context, lsn uint64) error {
	if err := e.usable(ctx); err != nil {
		return err
	}
	if lsn == 0 && e.hasNotes() {
		if _, err := e.Commit(ctx, nil, journal.Written); err != nil {
			return err
		}
	}
	e.mu.RLock()
	var target uint64
	switch {
	case !e.active.empty():
		target = e.active.last.lsn
	case e.frozen != nil:
		target = e.frozen.last.lsn
	}
	if lsn != 0 {
		target = min(target, lsn)
	}
	there := target <= e.indexed
	e.mu.RUnlock()
	if there {
		return nil
	}
	b := barrier{target, make(chan struct{})}
	a := &e.applier
	a.mu.Lock()
	a.waiting = append(a.waiting, b)
	a.mu.Unlock()
	a.kickNow()
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		if e.space.indexPaused.Load() {
			return fmt.Errorf("the index waits for space: %w: %w", journal.ErrFull, ctx.Err())
		}
		return ctx.Err()
	case <-e.failed:
		return e.failErr
	case <-e.stopped:
		return journal.ErrClosed
	}
}

// onlyCounts says whether the active layer has nothing but counts.
func (e *Engine) onlyCounts() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.active.counts) > 0 && e.active.unchanged()
}

// weight is the overlay's.
func (e *Engine) weight() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	weight := e.active.weight
	if e.frozen != nil {
		weight += e.frozen.weight
	}
	return weight
}

// awaitRoom holds the writer back while the overlay is too heavy.
func (e *Engine) awaitRoom() {
	for limit := e.space.overlay(); e.weight() >= limit; {
		e.space.overfull.Store(e.space.indexPaused.Load())
		e.applier.kickNow()
		select {
		case <-e.applier.room:
		case <-time.After(spaceEvery): // the index may have begun to wait meanwhile
		case <-e.closing:
			return
		case <-e.failed:
			return
		}
	}
	e.space.overfull.Store(false)
}
