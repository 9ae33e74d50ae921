package embedded

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A scanner reads the frames of one segment from a buffer of the whole file.
type scanner struct {
	data   []byte
	base   int64 // where in the file data begins
	genSum uint32
	block  cipher.Block // bodies are decrypted in place
	at     int
	lsn    uint64 // of the next frame
}

// newScanner begins at offset, where the frame with number lsn is expected.
func newScanner(data []byte, generation uint64, offset int, lsn uint64) *scanner {
	return &scanner{data: data, genSum: generationSum(generation), at: offset, lsn: lsn}
}

// scanner reads a segment from data, which is the file's.
func (s *segment) scanner(data []byte, offset int, lsn uint64) *scanner {
	sc := newScanner(data, s.generation, offset, lsn)
	sc.block = s.block
	return sc
}

// next gives the next frame, its body aliasing the data, and where its body is; false at the first place that does not
// hold the expected frame.
func (s *scanner) next() (f frame, bodyAt int, ok bool) {
	f, ok = s.frameAt(s.at)
	if !ok || f.lsn != s.lsn {
		return frame{}, 0, false
	}
	bodyAt = s.at + frameHead
	crypt(s.block, f.body, f.body, s.base+int64(bodyAt))
	s.at = bodyAt + len(f.body)
	s.lsn++
	return f, bodyAt, true
}

// frameAt reads the frame at an offset, whatever its number.
func (s *scanner) frameAt(at int) (frame, bool) {
	if at < 0 || at > len(s.data) {
		return frame{}, false
	}
	f, size, ok := parseHead(s.data[at:], s.genSum)
	if !ok || size > len(s.data)-at-frameHead {
		return frame{}, false
	}
	f.body = s.data[at+frameHead : at+frameHead+size : at+frameHead+size]
	return f, checksum(f.body) == f.bodySum
}

// clean says whether there are only zeros from here on.
func (s *scanner) clean() bool { return allZero(s.data[min(s.at, len(s.data)):]) }

var zeroPage [4096]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroPage))
		if !bytes.Equal(b[:n], zeroPage[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// confirmed looks past the place where the scan ended for frames that were written later, and gives the highest number
// that one of them says had reached the disk when it was written. A number of at least s.lsn means that what is missing
// here was not torn by a power cut but lost afterwards.
func (s *scanner) confirmed() (synced uint64) {
	for at := s.at + 1; at+frameHead <= len(s.data); at++ {
		h := s.data[at:]
		if k := kind(h[12]); k == 0 || k >= kindEnd {
			continue
		}
		if n := binary.LittleEndian.Uint64(h[16:]); n < s.lsn || n-s.lsn > 1<<32 {
			continue
		}
		if f, _, ok := parseHead(h, s.genSum); ok {
			synced = max(synced, f.synced)
		}
	}
	return synced
}

// window reads a part of a segment; less than n bytes only at its end.
func (s *segment) window(offset, n int64) ([]byte, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, min(n, s.size-offset))
	if _, err := f.ReadAt(b, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", s.path, err)
	}
	return b, nil
}

// load reads a segment whole, into buf if it is large enough.
func (s *segment) load(buf []byte) ([]byte, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if int64(cap(buf)) < s.size {
		buf = make([]byte, s.size)
	}
	buf = buf[:s.size]
	if _, err := io.ReadFull(f, buf); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path, err)
	}
	return buf, nil
}
