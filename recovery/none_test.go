package recovery

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal/journaltest"
	"github.com/hooktender/hooktender/ordering"
)

// unordered is a source with `ordering: none` in front of a consumer that answers 200, its journal in memory.
func unordered(t testing.TB) *Source {
	t.Helper()
	var r *Recovery
	m := journaltest.OpenModel(nil, journaltest.ModelOptions{Config: journaltest.Config{Observer: func(old event.State, why event.Reason, rec *event.Record) { r.Observe(old, why, rec) }}})
	r = New(Options{Journal: m, Forward: forward.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			for in := bufio.NewReader(there); ; {
				req, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				if _, err := io.WriteString(there, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
					return
				}
			}
		}()
		return here, nil
	}}})
	app := forward.Default()
	app.URL = "http://consumer"
	s := SourceConfig{Name: "s", Delivery: DefaultDelivery(), Ordering: ordering.Default(), Pending: 1000, Held: 1000, Resources: 1000, Binds: "body"}
	s.Delivery.Upstream = "app"
	if err := r.Apply(Config{Upstreams: map[string]forward.Config{"app": app}, Sources: []SourceConfig{s}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return r.Source("s")
}

// unorderedSteps is everything that ordering does on the way of an event of a source with the policy none: it asks whether there is a lane, whether to note what
// would have been done, holds no cursor, moves none, and has no lane to leave.
func unorderedSteps(s *Source, f *flight) error {
	c := s.cfg.Load()
	if laned(c.policy, &f.rec) {
		return io.ErrUnexpectedEOF
	}
	if err := s.note(context.Background(), c, &f.rec); err != nil {
		return err
	}
	release := f.holdCursor()
	if f.cursor(&f.rec) != nil {
		return io.ErrUnexpectedEOF
	}
	release()
	f.land(&f.rec)
	return nil
}

func unorderedFlight(s *Source) *flight {
	return &flight{src: s, cfg: s.cfg.Load(), rec: event.Record{Source: "s", EventID: "evt_1", Type: "invoice.paid", Resource: "in_42", Version: "7", State: event.Delivered}}
}

func BenchmarkUnordered(b *testing.B) {
	s := unordered(b)
	f := unorderedFlight(s)
	b.ReportAllocs()
	for b.Loop() {
		if err := unorderedSteps(s, f); err != nil {
			b.Fatal(err)
		}
	}
}

// `ordering: none` costs nothing: all that the room does for an event allocates nothing, and takes at most 2 % of the CPU that the event takes from its acceptance
// to its end, on a journal without files and a consumer without a network, in the same run.
func TestNoOrderCostsNothing(t *testing.T) {
	s := unordered(t)
	f := unorderedFlight(s)
	if n := testing.AllocsPerRun(1000, func() {
		if err := unorderedSteps(s, f); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
	const events = 500
	room, whole := 0.0, 0.0
	for round := range 3 { // the least of each: what else runs here only adds
		room = least(room, cpuOf(100*events, func(int) {
			if err := unorderedSteps(s, f); err != nil {
				t.Fatal(err)
			}
		}))
		whole = least(whole, cpuOf(events, func(i int) {
			id := strconv.Itoa(round*events + i)
			h, err := s.Deliver(context.Background(), &Submission{
				Record:  event.Record{Source: "s", EventID: id, Type: "invoice.paid", Resource: "in_42", Version: "7", Verified: true, ReceivedAt: time.Now(), HasPayload: true},
				Payload: &event.Payload{Method: "POST", Target: []byte("/s"), Head: event.Head("Content-Type: application/json\r\n"), Body: []byte("{}"), Peer: "127.0.0.1"},
				Keys:    []event.Key{event.MakeKey(event.KeyEvent, "s", "", id)},
			})
			if err != nil || h.Outcome != Delivered {
				t.Fatal(h.Outcome, err)
			}
		}))
	}
	t.Logf("ordering: none: %.0f ns of CPU an event, %.2f %% of %.1f µs", room, room/whole*100, whole/1e3)
	if room > 0.02*whole {
		t.Errorf("it takes %.0f ns, more than 2 %% of %.0f", room, whole)
	}
}

func least(a, b float64) float64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// cpuOf is the CPU time of the process, in nanoseconds, that one of n calls takes.
func cpuOf(n int, f func(i int)) float64 {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	for i := range n {
		f(i)
	}
	return float64(used()-before) / float64(n)
}
