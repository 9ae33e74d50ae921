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
// in the leaf, a length and appendItem.
type leaf struct {
	number  uint64
	n       int
	places  [leafEvents]byte
	records [leafEvents][]byte // they alias what it was decoded from, or buf
	buf     []byte
}

const (
	leafEvents  = 8
	leafMaximum = 1 << 20 // bytes decoded
)

func leafOf(seq event.Seq) uint64 { return uint64(seq) / leafEvents }

func leafKey(leaf uint64) []byte { return seqKey(prefixRecord, event.Seq(leaf)) }

// seq is the event of the i-th record.
func (l *leaf) seq(i int) event.Seq { return event.Seq(l.number*leafEvents + uint64(l.places[i])) }

// find is the record of an event; nil if the leaf does not have it.
func (l *leaf) find(seq event.Seq) []byte {
	if i := bytes.IndexByte(l.places[:l.n], byte(seq%leafEvents)); i >= 0 && leafOf(seq) == l.number {
		return l.records[i]
	}
	return nil
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

// decodeEntry reads the leaf at which a walk stands.
func (l *leaf) decodeEntry(entry *badger.Item) error {
	return entry.Value(func(b []byte) error { return l.decode(uint64(seqOf(entry.Key())), b) })
}

// leaves are those that nobody uses.
var leaves = sync.Pool{New: func() any { return &leaf{} }}

// release gives a leaf back; what it read is not to be used any more.
func (l *leaf) release() {
	if cap(l.buf) <= 64<<10 {
		leaves.Put(l)
	}
}

// readLeaf reads a leaf; it is empty where there is none.
func (s *snapshot) readLeaf(l *leaf, number uint64) error {
	entry, err := s.txn.Get(leafKey(number))
	if errors.Is(err, badger.ErrKeyNotFound) {
		l.number, l.n = number, 0
		return nil
	}
	if err != nil {
		return err
	}
	return l.decodeEntry(entry)
}

// item is an event's item as the index has it; nil if there is none.
func (s *snapshot) item(seq event.Seq) (*item, error) {
	l := leaves.Get().(*leaf)
	defer l.release()
	if err := s.readLeaf(l, leafOf(seq)); err != nil {
		return nil, err
	}
	record := l.find(seq)
	if record == nil {
		return nil, nil
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
		err := l.decodeEntry(walk.Item())
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
	return r.leaf.find(seq), nil
}

// A leafWriter puts leaves together.
type leafWriter struct {
	old           leaf
	plain, record []byte
	events        [leafEvents]*item
}

// merge appends to to what the leaf is once items, which are all of it and in order, have taken the place of what it was. It reads the leaf unless they are all that fit.
// Where nothing is left it appends nothing; was says whether there was something.
func (w *leafWriter) merge(to []byte, s *snapshot, number uint64, items []*item) (_ []byte, was bool, err error) {
	w.old.number, w.old.n = number, 0
	if len(items) < leafEvents {
		if err := s.readLeaf(&w.old, number); err != nil {
			return to, false, err
		}
	}
	was = w.old.n > 0
	clear(w.events[:])
	for _, it := range items {
		w.events[it.id.Seq()%leafEvents] = it
		was = was || it.was.present
	}
	b := w.plain[:0]
	for place, it := range w.events {
		record := w.record[:0]
		switch {
		case it == nil:
			record = w.old.find(event.Seq(number*leafEvents) + event.Seq(place))
		case !it.removed:
			record = appendItem(record, it)
			w.record = record
		}
		if len(record) > 0 {
			b = append(binary.AppendUvarint(append(b, byte(place)), uint64(len(record))), record...)
		}
	}
	w.plain = b
	if len(b) == 0 {
		return to, was, nil
	}
	n := len(to)
	to = slices.Grow(to, s2.MaxEncodedLen(len(b)))
	return to[:n+len(s2.EncodeSnappy(to[n:cap(to)], b))], was, nil
}
