package embedded

import (
	"bytes"
	"context"
	"math"
	"slices"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// List implements journal.Journal.
func (e *Engine) List(ctx context.Context, q journal.Query) (journal.Page, error) {
	s, err := newScan(&q)
	if err != nil {
		return journal.Page{}, err
	}
	if err := e.settle(ctx); err != nil {
		return journal.Page{}, err
	}
	v, err := e.view()
	if err != nil {
		return journal.Page{}, err
	}
	defer v.release()
	s.v, s.ctx = v, ctx
	if err := s.run(); err != nil {
		if ctx.Err() != nil {
			return journal.Page{}, ctx.Err()
		}
		return journal.Page{}, e.indexError(err)
	}
	page := journal.Page{Records: make([]event.Record, 0, min(len(s.found), s.limit))}
	for i, it := range s.found {
		if i == s.limit {
			page.Next = journal.CursorAfter(page.Records[i-1].Seq)
			break
		}
		r, err := e.record(it)
		if err != nil {
			return journal.Page{}, e.indexError(err)
		}
		page.Records = append(page.Records, r)
	}
	return page, nil
}

// A scan walks over the events of a query: over the lists of single states where the query names some and delivered is not
// among them, else over all records, block by block, passing over blocks that cannot match.
type scan struct {
	v      *view
	ctx    context.Context
	q      *journal.Query
	limit  int
	lo, hi event.Seq // inclusive
	since  int64     // Unix nanoseconds, inclusive
	until  int64     // exclusive
	wanted []uint64  // field hashes that a block must have

	block uint64 // the block last looked at, plus one
	skip  bool   // it cannot match
	steps int
	found []*item // one more than limit if there are more
}

func newScan(q *journal.Query) (*scan, error) {
	s := &scan{q: q, limit: q.Limit, lo: 1, hi: math.MaxInt64, since: math.MinInt64, until: math.MaxInt64}
	if s.limit <= 0 {
		s.limit = defaultPage
	}
	s.limit = min(s.limit, maxPage)
	if q.MaxSeq != 0 {
		s.hi = q.MaxSeq
	}
	if !q.Since.IsZero() {
		s.since = nanos(q.Since)
	}
	if !q.Until.IsZero() {
		s.until = nanos(q.Until)
	}
	if q.Cursor != "" {
		at, err := journal.ParseCursor(q.Cursor)
		if err != nil {
			return nil, err
		}
		if q.Asc {
			s.lo = at + 1
		} else {
			s.hi = min(s.hi, max(at, 1)-1)
		}
	}
	for _, f := range [...]struct {
		field field
		value string
	}{{fieldSource, q.Source}, {fieldType, q.Type}, {fieldResource, q.Resource}, {fieldEventID, q.EventID}, {fieldReplayID, q.ReplayID}} {
		if f.value != "" {
			s.wanted = append(s.wanted, fieldHash(f.field, f.value))
		}
	}
	return s, nil
}

func (s *scan) run() error {
	if s.lo > s.hi {
		return nil
	}
	if len(s.q.States) > 0 && !slices.Contains(s.q.States, event.Delivered) {
		return s.runStates()
	}
	return s.runRecords()
}

// full says whether the page is complete, and there is more.
func (s *scan) full() bool { return len(s.found) > s.limit }

// tick looks at ctx now and then.
func (s *scan) tick() error {
	if s.steps++; s.steps%1024 == 0 {
		return s.ctx.Err()
	}
	return nil
}

// runRecords walks over the records themselves.
func (s *scan) runRecords() error {
	it := s.v.snap.walk([]byte{prefixRecord}, !s.q.Asc)
	defer it.Close()
	it.Seek(recordKey(s.first()))
	for it.Valid() && !s.full() {
		seq := seqOf(it.Item().Key())
		if seq < s.lo || seq > s.hi {
			return nil
		}
		skip, err := s.passOver(seq)
		if err != nil {
			return err
		}
		if skip {
			next, ok := s.afterBlock(seq)
			if !ok {
				return nil
			}
			it.Seek(recordKey(next))
			continue
		}
		if err := s.try(it.Item()); err != nil {
			return err
		}
		it.Next()
	}
	return nil
}

// first is where the walk begins.
func (s *scan) first() event.Seq {
	if s.q.Asc {
		return s.lo
	}
	return s.hi
}

// afterBlock is the first event number beyond the block of seq, in the direction of the walk; false if there is none.
func (s *scan) afterBlock(seq event.Seq) (event.Seq, bool) {
	b := blockOf(seq)
	if s.q.Asc {
		return event.Seq((b + 1) * blockEvents), true
	}
	if b == 0 {
		return 0, false
	}
	return event.Seq(b*blockEvents - 1), true
}

// passOver says whether the block of seq cannot hold a match.
func (s *scan) passOver(seq event.Seq) (bool, error) {
	if err := s.tick(); err != nil {
		return false, err
	}
	if len(s.wanted) == 0 && s.since == math.MinInt64 && s.until == math.MaxInt64 {
		return false, nil
	}
	n := blockOf(seq)
	if s.block == n+1 {
		return s.skip, nil
	}
	v, err := s.v.snap.get(blockKey(n))
	if err != nil {
		return false, err
	}
	s.block, s.skip = n+1, false
	if v == nil {
		return false, nil
	}
	b, err := decodeBlock(n, v)
	if err != nil {
		return false, err
	}
	s.skip = b.to < s.since || b.from >= s.until || slices.ContainsFunc(s.wanted, func(h uint64) bool { return !b.has(h) })
	return s.skip, nil
}

// try adds the event of an r| entry if it matches.
func (s *scan) try(entry *badger.Item) error {
	return entry.Value(func(b []byte) error {
		it, err := decodeItem(b)
		if err != nil {
			return err
		}
		if !s.match(it) {
			return nil
		}
		it, err = decodeItem(bytes.Clone(b))
		s.found = append(s.found, it)
		return err
	})
}

func (s *scan) match(it *item) bool {
	if it.marker || it.received < s.since || it.received >= s.until {
		return false
	}
	q := s.q
	if len(q.States) > 0 && !slices.Contains(q.States, it.state) || len(q.Reasons) > 0 && !slices.Contains(q.Reasons, it.reason) {
		return false
	}
	if len(s.wanted) == 0 {
		return true
	}
	v, _ := viewBody(it.body)
	return (q.Source == "" || string(v.source) == q.Source) &&
		(q.Type == "" || string(v.typ) == q.Type) &&
		(q.Resource == "" || string(v.resource) == q.Resource) &&
		(q.EventID == "" || string(v.eventID) == q.EventID) &&
		(q.ReplayID == "" || string(v.replayID) == q.ReplayID)
}

// runStates merges the lists of the states in question.
func (s *scan) runStates() error {
	var its []*badger.Iterator
	defer func() {
		for _, it := range its {
			it.Close()
		}
	}()
	states := slices.Clone(s.q.States)
	slices.Sort(states)
	for _, st := range slices.Compact(states) {
		it := s.v.snap.walk([]byte{prefixState, byte(st)}, !s.q.Asc)
		its = append(its, it)
		it.Seek(stateKey(st, s.first()))
	}
	for !s.full() {
		best, seq := s.nearest(its)
		if best == nil {
			return nil
		}
		best.Next()
		skip, err := s.passOver(seq)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		it, err := s.v.snap.item(seq)
		if err != nil {
			return err
		}
		if it != nil && s.match(it) {
			s.found = append(s.found, it)
		}
	}
	return nil
}

// nearest is the iterator whose event comes next, nil if all are at their end.
func (s *scan) nearest(its []*badger.Iterator) (best *badger.Iterator, seq event.Seq) {
	for _, it := range its {
		if !it.Valid() {
			continue
		}
		n := seqOf(it.Item().Key())
		if n < s.lo || n > s.hi {
			continue
		}
		if best == nil || s.q.Asc == (n < seq) {
			best, seq = it, n
		}
	}
	return best, seq
}

// walk iterates over the entries under a prefix, backwards if reverse; the caller seeks and closes.
func (s *snapshot) walk(prefix []byte, reverse bool) *badger.Iterator {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues, o.Reverse = prefix, false, reverse
	return s.txn.NewIterator(o)
}

// Pending implements journal.Journal.
func (e *Engine) Pending(ctx context.Context, after event.Seq, limit int) ([]event.Record, error) {
	if limit <= 0 {
		return nil, e.usable(ctx)
	}
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	v, err := e.view()
	if err != nil {
		return nil, err
	}
	defer v.release()
	var out []event.Record
	walk := v.snap.walk([]byte{prefixState, byte(event.Pending)}, false)
	defer walk.Close()
	for walk.Seek(stateKey(event.Pending, after+1)); walk.Valid() && len(out) < limit; walk.Next() {
		it, err := v.snap.item(seqOf(walk.Item().Key()))
		if err == nil && it != nil && it.state == event.Pending && !it.marker {
			var r event.Record
			if r, err = e.record(it); err == nil {
				out = append(out, r)
			}
		}
		if err != nil {
			return nil, e.indexError(err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

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
		for k, n := range c.n {
			r := event.Record{State: k.state, Reason: k.reason}
			switch {
			case k.state == event.Pending:
				cp.Pending += n
			case r.DeadLetter():
				cp.Failed += n
			}
		}
	}
	e.mu.RUnlock()
	if err != nil {
		return cp, err
	}
	defer v.release()
	if err := e.fillCheckpoint(ctx, v, &cp, last, lastDelivered); err != nil {
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
		if cp.Record, err = e.record(it); err != nil {
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
	cp.LastDelivered, err = e.record(it)
	return err
}

// unsettled lists the source's events that a checkpoint must not pass, in order, and notes the oldest pending one.
func (e *Engine) unsettled(ctx context.Context, v *view, cp *journal.Checkpoint) ([]event.Seq, error) {
	if cp.Pending+cp.Failed == 0 {
		return nil, nil
	}
	var open []event.Seq
	for _, st := range [...]event.State{event.Pending, event.Failed} {
		walk := v.snap.walk([]byte{prefixState, byte(st)}, false)
		for walk.Rewind(); walk.Valid(); walk.Next() {
			seq := seqOf(walk.Item().Key())
			it, err := v.snap.item(seq)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				walk.Close()
				return nil, err
			}
			if it == nil || it.marker {
				continue
			}
			body, _ := viewBody(it.body)
			if r := (event.Record{State: it.state, Reason: it.reason}); string(body.source) != cp.Source || r.Settled() {
				continue
			}
			open = append(open, seq)
			if at := fromNanos(it.received); st == event.Pending && (cp.OldestPending.IsZero() || at.Before(cp.OldestPending)) {
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
