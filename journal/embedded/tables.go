package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
// create and write leaves: Badger trips over them. It returns errIndex for a table whose end is damaged.
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
			if err := checkTable(path, info.Size()); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errIndex, path, err)
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

// checkTable checks the end of a table: an index, its length, a checksum message, its length (big-endian).
func checkTable(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, end, err := readBefore(f, size, 64)
	if err != nil {
		return err
	}
	index, _, err := readBefore(f, end, size)
	if err != nil {
		return err
	}
	// The message is {1: algorithm (left out: CRC-32C), 2: sum}.
	d := decoder{buf: sum}
	if d.u8() != 2<<3 {
		return errTable
	}
	if want := d.uvarint(); d.done() != nil || want != uint64(checksum(index)) {
		return errTable
	}
	return nil
}

// checkBlocks reads every block of every table as Badger will, here, where a panic over a damaged one can be caught. It returns errIndex.
func checkBlocks(dir string, tables map[uint64]bool) error {
	for n := range tables {
		if err := checkBlocksOf(table.NewFilename(n, dir), n); err != nil {
			return fmt.Errorf("%w: table %d: %w", errIndex, n, err)
		}
	}
	return nil
}

func checkBlocksOf(path string, n uint64) (err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger panicked: %v", p)
		}
	}()
	t, err := table.OpenInMemoryTable(data, n, &table.Options{})
	if err != nil {
		return err
	}
	return t.VerifyChecksum()
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
