package embedded

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/hooktender/hooktender/event"
)

const (
	pageSpan = 1024 // event numbers that a page of Pending covers at most
	maxIdle  = 2    // leaves in which no event waits which it steps over before it asks the list
)

// Pending implements journal.Journal. A start waits for it, with a million events after an outage: so all processors read pages, in turn, and a page is decoded with
// one allocation.
func (e *Engine) Pending(ctx context.Context, fn func([]event.Record) error) error {
	if err := e.settle(ctx); err != nil {
		return err
	}
	v, err := e.view()
	if err != nil {
		return err
	}
	defer v.release()
	e.walks.begin()
	defer e.walks.end()
	w := &pendingWalk{e: e, snap: v.snap, fn: fn, list: v.snap.walk([]byte{prefixState, byte(event.Pending)}, false), last: make(chan struct{})}
	defer w.list.Close()
	close(w.last)
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) - 1 {
		readers.Go(func() { w.read(ctx) })
	}
	w.read(ctx)
	readers.Wait()
	return w.err
}

// walks are the calls of Pending that are under way. For a while they do not share the processors with compactions, for which events that are written meanwhile may come to
// wait.
type walks struct {
	n     atomic.Int64
	began atomic.Int64 // the last one, Unix nanoseconds
}

const (
	walkFavoured = 3 * time.Second
	walkRest     = 50 * time.Millisecond // after which who gives way looks again
)

func (w *walks) begin() {
	w.began.Store(time.Now().UnixNano())
	w.n.Add(1)
}

func (w *walks) end() { w.n.Add(-1) }

// giveWay returns when no walk is favoured, or stop is closed.
func (w *walks) giveWay(stop <-chan struct{}) {
	for w.n.Load() > 0 && time.Since(time.Unix(0, w.began.Load())) <= walkFavoured {
		select {
		case <-stop:
			return
		case <-time.After(walkRest):
		}
	}
}

// A pendingWalk is one call of Pending, shared by those who read for it.
type pendingWalk struct {
	e    *Engine
	snap *snapshot
	fn   func([]event.Record) error

	mu   sync.Mutex
	list *badger.Iterator
	from event.Seq     // behind the last page that somebody reads
	last chan struct{} // is closed when that page has been handed over

	err error // why it ended; of whose turn it is
}

// claim gives the number of the first event of the next page, whose turn it is when before is closed, and which then closes done; 0: there are no more.
func (w *pendingWalk) claim() (first event.Seq, before, done chan struct{}) {
	w.mu.Lock()
	if w.list.Seek(stateKey(event.Pending, w.from)); w.list.Valid() {
		first, before, done = seqOf(w.list.Item().Key()), w.last, make(chan struct{})
		w.from, w.last = first+pageSpan, done
	}
	w.mu.Unlock()
	return first, before, done
}

// read reads pages and hands them over, each in its turn, until there are no more or one has failed.
func (w *pendingWalk) read(ctx context.Context) {
	p := &pendingPage{snap: w.snap, list: w.snap.walk([]byte{prefixState, byte(event.Pending)}, false), records: w.snap.walk([]byte{prefixRecord}, false)}
	defer p.close()
	for failed := false; !failed; {
		first, before, done := w.claim()
		if first == 0 {
			return
		}
		err := w.e.usable(ctx)
		if err == nil {
			if err = p.read(first); err != nil {
				err = w.e.indexError(err)
			}
		}
		<-before
		if w.err == nil {
			if err == nil && len(p.page) > 0 {
				err = w.fn(p.page)
			}
			w.err = err
		}
		failed = w.err != nil
		close(done)
	}
}

// A pendingPage reads page after page.
type pendingPage struct {
	snap          *snapshot
	list, records *badger.Iterator
	leaf          leaf
	page          []event.Record
	bodies        []byte // of the page's records
	ends          []int  // where each ends in it
}

func (p *pendingPage) close() {
	p.list.Close()
	p.records.Close()
}

// read fills the page with what is pending of the pageSpan events from first on. Where most events wait, which after an outage they do, stepping through the
// records costs half of stepping through the list beside them. So the list is asked only after leaves in which none waits.
func (p *pendingPage) read(first event.Seq) error {
	p.page, p.bodies, p.ends = p.page[:0], p.bodies[:0], p.ends[:0]
	for seq, idle := first, maxIdle; ; idle++ {
		if idle >= maxIdle {
			if p.list.Seek(stateKey(event.Pending, seq)); !p.list.Valid() {
				break
			}
			idle = 0
			p.records.Seek(leafKey(leafOf(seqOf(p.list.Item().Key()))))
		}
		if !p.records.Valid() {
			break
		}
		if err := p.leaf.decodeEntry(p.snap, p.records.Item()); err != nil {
			return err
		}
		n := len(p.page)
		for i := range p.leaf.n {
			if seq = p.leaf.seq(i); seq < first || seq >= first+pageSpan {
				continue
			}
			if err := p.take(p.leaf.records[i]); err != nil {
				return fmt.Errorf("index entry of event %d: %w", seq, err)
			}
		}
		if seq++; seq >= first+pageSpan {
			break
		}
		if len(p.page) > n {
			idle = -1
		}
		p.records.Next()
	}
	return p.decode()
}

// take adds an encoded item to the page if it is pending, its body yet to be decoded.
func (p *pendingPage) take(b []byte) error {
	v, ok := viewItem(b)
	if !ok || len(v.body) < 3 {
		return errCodec
	}
	if v.marker || event.State(v.body[1]) != event.Pending {
		return nil
	}
	id := event.ID(v.id)
	p.page = append(p.page, event.Record{ID: id, Seq: id.Seq(), Rev: v.rev, Duplicates: uint32(v.dups), Conflicts: uint32(v.conflicts),
		HasPayload: v.hasPayload}) // what is pending keeps it
	p.bodies = append(p.bodies, v.body...)
	p.ends = append(p.ends, len(p.bodies))
	return nil
}

// decode completes the records of the page; all their strings share one allocation.
func (p *pendingPage) decode() error {
	text, from := string(p.bodies), 0
	for i, to := range p.ends {
		if err := decodeFields(&p.page[i], decoder{buf: p.bodies[from:to], text: text[from:to]}); err != nil {
			return fmt.Errorf("index entry of event %d: %w", p.page[i].Seq, err)
		}
		from = to
	}
	return nil
}
