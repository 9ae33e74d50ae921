package embedded

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/hooktender/hooktender/event"
)

const (
	pageSpan = 1024 // event numbers that a page of Pending covers at most
	maxIdle  = 8    // records that do not wait which it steps over before it asks the list
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
	w := &pendingWalk{e: e, snap: v.snap, fn: fn, list: v.snap.walk([]byte{prefixState, byte(event.Pending)}, false)}
	defer w.list.Close()
	w.turned.L = &w.mu
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) - 1 {
		readers.Go(func() { w.read(ctx) })
	}
	w.read(ctx)
	readers.Wait()
	return w.err
}

// A pendingWalk is one call of Pending, shared by those who read for it.
type pendingWalk struct {
	e    *Engine
	snap *snapshot
	fn   func([]event.Record) error // called by whose turn it is

	claiming sync.Mutex
	list     *badger.Iterator
	from     event.Seq // behind the last page that somebody reads
	claimed  int       // pages

	mu     sync.Mutex
	turned sync.Cond
	turn   int // the page that is next for fn
	err    error
}

// claim gives the next page to be read, and the number of the first event in it; false: there are no more.
func (w *pendingWalk) claim() (page int, first event.Seq, ok bool) {
	w.claiming.Lock()
	defer w.claiming.Unlock()
	if w.list.Seek(stateKey(event.Pending, w.from)); !w.list.Valid() {
		return 0, 0, false
	}
	page, first = w.claimed, seqOf(w.list.Item().Key())
	w.claimed, w.from = page+1, first+pageSpan
	return page, first, true
}

// read reads pages until there are no more, or one has failed.
func (w *pendingWalk) read(ctx context.Context) {
	var p *pendingPage
	for {
		n, first, ok := w.claim()
		if !ok {
			return
		}
		if p == nil {
			p = &pendingPage{list: w.snap.walk([]byte{prefixState, byte(event.Pending)}, false), records: w.snap.walk([]byte{prefixRecord}, false)}
			defer p.close()
		}
		err := w.e.usable(ctx)
		if err == nil {
			if err = p.read(first); err != nil {
				err = w.e.indexError(err)
			}
		}
		if !w.deliver(n, p.page, err) {
			return
		}
	}
}

// deliver hands over a page, or why there is none, when its turn has come. False: the walk has failed.
func (w *pendingWalk) deliver(n int, page []event.Record, err error) bool {
	w.mu.Lock()
	for w.turn != n {
		w.turned.Wait()
	}
	failed := w.err != nil
	w.mu.Unlock()
	if !failed && err == nil && len(page) > 0 {
		err = w.fn(page)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turn++; w.err == nil {
		w.err = err
	}
	w.turned.Broadcast()
	return w.err == nil
}

// A pendingPage reads page after page.
type pendingPage struct {
	list, records *badger.Iterator
	page          []event.Record
	bodies        []byte // of the page's records
	ends          []int  // where each ends in it
}

func (p *pendingPage) close() {
	p.list.Close()
	p.records.Close()
}

// read fills the page with what is pending of the pageSpan events from first, which is, on. Where most events wait, which after an outage they do, stepping through the
// records costs half of stepping through the list beside them. So the list is asked only after a few that do not wait.
func (p *pendingPage) read(first event.Seq) error {
	p.page, p.bodies, p.ends = p.page[:0], p.bodies[:0], p.ends[:0]
	idle := 0
	for p.records.Seek(recordKey(first)); p.records.Valid(); p.records.Next() {
		seq := seqOf(p.records.Item().Key())
		if idle == maxIdle {
			idle = 0
			if p.list.Seek(stateKey(event.Pending, seq)); !p.list.Valid() {
				break
			}
			if seq = seqOf(p.list.Item().Key()); seq < first+pageSpan {
				p.records.Seek(recordKey(seq))
			}
		}
		if seq >= first+pageSpan || !p.records.Valid() {
			break
		}
		n := len(p.page)
		if err := p.records.Item().Value(p.take); err != nil {
			return fmt.Errorf("index entry of event %d: %w", seq, err)
		}
		if idle++; len(p.page) > n {
			idle = 0
		}
	}
	return p.decode()
}

// take adds an encoded item to the page if it is pending, its body yet to be decoded.
func (p *pendingPage) take(b []byte) error {
	n := len(p.page)
	p.page = append(p.page, event.Record{})
	body, err := viewPending(b, &p.page[n])
	if body == nil {
		p.page = p.page[:n]
		return err
	}
	p.bodies = append(p.bodies, body...)
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
