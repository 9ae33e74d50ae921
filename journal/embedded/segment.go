package embedded

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A segment is a file log/<number>.seg: a header, frames, zeros up to its size. It is filled with zeros before its first
// frame, so that a later fdatasync has no metadata to write.
type segment struct {
	path   string
	number uint64
	size   int64 // of the file
	segmentHead
	block cipher.Block // nil: not encrypted, or not opened yet
	held  *os.File     // by a survey of a journal in use, where it may be taken away; else nil
}

// segmentHead is what the header says.
//
//	 0 magic      8
//	 8 version    u32
//	12 sum        u32  CRC-32C of the bytes 0 … 11 and 16 … 95
//	16 number     u64
//	24 generation u64  random; every frame's checksum includes it
//	32 firstLSN   u64
//	40 nextSeq    u64  first event number that was not given out yet
//	48 created    i64  Unix nanoseconds
//	56 born       i64  when the journal was created
//	64 horizon    i64  events settled up to here have lost their payload
//	72 lowest     u64  number of the oldest segment at the time
//	80 key        u64  of the bodies' encryption, see sealer; 0 = none
//	88 covers     i64  what was received before may be missing; 0 = since born nothing is, -1 = what was received before the next start
type segmentHead struct {
	generation uint64
	firstLSN   uint64
	nextSeq    uint64
	created    int64
	born       int64
	horizon    int64
	lowest     uint64
	key        uint64
	covers     int64
}

// coversNext is covers of the newest segment of a journal that goes on from an earlier state, or without what was lost: nobody knows yet when that will be.
const coversNext = -1

const (
	segmentHeadSize = 96
	segmentMagic    = "HTNDRLOG"
	segmentVersion  = 1
	segmentSuffix   = ".seg"
)

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

func (h *segmentHead) encode(number uint64) []byte {
	b := make([]byte, segmentHeadSize)
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], segmentVersion)
	le.PutUint64(b[16:], number)
	le.PutUint64(b[24:], h.generation)
	le.PutUint64(b[32:], h.firstLSN)
	le.PutUint64(b[40:], h.nextSeq)
	le.PutUint64(b[48:], uint64(h.created))
	le.PutUint64(b[56:], uint64(h.born))
	le.PutUint64(b[64:], uint64(h.horizon))
	le.PutUint64(b[72:], h.lowest)
	le.PutUint64(b[80:], h.key)
	le.PutUint64(b[88:], uint64(h.covers))
	le.PutUint32(b[12:], segmentHeadSum(b))
	return b
}

func segmentHeadSum(b []byte) uint32 {
	return checksum(append(append(make([]byte, 0, segmentHeadSize), b[:12]...), b[16:segmentHeadSize]...))
}

func parseSegmentHead(b []byte, number uint64) (h segmentHead, ok bool) {
	le := binary.LittleEndian
	if len(b) < segmentHeadSize || string(b[:8]) != segmentMagic || le.Uint32(b[8:]) != segmentVersion ||
		le.Uint32(b[12:]) != segmentHeadSum(b) || le.Uint64(b[16:]) != number {
		return h, false
	}
	h.generation, h.firstLSN, h.nextSeq = le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:])
	h.created, h.born, h.horizon = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:])), int64(le.Uint64(b[64:]))
	h.lowest, h.key, h.covers = le.Uint64(b[72:]), le.Uint64(b[80:]), int64(le.Uint64(b[88:]))
	return h, true
}

// open gives the file, and what is to be called once it is not needed any more.
func (s *segment) open() (f *os.File, done func() error, err error) {
	if s.held != nil {
		return s.held, func() error { return nil }, nil
	}
	if f, err = os.Open(s.path); err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

func (s *segment) createdAt() time.Time { return time.Unix(0, s.created) }

// listSegments gives the segments of a directory in order of their numbers, headers not read.
func listSegments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(name, 16, 64)
		if err != nil || len(name) != 16 {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // retention has just taken it away
		}
		if err != nil {
			return nil, err
		}
		segs = append(segs, &segment{path: filepath.Join(dir, e.Name()), number: n, size: info.Size()})
	}
	sort.Slice(segs, func(i, j int) bool { return segs[i].number < segs[j].number })
	return segs, nil
}

// readHead reads the header of a segment. blank says that it has none yet: a file prepared and never used.
func (s *segment) readHead() (blank bool, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, segmentHeadSize)
	if _, err := io.ReadFull(f, b); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return true, nil
	}
	h, ok := parseSegmentHead(b, s.number)
	if !ok {
		return false, damaged(s.path, "the segment's header does not match its checksum")
	}
	s.segmentHead = h
	return false, nil
}

// zeroFill writes size zero bytes to a new file and waits for the disk. Where the file system can, they go past the page
// cache, which would only copy them and hold on to them: whoever writes there later writes whole pages (see wal.flush). Elsewhere
// they go page by page: what is written at once becomes one large folio of the page cache, and every small write into that would
// count (and, with some file systems, be written) as the whole of it.
func zeroFill(f *os.File, size int64) error {
	zeros := alignedZeros(int(min(size, zeroChunk)))
	direct := setDirect(f, true)
	for at := int64(0); at < size; {
		part := zeros[:min(int64(len(zeros)), size-at)]
		if !direct {
			part = part[:min(len(part), pageSize)]
		}
		if direct && len(part)%pageSize != 0 && setDirect(f, false) { // the end of a file of an odd size
			direct = false
		}
		n, err := f.WriteAt(part, at)
		switch {
		case direct && errors.Is(err, unix.EINVAL) && setDirect(f, false): // O_DIRECT was taken and not meant: some file systems say so only now
			direct = false
		case err != nil:
			return err
		}
		at += int64(n)
	}
	if direct && !setDirect(f, false) {
		return fmt.Errorf("%s: O_DIRECT cannot be taken back", f.Name())
	}
	return f.Sync()
}

const (
	zeroChunk = 1 << 20
	pageSize  = 4096
)

// alignedZeros gives n zero bytes that begin at a multiple of pageSize, as O_DIRECT wants them.
func alignedZeros(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	return b[skip : skip+n : skip+n]
}
