package embedded

import (
	"encoding/binary"
	"math"

	"github.com/hooktender/hooktender/event"
)

// A block sums up 64 consecutive events, so that a list with a filter passes over those that cannot match: a Bloom filter
// over source, type, resource, the sender's id and the last replay of each, and the range of times received. One entry per
// 64 events takes the place of a secondary index per field. It may name events that are gone, never miss one.
type block struct {
	number   uint64
	from, to int64 // Unix nanoseconds
	bits     blockFilter
	dirty    bool
}

const (
	blockEvents = 64
	blockBits   = 2048 // 16 per entry with distinct resources and ids: about 1 in 500 passes for nothing
	blockProbes = 4
)

func blockOf(seq event.Seq) uint64 { return uint64(seq) / blockEvents }

// field of a record that blocks know.
type field byte

const (
	fieldSource field = iota + 1
	fieldType
	fieldResource
	fieldEventID
	fieldReplayID
)

// fieldHash is FNV-1a with a final mix; it is stored, so it never changes.
func fieldHash[T ~string | ~[]byte](f field, value T) uint64 {
	h := uint64(14695981039346656037)
	h = (h ^ uint64(f)) * 1099511628211
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

func newBlock(number uint64) *block {
	return &block{number: number, from: math.MaxInt64, to: math.MinInt64}
}

// blockFilter is the Bloom filter as it is stored.
type blockFilter [blockBits / 8]byte

func (b *blockFilter) add(hash uint64) {
	step := hash>>32 | 1
	for range blockProbes {
		b[hash%blockBits/8] |= 1 << (hash % 8)
		hash += step
	}
}

func (b *blockFilter) has(hash uint64) bool {
	step := hash>>32 | 1
	for range blockProbes {
		if b[hash%blockBits/8]&(1<<(hash%8)) == 0 {
			return false
		}
		hash += step
	}
	return true
}

// note adds an event.
func (b *block) note(it *item) {
	v, ok := viewBody(it.body)
	if !ok {
		return
	}
	b.bits.add(fieldHash(fieldSource, v.source))
	b.bits.add(fieldHash(fieldType, v.typ))
	b.bits.add(fieldHash(fieldResource, v.resource))
	b.bits.add(fieldHash(fieldEventID, v.eventID))
	if len(v.replayID) > 0 {
		b.bits.add(fieldHash(fieldReplayID, v.replayID))
	}
	b.from, b.to = min(b.from, it.received), max(b.to, it.received)
	b.dirty = true
}

func (b *block) encode(to []byte) []byte {
	to = append(to, codecVersion)
	to = binary.LittleEndian.AppendUint64(to, uint64(b.from))
	to = binary.LittleEndian.AppendUint64(to, uint64(b.to))
	return append(to, b.bits[:]...)
}

// viewBlock reads an encoded block; bits aliases it.
func viewBlock(v []byte) (from, to int64, bits *blockFilter, err error) {
	if len(v) != 17+blockBits/8 || v[0] != codecVersion {
		return 0, 0, nil, errCodec
	}
	return int64(binary.LittleEndian.Uint64(v[1:])), int64(binary.LittleEndian.Uint64(v[9:])), (*blockFilter)(v[17:]), nil
}

func decodeBlock(number uint64, v []byte) (*block, error) {
	from, to, bits, err := viewBlock(v)
	if err != nil {
		return nil, err
	}
	return &block{number: number, from: from, to: to, bits: *bits}, nil
}

// blockCache keeps the blocks that are being filled. Only the goroutine that flushes uses it.
type blockCache struct {
	blocks map[uint64]*block
	last   *block // that was asked for: mostly it is the next one too
}

// keepBlocks bounds the cache between flushes.
const keepBlocks = 32

func (c *blockCache) get(s *snapshot, number uint64) (*block, error) {
	if c.last != nil && c.last.number == number {
		return c.last, nil
	}
	if c.last = c.blocks[number]; c.last != nil {
		return c.last, nil
	}
	if c.blocks == nil {
		c.blocks = map[uint64]*block{}
	}
	v, err := s.get(blockKey(number))
	if err != nil {
		return nil, err
	}
	b := newBlock(number)
	if v != nil {
		if b, err = decodeBlock(number, v); err != nil {
			return nil, err
		}
	}
	c.blocks[number], c.last = b, b
	return b, nil
}

// trim drops the lower blocks beyond the bound; all must have been written.
func (c *blockCache) trim() {
	c.last = nil
	for len(c.blocks) > keepBlocks {
		lowest := uint64(math.MaxUint64)
		for n := range c.blocks {
			lowest = min(lowest, n)
		}
		delete(c.blocks, lowest)
	}
}
