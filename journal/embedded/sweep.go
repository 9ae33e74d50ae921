package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// sweeper is what Sweep remembers between calls; all of it can be lost.
type sweeper struct {
	mu  sync.Mutex // one Sweep at a time
	low event.Seq  // no event below is left

	cleaning uint64 // number of the segment that is being cleaned; 0 = none
	cleanAt  int    // where its cleaning goes on
	cleanLSN uint64
}

// Sweep implements journal.Journal. Payloads are not taken away one by one: a horizon is written, and whatever ended before
// it has none. Records and markers go one by one, found by walking over what is old enough. Then the oldest segment of the
// log goes, if everything in it is older than payloads are kept: what is still needed is carried forward first.
func (e *Engine) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, e.usable(ctx)
	}
	e.sweeper.mu.Lock()
	defer e.sweeper.mu.Unlock()
	if err := e.settle(ctx); err != nil {
		return 0, err
	}
	at := nanos(now)
	if err := e.moveHorizon(ctx, at-int64(e.opts.Retention.Payload)); err != nil {
		return 0, err
	}
	due, err := e.findDue(ctx, at, limit)
	if err != nil {
		return 0, err
	}
	if due.n > 0 {
		if err := e.call(ctx, journal.Written, due.write); err != nil {
			return 0, err
		}
	}
	carried := 0
	if due.n < limit {
		if carried, err = e.clean(ctx, at, limit-due.n); err != nil {
			return due.n, err
		}
	}
	return due.n + carried, nil
}

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

// due are the events whose time has come, as a walk over a snapshot found them.
type due struct {
	now    int64
	n      int
	expire []*item           // dead letters past their retention: they become failed/expired
	shrink map[group][]*item // the record goes, the marker stays
	remove map[group][]*item // all goes
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

// findDue walks over the events that are old enough for anything to be due.
func (e *Engine) findDue(ctx context.Context, now int64, limit int) (*due, error) {
	d := &due{now: now, shrink: map[group][]*item{}, remove: map[group][]*item{}}
	v, err := e.view()
	if err != nil {
		return nil, err
	}
	defer v.release()
	r := &e.opts.Retention
	young := now - int64(min(r.Dedup, r.Record, r.DeadLetter))
	walk := v.snap.walk([]byte{prefixRecord}, false)
	defer walk.Close()
	first := true
	for walk.Seek(recordKey(e.sweeper.low)); walk.Valid() && d.n < limit; walk.Next() {
		value, err := walk.Item().ValueCopy(nil)
		if err != nil {
			return nil, e.indexError(err)
		}
		it, err := decodeItem(value)
		if err != nil {
			return nil, e.indexError(err)
		}
		if first {
			e.sweeper.low, first = it.id.Seq(), false
		}
		if it.received > young {
			break
		}
		d.add(it, r)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// add judges one event, from stored times only.
func (d *due) add(it *item, r *journal.Retention) {
	forgotten := it.received <= d.now-int64(r.Dedup)
	switch {
	case it.marker:
		if !forgotten {
			return
		}
		d.remove[groupOf(it)] = append(d.remove[groupOf(it)], it)
	case it.state == event.Pending:
		return
	case it.deadLetter():
		if it.endedAt() > d.now-int64(r.DeadLetter) {
			return
		}
		d.expire = append(d.expire, it)
	case it.endedAt() > d.now-int64(r.Record):
		return
	case forgotten:
		d.remove[groupOf(it)] = append(d.remove[groupOf(it)], it)
	default:
		d.shrink[groupOf(it)] = append(d.shrink[groupOf(it)], it)
	}
	d.n++
}

// write puts into the log what was found, except events that somebody changed meanwhile.
func (d *due) write(w *writer) error {
	for _, it := range d.expire {
		if err := w.expire(it, d.now); err != nil {
			return err
		}
	}
	for g, its := range d.shrink {
		if err := w.forget(kindShrink, g, its); err != nil {
			return err
		}
	}
	for g, its := range d.remove {
		if err := w.forget(kindRemove, g, its); err != nil {
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
func (w *writer) expire(found *item, now int64) error {
	old, err := w.item(found.id.Seq())
	if err != nil || old == nil || old.removed || old.marker || old.rev != found.rev {
		return err
	}
	r, err := old.record(w.horizon)
	if err != nil {
		return err
	}
	from := stateReason{old.state, old.reason}
	r.Reason, r.SettledAt, r.NextAt = event.Expired, fromNanos(now), time.Time{}
	p := bodyPlan{}
	body := p.record(nil, &r)
	p.to = len(body)
	f := frame{
		kind: kindCommit, id: old.id, rev: old.rev + 1, prevState: from.state, prevReason: from.reason,
		dups: old.dups, conflicts: old.conflicts,
	}
	var x parts
	p.cut(body, &f, &x)
	if err := w.emit(&f, &x, old); err != nil {
		return err
	}
	w.stage.items[old.id.Seq()].fill(&r, w.horizon)
	w.observed = append(w.observed, observed{from, &r})
	return nil
}

// forget writes one frame for events of one group.
func (w *writer) forget(k kind, g group, found []*item) error {
	var p parts
	for _, it := range found {
		ok, err := w.same(it)
		if err != nil {
			return err
		}
		if ok {
			p.seqs = append(p.seqs, it.id.Seq())
		}
	}
	if len(p.seqs) == 0 {
		return nil
	}
	p.metaKey = g.source
	body := appendSection(nil, secMetaKey, []byte(g.source))
	body = appendSection(body, secSeqs, appendSeqs(nil, p.seqs))
	f := frame{kind: k, prevState: g.state.state, prevReason: g.state.reason, body: body, bodySum: checksum(body)}
	return w.emit(&f, &p, nil)
}

// clean carries forward what is still needed of the oldest segment, at most limit items a call, and deletes the segment
// when nothing is.
func (e *Engine) clean(ctx context.Context, now int64, limit int) (int, error) {
	old, next := e.wal.oldest()
	if old == nil || next.created > now-int64(e.opts.Retention.Payload) {
		return 0, nil
	}
	s := &e.sweeper
	if s.cleaning != old.number {
		s.cleaning, s.cleanAt, s.cleanLSN = old.number, segmentHeadSize, old.firstLSN
	}
	data, err := old.load(nil)
	if err != nil {
		return 0, err
	}
	c := cleaner{e: e, segment: old, scan: newScanner(data, old.generation, s.cleanAt, s.cleanLSN), end: next.firstLSN}
	if err := c.collect(ctx, limit); err != nil {
		return 0, err
	}
	if len(c.found) > 0 {
		if err := e.call(ctx, journal.Synced, c.write); err != nil {
			return 0, err
		}
	}
	s.cleanAt, s.cleanLSN = c.scan.at, c.scan.lsn
	if c.scan.lsn < c.end {
		return max(c.n, limit), nil // there is more to do
	}
	if err := e.drop(ctx, old); err != nil {
		return c.n, err
	}
	s.cleaning = 0
	return max(c.n, limit), nil // look at the next segment
}

// drop deletes the oldest segment: what replaces it is on disk first, and in the index, and the ledger knows.
func (e *Engine) drop(ctx context.Context, s *segment) error {
	if _, err := e.Commit(ctx, nil, journal.Synced); err != nil {
		return err
	}
	if err := e.settle(ctx); err != nil {
		return err
	}
	if err := e.awaitSynced(e.published()); err != nil {
		return err
	}
	e.syncs.ledger.Lock()
	defer e.syncs.ledger.Unlock()
	state := e.ledger.state
	state.lowest = s.number + 1
	err := e.ledger.write(state)
	if err == nil {
		err = e.ledger.file.Sync()
	}
	if err == nil {
		err = e.wal.dropOldest()
	}
	if err != nil {
		return e.fail(err)
	}
	return nil
}

// published is the number of the last frame that readers see.
func (e *Engine) published() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.active.last.lsn
}

// A cleaner looks at the frames of a segment for what has its home there and is still needed.
type cleaner struct {
	e       *Engine
	segment *segment
	scan    *scanner
	end     uint64
	n       int
	found   []func(*writer) error
}

// errScan: a frame that was whole once is not any more.
var errScan = errors.New("a frame does not match its checksum")

func (c *cleaner) collect(ctx context.Context, limit int) error {
	for c.scan.lsn < c.end && c.n < limit {
		f, _, ok := c.scan.next()
		var p parts
		if ok {
			p, ok = parseParts(f.body)
		}
		if !ok {
			return c.e.fail(damaged(c.segment.path, errScan.Error()))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.kind == kindAccept || f.kind == kindCarry {
			c.add(func(w *writer) error { return w.carry(f.id, c.segment.number) })
		}
		if p.resource != nil {
			key := p.resource.ResourceKey
			c.add(func(w *writer) error { return w.carryResource(key, c.segment.number) })
		}
		if f.kind == kindMeta {
			c.add(func(w *writer) error { return w.carryMeta(p.metaKey, c.segment.number) })
		}
	}
	return nil
}

func (c *cleaner) add(fn func(*writer) error) {
	c.n++
	c.found = append(c.found, fn)
}

func (c *cleaner) write(w *writer) error {
	for _, fn := range c.found {
		if err := fn(w); err != nil {
			return err
		}
	}
	return nil
}

// carry writes an event again, whole, if its home is the segment that goes.
func (w *writer) carry(id event.ID, home uint64) error {
	it, err := w.item(id.Seq())
	if err != nil || it == nil || it.removed || it.id != id || it.base != home {
		return err
	}
	f := frame{kind: kindCarry, id: it.id, rev: it.rev, dups: it.dups, conflicts: it.conflicts}
	p := parts{keys: it.keys, claimed: it.claimed, record: it.body, marker: it.marker}
	b := appendSection(nil, secRecord, it.body)
	b = appendKeySection(b, secKeys, it.keys[:it.claimed])
	b = appendKeySection(b, secAliases, it.keys[it.claimed:])
	if it.marker {
		b = appendSection(b, secMarker, nil)
	} else {
		if p.attempts, err = w.e.attempts(it); err != nil {
			return err
		}
		for _, a := range p.attempts {
			b = appendSection(b, secAttempt, a)
		}
	}
	if it.payloadKept(w.horizon) {
		payload, err := w.e.wal.read(it.payload.segment, it.payload.offset-4, it.payload.size+4)
		if err != nil {
			return err
		}
		// Bytes that are damaged already are carried as they are, with their checksum: a read tells.
		p.payloadAt, p.payload = len(b)+5, payload
		b = appendSection(b, secPayload, payload)
		f.flags |= flagPayload
	}
	f.body, f.bodySum = b, checksum(b)
	return w.emit(&f, &p, it)
}

func (w *writer) carryResource(k event.ResourceKey, home uint64) error {
	r, ok := w.stage.resources[k]
	if !ok {
		var err error
		if r, err = w.e.resource(k); err != nil {
			return err
		}
	}
	if r.segment != home {
		return nil
	}
	b := appendResourceSection(nil, &r.state)
	return w.emit(&frame{kind: kindCursor, body: b, bodySum: checksum(b)}, &parts{resource: &r.state}, nil)
}

func (w *writer) carryMeta(key string, home uint64) error {
	m, ok := w.stage.metas[key]
	if !ok {
		var err error
		if m, err = w.e.meta(key); err != nil {
			return err
		}
	}
	if m.value == nil || m.segment != home {
		return nil
	}
	b := appendSection(nil, secMetaKey, []byte(key))
	b = appendSection(b, secMetaValue, m.value)
	return w.emit(&frame{kind: kindMeta, body: b, bodySum: checksum(b)}, &parts{metaKey: key, metaValue: m.value}, nil)
}
