package embedded

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// cpu is the processor time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// threadCPU is that of the calling thread.
func threadCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEvent is the life of an event in hybrid mode: Accept Written, Commit Synced, 64 at a time.
func BenchmarkEvent(b *testing.B) {
	e := start(b, Options{Sync: true})
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			v := accept(b, e, journal.Written, sample(int(n.Add(1))))
			deliver(b, e, journal.Synced, v.Record)
		}
	})
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/event")
	s := e.Stats()
	b.ReportMetric(float64(s.Items)/float64(max(s.Groups, 1)), "items/group")
	b.ReportMetric(float64(s.Items)/float64(max(s.Syncs, 1)), "items/sync")
}

// BenchmarkAccept and BenchmarkCommit are the two halves, one event at a time and not synced.
func BenchmarkAccept(b *testing.B) {
	e := start(b, Options{})
	a := sample(0)
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		binary.BigEndian.PutUint64(a.Keys[0][:], n)
		accept(b, e, journal.Written, a)
	}
}

func BenchmarkCommit(b *testing.B) {
	e := start(b, Options{})
	r := accept(b, e, journal.Written, sample(0)).Record
	b.ReportAllocs()
	for b.Loop() {
		r = deliver(b, e, journal.Synced, r)
	}
}

// BenchmarkBacklog is an attempt at an event that has waited long enough to be in the index: read it whole, begin, end.
func BenchmarkBacklog(b *testing.B) {
	const events = 20_000
	e := start(b, Options{})
	recs := make([]event.Record, events)
	for i := range recs {
		recs[i] = accept(b, e, journal.Written, sample(i)).Record
	}
	if err := e.settle(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := cpu()
	for i := 0; b.Loop(); i++ {
		r, _, err := e.Get(context.Background(), recs[i%events].ID, true)
		if err != nil {
			b.Fatal(err)
		}
		out, err := e.Commit(context.Background(), []journal.Transition{{Record: r}}, journal.Written)
		if err != nil || !out[0].Applied {
			b.Fatal(err, out)
		}
		deliver(b, e, journal.Written, out[0].Record)
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/event")
}

// BenchmarkList is a page of 100 out of listEvents records, by filters of which each finds its page in another way.
func BenchmarkList(b *testing.B) {
	e := start(b, Options{Sync: true})
	fillForLists(b, e)
	for _, c := range []struct {
		name string
		q    journal.Query
	}{
		{"newest", journal.Query{}},
		{"rare source", journal.Query{Source: "rare"}},
		{"rare resource", journal.Query{Resource: "in_777"}},
		{"sender's id", journal.Query{EventID: "evt_54321"}},
		{"rare state", journal.Query{States: []event.State{event.Failed}}},
		{"a minute", journal.Query{Since: listBegin.Add(time.Hour), Until: listBegin.Add(time.Hour + time.Minute)}},
		{"nothing", journal.Query{Type: "none"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := e.List(context.Background(), c.q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

const listEvents = 1_000_000

var listBegin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func fillForLists(b *testing.B, e *Engine) {
	batch := make([]journal.Accept, 0, 500)
	for i := range listEvents {
		a := sample(i)
		a.Payload = nil
		a.Record.State, a.Record.Reason = event.Delivered, 0
		a.Record.ReceivedAt = listBegin.Add(time.Duration(i) * 100 * time.Millisecond)
		a.Record.Resource = fmt.Sprintf("in_%d", i%5000)
		if i%7001 == 0 {
			a.Record.Source = "rare"
			a.Record.State, a.Record.Reason = event.Failed, event.Exhausted
		}
		if batch = append(batch, a); len(batch) == cap(batch) {
			if _, err := e.Accept(context.Background(), batch, journal.Written); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	if err := e.settle(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFlush is what the index costs: events that were accepted and delivered within one flush, flushEvents at a time, as under load, and
// all that Badger does in the background until it is closed; the making of the events is taken off.
func BenchmarkFlush(b *testing.B) {
	o, err := Options{Dir: b.TempDir(), Log: quiet}.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	ix, err := openIndex(o.Dir, &o)
	if err != nil {
		b.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, n := cpu(), 0
	for b.Loop() {
		b.StopTimer()
		before := threadCPU()
		l := deliveredLayer(b, n, flushEvents)
		n += flushEvents
		begin += threadCPU() - before
		b.StartTimer()
		s := ix.snapshot()
		if err := ix.flush(l, s, []byte("state")); err != nil {
			b.Fatal(err)
		}
		s.release()
	}
	if err := ix.close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(n), "cpu-ns/event")
}

const flushEvents = 6000

// deliveredLayer is a layer of delivered events.
func deliveredLayer(b *testing.B, from, n int) *layer {
	l := newLayer()
	for i := from + 1; i <= from+n; i++ {
		a := sample(i)
		r := a.Record
		r.State, r.Reason = event.Delivered, event.NoReason
		r.DeliveredAt, r.SettledAt, r.Attempts = time.Now(), time.Now(), 1
		it := &item{id: event.MakeID(r.ReceivedAt, event.Seq(i), uint16(i)), rev: uint64(2 * i), hasPayload: true, claimed: 1, keys: a.Keys,
			payload: payloadPos{1, int64(i) * 1500, 1200, 0xdeadbeef}, base: 1}
		if !it.setBody(appendRecord(nil, &r)) {
			b.Fatal("body")
		}
		it.addAttempt(appendAttempt(nil, &event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: time.Now(), Duration: time.Millisecond,
			Outcome: event.OutcomeDelivered, Status: 200, Excerpt: []byte("ok"), Upstream: "app"}))
		l.items[event.Seq(i)] = it
		l.keys[a.Keys[0]] = event.Seq(i)
	}
	return l
}
