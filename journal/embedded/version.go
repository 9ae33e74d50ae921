package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
)

// Each flush has a version, one more than that of the flush before; Badger is in managed mode, where they are ours to give. All entries of a flush bear
// it, and a snapshot reads as of one. A flush goes to Badger in several writes, and a crash may leave some of them: what the index holds whole is
// the version of its position entry, which every flush writes last. Badger keeps that version readable, as it drops only what no snapshot since can see,
// and so the entries of a flush that was cut short can be taken back when the index is opened: a flush is seen whole or not at all.
type versions struct {
	mu   sync.Mutex
	last uint64   // of the last flush
	live []uint64 // of the snapshots in use, in the order in which they began
}

// begin notes a snapshot of the last flush.
func (v *versions) begin() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.live = append(v.live, v.last)
	return v.last
}

// end forgets a snapshot; what only it could still see may go.
func (v *versions) end(db *badger.DB, version uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.Index(v.live, version); i >= 0 {
		v.live = slices.Delete(v.live, i, i+1)
	}
	oldest := v.last
	if len(v.live) > 0 {
		oldest = v.live[0]
	}
	db.SetDiscardTs(oldest)
}

// next is the version that the flush which begins writes.
func (v *versions) next() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last + 1
}

// done makes a version the one that new snapshots see.
func (v *versions) done(version uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = version
}

// undo takes back what a crash left of a flush. Without a position entry there is no flush to go back to: loadPosition says what becomes of that.
func (ix *index) undo() error {
	newest := ix.db.MaxVersion()
	ix.versions.done(newest)
	now := ix.db.NewTransactionAt(math.MaxUint64, false)
	defer now.Discard()
	at, err := now.Get([]byte{prefixPosition})
	if errors.Is(err, badger.ErrKeyNotFound) || err == nil && at.Version() == newest {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	then := ix.db.NewTransactionAt(at.Version(), false)
	defer then.Discard()
	w := newWrites(ix.db, newest+1)
	o := badger.DefaultIteratorOptions
	o.AllVersions, o.PrefetchValues, o.SinceTs = true, false, at.Version()
	it := now.NewIterator(o)
	defer it.Close()
	var last []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if bytes.Equal(key, last) {
			continue
		}
		last = bytes.Clone(key)
		before, err := then.Get(last)
		if errors.Is(err, badger.ErrKeyNotFound) {
			w.remove(last)
			continue
		}
		value, err2 := before.ValueCopy(nil)
		if err = errors.Join(err, err2); err != nil {
			return fmt.Errorf("%w: %w", errIndex, err)
		}
		w.set(last, value)
	}
	position, err := at.ValueCopy(nil)
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	w.set([]byte{prefixPosition}, position)
	if err := errors.Join(w.finish(), ix.dir.Sync()); err != nil {
		return err
	}
	ix.versions.done(newest + 1)
	return nil
}

// writes are entries on their way to Badger, under one version and in order: those of a chunk are on disk before the next is sent.
type writes struct {
	db      *badger.DB
	version uint64
	chunk   *badger.KVLoader
	n, size int // of chunk
	kv      pb.KV
	err     error // the first one
}

// A chunk is one write to Badger: less than it takes at once with the smallest memory tables.
const (
	chunkBytes   = 1 << 20
	chunkEntries = 8192
)

// metaDelete is the bit that marks an entry as deleted; it is part of Badger's format.
const metaDelete = 1

var deleted = []byte{metaDelete}

func newWrites(db *badger.DB, version uint64) *writes { return &writes{db: db, version: version} }

// set takes a value that stays as it is until finish; the key is copied.
func (w *writes) set(key, value []byte) { w.add(key, value, nil) }

func (w *writes) remove(key []byte) { w.add(key, nil, deleted) }

func (w *writes) add(key, value, meta []byte) {
	if w.err != nil {
		return
	}
	size := len(key) + len(value) + 16
	if w.chunk != nil && (w.n == chunkEntries || w.size+size > chunkBytes) {
		w.finish()
	}
	if w.chunk == nil {
		w.chunk, w.n, w.size = w.db.NewKVLoader(1), 0, 0
	}
	w.kv.Key, w.kv.Value, w.kv.Meta, w.kv.Version = key, value, meta, w.version
	w.n, w.size = w.n+1, w.size+size
	if w.err == nil {
		w.err = w.chunk.Set(&w.kv)
	}
}

// finish returns when all is on disk.
func (w *writes) finish() error {
	if w.chunk != nil {
		w.err = errors.Join(w.err, w.chunk.Finish())
		w.chunk = nil
	}
	return w.err
}
