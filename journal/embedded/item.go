package embedded

import (
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/hooktender/hooktender/event"
)

// payloadPos says where in the log an event's payload is; size 0 = nowhere.
type payloadPos struct {
	segment uint64
	offset  int64
	size    uint32
	sum     uint32 // CRC-32C
}

// An item is what the engine remembers of one event outside the log: in the overlay as it is, in the index encoded.
// A published item is never changed; a change makes a copy.
type item struct {
	id         event.ID
	rev        uint64
	dups       uint32
	conflicts  uint32
	hasPayload bool
	marker     bool  // the record is gone, only the claim is left; body then holds just what a Fate needs
	removed    bool  // forgotten; stays in the overlay until the index has forgotten it too
	claimed    uint8 // so many of keys were claimed, the rest are aliases
	staged     int32 // the writer's own note, which changes once the item is published: its place on the stage, from 1; 0 = not there; superseded
	front
	keys    []event.Key // set by setKeys
	key     [1]event.Key
	payload payloadPos
	base    uint64   // segment that holds the event whole: its accept or carry frame
	body    []byte   // appendRecord
	attempt []byte   // the last attempt, appendAttempt; nil = none
	older   [][]byte // earlier attempts that may not be in the index yet
	shift   shifts

	lsn  uint64  // frame that made it; 0 = read from the index, hence long on disk
	was  indexed // what the index will hold when the layer with this item is flushed
	home uint64  // filling of the layer that it was published to; 0 = none
}

// superseded: a newer item was made from it.
const superseded = -1

// setKeys sets the keys; one alone, the usual case, needs no memory of its own.
func (it *item) setKeys(keys []event.Key) {
	if len(keys) == 1 {
		it.key[0] = keys[0]
		keys = it.key[:]
	}
	it.keys = keys
}

// shifts are what must be taken from the times received and settled to have them in the journal's own time, see clock.
type shifts struct{ received, settled int64 }

// receivedAt is when the event was received, in the journal's time.
func (it *item) receivedAt() int64 { return it.received - it.shift.received }

// indexed is what the index holds of an event, so that a flush knows what to take back.
type indexed struct {
	present  bool
	state    event.State // its t| entry; 0 = none
	identity uint64      // hash of what its block filter knows
}

// identitySeed makes identity hashes comparable within this process.
var identitySeed = maphash.MakeSeed()

// setBody replaces the body and what is derived from it.
func (it *item) setBody(body []byte) bool {
	v, ok := viewBody(body)
	if !ok {
		return false
	}
	it.body, it.front = body, v.front
	return true
}

func (it *item) identity() uint64 {
	v, _ := viewBody(it.body)
	return maphash.Bytes(identitySeed, v.identity)
}

// listed is the state under which the index lists the event apart: every state of a record but delivered.
func (it *item) listed() event.State {
	if it.removed || it.marker || it.state == event.Delivered {
		return 0
	}
	return it.state
}

// asIndexed describes the item as the index will hold it.
func (it *item) asIndexed() indexed {
	if it.removed {
		return indexed{}
	}
	return indexed{present: true, state: it.listed(), identity: it.identity()}
}

// deadLetter says whether the event waits for an operator within its retention; an expired one ages like any record.
func (it *item) deadLetter() bool {
	r := event.Record{State: it.state, Reason: it.reason}
	return r.DeadLetter() && it.reason != event.Expired
}

// open says whether the event waits for something: it keeps its payload and its marker whatever its age.
func (it *item) open() bool { return !it.marker && (it.state == event.Pending || it.deadLetter()) }

// endedAt is when retention begins to count, in the journal's time.
func (it *item) endedAt() int64 {
	if it.settled != 0 {
		return it.settled - it.shift.settled
	}
	return it.receivedAt()
}

// payloadKept says whether the payload is still there, given that events which ended at or before horizon have lost it.
func (it *item) payloadKept(horizon int64) bool {
	return it.hasPayload && !it.marker && (it.open() || it.endedAt() > horizon)
}

// record decodes the item. Counters of notes that are not in the log yet are the caller's to add.
func (it *item) record(horizon int64) (event.Record, error) {
	r, err := decodeRecord(it.body)
	if err != nil {
		return r, err
	}
	it.fill(&r, horizon)
	return r, nil
}

// fill sets the fields that belong to the journal.
func (it *item) fill(r *event.Record, horizon int64) {
	r.ID, r.Seq, r.Rev = it.id, it.id.Seq(), it.rev
	r.Duplicates, r.Conflicts = it.dups, it.conflicts
	r.HasPayload = it.payloadKept(horizon)
}

func (it *item) fate() event.Fate {
	r, err := decodeRecord(it.body)
	if err != nil {
		return event.Fate{ID: it.id, State: it.state, Reason: it.reason, ReceivedAt: fromNanos(it.received)}
	}
	r.ID = it.id
	return r.Fate()
}

// addAttempt makes a the last attempt, or replaces the one of the same number.
func (it *item) addAttempt(a []byte) {
	n := attemptN(a)
	switch {
	case it.attempt == nil || attemptN(it.attempt) == n:
		it.attempt = a
	case attemptN(it.attempt) < n:
		it.older = append(slices.Clip(it.older), it.attempt)
		it.attempt = a
	default:
		it.older = append(slices.Clip(it.older), a)
	}
}

// weight is the memory that the item takes in the overlay, about.
func (it *item) weight() int {
	n := 360 + len(it.body) + len(it.attempt) + 16*len(it.keys)
	for _, a := range it.older {
		n += len(a) + 24
	}
	return n
}

const (
	itemPayload = 1 << iota
	itemMarker
	itemShift
)

// appendItem is the record of an event in the index, see leaf.
func appendItem(b []byte, it *item) []byte {
	var flags byte
	if it.hasPayload {
		flags |= itemPayload
	}
	if it.marker {
		flags |= itemMarker
	}
	if it.shift != (shifts{}) {
		flags |= itemShift
	}
	b = append(b, codecVersion, flags)
	b = append(b, it.id[:]...)
	b = appendUvarint(b, it.rev)
	b = appendUvarint(b, uint64(it.dups))
	b = appendUvarint(b, uint64(it.conflicts))
	b = appendUvarint(b, it.base)
	b = appendUvarint(b, uint64(it.payload.size))
	if it.payload.size > 0 {
		b = appendUvarint(b, it.payload.segment)
		b = appendUvarint(b, uint64(it.payload.offset))
		b = binary.LittleEndian.AppendUint32(b, it.payload.sum)
	}
	if flags&itemShift != 0 {
		b = appendVarint(b, it.shift.received)
		b = appendVarint(b, it.shift.settled)
	}
	b = append(b, it.claimed, byte(len(it.keys)))
	b = appendKeys(b, it.keys)
	b = appendBytes(b, it.body)
	if it.marker {
		return b
	}
	return append(b, it.attempt...)
}

// decodeItem aliases b.
func decodeItem(b []byte) (*item, error) {
	d := decoder{buf: b}
	d.version()
	flags := d.u8()
	it := &item{hasPayload: flags&itemPayload != 0, marker: flags&itemMarker != 0}
	copy(it.id[:], d.take(16))
	it.rev, it.dups, it.conflicts = d.uvarint(), uint32(d.uvarint()), uint32(d.uvarint())
	it.base = d.uvarint()
	if it.payload.size = uint32(d.uvarint()); it.payload.size > 0 {
		it.payload.segment, it.payload.offset = d.uvarint(), int64(d.uvarint())
		if s := d.take(4); len(s) == 4 {
			it.payload.sum = binary.LittleEndian.Uint32(s)
		}
	}
	if flags&itemShift != 0 {
		it.shift = shifts{d.varint(), d.varint()}
	}
	it.claimed = d.u8()
	keys, err := decodeKeys(d.take(16 * int(d.u8())))
	if err != nil {
		return nil, err
	}
	it.setKeys(keys)
	ok := it.setBody(d.bytes())
	if d.bad || !ok || int(it.claimed) > len(it.keys) {
		return nil, errCodec
	}
	if len(d.buf) > 0 {
		it.attempt = d.buf
	}
	it.was = it.asIndexed()
	return it, nil
}

// An itemView is an encoded item's body and what stands before it but keys and payload, read without allocation.
type itemView struct {
	marker, hasPayload   bool
	id                   []byte
	rev, dups, conflicts uint64
	body                 []byte
}

// viewItem reads no more of an encoded item than a view of it shows.
func viewItem(b []byte) (v itemView, ok bool) {
	d := decoder{buf: b}
	d.version()
	flags := d.u8()
	v.marker, v.hasPayload = flags&itemMarker != 0, flags&itemPayload != 0
	v.id = d.take(16)
	v.rev, v.dups, v.conflicts = d.uvarint(), d.uvarint(), d.uvarint()
	d.uvarint()          // base
	if d.uvarint() > 0 { // payload: segment, offset, sum
		d.uvarint()
		d.uvarint()
		d.take(4)
	}
	if flags&itemShift != 0 {
		d.varint()
		d.varint()
	}
	d.u8()
	d.take(16 * int(d.u8()))
	v.body = d.bytes()
	return v, !d.bad
}
