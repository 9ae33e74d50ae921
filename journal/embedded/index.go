package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync/atomic"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/hooktender/hooktender/event"
	"golang.org/x/sys/unix"
)

// The index is a Badger store over the log, so that what the log says can be found. It is disposable: everything in it is
// rebuilt from the log when in doubt. Keys begin with a letter:
//
//	r leaf       the records of 8 events, see leaf: appendItem, with the last attempt
//	o seq        the record of an event that is too large for that
//	a seq n      an attempt before the last
//	k key        event number under a claimed key or an alias
//	t state seq  events in each state but delivered
//	b block      filter over 64 events, see block
//	c hash       state of a resource
//	m key        a meta value
//	n            how far the log has been applied, and the counters as of then
//	w            the write that the last one follows, see versions
//
// Event numbers are big-endian. Only flush writes.
type index struct {
	db     *badger.DB
	dir    *os.File
	audit  *compactions
	filter *keyFilter // of what was in it when it was opened, for who uses it; nil if only Badger can read its tables
	gone   int64      // claimed keys that flushes have deleted
	blocks blockCache
	arena  []byte

	versions versions

	memtable  int64
	allocated string // the newest write-ahead file that has its blocks
	bare      bool   // one that has none may be there

	lowBlock atomic.Uint64 // no event is left in the blocks below
	swept    uint64        // the blocks below are deleted
}

const (
	prefixRecord   = 'r'
	prefixOwn      = 'o'
	prefixAttempt  = 'a'
	prefixKey      = 'k'
	prefixState    = 't'
	prefixBlock    = 'b'
	prefixResource = 'c'
	prefixMeta     = 'm'
	prefixPosition = 'n'
	prefixWrite    = 'w'
)

// errIndex: the index cannot be used and has to be rebuilt.
var errIndex = errors.New("the index does not fit the log")

func indexOptions(dir string, o *Options) badger.Options {
	compactors := 2
	if o.InBubble {
		compactors = 0
	}
	opts := badger.DefaultOptions(dir).
		WithMemTableSize(memtableSize(o)).
		WithNumMemtables(2).
		WithBlockCacheSize(0).
		WithIndexCacheSize(min(max(o.Memory/4, 4<<20), 32<<20)).
		WithCompression(options.None).
		WithNumCompactors(compactors).
		WithNumLevelZeroTables(4).
		WithValueLogFileSize(64 << 20).
		WithValueThreshold(1 << 20).
		WithDetectConflicts(false).
		WithSyncWrites(true).
		WithMetricsEnabled(false).
		WithChecksumVerificationMode(options.OnBlockRead). // openIndex has read the tables
		WithLogger(badgerLog{log: o.Log, fault: o.indexFault})
	// Ten or twenty tables are built at once, each in twice its size of memory, of which Badger keeps that of eight: they are small in every level.
	opts.TableSizeMultiplier = 1
	if o.keys != nil { // only Badger can read the tables; it wants a cache of decrypted blocks
		opts = opts.WithEncryptionKey(o.keys[0].index()).WithBlockCacheSize(16 << 20).WithChecksumVerificationMode(options.OnTableAndBlockRead)
	}
	return opts
}

// memtableSize is that of a memory table. Up to four are in memory, with as much garbage, and what they become is read and written again in one go, four at once, through
// mapped files: so they are small.
func memtableSize(o *Options) int64 {
	if o.InBubble {
		return minMemtable
	}
	size := min(o.Memory/8, 64<<20)
	if o.volume > 0 { // a small volume gets small tables
		size = min(size, int64(o.volume/32))
	}
	return max(size, minMemtable)
}

const minMemtable = 8 << 20 // with less Badger does not take our values

// largestMemtable is size, or what a memory table in dir was made with: Badger ends the process where one that a crash left does not fit into its tables.
func largestMemtable(dir string, size int64) (int64, error) {
	for _, path := range memFiles(dir) {
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		size = max(size, min(info.Size()/2, 64<<20)) // as Badger makes the file; they were never larger
	}
	return size, nil
}

// openIndex opens or creates the index. It returns errIndex (wrapped) where it must be rebuilt: a table is damaged, Badger refuses or panics, or there are
// tables that its manifest does not name, which it would drop in silence, and the index is not the same without them.
func openIndex(dir string, o *Options) (ix *index, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	before, err := tablesOnDisk(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			ix, err = nil, fmt.Errorf("%w: badger panicked: %v", errIndex, p)
		}
	}()
	opts := indexOptions(dir, o)
	if opts.MemTableSize, err = largestMemtable(dir, opts.MemTableSize); err != nil {
		return nil, err
	}
	unnamed, manifestEnd, err := checkManifest(dir, before, opts)
	if err = errors.Join(checkLost(dir), err); err != nil {
		return nil, err
	}
	found := len(unnamed)
	for _, n := range unnamed {
		delete(before, n)
	}
	if unnamed, err = removeUnfinished(dir, unnamed); err != nil {
		return nil, err
	}
	if len(unnamed) > 0 && o.keys != nil { // only Badger could say what is in them
		return nil, fmt.Errorf("%w: its manifest does not name table %d", errIndex, unnamed[0])
	}
	check, filter := checkEnd, (*keyFilter)(nil)
	var newest atomic.Uint64 // version in the tables
	if o.keys == nil {
		filter = newKeyFilter(keysIn(before), o.filterBytes())
		check = func(path string, n uint64, buf []byte) ([]byte, error) {
			return checkBlocks(path, n, buf, func(t *table.Table) error {
				for v, now := t.MaxVersion(), newest.Load(); v > now && !newest.CompareAndSwap(now, v); now = newest.Load() {
				}
				return filter.addTable(t)
			})
		}
	}
	if err := checkTables(dir, before, check); err != nil {
		return nil, err
	}
	if err := putAside(dir, unnamed); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	audit := &compactions{dir: d, fault: o.indexFault, each: o.tableBuilt, built: map[int]int{}, at: manifestEnd}
	if err := beginOpening(dir); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	db, err := badger.OpenManaged(opts.WithLogger(badgerLog{o.Log, o.indexFault, audit}))
	err = errors.Join(err, endOpening(dir))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errIndex, err), d.Close())
	}
	ix = &index{db: db, dir: d, audit: audit, memtable: opts.MemTableSize, bare: true, filter: filter}
	if filter != nil {
		ix.addRecent(filter, newest.Load())
	} else {
		for _, t := range db.Tables() {
			if _, ok := before[t.ID]; ok {
				newest.Store(max(newest.Load(), t.MaxVersion))
			}
		}
	}
	if err := errors.Join(ix.checkWrites(newest.Load()), dropUnnamed(db, dir)); err != nil {
		return nil, errors.Join(err, ix.close())
	}
	if found > 0 {
		o.Log.Info("index: tables that a kill has left behind are dropped", "tables", found)
	}
	err = ix.allocate(memFiles(dir))
	if noSpace(err) {
		return nil, err // it is not closed: that would write
	}
	if err = errors.Join(err, ix.undo()); err != nil {
		return nil, errors.Join(err, ix.close())
	}
	return ix, nil
}

// keysIn guesses how many claimed keys there are in tables of these sizes: an event has one, and its record.
func keysIn(tables map[uint64]int64) int64 {
	const entries = 192 // bytes, of one event
	n := int64(0)
	for _, size := range tables {
		n += size
	}
	return n / entries
}

// addRecent adds the claimed keys that were in memory tables when Badger was opened, and may be in new tables already: their versions are not lower than newest, the highest in a
// table that was there before.
func (ix *index) addRecent(f *keyFilter, newest uint64) {
	txn := ix.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues, o.SinceTs = []byte{prefixKey}, false, max(newest, 1)-1
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		f.addEntry(it.Item().Key())
	}
}

// diskFault finds the disk's own error in one of Badger's, which keep only its text.
func diskFault(err error) error {
	for _, e := range []error{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS} {
		if err != nil && strings.Contains(err.Error(), e.Error()) {
			return e
		}
	}
	return nil
}

func (ix *index) close() error {
	return errors.Join(ix.db.Close(), ix.audit.close(), ix.dir.Close())
}

// A snapshot is one state of the index. It is shared by many readers and goes when the last of them has released it
// after the engine has moved on.
type snapshot struct {
	ix      *index
	version uint64
	txn     *badger.Txn
	refs    atomic.Int64
}

// snapshot begins one as of the last flush, with one reference.
func (ix *index) snapshot() *snapshot {
	s := &snapshot{ix: ix, version: ix.versions.begin()}
	s.txn = ix.db.NewTransactionAt(s.version, false)
	s.refs.Store(1)
	return s
}

func (s *snapshot) release() {
	if s.refs.Add(-1) == 0 {
		s.txn.Discard()
		s.ix.versions.end(s.ix.db, s.version)
	}
}

// get gives a copy of a value; nil if there is none.
func (s *snapshot) get(key []byte) ([]byte, error) {
	it, err := s.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := it.ValueCopy(nil)
	if b == nil && err == nil {
		b = []byte{}
	}
	return b, err
}

func (s *snapshot) owner(k event.Key) (event.Seq, error) {
	b, err := s.get(claimKey(k))
	if b == nil || err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("index entry of a key: %w", errCodec)
	}
	return event.Seq(binary.BigEndian.Uint64(b)), nil
}

func seqKey(prefix byte, seq event.Seq) []byte { return appendSeqKey(make([]byte, 0, 9), prefix, seq) }

func appendSeqKey(b []byte, prefix byte, seq event.Seq) []byte {
	return binary.BigEndian.AppendUint64(append(b, prefix), uint64(seq))
}

func blockKey(block uint64) []byte { return seqKey(prefixBlock, event.Seq(block)) }

func claimKey(k event.Key) []byte { return append(append(make([]byte, 0, 17), prefixKey), k[:]...) }

func attemptKey(seq event.Seq, n uint64) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 13), seqKey(prefixAttempt, seq)...), uint32(n))
}

func stateKey(s event.State, seq event.Seq) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 10), prefixState, byte(s)), uint64(seq))
}

func resourceKey(k event.ResourceKey) []byte {
	h := event.MakeKey(prefixResource, k.Source, k.Resource)
	return append(append(make([]byte, 0, 17), prefixResource), h[:]...)
}

func metaKey(key string) []byte {
	return append(append(make([]byte, 0, 1+len(key)), prefixMeta), key...)
}

// badgerLog passes on what matters. Badger only logs that a table could not be written and tries again; for the journal a failing disk is final.
type badgerLog struct {
	log   *slog.Logger
	fault func(error)  // may be nil
	audit *compactions // may be nil
}

func (l badgerLog) Errorf(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.log.Error("index: " + text)
	l.judge(text)
}

func (l badgerLog) judge(text string) {
	cause := diskFault(errors.New(text))
	if strings.HasPrefix(text, "error flushing memtable") && strings.Contains(text, unix.ENOENT.Error()) {
		cause = unix.ENOENT // the directory is gone
	}
	if cause != nil && l.fault != nil {
		l.fault(fmt.Errorf("the index: %w: %s", cause, text))
	}
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.audit.hear(format, args)
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.log.Warn("index: " + text)
	l.judge(text) // a compaction that failed is only a warning
}

func (badgerLog) Infof(string, ...any) {}

func (l badgerLog) Debugf(format string, args ...any) { l.audit.hear(format, args) }
