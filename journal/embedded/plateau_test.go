package embedded

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/memory"
)

var passing = flag.Int("events", 20_000, "events that pass through TestDiskUseReachesAPlateau, in 35 days of fake time; 5,000,000 is the figure of docs/guarantees.md")

// Events pass through for 35 days, with a week of retention: what is on the disk and in memory stops growing.
func TestDiskUseReachesAPlateau(t *testing.T) {
	const days, batch = 35, 100
	dir := memDir(t)
	if *passing > 100_000 {
		dir = t.TempDir()
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		go memory.Keep(ctx, defaultMemory) // as a gateway does
	}
	var most atomic.Int64 // resident since the last day, looked up ten times a second
	watch(t, &most)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	segment := int64(defaultSegment)
	if *passing < 1_000_000 {
		segment = 256 << 10
	}
	e := start(t, Options{Dir: dir, AllowTmpfs: true, SegmentSize: segment, Log: quiet, Now: func() time.Time { return at }})
	ctx := context.Background()
	step := days * 24 * time.Hour / time.Duration(max(*passing/batch, 1))
	var log, all [days + 1]int64
	var resident [days + 1]int64
	day, n := 0, 0
	swept := at
	for began := at; day < days; {
		as := make([]journal.Accept, batch)
		for i := range as {
			as[i] = sample(n)
			as[i].Record.ReceivedAt = at
			as[i].Payload.Body = as[i].Payload.Body[:300]
			n++
		}
		vs, err := e.Accept(ctx, as, journal.Written)
		must(t, err)
		ts := make([]journal.Transition, 0, batch)
		for i, v := range vs {
			if (n+i)%1000 == 0 {
				continue // never delivered: stays for ever
			}
			r := v.Record
			r.State, r.Reason, r.SettledAt, r.DeliveredAt, r.Attempts = event.Delivered, 0, at, at, 1
			ts = append(ts, journal.Transition{Record: r, Attempt: &event.Attempt{N: 1, StartedAt: at, Outcome: event.OutcomeDelivered, Status: 200, Upstream: "app"}})
		}
		_, err = e.Commit(ctx, ts, journal.Written)
		must(t, err)
		at = at.Add(step)
		if at.Sub(swept) >= time.Hour {
			for swept = at; ; {
				n, err := e.Sweep(ctx, at, 1000)
				must(t, err)
				if n < 1000 {
					break
				}
			}
		}
		if d := int(at.Sub(began) / (24 * time.Hour)); d > day {
			day = d
			log[day], all[day] = usage(t, filepath.Join(dir, nameLog)), usage(t, dir)
			resident[day] = max(most.Swap(0), rss(t))
			if *passing > 100_000 {
				fmt.Printf("day %2d: %8d events, log %4d MiB, all %4d MiB, up to %4d MiB resident\n", day, n, log[day]>>20, all[day]>>20, resident[day]>>20)
				if resident[day] > 200<<20 {
					t.Errorf("day %d: up to %d MiB are resident", day, resident[day]>>20)
				}
			}
		}
	}
	grows := func(what string, use [days + 1]int64, slack int64) {
		early, late := use[15], use[days] // a week of retention, and as much again for what lags behind
		if late > early+early/4+slack {
			t.Errorf("%s grows: %d KiB after 15 days, %d KiB after %d", what, early>>10, late>>10, days)
		}
	}
	grows("the log", log, 4<<20)
	grows("everything", all, 64<<20) // the index allocates its memory tables ahead
}

// watch keeps the most that is resident in most, until the test ends.
func watch(t *testing.T, most *atomic.Int64) {
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if n := rss(t); n > most.Load() {
				most.Store(n)
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
}

// usage is what a directory occupies on the disk.
func usage(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // retention takes files away meanwhile
		}
		var st syscall.Stat_t
		if syscall.Stat(path, &st) == nil {
			n += st.Blocks * 512
		}
		return nil
	}))
	return n
}

func rss(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscanf(text, "%d", &n)
		}
	}
	return n << 10
}

// TestSweepGoesOnWhereItEnded: beside an old event that still waits, retention takes a little at a time and leaves nothing out.
func TestSweepGoesOnWhereItEnded(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := start(t, Options{Dir: memDir(t), AllowTmpfs: true, Now: func() time.Time { return at }})
	ctx := context.Background()
	const events = 35
	for i := range events {
		a := sample(i)
		a.Record.ReceivedAt = at
		v := accept(t, e, journal.Written, a)
		if r := v.Record; i > 0 { // the first one waits for ever
			r.State, r.Reason, r.SettledAt, r.DeliveredAt = event.Delivered, 0, at, at
			_, err := e.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written)
			must(t, err)
		}
	}
	at = at.Add(40 * 24 * time.Hour)
	for _, want := range []int{10, 10, 10, 4, 0, 0} {
		n, err := e.Sweep(ctx, at, 10)
		must(t, err)
		if n != want {
			t.Fatalf("a sweep took %d, not %d", n, want)
		}
	}
	page, err := e.List(ctx, journal.Query{})
	must(t, err)
	if len(page.Records) != 1 || page.Records[0].EventID != "evt_0" {
		t.Fatal(page.Records)
	}
}

// Events come for days while an old one stays pending. A sweep does not look again at what it has left, and still everything goes when its time has
// come: records by when they ended, the old one too, the dead letter after its own retention.
func TestSweepTakesEverythingInTime(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	kept := journal.Retention{Payload: 2 * day, Record: 4 * day, Dedup: 6 * day, DeadLetter: 20 * day}
	e := start(t, Options{Dir: memDir(t), AllowTmpfs: true, Now: func() time.Time { return at }, Retention: kept})
	ctx := context.Background()
	end := func(r event.Record, st event.State, why event.Reason) {
		r.State, r.Reason, r.SettledAt = st, why, at
		out, err := e.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written)
		must(t, err)
		if !out[0].Applied {
			t.Fatal("not applied")
		}
	}
	accepted := func(i int) event.Record {
		a := sample(i)
		a.Record.ReceivedAt = at
		return accept(t, e, journal.Written, a).Record
	}
	pending, dead := accepted(0), accepted(1)
	end(dead, event.Failed, event.Permanent)
	begun, skipped := at, 0
	type ended struct {
		id event.ID
		at time.Time
	}
	var all []ended
	const steps = 24 * 12 // an hour each
	for i := range steps {
		if r := accepted(2 + i); i%3 != 0 {
			end(r, event.Delivered, 0)
			all = append(all, ended{r.ID, at})
		} else { // ends a day later
			all = append(all, ended{id: r.ID})
		}
		if i >= 24 && (i-24)%3 == 0 {
			r, _, err := e.Get(ctx, all[i-24].id, false)
			must(t, err)
			end(r, event.Delivered, 0)
			all[i-24].at = at
		}
		if i == steps/2 {
			r, _, err := e.Get(ctx, pending.ID, false)
			must(t, err)
			end(r, event.Delivered, 0)
		}
		at = at.Add(time.Hour)
		for {
			n, err := e.Sweep(ctx, at, 7)
			must(t, err)
			if n < 7 {
				break
			}
		}
		if e.sweeper.walked > e.sweeper.low+20 {
			skipped++
		}
		for j, x := range all {
			if x.at.IsZero() {
				continue
			}
			_, _, err := e.Get(ctx, x.id, false)
			age, gone := at.Sub(x.at), errors.Is(err, journal.ErrNotFound)
			if gone && age < kept.Record || !gone && age > kept.Record+kept.Record/walkAnew {
				t.Fatalf("step %d: event %d, ended %s ago: %v", i, j, age, err)
			}
		}
	}
	if skipped < steps/4 {
		t.Errorf("a walk began behind what was left before in %d of %d steps", skipped, steps)
	}
	at = begun.Add(kept.DeadLetter + kept.DeadLetter/walkAnew)
	_, err := e.Sweep(ctx, at, 1000)
	must(t, err)
	if r, _, err := e.Get(ctx, dead.ID, false); err != nil || r.Reason != event.Expired {
		t.Errorf("the dead letter after its retention: %v %v", r.Reason, err)
	}
	at = at.Add(kept.Dedup + kept.Record)
	for range 10 {
		_, err := e.Sweep(ctx, at, 1000)
		must(t, err)
	}
	waiting := 0
	for _, x := range all {
		if x.at.IsZero() {
			waiting++
		}
	}
	fates, err := e.Lookup(ctx, sample(0).Keys)
	must(t, err)
	if fates[0].Known() {
		t.Errorf("what was pending for so long is still known: %+v", fates[0])
	}
	v, err := e.view()
	must(t, err)
	defer v.release()
	left := 0
	must(t, v.snap.eachRecord(func(event.Seq, []byte) error { left++; return nil }))
	if left != waiting {
		t.Errorf("the index still holds %d events, %d are pending", left, waiting)
	}
}
