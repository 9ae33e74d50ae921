package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	e.space.begin(openNeed(&o))
	if err := e.recover(); err != nil {
		return nil, errors.Join(err, e.closeFiles())
	}
	return e, nil
}

func newEngine(o Options, lock *os.File) *Engine {
	e := &Engine{
		opts: o, lock: lock, active: newLayer(), counts: counters{}, nextSeq: 1,
		failed: make(chan struct{}), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	e.retention.Store(&e.opts.Retention)
	e.clock = clock{now: o.Now, boot: o.boot, mono: o.bootHook, own: o.ownClock, log: o.Log}
	e.space = newSpace(&e.opts)
	e.opts.indexFault = func(err error) { _ = e.fail(err) }
	e.opts.tableBuilt = func() {
		e.space.resident.trim()
		e.walks.giveWay(e.closing)
	}
	e.wal = newWAL(&e.opts)
	e.wal.spare, e.wal.goesOn = e.space.takeBallast, e.space.logGoesOn
	e.wal.await = func() bool { return e.space.await(e.closing) }
	e.queue.led, e.queue.turn = true, make(chan struct{}, 1)
	e.syncs.turn, e.syncs.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	e.applier = applier{armed: make(chan struct{}, 1), kick: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	e.filters.jobs, e.filters.done = make(chan filterJob, 1), make(chan bool, 1)
	return e
}

func newWriter(e *Engine) *writer {
	return &writer{e: e, stage: newStage(), nextSeq: e.nextSeq, horizon: e.horizon}
}

// recover reads what is there: check first, change only what a crash left unfinished, then replay.
func (e *Engine) recover() error {
	path := filepath.Join(e.opts.Dir, nameLedger)
	known, _, err := readLedger(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	t, err := checkLog(e.wal.dir, known, e.opts.keys, e.opts.Log)
	if err != nil {
		return err
	}
	if fresh && len(t.segs) > 0 {
		return damaged(path, "the file is missing or blank")
	}
	if e.ledger, err = openLedger(path, ledgerState{lowest: 1}); err != nil {
		return err
	}
	if err := e.takeOver(t); err != nil {
		return err
	}
	e.clock.begin(known.mark)
	now := e.clock.read()
	e.born, e.nextSeq, e.horizon = now, max(t.nextSeq, 1), t.horizon
	again := false
	if len(t.segs) == 0 {
		err = e.create(now)
	} else {
		e.born = t.segs[0].born
		covers := t.segs[len(t.segs)-1].covers
		if again = covers == coversNext; again {
			covers = now
		}
		e.covers.Store(covers)
		err = e.wal.resume(t.segs, t.end, t.lsn)
	}
	if err != nil {
		return err
	}
	e.syncs.written = t.lsn
	if err := errors.Join(e.wal.sync(), e.reached(t.lsn)); err != nil {
		return err
	}
	if err := e.openIndex(t); err != nil {
		return err
	}
	if e.wal.unshared() && !(t.torn && e.opts.keys != nil) && !again {
		return nil
	}
	p := e.wal.make(smallSegment)
	if p.err != nil {
		return p.err
	}
	return e.wal.succeed(p, segmentHead{nextSeq: uint64(e.nextSeq), created: now, born: e.born, horizon: e.horizon, lowest: t.segs[0].number, covers: e.covers.Load()})
}

// takeOver makes durable what was read: it may be in memory only. A kill can come before a file or a name was synced; and what an fsync has failed for stays in the page cache
// as if it were on the disk, where no later fsync writes it unless it is written again.
func (e *Engine) takeOver(t *tail) error {
	if err := errors.Join(e.ledger.write(e.ledger.state), e.ledger.file.Sync(), syncDir(e.opts.Dir), syncDir(e.wal.dir)); err != nil {
		return err
	}
	return t.repair()
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
	open    int64      // in the last segment: where the first frame is that the ledger does not confirm
	end     int64      // in the last segment: where the next frame goes
	lsn     uint64     // last frame
	torn    bool       // the bytes from end on are the remains of an unfinished write
	nextSeq event.Seq
	horizon int64
	log     interface{ Warn(string, ...any) }
}

// checkLog checks the log without changing anything: headers and numbering of all segments, the frames of the newest
// verifyBytes, and the end against the ledger.
func checkLog(dir string, known ledgerState, keys keyring, log interface{ Warn(string, ...any) }) (*tail, error) {
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
	if err := t.checkHeads(dir, known, keys); err != nil {
		return nil, err
	}
	from, size := len(segs)-1, int64(0)
	for size = segs[from].size; from > 0 && size < verifyBytes; size += segs[from].size {
		from--
	}
	most := int64(0)
	for _, s := range segs[from:] {
		most = max(most, s.size)
	}
	buf := make([]byte, 0, most)
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

const foreign = "the segment is of another journal than the others"

// checkHeads reads the headers and compares their numbering with each other and with the ledger.
func (t *tail) checkHeads(dir string, known ledgerState, keys keyring) error {
	born := int64(0)
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
		if err := keys.open(s); err != nil {
			return err
		}
		if born == 0 {
			born = s.born // a salvage may not have known it
		}
		if s.born != 0 && s.born != born {
			return damaged(s.path, foreign)
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
	sc := s.scanner(data, segmentHeadSize, s.firstLSN)
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
	sc := s.scanner(data, segmentHeadSize, s.firstLSN)
	t.open = segmentHeadSize
	for {
		f, _, ok := sc.next()
		if !ok {
			break
		}
		if f.lsn <= known.synced {
			t.open = int64(sc.at)
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

// repair finishes what a crash cut short: stale files go, what was not synced yet is, and a torn end is overwritten with zeros, so that nothing of it can ever be taken for
// a frame.
func (t *tail) repair() error {
	for _, path := range t.stale {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if !t.torn && t.open == t.end {
		return nil
	}
	last := t.segs[len(t.segs)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = writeAgain(f, t.open, t.end)
	if t.torn {
		t.log.Warn("the journal ends in an unfinished write, which nobody was told of; it is cut off", "file", last.path, "byte", t.end)
		err = errors.Join(err, zeroFrom(f, t.end, last.size))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// writeAgain writes a part of a file as it is.
func writeAgain(f *os.File, from, to int64) error {
	b := make([]byte, min(to-from, 1<<20))
	for from < to {
		n, err := f.ReadAt(b[:min(int64(len(b)), to-from)], from)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(b[:n], from); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
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
