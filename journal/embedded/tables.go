package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// Badger must be given only what it can open: on some damage it panics in a goroutine of its own, where nobody can
// recover. So its tables are read first, and a mark in the directory tells whether the last open of Badger
// ever came back; if not, the index is set aside without being tried again.

// nameOpening is the mark; it is there while Badger opens.
const nameOpening = "OPENING"

// beginOpening sets the mark. It returns errIndex if the mark is there already.
func beginOpening(dir string) error {
	path := filepath.Join(dir, nameOpening)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: the last attempt to open it did not come back", errIndex)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func endOpening(dir string) error { return os.Remove(filepath.Join(dir, nameOpening)) }

// tablesOnDisk lists the numbers of the table files of a Badger directory, and removes the empty files that a crash between
// create and write leaves: Badger trips over them.
func tablesOnDisk(dir string) (map[uint64]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	tables := map[uint64]bool{}
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
			tables[n] = true
		}
	}
	return tables, nil
}

// checkManifest compares the tables with Badger's manifest before Badger does, which deletes what the manifest does not name, and may then give its number to a
// table that it makes of a memtable. It returns errIndex where the manifest does not name them all, and where the manifest ends.
func checkManifest(dir string, tables map[uint64]bool, o badger.Options) (end int64, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) && len(tables) == 0 {
		return manifestHeadSize, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errIndex, err)
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, o)
	if err != nil {
		return 0, fmt.Errorf("%w: its manifest: %w", errIndex, err)
	}
	for n := range tables {
		if _, ok := m.Tables[n]; !ok {
			return 0, fmt.Errorf("%w: its manifest does not name table %d", errIndex, n)
		}
	}
	return end, nil
}

var errTable = errors.New("the end of the table is damaged")

// checkEnd checks the end of an encrypted table, whose blocks only Badger can read: an index, its length, a checksum message, its length (big-endian).
func checkEnd(path string, _ uint64, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return buf, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return buf, err
	}
	sum, end, err := readBefore(f, info.Size(), 64)
	if err != nil {
		return buf, err
	}
	index, _, err := readBefore(f, end, info.Size())
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
func checkTables(dir string, tables map[uint64]bool, check func(path string, n uint64, buf []byte) ([]byte, error)) error {
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

// checkBlocks reads every block of a table as Badger will, here, where a panic over a damaged one can be caught. buf is used if it is large enough, and returned.
func checkBlocks(path string, n uint64, buf []byte) (data []byte, err error) {
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
	return data, t.VerifyChecksum()
}

// readInto reads a file whole.
func readInto(path string, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return buf, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return buf, err
	}
	buf = slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	_, err = io.ReadFull(f, buf)
	return buf, err
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
