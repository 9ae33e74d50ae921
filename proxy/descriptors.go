package proxy

import (
	"errors"
	"math"
	"os"
	"syscall"
)

// Descriptors says how many descriptors may be open where one more is wanted for a connection of the public port, of the admin port, or to
// an upstream, in a process that may have limit of them. A quarter of them all, at least 48, at most 1,024 and no more than half, is not
// for the public port; a sixth of that is for the admin port, as many for upstreams, and the rest for the journal alone, which must not
// run out: it could promise nothing any more (SPEC §12).
func Descriptors(limit uint64) (public, admin, upstream int) {
	n := int(min(limit, 1<<30))
	kept := min(max(n/4, 48), 1024, n/2)
	return n - kept, n - kept + kept/6, n - kept + kept/3
}

// DescriptorLimit is how many descriptors this process may have.
func DescriptorLimit() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 1024
	}
	return uint64(limit.Cur) // signed on some systems
}

// OpenDescriptors counts the descriptors that this process has open. Where that cannot be known it is 0.
func OpenDescriptors() int {
	const path = "/proc/self/fd"
	var st syscall.Stat_t
	if syscall.Stat(path, &st) == nil && st.Size > 0 {
		return int(st.Size) // since Linux 6.2, proc(5)
	}
	open, err := os.ReadDir(path)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return math.MaxInt
	}
	return max(0, len(open)-1)
}
