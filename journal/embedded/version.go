package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
)

// Badger is in managed mode, where versions are ours to give. A flush goes to Badger in several writes, each with a version of its own, one more than that of the
// write before; a snapshot reads as of the last one of a flush. A crash may leave some of a flush's writes: what the index holds whole is
// the version of its position entry, which every flush writes last. Badger keeps that version readable, as it drops only what no snapshot since can see,
// and so the entries of a flush that was cut short can be taken back when the index is opened: a flush is seen whole or not at all.
// The last entry of a write says which one it follows, so that a memory table that is lost, or damaged before its end, leaves a gap that is seen
// where a later one is there (checkWrites).
type versions struct {
	mu   sync.Mutex
	last uint64   // of the last write of the last flush
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

// now is the version that new snapshots see.
func (v *versions) now() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
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
	w := newWrites(ix)
	w.follows = at.Version()
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
	ix.versions.done(w.version)
	return nil
}

// wholeVersion is the version of the position entry, up to which the index is whole; 0 where there is none.
func wholeVersion(txn *badger.Txn) (uint64, error) {
	at, err := txn.Get([]byte{prefixPosition})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errIndex, err)
	}
	return at.Version(), nil
}

// checkWrites returns errIndex where a write is missing before the one with the position entry: a memory table is lost or damaged, and a later one is not. Up to newest,
// the highest version in a table, all are in tables. What comes after the position entry is taken back.
func (ix *index) checkWrites(newest uint64) error {
	txn := ix.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	whole, err := wholeVersion(txn)
	if err != nil || whole == 0 { // loadPosition says what becomes of that
		return err
	}
	follows := map[uint64]uint64{}
	o := badger.DefaultIteratorOptions
	o.Prefix, o.AllVersions, o.PrefetchValues, o.SinceTs = []byte{prefixWrite}, true, false, newest
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		err := it.Item().Value(func(b []byte) error {
			d := decoder{buf: b}
			follows[it.Item().Version()] = d.uvarint()
			return d.done()
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errIndex, err)
		}
	}
	for v := whole; v > newest; {
		before, ok := follows[v]
		if !ok || before >= v {
			return fmt.Errorf("%w: a part of its memory tables is missing (write %d)", errIndex, v)
		}
		v = before
	}
	return nil
}

// writes are entries on their way to Badger, in order: those of a chunk are on disk before the next is sent, and in one memory table.
type writes struct {
	db      *badger.DB
	version uint64 // of the last chunk
	follows uint64 // the version that the next chunk follows
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

// newWrites begins writes that follow the last flush.
func newWrites(ix *index) *writes {
	now := ix.versions.now()
	return &writes{db: ix.db, version: now, follows: now}
}

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
		w.version++
	}
	w.n, w.size = w.n+1, w.size+size
	w.put(key, value, meta)
}

func (w *writes) put(key, value, meta []byte) {
	w.kv.Key, w.kv.Value, w.kv.Meta, w.kv.Version = key, value, meta, w.version
	if w.err == nil {
		w.err = w.chunk.Set(&w.kv)
	}
}

// finish returns when all is on disk.
func (w *writes) finish() error {
	if w.chunk != nil {
		w.put([]byte{prefixWrite}, binary.AppendUvarint(nil, w.follows), nil)
		w.err = errors.Join(w.err, w.chunk.Finish())
		w.chunk, w.follows = nil, w.version
	}
	return w.err
}
