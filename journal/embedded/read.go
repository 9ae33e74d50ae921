package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// indexError is what a caller sees when the index cannot be read: the journal is not usable until it is opened again, when
// the index is checked and rebuilt.
func (e *Engine) indexError(err error) error {
	if errors.Is(err, journal.ErrClosed) {
		return err
	}
	return e.fail(fmt.Errorf("read the index: %w", err))
}

// Lookup implements journal.Journal.
func (e *Engine) Lookup(ctx context.Context, keys []event.Key) ([]event.Fate, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	now := e.clock.read()
	fates := make([]event.Fate, len(keys))
	for i, k := range keys {
		seq, err := e.owner(k)
		if err != nil {
			return nil, e.indexError(err)
		}
		if seq == 0 {
			continue
		}
		it, err := e.item(seq)
		if err != nil {
			return nil, e.indexError(err)
		}
		if it != nil && it.remembered(now, e.retention.Load().Dedup) {
			fates[i] = it.fate()
		}
	}
	return fates, nil
}

// Get implements journal.Journal.
func (e *Engine) Get(ctx context.Context, id event.ID, withPayload bool) (event.Record, *event.Payload, error) {
	if err := e.usable(ctx); err != nil {
		return event.Record{}, nil, err
	}
	for try := 0; ; try++ {
		it, notes, err := e.live(id)
		if err != nil {
			return event.Record{}, nil, e.indexError(err)
		}
		if it == nil {
			r, err := e.remnant(id)
			return r, nil, cmp.Or(err, journal.ErrNotFound)
		}
		r, err := e.record(it, notes)
		if err != nil {
			return event.Record{}, nil, e.indexError(err)
		}
		if !withPayload {
			return r, nil, nil
		}
		if !r.HasPayload {
			return r, nil, journal.ErrNoPayload
		}
		p, err := e.payload(it.payload)
		if errors.Is(err, fs.ErrNotExist) && try < 3 {
			continue // carried forward meanwhile: look again where it is
		}
		switch {
		case err == nil, errors.Is(err, journal.ErrCorrupt):
		case errors.Is(err, fs.ErrNotExist):
			err = fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
		default:
			err = e.fail(fmt.Errorf("read a payload: %w", err)) // a disk that fails to read
		}
		return r, p, err
	}
}

// remnant is what a marker says of an event whose record is gone; nothing where there is none.
func (e *Engine) remnant(id event.ID) (event.Record, error) {
	it, err := e.item(id.Seq())
	if err != nil {
		return event.Record{}, e.indexError(err)
	}
	if it == nil || it.removed || !it.marker || it.id != id {
		return event.Record{}, nil
	}
	return e.record(it, noteCount{})
}

// payload reads a payload from the log.
func (e *Engine) payload(at payloadPos) (*event.Payload, error) {
	if at.size == 0 {
		return nil, errNowhere
	}
	p, err := e.payloadAt(at)
	if errors.Is(err, journal.ErrCorrupt) { // an event hangs on it: the disk is asked, too, and not only the page cache, which file systems in user space let get stale
		e.wal.uncache(at.segment, at.offset, at.size)
		p, err = e.payloadAt(at)
	}
	return p, err
}

func (e *Engine) payloadAt(at payloadPos) (*event.Payload, error) {
	b, err := e.wal.read(at.segment, at.offset, at.size)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: segment %d is too short", journal.ErrCorrupt, at.segment)
	}
	if err != nil {
		return nil, err
	}
	return openPayload(b, at, e.wal.dir)
}

var errNowhere = fmt.Errorf("%w: the payload is nowhere in the log", journal.ErrCorrupt)

// openPayload checks and decodes the bytes of a payload.
func openPayload(b []byte, at payloadPos, dir string) (*event.Payload, error) {
	if checksum(b) != at.sum {
		return nil, fmt.Errorf("%w: %s, %d bytes at %d", journal.ErrCorrupt, segmentPath(dir, at.segment), at.size, at.offset)
	}
	p, err := decodePayload(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", journal.ErrCorrupt, err)
	}
	return p, nil
}

// Attempts implements journal.Journal.
func (e *Engine) Attempts(ctx context.Context, id event.ID) ([]event.Attempt, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	it, notes, err := e.live(id)
	if err != nil {
		return nil, e.indexError(err)
	}
	if it == nil {
		return nil, journal.ErrNotFound
	}
	encoded, err := e.attempts(it)
	if err != nil {
		return nil, e.indexError(err)
	}
	out := make([]event.Attempt, 0, len(encoded)+1)
	for _, b := range encoded {
		a, err := decodeAttempt(b)
		if err != nil {
			return nil, e.indexError(err)
		}
		out = append(out, a)
	}
	if it.state == event.Pending && it.reason == event.Delivering {
		r, err := e.record(it, notes)
		if err != nil {
			return nil, e.indexError(err)
		}
		out = appendRunning(out, &r)
	}
	return out, nil
}

// appendRunning adds the attempt that is under way, unless it was stored itself.
func appendRunning(as []event.Attempt, r *event.Record) []event.Attempt {
	n := max(r.Attempts, 1)
	if len(as) > 0 && as[len(as)-1].N >= n {
		return as
	}
	a := event.Attempt{N: n, Trigger: r.LastTrigger, StartedAt: r.LastAttemptAt}
	if a.Trigger == 0 {
		a.Trigger = event.TriggerInitial
	}
	if a.StartedAt.IsZero() {
		a.StartedAt = r.ReceivedAt
	}
	return append(as, a)
}

// attempts gives the encoded attempts of an event in order of their numbers.
func (e *Engine) attempts(it *item) ([][]byte, error) {
	byN := map[uint64][]byte{}
	if attemptN(it.attempt) > 1 {
		v, err := e.view()
		if err != nil {
			return nil, err
		}
		err = v.snap.each(seqKey(prefixAttempt, it.id.Seq()), func(_, value []byte) bool {
			byN[attemptN(value)] = slices.Clone(value)
			return true
		})
		v.release()
		if err != nil {
			return nil, err
		}
	}
	for _, a := range it.older {
		byN[attemptN(a)] = a
	}
	if it.attempt != nil {
		byN[attemptN(it.attempt)] = it.attempt
	}
	out := make([][]byte, 0, len(byN))
	for _, a := range byN {
		out = append(out, a)
	}
	sort.Slice(out, func(i, j int) bool { return attemptN(out[i]) < attemptN(out[j]) }) // a generic sort weighs more
	return out, nil
}

// each calls fn with the entries under a prefix in order, until it reports false. The slices are valid during the call.
func (s *snapshot) each(prefix []byte, fn func(key, value []byte) bool) error {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = prefix, false
	it := s.txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		more := true
		err := it.Item().Value(func(value []byte) error {
			more = fn(it.Item().Key(), value)
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// eachKey is each without values.
func (s *snapshot) eachKey(prefix []byte, fn func(key []byte) bool) error {
	it := s.walk(prefix, false)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if !fn(it.Item().Key()) {
			return nil
		}
	}
	return nil
}

// Resources implements journal.Journal.
func (e *Engine) Resources(ctx context.Context, keys []event.ResourceKey) ([]event.ResourceState, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	out := make([]event.ResourceState, len(keys))
	for i, k := range keys {
		r, err := e.resource(k)
		if err != nil {
			return nil, e.indexError(err)
		}
		out[i] = r.state
		out[i].ResourceKey = k
	}
	return out, nil
}

func (e *Engine) resource(k event.ResourceKey) (r resource, err error) {
	e.mu.RLock()
	found := e.layers(func(l *layer) (ok bool) { r, ok = l.resources[k]; return ok })
	if found {
		e.mu.RUnlock()
		return r, nil
	}
	v, err := e.viewLocked()
	e.mu.RUnlock()
	if err != nil {
		return r, err
	}
	defer v.release()
	b, err := v.snap.get(resourceKey(k))
	if b == nil || err != nil {
		return r, err
	}
	d := decoder{buf: b}
	r.segment = d.uvarint()
	r.state, err = decodeResource(d.buf)
	return r, err
}

// MetaGet implements journal.Journal.
func (e *Engine) MetaGet(ctx context.Context, key string) ([]byte, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	m, err := e.meta(key)
	if err != nil {
		return nil, e.indexError(err)
	}
	return slices.Clone(m.value), nil
}

func (e *Engine) meta(key string) (m meta, err error) {
	e.mu.RLock()
	found := e.layers(func(l *layer) (ok bool) { m, ok = l.metas[key]; return ok })
	if found {
		e.mu.RUnlock()
		return m, nil
	}
	v, err := e.viewLocked()
	e.mu.RUnlock()
	if err != nil {
		return m, err
	}
	defer v.release()
	b, err := v.snap.get(metaKey(key))
	if b == nil || err != nil {
		return m, err
	}
	return decodeMeta(b)
}

func decodeMeta(b []byte) (meta, error) {
	d := decoder{buf: b}
	m := meta{segment: d.uvarint()}
	if d.bad {
		return m, errCodec
	}
	m.value = append([]byte{}, d.buf...)
	return m, nil
}

// MetaList implements journal.Journal.
func (e *Engine) MetaList(ctx context.Context, prefix string) ([]journal.MetaEntry, error) {
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	v, err := e.view()
	if err != nil {
		return nil, err
	}
	defer v.release()
	var out []journal.MetaEntry
	var bad error
	err = v.snap.each(metaKey(prefix), func(key, value []byte) bool {
		m, err := decodeMeta(value)
		bad = err
		out = append(out, journal.MetaEntry{Key: string(key[1:]), Value: m.value})
		return err == nil
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, e.indexError(err)
	}
	return out, nil
}

// Counts implements journal.Journal.
func (e *Engine) Counts(ctx context.Context) ([]journal.Count, error) {
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.counts.list(), nil
}

// Stats implements journal.Journal.
func (e *Engine) Stats() journal.Stats {
	s := journal.Stats{
		Groups: e.groups.Load(), Items: e.items.Load(),
		Syncs: e.syncs.count.Load(), SyncNanos: e.syncs.nanos.Load(),
		Bytes: e.wal.bytes(), LastRev: e.published(),
	}
	select {
	case <-e.closing:
	default:
		lsm, vlog := e.index.db.Size()
		s.Bytes += lsm + vlog
	}
	if free, err := e.opts.free(e.opts.Dir); err == nil {
		s.FreeBytes = free
		s.Full = e.opts.MinFree > 0 && free < e.opts.MinFree
	} else {
		s.Full = e.full.Load()
	}
	s.Full = s.Full || e.space.refusing()
	at := func(t int64) time.Time { return time.Unix(0, t+e.clock.shift.Load()).UTC() }
	forgotten := e.clock.read() - int64(e.retention.Load().Dedup)
	s.Forgets, s.CoversSince = at(forgotten), at(max(e.born, e.covers.Load(), forgotten))
	s.OldestSegment = e.wal.oldestCreated()
	s.Born = at(e.born)
	return s
}

// seqOf reads the event number at the end of an index key.
func seqOf(key []byte) event.Seq { return event.Seq(binary.BigEndian.Uint64(key[len(key)-8:])) }
