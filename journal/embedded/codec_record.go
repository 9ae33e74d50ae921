package embedded

import (
	"time"

	"github.com/hooktender/hooktender/event"
)

// A record's body is what callers decide about it: everything but ID, Seq, Rev, the counters and HasPayload, which belong
// to the journal and travel in the frame's header or the index entry. It begins with what lists filter by.

// Tags of the fields that are left out when empty, in the order in which they are written.
const (
	tagProvider = iota + 1
	tagAccount
	tagVersion
	tagFlags
	tagOccurredAt
	tagSignedAt
	tagDeliveredAt
	tagAttempts
	tagLastTrigger
	tagLastAttemptAt
	tagLastStatus
	tagLastErrKind
	tagLastErrText
	tagNextAt
	tagCharged
	tagFirstTryAt
	tagOutageAtTry
	tagNextTrigger
	tagGap
	tagOrderNote
	tagPriorState
	tagPriorReason
	tagHeldSince
	tagBody
	tagResolution
)

// Bits of tagFlags.
const (
	flagVerified = 1 << iota
	flagOrigin
	flagUnknown
	flagForced
)

func appendRecord(b []byte, r *event.Record) []byte {
	b = append(b, codecVersion, byte(r.State), byte(r.Reason))
	b = appendTime(b, r.ReceivedAt)
	b = appendTime(b, r.SettledAt)
	b = appendString(b, r.Source)
	b = appendString(b, r.Type)
	b = appendString(b, r.Resource)
	b = appendString(b, r.EventID)
	b = appendString(b, r.ReplayID)
	b = fieldString(b, tagProvider, r.Provider)
	b = fieldString(b, tagAccount, r.Account)
	b = fieldString(b, tagVersion, r.Version)
	b = fieldByte(b, tagFlags, recordFlags(r))
	b = fieldTime(b, tagOccurredAt, r.OccurredAt)
	b = fieldTime(b, tagSignedAt, r.SignedAt)
	b = fieldTime(b, tagDeliveredAt, r.DeliveredAt)
	b = fieldInt(b, tagAttempts, int64(r.Attempts))
	b = fieldByte(b, tagLastTrigger, byte(r.LastTrigger))
	b = fieldTime(b, tagLastAttemptAt, r.LastAttemptAt)
	b = fieldInt(b, tagLastStatus, int64(r.LastStatus))
	b = fieldString(b, tagLastErrKind, r.LastErrKind)
	b = fieldString(b, tagLastErrText, r.LastErrText)
	b = fieldTime(b, tagNextAt, r.NextAt)
	b = fieldInt(b, tagCharged, int64(r.Charged))
	b = fieldTime(b, tagFirstTryAt, r.FirstTryAt)
	b = fieldInt(b, tagOutageAtTry, int64(r.OutageAtTry))
	b = fieldByte(b, tagNextTrigger, byte(r.NextTrigger))
	b = fieldString(b, tagGap, r.Gap)
	b = fieldString(b, tagOrderNote, r.OrderNote)
	b = fieldByte(b, tagPriorState, byte(r.PriorState))
	b = fieldByte(b, tagPriorReason, byte(r.PriorReason))
	b = fieldTime(b, tagHeldSince, r.HeldSince)
	if r.BodyBytes != 0 || r.BodySHA256 != [32]byte{} {
		b = append(b, tagBody)
		b = append(b, r.BodySHA256[:]...)
		b = appendVarint(b, int64(r.BodyBytes))
	}
	if res := r.Resolution; res != nil {
		b = append(b, tagResolution)
		b = appendString(b, res.By)
		b = appendTime(b, res.At)
		b = appendString(b, res.Reason)
	}
	return b
}

func recordFlags(r *event.Record) (f byte) {
	for _, x := range [...]struct {
		on  bool
		bit byte
	}{{r.Verified, flagVerified}, {r.Origin, flagOrigin}, {r.Unknown, flagUnknown}, {r.Forced, flagForced}} {
		if x.on {
			f |= x.bit
		}
	}
	return f
}

// The field functions append a tagged field, and nothing where it is empty, which most are.

func fieldString(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, tag), s)
}

func fieldTime(b []byte, tag byte, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendTime(append(b, tag), t)
}

func fieldInt(b []byte, tag byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return appendVarint(append(b, tag), v)
}

func fieldByte(b []byte, tag, v byte) []byte {
	if v == 0 {
		return b
	}
	return append(b, tag, v)
}

// decodeRecord reads a body; all strings of the record share one allocation.
func decodeRecord(b []byte) (event.Record, error) {
	var r event.Record
	err := decodeFields(&r, newDecoder(b))
	return r, err
}

// decodeFields sets what a body says in a record that has nothing of it yet.
func decodeFields(r *event.Record, d decoder) error {
	d.version()
	r.State, r.Reason = event.State(d.u8()), event.Reason(d.u8())
	r.ReceivedAt, r.SettledAt = d.time(), d.time()
	r.Source, r.Type, r.Resource, r.EventID, r.ReplayID = d.string(), d.string(), d.string(), d.string(), d.string()
	for last := byte(0); len(d.buf) > 0; {
		tag := d.u8()
		if tag <= last { // one order only: a body has one encoding
			d.fail()
			break
		}
		last = tag
		d.recordField(tag, r)
	}
	return d.done()
}

func (d *decoder) recordField(tag byte, r *event.Record) {
	switch tag {
	case tagProvider:
		r.Provider = d.string()
	case tagAccount:
		r.Account = d.string()
	case tagVersion:
		r.Version = d.string()
	case tagFlags:
		f := d.u8()
		r.Verified, r.Origin = f&flagVerified != 0, f&flagOrigin != 0
		r.Unknown, r.Forced = f&flagUnknown != 0, f&flagForced != 0
	case tagOccurredAt:
		r.OccurredAt = d.time()
	case tagSignedAt:
		r.SignedAt = d.time()
	case tagDeliveredAt:
		r.DeliveredAt = d.time()
	case tagAttempts:
		r.Attempts = int(d.varint())
	case tagLastTrigger:
		r.LastTrigger = event.Trigger(d.u8())
	case tagLastAttemptAt:
		r.LastAttemptAt = d.time()
	case tagLastStatus:
		r.LastStatus = int(d.varint())
	case tagLastErrKind:
		r.LastErrKind = d.string()
	case tagLastErrText:
		r.LastErrText = d.string()
	case tagNextAt:
		r.NextAt = d.time()
	default:
		d.recordFieldRare(tag, r)
	}
}

func (d *decoder) recordFieldRare(tag byte, r *event.Record) {
	switch tag {
	case tagCharged:
		r.Charged = int(d.varint())
	case tagFirstTryAt:
		r.FirstTryAt = d.time()
	case tagOutageAtTry:
		r.OutageAtTry = time.Duration(d.varint())
	case tagNextTrigger:
		r.NextTrigger = event.Trigger(d.u8())
	case tagGap:
		r.Gap = d.string()
	case tagOrderNote:
		r.OrderNote = d.string()
	case tagPriorState:
		r.PriorState = event.State(d.u8())
	case tagPriorReason:
		r.PriorReason = event.Reason(d.u8())
	case tagHeldSince:
		r.HeldSince = d.time()
	case tagBody:
		copy(r.BodySHA256[:], d.take(32))
		r.BodyBytes = int(d.varint())
	case tagResolution:
		r.Resolution = &event.Resolution{By: d.string(), At: d.time(), Reason: d.string()}
	default:
		d.fail()
	}
}

// A bodyView is the front of a record's body, read without allocation: what lists filter by. The slices alias the body.
type bodyView struct {
	front
	source, typ, resource, eventID, replayID []byte
	identity                                 []byte // the bytes of these five, as encoded
}

// front is what items keep of their record beside its bytes.
type front struct {
	state             event.State
	reason            event.Reason
	received, settled int64 // Unix nanoseconds as the wall clock showed them, 0 = no time
}

func frontOf(r *event.Record) front {
	return front{r.State, r.Reason, nanos(r.ReceivedAt), nanos(r.SettledAt)}
}

func viewBody(b []byte) (v bodyView, ok bool) {
	d := decoder{buf: b}
	d.version()
	v.state, v.reason = event.State(d.u8()), event.Reason(d.u8())
	v.received, v.settled = d.nanos(), d.nanos()
	rest := d.buf
	v.source, v.typ, v.resource, v.eventID, v.replayID = d.bytes(), d.bytes(), d.bytes(), d.bytes(), d.bytes()
	if d.bad {
		return bodyView{}, false
	}
	v.identity = rest[:len(rest)-len(d.buf)]
	return v, true
}

// maxUnix bounds the seconds whose nanoseconds fit 64 bits with room to subtract a retention.
const maxUnix = 8_000_000_000

// nanos is Unix nanoseconds, 0 for the zero time; times beyond the years 1716 and 2223 are cut to these bounds.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return clampNanos(t.Unix(), int64(t.Nanosecond()))
}

func clampNanos(sec, nsec int64) int64 {
	return min(max(sec, -maxUnix), maxUnix)*1e9 + nsec
}

func (d *decoder) nanos() int64 {
	n := d.uvarint()
	if n == 0 {
		return 0
	}
	if n > 1e9 {
		d.fail()
		return 0
	}
	return clampNanos(d.varint(), int64(n-1))
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
