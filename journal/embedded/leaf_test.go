package embedded

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestLeavesHoldWhatWasFlushedLast: events come, change and go, in any order over any number of flushes; the index has the newest of each, and nothing of one that is gone.
func TestLeavesHoldWhatWasFlushedLast(t *testing.T) {
	o, err := Options{Dir: memDir(t), Log: quiet}.withDefaults()
	must(t, err)
	ix, err := openIndex(o.Dir, &o)
	must(t, err)
	defer func() { must(t, ix.close()) }()
	const events = 5 * leafEvents
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[event.Seq][]byte{}
	for round := range 60 {
		l := newLayer()
		for range rnd.IntN(2 * leafEvents) {
			a := sample(rnd.IntN(1000))
			a.Record.Attempts = 1
			seq := event.Seq(1 + rnd.IntN(events))
			it := &item{id: event.MakeID(a.Record.ReceivedAt, seq, 1), rev: uint64(round), keys: a.Keys, claimed: 1, removed: rnd.IntN(2) == 0}
			if !it.setBody(appendRecord(nil, &a.Record)) {
				t.Fatal("body")
			}
			if rnd.IntN(3) == 0 { // some records are too large for a leaf
				it.addAttempt(appendAttempt(nil, &event.Attempt{N: 1, StartedAt: a.Record.ReceivedAt, Excerpt: noise(rnd, rnd.IntN(2*leafRecord))}))
			}
			_, it.was.present = want[seq]
			l.items[seq] = it
		}
		for seq, it := range l.items {
			if it.removed {
				delete(want, seq)
			} else {
				want[seq] = appendItem(nil, it)
			}
		}
		s := ix.snapshot()
		must(t, ix.flush(l, s, []byte("state")))
		s.release()

		s = ix.snapshot()
		got, last, full := map[event.Seq][]byte{}, event.Seq(0), map[uint64]bool{}
		must(t, s.eachRecord(func(seq event.Seq, record []byte) error {
			if seq <= last {
				t.Errorf("event %d comes after %d", seq, last)
			}
			last, got[seq], full[leafOf(seq)] = seq, bytes.Clone(record), true
			return nil
		}))
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
		reader, keys := leafReader{snap: s}, map[uint64]bool{}
		for seq := range event.Seq(events + 2) {
			it, err := s.item(seq)
			must(t, err)
			if present := want[seq] != nil; present != (it != nil) || present && !bytes.Equal(appendItem(nil, it), want[seq]) {
				t.Fatalf("round %d: event %d is %+v", round, seq, it)
			}
			record, err := reader.record(seq)
			must(t, err)
			if !bytes.Equal(record, want[seq]) {
				t.Fatalf("round %d: the record of event %d is %q", round, seq, record)
			}
		}
		must(t, s.eachKey([]byte{prefixRecord}, func(key []byte) bool { keys[uint64(seqOf(key))] = true; return true }))
		if !maps.Equal(keys, full) {
			t.Fatalf("round %d: the leaves %v are there, %v have records", round, slices.Sorted(maps.Keys(keys)), slices.Sorted(maps.Keys(full)))
		}
		var own, large []event.Seq
		must(t, s.eachKey([]byte{prefixOwn}, func(key []byte) bool { own = append(own, seqOf(key)); return true }))
		for seq, record := range want {
			if len(record) > leafRecord {
				large = append(large, seq)
			}
		}
		if slices.Sort(large); !slices.Equal(own, large) {
			t.Fatalf("round %d: %v have entries of their own, %v are large", round, own, large)
		}
		s.release()
	}
}

// noise is bytes that do not compress.
func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// TestASparseFlushWritesWhatItIsAbout: one of eight events has changed, and the other seven have what an upstream answered: that is not written again.
func TestASparseFlushWritesWhatItIsAbout(t *testing.T) {
	o, err := Options{Dir: memDir(t), Log: quiet}.withDefaults()
	must(t, err)
	ix, err := openIndex(o.Dir, &o)
	must(t, err)
	defer func() { must(t, ix.close()) }()
	rnd := rand.New(rand.NewPCG(3, 4))
	flush := func(every int, excerpt int, present bool) {
		l := newLayer()
		for seq := event.Seq(leafEvents); seq < 40*leafEvents; seq += event.Seq(every) {
			a := sample(int(seq))
			it := &item{id: event.MakeID(a.Record.ReceivedAt, seq, 1), keys: a.Keys, claimed: 1, was: indexed{present: present}}
			if !it.setBody(appendRecord(nil, &a.Record)) {
				t.Fatal("body")
			}
			it.addAttempt(appendAttempt(nil, &event.Attempt{N: 1, StartedAt: a.Record.ReceivedAt, Excerpt: noise(rnd, excerpt)}))
			l.items[seq] = it
		}
		s := ix.snapshot()
		must(t, ix.flush(l, s, []byte("state")))
		s.release()
	}
	flush(1, 4096, false)
	flush(leafEvents, 0, true)
	s := ix.snapshot()
	defer s.release()
	must(t, s.each([]byte{prefixRecord}, func(_, value []byte) bool {
		if len(value) > leafEvents*leafRecord {
			t.Errorf("a leaf of %d bytes", len(value))
		}
		return true
	}))
	own := 0
	must(t, s.eachKey([]byte{prefixOwn}, func([]byte) bool { own++; return true }))
	if own != 39*(leafEvents-1) {
		t.Errorf("%d records have entries of their own", own)
	}
}

// TestIndexOfAnotherVersionIsRebuilt: the index is what a release of before or after this one has written.
func TestIndexOfAnotherVersionIsRebuilt(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
	e, _ := write(t, o, 20, journal.Written)
	must(t, e.settle(context.Background()))
	want := everything(t, e)
	w := newWrites(e.index)
	state := e.state(e.active.last)
	state[0]--
	w.set([]byte{prefixPosition}, state)
	must(t, w.finish())
	o.Dir = copyDir(t, o.Dir)
	must(t, e.Close())
	e = start(t, o)
	if d := cmp.Diff(want, everything(t, e)); d != "" {
		t.Error(d)
	}
	must(t, e.Close())
	if _, err := os.Stat(filepath.Join(o.Dir, nameIndex+".old")); err != nil {
		t.Errorf("it was not rebuilt: %v", err)
	}
}

// TestAnEventIsListedAsItIsNow: it has changed after the index had it. What it was before is not left in a list, and lists find it by what it has become.
func TestAnEventIsListedAsItIsNow(t *testing.T) {
	e := start(t, Options{})
	commit := func(r event.Record) event.Record {
		out, err := e.Commit(t.Context(), []journal.Transition{{Record: r}}, journal.Written)
		if err != nil || !out[0].Applied {
			t.Fatal(out, err)
		}
		return out[0].Record
	}
	r := accept(t, e, journal.Written, sample(1)).Record
	must(t, e.settle(t.Context()))
	for _, x := range []struct {
		state  event.State
		reason event.Reason
		listed int
	}{{event.Failed, event.Exhausted, 1}, {event.Pending, event.Retrying, 1}, {event.Delivered, event.NoReason, 0}, {event.Pending, event.Delivering, 1}, {event.Delivered, event.NoReason, 0}} {
		r.State, r.Reason, r.ReplayID = x.state, x.reason, "of "+x.state.String()
		r = commit(commit(r)) // twice in one flush
		if n := indexEntries(t, e, prefixState); n != x.listed {
			t.Errorf("%s: %d entries of states", x.state, n)
		}
		if p, err := e.List(t.Context(), journal.Query{ReplayID: r.ReplayID}); err != nil || len(p.Records) != 1 || p.Records[0].Rev != r.Rev {
			t.Errorf("%s: by its replay %+v is found, %v", x.state, p.Records, err)
		}
	}
}
