package recovery

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// hub tells those who wait that a record has changed. The journal's observer feeds it; with nobody waiting that costs one atomic load.
type hub struct {
	listeners atomic.Int64
	mu        sync.Mutex
	byID      map[string]map[chan struct{}]struct{} // our id, or the sender's
	streams   map[*stream]struct{}
	done      chan struct{}
	once      sync.Once
}

// stream is one follower of all changes. It holds the changes that it has not read yet, at most streamBuffer; one that falls behind is
// told to start over from the journal.
type stream struct {
	buffer []event.Record
	lost   bool
	ready  chan struct{} // capacity 1
}

const streamBuffer = 4096

func (h *hub) init() {
	h.byID = map[string]map[chan struct{}]struct{}{}
	h.streams = map[*stream]struct{}{}
	h.done = make(chan struct{})
}

func (h *hub) close() { h.once.Do(func() { close(h.done) }) }

func (h *hub) changed(old event.State, oldReason event.Reason, rec *event.Record) {
	if h.listeners.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range [...]string{rec.ID.String(), rec.EventID} {
		for ch := range h.byID[key] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
	if old == rec.State && oldReason == rec.Reason {
		return
	}
	for s := range h.streams {
		if len(s.buffer) >= streamBuffer {
			s.buffer, s.lost = nil, true
		}
		if !s.lost {
			s.buffer = append(s.buffer, *rec)
		}
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}

// listen asks to be told of changes of an id (ours or a sender's).
func (h *hub) listen(id string) (ch chan struct{}, stop func()) {
	ch = make(chan struct{}, 1)
	h.listeners.Add(1)
	h.mu.Lock()
	if h.byID[id] == nil {
		h.byID[id] = map[chan struct{}]struct{}{}
	}
	h.byID[id][ch] = struct{}{}
	h.mu.Unlock()
	return ch, func() {
		h.mu.Lock()
		delete(h.byID[id], ch)
		if len(h.byID[id]) == 0 {
			delete(h.byID, id)
		}
		h.mu.Unlock()
		h.listeners.Add(-1)
	}
}

// Find gives the record of an id: ours, or the sender's within a source (or, with source "", within all). Of several events with the same
// sender's id the newest is meant. Errors: journal.ErrNotFound, ErrUnknownSource, *AmbiguousError, or the journal's.
func (r *Recovery) Find(ctx context.Context, source, id string) (event.Record, error) {
	if source != "" && r.Source(source) == nil {
		return event.Record{}, ErrUnknownSource
	}
	if own, err := event.ParseID(id); err == nil {
		rec, _, err := r.journal.Get(ctx, own, false)
		if err == nil && (source == "" || rec.Source == source) {
			return rec, nil
		}
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return event.Record{}, err
		}
	}
	names := []string{source}
	if source == "" {
		names = r.sourceNames()
	}
	keys := make([]event.Key, 0, 2*len(names))
	for _, n := range names {
		keys = append(keys, event.MakeKey(event.KeyAlias, n, id), event.MakeKey(event.KeyEvent, n, "", id))
	}
	fates, err := r.journal.Lookup(ctx, keys)
	if err != nil {
		return event.Record{}, err
	}
	var found event.Record
	var in []string
	for i := range names {
		f := newer(fates[2*i], fates[2*i+1])
		if !f.Known() {
			continue
		}
		rec, _, err := r.journal.Get(ctx, f.ID, false)
		if errors.Is(err, journal.ErrNotFound) {
			continue
		}
		if err != nil {
			return event.Record{}, err
		}
		found, in = rec, append(in, names[i])
	}
	switch len(in) {
	case 0:
		return event.Record{}, journal.ErrNotFound
	case 1:
		return found, nil
	}
	return event.Record{}, &AmbiguousError{Sources: in}
}

// newer is the fate of the event that was received later.
func newer(a, b event.Fate) event.Fate {
	if !b.Known() || a.Known() && a.ID.Seq() > b.ID.Seq() {
		return a
	}
	return b
}

func (r *Recovery) sourceNames() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := make([]string, 0, len(r.sources))
	for n := range r.sources {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Await gives the record of an id as soon as until says yes to it, or when ctx ends: then the record as it is, or journal.ErrNotFound. It also waits
// for an id that has not been received yet.
func (r *Recovery) Await(ctx context.Context, source, id string, until func(*event.Record) bool) (event.Record, error) {
	ch, stop := r.hub.listen(id)
	defer stop()
	for {
		rec, err := r.Find(context.WithoutCancel(ctx), source, id)
		if err == nil && until(&rec) {
			return rec, nil
		}
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			return rec, err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return rec, err
		case <-r.hub.done:
			return rec, err
		}
	}
}

// Changes calls emit for every change of state or reason after cursor ("" = from now on), until ctx ends or emit fails. A cursor is the
// revision of a record; where the changes in between are gone, each event that changed since is emitted once, as it is.
func (r *Recovery) Changes(ctx context.Context, cursor string, emit func(cursor string, rec *event.Record) error) error {
	s := &stream{ready: make(chan struct{}, 1)}
	r.hub.listeners.Add(1)
	r.hub.mu.Lock()
	r.hub.streams[s] = struct{}{}
	r.hub.mu.Unlock()
	defer func() {
		r.hub.mu.Lock()
		delete(r.hub.streams, s)
		r.hub.mu.Unlock()
		r.hub.listeners.Add(-1)
	}()
	last := uint64(0)
	if cursor != "" {
		n, err := strconv.ParseUint(cursor, 10, 64)
		if err != nil {
			return journal.ErrBadCursor
		}
		if last, err = r.catchUp(ctx, n, emit); err != nil {
			return err
		}
	}
	for {
		select {
		case <-s.ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.hub.done:
			return nil
		}
		r.hub.mu.Lock()
		batch, lost := s.buffer, s.lost
		s.buffer, s.lost = nil, false
		r.hub.mu.Unlock()
		if lost {
			var err error
			if last, err = r.catchUp(ctx, last, emit); err != nil {
				return err
			}
			continue
		}
		for i := range batch {
			if batch[i].Rev <= last {
				continue
			}
			last = batch[i].Rev
			if err := emit(strconv.FormatUint(last, 10), &batch[i]); err != nil {
				return err
			}
		}
	}
}

// catchUp emits every record that changed after rev, in order of the change, and gives the newest revision.
func (r *Recovery) catchUp(ctx context.Context, rev uint64, emit func(string, *event.Record) error) (uint64, error) {
	var changed []event.Record
	q := journal.Query{Asc: true, Limit: 500}
	for {
		page, err := r.journal.List(ctx, q)
		if err != nil {
			return rev, err
		}
		for i := range page.Records {
			if page.Records[i].Rev > rev {
				changed = append(changed, page.Records[i])
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	sort.Slice(changed, func(i, j int) bool { return changed[i].Rev < changed[j].Rev })
	for i := range changed {
		if err := emit(strconv.FormatUint(changed[i].Rev, 10), &changed[i]); err != nil {
			return rev, err
		}
		rev = changed[i].Rev
	}
	return rev, nil
}
