//go:build !portable

package embedded

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// What only Linux offers. Its counterpart, for other systems and for tests with the tag portable, does without.

func machineBoot() bootTime {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return bootTime{}
	}
	return bootTime{id: bootID(), nanos: ts.Nano()}
}

var bootID = sync.OnceValue(func() uint64 {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	sum := sha256.Sum256(id)
	return max(binary.LittleEndian.Uint64(sum[:]), 1)
})

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return err
		}
	}
}

// setDirect turns O_DIRECT on or off; false if the file system refuses.
func setDirect(f *os.File, on bool) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if on {
		flags |= unix.O_DIRECT
	} else {
		flags &^= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	return err == nil
}

// preallocate gives the first size bytes of f their blocks; grow makes the file as long as that.
func preallocate(f *os.File, size int64, grow bool) error {
	mode := uint32(unix.FALLOC_FL_KEEP_SIZE)
	if grow {
		mode = 0
	}
	return unix.Fallocate(int(f.Fd()), mode, 0, size)
}

// dropCached drops whole pages of f from the page cache, as far as they are on the disk.
func dropCached(f *os.File, from, size int64) {
	_ = unix.Fadvise(int(f.Fd()), from, size, unix.FADV_DONTNEED)
}

// pageOut gives the pages of a mapping back to the kernel. A plain system call would let the scheduler take the processor away each time, for 10 ms
// while a compaction keeps all of them busy: for a table that is longer than the compaction takes to touch the next ones.
func pageOut(from, size uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_MADVISE, from, size, unix.MADV_PAGEOUT)
	return errno
}
