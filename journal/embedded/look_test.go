package embedded

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// Who looks whether a journal is in use (check, export) has its lock for a moment: a start at that moment is not refused.
func TestStartWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		look, err := os.Create(filepath.Join(dir, nameLock))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(look.Fd()), unix.LOCK_SH); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(50 * time.Millisecond)
			look.Close()
		}()
		lock, err := prepareDir(&Options{Dir: dir, AllowTmpfs: true, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		lock.Close()
	})
}
