package main

import (
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server speaks FUSE for a disk.
type server struct {
	fuse.RawFileSystem
	d *disk

	mu      sync.Mutex
	handles map[uint64][]fuse.DirEntry
	handle  uint64
}

func newServer(d *disk) *server {
	return &server{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d, handles: map[uint64][]fuse.DirEntry{}}
}

func (s *server) String() string { return "powerfs" }

// enter locks the disk and finds a node.
func (s *server) enter(ino uint64) (*node, func(), fuse.Status) {
	s.d.mu.Lock()
	if s.d.dead {
		s.d.mu.Unlock()
		return nil, nil, fuse.EIO
	}
	n := s.d.nodes[ino]
	if n == nil {
		s.d.mu.Unlock()
		return nil, nil, fuse.ENOENT
	}
	return n, s.d.mu.Unlock, fuse.OK
}

func (n *node) attr(a *fuse.Attr) {
	a.Ino, a.Size, a.Blksize, a.Nlink = n.ino, uint64(n.size), pageSize, 1
	a.Mode = syscall.S_IFREG | n.mode
	if n.dir {
		a.Mode, a.Nlink = syscall.S_IFDIR|n.mode, 2
	}
	a.Blocks = uint64(len(n.pages)) * pageSize / 512
	t := n.mtime
	a.SetTimes(&t, &t, &t)
}

func (n *node) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.ino, 1
	out.SetEntryTimeout(time.Second)
	out.SetAttrTimeout(time.Second)
	n.attr(&out.Attr)
}

func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, leave, st := s.enter(h.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	n := s.d.nodes[dir.names[name]]
	if n == nil {
		return fuse.ENOENT
	}
	n.entry(out)
	return fuse.OK
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	out.SetTimeout(time.Second)
	n.attr(&out.Attr)
	return fuse.OK
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	if size, ok := in.GetSize(); ok && !n.dir {
		n.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = mode & 0o7777
	}
	out.SetTimeout(time.Second)
	n.attr(&out.Attr)
	return fuse.OK
}

func (s *server) make(parent uint64, name string, dir bool, mode uint32, out *fuse.EntryOut) fuse.Status {
	p, leave, st := s.enter(parent)
	if !st.Ok() {
		return st
	}
	defer leave()
	if p.names[name] != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	n := s.d.add(dir, mode&0o7777)
	s.d.name(p, name, n.ino)
	n.entry(out)
	return fuse.OK
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, true, in.Mode, out)
}

func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, false, in.Mode, out)
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return s.make(in.NodeId, name, false, in.Mode, &out.EntryOut)
}

func (s *server) remove(parent uint64, name string, dir bool) fuse.Status {
	p, leave, st := s.enter(parent)
	if !st.Ok() {
		return st
	}
	defer leave()
	n := s.d.nodes[p.names[name]]
	switch {
	case n == nil:
		return fuse.ENOENT
	case dir && !n.dir:
		return fuse.ENOTDIR
	case !dir && n.dir:
		return fuse.Status(syscall.EISDIR)
	case dir && len(n.names) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	s.d.name(p, name, 0)
	return fuse.OK
}

func (s *server) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return s.remove(h.NodeId, name, false)
}

func (s *server) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return s.remove(h.NodeId, name, true)
}

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	p, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	q, n := s.d.nodes[in.Newdir], s.d.nodes[p.names[from]]
	switch {
	case q == nil || n == nil:
		return fuse.ENOENT
	case in.Flags&1 != 0 && q.names[to] != 0: // RENAME_NOREPLACE
		return fuse.Status(syscall.EEXIST)
	case in.Flags&^1 != 0:
		return fuse.EINVAL
	}
	if old := s.d.nodes[q.names[to]]; old != nil && old.dir && len(old.names) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	// The new name first: where a power cut keeps a prefix, the file has two names, never none.
	s.d.name(q, to, n.ino)
	s.d.name(p, from, 0)
	return fuse.OK
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	_, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	leave()
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	defer leave()
	return fuse.ReadResultData(n.read(int64(in.Offset), buf[:min(len(buf), int(in.Size))])), fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	defer leave()
	n.write(int64(in.Offset), data)
	return uint32(len(data)), fuse.OK
}

func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	if in.Mode != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	n.size = max(n.size, int64(in.Offset+in.Length))
	return fuse.OK
}

func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	return fuse.Status(s.d.sync(n))
}

func (s *server) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return s.Fsync(c, in) }

func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	dir, leave, st := s.enter(in.NodeId)
	if !st.Ok() {
		return st
	}
	defer leave()
	var list []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(dir.names)) {
		n := s.d.nodes[dir.names[name]]
		mode := uint32(syscall.S_IFREG)
		if n.dir {
			mode = syscall.S_IFDIR
		}
		list = append(list, fuse.DirEntry{Name: name, Ino: n.ino, Mode: mode})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle++
	s.handles[s.handle] = list
	out.Fh = s.handle
	return fuse.OK
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	list := s.handles[in.Fh]
	s.mu.Unlock()
	for i := int(in.Offset); i < len(list); i++ {
		e := list[i]
		e.Off = uint64(i + 1)
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, in.Fh)
}

func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks, out.Bfree, out.Bavail = 8<<30/pageSize, 4<<30/pageSize, 4<<30/pageSize
	out.Files, out.Ffree = 1<<20, 1<<20
	return fuse.OK
}
