package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	badger "github.com/dgraph-io/badger/v4"
)

// Badger drops the error of a table that a compaction could not write, be it for a failed fsync or for want of a descriptor (levels.go, subcompact:
// the deferred Done was given the error's value of before). Its manifest goes on without the table, the keys in it are gone, and its log has no line
// about it. So compactions are audited: Badger says in its debug log how many tables each of its compactors began and when a compaction is done; by
// then the manifest must have a change that made as many. If it has not, the journal fails, and a mark makes the next start build the
// index anew. (Badger writes its manifest anew after 10,000 tables or more: the change that came with it is not in it as such, and that
// one compaction is not audited.)
type compactions struct {
	dir   *os.File
	fault func(error) // may be nil
	each  func()      // called for each table that was begun, by who made it; may be nil

	mu      sync.Mutex
	built   map[int]int // by compactor: tables begun
	file    *os.File    // the manifest; nil before the first look
	at      int64       // how far it was read
	changes []int       // tables made by each compaction in it whose end was not heard of yet
	unseen  int         // changes that a rewrite of the manifest hid
}

const (
	// nameLost is the mark: a table of the index was lost.
	nameLost = "LOST"

	manifestHeadSize = 8
	manifestSetHead  = 8 // length and CRC-32C, big-endian

	// What Badger says, with the compactor first; number of keys next.
	saysBuilt  = "[%d] LOG Compact. Added %d keys."
	saysDone   = "[Compactor: %d] Compaction for level: %d DONE"
	saysFailed = "[Compactor: %d] LOG Compact FAILED"
)

var errTableLost = errors.New("a compaction could not write a table")

// hear is told what Badger logs.
func (c *compactions) hear(format string, args []any) {
	built, done, failed := strings.HasPrefix(format, saysBuilt), strings.HasPrefix(format, saysDone), strings.HasPrefix(format, saysFailed)
	if c == nil || !built && !done && !failed || len(args) < 2 {
		return
	}
	if built && c.each != nil {
		c.each()
	}
	id, _ := args[0].(int)
	c.mu.Lock()
	defer c.mu.Unlock()
	if built {
		if keys, _ := args[1].(uint64); keys > 0 {
			c.built[id]++
		}
		return
	}
	n := c.built[id]
	delete(c.built, id)
	if failed { // it dropped what it had made, and the manifest has nothing of it
		return
	}
	if err := c.settle(n); err != nil {
		err = errors.Join(err, c.mark())
		if c.fault != nil {
			c.fault(fmt.Errorf("the index: %w", err))
		}
	}
}

// settle looks for a change that made n tables.
func (c *compactions) settle(n int) error {
	if err := c.read(); err != nil {
		return err
	}
	i := slices.Index(c.changes, n)
	switch {
	case i >= 0:
		c.changes = slices.Delete(c.changes, i, i+1)
	case c.unseen > 0:
		c.unseen--
	default:
		return fmt.Errorf("%w: of the %d that it made its manifest does not name all", errTableLost, n)
	}
	return nil
}

// mark makes the next start build the index anew. It needs no file descriptor: there may be none left.
func (c *compactions) mark() error {
	err := os.Mkdir(filepath.Join(c.dir.Name(), nameLost), 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, c.dir.Sync())
}

// checkLost returns errIndex where the mark is.
func checkLost(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, nameLost))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: a table of it was lost", errIndex), err)
}

// read takes in what was added to the manifest.
func (c *compactions) read() error {
	path := filepath.Join(c.dir.Name(), badger.ManifestFilename)
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if c.file != nil {
		old, err := c.file.Stat()
		if err != nil {
			return err
		}
		if err := c.readOn(); err != nil || os.SameFile(old, now) {
			return err
		}
		c.unseen++
		if err := c.close(); err != nil {
			return err
		}
		c.at = manifestHeadSize
	}
	if c.file, err = os.Open(path); err != nil {
		return err
	}
	return c.readOn()
}

func (c *compactions) readOn() error {
	raw, err := io.ReadAll(io.NewSectionReader(c.file, c.at, 1<<62))
	if err != nil {
		return err
	}
	for len(raw) >= manifestSetHead {
		size, sum := uint64(binary.BigEndian.Uint32(raw)), binary.BigEndian.Uint32(raw[4:])
		if size > uint64(len(raw)-manifestSetHead) {
			break // the other compactor is writing it
		}
		set := raw[manifestSetHead : manifestSetHead+size]
		if crc32.Checksum(set, castagnoli) != sum {
			break
		}
		made, dropped, err := countChanges(set)
		if err != nil {
			return err
		}
		if dropped > 0 { // a memory table that becomes a table drops none
			c.changes = append(c.changes, made)
		}
		raw, c.at = raw[manifestSetHead+size:], c.at+manifestSetHead+int64(size)
	}
	return nil
}

// countChanges reads a ManifestChangeSet: repeated {1: id, 2: operation (0 makes, 1 drops), …}, all of them varints.
func countChanges(set []byte) (made, dropped int, err error) {
	d := decoder{buf: set}
	for len(d.buf) > 0 && !d.bad {
		if d.uvarint() != 1<<3|2 {
			d.fail()
		}
		change := decoder{buf: d.take(int(d.uvarint()))}
		drops := false
		for len(change.buf) > 0 {
			if tag, v := change.uvarint(), change.uvarint(); tag == 2<<3 {
				drops = v == 1
			}
		}
		if d.bad = d.bad || change.bad; drops {
			dropped++
		} else {
			made++
		}
	}
	return made, dropped, d.done()
}

func (c *compactions) close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}
