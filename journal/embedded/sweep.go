package embedded

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// sweeper is what Sweep remembers between calls; all of it can be lost.
type sweeper struct {
	mu  sync.Mutex // one Sweep at a time
	low event.Seq  // no event below is left

	// What a walk over the events before walked has left there is not due before again (Unix nanoseconds), by this retention: the next begins at
	// walked. Events that are gone leave deletions in the index, and to step over these again in each sweep, for one old event that is
	// still pending, would cost more than all else.
	walked event.Seq
	again  int64
	by     *journal.Retention

	cleaning uint64 // number of the segment that is being cleaned; 0 = none
	cleanAt  int64  // where its cleaning goes on
	cleanLSN uint64
}

// Sweep implements journal.Journal. Payloads are not taken away one by one: a horizon is written, and whatever ended before
// it has none. Records and markers go one by one, found by walking over what is old enough. Then the oldest segment of the
// log goes, if everything in it is older than payloads are kept: what is still needed is carried forward first.
func (e *Engine) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, e.usable(ctx)
	}
	at := e.clock.of(now) // before anything that takes a while: the clock may be set meanwhile
	e.sweeper.mu.Lock()
	defer e.sweeper.mu.Unlock()
	if err := e.settle(ctx); err != nil {
		return 0, err
	}
	if err := e.stamp(at); err != nil {
		return 0, err
	}
	if err := e.moveHorizon(ctx, at-int64(e.retention.Load().Payload)); err != nil {
		return 0, err
	}
	due, err := e.findDue(ctx, at, limit)
	if err != nil {
		return 0, err
	}
	s := &e.sweeper
	s.again = 0 // until what was found is written
	if due.n > 0 {
		if err := e.call(ctx, journal.Written, due.write); err != nil {
			return 0, err
		}
	}
	if !due.missed {
		s.walked, s.again, s.by = due.walked, due.again, due.by
	}
	if err := e.ageSegment(ctx, at); err != nil {
		return due.n, err
	}
	carried := 0
	if due.n < limit {
		if carried, err = e.clean(ctx, at, limit-due.n); err != nil {
			return due.n, err
		}
	}
	return due.n + carried, nil
}

// stamp notes the clocks in the ledger now and then, also while nothing is written.
func (e *Engine) stamp(now int64) error {
	e.syncs.ledger.Lock()
	defer e.syncs.ledger.Unlock()
	if now-e.ledger.state.journal < stampEvery {
		return nil
	}
	state := e.ledger.state
	state.mark = e.clock.mark()
	if err := e.ledger.write(state); err != nil {
		return e.fail(err)
	}
	return nil
}

const stampEvery = int64(10 * time.Minute)

// moveHorizon takes the payloads of everything that ended at or before to.
func (e *Engine) moveHorizon(ctx context.Context, to int64) error {
	e.mu.RLock()
	now := e.horizon
	e.mu.RUnlock()
	if to <= now {
		return nil
	}
	p := parts{time: to}
	body := appendSection(nil, secTime, binary.LittleEndian.AppendUint64(nil, uint64(to)))
	return e.call(ctx, journal.Written, func(w *writer) error {
		return w.emit(&frame{kind: kindHorizon, body: body, bodySum: checksum(body)}, &p, nil)
	})
}

// ageSegment begins a new segment if the active one has been written to for long: what it holds can only go once it is not
// active any more.
func (e *Engine) ageSegment(ctx context.Context, now int64) error {
	if e.space.indexPaused.Load() || e.wal.active().created > now-max(int64(e.retention.Load().Payload/8), int64(minSegmentAge)) {
		return nil
	}
	return e.call(ctx, journal.Written, func(w *writer) error {
		if w.e.wal.offset == segmentHeadSize {
			return nil
		}
		defer w.at(now)()
		return w.rotate()
	})
}

// at sets the writer's clock to a later time until the function it returns is called.
func (w *writer) at(now int64) (reset func()) {
	before := w.now
	w.now = max(w.now, now)
	return func() { w.now = before }
}

// minSegmentAge bounds how often a quiet journal begins a new segment.
const minSegmentAge = 10 * time.Minute

// due are the events whose time has come, as a walk over a snapshot found them.
type due struct {
	now    int64
	n      int
	expire []*item           // dead letters past their retention: they become failed/expired
	shrink map[group][]*item // the record goes, the marker stays
	remove map[group][]*item // all goes

	walked, stop event.Seq // see sweeper; stop is the first event that will be due soon: a walk does not pass it for good. 0 = none
	again, soon  int64
	by           *journal.Retention
	missed       bool // something had changed meanwhile, and was left
}

// A walk is begun anew after a part of the shortest retention; what is due within a part of that is waited for.
const (
	walkAnew = 16
	walkSoon = 32
)

// later notes that an event is not due before a time.
func (d *due) later(it *item, at int64) {
	if at > d.soon {
		d.again = min(d.again, at)
	} else if d.stop == 0 {
		d.stop = it.id.Seq()
	}
}

// group is what the records of one forget frame have in common, for the counters; the zero group is of markers.
type group struct {
	source string
	state  stateReason
}

func groupOf(it *item) group {
	if it.marker {
		return group{}
	}
	v, _ := viewBody(it.body)
	return group{string(v.source), stateReason{it.state, it.reason}}
}

// findDue walks over the events that are old enough for anything to be due, or goes on where the last walk ended because it had found as many as it may: from
// the oldest event that is left it is a long way over those that are gone.
func (e *Engine) findDue(ctx context.Context, now int64, limit int) (*due, error) {
	d := &due{now: now, shrink: map[group][]*item{}, remove: map[group][]*item{}}
	v, err := e.view()
	if err != nil {
		return nil, err
	}
	defer v.release()
	r, s := e.retention.Load(), &e.sweeper
	shortest := int64(min(r.Dedup, r.Record, r.DeadLetter))
	young := now - shortest
	d.walked, d.again, d.by, d.soon = s.walked, s.again, r, now+shortest/walkAnew/walkSoon
	anew := now >= s.again || s.by != r
	if anew {
		d.walked, d.again = s.low, now+shortest/walkAnew
	}
	records := v.snap.walk([]byte{prefixRecord}, false)
	defer records.Close()
walk:
	for records.Seek(leafKey(leafOf(d.walked))); records.Valid() && d.n < limit; records.Next() {
		var l leaf // the items keep its memory
		if err := l.decodeEntry(v.snap, records.Item()); err != nil {
			return nil, e.indexError(err)
		}
		for i := 0; i < l.n && d.n < limit; i++ {
			seq := l.seq(i)
			if seq < d.walked {
				continue
			}
			it, err := decodeRecordOf(seq, l.records[i])
			if err != nil {
				return nil, e.indexError(err)
			}
			if anew {
				s.low, anew = seq, false
				e.index.lowBlock.Store(blockOf(s.low))
			}
			if it.receivedAt() > young {
				break walk
			}
			d.add(it, r)
			d.walked = seq + 1
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if d.stop != 0 {
		d.walked = d.stop
	}
	return d, nil
}

// add judges one event, from stored times only.
func (d *due) add(it *item, r *journal.Retention) {
	forgotten := it.receivedAt() <= d.now-int64(r.Dedup)
	switch {
	case it.marker:
		if !forgotten {
			d.later(it, it.receivedAt()+int64(r.Dedup))
			return
		}
		d.remove[groupOf(it)] = append(d.remove[groupOf(it)], it)
	case it.state == event.Pending:
		return
	case it.deadLetter():
		if it.endedAt() > d.now-int64(r.DeadLetter) {
			d.later(it, it.endedAt()+int64(r.DeadLetter))
			return
		}
		d.expire = append(d.expire, it)
	case it.endedAt() > d.now-int64(r.Record):
		d.later(it, it.endedAt()+int64(r.Record))
		return
	case forgotten:
		d.remove[groupOf(it)] = append(d.remove[groupOf(it)], it)
	case it.state == event.Failed: // whole as long as its sender may send it again
		d.later(it, it.receivedAt()+int64(r.Dedup))
		return
	default:
		d.later(it, it.receivedAt()+int64(r.Dedup)) // its marker
		d.shrink[groupOf(it)] = append(d.shrink[groupOf(it)], it)
	}
	d.n++
}

// write puts into the log what was found, except events that somebody changed meanwhile.
func (d *due) write(w *writer) error {
	for _, it := range d.expire {
		done, err := w.expire(it, d.now)
		if err != nil {
			return err
		}
		d.missed = d.missed || !done
	}
	for g, its := range d.shrink {
		if err := d.forget(w, kindShrink, g, its); err != nil {
			return err
		}
	}
	for g, its := range d.remove {
		if err := d.forget(w, kindRemove, g, its); err != nil {
			return err
		}
	}
	return nil
}

// same says whether the event is still as it was found.
func (w *writer) same(found *item) (bool, error) {
	it, err := w.item(found.id.Seq())
	return it != nil && !it.removed && it.rev == found.rev && it.marker == found.marker, err
}

// expire makes a dead letter failed/expired, without payload; its record ages from now on.
func (w *writer) expire(found *item, now int64) (done bool, err error) {
	old, err := w.item(found.id.Seq())
	if err != nil || old == nil || old.removed || old.marker || old.rev != found.rev {
		return false, err
	}
	r, err := old.record(w.horizon)
	if err != nil {
		return false, err
	}
	from := stateReason{old.state, old.reason}
	r.Reason, r.SettledAt, r.NextAt = event.Expired, fromNanos(now+w.e.clock.shift.Load()), time.Time{}
	p := bodyPlan{}
	body := p.record(nil, &r)
	p.to = len(body)
	f := frame{
		kind: kindCommit, id: old.id, prevState: from.state, prevReason: from.reason,
		dups: old.dups, conflicts: old.conflicts,
	}
	var x parts
	p.cut(body, &r, &f, &x)
	it, err := w.change(&f, &x, old)
	if err != nil {
		return false, err
	}
	it.fill(&r, w.horizon)
	w.observed = append(w.observed, observed{from, &r})
	return true, nil
}

// forget writes one frame for events of one group.
func (d *due) forget(w *writer, k kind, g group, found []*item) error {
	var p parts
	for _, it := range found {
		ok, err := w.same(it)
		if err != nil {
			return err
		}
		if !ok {
			d.missed = true
			continue
		}
		p.seqs = append(p.seqs, it.id.Seq())
		p.time = max(p.time, it.receivedAt()+1)
	}
	if len(p.seqs) == 0 {
		return nil
	}
	p.metaKey = g.source
	body := appendSection(nil, secMetaKey, []byte(g.source))
	body = appendSection(body, secSeqs, appendSeqs(nil, p.seqs))
	if k == kindRemove { // what was received before it may be missing from now on
		body = appendSection(body, secTime, binary.LittleEndian.AppendUint64(nil, uint64(p.time)))
	}
	f := frame{kind: k, prevState: g.state.state, prevReason: g.state.reason, body: body, bodySum: checksum(body)}
	return w.emit(&f, &p, nil)
}

// SetRetention replaces what Options.Retention said (fields that are 0 mean the default); the next Sweep goes by it. What an earlier, shorter
// retention has dropped does not come back.
func (e *Engine) SetRetention(r journal.Retention) {
	r = withDefaultRetention(r)
	e.retention.Store(&r)
}
