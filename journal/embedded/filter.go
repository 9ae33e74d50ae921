package embedded

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
)

// A keyFilter says of most keys that are not in the index that they are not, without a look at the index: nearly every
// event's key is new, and to find that out in Badger costs more than all else that an Accept does. It is a row of split
// block Bloom filters, each twice as large as the one before, about two bytes a key.
//
// It is complete once every key of the index has been added. Any number of goroutines may ask; adding takes a lock.
type keyFilter struct {
	complete atomic.Bool
	rows     atomic.Pointer[[]bloom]

	mu    sync.Mutex
	room  int // keys that the last row still takes
	added int
}

// bloom is an array of blocks of eight words; a key sets one bit in each word of one block.
type bloom [][8]atomic.Uint32

const (
	firstRowKeys    = 1 << 16
	bloomBlockKeys  = 16      // 256 bits for 16 keys: about 1 in 1,000 passes for nothing
	maxFilterKeys   = 1 << 23 // beyond, the filter would take more memory than it is worth
	filterWornExtra = 1 << 18 // keys added since its build, beyond as many as it had, before it is built again
)

func newKeyFilter() *keyFilter {
	f := &keyFilter{}
	f.rows.Store(&[]bloom{})
	return f
}

// bloomSalt spreads 32 bits of a key over the eight words.
var bloomSalt = [8]uint32{0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31}

// place gives a key's block and bits; keys are hashes already.
func (b bloom) place(k event.Key) (block *[8]atomic.Uint32, bits uint32) {
	at := uint64(binary.LittleEndian.Uint32(k[0:])) * uint64(len(b)) >> 32
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
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := *f.rows.Load()
	if f.room == 0 {
		n := firstRowKeys << len(rows)
		more := append(rows[:len(rows):len(rows)], make(bloom, n/bloomBlockKeys))
		f.rows.Store(&more)
		f.room, rows = n, more
	}
	f.room--
	f.added++
	block, bits := rows[len(rows)-1].place(k)
	for i := range block {
		block[i].Or(1 << (bits * bloomSalt[i] >> 27))
	}
}

// absent says that a key is certainly not in the index.
func (f *keyFilter) absent(k event.Key) bool {
	if f == nil || !f.complete.Load() {
		return false
	}
	for _, b := range *f.rows.Load() {
		if b.has(k) {
			return false
		}
	}
	return true
}

func (f *keyFilter) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.added
}

// filters are the filter in use and its successor. Only the applier changes them, between two flushes, so that every key is
// either in the snapshot that a build reads or added by a flush after it.
type filters struct {
	now   atomic.Pointer[keyFilter] // nil while there is none
	next  *keyFilter                // being built
	built int                       // keys that now had when it was complete
	off   bool                      // do without: there are too many keys, or a build failed

	jobs chan filterJob
	done chan *keyFilter

	walks atomic.Int64 // calls of Pending
}

type filterJob struct {
	filter *keyFilter
	view   *view
}

// walkRest is how long a build waits for another call of Pending: a start reads everything that is pending, page by page, and does not share the processor with
// what can wait.
const walkRest = 50 * time.Millisecond

// giveWay waits while Pending is called, seen calls being old; false: it was stopped.
func (s *filters) giveWay(seen *int64, stop <-chan struct{}) bool {
	for n := s.walks.Load(); n != *seen; n = s.walks.Load() {
		*seen = n
		select {
		case <-stop:
			return false
		case <-time.After(walkRest):
		}
	}
	return true
}

// beforeFlush adds a layer's keys, and begins or ends a build if it is time to.
func (e *Engine) beforeFlush(l *layer) error {
	s := &e.filters
	select {
	case f := <-s.done:
		if s.next = nil; f == nil {
			s.off = true
			break
		}
		f.complete.Store(true)
		s.now.Store(f)
		s.built = f.size()
	default:
	}
	f := s.now.Load()
	if f != nil && f.size() > maxFilterKeys && !s.off {
		s.off = true
		s.now.Store(nil)
		f = nil
	}
	if s.next == nil && !s.off && (f == nil || f.size() > 2*s.built+filterWornExtra) {
		v, err := e.view()
		if err != nil {
			return err
		}
		s.next = newKeyFilter()
		s.jobs <- filterJob{s.next, &v}
	}
	for k := range l.keys {
		if f != nil {
			f.add(k)
		}
		if s.next != nil {
			s.next.add(k)
		}
	}
	return nil
}

// buildFilters builds what the applier asks for, until stop is closed.
func (e *Engine) buildFilters(stop <-chan struct{}) {
	for {
		select {
		case j := <-e.filters.jobs:
			e.filters.done <- e.buildFilter(j, stop)
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

// buildFilter adds every key of the index; it gives nil if it was stopped, could not, or there are too many.
func (e *Engine) buildFilter(j filterJob, stop <-chan struct{}) *keyFilter {
	defer j.view.release()
	n, stopped, walks := 0, false, int64(0)
	err := j.view.snap.eachKey([]byte{prefixKey}, func(key []byte) bool {
		if n++; n%1024 == 0 {
			select {
			case <-stop:
				stopped = true
			default:
				stopped = !e.filters.giveWay(&walks, stop)
			}
		}
		if len(key) == 17 {
			j.filter.add(event.Key(key[1:]))
		}
		return !stopped && n <= maxFilterKeys
	})
	if err != nil || stopped || n > maxFilterKeys {
		return nil
	}
	return j.filter
}
