package embedded

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hooktender/hooktender/journal"
)

// Options of an engine. The zero value of a field takes its default.
type Options struct {
	// Dir is the journal's directory; it is created if absent (0700, files 0600).
	Dir string
	// Sync makes a Synced write wait for the disk. Without it Synced is the same as Written.
	Sync bool
	// MinFree is the free disk space, in bytes, below which Accept refuses new events with journal.ErrFull. 0 = no bound.
	MinFree uint64
	// Memory is the budget of the index in bytes, at least 16 MiB; default 64 MiB.
	Memory int64
	// AllowTmpfs allows a directory in memory.
	AllowTmpfs bool
	// Retention says how long what is remembered; default journal.DefaultRetention, field by field.
	Retention journal.Retention
	// Observer hears of every record after it was written; may be nil. The record it is given is valid during the call only.
	Observer journal.Observer
	// Synced is told how long each fsync of the log took, Grouped how many items each group commit had. From one goroutine each, at once and
	// without blocking; may be nil.
	Synced  func(time.Duration)
	Grouped func(items int64)
	// Log takes what an operator should know; default slog.Default.
	Log *slog.Logger
	// Keys encrypt the journal at rest; the first encrypts, all decrypt. None: it is not encrypted.
	Keys [][]byte
	// SegmentSize is the size of a log segment in bytes; default 64 MiB (the first segments of a journal are smaller), in a
	// bubble 1 MiB.
	SegmentSize int64
	// Now is the clock that retention is judged by; default time.Now.
	Now func() time.Time
	// Salt gives the 16 random bits of an event's ID; default random. It is called from one goroutine.
	Salt func() uint16
	// InBubble is for tests in a testing/synctest bubble, with Open called inside it: the index runs without compaction. Without Sync
	// the log is not synced at all.
	InBubble bool

	keys       keyring
	volume     uint64      // size of the volume in bytes; 0 = unknown
	bootHook   bool        // boot was given
	ownClock   bool        // Now is not the machine's clock: nobody sets it
	indexFault func(error) // hears of a failing disk that Badger only logs
	tableBuilt func()      // is called by a compaction that has built a table, which waits for it

	// Hooks of this package's tests.
	boot     func() bootTime                            // in place of the machine's boot clock; Now may jump then
	syncFile func(*os.File) error                       // in place of fdatasync of the log
	free     func(dir string) (bytes uint64, err error) // in place of statfs, for MinFree
	// reserveFree is free for the reserve of the index, so that a test of MinFree alone does not stop the index.
	reserveFree func(dir string) (bytes uint64, err error)
}

const (
	minMemory          = 16 << 20
	defaultMemory      = 64 << 20
	defaultSegment     = 64 << 20
	firstSegment       = 4 << 20 // segments of a new journal double from here
	bubbleSegment      = 1 << 20
	smallSegment       = 1 << 20 // on a volume that is nearly full
	minSegment         = 4096
	flushInterval      = 500 * time.Millisecond // the overlay is written to the index this long after its first entry …
	countsInterval     = 5 * time.Second        // … or this long if it only has counts of duplicates, of which more come for the same events; and anyway
	flushWeight        = 4 << 20                // … when it weighs this much;
	overlayWeight      = 32 << 20               // the writer waits when it weighs this much, or less where MinFree is small
	freeInterval       = 100 * time.Millisecond // free space is looked up this often while events come in …
	freeBytes          = 4 << 20                // … or after this many bytes written,
	freeNear           = 256 << 20              // and where no more than this is left above MinFree,
	freeIntervalNear   = time.Millisecond       // so often
	fullAgain          = time.Minute            // the log says this seldom that there is less than MinFree
	verifyBytes        = 1 << 30                // so much of the end of the log is checked frame by frame at open
	maxKeys            = 4
	maxMeta            = 64 << 10
	defaultPage        = 100
	maxPage            = 500
	payloadBlockDirect = 64 << 10 // larger bodies are written from where they are
)

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("no directory given")
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	if o.Memory < minMemory {
		return o, errors.New("memory: must be at least 16 MiB")
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegment
		if o.InBubble {
			o.SegmentSize = bubbleSegment
		}
	}
	o.SegmentSize = max(o.SegmentSize, minSegment)
	o.Retention = withDefaultRetention(o.Retention)
	o.keys = newKeyring(o.Keys)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.ownClock = o.InBubble || o.Now != nil && o.boot == nil
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.bootHook = o.boot != nil; !o.bootHook {
		o.boot = machineBoot
	}
	if o.Salt == nil {
		o.Salt = func() uint16 { return uint16(rand.Uint32()) }
	}
	if o.syncFile == nil && o.InBubble {
		o.syncFile = fdatasync
		if !o.Sync { // its time would wait for the disk
			o.syncFile = func(*os.File) error { return nil }
		}
	}
	statfs := func(dir string) (uint64, error) {
		_, n, err := Filesystem(dir)
		return n, err
	}
	if o.free == nil {
		o.free = statfs
	}
	if o.reserveFree == nil {
		o.reserveFree = statfs
	}
	if v, err := volumeOf(o.Dir); err == nil {
		o.volume = v.total
	}
	return o, nil
}

// filterBytes is what the filter of the claimed keys may take: two bytes a key, until there are 16 million with the default budget.
func (o *Options) filterBytes() int64 { return o.Memory / 2 }

// withDefaultRetention puts the default where a field is 0.
func withDefaultRetention(r journal.Retention) journal.Retention {
	d := journal.DefaultRetention()
	for _, f := range [...]struct {
		v *time.Duration
		d time.Duration
	}{{&r.Dedup, d.Dedup}, {&r.Payload, d.Payload}, {&r.Record, d.Record}, {&r.DeadLetter, d.DeadLetter}} {
		if *f.v == 0 {
			*f.v = f.d
		}
	}
	return r
}
