package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Salvage writes everything that can be trusted in a damaged log into a new one beside it, frame by frame and with the numbers that the
// frames had; where some are lost, empty frames stand. Then the new log gets an index, and what waits for delivery is looked
// through: an event without its bytes becomes failed/corrupt, one that may have been delivered by a change that is lost is
// marked, so that its redelivery says so. Last, the damaged files move into a directory of their own, and the new ones take their
// place: a crash in between is finished by the next start (finishSalvage). Nothing is deleted.

const (
	nameSalvage  = "salvage" // the new journal while it is made
	nameDone     = "DONE"    // in it, once it is complete: where the damaged files go
	damagedStamp = "20060102-150405.000"
)

// Salvage makes a journal that is damaged usable again, in its directory, or as a new one in to, which then must not exist; the
// damaged one is not touched in that case. It does nothing to a journal that is whole. progress may be nil.
func Salvage(ctx context.Context, o Options, to string, progress func(done, total int64)) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("salvage journal: %w", err)
	}
	r, err := salvage(ctx, o, to, progress)
	if err != nil {
		return nil, fmt.Errorf("salvage journal %q: %w", o.Dir, err)
	}
	return r, nil
}

func salvage(ctx context.Context, o Options, to string, progress func(done, total int64)) (*Report, error) {
	lock, err := takeLock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := finishSalvage(o.Dir, o.Log); err != nil {
		return nil, err
	}
	r, err := check(ctx, o.Dir, o.Keys, false, nil) // the lock is ours
	if err != nil || r.Whole() {
		return r, err
	}
	made := filepath.Join(o.Dir, nameSalvage)
	if to != "" {
		to = filepath.Clean(to)
		if _, err := os.Lstat(to); err == nil {
			return nil, fmt.Errorf("%s: %w", to, fs.ErrExist)
		}
		made = to + ".partial"
	}
	if err := os.RemoveAll(made); err != nil { // what an interrupted salvage left
		return nil, err
	}
	if v, err := volumeOf(filepath.Dir(made)); err == nil && v.free < uint64(r.Bytes)+reserveOf(&o) {
		return nil, fmt.Errorf("%d bytes are free on the volume, %d are needed for the new log: %w", v.free, uint64(r.Bytes)+reserveOf(&o), unix.ENOSPC)
	}
	if err := os.Mkdir(made, 0o700); err != nil {
		return nil, err
	}
	s := &salvager{survey: survey{dir: o.Dir, keys: o.keys, needKeys: true, progress: progress, report: &Report{Dir: o.Dir, Damage: []Damage{}}}}
	err = s.write(ctx, o, made)
	if err == nil {
		err = s.mend(ctx, o, made)
	}
	switch name := "damaged-" + o.Now().UTC().Format(damagedStamp); {
	case err != nil:
	case to != "":
		err = os.Rename(made, to)
	default:
		s.report.Kept = filepath.Join(o.Dir, name)
		err = writeDurably(filepath.Join(made, nameDone), name)
	}
	switch {
	case err != nil:
		return nil, errors.Join(err, os.RemoveAll(made)) // a volume that it has filled would stay full
	case to != "":
		return s.report, syncDir(filepath.Dir(to))
	}
	return s.report, finishSalvage(o.Dir, o.Log)
}

func writeDurably(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
}

// finishSalvage puts a complete new journal in the place of the damaged one; nothing where there is none.
func finishSalvage(dir string, log interface{ Warn(string, ...any) }) error {
	from := filepath.Join(dir, nameSalvage)
	b, err := os.ReadFile(filepath.Join(from, nameDone))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !strings.HasPrefix(string(b), "damaged-") {
		return nil
	}
	if err != nil {
		return err
	}
	aside := filepath.Join(dir, filepath.Base(string(b)))
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, name := range []string{nameLog, nameLedger, nameFormat, nameIndex} {
		next, now, kept := filepath.Join(from, name), filepath.Join(dir, name), filepath.Join(aside, name)
		if _, err := os.Stat(next); errors.Is(err, fs.ErrNotExist) {
			continue // moved before a crash
		}
		if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
			if err := os.Rename(now, kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := errors.Join(syncDir(aside), os.Rename(next, now), syncDir(dir)); err != nil {
			return err
		}
	}
	log.Warn("the damaged journal was replaced by what could be read of it; the damaged files are kept", "kept", aside)
	return errors.Join(os.Remove(filepath.Join(from, nameDone)), os.RemoveAll(from), syncDir(dir))
}

// A salvager copies frames.
type salvager struct {
	survey
	w    *wal
	from *segment // that the frames come from
	last segmentHead
	time int64 // the latest that an event has, in the journal's time
}

// write makes the new log.
func (s *salvager) write(ctx context.Context, o Options, to string) error {
	o.Dir = to
	s.w = newWAL(&o)
	if err := errors.Join(os.Mkdir(s.w.dir, 0o700), writeDurably(filepath.Join(to, nameFormat), fmt.Sprintf("%s%d\n", formatPrefix, formatVersion))); err != nil {
		return err
	}
	defer s.w.close()
	s.visit = func(seg *segment, f *frame, p *parts) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.copy(seg, f, p)
	}
	if err := s.run(); err != nil {
		return err
	}
	if s.w.file == nil && s.report.Changes == 0 && s.known.synced == 0 {
		s.known.next = max(s.known.next, 1)
	}
	if err := s.fill(max(s.known.synced, s.w.lsn) + 1); err != nil {
		return err
	}
	if s.report.MissingEvents > 0 || s.report.OlderMayBeMissing {
		s.last.covers = coversNext
	}
	// A last segment, so that no event number is given out twice.
	if err := s.begin(firstSegment, max(s.next, s.known.next, 1)); err != nil {
		return err
	}
	if err := s.w.sync(); err != nil {
		return err
	}
	l, err := openLedger(filepath.Join(to, nameLedger), ledgerState{
		synced: s.w.lsn, lowest: 1, newest: s.w.number, next: max(s.next, s.known.next, 1), mark: s.known.mark,
	})
	if err != nil {
		return err
	}
	return l.file.Close()
}

// begin ends the segment that is written to and begins another.
func (s *salvager) begin(size int64, next event.Seq) error {
	if s.w.file != nil {
		if err := s.w.flush(); err != nil {
			return err
		}
	}
	p := s.w.make(size)
	if p.err != nil {
		return p.err
	}
	h := s.last
	h.nextSeq, h.lowest = uint64(next), 1
	if s.w.file == nil {
		return s.w.begin(p, h)
	}
	return s.w.succeed(p, h)
}

// copy writes a frame into the new log.
func (s *salvager) copy(seg *segment, f *frame, p *parts) error {
	if s.w.file == nil {
		s.w.lsn = f.lsn - 1
	}
	if seg != s.from {
		s.from = seg
		if seg.created != 0 {
			s.last = seg.segmentHead
		}
		if err := s.begin(max(seg.size, minSegment), max(event.Seq(s.last.nextSeq), s.next)); err != nil {
			return err
		}
	}
	if err := s.fill(f.lsn); err != nil {
		return err
	}
	if s.blind {
		s.clock(p.front.received, p.shift.received)
		s.clock(p.front.settled, p.shift.settled)
	}
	return s.append(s.adopt(f, p))
}

// clock notes, where no ledger says what the clocks were, how far the wall clock was off at the latest time of an event.
func (s *salvager) clock(wall, shift int64) {
	if wall == 0 || wall-shift < s.time {
		return
	}
	s.time, s.known.mark = wall-shift, mark{}
	if shift != 0 {
		s.known.mark = mark{journal: s.time, wall: wall}
	}
}

// adopt is the frame as it goes into the new log: what changes an event whose first frame is lost carries the event whole.
func (s *salvager) adopt(f *frame, p *parts) *frame {
	f.bodySum = checksum(f.body)
	if f.kind == kindCommit && s.fresh {
		return s.whole(f, p)
	}
	return f
}

// whole makes a carry frame of a transition. The claimed keys are computed again; a second replay key (a MAC) is lost.
func (s *salvager) whole(f *frame, p *parts) *frame {
	r, err := decodeRecord(p.record)
	if err != nil {
		return f
	}
	kind, alias := event.KeyEvent, event.KeyAlias
	if !r.Verified && r.Provider != "none" {
		kind, alias = event.KeyObserved, event.KeyObserved
	}
	keys := []event.Key{event.MakeKey(kind, r.Source, r.Account, r.EventID)}
	if parts, ok := joined(r.EventID); ok {
		keys = append(keys, event.MakeKey(kind, append([]string{r.Source, r.Account}, parts...)...))
	}
	b := appendSection(nil, secRecord, p.record)
	b = appendKeySection(b, secKeys, keys)
	aliases := []event.Key{event.MakeKey(alias, r.Source, r.EventID)}
	if id := r.SendersID(); id != "" {
		aliases = append(aliases, event.MakeKey(alias, r.Source, id))
	}
	b = appendKeySection(b, secAliases, aliases)
	b = appendResourceSection(b, p.resource)
	for _, a := range p.attempts {
		b = appendSection(b, secAttempt, a)
	}
	if p.shift != (shifts{}) {
		b = appendShift(b, p.shift)
	}
	c := frame{kind: kindCarry, lsn: f.lsn, synced: f.synced, id: f.id, rev: f.rev, dups: f.dups, conflicts: f.conflicts}
	if p.payload != nil {
		b = appendSection(b, secPayload, p.payload)
		c.flags |= flagPayload
	}
	c.body, c.bodySum = b, checksum(b)
	return &c
}

// joined takes the text of an id that was joined from parts apart.
func joined(id string) (parts []string, ok bool) {
	if !strings.Contains(id, ":") {
		return nil, false
	}
	for p := range strings.SplitSeq(id, ":") {
		var out []byte
		for i := 0; i < len(p); i++ {
			var c byte
			if p[i] == '%' && i+2 < len(p) {
				if n, err := fmt.Sscanf(p[i+1:i+3], "%02X", &c); n == 1 && err == nil {
					out = append(out, c)
					i += 2
					continue
				}
			}
			out = append(out, p[i])
		}
		parts = append(parts, string(out))
	}
	return parts, true
}

// fill writes empty frames in place of lost ones, up to the one before to.
func (s *salvager) fill(to uint64) error {
	if s.w.file == nil {
		if to <= 1 && s.w.lsn == 0 {
			return nil
		}
		s.w.lsn = to - 1 // nothing of the log is left
		return nil
	}
	if to > s.w.lsn+1<<26 {
		return fmt.Errorf("the numbers of the frames make no sense: %d follows %d", to, s.w.lsn)
	}
	for s.w.lsn+1 < to {
		// A horizon at time 0 changes nothing.
		if err := s.append(&frame{kind: kindHorizon, lsn: s.w.lsn + 1}); err != nil {
			return err
		}
	}
	return nil
}

func (s *salvager) append(f *frame) error {
	if !s.w.fits(len(f.body)) {
		if err := s.begin(max(firstSegment, int64(len(f.body))+segmentHeadSize+frameHead), s.next); err != nil {
			return err
		}
	}
	if err := s.w.append(f); err != nil {
		return err
	}
	if len(s.w.buf) > 1<<20 {
		return s.w.flush()
	}
	return nil
}

// mend opens the new journal, which makes its index, and looks through what waits for delivery.
func (s *salvager) mend(ctx context.Context, o Options, to string) error {
	o.Dir, o.Observer = to, nil
	e, err := Open(o)
	if err != nil {
		return err
	}
	var run sync.WaitGroup
	run.Go(func() { _ = e.Run(ctx) }) // Close gives the same error
	err = errors.Join(s.mendPending(ctx, e), e.Close())
	run.Wait()
	return err
}

func (s *salvager) mendPending(ctx context.Context, e *Engine) error {
	return e.Pending(ctx, func(page []event.Record) error {
		for i := range page {
			if err := s.mendOne(ctx, e, &page[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *salvager) mendOne(ctx context.Context, e *Engine, r *event.Record) error {
	_, _, err := e.Get(ctx, r.ID, true)
	switch {
	case errors.Is(err, journal.ErrCorrupt), errors.Is(err, journal.ErrNoPayload):
		r.State, r.Reason, r.SettledAt, r.NextAt = event.Failed, event.Corrupt, e.opts.Now(), time.Time{}
		r.LastErrKind, r.LastErrText = "corrupt", "the stored payload is damaged"
		s.report.Corrupt++
		e.opts.Log.Error("the payload of a pending event is damaged; it is not forwarded", "alarm", true, "id", r.ID.String(), "source", r.Source, "event_id", r.EventID)
	case err != nil:
		return err
	case r.Rev < s.lastLost && !r.Unknown:
		r.Unknown = true
		s.report.Doubtful++
	default:
		return nil
	}
	_, err = e.Commit(ctx, []journal.Transition{{Record: *r}}, journal.Written)
	return err
}
