package embedded

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/hooktender/hooktender/event"
)

// The binary form of the nouns. Every value begins with a version byte; integers are varints, strings are preceded by
// their length, a time is its nanoseconds plus one and then its seconds, a zero nanosecond field meaning no time. Fields
// that are mostly empty carry a tag and are left out when empty.

const codecVersion = 1

// errCodec: bytes that no encoder of this version wrote.
var errCodec = errors.New("malformed encoding")

func appendString(b []byte, s string) []byte { return append(appendUvarint(b, uint64(len(s))), s...) }

func appendBytes(b, s []byte) []byte { return append(appendUvarint(b, uint64(len(s))), s...) }

// appendUvarint is binary.AppendUvarint without its loop for what is mostly written: lengths, and both parts of a time.
func appendUvarint(b []byte, v uint64) []byte {
	if v < 1<<7 {
		return append(b, byte(v))
	}
	return appendLong(b, v)
}

func appendLong(b []byte, v uint64) []byte {
	if v>>28 != 0 && v>>35 == 0 {
		return append(b, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80, byte(v>>28))
	}
	return binary.AppendUvarint(b, v)
}

func appendVarint(b []byte, v int64) []byte { return appendUvarint(b, uint64(v<<1)^uint64(v>>63)) }

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return appendVarint(appendUvarint(b, uint64(t.Nanosecond())+1), t.Unix())
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// A decoder reads what the append functions wrote. After a fault it gives zero values; the fault shows in done.
// If text is set it holds the same bytes as buf did at the start, and strings are cut from it without copying.
type decoder struct {
	buf  []byte
	text string
	bad  bool
}

// newDecoder reads b; all strings share one allocation.
func newDecoder(b []byte) decoder { return decoder{buf: b, text: string(b)} }

func (d *decoder) fail() { d.bad, d.buf = true, nil }

func (d *decoder) done() error {
	if d.bad || len(d.buf) != 0 {
		return errCodec
	}
	return nil
}

func (d *decoder) u8() byte {
	if len(d.buf) == 0 {
		d.fail()
		return 0
	}
	c := d.buf[0]
	d.buf = d.buf[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.buf) {
		d.fail()
		return nil
	}
	s := d.buf[:n:n]
	d.buf = d.buf[n:]
	return s
}

// bytes aliases the input.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return ""
	}
	if d.text == "" {
		return string(d.take(int(n)))
	}
	at := len(d.text) - len(d.buf)
	d.take(int(n))
	return d.text[at : at+int(n)]
}

func (d *decoder) time() time.Time {
	n := d.uvarint()
	if n == 0 {
		return time.Time{}
	}
	if n > 1e9 {
		d.fail()
		return time.Time{}
	}
	return time.Unix(d.varint(), int64(n-1)).UTC()
}

func (d *decoder) version() {
	if d.u8() != codecVersion {
		d.fail()
	}
}

// appendAttempt writes an attempt; its number comes first, so that attemptN can read it alone.
func appendAttempt(b []byte, a *event.Attempt) []byte {
	b = append(b, codecVersion)
	b = appendUvarint(b, uint64(max(a.N, 0)))
	b = append(b, byte(a.Trigger), byte(a.Outcome))
	b = appendTime(b, a.StartedAt)
	b = appendVarint(b, int64(a.Duration))
	b = appendVarint(b, int64(a.Status))
	b = appendString(b, a.ErrKind)
	b = appendString(b, a.ErrText)
	b = appendString(b, a.Upstream)
	return appendBytes(b, a.Excerpt)
}

func decodeAttempt(b []byte) (event.Attempt, error) {
	d := newDecoder(b)
	d.version()
	a := event.Attempt{N: int(d.uvarint()), Trigger: event.Trigger(d.u8()), Outcome: event.Outcome(d.u8())}
	a.StartedAt = d.time()
	a.Duration = time.Duration(d.varint())
	a.Status = int(d.varint())
	a.ErrKind, a.ErrText, a.Upstream = d.string(), d.string(), d.string()
	if x := d.bytes(); len(x) > 0 {
		a.Excerpt = append([]byte(nil), x...)
	}
	return a, d.done()
}

// attemptN is the number of an encoded attempt; 0 if there is none.
func attemptN(b []byte) uint64 {
	if len(b) < 2 {
		return 0
	}
	n, _ := binary.Uvarint(b[1:])
	return n
}

func appendPayload(b []byte, p *event.Payload) []byte {
	b = append(b, codecVersion)
	b = appendString(b, p.Method)
	b = appendBytes(b, p.Target)
	b = appendBytes(b, p.Host)
	b = appendString(b, p.Peer)
	b = appendBool(b, p.TLS)
	b = appendBytes(b, p.Head)
	return appendBytes(b, p.Body)
}

// decodePayload aliases b.
func decodePayload(b []byte) (*event.Payload, error) {
	d := decoder{buf: b}
	d.version()
	p := &event.Payload{Method: d.string(), Target: d.bytes(), Host: d.bytes(), Peer: d.string()}
	p.TLS = d.u8() != 0
	p.Head, p.Body = event.Head(d.bytes()), d.bytes()
	return p, d.done()
}

func appendResource(b []byte, r *event.ResourceState) []byte {
	b = append(b, codecVersion)
	b = appendString(b, r.Source)
	b = appendString(b, r.Resource)
	b = appendString(b, r.Version)
	b = appendString(b, r.Floor)
	b = appendString(b, r.EventID)
	return appendTime(b, r.UpdatedAt)
}

func decodeResource(b []byte) (event.ResourceState, error) {
	d := newDecoder(b)
	d.version()
	var r event.ResourceState
	r.Source, r.Resource = d.string(), d.string()
	r.Version, r.Floor, r.EventID = d.string(), d.string(), d.string()
	r.UpdatedAt = d.time()
	return r, d.done()
}

func appendKeys(b []byte, keys []event.Key) []byte {
	for i := range keys {
		b = append(b, keys[i][:]...)
	}
	return b
}

func decodeKeys(b []byte) ([]event.Key, error) {
	if len(b)%16 != 0 {
		return nil, errCodec
	}
	keys := make([]event.Key, len(b)/16)
	for i := range keys {
		copy(keys[i][:], b[i*16:])
	}
	return keys, nil
}
