package journaltest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

func oneAcceptedPerKey(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	const workers, events = 64, 50
	var accepted [events]atomic.Int64
	var winner [events]atomic.Pointer[event.ID]
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range events {
				n := (i + w) % events
				d := journal.Written
				if w%2 == 0 {
					d = journal.Synced
				}
				v, err := j.Accept(ctx, []journal.Accept{newEvent(name(n))}, d)
				if err != nil {
					t.Error(err)
					return
				}
				if v[0].Accepted {
					accepted[n].Add(1)
				}
				id := v[0].Record.ID
				if old := winner[n].Swap(&id); old != nil && *old != id {
					t.Errorf("event %d has ids %v and %v", n, *old, id)
				}
			}
		})
	}
	wg.Wait()
	for n := range accepted {
		if got := accepted[n].Load(); got != 1 {
			t.Errorf("event %d was accepted %d times", n, got)
		}
	}
	if all := list(t, j, journal.Query{}); len(all) != events {
		t.Errorf("%d records of %d events", len(all), events)
	}
}

func duplicateIsAsDurable(t *testing.T, f Factory) {
	x := f(t, Config{})
	if x.HoldSync == nil {
		t.Skip("no way to hold the disk back")
	}
	j := x.Journal
	release := x.HoldSync()
	accept(t, j, newEvent("a")) // Written: does not wait
	if v := tryAccept(t, j, newEvent("a")); v.Accepted {
		t.Fatal("a duplicate was accepted")
	}
	done := make(chan journal.Verdict, 1)
	go func() {
		v, err := j.Accept(ctx, []journal.Accept{newEvent("a")}, journal.Synced)
		if err != nil {
			t.Error(err)
			close(done)
			return
		}
		done <- v[0]
	}()
	select {
	case v := <-done:
		t.Fatalf("a Synced duplicate was answered before its original was synced: %+v", v)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if v := <-done; v.Accepted || v.Key != 0 {
		t.Fatalf("%+v", v)
	}
}

func barrierWaits(t *testing.T, f Factory) {
	x := f(t, Config{})
	if x.HoldSync == nil {
		t.Skip("no way to hold the disk back")
	}
	release := x.HoldSync()
	accept(t, x.Journal, newEvent("a"))
	if _, err := x.Journal.Commit(ctx, nil, journal.Written); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := x.Journal.Commit(ctx, nil, journal.Synced)
		done <- err
	}()
	select {
	case <-done:
		t.Fatal("an empty Synced commit returned before the disk had what was written")
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func keysTogether(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	mac := event.MakeKey(event.KeyMAC, "stripe", "mac-1")
	a := newEvent("a")
	a.Keys = append(a.Keys, mac)
	first := accept(t, j, a)

	b := newEvent("b") // another id, the same MAC: a replayed request
	b.Keys = append(b.Keys, mac)
	v := tryAccept(t, j, b)
	if v.Accepted || v.Key != 1 || v.Record.ID != first.ID {
		t.Fatalf("%+v", v)
	}
	if lookup(t, j, keyOf("b")).Known() {
		t.Fatal("the refused event left a claim")
	}
	accept(t, j, newEvent("b"))
}

func batchTwice(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	v, err := j.Accept(ctx, []journal.Accept{newEvent("a"), newEvent("b"), newEvent("a")}, journal.Synced)
	if err != nil {
		t.Fatal(err)
	}
	if !v[0].Accepted || !v[1].Accepted || v[2].Accepted || v[2].Record.ID != v[0].Record.ID {
		t.Fatalf("%+v", v)
	}
	if v[1].Record.Seq != v[0].Record.Seq+1 {
		t.Fatalf("numbers %d and %d", v[0].Record.Seq, v[1].Record.Seq)
	}
}

func aliasTakenOver(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	alias := event.MakeKey(event.KeyAlias, "stripe", "same")
	a, b := newEvent("a"), newEvent("b")
	a.Aliases, b.Aliases = []event.Key{alias}, []event.Key{alias}
	first := accept(t, j, a)
	if got := lookup(t, j, alias).ID; got != first.ID {
		t.Fatalf("alias finds %v, want %v", got, first.ID)
	}
	second := accept(t, j, b)
	if got := lookup(t, j, alias).ID; got != second.ID {
		t.Fatalf("alias finds %v, want the later %v", got, second.ID)
	}
}

func acceptCopies(t *testing.T, f Factory) {
	j := f(t, Config{}).Journal
	a := newEvent("a")
	want := string(a.Payload.Body)
	r := accept(t, j, a)
	clear(a.Payload.Body)
	clear(a.Keys)
	_, p, err := j.Get(ctx, r.ID, true)
	if err != nil || string(p.Body) != want {
		t.Fatalf("body %q, %v; want %q", p.Body, err, want)
	}
	if !lookup(t, j, keyOf("a")).Known() {
		t.Fatal("the key is not known")
	}
}

func dedupWindow(t *testing.T, f Factory) {
	c := newClock()
	ret := journal.Retention{Dedup: time.Hour, Payload: time.Hour, Record: 1000 * time.Hour, DeadLetter: 1000 * time.Hour}
	j := f(t, Config{Retention: ret, Now: c.Now}).Journal
	delivered := settle(t, j, accept(t, j, at(newEvent("delivered"), c.Now())), event.Delivered, 0, c.Now())
	accept(t, j, at(newEvent("pending"), c.Now()))
	settle(t, j, accept(t, j, at(newEvent("dead"), c.Now())), event.Failed, event.Exhausted, c.Now())

	c.Advance(time.Hour - time.Nanosecond)
	if got := lookup(t, j, keyOf("delivered")); got.ID != delivered.ID || got.State != event.Delivered {
		t.Fatalf("within the window: %+v", got)
	}
	c.Advance(time.Nanosecond)
	if lookup(t, j, keyOf("delivered")).Known() {
		t.Fatal("known after the window")
	}
	for _, open := range []string{"pending", "dead"} {
		if !lookup(t, j, keyOf(open)).Known() || tryAccept(t, j, at(newEvent(open), c.Now())).Accepted {
			t.Fatalf("the %s event was forgotten", open)
		}
	}
	second := accept(t, j, at(newEvent("delivered"), c.Now()))
	if second.ID == delivered.ID || lookup(t, j, keyOf("delivered")).ID != second.ID {
		t.Fatal("the second event did not take the key over")
	}
	c.Advance(2000 * time.Hour)
	sweep(t, j, c.Now())
	if _, _, err := j.Get(ctx, delivered.ID, false); err == nil {
		t.Fatal("the first record is still there")
	}
	if got := lookup(t, j, keyOf("delivered")).ID; got != second.ID {
		t.Fatalf("forgetting the first event took the key of the second: %v", got)
	}
}

func fullRefuses(t *testing.T, f Factory) {
	var full atomic.Bool
	j := f(t, Config{Full: full.Load}).Journal
	r := accept(t, j, newEvent("a"))
	full.Store(true)
	const patience = 30 * time.Second
	var err error
	for i, end := 0, time.Now().Add(patience); err == nil && time.Now().Before(end); i++ { // the engine may look only now and then
		_, err = j.Accept(ctx, []journal.Accept{newEvent("b" + name(i))}, journal.Written)
	}
	wantErr(t, err, journal.ErrFull)
	before := len(list(t, j, journal.Query{}))
	if _, err := j.Accept(ctx, []journal.Accept{newEvent("a"), newEvent("new")}, journal.Written); err == nil {
		t.Fatal("a batch with a new event was accepted")
	}
	if got := len(list(t, j, journal.Query{})); got != before || lookup(t, j, keyOf("new")).Known() {
		t.Fatal("a refused event left something")
	}
	if v := tryAccept(t, j, newEvent("a")); v.Accepted {
		t.Fatal("accepted twice")
	}
	settle(t, j, r, event.Delivered, 0, r.ReceivedAt)
	full.Store(false)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err = j.Accept(ctx, []journal.Accept{newEvent("new")}, journal.Written); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}
