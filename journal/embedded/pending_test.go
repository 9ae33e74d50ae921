package embedded

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// waitingEvents fills a journal with n events, of which those for which settled says true are delivered at once. It gives the others, all of them in the index.
func waitingEvents(t testing.TB, e *Engine, n int, settled func(i int) bool) (waiting []event.Record) {
	t.Helper()
	const batch = 500
	for from := 0; from < n; from += batch {
		evs := make([]journal.Accept, min(batch, n-from))
		for i := range evs {
			a := sample(from + i)
			a.Payload, a.Record.HasPayload, a.Record.Reason = nil, false, event.Queued
			if settled(from + i) {
				a.Record.State, a.Record.Reason, a.Record.SettledAt = event.Delivered, event.NoReason, time.Now()
			}
			evs[i] = a
		}
		vs, err := e.Accept(context.Background(), evs, journal.Written)
		if err != nil {
			t.Fatal(err)
		}
		for i := range vs {
			if vs[i].Record.State == event.Pending {
				r, _, err := e.Get(context.Background(), vs[i].Record.ID, false)
				if err != nil {
					t.Fatal(err)
				}
				waiting = append(waiting, r)
			}
		}
	}
	return waiting
}

// What waits is given whole, once and in order, whatever lies between: nothing, a few others, or very many.
func TestPendingGivesAllThatWait(t *testing.T) {
	for name, settled := range map[string]func(i int) bool{
		"all":        func(int) bool { return false },
		"none":       func(int) bool { return true },
		"most":       func(int) bool { return rand.IntN(10) == 0 },
		"few":        func(int) bool { return rand.IntN(300) != 0 },
		"first":      func(i int) bool { return i > 0 },
		"last":       func(i int) bool { return i < 9999 },
		"ends":       func(i int) bool { return i > 0 && i < 9999 },
		"by turns":   func(i int) bool { return i/maxIdle%2 == 0 },
		"page edges": func(i int) bool { return i%pageSpan > 0 && i%pageSpan < pageSpan-1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, Options{Dir: memDir(t), AllowTmpfs: true})
			want := waitingEvents(t, e, 10_000, settled)
			var got []event.Record
			err := e.Pending(context.Background(), func(page []event.Record) error {
				got = append(got, page...)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// An error ends the walk: nobody is called after it.
func TestPendingStopsAtAnError(t *testing.T) {
	e := start(t, Options{Dir: memDir(t), AllowTmpfs: true})
	waitingEvents(t, e, 10_000, func(int) bool { return false })
	full, calls := errors.New("full"), 0
	err := e.Pending(context.Background(), func([]event.Record) error {
		if calls++; calls == 3 {
			return full
		}
		return nil
	})
	if err != full || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, stop := context.WithCancel(context.Background())
	if err := e.Pending(ctx, func([]event.Record) error { stop(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if err := e.Err(); err != nil {
		t.Error(err)
	}
}

// TestPendingMakesLittleGarbage: a start with a million waiting events is not held up by a collection for each of the memory's multiples.
func TestPendingMakesLittleGarbage(t *testing.T) {
	const n = 20_000
	e := start(t, Options{Dir: memDir(t), AllowTmpfs: true})
	waitingEvents(t, e, n, func(int) bool { return false })
	seen := 0
	allocations := testing.AllocsPerRun(5, func() {
		if err := e.Pending(context.Background(), func(page []event.Record) error { seen += len(page); return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if seen != 6*n {
		t.Fatal(seen)
	}
	t.Logf("%.3f allocations an event", allocations/n)
	if allocations > n/10 {
		t.Errorf("%.0f allocations for %d events", allocations, n)
	}
}

// TestCompactionsGiveWayForAWhile: what a start reads comes first, but a walk that takes long does not stop compactions, nor keep a journal from closing.
func TestCompactionsGiveWayForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w walks
		stop := make(chan struct{})
		waits := func() time.Duration {
			began := time.Now()
			w.giveWay(stop)
			return time.Since(began)
		}
		if d := waits(); d != 0 {
			t.Errorf("without a walk %s", d)
		}
		w.begin()
		time.AfterFunc(time.Second, w.end)
		if d := waits(); d < time.Second || d > time.Second+2*walkRest {
			t.Errorf("beside a walk of a second %s", d)
		}
		w.begin()
		if d := waits(); d < walkFavoured || d > walkFavoured+2*walkRest {
			t.Errorf("beside one that takes long %s", d)
		}
		w.begin()
		time.AfterFunc(time.Second, func() { close(stop) })
		if d := waits(); d != time.Second {
			t.Errorf("at the end %s", d)
		}
	})
}
