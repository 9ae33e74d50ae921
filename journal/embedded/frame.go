package embedded

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/hooktender/hooktender/event"
)

// A frame is one atomic item of the log: a fixed header and a body of sections.
//
//	 0  size      u32   bytes of the body
//	 4  headSum   u32   CRC-32C of the segment's generation, size and bytes 8 … 63
//	 8  bodySum   u32   CRC-32C of the body
//	12  kind      u8
//	13  prevState u8    state and reason before, 0 for a new event
//	14  prevReason u8
//	15  flags     u8
//	16  lsn       u64   number of the frame in the log, strictly one more than the one before
//	24  synced    u64   the log was known to be on disk up to here when the frame was written
//	32  id        16    the event's ID (its Seq is in it); zero where the frame is about no single event
//	48  rev       u64   the event's revision after the frame
//	56  dups      u32   its counters after the frame
//	60  conflicts u32
//
// All integers are little-endian. The generation makes bytes of a segment's earlier life invalid; the synced field
// tells a damaged frame that the disk had confirmed from one that a power cut tore.
type frame struct {
	kind       kind
	prevState  event.State
	prevReason event.Reason
	flags      byte
	lsn        uint64
	synced     uint64
	id         event.ID
	rev        uint64
	dups       uint32
	conflicts  uint32
	body       []byte
	bodySum    uint32
}

const frameHead = 64

// maxFrame bounds the body of a frame; a size beyond it is damage.
const maxFrame = 1 << 30

// flagPayload says that the event has a payload after the frame (its own or an older one).
const flagPayload = 1

type kind byte

const (
	kindAccept  kind = iota + 1 // a new event
	kindCommit                  // a transition
	kindNote                    // the counters of an event, absolute; earlier versions wrote it
	kindMeta                    // a meta value; without one a deletion
	kindShrink                  // events whose record is gone while the marker stays
	kindRemove                  // events that are forgotten
	kindHorizon                 // events settled up to a time have lost their payload
	kindCarry                   // an event, whole, carried forward from a segment that is about to go
	kindCursor                  // a resource's state, carried forward or set by an operator
	kindCounts                  // what the counters of events go up by
	kindEnd                     // first unused
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// generationSum is the start value of a segment's frame checksums.
func generationSum(generation uint64) uint32 {
	var g [8]byte
	binary.LittleEndian.PutUint64(g[:], generation)
	return checksum(g[:])
}

// appendHead writes the header of f; genSum is the generationSum of the segment it goes to.
func (f *frame) appendHead(b []byte, genSum uint32) []byte {
	var zero [frameHead]byte
	b = append(b, zero[:]...)
	h := b[len(b)-frameHead:]
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(len(f.body)))
	le.PutUint32(h[8:], f.bodySum)
	h[12], h[13], h[14], h[15] = byte(f.kind), byte(f.prevState), byte(f.prevReason), f.flags
	le.PutUint64(h[16:], f.lsn)
	le.PutUint64(h[24:], f.synced)
	copy(h[32:48], f.id[:])
	le.PutUint64(h[48:], f.rev)
	le.PutUint32(h[56:], f.dups)
	le.PutUint32(h[60:], f.conflicts)
	le.PutUint32(h[4:], headSum(h, genSum))
	return b
}

func headSum(h []byte, genSum uint32) uint32 {
	return crc32.Update(crc32.Update(genSum, castagnoli, h[:4]), castagnoli, h[8:frameHead])
}

// parseHead reads a header; size is the length of the body that follows. It reports false for anything else.
func parseHead(h []byte, genSum uint32) (f frame, size int, ok bool) {
	if len(h) < frameHead {
		return frame{}, 0, false
	}
	le := binary.LittleEndian
	n := le.Uint32(h[0:])
	f.kind = kind(h[12])
	if f.kind == 0 || f.kind >= kindEnd || n > maxFrame || le.Uint32(h[4:]) != headSum(h, genSum) {
		return frame{}, 0, false
	}
	f.bodySum = le.Uint32(h[8:])
	f.prevState, f.prevReason, f.flags = event.State(h[13]), event.Reason(h[14]), h[15]
	f.lsn, f.synced = le.Uint64(h[16:]), le.Uint64(h[24:])
	copy(f.id[:], h[32:48])
	f.rev = le.Uint64(h[48:])
	f.dups, f.conflicts = le.Uint32(h[56:]), le.Uint32(h[60:])
	return f, int(n), true
}

// section is a part of a frame's body: a tag, a length, bytes.
type section byte

const (
	secRecord   section = iota + 1 // appendRecord
	secKeys                        // 16 bytes each
	secAliases                     // 16 bytes each
	secResource                    // appendResource
	secAttempt                     // appendAttempt; several in a carry
	secPayload                     // CRC-32C of the rest, appendPayload
	secMetaKey
	secMetaValue
	secSeqs   // event numbers: the first, then differences
	secTime   // Unix nanoseconds, 8 bytes
	secMarker // the carried event is only a marker
	secShift  // shifts of the times received and settled, 8 bytes each; left out when both are 0
	secCounts // appendCounts
)

// openSection begins a section whose length is not known yet; closeSection completes it.
func openSection(b []byte, s section) (out []byte, at int) {
	b = append(b, byte(s), 0, 0, 0, 0)
	return b, len(b)
}

func closeSection(b []byte, at int) []byte {
	binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	return b
}

func appendSection(b []byte, s section, data []byte) []byte {
	b = append(b, byte(s))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// eachSection calls fn with every section; at is the offset of data in body. It reports false if the body is malformed
// or fn reports false.
func eachSection(body []byte, fn func(s section, at int, data []byte) bool) bool {
	for at := 0; at < len(body); {
		if len(body)-at < 5 {
			return false
		}
		s, n := section(body[at]), int(binary.LittleEndian.Uint32(body[at+1:]))
		at += 5
		if n < 0 || n > len(body)-at {
			return false
		}
		if !fn(s, at, body[at:at+n:at+n]) {
			return false
		}
		at += n
	}
	return true
}

func appendSeqs(b []byte, seqs []event.Seq) []byte {
	var last event.Seq
	for _, s := range seqs {
		b = binary.AppendVarint(b, int64(s-last))
		last = s
	}
	return b
}

func decodeSeqs(b []byte) ([]event.Seq, error) {
	d := decoder{buf: b}
	var seqs []event.Seq
	var last event.Seq
	for len(d.buf) > 0 && !d.bad {
		last += event.Seq(d.varint())
		seqs = append(seqs, last)
	}
	return seqs, d.done()
}

// noteCount is what the counters of an event go up by.
type noteCount struct{ duplicates, conflicts uint32 }

func (n noteCount) plus(m noteCount) noteCount {
	return noteCount{n.duplicates + m.duplicates, n.conflicts + m.conflicts}
}

// eventCount is that of one event.
type eventCount struct {
	seq event.Seq
	noteCount
}

// appendCounts encodes counts: for each event the difference of its number to the one before, duplicates, conflicts.
func appendCounts(b []byte, counts []eventCount) []byte {
	var last event.Seq
	for _, c := range counts {
		b = binary.AppendVarint(b, int64(c.seq-last))
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(c.duplicates)), uint64(c.conflicts))
		last = c.seq
	}
	return b
}

func decodeCounts(b []byte) ([]eventCount, error) {
	d := decoder{buf: b}
	var counts []eventCount
	var last event.Seq
	for len(d.buf) > 0 && !d.bad {
		last += event.Seq(d.varint())
		counts = append(counts, eventCount{last, noteCount{uint32(d.uvarint()), uint32(d.uvarint())}})
	}
	return counts, d.done()
}
