package embedded

import (
	"context"
	"errors"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// clean carries forward what is still needed of the oldest segment, at most limit items a call, and deletes the segment
// when nothing is.
func (e *Engine) clean(ctx context.Context, now int64, limit int) (int, error) {
	old, next := e.wal.oldest()
	if old == nil || next.created > now-int64(e.retention.Load().Payload) {
		return 0, nil
	}
	s := &e.sweeper
	if s.cleaning != old.number {
		s.cleaning, s.cleanAt, s.cleanLSN = old.number, segmentHeadSize, old.firstLSN
	}
	c := cleaner{e: e, segment: old, end: next.firstLSN}
	for window := int64(cleanWindow); ; window *= 4 { // a frame may be larger than what is read at first
		data, err := old.window(s.cleanAt, window)
		if err != nil {
			return 0, e.fail(err)
		}
		c.scan = old.scanner(data, 0, s.cleanLSN)
		c.scan.base = s.cleanAt
		c.cut = s.cleanAt+int64(len(data)) < old.size
		if err := c.collect(ctx, limit); err != nil {
			return 0, err
		}
		if c.scan.lsn > s.cleanLSN || !c.cut || c.scan.lsn == c.end {
			break
		}
	}
	if len(c.found) > 0 {
		c.now = now
		if err := e.call(ctx, journal.Synced, c.write); err != nil {
			return 0, err
		}
	}
	s.cleanAt, s.cleanLSN = s.cleanAt+int64(c.scan.at), c.scan.lsn
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

// nextEvent is the number of the next event that is accepted.
func (e *Engine) nextEvent() event.Seq {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.nextSeq
}

// A cleaner looks at the frames of a segment for what has its home there and is still needed.
type cleaner struct {
	e       *Engine
	segment *segment
	scan    *scanner
	end     uint64
	cut     bool // the segment goes on behind what was read
	now     int64
	n       int
	found   []func(*writer) error
}

// cleanWindow is how much of a segment is read at once.
const cleanWindow = 1 << 20

// errScan: a frame that was whole once is not any more.
var errScan = errors.New("a frame does not match its checksum")

func (c *cleaner) collect(ctx context.Context, limit int) error {
	for c.scan.lsn < c.end && c.n < limit {
		f, _, ok := c.scan.next()
		if !ok && c.cut {
			return nil // the next window begins here
		}
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
	defer w.at(c.now)() // a segment that begins with what is carried is not old itself
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
	p := parts{keys: it.keys, claimed: it.claimed, record: it.body, front: it.front, marker: it.marker}
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
