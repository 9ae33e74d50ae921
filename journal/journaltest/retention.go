package journaltest

import (
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// hours is the retention of these tests: each bound is its own, in the order payload, dedup, record, dead letter.
var hours = journal.Retention{Payload: time.Hour, Dedup: 2 * time.Hour, Record: 3 * time.Hour, DeadLetter: 10 * time.Hour}

func payloadRetention(t *testing.T, f Factory) {
	c := newClock()
	x := f(t, Config{Retention: hours, Now: c.Now})
	j := x.Journal
	c.Advance(30 * time.Minute)
	r := settle(t, j, accept(t, j, at(newEvent("a"), c.Now())), event.Delivered, 0, c.Now())
	later := settle(t, j, accept(t, j, at(newEvent("b"), c.Now())), event.Delivered, 0, c.Advance(time.Minute))
	end := r.SettledAt.Add(time.Hour)
	sweep(t, j, end.Add(-time.Nanosecond))
	if got, _, err := j.Get(ctx, r.ID, true); err != nil || !got.HasPayload {
		t.Fatalf("before its time: %v", err)
	}
	sweep(t, j, end)
	for j := range x.lives() {
		got, p, err := j.Get(ctx, r.ID, true)
		wantErr(t, err, journal.ErrNoPayload)
		if got.HasPayload || p != nil || got.ID != r.ID {
			t.Fatalf("%+v", got)
		}
		if l := list(t, j, journal.Query{EventID: "a"}); len(l) != 1 || l[0].HasPayload {
			t.Fatalf("%+v", l)
		}
		if _, _, err := j.Get(ctx, later.ID, true); err != nil {
			t.Fatal("the later one:", err)
		}
		sweep(t, j, end)
	}
	// A payload that is gone stays gone when the event is tried again.
	j = x.Reopen()
	again := settle(t, j, get(t, j, r.ID), event.Pending, event.Queued, c.Now())
	if again.HasPayload || get(t, j, r.ID).HasPayload {
		t.Fatal("the payload is back")
	}
}

func recordRetention(t *testing.T, f Factory) {
	c := newClock()
	x := f(t, Config{Retention: hours, Now: c.Now})
	j := x.Journal
	r := settle(t, j, accept(t, j, at(newEvent("a"), c.Now())), event.Delivered, 0, c.Now())
	rej := settle(t, j, accept(t, j, at(newEvent("b"), c.Now())), event.Rejected, event.Stale, c.Advance(time.Minute))
	end := r.SettledAt.Add(3 * time.Hour)
	sweep(t, j, end.Add(-time.Nanosecond))
	get(t, j, r.ID)
	sweep(t, j, end)
	_, _, err := j.Get(ctx, r.ID, false)
	wantErr(t, err, journal.ErrNotFound)
	get(t, j, rej.ID)
	if o := tryCommit(t, j, journal.Transition{Record: r}); o.Applied {
		t.Fatal("a record that is gone was changed")
	}
	counts, err := j.Counts(ctx)
	if err != nil || len(counts) != 1 || counts[0].State != event.Rejected || counts[0].N != 1 {
		t.Fatalf("%+v, %v", counts, err)
	}
	for j := range x.lives() {
		if l := list(t, j, journal.Query{}); len(l) != 1 || l[0].ID != rej.ID {
			t.Fatalf("%v", ids(l))
		}
	}
}

func markerOutlives(t *testing.T, f Factory) {
	c := newClock()
	ret := journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: 5 * time.Hour, DeadLetter: time.Hour}
	x := f(t, Config{Retention: ret, Now: c.Now})
	j := x.Journal
	a := at(newEvent("a"), c.Now())
	a.Record.BodySHA256[0] = 0xab
	r := settle(t, j, accept(t, j, a), event.Delivered, 0, c.Now())
	c.Advance(time.Hour)
	sweep(t, j, c.Now())
	for j := range x.lives() {
		left, _, err := j.Get(ctx, r.ID, false)
		wantErr(t, err, journal.ErrNotFound)
		if left.ID != r.ID || left.State != event.Delivered || left.BodySHA256[0] != 0xab || !left.ReceivedAt.Equal(r.ReceivedAt) || left.HasPayload {
			t.Fatalf("what is left: %+v", left)
		}
		if l := list(t, j, journal.Query{}); len(l) != 0 {
			t.Fatalf("%v", ids(l))
		}
		fate := lookup(t, j, keyOf("a"))
		if fate.ID != r.ID || fate.State != event.Delivered || fate.BodySHA256[0] != 0xab || !fate.ReceivedAt.Equal(r.ReceivedAt) {
			t.Fatalf("%+v", fate)
		}
		v := tryAccept(t, j, a)
		if v.Accepted || v.Record.ID != r.ID || v.Record.State != event.Delivered || v.Record.BodySHA256[0] != 0xab {
			t.Fatalf("%+v", v)
		}
	}
	j = x.Reopen()
	c.Advance(4 * time.Hour)
	sweep(t, j, c.Now())
	if lookup(t, j, keyOf("a")).Known() || lookup(t, j, a.Aliases[0]).Known() {
		t.Fatal("the marker is still there")
	}
	accept(t, j, at(newEvent("a"), c.Now()))
}

// The sender of an event that failed may send it again for as long as its id is known: the record must be there, to go on from.
func failedRecordStays(t *testing.T, f Factory) {
	c := newClock()
	x := f(t, Config{Retention: journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: 5 * time.Hour, DeadLetter: time.Hour}, Now: c.Now})
	r := settle(t, x.Journal, accept(t, x.Journal, at(newEvent("a"), c.Now())), event.Failed, event.Returned, c.Now())
	c.Advance(5*time.Hour - time.Nanosecond)
	sweep(t, x.Journal, c.Now())
	for j := range x.lives() {
		if got := get(t, j, r.ID); got.Reason != event.Returned || got.HasPayload { // that goes when its time has come
			t.Fatalf("%+v", got)
		}
	}
	c.Advance(time.Nanosecond)
	j := x.Reopen()
	sweep(t, j, c.Now())
	_, _, err := j.Get(ctx, r.ID, false)
	wantErr(t, err, journal.ErrNotFound)
	accept(t, j, at(newEvent("a"), c.Now()))
}

func deadLetterRetention(t *testing.T, f Factory) {
	c := newClock()
	var states []event.Reason
	x := f(t, Config{Retention: hours, Now: c.Now, Observer: func(_ event.State, _ event.Reason, r *event.Record) { states = append(states, r.Reason) }})
	j := x.Journal
	r := settle(t, j, accept(t, j, at(newEvent("a"), c.Now())), event.Failed, event.Exhausted, c.Now())
	end := c.Now().Add(10 * time.Hour)
	sweep(t, j, end.Add(-time.Nanosecond))
	if got, _, err := j.Get(ctx, r.ID, true); err != nil || got.Reason != event.Exhausted {
		t.Fatalf("%+v, %v", got, err)
	}
	if !lookup(t, j, keyOf("a")).Known() {
		t.Fatal("a dead letter was forgotten")
	}
	sweep(t, j, end)
	got, _, err := j.Get(ctx, r.ID, true)
	wantErr(t, err, journal.ErrNoPayload)
	if got.State != event.Failed || got.Reason != event.Expired || got.HasPayload || got.Rev == r.Rev || !got.SettledAt.Equal(end) {
		t.Fatalf("%+v", got)
	}
	if len(states) != 3 || states[2] != event.Expired {
		t.Fatalf("the observer saw %v", states)
	}
	j = x.Crash()
	c.Advance(10 * time.Hour)
	if lookup(t, j, keyOf("a")).Known() { // nobody can deliver it any more
		t.Fatal("an expired dead letter keeps its id from its sender")
	}
	sweep(t, j, end.Add(3*time.Hour-time.Nanosecond))
	get(t, j, r.ID)
	sweep(t, j, end.Add(3*time.Hour))
	_, _, err = j.Get(ctx, r.ID, false)
	wantErr(t, err, journal.ErrNotFound)
}

func pendingNeverExpires(t *testing.T, f Factory) {
	c := newClock()
	x := f(t, Config{Retention: hours, Now: c.Now})
	r := accept(t, x.Journal, at(newEvent("a"), c.Now()))
	for range 30 { // enough for every segment, log or partition to have gone by
		c.Advance(24 * time.Hour)
		settle(t, x.Journal, accept(t, x.Journal, at(newEvent(c.Now().String()), c.Now())), event.Delivered, 0, c.Now())
		sweep(t, x.Journal, c.Now())
	}
	for j := range x.lives() {
		got, p, err := j.Get(ctx, r.ID, true)
		if err != nil || got.State != event.Pending || string(p.Body) != "body of a" {
			t.Fatalf("%+v, %v", got, err)
		}
		if !lookup(t, j, keyOf("a")).Known() || tryAccept(t, j, newEvent("a")).Accepted {
			t.Fatal("forgotten")
		}
	}
}

func sweepBounded(t *testing.T, f Factory) {
	c := newClock()
	j := f(t, Config{Retention: hours, Now: c.Now}).Journal
	for i := range 50 {
		settle(t, j, accept(t, j, at(newEvent(name(i)), c.Now())), event.Delivered, 0, c.Now())
	}
	c.Advance(100 * time.Hour)
	left := 50
	for left > 0 {
		n, err := j.Sweep(ctx, c.Now(), 10)
		if err != nil {
			t.Fatal(err)
		}
		now := len(list(t, j, journal.Query{}))
		if left-now > 10 || n == 0 && now > 0 {
			t.Fatalf("Sweep says %d; records went from %d to %d", n, left, now)
		}
		left = now
	}
	sweep(t, j, c.Now())
}
