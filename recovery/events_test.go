package recovery

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

func numbered(n int) (id event.ID) {
	binary.BigEndian.PutUint64(id[6:14], uint64(n))
	return id
}

// Events leave in order of their time, those of one time in the order in which they were accepted, however they came.
func TestEventsLeaveInOrder(t *testing.T) {
	var e events
	var want []timed
	for i := range 5000 {
		x := timed{rand.Int64N(50), numbered(i)}
		want = append(want, x)
		e.push(x)
		if i%3 == 2 {
			i := slices.Index(want, e.pop())
			if slices.ContainsFunc(want, func(x timed) bool {
				return x.due < want[i].due || x.due == want[i].due && x.id.Seq() < want[i].id.Seq()
			}) {
				t.Fatalf("%v left before an earlier one", want[i])
			}
			want = slices.Delete(want, i, i+1)
		}
	}
	e.hurry(20)
	for i := range want {
		want[i].due = min(want[i].due, 20)
	}
	slices.SortFunc(want, func(a, b timed) int {
		if a.due != b.due {
			return int(a.due - b.due)
		}
		return int(a.id.Seq()) - int(b.id.Seq())
	})
	for _, x := range want {
		if got := e.pop(); got != x {
			t.Fatalf("%v, want %v", got, x)
		}
	}
	if cap(e) > 4*fewEvents {
		t.Errorf("room for %d events is kept", cap(e))
	}
}

// many is a journal in which n events wait, as Load reads it.
type many struct {
	journal.Journal
	n int
}

func (m many) MetaGet(context.Context, string) ([]byte, error)                   { return nil, nil }
func (m many) MetaPut(context.Context, string, []byte, journal.Durability) error { return nil }
func (m many) MetaList(context.Context, string) ([]journal.MetaEntry, error)     { return nil, nil }
func (m many) Counts(context.Context) ([]journal.Count, error) {
	return []journal.Count{{Source: "s", State: event.Pending, Reason: event.Queued, N: int64(m.n)}}, nil
}

func (m many) Pending(_ context.Context, fn func([]event.Record) error) error {
	page := make([]event.Record, 1000)
	for from := 0; from < m.n; from += len(page) {
		text := string(make([]byte, 200*len(page)))
		for i := range page {
			page[i] = event.Record{ID: numbered(from + i), Source: "s", EventID: text[200*i : 200*i+20], Resource: text[200*i+20 : 200*i+40], State: event.Pending, Reason: event.Queued}
		}
		if err := fn(page); err != nil {
			return err
		}
	}
	return nil
}

// TestWhatWaitsTakesLittle: a million events may wait. In the schedule each takes 24 bytes, with some room to spare, of which a garbage collection looks through nothing.
func TestWhatWaitsTakesLittle(t *testing.T) {
	const n = 200_000
	r := New(Options{Journal: many{n: n}})
	app := forward.Default()
	app.URL = "http://consumer"
	s := SourceConfig{Name: "s", Delivery: DefaultDelivery(), Ordering: ordering.Default(), Pending: n, Held: n, Resources: n}
	s.Delivery.Upstream = "app"
	if err := r.Apply(Config{Upstreams: map[string]forward.Config{"app": app}, Sources: []SourceConfig{s}}); err != nil {
		t.Fatal(err)
	}
	read := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"}}
	look := func() (live, scan float64) {
		runtime.GC()
		metrics.Read(read)
		return float64(read[0].Value.Uint64()), float64(read[1].Value.Uint64())
	}
	live, scan := look()
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	live2, scan2 := look()
	if got := len(r.Source("s").events); got != n || r.Source("s").pending.Load() != n {
		t.Fatalf("%d events are in the schedule", got)
	}
	t.Logf("%.1f bytes an event, %.2f of them with pointers", (live2-live)/n, (scan2-scan)/n)
	if (live2-live)/n > 30 || (scan2-scan)/n > 1 {
		t.Errorf("an event takes %.1f bytes, of which %.2f are looked through", (live2-live)/n, (scan2-scan)/n)
	}
	runtime.KeepAlive(r)
}

// What is due takes its place in the line by share: a source's backlog does not hold up another's, and all of it has its turn, oldest first.
func TestSourcesShareTheLine(t *testing.T) {
	r := New(Options{})
	u := &upstream{r: r, kick: make(chan struct{}, 1)}
	a, b := &Source{r: r, name: "a"}, &Source{r: r, name: "b"}
	u.sources = []*Source{a, b}
	for i := range 3 * share {
		a.events.push(timed{0, numbered(i)})
	}
	b.events.push(timed{0, numbered(1)})
	b.events.push(timed{time.Now().Add(time.Hour).UnixNano(), numbered(2)})
	due := line{shares: map[*Source]int{}}
	next, more := u.collect(&due, time.Now())
	if due.len() != share+1 || !more || time.Until(next).Round(time.Minute) != time.Hour {
		t.Fatalf("%d in the line, more: %t, next %s", due.len(), more, next)
	}
	seen := 0
	for due.len() > 0 {
		if x := due.first(); x.src == a {
			if x.id != numbered(seen) {
				t.Fatalf("event %d comes after %d others", x.id.Seq(), seen)
			}
			seen++
		} else if seen != share {
			t.Errorf("the other source's event comes after %d", seen)
		}
		due.take()
		if due.len() == 0 {
			_, more = u.collect(&due, time.Now())
		}
	}
	if seen != 3*share || more || len(b.events) != 1 {
		t.Errorf("%d events had their turn, more: %t", seen, more)
	}
}
