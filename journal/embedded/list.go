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

// List implements journal.Journal. Like all that walks over the index it first waits until everything written is there,
// notes included; with q.AsOf until that much is there.
func (e *Engine) List(ctx context.Context, q journal.Query) (journal.Page, error) {
	s, err := newScan(&q)
	if err != nil {
		return journal.Page{}, err
	}
	if err := e.settleFor(ctx, q.AsOf); err != nil {
		return journal.Page{}, err
	}
	v, err := e.view()
	if err != nil {
		return journal.Page{}, err
	}
	defer v.release()
	s.v, s.ctx = &v, ctx
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
		r, err := e.record(it, noteCount{})
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

	// Events that are gone leave deletions in the index, and a walk over the records steps over all of them up to the next event that is there: that is where it goes on,
	// since to begin in each block between, and step over the rest again, takes time with the square of their number.
	next  event.Seq // 0 = not known
	end   bool      // none is left
	walks int
	leaf  leaf
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

// filtered says whether blocks can be passed over.
func (s *scan) filtered() bool {
	return len(s.wanted) > 0 || s.since != math.MinInt64 || s.until != math.MaxInt64
}

// runRecords walks over the records, where the query has a filter only over those of blocks that may match.
func (s *scan) runRecords() error {
	it := s.v.snap.walk([]byte{prefixRecord}, !s.q.Asc)
	defer it.Close()
	if !s.filtered() {
		return s.walkRecords(it, s.lo, s.hi)
	}
	blocks := s.v.snap.walk([]byte{prefixBlock}, !s.q.Asc)
	defer blocks.Close()
	for blocks.Seek(blockKey(blockOf(s.first()))); blocks.Valid() && !s.full(); blocks.Next() {
		n := uint64(seqOf(blocks.Item().Key()))
		if n < blockOf(s.lo) || n > blockOf(s.hi) {
			return nil
		}
		if err := s.tick(); err != nil {
			return err
		}
		pass := false
		err := blocks.Item().Value(func(b []byte) (err error) { pass, err = s.passBlock(b); return err })
		if err != nil {
			return err
		}
		if !pass || s.next != 0 && (s.q.Asc && n < blockOf(s.next) || !s.q.Asc && n > blockOf(s.next)) {
			continue
		}
		lo, hi := event.Seq(n*blockEvents), event.Seq(n*blockEvents+blockEvents-1)
		if err := s.walkRecords(it, max(lo, s.lo), min(hi, s.hi)); err != nil || s.end {
			return err
		}
	}
	return nil
}

// walkRecords looks at the records from lo to hi, in the direction of the query, until the page is full.
func (s *scan) walkRecords(it *badger.Iterator, lo, hi event.Seq) error {
	from := lo
	if !s.q.Asc {
		from = hi
	}
	s.walks++
	for it.Seek(leafKey(leafOf(from))); it.Valid() && !s.full(); it.Next() {
		if err := s.leaf.decodeEntry(s.v.snap, it.Item()); err != nil {
			return err
		}
		for i := range s.leaf.n {
			if !s.q.Asc {
				i = s.leaf.n - 1 - i
			}
			switch seq := s.leaf.seq(i); {
			case s.q.Asc && seq < lo || !s.q.Asc && seq > hi:
				continue
			case seq < lo || seq > hi:
				s.next = seq
				return nil
			}
			if err := s.tick(); err != nil {
				return err
			}
			if err := s.try(s.leaf.records[i]); err != nil || s.full() {
				return err
			}
		}
	}
	s.end = !it.Valid()
	return nil
}

// first is where the walk begins.
func (s *scan) first() event.Seq {
	if s.q.Asc {
		return s.lo
	}
	return s.hi
}

// passBlock says whether an encoded block may hold a match.
func (s *scan) passBlock(b []byte) (bool, error) {
	from, to, bits, err := viewBlock(b)
	if err != nil || to < s.since || from >= s.until {
		return false, err
	}
	for _, h := range s.wanted {
		if !bits.has(h) {
			return false, nil
		}
	}
	return true, nil
}

// passOver says whether the block of seq cannot hold a match; it remembers the last block.
func (s *scan) passOver(seq event.Seq) (bool, error) {
	if err := s.tick(); err != nil || !s.filtered() {
		return false, err
	}
	n := blockOf(seq)
	if s.block == n+1 {
		return s.skip, nil
	}
	v, err := s.v.snap.get(blockKey(n))
	if v == nil || err != nil {
		return false, err
	}
	pass, err := s.passBlock(v)
	s.block, s.skip = n+1, !pass
	return s.skip, err
}

// try adds the event of an encoded item if it matches.
func (s *scan) try(b []byte) error {
	head, ok := viewItem(b)
	if !ok {
		return errCodec
	}
	v, ok := viewBody(head.body)
	if !ok {
		return errCodec
	}
	if head.marker || !s.match(&v) {
		return nil
	}
	it, err := decodeItem(bytes.Clone(b))
	s.found = append(s.found, it)
	return err
}

// match compares all that blocks and state lists leave open.
func (s *scan) match(v *bodyView) bool {
	q := s.q
	return v.received >= s.since && v.received < s.until &&
		(len(q.States) == 0 || slices.Contains(q.States, v.state)) &&
		(len(q.Reasons) == 0 || slices.Contains(q.Reasons, v.reason)) &&
		(q.Source == "" || string(v.source) == q.Source) &&
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
	records := leafReader{snap: s.v.snap}
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
		record, err := records.record(seq)
		if record != nil && err == nil {
			err = s.try(record)
		}
		if err != nil {
			return err
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
