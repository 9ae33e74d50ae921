package embedded

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A sender repeats an event after the dedup window, so it is a new one. When the segment of the first goes, and what is kept of that is written again, the
// id stays with the second: whoever repeats it within the window sends a duplicate. So it is with an index that is rebuilt from what is left of the log.
func TestAnIDStaysWithItsNewestEventWhenTheFirstIsCarriedForward(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	o := Options{
		Dir: memDir(t), Sync: true, SegmentSize: 16 << 10,
		Retention: journal.Retention{Payload: 10 * time.Hour, Record: 200 * time.Hour, Dedup: 30 * time.Hour, DeadLetter: 200 * time.Hour},
		Now:       func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
	}
	e := start(t, o)
	ctx := context.Background()
	send := func(e *Engine, i int) journal.Verdict {
		t.Helper()
		a := sample(i)
		a.Record.ReceivedAt = e.opts.Now()
		return accept(t, e, journal.Written, a)
	}
	end := func(v journal.Verdict, st event.State, why event.Reason) event.ID {
		t.Helper()
		r := v.Record
		r.State, r.Reason, r.SettledAt = st, why, e.opts.Now()
		if out, err := e.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written); err != nil || !out[0].Applied {
			t.Fatal(out, err)
		}
		return r.ID
	}
	const repeated, refused = 100000, 100001
	var first, dead, second event.ID
	waiting := []journal.Verdict{send(e, repeated), send(e, refused)}
	for hour := range 46 {
		for i := range 20 {
			end(send(e, hour*100+i), event.Delivered, 0)
		}
		mu.Lock()
		now = now.Add(time.Hour)
		mu.Unlock()
		switch hour {
		case 2: // in another segment
			first, dead = end(waiting[0], event.Delivered, 0), end(waiting[1], event.Failed, event.Exhausted)
		case 31:
			second = end(send(e, repeated), event.Delivered, 0)
		}
		for n := 100; n == 100 && hour > 31; {
			var err error
			if n, err = e.Sweep(ctx, e.opts.Now(), 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	if oldest, _ := e.wal.oldest(); oldest.number < 10 || first == second {
		t.Fatalf("the oldest segment is still %d; first %s, second %s", oldest.number, first, second)
	}
	check := func(e *Engine) {
		t.Helper()
		for i, id := range map[int]event.ID{repeated: second, refused: dead} {
			if v := send(e, i); v.Accepted || v.Record.ID != id {
				t.Errorf("%d again: accepted %t, %s; want a duplicate of %s", i, v.Accepted, v.Record.ID, id)
			}
		}
	}
	o.Dir = copyDir(t, o.Dir) // as of a kill
	check(e)
	e.Close()
	if err := os.RemoveAll(filepath.Join(o.Dir, nameIndex)); err != nil {
		t.Fatal(err)
	}
	check(start(t, o))
}

// An event may be larger than a segment, and make the one that it is in larger than it was begun. When retention took that one away before another start, the journal
// looked for its frames where it was to end, called it damaged and failed.
func TestASegmentThatOneEventMadeLargerGoes(t *testing.T) {
	m := newMachine()
	o := m.options(memDir(t))
	o.SegmentSize = 16 << 10
	e := start(t, o)
	large := m.sample(1)
	large.Payload.Body = make([]byte, 2<<20)
	waiting := accept(t, e, journal.Synced, large).Record
	for n := range 8 {
		m.pass(24 * time.Hour)
		m.settle(t, e, accept(t, e, journal.Synced, m.sample(10+n)).Record, event.Delivered, 0)
		m.sweep(t, e)
	}
	if oldest, _ := e.wal.oldest(); oldest.number == 1 {
		t.Fatal("the oldest segment is still there")
	}
	if _, p, err := e.Get(context.Background(), waiting.ID, true); err != nil || len(p.Body) != 2<<20 {
		t.Fatalf("what waits has lost its bytes: %v", err)
	}
}

// Check and Export look at a journal in use while retention takes its oldest segments away: they found segments missing, or stopped where one was gone that they had just seen.
func TestSegmentsGoWhileTheyAreLookedAt(t *testing.T) {
	ctx := context.Background()
	m := newMachine()
	o := m.options(memDir(t))
	o.SegmentSize = 16 << 10
	e := start(t, o)
	deliver := func(from, n int) {
		for i := range n {
			m.settle(t, e, accept(t, e, journal.Synced, m.sample(from+i)).Record, event.Delivered, 0)
		}
	}
	deliver(0, 50)
	oldest := func() uint64 {
		s, _ := e.wal.oldest()
		return s.number
	}
	next, before := 1000, oldest()
	shrink := func() { // as much as fifty events are
		m.pass(100 * time.Hour)
		deliver(next, 20)
		m.sweep(t, e)
		next += 1000
	}
	gone := sync.OnceFunc(shrink)
	if r, err := Check(ctx, o.Dir, nil, func(int64, int64) { gone() }); err != nil || !r.Whole() || r.MissingEvents != 0 {
		t.Errorf("check: %+v %v", r, err)
	}
	gone = sync.OnceFunc(shrink)
	n := 0
	r, err := Export(ctx, o.Dir, nil, nil, func(x *Exported) error { gone(); n++; return x.Err })
	if err != nil || !r.Whole() || n < 20 {
		t.Errorf("export: %d events, %+v %v", n, r, err)
	}
	if oldest() == before {
		t.Error("no segment has gone")
	}
}
