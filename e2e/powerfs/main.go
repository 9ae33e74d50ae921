// Command powerfs is a disk in memory that can lose its power: a FUSE file system that keeps, beside what processes see, what would be on the platter,
// and goes back to that on demand. It can also fail an fsync of one's choice. It is driven over stdin, a command a line; each is answered by a line that begins
// with "ok" or "error":
//
//	mount DIR journalled|strict   mount; what an fsync promises
//	fail N [SUFFIX]               the N-th fsync from now, of what has that at the end of its name, fails with EIO; the kernel then believes its pages clean
//	status                        ok <fsyncs so far> <Unix nanoseconds of the failed one, or 0> <its path>
//	freeze                        the power is off: every further request fails, nothing reaches the platter
//	cut SEED                      unmount and forget what was not durable, in a pattern that SEED decides
//	quit                          unmount and end
//
// It needs root and /dev/fuse.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	m := &machine{disk: newDisk()}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		args := strings.Fields(lines.Text())
		if len(args) == 0 {
			continue
		}
		answer, err := m.do(args[0], args[1:])
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Println(strings.TrimSpace("ok " + answer))
		}
		if args[0] == "quit" {
			return
		}
	}
	_, _ = m.do("quit", nil)
}

type machine struct {
	disk   *disk
	mount  string
	server *fuse.Server
}

func (m *machine) do(cmd string, args []string) (string, error) {
	number := func() (uint64, error) {
		if len(args) != 1 {
			return 0, errors.New("one number is needed")
		}
		return strconv.ParseUint(args[0], 10, 64)
	}
	d := m.disk
	switch cmd {
	case "mount":
		if len(args) != 2 || m.server != nil {
			return "", errors.New("mount DIR MODE, once")
		}
		return "", m.up(args[0], args[1])
	case "fail":
		suffix := ""
		if len(args) == 2 {
			suffix, args = args[1], args[:1]
		}
		n, err := number()
		if err != nil {
			return "", err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failIn, d.failOf = int(n), suffix
		return "", nil
	case "status":
		d.mu.Lock()
		defer d.mu.Unlock()
		at := int64(0)
		if !d.failedAt.IsZero() {
			at = d.failedAt.UnixNano()
		}
		return fmt.Sprintf("%d %d %s", d.syncs, at, d.failed), nil
	case "freeze":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.dead = true
		return "", nil
	case "cut":
		seed, err := number()
		if err != nil {
			return "", err
		}
		if err := m.down(); err != nil {
			return "", err
		}
		return d.cut(seed), nil
	case "quit":
		return "", m.down()
	}
	return "", fmt.Errorf("unknown command %q", cmd)
}

func (m *machine) up(dir, mode string) error {
	if mode != journalled && mode != strict {
		return fmt.Errorf("mode %q", mode)
	}
	m.disk.mu.Lock()
	m.disk.mode = mode
	m.disk.mu.Unlock()
	// All that is written comes through this mount, so the kernel knows it. By itself it would drop cached pages whenever it sees a new time, also those of a write that
	// is under way, and read the old bytes into the cache again.
	s, err := fuse.NewServer(newServer(m.disk), dir, &fuse.MountOptions{DirectMountStrict: true, ExplicitDataCacheControl: true, FsName: "powerfs", Name: "powerfs",
		DisableReadDirPlus: true, DisableXAttrs: true, MaxWrite: 1 << 20})
	if err != nil {
		return err
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		return err
	}
	m.mount, m.server = dir, s
	return nil
}

func (m *machine) down() error {
	if m.server == nil {
		return nil
	}
	if err := syscall.Unmount(m.mount, 0); err != nil {
		if err := syscall.Unmount(m.mount, syscall.MNT_DETACH); err != nil {
			return err
		}
	}
	m.server.Wait()
	m.server = nil
	return nil
}
