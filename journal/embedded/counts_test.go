package embedded

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestCountsOfAnEventThatTheIndexAloneHas: duplicates of what was delivered long ago are counted without a look at its record, and every reader sees them: before the
// index has them and afterwards, with a transition in between, after a crash, from a rebuilt index and in an export.
func TestCountsOfAnEventThatTheIndexAloneHas(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
	e, rs := write(t, o, 5*leafEvents, journal.Written)
	large := rs[3] // its record has an entry of its own
	out, err := e.Commit(ctx, []journal.Transition{{Record: large, Attempt: &event.Attempt{N: 1, StartedAt: large.LastAttemptAt, Outcome: event.OutcomeDelivered, Status: 200, Excerpt: noise(rand.New(rand.NewPCG(5, 6)), 2*leafRecord)}}}, journal.Written)
	must(t, err)
	rs[3] = out[0].Record
	must(t, e.settle(ctx))
	want := map[event.ID]noteCount{}
	count := func(e *Engine, r event.Record, n noteCount) {
		e.Note(r.ID, n.duplicates, n.conflicts)
		want[r.ID] = want[r.ID].plus(n)
	}
	check := func(e *Engine, when string) {
		t.Helper()
		for _, r := range rs {
			got, _, err := e.Get(ctx, r.ID, false)
			must(t, err)
			if n := (noteCount{got.Duplicates, got.Conflicts}); n != want[r.ID] {
				t.Errorf("%s: event %d has %+v instead of %+v", when, r.Seq, n, want[r.ID])
			}
		}
	}
	for range 3 { // the second and third time they have counters already
		for _, i := range []int{0, 3, 8, 9, 10, 17, 38} {
			count(e, rs[i], noteCount{uint32(i + 1), uint32(i % 2)})
		}
		check(e, "noted")
		must(t, e.call(ctx, journal.Written, func(w *writer) error { return nil }))
		check(e, "in the log")
		if it, _, _ := e.overlayItem(rs[9].Seq); it != nil {
			t.Fatal("the record of an event that the index has was read for its counters")
		}
		if r := deliver(t, e, journal.Written, rs[8]); r.Duplicates != want[r.ID].duplicates { // it ends what the transition before it has begun
			t.Errorf("the transition has %d duplicates instead of %d", r.Duplicates, want[r.ID].duplicates)
		} else {
			rs[8] = r
		}
		count(e, rs[8], noteCount{1, 1})
		check(e, "after a transition")
		crashed := o
		crashed.Dir = copyDir(t, o.Dir)
		check(start(t, crashed), "after a crash")
		must(t, e.settle(ctx))
		check(e, "in the index")
		count(e, rs[9], noteCount{1, 0})
		check(e, "noted again")
	}
	must(t, e.settle(ctx))
	must(t, e.Close())
	check(start(t, o), "after a restart")
	rebuilt := o
	rebuilt.Dir = copyDir(t, o.Dir)
	must(t, os.RemoveAll(filepath.Join(rebuilt.Dir, nameIndex)))
	e = start(t, rebuilt)
	check(e, "rebuilt")
	for _, r := range everything(t, e) {
		if n := (noteCount{r.Duplicates, r.Conflicts}); n != want[r.ID] {
			t.Errorf("a list has %+v of event %d instead of %+v", n, r.Seq, want[r.ID])
		}
	}
	must(t, e.Close())
	exported := map[event.ID]noteCount{}
	_, err = Export(ctx, rebuilt.Dir, nil, nil, func(x *Exported) error {
		if n := (noteCount{x.Record.Duplicates, x.Record.Conflicts}); n != (noteCount{}) {
			exported[x.Record.ID] = n
		}
		return nil
	})
	must(t, err)
	if !maps.Equal(exported, want) {
		t.Errorf("exported: %v instead of %v", exported, want)
	}
}

// TestCountsOfAnEventThatIsGone: its last duplicate may still be on its way.
func TestCountsOfAnEventThatIsGone(t *testing.T) {
	ctx := context.Background()
	e, rs := write(t, Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}, leafEvents, journal.Written)
	must(t, e.settle(ctx))
	forget := func(k kind, r event.Record) {
		t.Helper()
		must(t, e.call(ctx, journal.Written, func(w *writer) error {
			it, err := w.item(r.Seq)
			if err != nil {
				return err
			}
			return (&due{}).forget(w, k, groupOf(it), []*item{it})
		}))
	}
	for _, r := range rs {
		e.Note(r.ID, 1, 0)
	}
	must(t, e.call(ctx, journal.Written, func(w *writer) error { return nil }))
	forget(kindRemove, rs[1]) // its count waits for the index
	must(t, e.settle(ctx))
	forget(kindRemove, rs[3]) // its count comes after it
	forget(kindShrink, rs[5])
	for _, r := range rs {
		e.Note(r.ID, 1, 0)
	}
	must(t, e.settle(ctx))
	forget(kindRemove, rs[7])
	must(t, e.settle(ctx))
	for _, r := range rs {
		e.Note(r.ID, 1, 0)
	}
	must(t, e.settle(ctx))
	left := everything(t, e)
	for i, r := range left {
		if r.ID != rs[leafEvents-2-2*i].ID || r.Duplicates != 3 { // the newest first
			t.Errorf("%d: event %d has %d duplicates", i, r.Seq, r.Duplicates)
		}
	}
	if len(left) != leafEvents/2 {
		t.Errorf("%d events are left", len(left))
	}
}

// TestAStormOfDuplicatesSharesFrames: what comes within a few milliseconds is one frame, however many events it is about.
func TestAStormOfDuplicatesSharesFrames(t *testing.T) {
	ctx := context.Background()
	e, rs := write(t, Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}, 100, journal.Written)
	must(t, e.settle(ctx))
	before := e.published()
	for range 20 {
		for _, i := range rand.Perm(len(rs)) {
			e.Note(rs[i].ID, 1, 0)
		}
	}
	must(t, e.settle(ctx))
	if n := e.published() - before; n == 0 || n > uint64(len(rs)) {
		t.Errorf("%d duplicates are %d frames", 20*len(rs), n)
	}
	for _, r := range everything(t, e) {
		if r.Duplicates != 20 {
			t.Errorf("event %d has %d duplicates", r.Seq, r.Duplicates)
		}
	}
}

// TestCountsAloneWaitForMore: a storm repeats the same events for a while, and each leaf is written once for many of its duplicates. A change of an event does not wait for that.
func TestCountsAloneWaitForMore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e := start(t, Options{Dir: dir, InBubble: true})
		r := accept(t, e, journal.Written, sample(1)).Record
		flushed := func(within time.Duration) bool {
			t.Helper()
			for began := time.Now(); time.Since(began) < within; time.Sleep(flushInterval / 5) {
				if e.published() == e.applied() {
					return true
				}
			}
			return false
		}
		if !flushed(2 * flushInterval) {
			t.Error("an event is not in the index")
		}
		e.Note(r.ID, 1, 0)
		time.Sleep(2 * noteDelay)
		if flushed(countsInterval - 2*flushInterval) {
			t.Error("one duplicate has a flush of its own")
		}
		if !flushed(3 * flushInterval) {
			t.Error("counts wait for ever")
		}
		e.Note(r.ID, 1, 0)
		time.Sleep(2 * flushInterval)
		accept(t, e, journal.Written, sample(2))
		if !flushed(2 * flushInterval) {
			t.Error("an event waits with the counts")
		}
	})
}

// TestCountsWeighWhatTheirFlushWrites: by its weight a layer is written before it grows too large, and space is looked for; the leaf of a count is written whole, once for all that are in it.
func TestCountsWeighWhatTheirFlushWrites(t *testing.T) {
	ctx := context.Background()
	e, rs := write(t, Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}, 128*leafEvents, journal.Written)
	must(t, e.settle(ctx))
	for _, step := range []int{leafEvents, 1} {
		weight := 0
		must(t, e.call(ctx, journal.Written, func(w *writer) error {
			for range 2 { // the second time they are there
				for i := 0; i < len(rs); i += step {
					w.applyCount(eventCount{rs[i].Seq, noteCount{1, 0}})
				}
				l := newLayer()
				l.merge(w.stage)
				l.merge(w.stage)
				weight = l.weight
			}
			return nil
		}))
		must(t, e.settle(ctx))
		if n := len(e.index.arena); n > weight || weight > 2*n {
			t.Errorf("each %d: %d bytes are written for counts that weigh %d", step, n, weight)
		}
	}
}
