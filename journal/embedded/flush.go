package embedded

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/hooktender/hooktender/event"
)

// flush writes a layer and the state as of its last frame, under versions of its own. The entry that says how far the log was applied comes
// last: a flush that a crash cut short is taken back at the next open (see versions), and the log replayed. It returns when the disk has it.
func (ix *index) flush(l *layer, s *snapshot, state []byte) error {
	if ix.bare { // nobody has looked for space
		if err := ix.allocate(memFiles(ix.dir.Name())); err != nil && !noSpace(err) {
			return err
		}
	}
	w := flusher{ix: ix, writes: newWrites(ix), snap: s, layer: l}
	ix.arena = ix.arena[:0]
	// In the order of the keys: a skip list finds the place of the next one near that of the last.
	items, order := make([]touched, 0, len(l.items)+len(l.counts)), make([]sortKey, 0, max(len(l.items)+len(l.counts), len(l.keys)))
	for seq, it := range l.items {
		order = append(order, sortKey{uint64(seq), 0, uint64(len(items))})
		items = append(items, touched{seq: seq, item: it})
	}
	for seq, n := range l.counts {
		order = append(order, sortKey{uint64(seq), 0, uint64(len(items))})
		items = append(items, touched{seq: seq, count: n})
	}
	slices.SortFunc(order, compareSortKeys)
	var (
		leaf   leafWriter
		events [leafEvents]touched
	)
	for i := 0; i < len(order); {
		n, number := 0, leafOf(event.Seq(order[i].hi))
		for ; i < len(order) && leafOf(event.Seq(order[i].hi)) == number; i++ {
			events[n] = items[order[i].of]
			if it := events[n].item; it != nil {
				w.item(events[n].seq, it)
			}
			n++
		}
		w.leaf(&leaf, number, events[:n])
	}
	order = order[:0]
	for k, seq := range l.keys {
		order = append(order, sortKey{binary.BigEndian.Uint64(k[:]), binary.BigEndian.Uint64(k[8:]), uint64(seq)})
	}
	slices.SortFunc(order, compareSortKeys)
	for _, p := range order {
		w.key = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(append(w.key[:0], prefixKey), p.hi), p.lo)
		w.set(w.key, binary.BigEndian.AppendUint64(ix.arena[len(ix.arena):], p.of))
	}
	for k, r := range l.resources {
		v := binary.AppendUvarint(ix.arena[len(ix.arena):], r.segment)
		w.set(resourceKey(k), appendResource(v, &r.state))
	}
	for k, m := range l.metas {
		if m.value == nil {
			w.remove(metaKey(k))
			continue
		}
		v := binary.AppendUvarint(ix.arena[len(ix.arena):], m.segment)
		w.set(metaKey(k), append(v, m.value...))
	}
	for _, b := range ix.blocks.blocks {
		if b.dirty {
			w.set(blockKey(b.number), b.encode(ix.arena[len(ix.arena):]))
			b.dirty = false
		}
	}
	ix.blocks.trim()
	w.dropBlocks()
	if state != nil {
		w.set([]byte{prefixPosition}, state)
	}
	if w.finish(); w.err == nil {
		w.err = ix.dir.Sync() // Badger does not make the names of its new files durable
	}
	ix.bare = true // a new file may have begun
	if w.err == nil {
		ix.versions.done(w.version)
	}
	return w.err
}

// touched is an event of which a flush changes the record: it has a new one, or its counters go up.
type touched struct {
	seq   event.Seq
	item  *item // nil: only the counters
	count noteCount
}

// A sortKey is a key of the index as two numbers, and what is to be written under it.
type sortKey struct{ hi, lo, of uint64 }

func compareSortKeys(a, b sortKey) int {
	if a.hi == b.hi {
		return cmp.Compare(a.lo, b.lo)
	}
	return cmp.Compare(a.hi, b.hi)
}

// A flusher collects one flush; the first error stays.
type flusher struct {
	*writes
	ix    *index
	snap  *snapshot
	layer *layer
	key   []byte // scratch
}

// set takes a value that was appended at the end of the arena, or any other that stays as it is until the flush is over; the key is copied.
func (w *flusher) set(key, value []byte) {
	if w.err != nil {
		return
	}
	if a := w.ix.arena; cap(a)-len(a) >= len(value) && len(value) > 0 && &a[:len(a)+1][len(a)] == &value[0] {
		w.ix.arena = a[:len(a)+len(value)]
	} else if cap(a)-len(a) < 4096 {
		w.ix.arena = make([]byte, 0, 1<<20)
	}
	w.writes.set(key, value)
}

// item writes what the index has of an event beside its record.
func (w *flusher) item(seq event.Seq, it *item) {
	now := it.listed()
	if it.was.state != 0 && it.was.state != now {
		w.remove(stateKey(it.was.state, seq))
	}
	if it.removed {
		if it.was.present {
			w.forget(seq, it)
		}
		return
	}
	if now != 0 && now != it.was.state {
		w.set(stateKey(now, seq), nil)
	}
	if it.marker {
		w.forgetAttempts(seq, it)
		return
	}
	for _, a := range it.older {
		w.set(attemptKey(seq, attemptN(a)), a)
	}
	if !it.was.present || it.was.identity != it.identity() {
		b, err := w.ix.blocks.get(w.snap, blockOf(seq))
		if err != nil {
			w.err = err
			return
		}
		b.note(it)
	}
}

// forget deletes what is left of an event but its record: its attempts, and the keys that nobody took over.
func (w *flusher) forget(seq event.Seq, it *item) {
	w.forgetAttempts(seq, it)
	for _, k := range it.keys {
		if _, taken := w.layer.keys[k]; taken {
			continue
		}
		owner, err := w.snap.owner(k)
		if err != nil {
			w.err = err
			return
		}
		if owner == seq {
			w.remove(claimKey(k))
			w.ix.gone++
		}
	}
}

func (w *flusher) forgetAttempts(seq event.Seq, it *item) {
	for n := uint64(1); n < attemptN(it.attempt); n++ {
		w.remove(attemptKey(seq, n))
	}
}

// dropBlocks deletes some of the blocks that have no event left.
func (w *flusher) dropBlocks() {
	low, n := w.ix.lowBlock.Load(), 0
	if w.ix.swept >= low || w.err != nil {
		return
	}
	err := w.snap.eachKey([]byte{prefixBlock}, func(key []byte) bool {
		at := uint64(seqOf(key))
		if at >= low || n == dropAtOnce {
			w.ix.swept = min(at, low)
			return false
		}
		w.remove(key)
		w.ix.swept = at + 1
		n++
		return true
	})
	if w.err == nil {
		w.err = err
	}
}

// dropAtOnce bounds the blocks deleted by one flush.
const dropAtOnce = 1024
