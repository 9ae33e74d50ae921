package cli

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ownerOf is who owns a directory, or the nearest one above it that is there: that is whom the gateway runs as.
func ownerOf(dir string) *syscall.Stat_t {
	info, err := os.Stat(existing(dir))
	if err != nil {
		return nil
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	return owner
}

// handOver gives the journal's owner what root has made in dir: the gateway, which is another user, could not read it. lost+found stays as it is.
func handOver(dir string, to *syscall.Stat_t) error {
	if os.Geteuid() != 0 || to == nil || to.Uid == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "lost+found" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if is, ok := info.Sys().(*syscall.Stat_t); !ok || is.Uid != 0 {
			return nil
		}
		return root.Lchown(name, int(to.Uid), int(to.Gid))
	})
	if err != nil {
		return fmt.Errorf("the journal is there, but what root has made in %s could not be given to its owner, user %d: %w", dir, to.Uid, err)
	}
	return nil
}
