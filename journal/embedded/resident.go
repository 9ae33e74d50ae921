package embedded

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Badger maps its tables and write-ahead files into memory, and every page that a look-up, a compaction or a flush has touched counts as the process's until the
// kernel wants it back. In a container with a bound that looks like a leak. So when more than half the index's budget of files is resident, the pages of
// its files are given back (MADV_PAGEOUT): what is clean goes, and is read from the file again when it is needed. Unlike
// MADV_DONTNEED that is harmless should an address belong to something else by then.
type resident struct {
	dir    string // of the index
	budget int64
	left   int64 // resident after the last trim: what else is mapped
	off    bool  // the kernel does not know how

	mu sync.Mutex
}

func newResident(o *Options) *resident {
	return &resident{dir: filepath.Join(o.Dir, nameIndex), budget: max(o.Memory/2, 32<<20)}
}

// trim gives pages back where too many are resident. Looking costs one read of /proc/self/statm. Any goroutine may call it; who finds another at it waits.
func (r *resident) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off || fileResident() <= max(r.budget, r.left+r.budget/4) {
		return
	}
	defer func() { r.left = fileResident() }()
	dir, err := filepath.Abs(r.dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // as the kernel names it
	}
	b, err2 := os.ReadFile("/proc/self/maps")
	if err != nil || err2 != nil {
		r.off = true
		return
	}
	prefix := []byte(" " + dir + "/")
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		line := sc.Bytes()
		if !bytes.Contains(line, prefix) {
			continue
		}
		from, to, ok := mapping(line)
		if !ok {
			continue
		}
		if errno := pageOut(from, to-from); errno == unix.EINVAL || errno == unix.ENOSYS {
			r.off = true
			return
		}
	}
}

// mapping reads the addresses at the beginning of a line of /proc/self/maps.
func mapping(line []byte) (from, to uintptr, ok bool) {
	addresses, _, _ := bytes.Cut(line, []byte(" "))
	a, b, ok := bytes.Cut(addresses, []byte("-"))
	x, err1 := strconv.ParseUint(string(a), 16, 64)
	y, err2 := strconv.ParseUint(string(b), 16, 64)
	return uintptr(x), uintptr(y), ok && err1 == nil && err2 == nil && y > x
}

// fileResident is how many bytes of mapped files are resident; 0 if unknown.
func fileResident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[2]), 10, 64)
	return n * int64(os.Getpagesize())
}
