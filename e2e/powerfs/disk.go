package main

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Modes of a disk: what an fsync promises, and what a power cut may take.
const (
	// journalled: like ext4. Changes of names are kept in order; every fsync makes all of them so far durable. Data that was not fsynced survives
	// in any pattern of 512-byte sectors (torn).
	journalled = "journalled"
	// strict: no more than POSIX says. A name is durable once its directory was fsynced, data once its file was; nothing else has to be.
	strict = "strict"
)

const (
	pageSize   = 4096
	sectorSize = 512
	rootIno    = 1
)

type page [pageSize]byte

// node is a file or a directory, twice: as processes see it and as the platter has it.
type node struct {
	ino   uint64
	dir   bool
	mode  uint32
	mtime time.Time

	size, durSize   int64
	pages, durPages map[int64]*page
	dirty           map[int64]bool // written since the last fsync
	stray           map[int64]bool // an fsync of them failed: clean in memory, not on the platter, and no later fsync writes them

	names, durNames map[string]uint64
}

// change is one change of a directory that is not durable yet. ino 0 = the name is gone.
type change struct {
	dir  uint64
	name string
	ino  uint64
}

// disk is the whole store. All methods are safe for concurrent use.
type disk struct {
	mu       sync.Mutex
	mode     string
	nodes    map[uint64]*node
	next     uint64
	log      []change
	dead     bool // the power is off: everything fails
	syncs    int
	failIn   int    // so many fsyncs from now, the last one fails; 0 = none
	failOf   string // counting those of what has that at the end of its name
	failedAt time.Time
	failed   string // what it was
}

func newDisk() *disk {
	d := &disk{mode: journalled, nodes: map[uint64]*node{}, next: rootIno}
	root := d.add(true, 0o755)
	root.durNames = map[string]uint64{}
	return d
}

func (d *disk) add(dir bool, mode uint32) *node {
	n := &node{ino: d.next, dir: dir, mode: mode, mtime: time.Now()}
	if dir {
		n.names, n.durNames = map[string]uint64{}, map[string]uint64{}
	} else {
		n.pages, n.durPages, n.dirty, n.stray = map[int64]*page{}, map[int64]*page{}, map[int64]bool{}, map[int64]bool{}
	}
	d.next++
	d.nodes[n.ino] = n
	return n
}

func (d *disk) name(dir *node, name string, ino uint64) {
	if ino == 0 {
		delete(dir.names, name)
	} else {
		dir.names[name] = ino
	}
	dir.mtime = time.Now()
	d.log = append(d.log, change{dir.ino, name, ino})
}

func (d *disk) settle(c change) {
	dir := d.nodes[c.dir]
	if c.ino == 0 {
		delete(dir.durNames, c.name)
	} else {
		dir.durNames[c.name] = c.ino
	}
}

func (n *node) touch(p int64) *page {
	old := n.pages[p]
	if n.dirty[p] && old != nil {
		return old
	}
	fresh := new(page)
	if old != nil {
		*fresh = *old
	}
	n.pages[p] = fresh
	n.dirty[p] = true
	delete(n.stray, p)
	return fresh
}

func (n *node) write(at int64, b []byte) {
	n.mtime = time.Now()
	n.size = max(n.size, at+int64(len(b)))
	for len(b) > 0 {
		p := n.touch(at / pageSize)
		k := copy(p[at%pageSize:], b)
		b, at = b[k:], at+int64(k)
	}
}

func (n *node) read(at int64, b []byte) []byte {
	if at >= n.size {
		return nil
	}
	b = b[:min(int64(len(b)), n.size-at)]
	for done := 0; done < len(b); {
		off := at + int64(done)
		end := min(len(b), done+int(pageSize-off%pageSize))
		if at := off / pageSize; n.stray[at] { // the kernel has dropped it from its cache
			delete(n.stray, at)
			if n.pages[at] = n.durPages[at]; n.pages[at] == nil {
				delete(n.pages, at)
			}
		}
		if p := n.pages[off/pageSize]; p != nil {
			copy(b[done:end], p[off%pageSize:])
		} else {
			clear(b[done:end])
		}
		done = end
	}
	return b
}

func (n *node) truncate(size int64) {
	if size < n.size {
		for p := range n.pages {
			if p*pageSize >= size {
				delete(n.pages, p)
				n.dirty[p] = true
			}
		}
		if size%pageSize != 0 && n.pages[size/pageSize] != nil {
			clear(n.touch(size / pageSize)[size%pageSize:])
		}
	}
	n.size, n.mtime = size, time.Now()
}

// fails says whether an fsync is the one that shall fail.
func (d *disk) fails(n *node) bool {
	if d.failIn == 0 || !strings.HasSuffix(d.path(n.ino), d.failOf) {
		return false
	}
	d.failIn--
	return d.failIn == 0
}

// sync is an fsync of a file or a directory.
func (d *disk) sync(n *node) syscall.Errno {
	d.syncs++
	if d.fails(n) {
		d.failedAt, d.failed = time.Now(), d.path(n.ino)
		for p := range n.dirty { // the kernel marks them clean all the same
			n.stray[p] = true
		}
		clear(n.dirty)
		return syscall.EIO
	}
	for p := range n.dirty {
		if x := n.pages[p]; x != nil {
			n.durPages[p] = x
		} else {
			delete(n.durPages, p)
		}
	}
	clear(n.dirty)
	n.durSize = n.size
	var rest []change
	for _, c := range d.log {
		if d.mode == strict && (!n.dir || c.dir != n.ino) {
			rest = append(rest, c)
			continue
		}
		d.settle(c)
	}
	d.log = rest
	return 0
}

// path is a name of a node, for messages.
func (d *disk) path(ino uint64) string {
	if ino == rootIno {
		return "/"
	}
	for _, dir := range d.nodes {
		for name, child := range dir.names {
			if child == ino {
				return strings.TrimSuffix(d.path(dir.ino), "/") + "/" + name
			}
		}
	}
	return "(deleted)"
}

// cut is what the platter has after a power cut, as a seed decides it.
func (d *disk) cut(seed uint64) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	rnd := rand.New(rand.NewPCG(seed, 1))
	worst := d.mode == strict && rnd.IntN(2) == 0 // everything that may be lost is
	kept := 0
	switch {
	case worst:
	case d.mode == journalled:
		kept = rnd.IntN(len(d.log) + 1)
		for _, c := range d.log[:kept] {
			d.settle(c)
		}
	default: // of each directory a prefix of its own
		upTo := map[uint64]int{}
		for i, c := range d.log {
			if _, ok := upTo[c.dir]; !ok {
				upTo[c.dir] = i + rnd.IntN(len(d.log)-i+1)
			}
			if i < upTo[c.dir] {
				d.settle(c)
				kept++
			}
		}
	}
	lostNames := len(d.log) - kept
	written, lost := 0, 0
	for _, ino := range slices.Sorted(maps.Keys(d.nodes)) {
		n := d.nodes[ino]
		if n.dir {
			continue
		}
		a, b := n.tear(rnd, worst)
		written, lost = written+a, lost+b
	}
	d.log = nil
	d.reboot()
	return fmt.Sprintf("unsynced: %d sectors, %d of them lost; %d names, %d of them lost", written, lost, kept+lostNames, lostNames)
}

// tear decides for each sector that was not fsynced whether it is old or new.
func (n *node) tear(rnd *rand.Rand, worst bool) (written, lost int) {
	pages := append(slices.Collect(maps.Keys(n.dirty)), slices.Collect(maps.Keys(n.stray))...)
	slices.SortFunc(pages, cmp.Compare)
	grown := n.size != n.durSize && !worst && rnd.IntN(2) == 0
	if grown {
		n.durSize = n.size
	}
	for _, p := range pages {
		torn := new(page)
		if old := n.durPages[p]; old != nil {
			*torn = *old
		}
		for at := 0; at < pageSize; at += sectorSize {
			written++
			if worst || rnd.IntN(2) == 0 {
				lost++
				continue
			}
			if now := n.pages[p]; now != nil {
				copy(torn[at:at+sectorSize], now[at:at+sectorSize])
			} else {
				clear(torn[at : at+sectorSize])
			}
		}
		n.durPages[p] = torn
	}
	for p := range n.durPages { // nothing lies behind the end
		if p*pageSize >= n.durSize {
			delete(n.durPages, p)
		}
	}
	return written, lost
}

// reboot forgets what is not on the platter.
func (d *disk) reboot() {
	live := map[uint64]*node{}
	var visit func(ino uint64)
	visit = func(ino uint64) {
		n := d.nodes[ino]
		if n == nil || live[ino] != nil {
			return
		}
		live[ino] = n
		for _, child := range n.durNames {
			visit(child)
		}
	}
	visit(rootIno)
	for _, n := range live {
		if n.dir {
			n.names = maps.Clone(n.durNames)
			continue
		}
		n.pages, n.size = maps.Clone(n.durPages), n.durSize
		clear(n.dirty)
		clear(n.stray)
	}
	d.nodes, d.dead, d.failIn, d.failedAt = live, false, 0, time.Time{}
}
