package cli

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A journal that root has restored or salvaged belongs to the user of its directory; the gateway was refused its own journal, "permission denied".
func TestWhatRootMakesBelongsToTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes files that others cannot read")
	}
	const user, group = 12345, 12346
	run := func(args ...string) {
		t.Helper()
		if code := Run(t.Context(), append([]string{"journal"}, args...), nil, io.Discard, t.Output()); code != 0 {
			t.Fatalf("journal %v exits %d", args, code)
		}
	}
	owned := func(dir string) {
		t.Helper()
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() == "lost+found" {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if is := info.Sys().(*syscall.Stat_t); is.Uid != user || is.Gid != group {
				t.Errorf("%s belongs to %d:%d", name, is.Uid, is.Gid)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	home := t.TempDir()
	if err := os.Chown(home, user, group); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join("..", "journal", "embedded", "testdata", "golden", "v1-plain")
	empty, absent := filepath.Join(home, "empty"), filepath.Join(home, "absent")
	if err := os.MkdirAll(filepath.Join(empty, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(empty, user, group); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, absent} {
		run("restore", "--data-dir", dir, backup)
		owned(dir)
	}
	if is := ownerOf(filepath.Join(empty, "lost+found")); is.Uid != 0 {
		t.Error("lost+found does not belong to root any more")
	}
	if err := os.Remove(filepath.Join(empty, "log", "0000000000000002.seg")); err != nil {
		t.Fatal(err)
	}
	usable := filepath.Join(t.TempDir(), "usable")
	run("salvage", "--data-dir", empty, "--to", usable)
	owned(usable)
	owned(empty)
	run("salvage", "--data-dir", empty)
	owned(empty)
}
