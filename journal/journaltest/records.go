package journaltest

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

func revisionDecides(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	r := accept(t, j, newEvent("a"))
	stale := r
	now := settle(t, j, r, event.Delivered, 0, r.ReceivedAt)
	if now.Rev == r.Rev {
		t.Fatal("the revision did not change")
	}
	stale.State = event.Failed
	o := tryCommit(t, j, journal.Transition{Record: stale, Attempt: &event.Attempt{N: 9}})
	if o.Applied || o.Record.State != event.Delivered || o.Record.Rev != now.Rev {
		t.Fatalf("%+v", o)
	}
	if as, err := j.Attempts(ctx, r.ID); err != nil || len(as) != 0 {
		t.Fatalf("a refused transition left an attempt: %+v, %v", as, err)
	}
	unknown := r
	unknown.ID = event.MakeID(r.ReceivedAt, 999, 7)
	if o := tryCommit(t, j, journal.Transition{Record: unknown}); o.Applied || !o.Record.ID.IsZero() {
		t.Fatalf("%+v", o)
	}
	_, _, err := j.Get(ctx, unknown.ID, false)
	wantErr(t, err, journal.ErrNotFound)
}

func oneCommitWins(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	r := accept(t, j, newEvent("a"))
	var applied atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			mine := r
			mine.Version = fmt.Sprint(i)
			o, err := j.Commit(ctx, []journal.Transition{{Record: mine}}, journal.Written)
			if err != nil {
				t.Error(err)
			} else if o[0].Applied {
				applied.Add(1)
			}
		})
	}
	wg.Wait()
	if applied.Load() != 1 {
		t.Fatalf("%d transitions of one revision applied", applied.Load())
	}
}

// fullRecord has every field set.
func fullRecord() event.Record {
	d := func(n int) time.Time { return time.Date(2026, 3, 1, 12, 0, n, 123456789, time.UTC) } // pending: age does not matter
	r := event.Record{
		Source: "s", Provider: "p", Account: "a", EventID: "e", Type: "t", Resource: "r", Version: "v", Verified: true, Origin: true,
		State: event.Pending, Reason: event.Held, ReceivedAt: d(0), OccurredAt: d(1), SignedAt: d(2), DeliveredAt: d(3), SettledAt: d(4),
		Attempts: 3, LastTrigger: event.TriggerRetry, LastAttemptAt: d(5), LastStatus: 503, LastErrKind: "status", LastErrText: "text",
		NextAt: d(6), Unknown: true, Charged: 2, FirstTryAt: d(7), OutageAtTry: 5 * time.Second, NextTrigger: event.TriggerReplay, Forced: true,
		Gap: "5-7", OrderNote: "stale", ReplayID: "rp_1", PriorState: event.Failed, PriorReason: event.Exhausted, HeldSince: d(8),
		BodyBytes: 77, HasPayload: true, Resolution: &event.Resolution{By: "ops", At: d(9), Reason: "done"},
	}
	for i := range r.BodySHA256 {
		r.BodySHA256[i] = byte(i)
	}
	return r
}

func everyField(t *testing.T, f Factory) {
	x := f(t, Config{})
	want := fullRecord()
	p := &event.Payload{Method: "PUT", Target: []byte("/a?b"), Host: []byte("h:1"), Head: event.Head("X: y\r\nX: z\r\n"), Body: []byte{0, 1, 255}, Peer: "::1", TLS: true}
	got := accept(t, x.Journal, journal.Accept{Record: want, Payload: p, Keys: []event.Key{keyOf("e")}})
	want.ID, want.Seq, want.Rev = got.ID, got.Seq, got.Rev
	check := func(what string, j journal.Journal) {
		t.Helper()
		r, payload, err := j.Get(ctx, want.ID, true)
		if err != nil {
			t.Fatal(what, err)
		}
		if d := cmp.Diff(want, r); d != "" {
			t.Fatalf("%s (-want +got):\n%s", what, d)
		}
		if d := cmp.Diff(p, payload); d != "" {
			t.Fatalf("%s (-want +got):\n%s", what, d)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("verdict (-want +got):\n%s", d)
	}
	check("accepted", x.Journal)
	if l := list(t, x.Journal, journal.Query{}); len(l) != 1 || !cmp.Equal(want, l[0]) {
		t.Fatal("listed:", cmp.Diff(want, l[0]))
	}
	check("reopened", x.Reopen())
}

func attemptsInOrder(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	r := accept(t, j, newEvent("a"))
	var want []event.Attempt
	for n := 1; n <= 5; n++ {
		a := event.Attempt{
			N: n, Trigger: event.TriggerRetry, StartedAt: r.ReceivedAt.Add(time.Duration(n) * time.Second), Duration: time.Millisecond,
			Outcome: event.OutcomeTransient, Status: 503, ErrKind: "status", ErrText: "busy", Excerpt: bytes.Repeat([]byte{byte(n)}, event.MaxExcerpt), Upstream: "app",
		}
		r.Attempts = n
		running := a
		running.Outcome, running.Duration, running.Excerpt = event.OutcomeNone, 0, nil
		r = commit(t, j, journal.Transition{Record: r, Attempt: &running})
		r = commit(t, j, journal.Transition{Record: r, Attempt: &a})
		want = append(want, a)
		if n == 3 {
			list(t, j, journal.Query{})
		}
	}
	check := func(j journal.Journal) {
		t.Helper()
		got, err := j.Attempts(ctx, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	}
	check(j)
	check(x.Crash())
	_, err := x.Reopen().Attempts(ctx, event.MakeID(time.Now(), 77, 1))
	wantErr(t, err, journal.ErrNotFound)
}

func runningAttempt(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	a := newEvent("a")
	a.Record.Reason, a.Record.Attempts = event.Delivering, 1
	a.Record.LastTrigger, a.Record.LastAttemptAt = event.TriggerInitial, a.Record.ReceivedAt.Add(time.Millisecond)
	r := accept(t, j, a)
	want := event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: a.Record.LastAttemptAt}
	got, err := j.Attempts(ctx, r.ID)
	if err != nil || len(got) != 1 || !cmp.Equal(got[0], want) {
		t.Fatalf("%+v, %v", got, err)
	}
	want.Outcome, want.Status = event.OutcomeDelivered, 204
	r.State, r.Reason = event.Delivered, 0
	commit(t, j, journal.Transition{Record: r, Attempt: &want})
	if got, err = j.Attempts(ctx, r.ID); err != nil || len(got) != 1 || got[0].Status != 204 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func cursorInCommit(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	key := event.ResourceKey{Source: "stripe", Resource: "in_1"}
	state := func(j journal.Journal) event.ResourceState {
		t.Helper()
		rs, err := j.Resources(ctx, []event.ResourceKey{key, {Source: "stripe", Resource: "other"}})
		if err != nil || len(rs) != 2 || !rs[1].UpdatedAt.IsZero() {
			t.Fatalf("%+v, %v", rs, err)
		}
		return rs[0]
	}
	r := accept(t, j, newEvent("a"))
	c := event.ResourceState{ResourceKey: key, Version: "7", Floor: "9", EventID: "a", UpdatedAt: r.ReceivedAt}
	stale := r
	r.State = event.Delivered
	commit(t, j, journal.Transition{Record: r, Cursor: &c})
	if got := state(j); !cmp.Equal(got, c) {
		t.Fatal(cmp.Diff(c, got))
	}
	wrong := c
	wrong.Version = "1"
	if o := tryCommit(t, j, journal.Transition{Record: stale, Cursor: &wrong}); o.Applied {
		t.Fatal("applied")
	}
	if got := state(j); got.Version != "7" {
		t.Fatal("a refused transition moved the cursor")
	}
	b := newEvent("a") // a duplicate
	b.Cursor = &wrong
	tryAccept(t, j, b)
	j = x.Crash()
	if got := state(j); !cmp.Equal(got, c) {
		t.Fatal("after a crash:", cmp.Diff(c, got))
	}
	c.Version, c.Floor, c.EventID = "3", "", ""
	if err := j.SetCursor(ctx, c, journal.Synced); err != nil {
		t.Fatal(err)
	}
	if got := state(x.Crash()); !cmp.Equal(got, c) {
		t.Fatal("set, and after a crash:", cmp.Diff(c, got))
	}
	if got := state(x.Reopen()); !cmp.Equal(got, c) {
		t.Fatal("after reopening:", cmp.Diff(c, got))
	}
}

func payloadReplaced(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	a := newEvent("a")
	a.Payload = nil
	r := accept(t, j, a)
	if r.HasPayload {
		t.Fatal("a payload out of nowhere")
	}
	_, _, err := j.Get(ctx, r.ID, true)
	wantErr(t, err, journal.ErrNoPayload)
	r = commit(t, j, journal.Transition{Record: r, Payload: &event.Payload{Method: "POST", Body: []byte("two")}})
	r = commit(t, j, journal.Transition{Record: r, Payload: &event.Payload{Method: "POST", Body: []byte("three")}})
	r = commit(t, j, journal.Transition{Record: r})
	for j := range x.lives() {
		got, p, err := j.Get(ctx, r.ID, true)
		if err != nil || !got.HasPayload || string(p.Body) != "three" {
			t.Fatalf("%+v %+v %v", got, p, err)
		}
	}
}

func notesVisible(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	r := accept(t, j, newEvent("a"))
	for i := range 100 {
		j.Note(r.ID, 1, uint32(i%2))
		got := get(t, j, r.ID)
		if got.Duplicates != uint32(i+1) || got.Conflicts != uint32(i+1)/2 {
			t.Fatalf("after %d notes: %d, %d", i+1, got.Duplicates, got.Conflicts)
		}
	}
	j.Note(event.MakeID(time.Now(), 99, 1), 1, 0) // nobody's
	after := settle(t, j, r, event.Delivered, 0, r.ReceivedAt)
	if after.Duplicates != 100 || after.Conflicts != 50 {
		t.Fatalf("a commit of the old revision's values lost notes: %+v", after)
	}
	j.Note(r.ID, 1, 0)
	if l := list(t, j, journal.Query{}); len(l) != 1 || l[0].Duplicates != 101 {
		t.Fatalf("%+v", l)
	}
	if got := get(t, x.Crash(), r.ID); got.Duplicates != 101 || got.Rev != after.Rev {
		t.Fatalf("%+v", got)
	}
}

func metaValues(t *testing.T, f Factory) {
	x := f(t, Config{})
	j := x.Journal
	put := func(k string, v []byte) {
		t.Helper()
		if err := j.MetaPut(ctx, k, v, journal.Synced); err != nil {
			t.Fatal(err)
		}
	}
	check := func(j journal.Journal, prefix string, want ...journal.MetaEntry) {
		t.Helper()
		got, err := j.MetaList(ctx, prefix)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
		for _, e := range want {
			if v, err := j.MetaGet(ctx, e.Key); err != nil || !bytes.Equal(v, e.Value) || v == nil {
				t.Fatalf("%s = %q, %v", e.Key, v, err)
			}
		}
	}
	big := bytes.Repeat([]byte{7}, 64<<10)
	put("replay/2", []byte("two"))
	put("replay/1", []byte("one"))
	put("pause/x", []byte{})
	put("big", big)
	put("gone", []byte("x"))
	put("gone", nil)
	for j := range x.lives() {
		check(j, "replay/", journal.MetaEntry{Key: "replay/1", Value: []byte("one")}, journal.MetaEntry{Key: "replay/2", Value: []byte("two")})
		check(j, "big", journal.MetaEntry{Key: "big", Value: big})
		check(j, "pause/", journal.MetaEntry{Key: "pause/x", Value: []byte{}})
		check(j, "gone")
		if v, err := j.MetaGet(ctx, "gone"); v != nil || err != nil {
			t.Fatalf("%q, %v", v, err)
		}
	}
}

func largeBodies(t *testing.T, f Factory) {
	x := f(t, Config{})
	bodies := map[event.ID][]byte{}
	for i, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 1 << 20, 5 << 20, 1 << 20} {
		a := newEvent(name(i))
		a.Payload.Body = bytes.Repeat([]byte{byte(i + 1)}, size)
		bodies[accept(t, x.Journal, a).ID] = a.Payload.Body
	}
	for j := range x.lives() {
		for id, want := range bodies {
			_, p, err := j.Get(ctx, id, true)
			if err != nil || !bytes.Equal(p.Body, want) {
				t.Fatalf("body of %d bytes: %v", len(want), err)
			}
		}
	}
}
