package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
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

// threadCPU is that of the calling thread; 0 where the system does not say.
func threadCPU() time.Duration {
	const thread = 1 // RUSAGE_THREAD of getrusage(2), Linux
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEvent is the life of an event in hybrid mode: Accept Written, Commit Synced, 64 at a time.
func BenchmarkEvent(b *testing.B) {
	e := start(b, Options{Sync: true})
	var n atomic.Int64
	callers(b, e, func(pb *testing.PB) {
		for pb.Next() {
			v := accept(b, e, journal.Written, sample(int(n.Add(1))))
			deliver(b, e, journal.Synced, v.Record)
		}
	})
}

// callers runs body in 32 goroutines a processor.
func callers(b *testing.B, e *Engine, body func(*testing.PB)) {
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	before := cpu()
	b.RunParallel(body)
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/event")
	s := e.Stats()
	b.ReportMetric(float64(s.Items)/float64(max(s.Groups, 1)), "items/group")
	b.ReportMetric(float64(s.Items)/float64(max(s.Syncs, 1)), "items/sync")
}

// BenchmarkCallers is what the gateway asks of the journal at its bound: callers that share a context, each with Accept and then Commit of one event.
func BenchmarkCallers(b *testing.B) {
	for _, c := range []struct {
		name string
		sync bool
	}{{"written", false}, {"synced", true}} {
		b.Run(c.name, func(b *testing.B) {
			e := start(b, Options{Sync: c.sync})
			ctx := b.Context()
			var begun atomic.Uint64
			callers(b, e, func(pb *testing.PB) {
				x := newLife()
				for caller, n := begun.Add(1), uint64(1); pb.Next(); n++ {
					v, err := e.Accept(ctx, x.next(caller, n), journal.Written)
					if err != nil || !v[0].Accepted {
						b.Error(err, v)
						return
					}
					if out, err := e.Commit(context.Background(), x.delivered(&v[0].Record), journal.Synced); err != nil || !out[0].Applied {
						b.Error(err, out)
						return
					}
				}
			})
		})
	}
}

// life is what a caller gives the journal, made without allocation.
type life struct {
	accept [1]journal.Accept
	commit [1]journal.Transition
	try    event.Attempt
}

func newLife() *life {
	x := &life{accept: [1]journal.Accept{sample(0)}, try: event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: time.Now(), Duration: time.Millisecond,
		Outcome: event.OutcomeDelivered, Status: 200, Excerpt: []byte("ok"), Upstream: "app"}}
	x.commit[0].Attempt = &x.try
	return x
}

func (x *life) next(caller, n uint64) []journal.Accept {
	key := x.accept[0].Keys[0][:]
	binary.LittleEndian.PutUint64(key, n)
	binary.LittleEndian.PutUint64(key[8:], caller)
	sum := sha256.Sum256(key) // keys are hashes
	copy(key, sum[:])
	return x.accept[:]
}

func (x *life) delivered(accepted *event.Record) []journal.Transition {
	r := &x.commit[0].Record
	*r = *accepted
	r.State, r.Reason = event.Delivered, event.NoReason
	r.DeliveredAt, r.SettledAt, r.Attempts = r.ReceivedAt, r.ReceivedAt, 1
	return x.commit[:]
}

// BenchmarkGroup is the work of callers and writer alone, one goroutine for all: groupEvents are accepted as one group and delivered as the next.
func BenchmarkGroup(b *testing.B) {
	e, err := Open(Options{Dir: memDir(b), AllowTmpfs: true, Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go e.wal.prepare(stop)
	e.writer = newWriter(e)
	x := newLife()
	var ops [groupEvents]*op
	var recs [groupEvents]event.Record
	group := func() {
		if syncs, _ := e.writer.group(ops[:], nil, nil); syncs {
			b.Fatal("an fsync is asked for")
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	n, before := uint64(0), threadCPU()
	for b.Loop() {
		for i := range ops {
			n++
			ops[i] = e.newOp(journal.Written)
			if err := e.prepareAccepts(ops[i], x.next(0, n)); err != nil {
				b.Fatal(err)
			}
		}
		group()
		for i, o := range ops {
			<-o.done
			recs[i] = o.verdicts[0].Record
			e.free(o)
			ops[i] = e.newOp(journal.Written)
			if err := e.prepareCommits(ops[i], x.delivered(&recs[i])); err != nil {
				b.Fatal(err)
			}
		}
		group()
		for _, o := range ops {
			<-o.done
			if !o.outcomes[0].Applied {
				b.Fatal("not applied")
			}
			e.free(o)
		}
		if len(e.active.items) >= flushEvents {
			e.active.clear()
		}
	}
	b.ReportMetric(float64((threadCPU()-before).Nanoseconds())/float64(n), "cpu-ns/event")
}

const groupEvents = 32

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

// deliveredLayer is a layer of delivered events, with what is different in each, as it is in real ones: it is the most of what a leaf takes.
func deliveredLayer(b *testing.B, from, n int) *layer {
	l := newLayer()
	for i := from + 1; i <= from+n; i++ {
		a := sample(i)
		r := a.Record
		r.State, r.Reason = event.Delivered, event.NoReason
		r.SettledAt, r.Attempts = time.Now(), 1
		r.DeliveredAt = r.SettledAt
		r.BodySHA256 = sha256.Sum256([]byte(r.EventID))
		r.EventID = fmt.Sprintf("evt_%x", r.BodySHA256[:10])
		r.LastStatus, r.LastAttemptAt, r.SignedAt = 200, r.ReceivedAt, r.ReceivedAt.Truncate(time.Second)
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
