package embedded

import (
	"context"
	"math"
	"slices"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Checkpoint implements journal.Journal.
func (e *Engine) Checkpoint(ctx context.Context, source string) (journal.Checkpoint, error) {
	cp := journal.Checkpoint{Source: source}
	if err := e.settle(ctx); err != nil {
		return cp, err
	}
	e.mu.RLock()
	v, err := e.viewLocked()
	var last, lastDelivered event.Seq
	if c := e.counts[source]; c != nil {
		last, lastDelivered = c.last, c.lastDelivered
		for _, x := range c.n {
			r := event.Record{State: x.state, Reason: x.reason}
			switch {
			case x.state == event.Pending:
				cp.Pending += x.n
			case r.DeadLetter():
				cp.Failed += x.n
			}
		}
	}
	e.mu.RUnlock()
	if err != nil {
		return cp, err
	}
	defer v.release()
	if err := e.fillCheckpoint(ctx, &v, &cp, last, lastDelivered); err != nil {
		if ctx.Err() != nil {
			return cp, ctx.Err()
		}
		return cp, e.indexError(err)
	}
	return cp, nil
}

func (e *Engine) fillCheckpoint(ctx context.Context, v *view, cp *journal.Checkpoint, last, lastDelivered event.Seq) error {
	if last == 0 {
		return nil
	}
	open, err := e.unsettled(ctx, v, cp)
	if err != nil {
		return err
	}
	below := event.Seq(math.MaxInt64)
	if len(open) > 0 {
		below = open[0]
	}
	it, err := v.settledBefore(ctx, cp.Source, below, nil)
	if err != nil {
		return err
	}
	if it != nil {
		cp.Seq = it.id.Seq()
		if cp.Record, err = e.record(it, noteCount{}); err != nil {
			return err
		}
	}
	if len(open) > 0 {
		newest, err := v.settledBefore(ctx, cp.Source, math.MaxInt64, open)
		if err != nil {
			return err
		}
		if newest != nil {
			n, _ := slices.BinarySearch(open, newest.id.Seq())
			cp.Holes = int64(n)
		}
	}
	if it, err = v.snap.item(lastDelivered); err != nil || it == nil || it.marker {
		return err
	}
	cp.LastDelivered, err = e.record(it, noteCount{})
	return err
}

// unsettled lists the source's events that a checkpoint must not pass, in order, and notes the oldest pending one.
func (e *Engine) unsettled(ctx context.Context, v *view, cp *journal.Checkpoint) ([]event.Seq, error) {
	if cp.Pending+cp.Failed == 0 {
		return nil, nil
	}
	var open []event.Seq
	records := leafReader{snap: v.snap}
	for _, st := range [...]event.State{event.Pending, event.Failed} {
		walk := v.snap.walk([]byte{prefixState, byte(st)}, false)
		for walk.Rewind(); walk.Valid(); walk.Next() {
			seq := seqOf(walk.Item().Key())
			raw, err := records.record(seq) // there may be very many: the rest of the record is not decoded
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				walk.Close()
				return nil, err
			}
			if raw == nil {
				continue
			}
			head, ok := viewItem(raw)
			body, whole := viewBody(head.body)
			if !ok || !whole {
				walk.Close()
				return nil, errCodec
			}
			if r := (event.Record{State: body.state, Reason: body.reason}); head.marker || string(body.source) != cp.Source || r.Settled() {
				continue
			}
			open = append(open, seq)
			if at := fromNanos(body.received); st == event.Pending && (cp.OldestPending.IsZero() || at.Before(cp.OldestPending)) {
				cp.OldestPending = at
			}
		}
		walk.Close()
	}
	slices.Sort(open)
	return open, nil
}

// settledBefore is the newest event of a source below a number that is not in open.
func (v *view) settledBefore(ctx context.Context, source string, below event.Seq, open []event.Seq) (*item, error) {
	q := &journal.Query{Source: source, MaxSeq: max(below, 1) - 1, Limit: 1}
	if q.MaxSeq == 0 {
		return nil, nil
	}
	for {
		s, err := newScan(q)
		if err != nil {
			return nil, err
		}
		s.v, s.ctx = v, ctx
		if err := s.run(); err != nil || len(s.found) == 0 {
			return nil, err
		}
		for _, it := range s.found {
			seq := it.id.Seq()
			if _, ok := slices.BinarySearch(open, seq); !ok {
				return it, nil
			}
			if q.MaxSeq = seq - 1; q.MaxSeq == 0 {
				return nil, nil
			}
		}
		q.Limit = min(q.Limit*8, maxPage)
	}
}
