package embedded

import (
	"context"
	"fmt"
	"slices"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Accept implements journal.Journal.
func (e *Engine) Accept(ctx context.Context, evs []journal.Accept, d journal.Durability) ([]journal.Verdict, error) {
	if len(evs) == 0 {
		return nil, e.usable(ctx)
	}
	if e.space.refusing() {
		return nil, journal.ErrFull
	}
	o := e.newOp(d)
	if err := e.prepareAccepts(o, evs); err != nil {
		return nil, err
	}
	abandoned, err := e.submit(ctx, o)
	if abandoned {
		return nil, err
	}
	defer e.free(o)
	if err != nil {
		return nil, err
	}
	return o.verdicts, nil
}

// prepareAccepts encodes the events and looks their keys up in the index.
func (e *Engine) prepareAccepts(o *op, evs []journal.Accept) error {
	var single [1]bodyPlan
	plans := single[:0]
	for i := range evs {
		ev := &evs[i]
		if len(ev.Keys) > maxKeys || len(ev.Aliases) > 255-maxKeys {
			return fmt.Errorf("an event with %d keys and %d aliases", len(ev.Keys), len(ev.Aliases))
		}
		p := bodyPlan{from: len(o.buf)}
		o.buf = p.record(o.buf, &ev.Record)
		o.buf = appendKeySection(o.buf, secKeys, ev.Keys)
		o.buf = appendKeySection(o.buf, secAliases, ev.Aliases)
		o.buf = appendResourceSection(o.buf, ev.Cursor)
		o.buf = p.payload(o.buf, ev.Payload)
		p.to = len(o.buf)
		plans = append(plans, p)
	}
	o.verdicts = make([]journal.Verdict, len(evs))
	gen := e.gen.Load()                                     // before the look-ups: what they do not see, the index may learn with the next
	o.accepts = slices.Grow(o.accepts, len(evs))[:len(evs)] // all zero
	for i := range evs {
		ev, a := &evs[i], &o.accepts[i]
		a.received, a.gen, a.verdict = nanos(ev.Record.ReceivedAt), gen, &o.verdicts[i]
		copyRecord(&a.verdict.Record, &ev.Record)
		at := len(o.keys)
		o.keys = append(append(o.keys, ev.Keys...), ev.Aliases...)
		a.parts.keys = o.keys[at:len(o.keys):len(o.keys)]
		a.parts.claimed = uint8(len(ev.Keys))
		if ev.Cursor != nil {
			c := *ev.Cursor
			a.parts.resource = &c
		}
		plans[i].cut(o.buf, &ev.Record, &a.frame, &a.parts)
		for k, key := range ev.Keys {
			var err error
			if a.owners[k], err = e.indexedOwner(key); err != nil {
				return e.indexError(err)
			}
		}
	}
	return nil
}

// copyRecord copies a record and what it points to.
func copyRecord(to, from *event.Record) {
	*to = *from
	if from.Resolution != nil {
		x := *from.Resolution
		to.Resolution = &x
	}
}

// Commit implements journal.Journal.
func (e *Engine) Commit(ctx context.Context, ts []journal.Transition, d journal.Durability) ([]journal.Outcome, error) {
	o := e.newOp(d)
	if err := e.prepareCommits(o, ts); err != nil {
		return nil, err
	}
	abandoned, err := e.submit(ctx, o)
	if abandoned {
		return nil, err
	}
	defer e.free(o)
	if err != nil {
		return nil, err
	}
	return o.outcomes, nil
}

func (e *Engine) prepareCommits(o *op, ts []journal.Transition) error {
	var single [1]bodyPlan
	plans := single[:0]
	for i := range ts {
		t := &ts[i]
		p := bodyPlan{from: len(o.buf)}
		o.buf = p.record(o.buf, &t.Record)
		o.buf = p.attempt(o.buf, t.Attempt)
		o.buf = appendResourceSection(o.buf, t.Cursor)
		o.buf = p.payload(o.buf, t.Payload)
		p.to = len(o.buf)
		plans = append(plans, p)
	}
	if len(ts) > 0 {
		o.outcomes = make([]journal.Outcome, len(ts))
	}
	o.commits = slices.Grow(o.commits, len(ts))[:len(ts)] // all zero
	for i := range ts {
		t, c := &ts[i], &o.commits[i]
		c.outcome, c.parts.attempts = &o.outcomes[i], c.attempt[:0]
		copyRecord(&c.outcome.Record, &t.Record)
		if t.Cursor != nil {
			x := *t.Cursor
			c.parts.resource = &x
		}
		plans[i].cut(o.buf, &t.Record, &c.frame, &c.parts)
		if err := e.prefetch(c); err != nil {
			return err
		}
	}
	return nil
}

// prefetch finds the event of a transition, so that the writer need not if nothing has changed by then.
func (e *Engine) prefetch(c *commitItem) error {
	seq := c.outcome.Record.ID.Seq()
	e.mu.RLock()
	if c.found, _ = e.overlaid(seq); c.found != nil {
		c.gen = e.gen.Load()
		e.mu.RUnlock()
		return nil
	}
	v, err := e.viewLocked()
	e.mu.RUnlock()
	if err != nil {
		return err
	}
	defer v.release()
	c.gen = v.gen
	if x := e.recent[seq%event.Seq(len(e.recent))].Load(); x != nil && x.gen == c.gen && x.item.id.Seq() == seq {
		c.found = x.item
		return nil
	}
	if c.found, err = v.snap.item(seq); err != nil {
		return e.fail(fmt.Errorf("read the index: %w", err))
	}
	return nil
}

// SetCursor implements journal.Journal.
func (e *Engine) SetCursor(ctx context.Context, st event.ResourceState, d journal.Durability) error {
	body := appendResourceSection(nil, &st)
	return e.call(ctx, d, func(w *writer) error {
		return w.emit(&frame{kind: kindCursor, body: body, bodySum: checksum(body)}, &parts{resource: &st}, nil)
	})
}

// MetaPut implements journal.Journal.
func (e *Engine) MetaPut(ctx context.Context, key string, value []byte, d journal.Durability) error {
	if len(value) > maxMeta || len(key) > maxMeta/2 {
		return fmt.Errorf("meta value %q: %d bytes are too many", key, len(value))
	}
	p := parts{metaKey: key}
	body := appendSection(nil, secMetaKey, []byte(key))
	if value != nil {
		p.metaValue = append([]byte{}, value...)
		body = appendSection(body, secMetaValue, value)
	}
	return e.call(ctx, d, func(w *writer) error {
		return w.emit(&frame{kind: kindMeta, body: body, bodySum: checksum(body)}, &p, nil)
	})
}
