package embedded

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
