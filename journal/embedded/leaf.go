package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/klauspost/compress/s2"

	"github.com/hooktender/hooktender/event"
)

// A leaf is one entry of the index with the records of 8 consecutive events, those that are there: what an event costs in Badger goes by entries and bytes, and
// events in a row are much alike, so that they take a third of their bytes together. Encoded it is a Snappy block of, for each record in order, the event's place
// in the leaf, a length and appendItem. A record that is large, by what the upstream answered, has an entry of its own (o), and the leaf only its place, with no length: else
// whoever changes one of the eight would write all that again.
type leaf struct {
	number  uint64
	n       int
	places  [leafEvents]byte
	records [leafEvents][]byte // they alias buf; empty where the record has an entry of its own, until fetch
	buf     []byte
}

const (
	leafEvents  = 8
	leafMaximum = 1 << 20 // bytes decoded
	leafRecord  = 512     // bytes of a record beyond which it is large
)

func leafOf(seq event.Seq) uint64 { return uint64(seq) / leafEvents }

func leafKey(leaf uint64) []byte { return seqKey(prefixRecord, event.Seq(leaf)) }

func ownKey(seq event.Seq) []byte { return seqKey(prefixOwn, seq) }

// seq is the event of the i-th record.
func (l *leaf) seq(i int) event.Seq { return event.Seq(l.number*leafEvents + uint64(l.places[i])) }

// find is where the leaf has the record of an event; -1 if it does not.
func (l *leaf) find(seq event.Seq) int {
	if leafOf(seq) != l.number {
		return -1
	}
	return bytes.IndexByte(l.places[:l.n], byte(seq%leafEvents))
}

// fetch reads the i-th record if it has an entry of its own.
func (l *leaf) fetch(s *snapshot, i int) error {
	if len(l.records[i]) > 0 {
		return nil
	}
	b, err := s.get(ownKey(l.seq(i)))
	if err == nil && len(b) == 0 {
		err = fmt.Errorf("index entry of event %d: %w", l.seq(i), errCodec)
	}
	l.records[i] = b
	return err
}

// record is the encoded record of an event, until the leaf is used for another; nil if the leaf does not have it.
func (l *leaf) record(s *snapshot, seq event.Seq) ([]byte, error) {
	i := l.find(seq)
	if i < 0 {
		return nil, nil
	}
	err := l.fetch(s, i)
	return l.records[i], err
}

// decode reads an encoded leaf into memory that the leaf keeps for the next.
func (l *leaf) decode(number uint64, b []byte) error {
	l.number, l.n = number, 0
	size, err := s2.DecodedLen(b)
	if err != nil || size > leafMaximum {
		return fmt.Errorf("index entry of events from %d: %w", number*leafEvents, errCodec)
	}
	l.buf, err = s2.Decode(slices.Grow(l.buf[:0], size)[:size], b)
	d := decoder{buf: l.buf, bad: err != nil}
	for len(d.buf) > 0 && !d.bad {
		place := d.u8()
		record := d.bytes()
		if l.n == leafEvents || place >= leafEvents || l.n > 0 && place <= l.places[l.n-1] {
			d.fail()
			break
		}
		l.places[l.n], l.records[l.n] = place, record
		l.n++
	}
	if d.bad || l.n == 0 {
		l.n = 0
		return fmt.Errorf("index entry of events from %d: %w", number*leafEvents, errCodec)
	}
	return nil
}

// decodeEntry reads the leaf at which a walk stands, with the large records.
func (l *leaf) decodeEntry(s *snapshot, entry *badger.Item) error {
	err := entry.Value(func(b []byte) error { return l.decode(uint64(seqOf(entry.Key())), b) })
	for i := 0; i < l.n && err == nil; i++ {
		err = l.fetch(s, i)
	}
	return err
}

// leaves are those that nobody uses.
var leaves = sync.Pool{New: func() any { return &leaf{} }}

// release gives a leaf back; what it read is not to be used any more.
func (l *leaf) release() {
	if cap(l.buf) <= 64<<10 {
		leaves.Put(l)
	}
}

// readLeaf reads a leaf without the large records; it is empty where there is none.
func (s *snapshot) readLeaf(l *leaf, number uint64) error {
	entry, err := s.txn.Get(leafKey(number))
	if errors.Is(err, badger.ErrKeyNotFound) {
		l.number, l.n = number, 0
		return nil
	}
	if err != nil {
		return err
	}
	return entry.Value(func(b []byte) error { return l.decode(number, b) })
}

// item is an event's item as the index has it; nil if there is none.
func (s *snapshot) item(seq event.Seq) (*item, error) {
	l := leaves.Get().(*leaf)
	defer l.release()
	if err := s.readLeaf(l, leafOf(seq)); err != nil {
		return nil, err
	}
	record, err := l.record(s, seq)
	if record == nil || err != nil {
		return nil, err
	}
	return decodeRecordOf(seq, bytes.Clone(record))
}

// decodeRecordOf decodes a record of the index, which the item aliases.
func decodeRecordOf(seq event.Seq, b []byte) (*item, error) {
	it, err := decodeItem(b)
	if err != nil {
		return nil, fmt.Errorf("index entry of event %d: %w", seq, err)
	}
	return it, nil
}

// eachRecord calls fn with the encoded records in the order of their events. They are valid during the call.
func (s *snapshot) eachRecord(fn func(seq event.Seq, record []byte) error) error {
	walk := s.walk([]byte{prefixRecord}, false)
	defer walk.Close()
	var l leaf
	for walk.Rewind(); walk.Valid(); walk.Next() {
		err := l.decodeEntry(s, walk.Item())
		for i := 0; i < l.n && err == nil; i++ {
			err = fn(l.seq(i), l.records[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A leafReader looks up records of many events, mostly one near the other.
type leafReader struct {
	snap *snapshot
	leaf leaf
	read bool
}

// record is the encoded record of an event, until the next call; nil if there is none.
func (r *leafReader) record(seq event.Seq) ([]byte, error) {
	if n := leafOf(seq); !r.read || n != r.leaf.number {
		if err := r.snap.readLeaf(&r.leaf, n); err != nil {
			return nil, err
		}
		r.read = true
	}
	return r.leaf.record(r.snap, seq)
}

// A leafWriter is memory for putting leaves together.
type leafWriter struct {
	old           leaf
	plain, record []byte
}

// leaf writes a leaf with what has become of some of its events. It reads the leaf unless it is new.
func (w *flusher) leaf(l *leafWriter, number uint64, changes []touched) {
	l.old.number, l.old.n = number, 0
	isNew := len(changes) == leafEvents
	for _, c := range changes {
		isNew = isNew && c.item != nil && !c.item.was.present
	}
	if !isNew && w.err == nil {
		w.err = w.snap.readLeaf(&l.old, number)
	}
	var events [leafEvents]*item
	changed := false
	for _, c := range changes {
		it := c.item
		if it == nil && w.err == nil {
			it, w.err = w.recounted(&l.old, c)
		}
		events[c.seq%leafEvents] = it
		changed = changed || it != nil
	}
	if w.err != nil || !changed {
		return
	}
	b := l.plain[:0]
	for place, it := range events {
		var record []byte
		seq := event.Seq(number*leafEvents) + event.Seq(place)
		i := l.old.find(seq)
		kept := i >= 0
		if kept {
			record = l.old.records[i]
		}
		large := kept && len(record) == 0
		if it != nil {
			wasLarge := large
			record, kept, large = nil, !it.removed, false
			if kept {
				l.record = appendItem(l.record[:0], it)
				record, large = l.record, len(l.record) > leafRecord
			}
			w.own(seq, record, large, wasLarge)
		}
		switch {
		case large:
			b = append(b, byte(place), 0)
		case kept:
			b = append(binary.AppendUvarint(append(b, byte(place)), uint64(len(record))), record...)
		}
	}
	l.plain = b
	w.key = appendSeqKey(w.key[:0], prefixRecord, event.Seq(number))
	switch {
	case len(b) > 0:
		to := slices.Grow(w.ix.arena[len(w.ix.arena):], s2.MaxEncodedLen(len(b)))
		w.set(w.key, s2.EncodeSnappy(to[:cap(to)], b))
	case l.old.n > 0:
		w.remove(w.key)
	}
}

// recounted is an event's item with higher counters; nil if it has no record any more.
func (w *flusher) recounted(old *leaf, c touched) (*item, error) {
	record, err := old.record(w.snap, c.seq) // a large one stays large
	if record == nil || err != nil {
		return nil, err
	}
	it, err := decodeRecordOf(c.seq, record)
	if err != nil || it.marker {
		return nil, err
	}
	return it.plus(c.count), nil
}

// own writes or removes the entry of a record of its own.
func (w *flusher) own(seq event.Seq, record []byte, large, was bool) {
	w.key = appendSeqKey(w.key[:0], prefixOwn, seq)
	switch {
	case large:
		w.set(w.key, append(w.ix.arena[len(w.ix.arena):], record...))
	case was:
		w.remove(w.key)
	}
}
