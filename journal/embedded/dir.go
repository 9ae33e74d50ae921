package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hooktender/hooktender/journal"
)

// Names in the journal's directory.
const (
	nameLock   = "LOCK"
	nameFormat = "FORMAT"
	nameLedger = "LEDGER"
	nameLog    = "log"
	nameIndex  = "index"
)

// formatVersion is what this package writes; it refuses newer ones.
const formatVersion = 1

const formatPrefix = "hooktender journal "

// prepareDir makes the directory fit for a journal and takes its lock. The lock goes when the file is closed or the
// process dies.
func prepareDir(o *Options) (lock *os.File, err error) {
	name, _, err := Filesystem(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkSpace(o); err != nil {
		return nil, err
	}
	switch {
	case name == "tmpfs" && !o.AllowTmpfs:
		return nil, fmt.Errorf("%w (journal.allow_tmpfs allows it)", journal.ErrTmpfs)
	case name == "overlayfs" || name == "nfs" || name == "smb":
		o.Log.Warn("journal on a file system whose fsync may not be what it says", "dir", o.Dir, "filesystem", name)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	switch err := syncDir(filepath.Dir(o.Dir)); {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP): // not ours, or of another kind
		o.Log.Debug("the directory above the journal cannot be synced", "err", err)
	case err != nil:
		return nil, fmt.Errorf("the directory above the journal: %w", err)
	}
	lock, err = takeLock(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := finishSalvage(o.Dir, o.Log); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := checkFormat(o.Dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, nameLog), 0o700); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// takeLock takes the lock of a journal.
func takeLock(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, nameLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for again := 10; ; again-- { // somebody who only looks whether it is in use (inUse) has it for a moment
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if again == 0 || !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = journal.ErrLocked
		}
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func checkFormat(dir string) error {
	path := filepath.Join(dir, nameFormat)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 { // empty: a crash cut the first start short
		return writeFormat(dir, path)
	}
	return readFormat(dir)
}

// readFormat says whether this program can read the journal.
func readFormat(dir string) error {
	path := filepath.Join(dir, nameFormat)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), formatPrefix)
	version, err := strconv.Atoi(text)
	if !ok || err != nil {
		return damaged(path, "not a journal's format file")
	}
	if version > formatVersion {
		return fmt.Errorf("%w: %s says format %d, this program reads up to %d", journal.ErrFormat, path, version, formatVersion)
	}
	return nil
}

// writeFormat marks a new journal; a directory that holds log files without the mark is not one.
func writeFormat(dir, path string) error {
	segs, err := listSegments(filepath.Join(dir, nameLog))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, nameLedger)); err == nil || len(segs) > 0 {
		return damaged(path, "the file is missing")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s%d\n", formatPrefix, formatVersion)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(dir))
}
