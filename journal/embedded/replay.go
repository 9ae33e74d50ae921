package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hooktender/hooktender/event"
)

// openIndex opens the index and replays what it lacks, or rebuilds it.
func (e *Engine) openIndex(t *tail) error {
	dir := filepath.Join(e.opts.Dir, nameIndex)
	ix, err := openIndex(dir, &e.opts)
	if err == nil {
		e.use(ix)
		var at position
		if at, err = e.loadPosition(t); err == nil {
			return e.replay(t.segs, at)
		}
		err = errors.Join(err, ix.close())
		e.index = nil
	}
	if cause := diskFault(err); cause != nil { // not the index is bad, the disk is: a new index would be no better
		return fmt.Errorf("open the index: %w: %w", cause, err)
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
	e.use(ix)
	e.counts, e.rebuilding = counters{}, true
	if err := e.replay(t.segs, startOf(t.segs)); err != nil {
		return err
	}
	if err := e.recount(len(t.segs) > 0 && t.segs[0].firstLSN > 1); err != nil {
		return err
	}
	if e.opts.keys != nil { // what was set aside may be readable without the key
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
	}
	e.opts.Log.Info("the index has been rebuilt", "took", time.Since(start).Round(time.Millisecond).String(), "events", e.nextSeq-1)
	return nil
}

// use makes ix the index, and its filter the one in use: it alone holds it, until another takes its place.
func (e *Engine) use(ix *index) {
	e.index = ix
	e.filters.now.Store(ix.filter)
	ix.filter = nil
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
		empty, err := snap.empty()
		switch {
		case err != nil || !empty:
			return position{}, fmt.Errorf("%w: it does not say how far it is", errIndex)
		case len(t.segs) > 0 && (t.segs[0].firstLSN != 1 || t.lsn > 0):
			return position{}, fmt.Errorf("%w: it is empty", errIndex)
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
		e.covers.Store(max(e.covers.Load(), c.covers))
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
		if err := w.replaySegment(s, s.scanner(buf, offset, lsn), end); err != nil {
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
		if len(w.stage.items)+len(w.stage.metas)+len(w.stage.resources)+len(w.stage.counts) >= 1024 {
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
	if err := w.e.space.short(w.e.index, w.e.active.weight); err != nil {
		return err
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
		err := e.snap.eachRecord(func(_ event.Seq, record []byte) error {
			it, err := decodeItem(record)
			if err != nil || it.marker {
				return err
			}
			return e.counts.again(it, newest)
		})
		if err != nil {
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
		at := nanos(r.DeliveredAt) // it ends later where a forced replay has failed
		if at >= newest[r.Source] {
			newest[r.Source], s.lastDelivered = at, r.Seq
		}
	}
	return nil
}
