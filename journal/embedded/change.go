package embedded

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/hooktender/hooktender/event"
)

// parts are the sections of a frame's body. The byte slices alias it.
type parts struct {
	record    []byte
	front     front       // of record
	source    string      // of record
	keys      []event.Key // claimed, then aliases
	claimed   uint8
	resource  *event.ResourceState
	attempts  [][]byte
	payload   []byte // with its checksum in front
	payloadAt int    // offset in the body
	metaKey   string
	metaValue []byte // nil = delete
	seqs      []event.Seq
	counts    []eventCount
	time      int64
	marker    bool
	shift     shifts
}

// parseParts reads a body; it reports false for what no writer wrote.
func parseParts(body []byte) (p parts, ok bool) {
	ok = eachSection(body, func(s section, at int, data []byte) bool {
		var err error
		switch s {
		case secRecord:
			return p.setRecord(data)
		case secKeys:
			p.keys, err = decodeKeys(data)
			p.claimed = uint8(min(len(p.keys), math.MaxUint8))
		case secAliases:
			var aliases []event.Key
			aliases, err = decodeKeys(data)
			p.keys = append(p.keys, aliases...)
		case secResource:
			var r event.ResourceState
			r, err = decodeResource(data)
			p.resource = &r
		case secAttempt:
			p.attempts = append(p.attempts, data)
		case secPayload:
			p.payload, p.payloadAt = data, at
		case secMetaKey:
			p.metaKey = string(data)
		case secMetaValue:
			p.metaValue = data
		case secSeqs:
			p.seqs, err = decodeSeqs(data)
		case secCounts:
			p.counts, err = decodeCounts(data)
		case secTime:
			if len(data) != 8 {
				return false
			}
			p.time = int64(binary.LittleEndian.Uint64(data))
		case secMarker:
			p.marker = true
		case secShift:
			if len(data) != 16 {
				return false
			}
			p.shift = shifts{int64(binary.LittleEndian.Uint64(data)), int64(binary.LittleEndian.Uint64(data[8:]))}
		default:
			return false
		}
		return err == nil
	})
	if p.payload != nil && len(p.payload) < 5 {
		return p, false
	}
	return p, ok
}

// setRecord takes an encoded record; it reports false for what is none.
func (p *parts) setRecord(b []byte) bool {
	v, ok := viewBody(b)
	p.record, p.front, p.source = b, v.front, string(v.source)
	return ok
}

// place is where in the log a frame's body is.
type place struct {
	segment uint64
	offset  int64
}

// pos is where the payload is, the frame's body being at pl.
func (p *parts) pos(pl place) payloadPos {
	if p.payload == nil {
		return payloadPos{}
	}
	return payloadPos{
		segment: pl.segment,
		offset:  pl.offset + int64(p.payloadAt) + 4,
		size:    uint32(len(p.payload) - 4),
		sum:     binary.LittleEndian.Uint32(p.payload),
	}
}

// next computes the item after a frame about one event. old is nil if nothing is known, which is so for an accept and,
// at a rebuild, for the later frames of an event whose first one went with an old segment (its carry frame follows).
// It reports false if the frame cannot be understood.
func (f *frame) next(old *item, p *parts, pl place) (*item, bool) {
	var it *item
	switch {
	case f.kind == kindAccept || f.kind == kindCarry:
		it = &item{claimed: p.claimed, base: pl.segment, marker: p.marker}
		if len(p.keys) == 1 {
			it.setKeys(p.keys)
		} else {
			it.keys = slices.Clone(p.keys)
		}
	case old != nil:
		it = old.copy()
		if f.kind == kindCommit {
			it.marker, it.removed = false, false
		}
	case f.kind == kindNote:
		return nil, true
	default:
		it = &item{base: pl.segment}
	}
	it.id, it.rev, it.dups, it.conflicts, it.lsn = f.id, f.rev, f.dups, f.conflicts, f.lsn
	if f.kind != kindNote {
		it.hasPayload = f.flags&flagPayload != 0
		if p.payload != nil {
			it.payload = p.pos(pl)
		}
		if p.record == nil {
			return nil, false
		}
		n := len(p.record)
		for _, a := range p.attempts {
			n += len(a)
		}
		b := append(make([]byte, 0, n), p.record...)
		it.body, it.front, it.shift = slices.Clip(b), p.front, p.shift
		for _, a := range p.attempts {
			b = append(b, a...)
			it.addAttempt(slices.Clip(b[len(b)-len(a):]))
		}
	}
	return it, true
}

// plus is the item with higher counters.
func (it *item) plus(n noteCount) *item {
	if it == nil || it.removed || it.marker || n == (noteCount{}) {
		return it
	}
	c := it.copy()
	c.dups, c.conflicts = it.dups+n.duplicates, it.conflicts+n.conflicts
	return c
}

// copy is the item to change; it is on no layer yet.
func (it *item) copy() *item {
	c := *it
	c.setKeys(it.keys)
	c.home, c.staged = 0, 0
	return &c
}

// shrunk is what is left of an event when its record goes before its marker.
func (it *item) shrunk(lsn uint64) *item {
	f := it.fate()
	m := &item{
		id: it.id, rev: it.rev, marker: true, claimed: it.claimed, base: it.base, lsn: lsn,
		attempt: it.attempt, // tells the flush which attempts to delete; not stored
		shift:   it.shift,
	}
	m.setKeys(it.keys)
	m.setBody(appendRecord(nil, &event.Record{
		State: f.State, Reason: f.Reason, ReceivedAt: f.ReceivedAt, SettledAt: fromNanos(it.settled), BodySHA256: f.BodySHA256,
	}))
	return m
}

// gone is the overlay's note that an event is forgotten.
func (it *item) gone(lsn uint64) *item {
	g := it.copy()
	g.removed, g.lsn = true, lsn
	return g
}
