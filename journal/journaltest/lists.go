package journaltest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

func fill(t *testing.T, j journal.Journal, n int) (want []string) {
	t.Helper()
	for i := range n {
		accept(t, j, newEvent(name(i)))
		want = append(want, name(i))
	}
	return want
}

func pagingBothWays(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	if p, err := j.List(ctx, journal.Query{}); err != nil || len(p.Records) != 0 || p.Next != "" {
		t.Fatalf("empty: %+v, %v", p, err)
	}
	want := fill(t, j, 600)
	for _, limit := range []int{1, 7, 100, 200, 300, 500} {
		if d := cmp.Diff(want, ids(list(t, j, journal.Query{Asc: true, Limit: limit}))); d != "" {
			t.Fatalf("ascending, %d a page (-want +got):\n%s", limit, d)
		}
	}
	p, err := j.List(ctx, journal.Query{})
	if err != nil || len(p.Records) != 100 || p.Records[0].EventID != want[599] || p.Next == "" {
		t.Fatalf("first page of 100, newest first: %d, %v", len(p.Records), err)
	}
	slices.Reverse(want)
	if d := cmp.Diff(want, ids(list(t, j, journal.Query{Limit: 13}))); d != "" {
		t.Fatalf("descending (-want +got):\n%s", d)
	}
	if got := list(t, j, journal.Query{MaxSeq: 10, Limit: 4}); len(got) != 10 || got[0].Seq != 10 {
		t.Fatalf("up to number 10: %v", ids(got))
	}
	if p, err := j.List(ctx, journal.Query{Limit: 100000}); err != nil || len(p.Records) != 500 {
		t.Fatalf("%d records on a page, %v", len(p.Records), err)
	}
}

func pagingStable(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	want := fill(t, j, 50)
	slices.Reverse(want)
	var got []string
	q := journal.Query{Limit: 7}
	for i := 0; ; i++ {
		p, err := j.List(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ids(p.Records)...)
		if p.Next == "" {
			break
		}
		q.Cursor = p.Next
		accept(t, j, newEvent("late"+name(i)))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
}

func badCursor(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	for _, c := range []string{"x", "AAAAAAAAAAAAAAAAAA", "../..", "\x00"} {
		_, err := j.List(ctx, journal.Query{Cursor: c})
		wantErr(t, err, journal.ErrBadCursor)
	}
}

func everyFilter(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var all []event.Record
	for i := range 900 { // several blocks of whatever an engine groups events by
		a := newEvent(name(i))
		r := &a.Record
		r.Source = []string{"stripe", "github", "orders"}[i%3]
		r.Type = []string{"a", "b"}[i%2]
		r.Resource = name(i / 10)
		r.ReceivedAt = begin.Add(time.Duration(i) * time.Second)
		got := accept(t, j, a)
		switch i % 7 {
		case 1:
			got = settle(t, j, got, event.Failed, event.Exhausted, begin)
		case 2:
			got = settle(t, j, got, event.Rejected, event.Stale, begin)
		case 3:
			got = settle(t, j, got, event.Failed, event.Resolved, begin)
		case 4, 5:
			got = settle(t, j, got, event.Delivered, 0, begin)
		}
		if i == 333 || i == 334 {
			got.ReplayID = "rp_1"
			got = settle(t, j, got, event.Replayed, 0, begin)
		}
		all = append(all, got)
	}
	queries := map[string]struct {
		q     journal.Query
		match func(*event.Record) bool
	}{
		"source":    {journal.Query{Source: "github"}, func(r *event.Record) bool { return r.Source == "github" }},
		"none":      {journal.Query{Source: "nobody"}, func(r *event.Record) bool { return false }},
		"type":      {journal.Query{Type: "b"}, func(r *event.Record) bool { return r.Type == "b" }},
		"resource":  {journal.Query{Resource: name(42)}, func(r *event.Record) bool { return r.Resource == name(42) }},
		"event id":  {journal.Query{EventID: name(77)}, func(r *event.Record) bool { return r.EventID == name(77) }},
		"replay":    {journal.Query{ReplayID: "rp_1"}, func(r *event.Record) bool { return r.ReplayID == "rp_1" }},
		"pending":   {journal.Query{States: []event.State{event.Pending}}, func(r *event.Record) bool { return r.State == event.Pending }},
		"delivered": {journal.Query{States: []event.State{event.Delivered}}, func(r *event.Record) bool { return r.State == event.Delivered }},
		"two states": {journal.Query{States: []event.State{event.Rejected, event.Failed, event.Failed}},
			func(r *event.Record) bool { return r.State == event.Rejected || r.State == event.Failed }},
		"reason": {journal.Query{Reasons: []event.Reason{event.Resolved, event.Stale}},
			func(r *event.Record) bool { return r.Reason == event.Resolved || r.Reason == event.Stale }},
		"times": {journal.Query{Since: begin.Add(300 * time.Second), Until: begin.Add(310 * time.Second)},
			func(r *event.Record) bool { return r.Seq > 300 && r.Seq <= 310 }},
		"all together": {journal.Query{Source: "stripe", Type: "a", States: []event.State{event.Failed}, Reasons: []event.Reason{event.Exhausted},
			Since: begin.Add(100 * time.Second), Until: begin.Add(800 * time.Second), MaxSeq: 700},
			func(r *event.Record) bool {
				return r.Source == "stripe" && r.Type == "a" && r.State == event.Failed && r.Reason == event.Exhausted && r.Seq > 100 && r.Seq <= 700
			}},
	}
	for j := range x.lives() {
		for what, c := range queries {
			var want []event.Record
			for i := range all {
				if c.match(&all[i]) {
					want = append(want, all[i])
				}
			}
			q := c.q
			q.Limit = 50
			q.Asc = true
			if d := cmp.Diff(want, list(t, j, q)); d != "" {
				t.Fatalf("%s, ascending (-want +got):\n%s", what, d)
			}
			q.Asc = false
			slices.Reverse(want)
			if d := cmp.Diff(want, list(t, j, q)); d != "" {
				t.Fatalf("%s, descending (-want +got):\n%s", what, d)
			}
		}
	}
}

func pendingMissesNothing(t *testing.T, f Factory) {
	x := f(t, Config{})
	var mu sync.Mutex
	want := map[event.ID]bool{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 60 {
				a := newEvent(name(w*1000 + i))
				r := accept(t, x.Journal, a)
				if i%3 == 0 {
					settle(t, x.Journal, r, event.Delivered, 0, r.ReceivedAt)
					continue
				}
				if i%3 == 1 {
					settle(t, x.Journal, settle(t, x.Journal, r, event.Failed, event.Exhausted, r.ReceivedAt), event.Pending, event.Queued, r.ReceivedAt)
				}
				mu.Lock()
				want[r.ID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for j := range x.lives() {
		var after event.Seq
		got := 0
		err := j.Pending(ctx, func(page []event.Record) error {
			for i := range page {
				r := &page[i]
				if r.Seq <= after || !want[r.ID] {
					return fmt.Errorf("%+v after %d", r, after)
				}
				if alone, _, err := j.Get(ctx, r.ID, false); err != nil || !cmp.Equal(alone, *r) {
					return fmt.Errorf("%s, %v", cmp.Diff(alone, *r), err)
				}
				after = r.Seq
				got++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got != len(want) {
			t.Fatalf("%d pending events, want %d", got, len(want))
		}
	}
}

func checkpointAndHoles(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	check := func(j journal.Journal, seq event.Seq, holes, pending, failed int64, last event.Seq) journal.Checkpoint {
		t.Helper()
		cp, err := j.Checkpoint(ctx, "stripe")
		if err != nil {
			t.Fatal(err)
		}
		if cp.Source != "stripe" || cp.Seq != seq || cp.Holes != holes || cp.Pending != pending || cp.Failed != failed || cp.LastDelivered.Seq != last {
			t.Fatalf("got seq %d holes %d pending %d failed %d last %d; want %d %d %d %d %d",
				cp.Seq, cp.Holes, cp.Pending, cp.Failed, cp.LastDelivered.Seq, seq, holes, pending, failed, last)
		}
		if cp.Record.Seq != seq {
			t.Fatalf("record %d at checkpoint %d", cp.Record.Seq, seq)
		}
		return cp
	}
	check(j, 0, 0, 0, 0, 0)
	var rs []event.Record
	for i := range 10 {
		accept(t, j, from(newEvent("other"+name(i)), "github")) // odd numbers
		a := newEvent(name(i))
		a.Record.ReceivedAt = a.Record.ReceivedAt.Add(time.Duration(i) * time.Second)
		rs = append(rs, accept(t, j, a)) // 2, 4, … 20
	}
	if cp := check(j, 0, 0, 10, 0, 0); !cp.OldestPending.Equal(rs[0].ReceivedAt) {
		t.Fatalf("oldest pending %v", cp.OldestPending)
	}
	now := rs[9].ReceivedAt
	rs[0] = settle(t, j, rs[0], event.Delivered, 0, now)
	check(j, 2, 0, 9, 0, 2)
	rs[3] = settle(t, j, rs[3], event.Delivered, 0, now)
	check(j, 2, 2, 8, 0, 8)
	rs[1] = settle(t, j, rs[1], event.Failed, event.Exhausted, now)
	cp := check(j, 2, 2, 7, 1, 8)
	if !cp.OldestPending.Equal(rs[2].ReceivedAt) {
		t.Fatalf("oldest pending %v", cp.OldestPending)
	}
	rs[2] = settle(t, j, rs[2], event.Rejected, event.Stale, now)
	check(j, 2, 1, 6, 1, 8)
	rs[1] = settle(t, j, rs[1], event.Failed, event.Discarded, now)
	check(j, 8, 0, 6, 0, 8)
	for _, i := range []int{9, 4, 5, 6, 7, 8} {
		rs[i] = settle(t, j, rs[i], event.Delivered, 0, now)
	}
	check(j, 20, 0, 0, 0, rs[8].Seq)
	check(x.Crash(), 20, 0, 0, 0, rs[8].Seq)
	j = x.Reopen()
	check(j, 20, 0, 0, 0, rs[8].Seq)

	replay := func(r event.Record, end event.State, at time.Time) {
		t.Helper()
		r.ReplayID, r.PriorState = "rp_1", r.State
		r = settle(t, j, r, event.Pending, event.Queued, now)
		r.DeliveredAt, r.PriorState = at, 0
		r.State, r.Reason, r.SettledAt = end, 0, now.Add(time.Minute)
		commit(t, j, journal.Transition{Record: r})
	}
	replay(rs[0], event.Delivered, rs[0].DeliveredAt) // a forced replay that fails: it was delivered when it was
	check(j, 20, 0, 0, 0, rs[8].Seq)
	check(x.Reopen(), 20, 0, 0, 0, rs[8].Seq)
	j = x.Crash()
	check(j, 20, 0, 0, 0, rs[8].Seq)
	replay(rs[3], event.Replayed, now.Add(time.Minute))
	check(j, 20, 0, 0, 0, rs[3].Seq)
	check(x.Crash(), 20, 0, 0, 0, rs[3].Seq)
}

func countsFollow(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	check := func(j journal.Journal, want ...journal.Count) {
		t.Helper()
		got, err := j.Counts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		order := func(a, b journal.Count) int {
			if a.Source != b.Source {
				if a.Source < b.Source {
					return -1
				}
				return 1
			}
			return (int(a.State)-int(b.State))*100 + int(a.Reason) - int(b.Reason)
		}
		slices.SortFunc(got, order)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	}
	check(j)
	var rs []event.Record
	for i := range 6 {
		rs = append(rs, accept(t, j, newEvent(name(i))))
	}
	accept(t, j, from(newEvent("x"), "github"))
	tryAccept(t, j, newEvent(name(0)))
	settle(t, j, rs[0], event.Delivered, 0, rs[0].ReceivedAt)
	settle(t, j, rs[1], event.Delivered, 0, rs[0].ReceivedAt)
	settle(t, j, rs[2], event.Failed, event.Exhausted, rs[0].ReceivedAt)
	settle(t, j, settle(t, j, rs[3], event.Failed, event.Exhausted, rs[0].ReceivedAt), event.Pending, event.Retrying, rs[0].ReceivedAt)
	want := []journal.Count{
		{Source: "github", State: event.Pending, Reason: event.Queued, N: 1},
		{Source: "stripe", State: event.Pending, Reason: event.Queued, N: 2},
		{Source: "stripe", State: event.Pending, Reason: event.Retrying, N: 1},
		{Source: "stripe", State: event.Delivered, N: 2},
		{Source: "stripe", State: event.Failed, Reason: event.Exhausted, N: 1},
	}
	check(j, want...)
	list(t, j, journal.Query{})
	check(x.Crash(), want...)
	check(x.Reopen(), want...)
}
