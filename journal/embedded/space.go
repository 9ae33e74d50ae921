package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The volume is guarded in three steps, all within MinFree. Below MinFree new events are refused. Below the reserve, which
// somebody else must have eaten, the index is not written any more, because it writes through mapped files and a full disk
// would end the process there: the overlay holds what the index lacks. The log goes on in blocks that it has already, and
// when these are used up and none can be had, in the ballast: files of zeros that become its segments, so that nobody else
// can take the space meanwhile. Nothing of this is an error: whoever needs space that is not there waits for it.
type space struct {
	dir     string
	minFree uint64
	reserve uint64
	segment uint64                           // largest size of a ballast file
	free    func(dir string) (uint64, error) // what the index and the log find
	events  func(dir string) (uint64, error) // what new events find
	log     interface {
		Warn(string, ...any)
		Info(string, ...any)
	}

	mu       sync.Mutex
	ballast  []string // its files
	fullTold bool     // the log's last word of whether new events are refused
	fullAt   time.Time

	resident *resident

	indexPaused atomic.Bool // the index waits for space
	logPaused   atomic.Bool // the log does: no segment could be prepared
	overfull    atomic.Bool // the overlay cannot take more until the index goes on
}

const (
	nameBallast  = "ballast"
	maxBallast   = 256 << 20
	ballastFiles = 4
	guardEvery   = 100 * time.Millisecond
	refillEvery  = 10                     // looks of the guard
	spaceEvery   = 100 * time.Millisecond // how often whoever waits for space looks again
)

// volume is what statfs says of the file system under a directory, or under its nearest existing parent.
type volume struct {
	name        string
	total, free uint64 // bytes; free is what an unprivileged process can still write
}

func volumeOf(dir string) (volume, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return volume{filesystemName(&st), st.Blocks * uint64(st.Bsize), uint64(st.Bavail) * uint64(st.Bsize)}, nil
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || parent == dir {
			return volume{}, fmt.Errorf("statfs %q: %w", dir, err)
		}
		dir = parent
	}
}

// Filesystem gives the name of the file system under dir (or under the nearest existing parent) and the bytes that an
// unprivileged process can still write there.
func Filesystem(dir string) (name string, free uint64, err error) {
	v, err := volumeOf(dir)
	return v.name, v.free, err
}

func newSpace(o *Options) *space {
	return &space{dir: o.Dir, minFree: o.MinFree, reserve: reserveOf(o), segment: uint64(o.SegmentSize), resident: newResident(o), free: o.reserveFree, events: o.free, log: o.Log}
}

// reserveOf is what the index must find free before it is written: a memory table that begins, one that becomes a table, and
// what a compaction of the first level with the one below writes before it deletes anything. A small MinFree has room for the first two alone.
func reserveOf(o *Options) uint64 {
	table := uint64(memtableSize(o))
	return min(12*table, max(o.MinFree/2, min(2*table+flushWeight, o.MinFree)))
}

// openNeed is what must be free to open the index: the reserve, and at least as much as Badger writes at once then, a new memory table and a table of each
// that it finds.
func openNeed(o *Options) uint64 {
	reserve := reserveOf(o)
	if reserve == 0 {
		return 0
	}
	return max(reserve, uint64(len(memFiles(filepath.Join(o.Dir, nameIndex)))+1)*uint64(memtableSize(o))+flushWeight)
}

// memFiles are Badger's write-ahead files, of the memory table that is written to and of those that become tables.
func memFiles(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, "*.mem")) // the pattern is well-formed
	return names
}

// checkSpace is asked before anything in the directory is changed. The ballast of the last run counts as free.
func checkSpace(o *Options) error {
	need := openNeed(o)
	if need == 0 {
		return nil
	}
	free, err := o.reserveFree(o.Dir)
	if err != nil {
		return err
	}
	if free+ballastSize(o.Dir) < need {
		return tooFull(free, need)
	}
	return nil
}

func tooFull(free, need uint64) error {
	return fmt.Errorf("%d bytes are free on the volume, %d are needed at least to open the journal: %w", free, need, unix.ENOSPC)
}

// noSpace says that err is for want of space: on the volume, or of what its owner may take of it.
func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// ballastSize is what the ballast in a journal's directory occupies.
func ballastSize(dir string) (n uint64) {
	for _, path := range ballastIn(dir) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			n += uint64(st.Blocks) * 512
		}
	}
	return n
}

func ballastIn(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, nameBallast, "*"+ballastSuffix)) // the pattern is well-formed
	return names
}

const ballastSuffix = ".zero"

// begin takes over what the last run left, and gives it back to the volume where it is needed to open the index.
func (s *space) begin(need uint64) {
	for _, path := range ballastIn(s.dir) {
		if info, err := os.Stat(path); err == nil && info.Size() < minSegment { // a crash came before it had its blocks: on a full volume it would take none
			err = os.Remove(path)
			s.log.Warn("a ballast file without its space is removed", "file", path, "error", err)
			continue
		}
		s.ballast = append(s.ballast, path)
	}
	for s.below(need) && len(s.ballast) > 0 {
		path := s.takeBallast()
		s.log.Warn("the volume is nearly full: a ballast file is given up to open the journal", "file", path)
		if err := os.Remove(path); err != nil {
			s.log.Warn("the ballast file cannot be removed", "error", err)
		}
	}
}

// scarce says whether there is less than the reserve; low, whether there is less than MinFree.
func (s *space) scarce() bool { return s.below(s.reserve) }

func (s *space) low() bool { return s.below(s.minFree) }

func (s *space) below(need uint64) bool {
	if need == 0 {
		return false
	}
	free, err := s.free(s.dir)
	return err == nil && free < need // unknown: what is written will tell
}

// overlay is how much the overlay may weigh: whatever has gathered in it can be written where MinFree is free.
func (s *space) overlay() int {
	if s.reserve == 0 {
		return overlayWeight
	}
	return int(min(overlayWeight, flushWeight+max(s.minFree-s.reserve, flushWeight)))
}

// short is noSpace where a layer of a weight cannot be written to the index now, and otherwise sees to it that the file which it is written to has its blocks.
func (s *space) short(ix *index, weight int) error {
	if s.reserve == 0 {
		return nil
	}
	mems := memFiles(ix.dir.Name())
	need := s.reserve + uint64(max(0, weight-flushWeight)) + uint64(max(0, len(mems)-1))*uint64(ix.memtable)
	if free, err := s.free(s.dir); err == nil && free < need {
		return tooFull(free, need)
	}
	if !ix.bare {
		return nil
	}
	return ix.allocate(mems)
}

// takeBallast gives the caller one of the ballast's files; "" if none is left.
func (s *space) takeBallast() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ballast) == 0 {
		return ""
	}
	path := s.ballast[len(s.ballast)-1]
	s.ballast = s.ballast[:len(s.ballast)-1]
	return path
}

// tell logs whether new events are refused, when that changes: they may be refused where none comes, because whoever sends them looks at the readiness first.
func (s *space) tell(free uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := free < s.minFree
	switch {
	case full == s.fullTold:
	case !full:
		s.fullTold = false
		s.log.Info("there is space again: new events are taken", "free_bytes", free)
	case s.fullAt.IsZero() || time.Since(s.fullAt) >= fullAgain: // where free space is about MinFree it goes to and fro all the time
		s.fullTold, s.fullAt = true, time.Now()
		s.log.Warn("free space is below journal.min_free: new events are refused until there is more", "free_bytes", free, "min_free_bytes", s.minFree)
	}
}

// guard tells of space, sets the ballast up, and again when there is plenty, until stop is closed.
func (s *space) guard(stop <-chan struct{}) {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for n := 0; ; n++ {
		s.resident.trim()
		if n%refillEvery == 0 {
			if free, err := s.events(s.dir); err == nil { // unknown: new events will tell
				s.tell(free)
			}
			if err := s.refill(); err != nil {
				s.log.Warn("the ballast cannot be set up", "error", err)
			}
		}
		select {
		case <-t.C:
		case <-stop:
			return
		}
	}
}

// refill makes one missing ballast file, if MinFree and as much again as the ballast are free.
func (s *space) refill() error {
	size := min(min(s.minFree/4, maxBallast)/ballastFiles, s.segment)
	s.mu.Lock()
	have := len(s.ballast)
	s.mu.Unlock()
	if have >= ballastFiles || size < minSegment {
		return nil
	}
	v, err := volumeOf(s.dir)
	if err != nil || v.name == "tmpfs" || v.free < s.minFree+2*ballastFiles*size {
		return err
	}
	dir := filepath.Join(s.dir, nameBallast)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "*"+ballastSuffix)
	if err != nil {
		return err
	}
	err = preallocate(f, int64(size), true)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = zeroFrom(f, 0, int64(size))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	s.mu.Lock()
	s.ballast = append(s.ballast, f.Name())
	s.mu.Unlock()
	return nil
}

// refusing says that new events cannot even be looked at: the writer waits for space.
func (s *space) refusing() bool { return s.logPaused.Load() || s.overfull.Load() }

// roomForIndex says whether the index may be written now, and logs when that changes.
func (s *space) roomForIndex(ix *index, weight int) bool {
	scarce := noSpace(s.short(ix, weight)) // any other error will be the flush's
	if s.indexPaused.Swap(scarce) == scarce {
		return !scarce
	}
	if scarce {
		s.log.Warn("the volume is full: the index waits for space, the log goes on as long as it has room", "reserve_bytes", s.reserve)
	} else {
		s.log.Info("there is space again: the index goes on")
	}
	return !scarce
}

// await tells the log, whose file could not be made for want of space, to try again after a while; false if stop is closed.
func (s *space) await(stop <-chan struct{}) bool {
	if !s.logPaused.Swap(true) {
		s.log.Warn("the volume is full: the log has no room for another segment and waits for space")
	}
	t := time.NewTimer(spaceEvery)
	defer t.Stop()
	select {
	case <-stop:
		return false
	case <-t.C:
		return true
	}
}

// logGoesOn ends a wait of the log.
func (s *space) logGoesOn() {
	if s.logPaused.Swap(false) {
		s.log.Info("there is space again: the log goes on")
	}
}

// allocate gives the blocks of Badger's write-ahead files to them before they are written through a mapping. With noSpace there are not enough.
func (ix *index) allocate(mems []string) error {
	for _, path := range mems {
		if path <= ix.allocated {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = preallocate(f, ix.memtable+flushWeight, false)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil // then the reserve alone must do
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("allocate %s: %w", path, err)
		}
		ix.allocated = path
	}
	ix.bare = false
	return nil
}
