package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A backup is the log up to a frame that the disk had confirmed, a ledger that says so, and the format: a journal without an
// index. The log only grows at its end, so it can be copied while a gateway runs: the files are opened first, and stay readable
// if retention takes one away meanwhile.

// Backup copies the journal in dir, which may be in use, to the new directory to, checking every frame on the way. The copy
// appears whole or not at all. It needs no key: an encrypted journal stays encrypted. progress may be nil. An error that wraps journal.ErrDamaged names the file.
func Backup(ctx context.Context, dir, to string, progress func(done, total int64)) (*Report, error) {
	r, err := backup(ctx, dir, to, false, progress)
	if err != nil {
		return nil, fmt.Errorf("back up journal %q: %w", dir, err)
	}
	return r, nil
}

func backup(ctx context.Context, dir, to string, restored bool, progress func(done, total int64)) (*Report, error) {
	to = filepath.Clean(to) // no slash at its end: its parent is where the copy is made
	if _, err := os.Lstat(to); err == nil {
		return nil, fmt.Errorf("%s: %w", to, fs.ErrExist)
	}
	if within(to, dir) {
		return nil, fmt.Errorf("%s is in the journal itself, where a start may take it for a part of that", to)
	}
	known, files, err := openLog(dir)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	part := to + ".partial"
	held, err := hold(part)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	c := copier{ctx: ctx, known: known, to: filepath.Join(part, nameLog), restored: restored, progress: progress, report: &Report{Dir: to, Damage: []Damage{}}}
	if err := c.copy(files); err != nil {
		return nil, errors.Join(err, os.RemoveAll(part))
	}
	l, err := openLedger(filepath.Join(part, nameLedger), known)
	if err == nil {
		err = l.file.Close()
	}
	err = errors.Join(err, writeDurably(filepath.Join(part, nameFormat), fmt.Sprintf("%s%d\n", formatPrefix, formatVersion)), syncDir(c.to))
	if err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(part))
	}
	return c.report, syncDir(filepath.Dir(to))
}

// hold makes the directory in which a copy is made, empty of what one that was cut off has left there, and keeps others out until it is closed.
func hold(part string) (*os.File, error) {
	if err := os.MkdirAll(part, 0o700); err != nil {
		return nil, err
	}
	held, err := os.Open(part)
	if err != nil {
		return nil, err
	}
	if errors.Is(unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) { // a volume without locks does without
		return nil, errors.Join(fmt.Errorf("%s: another process makes a copy there: %w", part, fs.ErrExist), held.Close())
	}
	for _, name := range []string{nameLog, nameLedger, nameFormat} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(part, name)))
	}
	if err = errors.Join(err, os.Mkdir(filepath.Join(part, nameLog), 0o700)); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return held, nil
}

// within says whether path is, or would be, in dir or below, links followed.
func within(path, dir string) bool {
	top, err := os.Stat(dir)
	if err != nil {
		return false
	}
	if path, err = filepath.Abs(path); err != nil {
		return false
	}
	for {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if info, err := os.Stat(path); err == nil && os.SameFile(info, top) {
			return true
		}
		above := filepath.Dir(path)
		if above == path {
			return false
		}
		path = above
	}
}

// openLog opens the segments of a log, and reads the ledger as of then.
func openLog(dir string) (known ledgerState, files []*os.File, err error) {
	if err := complete(dir); err != nil {
		return known, nil, err
	}
	for range 16 {
		if known, _, err = readLedger(filepath.Join(dir, nameLedger)); err != nil {
			return known, nil, err
		}
		missing := ""
		for n := max(known.lowest, 1); n <= known.newest; n++ {
			f, err := os.Open(segmentPath(filepath.Join(dir, nameLog), n))
			if err != nil {
				closeAll(files)
				files = nil
				if !errors.Is(err, fs.ErrNotExist) {
					return known, nil, err
				}
				missing = segmentPath(filepath.Join(dir, nameLog), n)
				break // taken by retention, or lost: the ledger tells
			}
			files = append(files, f)
		}
		now, _, err := readLedger(filepath.Join(dir, nameLedger))
		if err != nil {
			return known, nil, err
		}
		if missing != "" && now.lowest == known.lowest {
			return known, nil, damaged(missing, "the segment is missing")
		}
		if now.lowest == known.lowest {
			return known, files, nil // none where nothing was written yet
		}
		closeAll(files)
		files = nil
	}
	return known, nil, errors.New("the log changes too fast")
}

// complete says whether a journal has its ledger and its format file, as far as there is a journal.
func complete(dir string) error {
	segs, err := listSegments(filepath.Join(dir, nameLog))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = readFormat(dir)
	path := filepath.Join(dir, nameFormat)
	if err == nil {
		path = filepath.Join(dir, nameLedger)
		_, err = os.Stat(path)
	}
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case len(segs) > 0:
		return damaged(path, "the file is missing")
	}
	return fmt.Errorf("no journal there: %w", err)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// A copier copies segments, checking their frames.
type copier struct {
	ctx      context.Context
	known    ledgerState
	to       string
	restored bool // the copy goes on as the journal: what came after it was made is missing
	progress func(done, total int64)
	report   *Report
	done     int64
	total    int64
}

func (c *copier) copy(files []*os.File) error {
	for _, f := range files {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		c.total += info.Size()
	}
	lsn := uint64(0)
	for i, f := range files {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		next, err := c.segment(f, max(c.known.lowest, 1)+uint64(i), lsn)
		if err != nil {
			return err
		}
		lsn = next
	}
	if len(files) > 0 && lsn <= c.known.synced {
		return damaged(files[len(files)-1].Name(), fmt.Sprintf("it ends before frame %d, which the disk had confirmed", c.known.synced))
	}
	return nil
}

// segment copies one, and gives the number of the frame after it.
func (c *copier) segment(f *os.File, number, lsn uint64) (uint64, error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	h, ok := parseSegmentHead(data, number)
	if !ok {
		return 0, damaged(f.Name(), "the segment's header does not match its checksum")
	}
	if lsn != 0 && h.firstLSN != lsn {
		return 0, damaged(f.Name(), fmt.Sprintf("it begins with frame %d, the one before ends at %d", h.firstLSN, lsn-1))
	}
	sc := newScanner(data, h.generation, segmentHeadSize, h.firstLSN)
	for sc.lsn <= c.known.synced {
		if _, _, ok := sc.next(); !ok {
			if !sc.clean() {
				return 0, damaged(f.Name(), fmt.Sprintf("frame %d at byte %d does not match its checksum", sc.lsn, sc.at))
			}
			break
		}
		c.report.Changes++
	}
	if c.restored && number == c.known.newest {
		h.covers = coversNext
		copy(data, h.encode(number))
	}
	path := segmentPath(c.to, number)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = out.Write(data[:sc.at]) // what is behind was not confirmed yet
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return 0, err
	}
	c.report.Segments++
	c.report.Bytes += int64(sc.at)
	if c.done += int64(len(data)); c.progress != nil {
		c.progress(c.done, c.total)
	}
	return sc.lsn, nil
}

const nameRestore = "restore" // where it is made, in a directory that is there

// Restore makes a journal of a backup in dir, which must hold none. It checks the backup and copies it; the next start makes the index. progress may be nil.
func Restore(ctx context.Context, from, dir string, progress func(done, total int64)) (*Report, error) {
	r, err := restore(ctx, from, dir, progress)
	if err != nil {
		return nil, fmt.Errorf("restore %q to %q: %w", from, dir, err)
	}
	return r, nil
}

func restore(ctx context.Context, from, dir string, progress func(done, total int64)) (*Report, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if n := e.Name(); n != "lost+found" && n != nameRestore+".partial" { // what a volume has at its top, and what a restore that was cut off left
			return nil, fmt.Errorf("%s is not empty, it has %s: move it away first: %w", dir, n, fs.ErrExist)
		}
	}
	if err == nil { // an empty directory, a mount point perhaps: the copy is made inside it
		part := filepath.Join(dir, nameRestore)
		r, err := backup(ctx, from, part, true, progress)
		if err != nil {
			return nil, err
		}
		for _, name := range []string{nameLog, nameLedger, nameFormat} { // the format last: without it nothing starts
			if err := os.Rename(filepath.Join(part, name), filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
		r.Dir = dir
		return r, errors.Join(os.Remove(part), syncDir(dir))
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o700); err != nil {
		return nil, err
	}
	return backup(ctx, from, dir, true, progress)
}
