package embedded

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// The wal is the log: a row of segments of which the last is written to. Only the writer appends; only the syncer and,
// when it changes segments, the writer sync.
type wal struct {
	dir      string
	limit    int64 // size of a full-grown segment
	syncFile func(*os.File) error
	free     func(dir string) (uint64, error)
	spare    func() string // a file of zeros, kept for when the volume is full; "" = none
	await    func() bool   // waits a while for space; false: do not try again
	goesOn   func()        // there was space

	keys  keyring
	block cipher.Block // of the active segment; nil = not encrypted
	seal  []byte       // an encrypted body

	mu   sync.Mutex
	segs []*segment                  // oldest first; the last is active. Guarded by mu, the segments themselves never change but for size.
	kept [4]atomic.Pointer[keptFile] // segments read lately, by number

	syncing sync.Mutex // held during an fsync and while the active file changes
	fsyncer fsyncer    // what syncFile is unless a test gives another; used with syncing held, or before there are other goroutines
	file    *os.File   // of the active segment; changed by the writer with syncing held

	// The rest belongs to the writer.
	number     uint64 // of the active segment
	generation uint64
	genSum     uint32
	offset     int64 // where the next frame goes, buf included
	size       int64 // of the active file
	buf        []byte
	bufAt      int64 // where buf goes
	lsn        uint64
	written    int64 // bytes, since open

	wanted   chan int64     // size of a segment to prepare
	prepared chan *prepared // answers to wanted
	asked    bool
}

// prepared is a segment file, zero-filled and durable, without a header.
type prepared struct {
	path string
	file *os.File
	size int64
	err  error
}

func newWAL(o *Options) *wal {
	w := &wal{
		dir: filepath.Join(o.Dir, nameLog), limit: o.SegmentSize, syncFile: o.syncFile, free: o.free,
		keys: o.keys, wanted: make(chan int64, 1), prepared: make(chan *prepared, 1),
	}
	if w.syncFile == nil {
		w.syncFile = w.fsyncer.sync
	}
	return w
}

// prepare makes segment files until stop is closed.
func (w *wal) prepare(stop <-chan struct{}) {
	for {
		select {
		case size := <-w.wanted:
			w.prepared <- w.make(size)
		case <-stop:
			return
		}
	}
}

// make creates the file that will be the next segment. Its name does not end in .seg yet, so that a crash leaves nothing
// that looks like a part of the log.
func (w *wal) make(size int64) *prepared {
	path := filepath.Join(w.dir, "next")
	if free, err := w.free(w.dir); err == nil { // a small volume is not filled with zeros
		size = min(size, max(int64(free/8), smallSegment))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return &prepared{err: err}
	}
	if err := zeroFill(f, size); err != nil {
		return &prepared{err: errors.Join(err, f.Close(), os.Remove(path))}
	}
	return &prepared{path: path, file: f, size: size}
}

// adopt makes a spare file of zeros the next segment.
func (w *wal) adopt(spare string) *prepared {
	path := filepath.Join(w.dir, "next")
	if err := os.Rename(spare, path); err != nil {
		return &prepared{err: err}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return &prepared{err: err}
	}
	info, err := f.Stat()
	if err != nil {
		return &prepared{err: errors.Join(err, f.Close())}
	}
	return &prepared{path: path, file: f, size: info.Size()}
}

// nextSize is the size of the segment after the active one: they grow up to the limit with what is written.
func (w *wal) nextSize() int64 {
	return min(w.limit, max(firstSegment, 4*w.offset))
}

// askAhead has the next segment prepared once the active one is half full.
func (w *wal) askAhead() {
	if !w.asked && w.offset > w.size/2 {
		w.asked = true
		w.wanted <- w.nextSize()
	}
}

// active is the segment that is written to.
func (w *wal) active() *segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.segs[len(w.segs)-1]
}

// fits says whether a frame with a body of so many bytes goes into the active segment. One that is larger than any segment
// goes into an empty one, which grows.
func (w *wal) fits(body int) bool {
	return w.offset+frameHead+int64(body) <= w.size || w.offset == segmentHeadSize
}

// reserve says where the body of the next frame will be.
func (w *wal) reserve() place {
	return place{segment: w.number, offset: w.offset + frameHead}
}

// append adds a frame, numbered by the caller as w.lsn + 1, to the buffer.
func (w *wal) append(f *frame) error {
	w.lsn = f.lsn
	body := f.body
	if w.block != nil {
		w.seal = append(w.seal[:0], body...)
		body = w.seal
		crypt(w.block, body, body, w.offset+frameHead)
		f.bodySum = checksum(body)
	}
	w.buf = f.appendHead(w.buf, w.genSum)
	w.offset += frameHead + int64(len(f.body))
	if len(f.body) < payloadBlockDirect {
		w.buf = append(w.buf, body...)
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	whole := max(0, len(body)-int(w.offset%pageSize)) // up to the last page's begin; the rest leaves with what follows
	if err := w.write(body[:whole], w.bufAt); err != nil {
		return err
	}
	w.bufAt += int64(whole)
	w.buf = append(w.buf, body[whole:]...)
	return nil
}

// flush writes the buffer; after it what was appended survives a killed process. The last page is written whole: behind the
// frames are zeros, and the kernel would have to read them first, since the page cache does not have them (see zeroFill).
func (w *wal) flush() error {
	n := len(w.buf)
	if n == 0 {
		return nil
	}
	end := w.bufAt + int64(n)
	pad := min(-end&(pageSize-1), max(0, w.size-end))
	b := append(w.buf, zeroPage[:pad]...)
	err := w.write(b, w.bufAt)
	w.bufAt = end
	w.buf = b[:0]
	if cap(w.buf) > 4<<20 {
		w.buf = nil
	}
	if cap(w.seal) > 4<<20 {
		w.seal = nil
	}
	return err
}

func (w *wal) write(b []byte, at int64) error {
	n, err := w.file.WriteAt(b, at)
	w.written += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", segmentPath(w.dir, w.number), err)
	}
	return nil
}

// sync makes what was written durable.
func (w *wal) sync() error {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	return w.syncLocked()
}

func (w *wal) syncLocked() error {
	if w.file == nil {
		return nil
	}
	if err := w.syncFile(w.file); err != nil {
		return fmt.Errorf("fsync %s: %w", segmentPath(w.dir, w.number), err)
	}
	return nil
}

// rotate ends the active segment, which is then whole on disk, and begins the next. What was appended before is flushed.
func (w *wal) rotate(h segmentHead) error {
	if err := w.flush(); err != nil {
		return err
	}
	if !w.asked {
		w.asked = true
		w.wanted <- w.nextSize()
	}
	p := <-w.prepared
	for noSpace(p.err) {
		if path := w.spare(); path != "" {
			p = w.adopt(path)
		} else if !w.await() {
			break
		} else {
			w.wanted <- smallSegment
			p = <-w.prepared
		}
	}
	w.asked = false
	if p.err != nil {
		return fmt.Errorf("prepare a segment: %w", p.err)
	}
	w.goesOn()
	return w.succeed(p, h)
}

// succeed makes a prepared file the active segment, the one before being whole on disk.
func (w *wal) succeed(p *prepared, h segmentHead) error {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	if err := w.syncLocked(); err != nil {
		return err
	}
	old := w.file
	if err := w.begin(p, h); err != nil {
		return err
	}
	return old.Close()
}

// begin makes a prepared file the active segment: header, fsync, name, fsync of the directory.
func (w *wal) begin(p *prepared, h segmentHead) error {
	number := w.number + 1
	h.generation = rand.Uint64()
	h.firstLSN, h.key = w.lsn+1, w.keys.first()
	if _, err := p.file.WriteAt(h.encode(number), 0); err != nil {
		return err
	}
	if err := w.syncFile(p.file); err != nil {
		return fmt.Errorf("fsync %s: %w", p.path, err)
	}
	s := &segment{path: segmentPath(w.dir, number), number: number, size: p.size, segmentHead: h}
	if err := w.keys.open(s); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(p.path, s.path), syncDir(w.dir)); err != nil {
		return err
	}
	w.mu.Lock()
	if n := len(w.segs); n > 0 { // one frame alone may have made it larger than it was prepared
		w.segs[n-1].size = max(w.segs[n-1].size, w.offset)
	}
	w.segs = append(w.segs, s)
	w.mu.Unlock()
	w.file, w.block = p.file, s.block
	w.number, w.generation, w.genSum, w.size = number, h.generation, generationSum(h.generation), p.size
	w.offset, w.bufAt = segmentHeadSize, segmentHeadSize
	return nil
}

// resume makes the last of segs the active segment again, its next frame at offset.
func (w *wal) resume(segs []*segment, offset int64, lsn uint64) error {
	last := segs[len(segs)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.segs = segs
	w.mu.Unlock()
	w.file, w.block, w.lsn = f, last.block, lsn
	w.number, w.generation, w.genSum, w.size = last.number, last.generation, generationSum(last.generation), last.size
	w.offset, w.bufAt = offset, offset
	return nil
}

// oldest is the first segment and the one after it; nil if there is only the active one.
func (w *wal) oldest() (first, second *segment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.segs) < 2 {
		return nil, nil
	}
	return w.segs[0], w.segs[1]
}

// dropOldest deletes the first segment.
func (w *wal) dropOldest() error {
	w.mu.Lock()
	s := w.segs[0]
	w.segs = w.segs[1:]
	w.mu.Unlock()
	err := os.Remove(s.path)
	w.keep(s.number, nil) // or its space would stay taken
	return errors.Join(err, syncDir(w.dir))
}

// bytes is what the segments take on disk.
func (w *wal) bytes() (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.segs {
		n += s.size
	}
	return n
}

// keptFile is a segment that is kept open for reading: to open one costs more than to read a payload.
type keptFile struct {
	number uint64
	*os.File
}

// read gives bytes of a segment. It returns fs.ErrNotExist if the segment is gone.
func (w *wal) read(number uint64, offset int64, size uint32) ([]byte, error) {
	var block cipher.Block
	if w.keys != nil {
		var ok bool
		if block, ok = w.blockOf(number); !ok { // not looked for behind the bytes, which without it are like damaged ones
			return nil, fs.ErrNotExist
		}
	}
	b := make([]byte, size)
	err := os.ErrClosed
	if k := w.kept[number%uint64(len(w.kept))].Load(); k != nil && k.number == number {
		_, err = k.ReadAt(b, offset)
	}
	if errors.Is(err, os.ErrClosed) { // none is kept, or another took its place meanwhile
		f, openErr := os.Open(segmentPath(w.dir, number))
		if openErr != nil {
			return nil, openErr
		}
		_, err = f.ReadAt(b, offset)
		w.keep(number, &keptFile{number, f})
	}
	if err != nil {
		return nil, err
	}
	crypt(block, b, b, offset)
	return b, nil
}

// uncache drops what the page cache holds of a part of a segment, as far as it is on the disk.
func (w *wal) uncache(number uint64, offset int64, size uint32) {
	f, err := os.Open(segmentPath(w.dir, number))
	if err != nil {
		return // the next read meets that, too
	}
	defer f.Close()
	from := offset &^ (pageSize - 1)
	dropCached(f, from, (offset+int64(size)-from+pageSize-1)&^(pageSize-1))
}

// keep keeps f, nil for none, in place of what was kept for the segment's number.
func (w *wal) keep(number uint64, f *keptFile) {
	if old := w.kept[number%uint64(len(w.kept))].Swap(f); old != nil {
		_ = old.Close()
	}
}

// blockOf is the cipher of a segment, nil if it has none; false if it is gone.
func (w *wal) blockOf(number uint64) (cipher.Block, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := int64(number) - int64(w.segs[0].number); i >= 0 && i < int64(len(w.segs)) {
		return w.segs[i].block, true
	}
	return nil, false
}

// unshared says whether the active segment may be written to at all: it has the encryption that is asked for, and no process
// before this one has used up a part of its key stream. Else a new one must be begun.
func (w *wal) unshared() bool {
	s := w.active()
	return s.key == w.keys.first() && (s.key == 0 || w.offset == segmentHeadSize)
}

func (w *wal) close() error {
	var err error
	for i := range w.kept {
		w.keep(uint64(i), nil)
	}
	select {
	case p := <-w.prepared:
		if p.file != nil {
			err = p.file.Close()
		}
	default:
	}
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	return errors.Join(err, w.fsyncer.close())
}

// oldestCreated is when the oldest segment was begun.
func (w *wal) oldestCreated() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.segs[0].createdAt()
}
