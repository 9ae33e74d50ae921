package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Open opens the journal in o.Dir, or creates it, and brings the index up to date with the log. It starts nothing that
// outlives Close; the engine works once Run runs. Errors: journal.ErrLocked; journal.ErrDamaged, which names the file, and
// then nothing was changed; those of the file system.
func Open(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	e, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open journal %q: %w", o.Dir, err)
	}
	return e, nil
}

func open(o Options) (*Engine, error) {
	lock, err := prepareDir(&o)
	if err != nil {
		return nil, err
	}
	e := newEngine(o, lock)
	if err := e.recover(); err != nil {
		return nil, errors.Join(err, e.closeFiles())
	}
	return e, nil
}

func newEngine(o Options, lock *os.File) *Engine {
	e := &Engine{
		opts: o, lock: lock, active: newLayer(), counts: counters{}, nextSeq: 1,
		failed: make(chan struct{}), closing: make(chan struct{}), stopped: make(chan struct{}),
		wal: newWAL(filepath.Join(o.Dir, nameLog), o.SegmentSize, o.syncFile),
	}
	e.queue.wake = make(chan struct{}, 1)
	e.syncs.wake = make(chan struct{}, 1)
	e.applier = applier{armed: make(chan struct{}, 1), kick: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	e.filters.jobs, e.filters.done = make(chan filterJob, 1), make(chan *keyFilter, 1)
	return e
}

func newWriter(e *Engine) *writer {
	return &writer{e: e, stage: newLayer(), nextSeq: e.nextSeq, horizon: e.horizon}
}

// recover reads what is there: check first, change only what a crash left unfinished, then replay.
func (e *Engine) recover() error {
	path := filepath.Join(e.opts.Dir, nameLedger)
	known, _, err := readLedger(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	t, err := checkLog(e.wal.dir, known, e.opts.Log)
	if err != nil {
		return err
	}
	if fresh && len(t.segs) > 0 {
		return damaged(path, "the file is missing")
	}
	if err := t.repair(); err != nil {
		return err
	}
	if e.ledger, err = openLedger(path, ledgerState{lowest: 1}); err != nil {
		return err
	}
	now := nanos(e.opts.Now())
	e.born, e.nextSeq, e.horizon = now, max(t.nextSeq, 1), t.horizon
	if len(t.segs) == 0 {
		err = e.create(now)
	} else {
		e.born = t.segs[0].born
		err = e.wal.resume(t.segs, t.end, t.lsn)
	}
	if err != nil {
		return err
	}
	e.syncs.written = t.lsn
	if err := errors.Join(e.wal.sync(), e.reached(t.lsn)); err != nil {
		return err
	}
	return e.openIndex(t)
}

// create makes the first segment of a new journal.
func (e *Engine) create(now int64) error {
	p := e.wal.make(min(e.opts.SegmentSize, firstSegment))
	if p.err != nil {
		return p.err
	}
	e.wal.number = 0
	return e.wal.begin(p, segmentHead{nextSeq: 1, created: now, born: now, lowest: 1})
}

// A tail is what checkLog found out about the log.
type tail struct {
	segs    []*segment // oldest first
	stale   []string   // files that are no part of the log any more
	end     int64      // in the last segment: where the next frame goes
	lsn     uint64     // last frame
	torn    bool       // the bytes from end on are the remains of an unfinished write
	nextSeq event.Seq
	horizon int64
	log     interface{ Warn(string, ...any) }
}

// checkLog checks the log without changing anything: headers and numbering of all segments, the frames of the newest
// verifyBytes, and the end against the ledger.
func checkLog(dir string, known ledgerState, log interface{ Warn(string, ...any) }) (*tail, error) {
	segs, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	t := &tail{log: log}
	for len(segs) > 0 && segs[0].number < known.lowest {
		t.stale = append(t.stale, segs[0].path) // a crash came between the ledger's entry and the file's removal
		segs = segs[1:]
	}
	t.segs = segs
	if len(segs) == 0 {
		if known.newest > 0 {
			return nil, damaged(segmentPath(dir, max(known.lowest, 1)), "the segment is missing")
		}
		return t, nil
	}
	if err := t.checkHeads(dir, known); err != nil {
		return nil, err
	}
	from, size := len(segs)-1, int64(0)
	for size = segs[from].size; from > 0 && size < verifyBytes; size += segs[from].size {
		from--
	}
	var buf []byte
	for i := from; i < len(segs); i++ {
		if buf, err = segs[i].load(buf); err != nil {
			return nil, err
		}
		if i == len(segs)-1 {
			err = t.checkLast(segs[i], buf, known)
		} else {
			err = checkWhole(segs[i], segs[i+1], buf)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// checkHeads reads the headers and compares their numbering with each other and with the ledger.
func (t *tail) checkHeads(dir string, known ledgerState) error {
	for i, s := range t.segs {
		if want := max(known.lowest, 1) + uint64(i); s.number != want {
			return damaged(segmentPath(dir, want), "the segment is missing")
		}
		blank, err := s.readHead()
		if err != nil {
			return err
		}
		if blank {
			return damaged(s.path, "the segment has no header")
		}
		if i > 0 && s.firstLSN < t.segs[i-1].firstLSN {
			return damaged(s.path, "the segment does not continue the one before")
		}
		t.horizon = max(t.horizon, s.horizon)
		t.nextSeq = max(t.nextSeq, event.Seq(s.nextSeq))
	}
	if last := t.segs[len(t.segs)-1].number; last < known.newest {
		return damaged(segmentPath(dir, last+1), "the segment is missing")
	}
	return nil
}

// checkWhole checks a segment that is not the last: its frames must lead up to the next one's first.
func checkWhole(s, next *segment, data []byte) error {
	sc := newScanner(data, s.generation, segmentHeadSize, s.firstLSN)
	for sc.lsn < next.firstLSN {
		at := sc.at
		if _, _, ok := sc.next(); !ok {
			return damaged(s.path, fmt.Sprintf("frame %d at byte %d does not match its checksum", sc.lsn, at))
		}
	}
	return nil
}

// checkLast finds the end of the log in the last segment.
func (t *tail) checkLast(s *segment, data []byte, known ledgerState) error {
	sc := newScanner(data, s.generation, segmentHeadSize, s.firstLSN)
	for {
		f, _, ok := sc.next()
		if !ok {
			break
		}
		if f.kind == kindAccept {
			t.nextSeq = max(t.nextSeq, f.id.Seq()+1)
		}
	}
	t.lsn, t.end, t.torn = sc.lsn-1, int64(sc.at), !sc.clean()
	if known.synced > t.lsn {
		return damaged(s.path, fmt.Sprintf("frame %d at byte %d is damaged or missing; the disk had confirmed %d", sc.lsn, sc.at, known.synced))
	}
	if t.torn {
		if synced := sc.confirmed(); synced >= sc.lsn {
			return damaged(s.path, fmt.Sprintf("frame %d at byte %d is damaged; the disk had confirmed %d", sc.lsn, sc.at, synced))
		}
	}
	return nil
}

// repair finishes what a crash cut short: stale files go, and a torn end is overwritten with zeros, so that nothing of it
// can ever be taken for a frame.
func (t *tail) repair() error {
	for _, path := range t.stale {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if !t.torn {
		return nil
	}
	last := t.segs[len(t.segs)-1]
	t.log.Warn("the journal ends in an unfinished write, which nobody was told of; it is cut off", "file", last.path, "byte", t.end)
	f, err := os.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(zeroFrom(f, t.end, last.size), f.Sync(), f.Close())
}

func zeroFrom(f *os.File, from, to int64) error {
	for from < to {
		n, err := f.WriteAt(zeroPage[:min(int64(len(zeroPage)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// openIndex opens the index and replays what it lacks, or rebuilds it.
func (e *Engine) openIndex(t *tail) error {
	dir := filepath.Join(e.opts.Dir, nameIndex)
	ix, err := openIndex(dir, &e.opts)
	if err == nil {
		e.index = ix
		var at position
		if at, err = e.loadPosition(t); err == nil {
			return e.replay(t.segs, at)
		}
		ix.close()
		e.index = nil
	}
	if !errors.Is(err, errIndex) {
		return err
	}
	return e.rebuild(dir, t, err)
}

// rebuild sets the index aside and makes a new one from the whole log.
func (e *Engine) rebuild(dir string, t *tail, cause error) error {
	start := time.Now()
	e.opts.Log.Warn("the index is rebuilt from the log", "why", cause)
	aside := dir + ".old"
	if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
		return err
	}
	ix, err := openIndex(dir, &e.opts)
	if err != nil {
		return err
	}
	e.index, e.counts, e.rebuilding = ix, counters{}, true
	if err := e.replay(t.segs, startOf(t.segs)); err != nil {
		return err
	}
	if err := e.recount(len(t.segs) > 0 && t.segs[0].firstLSN > 1); err != nil {
		return err
	}
	e.opts.Log.Info("the index has been rebuilt", "took", time.Since(start), "events", e.nextSeq-1)
	return nil
}

func startOf(segs []*segment) position {
	if len(segs) == 0 {
		return position{}
	}
	s := segs[0]
	return position{lsn: s.firstLSN - 1, segment: s.number, generation: s.generation, offset: segmentHeadSize}
}

// loadPosition reads how far the index is, and checks that it is the index of this log. An empty index of a log whose
// beginning is there begins at the beginning.
func (e *Engine) loadPosition(t *tail) (position, error) {
	snap := e.index.snapshot()
	defer snap.release()
	b, err := snap.get([]byte{prefixPosition})
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errIndex, err)
	}
	if b == nil {
		if empty, err := snap.empty(); err != nil || !empty || len(t.segs) > 0 && (t.segs[0].firstLSN != 1 || t.lsn > 0) {
			return position{}, fmt.Errorf("%w: it does not say how far it is", errIndex)
		}
		return startOf(t.segs), nil
	}
	c, err := decodeCheckpoint(b)
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errIndex, err)
	}
	for i, s := range t.segs {
		if s.number != c.at.segment {
			continue
		}
		if s.generation != c.at.generation || c.at.lsn > t.lsn || c.at.lsn+1 < s.firstLSN || i == len(t.segs)-1 && c.at.offset > t.end {
			break
		}
		e.counts = c.counts
		e.nextSeq, e.horizon = max(e.nextSeq, c.nextSeq), max(e.horizon, c.horizon)
		return c.at, nil
	}
	return position{}, fmt.Errorf("%w: it is at frame %d, the log ends at %d", errIndex, c.at.lsn, t.lsn)
}

// replay applies the log from a position on.
func (e *Engine) replay(segs []*segment, from position) error {
	e.snap = e.index.snapshot()
	w := newWriter(e)
	e.active.last = from
	var buf []byte
	for i, s := range segs {
		if s.number < from.segment {
			continue
		}
		offset, lsn := segmentHeadSize, s.firstLSN
		if s.number == from.segment {
			offset, lsn = int(from.offset), from.lsn+1
		}
		end := e.wal.lsn + 1
		if i+1 < len(segs) {
			end = segs[i+1].firstLSN
		}
		if lsn == end {
			continue
		}
		var err error
		if buf, err = s.load(buf); err != nil {
			return err
		}
		if err := w.replaySegment(s, newScanner(buf, s.generation, offset, lsn), end); err != nil {
			return err
		}
	}
	return w.replayed()
}

func (w *writer) replaySegment(s *segment, sc *scanner, end uint64) error {
	for sc.lsn < end {
		at := sc.at
		f, bodyAt, ok := sc.next()
		var p parts
		if ok {
			p, ok = parseParts(f.body)
		}
		if !ok {
			return damaged(s.path, fmt.Sprintf("frame %d at byte %d does not match its checksum", sc.lsn, at))
		}
		old, err := w.before(&f)
		if err != nil {
			return err
		}
		if err := w.apply(&f, &p, place{s.number, int64(bodyAt)}, old); err != nil {
			return damaged(s.path, fmt.Sprintf("frame %d at byte %d: %v", f.lsn, at, err))
		}
		w.stage.last = position{lsn: f.lsn, segment: s.number, generation: s.generation, offset: int64(sc.at)}
		if len(w.stage.items)+len(w.stage.metas)+len(w.stage.resources) >= 1024 {
			if err := w.replayed(); err != nil {
				return err
			}
		}
	}
	return nil
}

// before is the item that a frame changes.
func (w *writer) before(f *frame) (*item, error) {
	switch f.kind {
	case kindAccept, kindCommit, kindNote, kindCarry:
		return w.item(f.id.Seq())
	}
	return nil, nil
}

// replayed publishes what was replayed, and writes it to the index when it has become heavy.
func (w *writer) replayed() error {
	if w.stage.last.lsn == 0 {
		w.stage.last = w.e.active.last
	}
	w.publishStage(w.stage.last)
	if w.e.active.weight < flushWeight {
		return nil
	}
	l, state := w.e.freeze()
	if l == nil {
		return nil
	}
	return w.e.flush(l, state)
}

// empty says whether the index has no entry at all.
func (s *snapshot) empty() (bool, error) {
	empty := true
	err := s.each(nil, func(key, _ []byte) bool {
		empty = bytes.HasPrefix(key, []byte("!badger!"))
		return empty
	})
	return empty, err
}

// recount completes a rebuild: it counts the records in the index, if the log's beginning is gone (otherwise the replay
// has counted), and only then notes in the index how far it is.
func (e *Engine) recount(again bool) error {
	l, _ := e.freeze()
	if l == nil {
		l = newLayer()
		l.last = e.active.last
	}
	if err := e.flush(l, nil); err != nil {
		return err
	}
	if again {
		e.counts = counters{}
		newest := map[string]int64{}
		var bad error
		err := e.snap.each([]byte{prefixRecord}, func(_, value []byte) bool {
			var it *item
			if it, bad = decodeItem(value); bad != nil {
				return false
			}
			if !it.marker {
				bad = e.counts.again(it, newest)
			}
			return bad == nil
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
	}
	e.rebuilding = false
	return e.flush(newLayer(), e.state(l.last))
}

// again counts a record that is there; newest holds the latest delivery of each source so far.
func (c counters) again(it *item, newest map[string]int64) error {
	r, err := it.record(0)
	if err != nil {
		return err
	}
	s := c.of(r.Source)
	s.move(stateReason{}, stateReason{it.state, it.reason}, 1)
	s.last = max(s.last, r.Seq)
	if it.delivered() {
		at := max(nanos(r.DeliveredAt), it.settled)
		if at >= newest[r.Source] {
			newest[r.Source], s.lastDelivered = at, r.Seq
		}
	}
	return nil
}
