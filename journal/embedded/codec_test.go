package embedded

import (
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/hooktender/hooktender/event"
)

// TestCutEncodingsAreRefused: what lacks its end is read as nothing, not as what its beginning says; and so is what has more at its end, where that is no part of it.
func TestCutEncodingsAreRefused(t *testing.T) {
	at := time.Unix(1_700_000_000, 5)
	a := sample(1)
	r := a.Record
	r.Account, r.SettledAt, r.NextAt, r.Charged, r.BodySHA256 = "acct", at, at, 3, [32]byte{1}
	r.Resolution = &event.Resolution{By: "x", At: at, Reason: "y"}
	body := appendRecord(nil, &r)
	it := &item{id: event.MakeID(at, 7, 1), keys: a.Keys, claimed: 1, payload: payloadPos{1, 2, 3, 4}, shift: shifts{5, 6}}
	if !it.setBody(body) {
		t.Fatal("body")
	}
	record := appendItem(nil, it)
	plain := append(appendUvarint([]byte{3}, uint64(len(record))), record...)
	plain = append(append(plain, appendUvarint([]byte{5}, uint64(len(record)))...), record...)
	leaf := func(plain []byte) error { return new(leaf).decode(1, s2.EncodeSnappy(nil, plain)) }
	for _, x := range []struct {
		what   string
		whole  []byte
		decode func([]byte) error
		short  map[int]bool // lengths at which it is whole, too
		open   bool         // what follows is a part of it
	}{
		{what: "record", whole: body, decode: func(b []byte) error { _, err := decodeRecord(b); return err }, short: recordEnds(&r)},
		{what: "attempt", whole: appendAttempt(nil, &event.Attempt{N: 300, StartedAt: at, Duration: time.Second, Status: 500, ErrKind: "k", Upstream: "u", Excerpt: []byte("x")}),
			decode: func(b []byte) error { _, err := decodeAttempt(b); return err }},
		{what: "payload", whole: appendPayload(nil, a.Payload), decode: func(b []byte) error { _, err := decodePayload(b); return err }},
		{what: "resource", whole: appendResource(nil, &event.ResourceState{Version: "1", EventID: "e", UpdatedAt: at}), decode: func(b []byte) error { _, err := decodeResource(b); return err }},
		{what: "keys", whole: appendKeys(nil, a.Keys), decode: func(b []byte) error { _, err := decodeKeys(b); return err }, short: map[int]bool{0: true}},
		{what: "item", whole: record, decode: func(b []byte) error { _, err := decodeItem(b); return err }, open: true},
		{what: "leaf", whole: plain, decode: leaf, short: map[int]bool{len(plain) / 2: true}},
		{what: "checkpoint", whole: (&checkpointState{nextSeq: 3, covers: 1 << 40, counts: counters{"s": {n: []stateCount{{stateReason{1, 2}, 3}}}}}).encode(nil),
			decode: func(b []byte) error { _, err := decodeCheckpoint(b); return err }},
		{what: "event numbers", whole: appendSeqs(nil, []event.Seq{1000}), decode: func(b []byte) error { _, err := decodeSeqs(b); return err }, short: map[int]bool{0: true}},
	} {
		if err := x.decode(x.whole); err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		for n := range x.whole {
			if err := x.decode(x.whole[:n:n]); err == nil && !x.short[n] {
				t.Errorf("%s: %d bytes of %d are read", x.what, n, len(x.whole))
			}
		}
		if err := x.decode(append(x.whole[:len(x.whole):len(x.whole)], 0x80)); err == nil && !x.open {
			t.Errorf("%s: read with a byte more", x.what)
		}
	}
	for what, b := range map[string][]byte{
		"twice the same place": append(plain[:len(plain)/2:len(plain)/2], plain[:len(plain)/2]...),
		"a place too far":      append([]byte{leafEvents}, plain[1:len(plain)/2]...),
		"none":                 nil,
	} {
		if leaf(b) == nil {
			t.Errorf("leaf: %s: read", what)
		}
	}
}

// recordEnds are the lengths at which an encoded record is whole without the rest of its fields.
func recordEnds(r *event.Record) map[int]bool {
	ends, x := map[int]bool{}, event.Record{State: r.State, Reason: r.Reason, ReceivedAt: r.ReceivedAt, SettledAt: r.SettledAt, Source: r.Source, Type: r.Type, Resource: r.Resource,
		EventID: r.EventID, ReplayID: r.ReplayID}
	for _, field := range []func(){
		func() {},
		func() { x.Provider = r.Provider },
		func() { x.Account = r.Account },
		func() { x.Version = r.Version },
		func() { x.Verified = r.Verified },
		func() { x.NextAt = r.NextAt },
		func() { x.Charged = r.Charged },
		func() { x.BodySHA256, x.BodyBytes = r.BodySHA256, r.BodyBytes },
	} {
		field()
		ends[len(appendRecord(nil, &x))] = true
	}
	return ends
}
