package embedded

import (
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A view is one state of the journal for a read of several steps: what the overlay says, and a snapshot of the index
// beneath it, taken together. It must be released.
type view struct {
	e    *Engine
	snap *snapshot
	gen  uint64
}

// view takes the present state; journal.ErrClosed if there is none any more.
func (e *Engine) view() (view, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.viewLocked()
}

func (e *Engine) viewLocked() (view, error) {
	if e.snap == nil {
		return view{}, journal.ErrClosed
	}
	e.snap.refs.Add(1)
	e.reading.Add(1)
	return view{e: e, snap: e.snap, gen: e.gen.Load()}, nil
}

func (v *view) release() {
	v.snap.release()
	v.e.reading.Done()
}

// indexedOwner is the event under a key in the index alone.
func (e *Engine) indexedOwner(k event.Key) (event.Seq, error) {
	if e.filters.now.Load().absent(k) {
		return 0, nil
	}
	v, err := e.view()
	if err != nil {
		return 0, err
	}
	defer v.release()
	return v.snap.owner(k)
}

// layers calls fn with the overlay's layers, newest first, until it reports true. mu must be held.
func (e *Engine) layers(fn func(*layer) bool) bool {
	return fn(e.active) || e.frozen != nil && fn(e.frozen)
}

// overlaid is an event's item if the overlay has it, else what it adds to the counters of the one in the index. mu must be held.
func (e *Engine) overlaid(seq event.Seq) (it *item, n noteCount) {
	e.layers(func(l *layer) bool {
		if it = l.items[seq]; it == nil {
			n = n.plus(l.counts[seq])
		}
		return it != nil
	})
	return it, n
}

// overlayItem is overlaid, and the generation of the index beneath.
func (e *Engine) overlayItem(seq event.Seq) (it *item, n noteCount, gen uint64) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	it, n = e.overlaid(seq)
	return it, n, e.gen.Load()
}

// overlayOwner is the event under a key if the overlay knows the key, else 0, and the generation of the index beneath.
func (e *Engine) overlayOwner(k event.Key) (seq event.Seq, gen uint64) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	e.layers(func(l *layer) bool { seq = l.keys[k]; return seq != 0 })
	return seq, e.gen.Load()
}

// item is an event's item, removed ones included; nil if there is none.
func (e *Engine) item(seq event.Seq) (*item, error) {
	e.mu.RLock()
	it, n := e.overlaid(seq)
	if it != nil {
		e.mu.RUnlock()
		return it, nil
	}
	v, err := e.viewLocked()
	e.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	defer v.release()
	it, err = v.snap.item(seq)
	return it.plus(n), err
}

// owner is the event under a key; 0 if there is none. Between the two looks a key can only move from the overlay to the index.
func (e *Engine) owner(k event.Key) (event.Seq, error) {
	if seq, _ := e.overlayOwner(k); seq != 0 {
		return seq, nil
	}
	return e.indexedOwner(k)
}

// recentItem is an item as the index has it at a generation: a transition mostly follows a look at the record, which need not be read twice.
type recentItem struct {
	item *item
	gen  uint64
}

// live is an event's item if it still has a record, nil if not, and the notes that are not in the item yet.
func (e *Engine) live(id event.ID) (it *item, n noteCount, err error) {
	seq := id.Seq()
	e.mu.RLock()
	it, n = e.overlaid(seq)
	n = n.plus(e.noted(id))
	if it == nil {
		var v view
		v, err = e.viewLocked()
		e.mu.RUnlock()
		if err != nil {
			return nil, n, err
		}
		it, err = v.snap.item(seq)
		v.release()
		if it != nil {
			e.recent[seq%event.Seq(len(e.recent))].Store(&recentItem{it, v.gen})
		}
	} else {
		e.mu.RUnlock()
	}
	if err != nil || it == nil || it.removed || it.marker || it.id != id {
		return nil, n, err
	}
	return it, n, nil
}

// noted are the notes about an event that are not in its item yet. mu must be held.
func (e *Engine) noted(id event.ID) noteCount {
	return e.notes[id].plus(e.notesTaken[id])
}

// record decodes an item as readers see it, n being the notes as of when the item was found.
func (e *Engine) record(it *item, n noteCount) (event.Record, error) {
	e.mu.RLock()
	horizon := e.horizon
	e.mu.RUnlock()
	r, err := it.record(horizon)
	r.Duplicates += n.duplicates
	r.Conflicts += n.conflicts
	return r, err
}

// Note implements journal.Journal.
func (e *Engine) Note(id event.ID, duplicates, conflicts uint32) {
	if duplicates == 0 && conflicts == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.notes == nil {
		e.notes = map[event.ID]noteCount{}
		time.AfterFunc(noteDelay, func() {
			e.mu.Lock()
			e.notesDue = len(e.notes) > 0
			e.mu.Unlock()
			e.queue.nudge()
		})
	}
	e.notes[id] = e.notes[id].plus(noteCount{duplicates, conflicts})
}

// noteDelay is how long notes wait for each other: a storm of duplicates is written in pieces, and nobody waits for it.
const noteDelay = 5 * time.Millisecond

func (e *Engine) notesAreDue() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.notesDue
}

func (e *Engine) hasNotes() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.notes)+len(e.notesTaken) > 0
}

// takeNotes hands the notes to the writer; until it publishes them, readers add them.
func (e *Engine) takeNotes() map[event.ID]noteCount {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.notes) == 0 {
		return nil
	}
	e.notesTaken, e.notes, e.notesDue = e.notes, nil, false
	return e.notesTaken
}
