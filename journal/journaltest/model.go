package journaltest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Disk is what a Model leaves behind: changes in order, and how many of them an fsync has confirmed. The zero Disk is an empty one.
type Disk struct {
	mu      sync.Mutex
	log     []func(*state)
	synced  int
	born    time.Time
	forgets bool // keeps no log
}

// Unsynced is how many changes a power cut may take.
func (d *Disk) Unsynced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log) - d.synced
}

// Cut takes the last n changes, as a power cut does; at most those that were never synced.
func (d *Disk) Cut(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = d.log[:max(d.synced, len(d.log)-n)]
	d.synced = len(d.log)
}

// Lie takes the last n changes whether they were synced or not, as no disk should: so that a test can show that it finds out.
func (d *Disk) Lie(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = d.log[:max(0, len(d.log)-n)]
	d.synced = len(d.log)
}

// ModelOptions of OpenModel. Nil members are absent.
type ModelOptions struct {
	Config
	// Before is called, unlocked, before what a power cut or a kill may come between: "accept", "commit", "note", "meta" (nothing is
	// written yet), "written" (it is, and nobody was told) and "sync". It may block.
	Before func(what string)
}

// Model is a journal in memory: the contract in the fewest words, for simulations. It also passes Run.
type Model struct {
	disk *Disk
	o    ModelOptions

	mu      sync.Mutex
	st      *state
	closed  error
	heard   []heard
	hearing sync.Mutex
}

type heard struct {
	old       event.State
	oldReason event.Reason
	rec       *event.Record // nobody changes it
}

// state is what the log says.
type state struct {
	seq       event.Seq
	rev       uint64
	born      time.Time
	records   map[event.Seq]*item
	keys      map[event.Key]*marker
	resources map[event.ResourceKey]event.ResourceState
	meta      map[string][]byte
	last      map[string]*event.Record // last delivered, by source
}

type item struct {
	rec      *event.Record // nobody changes it: another takes its place
	payload  *event.Payload
	attempts []*event.Attempt // by number
	keys     []event.Key
}

// marker is what is known under a key: the item, or its last fate once the record is gone.
type marker struct {
	fate event.Fate
	item *item
}

func (x *marker) now() event.Fate {
	if x.item != nil {
		return x.item.rec.Fate()
	}
	return x.fate
}

// OpenModel opens what is on a disk. Without one (nil) nothing outlives the model.
func OpenModel(d *Disk, o ModelOptions) *Model {
	if d == nil {
		d = &Disk{forgets: true}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	def := journal.DefaultRetention()
	o.Retention.Dedup = cmp.Or(o.Retention.Dedup, def.Dedup)
	o.Retention.Payload = cmp.Or(o.Retention.Payload, def.Payload)
	o.Retention.Record = cmp.Or(o.Retention.Record, def.Record)
	o.Retention.DeadLetter = cmp.Or(o.Retention.DeadLetter, def.DeadLetter)
	if o.Before == nil {
		o.Before = func(string) {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.born.IsZero() {
		d.born = o.Now()
	}
	st := &state{born: d.born, records: map[event.Seq]*item{}, keys: map[event.Key]*marker{}, resources: map[event.ResourceKey]event.ResourceState{},
		meta: map[string][]byte{}, last: map[string]*event.Record{}}
	for _, change := range d.log {
		change(st)
	}
	d.synced = len(d.log) // what an engine finds it makes durable before it says so
	return &Model{disk: d, o: o, st: st}
}

// Kill ends the model as a SIGKILL does: from now on nothing is written and nobody is told anything.
func (m *Model) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = journal.ErrClosed
}

// apply writes a change. The caller holds mu.
func (m *Model) apply(change func(*state)) {
	if !m.disk.forgets {
		m.disk.mu.Lock()
		m.disk.log = append(m.disk.log, change)
		m.disk.mu.Unlock()
	}
	change(m.st)
}

func (m *Model) tell(old event.State, oldReason event.Reason, rec *event.Record) {
	if m.o.Observer != nil {
		m.heard = append(m.heard, heard{old, oldReason, rec})
	}
}

// done lets the observer hear, then waits for the disk if asked.
func (m *Model) done(ctx context.Context, d journal.Durability) error {
	for m.o.Observer != nil && m.hearing.TryLock() {
		m.mu.Lock()
		list := m.heard
		m.heard = nil
		m.mu.Unlock()
		for i := range list {
			m.o.Observer(list[i].old, list[i].oldReason, list[i].rec)
		}
		m.hearing.Unlock()
		if len(list) == 0 {
			break
		}
	}
	m.o.Before("written")
	if d == journal.Synced && m.disk.forgets {
		m.o.Before("sync")
	} else if d == journal.Synced {
		m.disk.mu.Lock()
		upTo := len(m.disk.log)
		m.disk.mu.Unlock()
		m.o.Before("sync")
		m.mu.Lock()
		if m.closed == nil {
			m.disk.mu.Lock()
			m.disk.synced = max(m.disk.synced, min(upTo, len(m.disk.log)))
			m.disk.mu.Unlock()
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return m.closed
	}
	return ctx.Err()
}

// enter begins a call: the caller holds mu if err is nil.
func (m *Model) enter(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if what != "" {
		m.o.Before(what)
	}
	m.mu.Lock()
	if m.closed != nil {
		m.mu.Unlock()
		return m.closed
	}
	return nil
}

// known gives what is under a key now.
func (m *Model) known(k event.Key) *marker {
	x := m.st.keys[k]
	if x == nil {
		return nil
	}
	if x.item != nil && (x.item.rec.State == event.Pending || x.item.rec.DeadLetter() && x.item.rec.Reason != event.Expired) || m.o.Now().Sub(x.now().ReceivedAt) < m.o.Retention.Dedup {
		return x
	}
	return nil
}

func (x *marker) record() event.Record {
	if x.item != nil {
		return *x.item.rec
	}
	f := x.fate
	return event.Record{ID: f.ID, State: f.State, Reason: f.Reason, ReceivedAt: f.ReceivedAt, BodySHA256: f.BodySHA256}
}

func copyPayload(p *event.Payload) *event.Payload {
	if p == nil {
		return nil
	}
	room := make([]byte, 0, len(p.Target)+len(p.Host)+len(p.Head)+len(p.Body))
	put := func(b []byte) []byte {
		room = append(room, b...)
		return room[len(room)-len(b) : len(room) : len(room)]
	}
	c := *p
	c.Target, c.Host, c.Head, c.Body = put(p.Target), put(p.Host), put(p.Head), put(p.Body)
	return &c
}

// Accept is journal.Journal's.
func (m *Model) Accept(ctx context.Context, evs []journal.Accept, d journal.Durability) ([]journal.Verdict, error) {
	out, changes := make([]journal.Verdict, len(evs)), make([]change, len(evs))
	for i := range evs {
		changes[i].copy(&journal.Transition{Record: evs[i].Record, Payload: evs[i].Payload, Cursor: evs[i].Cursor})
	}
	if err := m.enter(ctx, "accept"); err != nil {
		return nil, err
	}
	if m.o.Full != nil && m.o.Full() {
		for i := range evs {
			if m.duplicateOf(evs[i].Keys) < 0 {
				m.mu.Unlock()
				return nil, journal.ErrFull
			}
		}
	}
	for i := range evs {
		if k := m.duplicateOf(evs[i].Keys); k >= 0 {
			out[i] = journal.Verdict{Key: k, Record: m.known(evs[i].Keys[k]).record()}
			continue
		}
		rec, payload, cursor := changes[i].rec, changes[i].payload, changes[i].cursor
		rec.Seq, rec.Rev, rec.HasPayload = m.st.seq+1, m.st.rev+1, payload != nil
		rec.ID = event.MakeID(rec.ReceivedAt, rec.Seq, uint16(rec.Seq*40503))
		keys := append(slices.Clone(evs[i].Keys), evs[i].Aliases...)
		m.apply(func(st *state) {
			st.seq, st.rev = rec.Seq, rec.Rev
			x := &item{rec: rec, payload: payload, keys: keys}
			if rec.Reason == event.Delivering && rec.Attempts > 0 {
				x.note(&event.Attempt{N: rec.Attempts, Trigger: rec.LastTrigger, StartedAt: rec.LastAttemptAt})
			}
			st.records[rec.Seq] = x
			for _, k := range keys {
				st.keys[k] = &marker{item: x}
			}
			if cursor != nil {
				st.resources[cursor.ResourceKey] = *cursor
			}
			st.delivered(rec, &event.Record{})
		})
		m.tell(0, 0, rec)
		out[i].Accepted, out[i].Key = true, -1
	}
	m.mu.Unlock()
	for i := range out {
		if out[i].Accepted {
			out[i].Record = *changes[i].rec
		}
	}
	return out, m.done(ctx, d)
}

func (m *Model) duplicateOf(keys []event.Key) int {
	return slices.IndexFunc(keys, func(k event.Key) bool { return m.known(k) != nil })
}

// delivered notes the last delivery of a source. One whose forced replay has failed is no delivery, it falls back.
func (st *state) delivered(rec, old *event.Record) {
	back := old.ReplayID != "" && !old.DeliveredAt.IsZero() && old.DeliveredAt.Equal(rec.DeliveredAt)
	if (rec.State == event.Delivered || rec.State == event.Replayed) && rec.State != old.State && !back {
		st.last[rec.Source] = rec
	}
}

// note puts an attempt, which nobody changes, in its place.
func (x *item) note(at *event.Attempt) {
	i, known := slices.BinarySearchFunc(x.attempts, at.N, func(a *event.Attempt, n int) int { return cmp.Compare(a.N, n) })
	if !known {
		x.attempts = slices.Insert(x.attempts, i, at)
	}
	x.attempts[i] = at
}

// put replaces a record.
func (st *state) put(rec *event.Record, payload *event.Payload, at *event.Attempt, cursor *event.ResourceState) {
	x := st.records[rec.Seq]
	if x == nil {
		return
	}
	st.delivered(rec, x.rec)
	st.rev = max(st.rev, rec.Rev)
	x.rec = rec
	if payload != nil {
		x.payload = payload
	} else if !rec.HasPayload {
		x.payload = nil
	}
	if at != nil {
		x.note(at)
	}
	if cursor != nil {
		st.resources[cursor.ResourceKey] = *cursor
	}
}

// change is a transition that the model may keep: made before the lock is taken, as most of the work is.
type change struct {
	rec     *event.Record
	payload *event.Payload
	attempt *event.Attempt
	cursor  *event.ResourceState
}

func (c *change) copy(t *journal.Transition) {
	rec := t.Record
	c.rec, c.payload, c.cursor = &rec, copyPayload(t.Payload), clone(t.Cursor)
	if c.attempt = clone(t.Attempt); c.attempt != nil {
		c.attempt.Excerpt = slices.Clone(c.attempt.Excerpt)
	}
}

func clone[T any](x *T) *T {
	if x == nil {
		return nil
	}
	c := *x
	return &c
}

// Commit is journal.Journal's.
func (m *Model) Commit(ctx context.Context, ts []journal.Transition, d journal.Durability) ([]journal.Outcome, error) {
	what := "commit"
	if len(ts) == 0 {
		what = ""
	}
	out, changes := make([]journal.Outcome, len(ts)), make([]change, len(ts))
	for i := range ts {
		changes[i].copy(&ts[i])
	}
	if err := m.enter(ctx, what); err != nil {
		return nil, err
	}
	for i := range ts {
		c := &changes[i]
		rec, payload, at, cursor := c.rec, c.payload, c.attempt, c.cursor
		x := m.st.records[rec.ID.Seq()]
		if x == nil || x.rec.ID != rec.ID {
			continue
		}
		if x.rec.Rev != rec.Rev {
			out[i].Record = *x.rec
			continue
		}
		rec.Seq, rec.Rev = x.rec.Seq, m.st.rev+1
		rec.Duplicates, rec.Conflicts = max(rec.Duplicates, x.rec.Duplicates), max(rec.Conflicts, x.rec.Conflicts)
		rec.HasPayload = payload != nil || x.payload != nil
		old, oldReason := x.rec.State, x.rec.Reason
		m.apply(func(st *state) { st.put(rec, payload, at, cursor) })
		m.tell(old, oldReason, rec)
		out[i].Applied = true
	}
	m.mu.Unlock()
	for i := range out {
		if out[i].Applied {
			out[i].Record = *changes[i].rec
		}
	}
	return out, m.done(ctx, d)
}

// SetCursor is journal.Journal's.
func (m *Model) SetCursor(ctx context.Context, rs event.ResourceState, d journal.Durability) error {
	if err := m.enter(ctx, "commit"); err != nil {
		return err
	}
	m.apply(func(st *state) { st.resources[rs.ResourceKey] = rs })
	m.mu.Unlock()
	return m.done(ctx, d)
}

// Note is journal.Journal's.
func (m *Model) Note(id event.ID, duplicates, conflicts uint32) {
	if m.enter(context.Background(), "note") != nil {
		return
	}
	defer m.mu.Unlock()
	m.apply(func(st *state) {
		if x := st.records[id.Seq()]; x != nil && x.rec.ID == id {
			rec := *x.rec
			rec.Duplicates += duplicates
			rec.Conflicts += conflicts
			x.rec = &rec
		}
	})
}

// Lookup is journal.Journal's.
func (m *Model) Lookup(ctx context.Context, keys []event.Key) ([]event.Fate, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := make([]event.Fate, len(keys))
	for i, k := range keys {
		if x := m.known(k); x != nil {
			out[i] = x.now()
		}
	}
	return out, nil
}

// Get is journal.Journal's.
func (m *Model) Get(ctx context.Context, id event.ID, withPayload bool) (event.Record, *event.Payload, error) {
	if err := m.enter(ctx, ""); err != nil {
		return event.Record{}, nil, err
	}
	var rec *event.Record // nobody changes it, nor the payload: they can be copied without the lock
	var payload *event.Payload
	var remnant event.Record
	if x := m.st.records[id.Seq()]; x != nil {
		rec, payload = x.rec, x.payload
	} else {
		for _, k := range m.st.keys {
			if k.item == nil && k.fate.ID == id {
				remnant = k.record()
			}
		}
	}
	m.mu.Unlock()
	switch {
	case rec == nil || rec.ID != id:
		return remnant, nil, journal.ErrNotFound
	case !withPayload:
		return *rec, nil, nil
	case payload == nil:
		return *rec, nil, journal.ErrNoPayload
	}
	return *rec, copyPayload(payload), nil
}

// Attempts is journal.Journal's.
func (m *Model) Attempts(ctx context.Context, id event.ID) ([]event.Attempt, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	x := m.st.records[id.Seq()]
	if x == nil || x.rec.ID != id {
		return nil, journal.ErrNotFound
	}
	var out []event.Attempt
	for _, at := range x.attempts {
		out = append(out, *at)
	}
	return out, nil
}

// List is journal.Journal's.
func (m *Model) List(ctx context.Context, q journal.Query) (journal.Page, error) {
	if err := m.enter(ctx, ""); err != nil {
		return journal.Page{}, err
	}
	defer m.mu.Unlock()
	var after event.Seq
	if q.Cursor != "" {
		var err error
		if after, err = journal.ParseCursor(q.Cursor); err != nil {
			return journal.Page{}, err
		}
	}
	limit := min(cmp.Or(q.Limit, 100), 500)
	seqs := slices.Sorted(maps.Keys(m.st.records))
	if !q.Asc {
		slices.Reverse(seqs)
	}
	var p journal.Page
	for _, s := range seqs {
		if q.Cursor != "" && (q.Asc && s <= after || !q.Asc && s >= after) || !matches(&q, m.st.records[s].rec) {
			continue
		}
		if len(p.Records) == limit {
			p.Next = journal.CursorAfter(p.Records[limit-1].Seq)
			break
		}
		p.Records = append(p.Records, *m.st.records[s].rec)
	}
	return p, nil
}

func matches(q *journal.Query, r *event.Record) bool {
	return (q.Source == "" || q.Source == r.Source) && (len(q.States) == 0 || slices.Contains(q.States, r.State)) &&
		(len(q.Reasons) == 0 || slices.Contains(q.Reasons, r.Reason)) && (q.Type == "" || q.Type == r.Type) &&
		(q.Resource == "" || q.Resource == r.Resource) && (q.EventID == "" || q.EventID == r.EventID) &&
		(q.ReplayID == "" || q.ReplayID == r.ReplayID) && (q.Since.IsZero() || !r.ReceivedAt.Before(q.Since)) &&
		(q.Until.IsZero() || r.ReceivedAt.Before(q.Until)) && (q.MaxSeq == 0 || r.Seq <= q.MaxSeq)
}

// Pending is journal.Journal's.
func (m *Model) Pending(ctx context.Context, fn func([]event.Record) error) error {
	if err := m.enter(ctx, ""); err != nil {
		return err
	}
	var out []event.Record
	for _, s := range slices.Sorted(maps.Keys(m.st.records)) {
		if r := m.st.records[s].rec; r.State == event.Pending {
			out = append(out, *r)
		}
	}
	m.mu.Unlock()
	for page := range slices.Chunk(out, 7) {
		if err := fn(page); err != nil {
			return err
		}
	}
	return nil
}

// Resources is journal.Journal's.
func (m *Model) Resources(ctx context.Context, keys []event.ResourceKey) ([]event.ResourceState, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := make([]event.ResourceState, len(keys))
	for i, k := range keys {
		out[i] = m.st.resources[k]
		out[i].ResourceKey = k
	}
	return out, nil
}

// Counts is journal.Journal's.
func (m *Model) Counts(ctx context.Context) ([]journal.Count, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var out []journal.Count
	at := 0 // of the last one: most are like it
	for _, x := range m.st.records {
		same := func(c journal.Count) bool {
			return c.State == x.rec.State && c.Reason == x.rec.Reason && c.Source == x.rec.Source
		}
		if at >= len(out) || !same(out[at]) {
			if at = slices.IndexFunc(out, same); at < 0 {
				at, out = len(out), append(out, journal.Count{Source: x.rec.Source, State: x.rec.State, Reason: x.rec.Reason})
			}
		}
		out[at].N++
	}
	return out, nil
}

// Checkpoint is journal.Journal's.
func (m *Model) Checkpoint(ctx context.Context, source string) (journal.Checkpoint, error) {
	if err := m.enter(ctx, ""); err != nil {
		return journal.Checkpoint{}, err
	}
	defer m.mu.Unlock()
	cp := journal.Checkpoint{Source: source}
	if last := m.st.last[source]; last != nil {
		cp.LastDelivered = *last
	}
	if x := m.st.records[cp.LastDelivered.Seq]; x != nil {
		cp.LastDelivered = *x.rec
	}
	open, holes := false, int64(0)
	for _, s := range slices.Sorted(maps.Keys(m.st.records)) {
		r := m.st.records[s].rec
		if r.Source != source {
			continue
		}
		switch {
		case r.Settled() && !open:
			cp.Seq, cp.Record = s, *r
		case r.Settled():
			cp.Holes = holes
		default:
			open, holes = true, holes+1
		}
		if r.DeadLetter() {
			cp.Failed++
		}
		if r.State == event.Pending {
			cp.Pending++
			if cp.OldestPending.IsZero() || r.ReceivedAt.Before(cp.OldestPending) {
				cp.OldestPending = r.ReceivedAt
			}
		}
	}
	return cp, nil
}

// MetaGet is journal.Journal's.
func (m *Model) MetaGet(ctx context.Context, key string) ([]byte, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return m.st.meta[key], nil
}

// MetaPut is journal.Journal's.
func (m *Model) MetaPut(ctx context.Context, key string, value []byte, d journal.Durability) error {
	if err := m.enter(ctx, "meta"); err != nil {
		return err
	}
	if value != nil {
		value = append([]byte{}, value...)
	}
	m.apply(func(st *state) {
		if value == nil {
			delete(st.meta, key)
		} else {
			st.meta[key] = value
		}
	})
	m.mu.Unlock()
	return m.done(ctx, d)
}

// MetaList is journal.Journal's.
func (m *Model) MetaList(ctx context.Context, prefix string) ([]journal.MetaEntry, error) {
	if err := m.enter(ctx, ""); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var out []journal.MetaEntry
	for _, k := range slices.Sorted(maps.Keys(m.st.meta)) {
		if strings.HasPrefix(k, prefix) {
			out = append(out, journal.MetaEntry{Key: k, Value: m.st.meta[k]})
		}
	}
	return out, nil
}

// Sweep is journal.Journal's.
func (m *Model) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := m.enter(ctx, ""); err != nil {
		return 0, err
	}
	n := 0
	for _, s := range slices.Sorted(maps.Keys(m.st.records)) {
		if n == limit {
			break
		}
		x := m.st.records[s]
		rec, age, ret := new(*x.rec), now.Sub(x.rec.SettledAt), m.o.Retention
		switch {
		case rec.State == event.Pending:
			continue
		case rec.DeadLetter() && rec.Reason != event.Expired:
			if age < ret.DeadLetter {
				continue
			}
			old, oldReason := rec.State, rec.Reason
			rec.Reason, rec.SettledAt, rec.HasPayload, rec.Rev = event.Expired, now, false, m.st.rev+1
			m.apply(func(st *state) { st.put(rec, nil, nil, nil) })
			m.tell(old, oldReason, rec)
		case age >= ret.Record && (rec.State != event.Failed || now.Sub(rec.ReceivedAt) >= ret.Dedup):
			m.apply(func(st *state) { st.forget(s) })
		case rec.HasPayload && age >= ret.Payload:
			rec.HasPayload = false
			m.apply(func(st *state) { st.put(rec, nil, nil, nil) })
		default:
			continue
		}
		n++
	}
	if n < limit {
		m.apply(func(st *state) {
			maps.DeleteFunc(st.keys, func(_ event.Key, k *marker) bool {
				return k.item == nil && now.Sub(k.fate.ReceivedAt) >= m.o.Retention.Dedup
			})
		})
	}
	m.mu.Unlock()
	return n, m.done(ctx, journal.Written)
}

// forget drops a record and leaves its markers.
func (st *state) forget(s event.Seq) {
	x := st.records[s]
	delete(st.records, s)
	for _, k := range x.keys {
		if m := st.keys[k]; m != nil && m.item == x {
			m.fate, m.item = x.rec.Fate(), nil
		}
	}
}

// Stats is journal.Journal's.
func (m *Model) Stats() journal.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return journal.Stats{CoversSince: m.st.born, Born: m.st.born, LastRev: m.st.rev, FreeBytes: 1 << 40, Full: m.o.Full != nil && m.o.Full()}
}

// Failed is journal.Journal's: a model never fails.
func (m *Model) Failed() <-chan struct{} { return nil }

// Err is journal.Journal's.
func (m *Model) Err() error { return nil }

// Close is journal.Journal's.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed == nil {
		m.disk.mu.Lock()
		m.disk.synced = len(m.disk.log)
		m.disk.mu.Unlock()
	}
	m.closed = journal.ErrClosed
	return nil
}

var _ journal.Journal = (*Model)(nil)
