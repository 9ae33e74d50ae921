package journaltest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

func observerInOrder(t *testing.T, f Factory) {
	type seen struct {
		State event.State
		Rev   uint64
	}
	var mu sync.Mutex
	last := map[event.ID]seen{}
	newest := uint64(0)
	n := 0
	x := f(t, Config{Observer: func(old event.State, _ event.Reason, now *event.Record) {
		mu.Lock()
		defer mu.Unlock()
		n++
		if before := last[now.ID]; before.State != old || now.Rev <= before.Rev {
			t.Errorf("event %v: from %v after %+v, revision %d", now.ID, old, before, now.Rev)
		}
		last[now.ID] = seen{now.State, now.Rev}
		if now.Rev <= newest {
			t.Errorf("event %v: revision %d after %d: revisions do not grow over all events", now.ID, now.Rev, newest)
		}
		newest = now.Rev
	}})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				r := accept(t, x.Journal, newEvent(name(w*100+i)))
				r = settle(t, x.Journal, r, event.Failed, event.Exhausted, r.ReceivedAt)
				settle(t, x.Journal, r, event.Replayed, 0, r.ReceivedAt)
				tryAccept(t, x.Journal, newEvent(name(w*100+i)))
			}
		})
	}
	wg.Wait()
	mu.Lock()
	before := n
	mu.Unlock()
	if rev := x.Journal.Stats().LastRev; rev < newest {
		t.Errorf("the newest revision that reads see is %d, after %d", rev, newest)
	}
	if before != 8*20*3 {
		t.Fatalf("the observer heard %d changes of %d", before, 8*20*3)
	}
	x.Reopen()
	mu.Lock()
	defer mu.Unlock()
	if n != before {
		t.Fatal("the observer heard of what was there already")
	}
}

// reopen checks that a journal is the same after it was closed, or left by a crash, and opened again.
func reopen(t *testing.T, f Factory, crash bool) {
	x := f(t, Config{})
	j := x.Journal
	want := map[event.ID]event.Record{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		for i := range 150 {
			id := fmt.Sprintf("%d-%d", round, i)
			r := accept(t, j, newEvent(id))
			switch rnd.IntN(4) {
			case 0:
				r = settle(t, j, r, event.Delivered, 0, r.ReceivedAt)
			case 1:
				r = settle(t, j, r, event.Failed, event.Exhausted, r.ReceivedAt)
			case 2:
				j.Note(r.ID, 1, 1)
				r.Duplicates, r.Conflicts = 1, 1
			}
			want[r.ID] = r
		}
		for id, r := range want {
			if r.State == event.Failed && rnd.IntN(3) == 0 {
				want[id] = settle(t, j, r, event.Replayed, 0, r.ReceivedAt)
			}
		}
		if round == 2 {
			list(t, j, journal.Query{})
		}
		if _, err := j.Commit(ctx, nil, journal.Written); err != nil {
			t.Fatal(err)
		}
		if crash {
			j = x.Crash()
		} else {
			j = x.Reopen()
		}
		same(t, j, want)
	}
}

func same(t *testing.T, j journal.Journal, want map[event.ID]event.Record) {
	t.Helper()
	got := map[event.ID]event.Record{}
	counts := map[journal.Count]int64{}
	for _, r := range list(t, j, journal.Query{}) {
		got[r.ID] = r
		counts[journal.Count{Source: r.Source, State: r.State, Reason: r.Reason}]++
		if f := lookup(t, j, keyOf(r.EventID)); f.ID != r.ID || f.State != r.State {
			t.Fatalf("fate %+v of %+v", f, r)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
	cs, err := j.Counts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cs {
		n := c.N
		c.N = 0
		if counts[c] != n {
			t.Fatalf("counter of %+v: %d, records: %d", c, n, counts[c])
		}
		delete(counts, c)
	}
	if len(counts) > 0 {
		t.Fatalf("not counted: %v", counts)
	}
}

func seqNeverReused(t *testing.T, f Factory) {
	c := newClock()
	x := f(t, Config{Retention: hours, Now: c.Now})
	j := x.Journal
	var last event.Seq
	for i := range 5 {
		r := settle(t, j, accept(t, j, at(newEvent(name(i)), c.Now())), event.Delivered, 0, c.Now())
		if r.Seq <= last {
			t.Fatalf("number %d after %d", r.Seq, last)
		}
		last = r.Seq
		c.Advance(1000 * time.Hour)
		sweep(t, j, c.Now())
		if i%2 == 0 {
			j = x.Reopen()
		} else {
			j = x.Crash()
		}
	}
}

func closed(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	r := accept(t, j, newEvent("a"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal("closed twice:", err)
	}
	j.Note(r.ID, 1, 1)
	j.Stats()
	errs := map[string]error{}
	_, errs["Accept"] = j.Accept(ctx, []journal.Accept{newEvent("b")}, journal.Written)
	_, errs["Commit"] = j.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written)
	_, errs["barrier"] = j.Commit(ctx, nil, journal.Synced)
	_, errs["Lookup"] = j.Lookup(ctx, []event.Key{keyOf("a")})
	_, _, errs["Get"] = j.Get(ctx, r.ID, true)
	_, errs["Attempts"] = j.Attempts(ctx, r.ID)
	_, errs["List"] = j.List(ctx, journal.Query{})
	errs["Pending"] = j.Pending(ctx, func([]event.Record) error { return nil })
	_, errs["Resources"] = j.Resources(ctx, []event.ResourceKey{{Source: "s"}})
	errs["SetCursor"] = j.SetCursor(ctx, event.ResourceState{ResourceKey: event.ResourceKey{Source: "s"}}, journal.Written)
	_, errs["Counts"] = j.Counts(ctx)
	_, errs["Checkpoint"] = j.Checkpoint(ctx, "stripe")
	_, errs["MetaGet"] = j.MetaGet(ctx, "k")
	errs["MetaPut"] = j.MetaPut(ctx, "k", nil, journal.Written)
	_, errs["MetaList"] = j.MetaList(ctx, "")
	_, errs["Sweep"] = j.Sweep(ctx, time.Now(), 1)
	for what, err := range errs {
		if err == nil {
			t.Errorf("%s works on a closed journal", what)
			continue
		}
		wantErr(t, err, journal.ErrClosed)
	}
}

func cancelled(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err := j.Accept(done, []journal.Accept{newEvent("a")}, journal.Synced)
	wantErr(t, err, context.Canceled)
	_, err = j.List(done, journal.Query{})
	wantErr(t, err, context.Canceled)
	_, err = j.Commit(done, nil, journal.Synced)
	wantErr(t, err, context.Canceled)
	accept(t, j, newEvent("b"))
}

// everythingAtOnce is for the race detector.
func everythingAtOnce(t *testing.T, f Factory) {
	c := newClock()
	j := f(t, Config{Retention: hours, Now: c.Now, Observer: func(event.State, event.Reason, *event.Record) {}}).Journal
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 120 {
				r := accept(t, j, at(newEvent(name(w*1000+i)), c.Now()))
				j.Note(r.ID, 1, 0)
				settle(t, j, r, event.States[1+i%2], 0, c.Now())
			}
		})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for _, read := range []func() error{
		func() error { _, err := j.List(ctx, journal.Query{Source: "stripe", Limit: 20}); return err },
		func() error { return j.Pending(ctx, func([]event.Record) error { return nil }) },
		func() error { _, err := j.Checkpoint(ctx, "stripe"); return err },
		func() error { _, err := j.Counts(ctx); j.Stats(); return err },
		func() error { _, err := j.Lookup(ctx, []event.Key{keyOf(name(1003))}); return err },
		func() error { _, err := j.Sweep(ctx, c.Advance(time.Minute), 50); return err },
		func() error { return j.MetaPut(ctx, "k", []byte("v"), journal.Synced) },
		func() error {
			p, err := j.List(ctx, journal.Query{Limit: 3})
			for _, r := range p.Records {
				j.Get(ctx, r.ID, true)
				j.Attempts(ctx, r.ID)
			}
			return err
		},
	} {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
}
