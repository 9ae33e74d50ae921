package embedded

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestAListStepsOverWhatIsGoneOnce: between an event that is pending for long and a new one thousands have expired. A list with a filter began in each of their blocks, and stepped over all the
// deletions below again.
func TestAListStepsOverWhatIsGoneOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		hour := journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: time.Hour, DeadLetter: time.Hour}
		e := start(t, Options{Dir: dir, InBubble: true, Log: quiet, Retention: hour})
		const gone = 40 * blockEvents
		old := accept(t, e, journal.Synced, sample(0)).Record
		for n := 1; n <= gone; n++ {
			deliver(t, e, journal.Written, accept(t, e, journal.Written, sample(n)).Record)
		}
		time.Sleep(2 * time.Hour)
		for {
			n, err := e.Sweep(t.Context(), time.Now(), 1000)
			must(t, err)
			if n == 0 {
				break
			}
		}
		fresh := accept(t, e, journal.Synced, sample(gone+1)).Record
		must(t, e.settle(t.Context()))
		v, err := e.view()
		must(t, err)
		defer v.release()
		for _, asc := range []bool{false, true} {
			s, err := newScan(&journal.Query{Source: old.Source, Asc: asc})
			must(t, err)
			s.v, s.ctx = &v, t.Context()
			must(t, s.run())
			want := []event.ID{fresh.ID, old.ID}
			if asc {
				want[0], want[1] = want[1], want[0]
			}
			if len(s.found) != 2 || s.found[0].id != want[0] || s.found[1].id != want[1] {
				t.Fatalf("found %d events of 2", len(s.found))
			}
			if s.walks > 4 {
				t.Errorf("began %d walks over what is gone (oldest first: %t)", s.walks, asc)
			}
		}
	})
}

// indexEntries counts the entries of a kind.
func indexEntries(t *testing.T, e *Engine, prefix byte) (n int) {
	t.Helper()
	must(t, e.settle(t.Context()))
	v, err := e.view()
	must(t, err)
	defer v.release()
	must(t, v.snap.eachKey([]byte{prefix}, func([]byte) bool { n++; return true }))
	return n
}

// TestAttemptsGoWithTheirRecord: before its marker, or with all that is left of the event.
func TestAttemptsGoWithTheirRecord(t *testing.T) {
	for what, dedup := range map[string]time.Duration{"marker stays": 4 * time.Hour, "nothing stays": time.Hour} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			e := start(t, Options{Dir: dir, InBubble: true, Log: quiet, Retention: journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: dedup, DeadLetter: time.Hour}})
			r := accept(t, e, journal.Written, sample(1)).Record
			for n := 1; n <= 3; n++ {
				if r.Attempts = n; n == 3 {
					r.State, r.Reason, r.SettledAt = event.Rejected, event.Stale, time.Now()
				}
				out, err := e.Commit(t.Context(), []journal.Transition{{Record: r, Attempt: &event.Attempt{N: n, Status: 500}}}, journal.Written)
				must(t, err)
				r = out[0].Record
			}
			if a, s := indexEntries(t, e, prefixAttempt), indexEntries(t, e, prefixState); a != 2 || s != 1 {
				t.Fatalf("%s: %d attempts before the last, in %d lists", what, a, s)
			}
			time.Sleep(2 * time.Hour)
			if _, err := e.Sweep(t.Context(), time.Now(), 100); err != nil {
				t.Fatal(err)
			}
			if a, s := indexEntries(t, e, prefixAttempt), indexEntries(t, e, prefixState); a != 0 || s != 0 {
				t.Errorf("%s: %d attempts are left, it is in %d lists", what, a, s)
			}
			r.State = event.Pending // replayed by who has read it before
			if out, err := e.Commit(t.Context(), []journal.Transition{{Record: r}}, journal.Written); err != nil || out[0].Applied {
				t.Errorf("%s: it came back: %+v, %v", what, out, err)
			}
			if v := accept(t, e, journal.Written, sample(1)); v.Accepted == (dedup > time.Hour) {
				t.Errorf("%s: accepted %t", what, v.Accepted)
			}
		})
	}
}

// hours let records go, and dead letters expire, while their markers stay.
var hours = journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: 4 * time.Hour, DeadLetter: time.Hour}

// TestWhoWatchesSeesADeadLetterExpire: as it is read from then on.
func TestWhoWatchesSeesADeadLetterExpire(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var seen event.Record
		e := start(t, Options{Dir: dir, InBubble: true, Log: quiet, Retention: hours, Observer: func(_ event.State, _ event.Reason, r *event.Record) { seen = *r }})
		r := accept(t, e, journal.Written, sample(1)).Record
		r.State, r.Reason, r.SettledAt = event.Failed, event.Exhausted, time.Now()
		if _, err := e.Commit(t.Context(), []journal.Transition{{Record: r}}, journal.Written); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if _, err := e.Sweep(t.Context(), time.Now(), 100); err != nil {
			t.Fatal(err)
		}
		got, _, err := e.Get(t.Context(), r.ID, false)
		if d := cmp.Diff(got, seen); err != nil || got.Reason != event.Expired || d != "" {
			t.Errorf("%v (-read +seen):\n%s", err, d)
		}
	})
}

// TestASweepLeavesWhatHasJustChanged: an event whose time had come was replayed between the look at it and the frame that would have taken it away.
func TestASweepLeavesWhatHasJustChanged(t *testing.T) {
	for what, ended := range map[string]event.Record{
		"a record": {State: event.Delivered}, "a dead letter": {State: event.Failed, Reason: event.Exhausted},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			e := start(t, Options{Dir: dir, InBubble: true, Log: quiet, Retention: hours})
			commit := func(r event.Record) event.Record {
				out, err := e.Commit(t.Context(), []journal.Transition{{Record: r}}, journal.Written)
				must(t, err)
				return out[0].Record
			}
			var rs [2]event.Record
			for i := range rs {
				r := accept(t, e, journal.Written, sample(i)).Record
				r.State, r.Reason, r.SettledAt = ended.State, ended.Reason, time.Now()
				rs[i] = commit(r)
			}
			time.Sleep(2 * time.Hour)
			must(t, e.settle(t.Context()))
			found, err := e.findDue(t.Context(), time.Now().UnixNano(), 100)
			must(t, err)
			r := rs[0]
			r.State, r.Reason = event.Pending, event.Retrying
			r = commit(r)
			must(t, e.call(t.Context(), journal.Written, found.write))
			if got, _, err := e.Get(t.Context(), r.ID, false); err != nil || got.Rev != r.Rev || got.State != event.Pending {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
			if got, _, err := e.Get(t.Context(), rs[1].ID, false); err == nil && got.Rev == rs[1].Rev {
				t.Errorf("%s whose time had come is still there", what)
			}
			if !found.missed {
				t.Errorf("%s: the next walk would begin behind what was left", what)
			}
		})
	}
}

// TestWhatIsGoneIsRememberedByTheLog: events are forgotten, their segments gone, and the index lost. The log does not say that it covers them, and their numbers are not given out again.
func TestWhatIsGoneIsRememberedByTheLog(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 8 << 10, Log: quiet, Retention: hours}
	e := start(t, o)
	now, last := time.Now(), event.Record{}
	for i := range 10 {
		a := sample(i)
		a.Record.ReceivedAt = now.Add(-5 * time.Hour)
		a.Record.State, a.Record.Reason, a.Record.SettledAt = event.Rejected, event.Stale, a.Record.ReceivedAt
		last = accept(t, e, journal.Written, a).Record
	}
	accepted := e.published()
	rebuilt := func() *Engine {
		t.Helper()
		covers := e.covers.Load()
		if n := len(everything(t, e)); n != 0 || covers <= nanos(last.ReceivedAt) {
			t.Fatalf("%d events are left, it covers what came since %s", n, fromNanos(covers))
		}
		o := o
		o.Dir = copyDir(t, o.Dir)
		must(t, os.RemoveAll(filepath.Join(o.Dir, nameIndex)))
		e := start(t, o)
		if got := e.covers.Load(); got != covers {
			t.Errorf("it covers what came since %s, and rebuilt since %s", fromNanos(covers), fromNanos(got))
		}
		return e
	}
	sweep := func() {
		if _, err := e.Sweep(t.Context(), now, 100); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	rebuilt()
	for range 20 {
		now = now.Add(2 * time.Hour)
		sweep()
	}
	if first, _ := e.wal.oldest(); first == nil || first.firstLSN <= accepted {
		t.Fatalf("the oldest segment: %+v", first)
	}
	if v := accept(t, rebuilt(), journal.Written, sample(1)); v.Record.Seq != last.Seq+1 {
		t.Errorf("after event %d comes %d", last.Seq, v.Record.Seq)
	}
}
