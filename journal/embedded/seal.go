package embedded

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hooktender/hooktender/journal"
)

// Encryption at rest. The bodies of frames (records, headers, bodies, attempts, meta values) are encrypted with AES-256 in counter
// mode; the headers of frames and segments stay readable, so that checks need no key. Each segment has a key of its own, derived
// from the configured one and the segment's random generation, and the counter is the place in the file, so no part of a key stream is
// used twice: for the same reason a process never writes to a segment that an earlier one has written to. The checksum of a
// frame is of the encrypted bytes. The index is encrypted by Badger. What is hidden is hidden from who gets the disk; somebody
// who can alter it without being noticed is not kept from that.
type sealer struct {
	master []byte
	id     uint64 // names the key in segments; not 0
}

func newSealer(secret []byte) *sealer {
	s := &sealer{master: derive([]byte("hooktender journal"), secret)}
	s.id = max(binary.BigEndian.Uint64(derive(s.master, []byte("id"))), 1)
	return s
}

func derive(key, label []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(label)
	return m.Sum(nil)
}

// segment is the cipher of one segment.
func (s *sealer) segment(number, generation uint64) cipher.Block {
	label := binary.BigEndian.AppendUint64([]byte("segment"), number)
	b, err := aes.NewCipher(derive(s.master, binary.BigEndian.AppendUint64(label, generation)))
	if err != nil {
		panic(err) // only for a key of another length
	}
	return b
}

func (s *sealer) index() []byte { return derive(s.master, []byte("index")) }

// keyring is the keys that were given; the first encrypts. A nil one encrypts nothing.
type keyring []*sealer

func newKeyring(secrets [][]byte) (k keyring) {
	for _, s := range secrets {
		k = append(k, newSealer(s))
	}
	return k
}

func (k keyring) first() uint64 {
	if len(k) == 0 {
		return 0
	}
	return k[0].id
}

// open gives a segment, whose header was read, the cipher that its header names.
func (k keyring) open(s *segment) error {
	if s.key == 0 {
		return nil
	}
	for _, x := range k {
		if x.id == s.key {
			s.block = x.segment(s.number, s.generation)
			return nil
		}
	}
	why := "none of the given keys is its"
	if len(k) == 0 {
		why = "no key was given (journal.encryption_keys)"
	}
	return fmt.Errorf("%w: %s: %s", journal.ErrKey, s.path, why)
}

// crypt encrypts or decrypts what stands at an offset of a segment; nothing without a cipher. dst and src may be the same.
func crypt(b cipher.Block, dst, src []byte, offset int64) {
	if b == nil || len(src) == 0 {
		return
	}
	var iv, skip [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(offset/aes.BlockSize))
	c := cipher.NewCTR(b, iv[:])
	n := offset % aes.BlockSize
	c.XORKeyStream(skip[:n], skip[:n])
	c.XORKeyStream(dst, src)
}
