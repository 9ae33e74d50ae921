package embedded

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// The writer decides claims and revisions, and only one goroutine at a time is it: the one that leads the queue. So there are no conflicts to
// resolve. It takes everything that is queued as one group, appends a frame per change to the log, writes the group at once and only then
// publishes it to the overlay, tells the observer and releases the ops; those that want the disk wait for an fsync first.
type writer struct {
	e     *Engine
	stage *stage

	nextSeq event.Seq
	horizon int64
	now     int64 // Unix nanoseconds; the same for a whole group
	alone   int   // groups of one op since the last of more

	source  string       // of the last event
	counter *sourceCount // of source; nil = not known yet

	counted  []counted
	forgot   []forgotten
	observed []observed

	full        bool // free space is below the bound
	freeLooked  bool // in this group
	freeAt      time.Time
	freeWritten int64
	freeNear    bool
}

// counted, forgotten and observed wait for the publication of the group.
type counted struct {
	of     *sourceCount
	source string // if of is not there yet
	from   stateReason
	item   *item

	delivered bool
}

type forgotten struct {
	group
	n int64
}

type observed struct {
	old    stateReason
	record *event.Record
}

// loop is the writer's goroutine. It leads where callers cannot go on: until the queue is empty; it runs until that is closed.
func (w *writer) loop() {
	for {
		w.e.awaitRoom()
		w.gather()
		ops, open := w.e.queue.take()
		notes := w.e.takeNotes()
		switch {
		case len(ops) > 0 || len(notes) > 0:
			if syncs, _ := w.group(ops, notes, nil); syncs {
				w.e.syncs.pass()
			}
		case !open:
			return
		case w.e.queue.resign(w.e.notesAreDue):
			<-w.e.queue.turn
		}
	}
}

// gather lets every caller that is ready queue its op too: one write for all of them. It would wake an idle processor each time, so where several ops in a row
// have come alone it is only tried now and then.
func (w *writer) gather() {
	if w.alone%gatherAgain == 0 || w.alone < gatherAgain {
		runtime.Gosched()
	}
}

const gatherAgain = 8

// once decides what is queued for a caller whose push gave it the lead, its own op included, and passes the lead on to the writer's goroutine if there is more
// to do. It says whether the caller is to lead the next fsync, and whether its own op has ended already.
func (w *writer) once(own *op) (syncs, done bool) {
	decided := false
	defer func() {
		if !decided { // it panics: nobody knows what the group has left behind
			_ = w.e.fail(errPanicked)
		}
		if !decided || !w.e.queue.resign(w.busy) {
			w.e.queue.turn <- struct{}{}
		}
	}()
	w.gather()
	ops, _ := w.e.queue.take()
	syncs, done = w.group(ops, w.e.takeNotes(), own)
	decided = true
	return syncs, done
}

var errPanicked = errors.New("a panic while the log was written")

// busy says whether there is something to do that no caller should wait for.
func (w *writer) busy() bool { return w.e.notesAreDue() || w.e.weight() >= w.e.space.overlay() }

// group decides a group and releases its ops; own is the caller's who leads, nil in the writer's goroutine. It says whether the lead of the fsyncs is the
// caller's now, and whether own has ended.
func (w *writer) group(ops []*op, notes map[event.ID]noteCount, own *op) (syncs, done bool) {
	err := w.e.failure()
	if err == nil {
		if err = w.decide(ops, notes); err != nil {
			err = w.e.fail(err)
		}
	}
	if err != nil {
		for _, o := range ops {
			done = o.end(err, own) || done
		}
		return false, done
	}
	return w.e.release(ops, own)
}

// decide does the work of a group up to its publication.
func (w *writer) decide(ops []*op, notes map[event.ID]noteCount) error {
	w.now, w.freeLooked = w.e.clock.read(), false
	w.alone++
	if len(ops) > 1 {
		w.alone = 0
	}
	if err := w.note(notes); err != nil {
		return err
	}
	items := int64(len(notes))
	for _, o := range ops {
		if err := w.do(o); err != nil {
			return err
		}
		items += int64(max(1, len(o.accepts)+len(o.commits)))
	}
	if err := w.e.wal.flush(); err != nil {
		return err
	}
	w.publish()
	w.e.wal.askAhead()
	w.e.groups.Add(1)
	w.e.items.Add(items)
	if grouped := w.e.opts.Grouped; grouped != nil && items > 0 {
		grouped(items)
	}
	if observe := w.e.opts.Observer; observe != nil {
		for _, o := range w.observed {
			observe(o.old.state, o.old.reason, o.record)
		}
	}
	clear(w.observed)
	w.observed = w.observed[:0]
	return nil
}

func (w *writer) do(o *op) error {
	switch {
	case o.run != nil:
		if err := o.run(w); err != nil {
			return err
		}
		o.wait = w.e.wal.lsn
	case len(o.accepts) > 0:
		return w.accept(o)
	case len(o.commits) > 0:
		for i := range o.commits {
			if err := w.commit(o, &o.commits[i]); err != nil {
				return err
			}
		}
	default:
		o.wait = w.e.wal.lsn
	}
	return nil
}

// accept decides the items of a call. When the disk is full, the call is refused whole if any of them is new.
func (w *writer) accept(o *op) error {
	if w.checkFree(); w.full {
		for i := range o.accepts {
			known, _, err := w.known(&o.accepts[i])
			if err != nil {
				return err
			}
			if known == nil {
				o.err = journal.ErrFull
				return nil
			}
		}
	}
	for i := range o.accepts {
		a := &o.accepts[i]
		known, key, err := w.known(a)
		if err != nil {
			return err
		}
		if known != nil {
			r, err := known.record(w.horizon)
			if err != nil {
				return err
			}
			*a.verdict = journal.Verdict{Key: key, Record: r}
			o.wait = max(o.wait, known.lsn)
			continue
		}
		if err := w.store(a); err != nil {
			return err
		}
		o.wait = w.e.wal.lsn
	}
	return nil
}

// known finds the event that has one of the keys within the dedup window, and which key it is.
func (w *writer) known(a *acceptItem) (*item, int, error) {
	for i, k := range a.parts.keys[:a.parts.claimed] {
		seq, err := w.owner(k, a.owners[i], a.gen)
		if err != nil {
			return nil, 0, err
		}
		if seq == 0 {
			continue
		}
		it, err := w.item(seq)
		if err != nil {
			return nil, 0, err
		}
		if it != nil && it.remembered(w.now, w.e.retention.Load().Dedup) {
			return it, i, nil
		}
	}
	return nil, -1, nil
}

// remembered says whether the claims of an event still hold.
func (it *item) remembered(now int64, window time.Duration) bool {
	return !it.removed && (it.open() || it.receivedAt() > now-int64(window))
}

// store gives a new event its number and writes it.
func (w *writer) store(a *acceptItem) error {
	r := &a.verdict.Record
	seq := w.nextSeq
	w.nextSeq++
	a.frame.kind = kindAccept
	a.frame.id = event.MakeID(fromNanos(a.received), seq, w.e.opts.Salt())
	a.frame.dups, a.frame.conflicts = r.Duplicates, r.Conflicts
	it, err := w.change(&a.frame, &a.parts, nil)
	if err != nil {
		return err
	}
	a.verdict.Accepted, a.verdict.Key = true, -1
	it.fill(r, w.horizon)
	w.observed = append(w.observed, observed{record: r})
	return nil
}

func (w *writer) commit(o *op, c *commitItem) error {
	r := &c.outcome.Record
	old, err := w.current(c)
	if err != nil {
		return err
	}
	if old == nil || old.removed || old.marker || old.id != r.ID {
		*c.outcome = journal.Outcome{}
		return nil
	}
	if old.rev != r.Rev {
		now, err := old.record(w.horizon)
		if err != nil {
			return err
		}
		*c.outcome = journal.Outcome{Record: now}
		o.wait = max(o.wait, old.lsn)
		return nil
	}
	from := stateReason{old.state, old.reason}
	c.frame.kind = kindCommit
	c.frame.id = old.id
	c.frame.prevState, c.frame.prevReason = from.state, from.reason
	c.frame.dups, c.frame.conflicts = old.dups, old.conflicts
	if old.payloadKept(w.horizon) {
		c.frame.flags |= flagPayload
	}
	it, err := w.change(&c.frame, &c.parts, old)
	if err != nil {
		return err
	}
	c.outcome.Applied = true
	it.fill(r, w.horizon)
	w.observed = append(w.observed, observed{from, r})
	o.wait = w.e.wal.lsn
	return nil
}

// note writes notes, in one frame.
func (w *writer) note(notes map[event.ID]noteCount) error {
	if len(notes) == 0 {
		return nil
	}
	p := parts{counts: make([]eventCount, 0, len(notes))}
	for id, n := range notes {
		p.counts = append(p.counts, eventCount{id.Seq(), n})
	}
	slices.SortFunc(p.counts, func(a, b eventCount) int { return cmp.Compare(a.seq, b.seq) })
	body, at := openSection(nil, secCounts)
	body = closeSection(appendCounts(body, p.counts), at)
	return w.emit(&frame{kind: kindCounts, body: body, bodySum: checksum(body)}, &p, nil)
}

// emit appends a frame to the log and stages what it changes; old is the event's item before, if the frame is about one.
func (w *writer) emit(f *frame, p *parts, old *item) error {
	at, err := w.log(f, p, old)
	if err != nil {
		return err
	}
	return w.apply(f, p, at, old)
}

// change is emit for a frame about one event; it gives the event's item afterwards.
func (w *writer) change(f *frame, p *parts, old *item) (*item, error) {
	at, err := w.log(f, p, old)
	if err != nil {
		return nil, err
	}
	return w.applyEvent(f, p, at, old)
}

// log appends a frame and says where.
func (w *writer) log(f *frame, p *parts, old *item) (place, error) {
	l := w.e.wal
	if !l.fits(len(f.body) + shiftSize) {
		if err := w.rotate(); err != nil {
			return place{}, err
		}
	}
	if w.shift(f, p, old); p.shift != (shifts{}) {
		f.body = appendShift(f.body, p.shift)
		f.bodySum = checksum(f.body)
	}
	f.lsn, f.synced = l.lsn+1, w.e.syncs.synced.Load()
	if f.kind == kindAccept || f.kind == kindCommit {
		f.rev = f.lsn // so revisions grow over all events, and the stream of changes can be resumed after one
	}
	at := l.reserve()
	return at, l.append(f)
}

// rotate begins a new segment.
func (w *writer) rotate() error {
	l := w.e.wal
	lowest := l.number
	if first, _ := l.oldest(); first != nil {
		lowest = first.number
	}
	err := l.rotate(segmentHead{
		nextSeq: uint64(w.nextSeq), created: w.now, born: w.e.born, horizon: w.horizon, lowest: lowest, covers: w.e.covers.Load(),
	})
	if err != nil {
		return err
	}
	return w.e.reached(l.lsn)
}

// apply stages what a frame changes; the same for a frame just written and for one that is replayed.
func (w *writer) apply(f *frame, p *parts, at place, old *item) error {
	switch f.kind {
	case kindAccept, kindCommit, kindNote, kindCarry:
		_, err := w.applyEvent(f, p, at, old)
		return err
	case kindShrink, kindRemove:
		return w.applyForget(f, p)
	case kindCounts:
		for _, c := range p.counts {
			w.applyCount(c)
		}
	case kindMeta:
		w.stage.metas[p.metaKey] = meta{bytes.Clone(p.metaValue), at.segment}
	case kindCursor:
		if p.resource == nil {
			return errCodec
		}
		w.stage.resources[p.resource.ResourceKey] = resource{*p.resource, at.segment}
	case kindHorizon:
		w.horizon = max(w.horizon, p.time)
	}
	return nil
}

// applyCount stages counts of an event. One that the index alone has is not read for that: whoever reads it adds what the overlay has, and so does the flush.
func (w *writer) applyCount(c eventCount) {
	old := w.stage.item(c.seq)
	if old == nil {
		old, _, _ = w.e.overlayItem(c.seq)
	}
	if old == nil {
		w.stage.counts[c.seq] = w.stage.counts[c.seq].plus(c.noteCount)
	} else if it := old.plus(c.noteCount); it != old {
		w.stage.put(it, old)
	}
}

// applyEvent gives the event's item after the frame; nil where nothing is known of the event.
func (w *writer) applyEvent(f *frame, p *parts, at place, old *item) (*item, error) {
	it, ok := f.next(old, p, at)
	if !ok {
		return nil, errCodec
	}
	if it == nil {
		return nil, nil
	}
	w.stage.put(it, old)
	if f.kind == kindAccept || f.kind == kindCarry && (old == nil || !slices.Equal(old.keys, it.keys)) { // else the keys are there since an earlier frame
		if err := w.claim(it, f.kind == kindCarry); err != nil {
			return nil, err
		}
	}
	if p.resource != nil {
		w.stage.resources[p.resource.ResourceKey] = resource{*p.resource, at.segment}
	}
	if from := old.counted(); from != it.counted() {
		source := p.source
		if it.marker {
			source = groupOf(old).source
		}
		w.count(counted{from: from, item: it, delivered: it.deliveredNow(old)}, source)
	}
	w.nextSeq = max(w.nextSeq, f.id.Seq()+1)
	return it, nil
}

// claim gives an event its keys; one that is carried forward gets those alone that no newer event has taken over.
func (w *writer) claim(it *item, carried bool) (err error) {
	seq, owner := it.id.Seq(), event.Seq(0)
	for _, k := range it.keys {
		if carried {
			if owner, err = w.owner(k, 0, math.MaxUint64); err != nil {
				return err
			}
		}
		if owner < seq {
			w.stage.claim(k, seq)
		}
	}
	return nil
}

// count notes what a frame does to the counters. Nobody else changes them, so they can be read here without the lock.
func (w *writer) count(c counted, source string) {
	if w.counter == nil || w.source != source {
		w.source, w.counter = source, w.e.counts[source]
	}
	if c.of = w.counter; c.of == nil {
		c.source = source
	}
	w.counted = append(w.counted, c)
}

// applyForget takes records (shrink) or events whole (remove) away; those of a frame share source, state and reason.
func (w *writer) applyForget(f *frame, p *parts) error {
	if f.kind == kindRemove {
		w.e.covers.Store(max(w.e.covers.Load(), p.time))
	}
	for _, seq := range p.seqs {
		old, err := w.item(seq)
		if err != nil {
			return err
		}
		if old == nil || old.removed {
			continue
		}
		w.discount(old)
		if f.kind == kindShrink {
			w.stage.put(old.shrunk(f.lsn), old)
		} else {
			w.stage.put(old.gone(f.lsn), old)
		}
	}
	return nil
}

// discount notes that an event counts no more.
func (w *writer) discount(it *item) {
	if it.marker {
		return
	}
	g, n := groupOf(it), len(w.forgot)
	if n == 0 || w.forgot[n-1].group != g {
		w.forgot, n = append(w.forgot, forgotten{group: g}), n+1
	}
	w.forgot[n-1].n++
}

// publish makes the group visible.
func (w *writer) publish() {
	e, l := w.e, w.e.wal
	weight, first := w.publishStage(position{lsn: l.lsn, segment: l.number, generation: l.generation, offset: l.offset})
	switch {
	case weight > flushWeight:
		e.applier.kickNow()
	case first:
		e.applier.arm()
	}
}

// publishStage moves the stage into the active layer, whose last frame is then at last. It gives the layer's weight, and
// whether it was empty before.
func (w *writer) publishStage(last position) (weight int, first bool) {
	e := w.e
	w.stage.last = last
	e.mu.Lock()
	was := e.active.empty()
	e.active.merge(w.stage)
	for i := range w.counted {
		c := &w.counted[i]
		if c.of == nil {
			c.of = e.counts.of(c.source)
		}
		c.of.frame(c.from, c.item, c.delivered)
	}
	for _, f := range w.forgot {
		e.counts.forget(f.source, f.state, f.n)
	}
	e.horizon, e.nextSeq = w.horizon, w.nextSeq
	e.notesTaken = nil
	weight, first = e.active.weight, was && !e.active.empty()
	e.mu.Unlock()
	clear(w.counted)
	w.counted, w.forgot = w.counted[:0], w.forgot[:0]
	w.stage.clear()
	return weight, first
}

// item is the newest state of an event, staged or published.
func (w *writer) item(seq event.Seq) (*item, error) {
	if it := w.stage.item(seq); it != nil {
		return it, nil
	}
	it, err := w.e.item(seq)
	if err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	return it.plus(w.stage.counts[seq]), nil
}

// owner is the event under a key; indexed is what the caller found in the index as of gen.
func (w *writer) owner(k event.Key, indexed event.Seq, gen uint64) (event.Seq, error) {
	if seq := w.stage.owner(k); seq != 0 {
		return seq, nil
	}
	seq, now := w.e.overlayOwner(k)
	switch {
	case seq != 0:
		return seq, nil
	case now == gen:
		return indexed, nil
	}
	seq, err := w.e.indexedOwner(k)
	if err != nil {
		return 0, fmt.Errorf("read the index: %w", err)
	}
	return seq, nil
}

// current is the event of a transition, with as few reads of the index as possible.
func (w *writer) current(c *commitItem) (*item, error) {
	if c.found != nil && c.found.home != 0 && c.found.staged != superseded && c.gen == w.e.gen.Load() { // it still is where every change of it begins
		return c.found, nil
	}
	seq := c.outcome.Record.ID.Seq()
	if it := w.stage.item(seq); it != nil {
		return it, nil
	}
	it, n, gen := w.e.overlayItem(seq)
	if it != nil {
		return it, nil
	}
	if c.found != nil && c.found.home == 0 && c.gen == gen {
		return c.found.plus(n.plus(w.stage.counts[seq])), nil
	}
	return w.item(seq)
}

// checkFree looks up the free space if it is time to.
func (w *writer) checkFree() {
	if w.e.opts.MinFree == 0 || w.freeLooked && w.e.wal.written-w.freeWritten < freeBytes {
		return
	}
	now := time.Now()
	w.freeLooked = true
	interval := freeInterval
	if w.freeNear { // others may fill the volume quickly
		interval = freeIntervalNear
	}
	if !w.freeAt.IsZero() && now.Sub(w.freeAt) < interval && w.e.wal.written-w.freeWritten < freeBytes {
		return
	}
	w.freeAt, w.freeWritten = now, w.e.wal.written
	free, err := w.e.opts.free(w.e.opts.Dir)
	if err != nil {
		w.e.opts.Log.Warn("free space unknown", "err", err)
		return
	}
	w.full, w.freeNear = free < w.e.opts.MinFree, free < w.e.opts.MinFree+freeNear
	w.e.full.Store(w.full)
	w.e.space.tell(free)
}
