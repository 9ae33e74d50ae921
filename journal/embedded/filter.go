package embedded

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/hooktender/hooktender/event"
)

// A keyFilter says of most keys that are not in the index that they are not, without a look at the index: nearly every
// event's key is new, and to find that out in Badger costs more than all else that an Accept does. It is a row of split
// block Bloom filters, each four times as large as the one before, two bytes a key. When it has all the memory that it may take, the
// last one takes every further key too, and more and more keys pass for nothing.
//
// Any number of goroutines may ask and add.
type keyFilter struct {
	rows  atomic.Pointer[[]bloom]
	added atomic.Int64 // keys
	room  atomic.Int64 // keys that it takes before it needs another row

	mu   sync.Mutex // held to add a row
	left int        // blocks that further rows may have
}

// bloom is an array of blocks of eight words; a key sets one bit in each word of one block.
type bloom [][8]atomic.Uint32

const (
	firstRowKeys   = 1 << 18
	bloomBlockKeys = 16 // 256 bits for 16 keys: about 1 in 1,000 passes for nothing; with four times as many, one in three
	bloomBlockSize = 32
)

// newKeyFilter makes one whose first row is for so many keys, within most bytes.
func newKeyFilter(keys, most int64) *keyFilter {
	blocks := max(most/bloomBlockSize, 1)
	first := min(max(keys, firstRowKeys)/bloomBlockKeys, blocks)
	f := &keyFilter{left: int(blocks - first)}
	f.rows.Store(&[]bloom{make(bloom, first)})
	f.room.Store(first * bloomBlockKeys)
	return f
}

// grow adds a row, if there is memory for one that is not smaller than the last: else that one takes what comes.
func (f *keyFilter) grow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.added.Load() <= f.room.Load() { // another has
		return
	}
	rows := *f.rows.Load()
	last := len(rows[len(rows)-1])
	n := min(4*last, f.left)
	if n < last {
		f.room.Store(math.MaxInt64)
		return
	}
	f.left -= n
	more := append(rows[:len(rows):len(rows)], make(bloom, n))
	f.rows.Store(&more)
	f.room.Add(int64(n) * bloomBlockKeys)
}

// bloomSalt spreads 32 bits of a key over the eight words.
var bloomSalt = [8]uint32{0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31}

// place gives a key's block and bits; keys are hashes already. Blocks are in the order of the keys, which is that of the index: to add what a table holds goes through
// memory in one direction.
func (b bloom) place(k event.Key) (block *[8]atomic.Uint32, bits uint32) {
	at := uint64(binary.BigEndian.Uint32(k[0:])) * uint64(len(b)) >> 32
	return &b[at], binary.LittleEndian.Uint32(k[8:])
}

func (b bloom) has(k event.Key) bool {
	block, bits := b.place(k)
	for i := range block {
		if block[i].Load()&(1<<(bits*bloomSalt[i]>>27)) == 0 {
			return false
		}
	}
	return true
}

func (f *keyFilter) add(k event.Key) {
	if !f.absent(k) { // written again, as each is when its segment goes; it must not seem to be one more
		return
	}
	if f.added.Add(1) > f.room.Load() {
		f.grow()
	}
	rows := *f.rows.Load()
	block, bits := rows[len(rows)-1].place(k)
	for i := range block {
		block[i].Or(1 << (bits * bloomSalt[i] >> 27))
	}
}

// addEntry adds the key of an index entry, if it is that of a claimed key.
func (f *keyFilter) addEntry(key []byte) {
	if len(key) == 1+len(event.Key{}) && key[0] == prefixKey {
		f.add(event.Key(key[1:]))
	}
}

// addTable adds the keys in a table, deleted ones and old versions included. It panics where Badger does over a damaged block.
func (f *keyFilter) addTable(t *table.Table) error {
	it := t.NewIterator(0)
	defer it.Close()
	for it.Seek(y.KeyWithTs([]byte{prefixKey}, math.MaxUint64)); it.Valid(); it.Next() {
		key := y.ParseKey(it.Key())
		if key[0] != prefixKey {
			break
		}
		f.addEntry(key)
	}
	return nil
}

// absent says that a key is certainly not in the index.
func (f *keyFilter) absent(k event.Key) bool {
	if f == nil {
		return false
	}
	for _, b := range *f.rows.Load() {
		if b.has(k) {
			return false
		}
	}
	return true
}

// filters are the filter in use and its successor. Only the applier changes them, between two flushes, so that every key is
// either in the snapshot that a build reads or added by a flush after it.
type filters struct {
	now   atomic.Pointer[keyFilter] // nil while there is none
	next  *keyFilter                // being built
	since int64                     // the index's gone when now was built, or its build began
	off   bool                      // a build failed: there is no other

	jobs chan filterJob
	done chan bool
}

type filterJob struct {
	filter *keyFilter
	view   *view
}

// filterWorn is how many of its keys must be gone, beside half of them, before a filter is built anew.
const filterWorn = 1 << 18

// tendFilter begins or ends a build if it is time to: the filter of an index that only Badger can read is built once there is something to flush, and one that is worn is
// built anew.
func (e *Engine) tendFilter() error {
	s := &e.filters
	select {
	case ok := <-s.done:
		if s.off = !ok; ok {
			s.now.Store(s.next)
		}
		s.next = nil
	default:
	}
	if s.next != nil || s.off {
		return nil
	}
	keys := int64(0)
	if f := s.now.Load(); f != nil {
		keys = f.added.Load()
		gone := e.index.gone - s.since
		if gone < keys/2+filterWorn {
			return nil
		}
		keys -= gone
	}
	v, err := e.view()
	if err != nil {
		return err
	}
	s.next, s.since = newKeyFilter(keys, e.opts.filterBytes()), e.index.gone
	s.jobs <- filterJob{s.next, &v}
	return nil
}

// add adds a layer's keys, before it is flushed.
func (s *filters) add(l *layer) {
	f := s.now.Load()
	for k := range l.keys {
		if f != nil {
			f.add(k)
		}
		if s.next != nil {
			s.next.add(k)
		}
	}
}

// buildFilters builds what the applier asks for, until stop is closed.
func (e *Engine) buildFilters(stop <-chan struct{}) {
	for {
		select {
		case j := <-e.filters.jobs:
			e.filters.done <- j.build(stop)
		case <-stop:
			return
		}
	}
}

// dropFilterJob releases what a build that never began holds.
func (e *Engine) dropFilterJob() {
	select {
	case j := <-e.filters.jobs:
		j.view.release()
	default:
	}
}

// build adds every key of the index; false: it was stopped, or could not.
func (j filterJob) build(stop <-chan struct{}) bool {
	defer j.view.release()
	n, stopped := 0, false
	err := j.view.snap.eachKey([]byte{prefixKey}, func(key []byte) bool {
		if n++; n%1024 == 0 {
			select {
			case <-stop:
				stopped = true
			default:
			}
		}
		j.filter.addEntry(key)
		return !stopped
	})
	return err == nil && !stopped
}
