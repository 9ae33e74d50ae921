package embedded

import (
	"bytes"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/hooktender/hooktender/event"
)

// FuzzDecoders: no bytes make a decoder panic, and what one accepts has one encoding.
func FuzzDecoders(f *testing.F) {
	a := sample(1)
	f.Add(appendRecord(nil, &a.Record))
	a.Record.Resolution = &event.Resolution{By: "x", At: time.Now(), Reason: "y"}
	a.Record.NextAt, a.Record.LastErrText, a.Record.Charged = time.Now(), "busy", 3
	body := appendRecord(nil, &a.Record)
	f.Add(body)
	f.Add(appendAttempt(nil, &event.Attempt{N: 3, StartedAt: time.Now(), Excerpt: []byte("x")}))
	f.Add(appendPayload(nil, a.Payload))
	f.Add(appendResource(nil, &event.ResourceState{Version: "1", UpdatedAt: time.Now()}))
	it := &item{id: event.MakeID(time.Now(), 7, 1), keys: a.Keys, claimed: 1, payload: payloadPos{1, 2, 3, 4}}
	it.setBody(body)
	f.Add(appendItem(nil, it))
	f.Add(s2.EncodeSnappy(nil, append([]byte{7, byte(len(body))}, body...)))
	f.Add((&checkpointState{counts: counters{"s": {n: []stateCount{{stateReason{1, 2}, 3}}}}}).encode(nil))
	f.Add(appendSection(appendSection(nil, secSeqs, appendSeqs(nil, []event.Seq{1, 5, 3})), secRecord, body))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil {
			if again, err := decodeRecord(appendRecord(nil, &r)); err != nil || !again.ReceivedAt.Equal(r.ReceivedAt) || again.EventID != r.EventID {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
		viewBody(b)
		if x, err := decodeAttempt(b); err == nil {
			if y, err := decodeAttempt(appendAttempt(nil, &x)); err != nil || y.N != x.N {
				t.Fatalf("%+v became %+v, %v", x, y, err)
			}
		}
		if p, err := decodePayload(b); err == nil {
			if q, err := decodePayload(appendPayload(nil, p)); err != nil || !bytes.Equal(p.Body, q.Body) {
				t.Fatal(p, q, err)
			}
		}
		decodeResource(b)
		if it, err := decodeItem(b); err == nil {
			it.record(0)
			it.shrunk(1)
		}
		decodeCheckpoint(b)
		decodeSeqs(b)
		decodeBlock(1, b)
		if l := new(leaf); l.decode(3, b) == nil && (l.n == 0 || l.seq(0) < 24 || l.seq(l.n-1) > 31) {
			t.Fatalf("%+v", l)
		}
		decodeMeta(b)
		parseParts(b)
		parseLedgerSlot(b)
		parseSegmentHead(b, 1)
	})
}

// FuzzScanner: no segment makes the reader panic or run past the end, and whole frames in front of damage are kept.
func FuzzScanner(f *testing.F) {
	gen := generationSum(7)
	var log []byte
	for lsn := uint64(1); lsn <= 3; lsn++ {
		body := bytes.Repeat([]byte{byte(lsn)}, int(lsn)*10)
		fr := frame{kind: kindNote, lsn: lsn, synced: lsn - 1, body: body, bodySum: checksum(body)}
		log = append(fr.appendHead(log, gen), body...)
	}
	f.Add(log, 0, byte(0))
	f.Add(log, 100, byte(1))
	f.Add(log[:len(log)-1], 0, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at int, x byte) {
		if at >= 0 && at < len(b) {
			b[at] ^= x
		}
		s := newScanner(b, 7, 0, 1)
		for {
			fr, bodyAt, ok := s.next()
			if !ok {
				break
			}
			if bodyAt+len(fr.body) > len(b) || checksum(fr.body) != fr.bodySum {
				t.Fatal("a frame beyond the end, or a wrong one")
			}
		}
		s.clean()
		s.confirmed()
	})
}
