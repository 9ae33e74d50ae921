package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
)

// Badger must be given only what it can open: on some damage it panics in a goroutine of its own, where nobody can
// recover. So its tables are read first, and a mark in the directory tells how often in a row an open of Badger did not
// come back. That may have been a kill; once it may not, the index is set aside without being tried again.

// nameOpening is the mark; it is there while Badger opens, with a byte for each try.
const nameOpening = "OPENING"

// openTries bounds them.
const openTries = 2

// beginOpening sets the mark, or counts one more in it. It returns errIndex after too many.
func beginOpening(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, nameOpening), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return err
	case info.Size() >= openTries:
		return fmt.Errorf("%w: the last %d attempts to open it did not come back", errIndex, info.Size())
	}
	_, err = f.Write([]byte{'.'})
	return err
}

func endOpening(dir string) error { return os.Remove(filepath.Join(dir, nameOpening)) }

// tablesOnDisk lists the table files of a Badger directory, by number with their size in bytes, and removes the empty files that a crash between
// create and write leaves: Badger trips over them.
func tablesOnDisk(dir string) (map[uint64]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	tables := map[uint64]int64{}
	for _, e := range entries {
		path, ext := filepath.Join(dir, e.Name()), filepath.Ext(e.Name())
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		switch {
		case (ext == ".mem" || ext == ".vlog") && info.Size() == 0:
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		case ext == ".sst":
			n, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), ext), 10, 64)
			if err != nil {
				continue
			}
			tables[n] = info.Size()
		}
	}
	return tables, nil
}

// checkManifest compares the tables with Badger's manifest before Badger does, which deletes what the manifest does not name, and may then give its number to a
// table that it makes of a memtable. It returns those that the manifest does not name, and where the manifest ends.
func checkManifest(dir string, tables map[uint64]int64, o badger.Options) (unnamed []uint64, end int64, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) && len(tables) == 0 {
		return nil, manifestHeadSize, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errIndex, err)
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, o)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: its manifest: %w", errIndex, err)
	}
	for n := range tables {
		if _, ok := m.Tables[n]; !ok {
			unnamed = append(unnamed, n)
		}
	}
	return unnamed, end, nil
}

// A kill in the middle of a compaction, or while a memory table becomes one on disk, leaves tables that the manifest does not name yet: all that is in them
// is in what they were made of, too. A kill right after a compaction leaves tables that the manifest does not name any more. A manifest that has lost its end leaves
// such tables as well, and then what they hold is nowhere else. So those that are not finished, and so were never named, are removed; the others are put aside,
// where Badger does not see them, and once it is open it must say the same without them.
const unnamedSuffix = ".unnamed"

// removeUnfinished removes those of the tables that the manifest does not name whose end was never written. It gives the rest.
func removeUnfinished(dir string, unnamed []uint64) (finished []uint64, err error) {
	for _, n := range unnamed {
		path := table.NewFilename(n, dir)
		written, err := endWritten(path)
		if err == nil && !written {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, err
		}
		if written {
			finished = append(finished, n)
		}
	}
	return finished, nil
}

// endWritten says whether the last bytes of a table file, the length of its checksum, are not the zeros that it begins with: Badger makes the file in its full size and
// fills it from the front.
func endWritten(path string) (bool, error) {
	f, size, err := openSized(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var end [4]byte
	_, err = f.ReadAt(end[:], max(0, size-int64(len(end))))
	if err == io.EOF { // shorter than that
		err = nil
	}
	return end != [4]byte{}, err
}

// putAside hides tables that the manifest does not name from Badger. One of the same number may have been put aside at an open that did not come further: Badger gives
// numbers again that its manifest does not have.
func putAside(dir string, unnamed []uint64) error {
	for _, n := range unnamed {
		path := table.NewFilename(n, dir)
		to := path + unnamedSuffix
		for ; exists(to); to += unnamedSuffix {
		}
		if err := os.Rename(path, to); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// dropUnnamed removes the tables that were put aside, now or at an open that did not come so far. It returns errIndex where db says anything else without them
// than with them.
func dropUnnamed(db *badger.DB, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+unnamedSuffix))
	if err != nil || len(paths) == 0 {
		return err
	}
	w, err := newWithout(db)
	if err != nil {
		return err
	}
	var buf []byte
	for _, check := range []func(*table.Table) error{w.compare, w.explain} {
		for _, path := range paths {
			if buf, err = checkBlocks(path, 0, buf, check); err != nil {
				return fmt.Errorf("%w: its manifest does not name %s: %w", errIndex, filepath.Base(path), err)
			}
		}
		if len(w.missing) == 0 {
			break
		}
	}
	if len(w.missing) > 0 {
		return fmt.Errorf("%w: tables that its manifest does not name hold %d keys that the others do not", errIndex, len(w.missing))
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// without compares an index with tables that are not in it. What they hold may be gone from it for one reason: a compaction has dropped them, and with them versions that
// nobody can see any more, killed before the files were deleted. That it drops none above the version of the position entry is what undo stands on, too.
type without struct {
	db      *badger.DB
	whole   uint64            // the version of the position entry
	missing map[string]uint64 // keys that db does not have, with the newest version in which a table has them
}

func newWithout(db *badger.DB) (*without, error) {
	txn := db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	whole, err := wholeVersion(txn) // where it is 0 nothing can have been dropped
	return &without{db: db, whole: whole, missing: map[string]uint64{}}, err
}

// maxMissing is how many keys may be missing before it is not worth asking why: building the index anew takes about as long.
const maxMissing = 1 << 20

// compare says with an error that db lacks what is in a table. Keys that it does not have at all are noted as missing: another table may hold their deletion.
func (w *without) compare(t *table.Table) error {
	errLacks := errors.New("it holds what the others do not")
	txn := w.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	found := txn.NewIterator(badger.IteratorOptions{AllVersions: true, InternalAccess: true})
	defer found.Close()
	it := t.NewIterator(0)
	defer it.Close()
	it.Rewind()
	if it.Valid() {
		found.Seek(y.ParseKey(it.Key()))
	}
	var last []byte // the last key that was looked at as of whole
	for ; it.Valid(); it.Next() {
		key, version := y.ParseKey(it.Key()), y.ParseTs(it.Key())
		if version > w.whole {
			if !reach(found, key, version) || found.Item().Version() != version {
				return errLacks
			}
			continue
		}
		if bytes.Equal(key, last) {
			continue // an older version
		}
		last = append(last[:0], key...)
		has := reach(found, key, w.whole)
		switch {
		case has && found.Item().Version() >= version, (!has || found.Item().IsDeletedOrExpired()) && isDeletion(it):
		case has || len(w.missing) == maxMissing:
			return errLacks
		default:
			w.missing[string(key)] = max(version, w.missing[string(key)])
		}
	}
	return nil
}

// explain takes from missing what a table says was deleted since.
func (w *without) explain(t *table.Table) error {
	it := t.NewIterator(0)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		version := y.ParseTs(it.Key())
		if at, ok := w.missing[string(y.ParseKey(it.Key()))]; ok && version > at && version <= w.whole && isDeletion(it) {
			delete(w.missing, string(y.ParseKey(it.Key())))
		}
	}
	return nil
}

func isDeletion(it *table.Iterator) bool { return it.Value().Meta&metaDelete != 0 }

// reach moves an iterator over all versions, newest first, on to the newest of a key up to a version. False: there is none.
func reach(it *badger.Iterator, key []byte, version uint64) bool {
	const near = 8
	for steps := 0; it.Valid(); steps++ {
		item := it.Item()
		c := bytes.Compare(item.Key(), key)
		switch {
		case c == 0 && item.Version() <= version:
			return true
		case c > 0:
			return false
		case c < 0 && steps == near:
			it.Seek(key)
		default:
			it.Next()
		}
	}
	return false
}

var errTable = errors.New("the end of the table is damaged")

// checkEnd checks the end of an encrypted table, whose blocks only Badger can read: an index, its length, a checksum message, its length (big-endian).
func checkEnd(path string, _ uint64, buf []byte) ([]byte, error) {
	f, size, err := openSized(path)
	if err != nil {
		return buf, err
	}
	defer f.Close()
	sum, end, err := readBefore(f, size, 64)
	if err != nil {
		return buf, err
	}
	index, _, err := readBefore(f, end, size)
	if err != nil {
		return buf, err
	}
	// The message is {1: algorithm (left out: CRC-32C), 2: sum}.
	d := decoder{buf: sum}
	if d.u8() != 2<<3 {
		return buf, errTable
	}
	if want := d.uvarint(); d.done() != nil || want != uint64(checksum(index)) {
		return buf, errTable
	}
	return buf, nil
}

// checkTables reads every table once, on all processors, so that Badger need not when it opens them. It returns errIndex for a damaged one.
func checkTables(dir string, tables map[uint64]int64, check func(path string, n uint64, buf []byte) ([]byte, error)) error {
	var work sync.WaitGroup
	rest := make(chan uint64, len(tables))
	for n := range tables {
		rest <- n
	}
	close(rest)
	faults := make([]error, runtime.GOMAXPROCS(0))
	for w := range faults {
		work.Go(func() {
			var buf []byte
			for n := range rest {
				path := table.NewFilename(n, dir)
				var err error
				if buf, err = check(path, n, buf); err != nil {
					faults[w] = fmt.Errorf("%w: %s: %w", errIndex, path, err)
					return
				}
			}
		})
	}
	work.Wait()
	return errors.Join(faults...)
}

// checkBlocks reads every block of a table as Badger will, here, where a panic over a damaged one can be caught, and hands the table to use. buf is used if it is large
// enough, and returned.
func checkBlocks(path string, n uint64, buf []byte, use func(*table.Table) error) (data []byte, err error) {
	if data, err = readInto(path, buf); err != nil {
		return data, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger panicked: %v", p)
		}
	}()
	t, err := table.OpenInMemoryTable(data, n, &table.Options{})
	if err != nil {
		return data, err
	}
	if err := t.VerifyChecksum(); err != nil {
		return data, err
	}
	return data, use(t)
}

// readInto reads a file whole.
func readInto(path string, buf []byte) ([]byte, error) {
	f, size, err := openSized(path)
	if err != nil {
		return buf, err
	}
	defer f.Close()
	buf = slices.Grow(buf[:0], int(size))[:size]
	_, err = io.ReadFull(f, buf)
	return buf, err
}

// openSized opens a file, and says how many bytes it has.
func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// readBefore reads the bytes in front of a length that ends at end.
func readBefore(f *os.File, end, limit int64) (b []byte, start int64, err error) {
	var length [4]byte
	if end < 4 {
		return nil, 0, errTable
	}
	if _, err := f.ReadAt(length[:], end-4); err != nil {
		return nil, 0, err
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	if start = end - 4 - n; n > limit || start < 0 {
		return nil, 0, errTable
	}
	b = make([]byte, n)
	_, err = f.ReadAt(b, start)
	return b, start, err
}
