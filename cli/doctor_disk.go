package cli

import (
	"os"
	"slices"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/journal/embedded"
)

// slowSync is the fsync latency from which senders feel it: each waits for one.
const slowSync = 20 * time.Millisecond

// disk says what the journal's promise is worth on the file system under it.
func (d *doctor) disk(cfg *config.Config) {
	name, free, err := embedded.Filesystem(cfg.DataDir)
	switch {
	case err != nil:
		d.problem(exitFailed, "file system", "%v", err)
		return
	case name == "tmpfs" && !cfg.Journal.AllowTmpfs:
		d.problem(exitJournal, "file system", "%s is in memory (tmpfs): nothing there survives a reboot; the start is refused; see %sthe-directory-is-in-memory", cfg.DataDir, operations)
	case slices.Contains([]string{"tmpfs", "overlayfs", "nfs", "smb"}, name):
		d.warn("file system", "%s: what is answered may not survive a crash of the machine", name)
	case slices.Contains([]string{"ext4", "xfs", "btrfs"}, name):
		d.ok("file system", "%s", name)
	default:
		d.ok("file system", "%s, which is not among those that are tested (ext4, xfs, btrfs)", name)
	}
	const mib = 1 << 20
	switch bound := uint64(cfg.Journal.MinFree); {
	case free < bound:
		d.problem(exitFailed, "free space", "%d MiB are free, journal.min_free is %d MiB: new events are answered 503; see %sthe-disk-is-full", free/mib, bound/mib, operations)
	case free < 2*bound:
		d.warn("free space", "%d MiB are free; below %d MiB (journal.min_free) new events are answered 503", free/mib, bound/mib)
	default:
		d.ok("free space", "%d MiB; new events are answered 503 below %d MiB", free/mib, bound/mib)
	}
	if cfg.Journal.Sync != "always" {
		d.warn("sync", "journal.sync is %s: a power cut may lose events that were answered with 2xx", cfg.Journal.Sync)
	} else {
		d.ok("sync", "always: no 2xx before the event is on the disk")
	}
	d.syncTime(cfg.DataDir)
}

// syncTime measures what a sender waits for.
func (d *doctor) syncTime(dir string) {
	f, err := os.CreateTemp(existing(dir), ".hooktender-doctor-*")
	if err != nil {
		return // data_dir has said so
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	took := make([]time.Duration, 0, 21)
	for len(took) < cap(took) {
		if _, err = f.WriteAt(page, 0); err != nil {
			break
		}
		start := time.Now()
		if err = f.Sync(); err != nil {
			break
		}
		took = append(took, time.Since(start))
	}
	if err != nil {
		d.problem(exitJournal, "fsync", "%v; see %sthe-disk-fails", err, operations)
		return
	}
	took = took[1:] // the first one makes the file
	slices.Sort(took)
	median, worst := took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond)
	if median > slowSync {
		d.warn("fsync", "%v in the middle, %v at worst: every sender waits for one", median, worst)
		return
	}
	d.ok("fsync", "%v in the middle, %v at worst", median, worst)
}
