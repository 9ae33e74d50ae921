package recovery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/recovery"
)

// busy is a journal in which something new is written all the time, so that a list of all there is waits for an fsync; one event of each source is pending.
type busy struct {
	journal.Journal
	sources int
	rev     uint64
	indexed uint64
}

func (b *busy) MetaGet(context.Context, string) ([]byte, error)                   { return nil, nil }
func (b *busy) MetaPut(context.Context, string, []byte, journal.Durability) error { return nil }
func (b *busy) Stats() journal.Stats                                              { return journal.Stats{LastRev: b.rev} }

func (b *busy) Counts(context.Context) ([]journal.Count, error) {
	var out []journal.Count
	for i := range b.sources {
		out = append(out, journal.Count{Source: fmt.Sprint("s", i), State: event.Pending, Reason: event.Queued, N: 1})
	}
	return out, nil
}

func (b *busy) List(ctx context.Context, q journal.Query) (journal.Page, error) {
	b.rev++
	if q.AsOf == 0 || q.AsOf > b.indexed {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return journal.Page{}, ctx.Err()
		}
		b.indexed = b.rev
	}
	return journal.Page{Records: []event.Record{{Source: q.Source, State: event.Pending, ReceivedAt: time.Now()}}}, nil
}

// TestManySourcesWaitForTheIndexOnce: with something pending in each of 200 sources, as in an outage, the gauges waited for an fsync for each of them, were not there within the second that they have, and left /metrics.
func TestManySourcesWaitForTheIndexOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		r := recovery.New(recovery.Options{Journal: &busy{sources: n, rev: 1}})
		app := forward.Default()
		app.URL = "http://consumer"
		c := recovery.Config{Upstreams: map[string]forward.Config{"app": app}}
		for i := range n {
			s := recovery.SourceConfig{Name: fmt.Sprint("s", i), Delivery: recovery.DefaultDelivery(), Ordering: ordering.Default()}
			s.Delivery.Upstream = "app"
			c.Sources = append(c.Sources, s)
		}
		if err := r.Apply(c); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sources, err := r.Sources(ctx)
		if err != nil || len(sources) != n || sources[n-1].OldestPendingAt.IsZero() {
			t.Fatal(len(sources), err)
		}
	})
}

// twoWriters is a journal that keeps one value; who writes it first hears of it after the second, where that comes meanwhile.
type twoWriters struct {
	busy
	mu     sync.Mutex
	value  []byte
	puts   int
	second chan struct{}
}

func (w *twoWriters) MetaPut(_ context.Context, _ string, value []byte, _ journal.Durability) error {
	w.mu.Lock()
	w.value = value
	w.puts++
	first := w.puts == 1
	w.mu.Unlock()
	if !first {
		close(w.second)
		return nil
	}
	select {
	case <-w.second:
		time.Sleep(10 * time.Millisecond) // the second is told before
	case <-time.After(200 * time.Millisecond):
	}
	return nil
}

// Of a pause and a resume at the same moment the journal could keep one and the gateway do the other: what was shown as paused ran on after a restart.
func TestPauseAndResumeAtOnceAgreeWithTheJournal(t *testing.T) {
	j := &twoWriters{second: make(chan struct{})}
	r := recovery.New(recovery.Options{Journal: j})
	app := forward.Default()
	app.URL = "http://consumer"
	s := recovery.SourceConfig{Name: "s", Delivery: recovery.DefaultDelivery(), Ordering: ordering.Default()}
	s.Delivery.Upstream = "app"
	if err := r.Apply(recovery.Config{Upstreams: map[string]forward.Config{"app": app}, Sources: []recovery.SourceConfig{s}}); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for _, paused := range []bool{true, false} {
		both.Go(func() {
			if _, err := r.SetPaused(t.Context(), "s", paused); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	sources, err := r.Sources(t.Context())
	if err != nil || sources[0].Paused != (j.value != nil) {
		t.Errorf("paused: %v, the journal keeps %q (%v)", sources[0].Paused, j.value, err)
	}
}
