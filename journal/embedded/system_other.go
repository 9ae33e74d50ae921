//go:build !linux || portable

package embedded

import (
	"os"

	"golang.org/x/sys/unix"
)

// What Linux offers in ways of its own, done with what every Unix has.

// machineBoot: nobody knows how long the machine has run.
func machineBoot() bootTime { return bootTime{} }

// fdatasync returns when everything that was written to f is on the disk, past the cache of the device too (macOS: F_FULLFSYNC).
func fdatasync(f *os.File) error { return f.Sync() }

// An fsyncer waits in fdatasync.
type fsyncer struct{}

func (fsyncer) sync(f *os.File) error { return fdatasync(f) }
func (fsyncer) close() error          { return nil }

func setDirect(*os.File, bool) bool { return false }

func preallocate(*os.File, int64, bool) error { return unix.EOPNOTSUPP }

func dropCached(*os.File, int64, int64) {}

func pageOut(uintptr, uintptr) unix.Errno { return unix.ENOSYS }
