package recovery

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// hub tells those who wait that a record has changed. The journal's observer feeds it, in order of revision; with nobody waiting that costs
// one atomic load.
type hub struct {
	listeners atomic.Int64 // waiters and followers, and one more while changes are kept
	mu        sync.Mutex
	byID      map[string]map[*waiting]struct{} // our id, or the sender's
	followers map[*follower]struct{}
	keeping   bool
	ring      []event.Record // the latest changes of state or reason, while somebody follows and a while after
	first     int            // the oldest in ring, once it is full
	floor     uint64         // changes up to this revision are not in ring
	left      time.Time      // when the last follower left
	done      chan struct{}
	once      sync.Once
}

// waiting is one call that waits for an event.
type waiting struct {
	source string // "" = any
	until  func(*event.Record) bool
	woken  chan struct{} // capacity 1
}

// follower is one reader of all changes. last is its own: the revision up to which it has read.
type follower struct {
	last  uint64
	ready chan struct{} // capacity 1
}

const (
	ringSize = 8192            // changes kept
	keepFor  = 2 * time.Minute // after the last follower left: a reader whose connection broke finds what it missed
)

func (h *hub) init() {
	h.byID = map[string]map[*waiting]struct{}{}
	h.followers = map[*follower]struct{}{}
	h.done = make(chan struct{})
}

func (h *hub) close() { h.once.Do(func() { close(h.done) }) }

func (h *hub) changed(old event.State, oldReason event.Reason, rec *event.Record) {
	if h.listeners.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.byID) > 0 {
		h.wake(rec.EventID, rec)
		if id := rec.SendersID(); id != "" {
			h.wake(id, rec)
		}
		h.wake(rec.ID.String(), rec)
	}
	if !h.keeping || old == rec.State && oldReason == rec.Reason {
		return
	}
	if len(h.followers) == 0 && time.Since(h.left) > keepFor {
		h.keeping, h.ring, h.first = false, nil, 0
		h.listeners.Add(-1)
		return
	}
	if len(h.ring) < ringSize {
		h.ring = append(h.ring, *rec)
	} else {
		h.floor = h.ring[h.first].Rev
		h.ring[h.first] = *rec
		h.first = (h.first + 1) % ringSize
	}
	for f := range h.followers {
		signal(f.ready)
	}
}

func (h *hub) wake(id string, rec *event.Record) {
	for w := range h.byID[id] {
		if (w.source == "" || w.source == rec.Source) && w.until(rec) {
			signal(w.woken)
		}
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// follow makes a follower of what changes from now on; reached gives the newest revision that reads of the journal see.
func (h *hub) follow(reached func() uint64) *follower {
	f := &follower{ready: make(chan struct{}, 1)}
	h.listeners.Add(1) // first: whatever is newer than reached says is told
	h.mu.Lock()
	defer h.mu.Unlock()
	h.followers[f] = struct{}{}
	f.last = reached()
	if !h.keeping {
		h.keeping, h.floor = true, f.last
		h.listeners.Add(1)
	}
	return f
}

func (h *hub) leave(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, f)
	h.left = time.Now()
	h.listeners.Add(-1)
}

// take gives the changes after f.last, and moves it. lost: they are not kept any more; f is left alone.
func (h *hub) take(f *follower) (batch []event.Record, lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.last < h.floor {
		return nil, true
	}
	n := len(h.ring)
	at := func(i int) *event.Record { return &h.ring[(h.first+i)%n] }
	for i := sort.Search(n, func(i int) bool { return at(i).Rev > f.last }); i < n; i++ {
		batch = append(batch, *at(i))
	}
	if len(batch) > 0 {
		f.last = batch[len(batch)-1].Rev
	}
	return batch, false
}

// Watch tells of changes of an event, by our id or the sender's (source "" = of any source), also of one that was not received yet: woken
// gets a value after each change that until says yes to. until must be quick and change nothing. stop must be called once.
func (r *Recovery) Watch(source, id string, until func(*event.Record) bool) (woken <-chan struct{}, stop func()) {
	h := &r.hub
	w := &waiting{source: source, until: until, woken: make(chan struct{}, 1)}
	ids := []string{id}
	if own, err := parseOwn(id); err == nil && own.String() != id {
		ids = append(ids, own.String())
	}
	h.listeners.Add(1)
	h.mu.Lock()
	for _, id := range ids {
		if h.byID[id] == nil {
			h.byID[id] = map[*waiting]struct{}{}
		}
		h.byID[id][w] = struct{}{}
	}
	h.mu.Unlock()
	return w.woken, func() {
		h.mu.Lock()
		for _, id := range ids {
			if delete(h.byID[id], w); len(h.byID[id]) == 0 {
				delete(h.byID, id)
			}
		}
		h.mu.Unlock()
		h.listeners.Add(-1)
	}
}

// parseOwn reads an id of ours, also in lower case, as people and tools write it.
func parseOwn(id string) (event.ID, error) { return event.ParseID(strings.ToUpper(id)) }

// Find gives the record of an id: ours, or the sender's within a source (or, with source "", within all). Of several events with the same
// sender's id the newest is meant. Where only an event's marker is left the record says no more than that. Errors: journal.ErrNotFound, ErrUnknownSource, *AmbiguousError, or the journal's.
func (r *Recovery) Find(ctx context.Context, source, id string) (event.Record, error) {
	if source != "" && r.Source(source) == nil {
		known, err := r.recorded(ctx)
		if err != nil {
			return event.Record{}, err
		}
		if !slices.Contains(known, source) {
			return event.Record{}, ErrUnknownSource
		}
	}
	if own, err := parseOwn(id); err == nil {
		rec, _, err := r.journal.Get(ctx, own, false)
		if err == nil && (source == "" || rec.Source == source) || isRemnant(&rec, err) {
			return rec, nil
		}
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return event.Record{}, err
		}
	}
	names := []string{source}
	if source == "" {
		var err error
		if names, err = r.recorded(ctx); err != nil {
			return event.Record{}, err
		}
	}
	keys := make([]event.Key, 0, 3*len(names))
	for _, n := range names {
		keys = append(keys, event.MakeKey(event.KeyAlias, n, id), event.MakeKey(event.KeyEvent, n, "", id), event.MakeKey(event.KeyObserved, n, id))
	}
	fates, err := r.journal.Lookup(ctx, keys)
	if err != nil {
		return event.Record{}, err
	}
	var found event.Record
	var in []string
	for i := range names {
		f := newer(fates[3*i], fates[3*i+1])
		if !f.Known() { // what was only observed never stands in for a genuine one
			f = fates[3*i+2]
		}
		if !f.Known() {
			continue
		}
		rec, _, err := r.journal.Get(ctx, f.ID, false)
		switch {
		case isRemnant(&rec, err):
			rec.Source, rec.EventID = names[i], id
		case errors.Is(err, journal.ErrNotFound):
			continue
		case err != nil:
			return event.Record{}, err
		}
		found, in = rec, append(in, names[i])
	}
	switch len(in) {
	case 0:
		return r.findOld(ctx, source, id)
	case 1:
		return found, nil
	}
	return event.Record{}, &AmbiguousError{Sources: in}
}

// isRemnant says whether an event's record is gone and only its marker is left: what it says, and no more, is known.
func isRemnant(rec *event.Record, err error) bool {
	return errors.Is(err, journal.ErrNotFound) && !rec.ID.IsZero()
}

// findOld looks for an event that dedup has forgotten and whose record is still there. Only records from before the dedup window are looked at.
func (r *Recovery) findOld(ctx context.Context, source, id string) (event.Record, error) {
	st := r.journal.Stats()
	if !st.Born.Before(st.Forgets) {
		return event.Record{}, journal.ErrNotFound // nothing is that old
	}
	page, err := r.journal.List(ctx, journal.Query{Source: source, EventID: id, Until: st.Forgets, Limit: 1})
	if err != nil || len(page.Records) == 0 {
		return event.Record{}, cmp.Or(err, journal.ErrNotFound)
	}
	return page.Records[0], nil
}

// recorded names the sources that are configured, and those that were and have records.
func (r *Recovery) recorded(ctx context.Context) ([]string, error) {
	names := r.Names()
	counts, err := r.journal.Counts(ctx)
	for _, c := range counts {
		if c.N > 0 && !slices.Contains(names, c.Source) {
			names = append(names, c.Source)
		}
	}
	slices.Sort(names)
	return names, err
}

// newer is the fate of the event that was received later.
func newer(a, b event.Fate) event.Fate {
	if !b.Known() || a.Known() && a.ID.Seq() > b.ID.Seq() {
		return a
	}
	return b
}

// Names lists the sources of the configuration, and others as long as something of them is pending.
func (r *Recovery) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := make([]string, 0, len(r.sources))
	for n, s := range r.sources {
		if !s.removed.Load() || s.pending.Load() > 0 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (r *Recovery) reached() uint64 { return r.journal.Stats().LastRev }

// Changes calls emit for every change of state or reason after cursor ("" = from now on, which a first call without a record names), until
// ctx ends or emit fails. A cursor is the revision of a record. Where the changes since are not kept any more, each event that changed is
// emitted once, as it is, in order of its last change; a cursor beyond what a power cut has left begins so with the first event.
// journal.ErrBadCursor, before the first emit, for what is no cursor.
func (r *Recovery) Changes(ctx context.Context, cursor string, emit func(cursor string, rec *event.Record) error) error {
	f := r.hub.follow(r.reached)
	defer r.hub.leave(f)
	if cursor == "" {
		if err := emit(strconv.FormatUint(f.last, 10), nil); err != nil {
			return err
		}
	} else {
		n, err := strconv.ParseUint(cursor, 10, 64)
		if err != nil {
			return journal.ErrBadCursor
		}
		if n > f.last {
			n = 0
		}
		f.last = n
	}
	for {
		batch, lost := r.hub.take(f)
		if lost {
			if err := r.catchUp(ctx, f, emit); err != nil {
				return err
			}
			continue
		}
		for i := range batch {
			if err := emit(strconv.FormatUint(batch[i].Rev, 10), &batch[i]); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-f.ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.hub.done:
			return nil
		}
	}
}

// catchUp emits, in order of the change, every record that changed after f.last and not since the walk began: those that change later are
// among the kept changes again. Only ids are held meanwhile, since there may be very many.
func (r *Recovery) catchUp(ctx context.Context, f *follower, emit func(string, *event.Record) error) error {
	type change struct {
		rev uint64
		id  event.ID
	}
	var found []change
	upTo := r.reached()
	q := journal.Query{Asc: true, Limit: 500}
	for {
		page, err := r.journal.List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Records {
			if rec := &page.Records[i]; rec.Rev > f.last && rec.Rev <= upTo {
				found = append(found, change{rec.Rev, rec.ID})
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].rev < found[j].rev }) // a generic sort weighs more
	for _, c := range found {
		rec, _, err := r.journal.Get(ctx, c.id, false)
		if errors.Is(err, journal.ErrNotFound) || err == nil && rec.Rev != c.rev {
			continue
		}
		if err != nil {
			return err
		}
		if err := emit(strconv.FormatUint(c.rev, 10), &rec); err != nil {
			return err
		}
	}
	f.last = upTo
	return nil
}
