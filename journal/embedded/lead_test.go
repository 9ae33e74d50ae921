package embedded

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A caller that leads runs the writer; if that panics, what the log holds is unknown, and nobody may wait for ever.
func TestPanicOfALeaderIsFinal(t *testing.T) {
	var armed atomic.Bool
	e := start(t, Options{Observer: func(event.State, event.Reason, *event.Record) {
		if armed.Swap(false) {
			panic("observer")
		}
	}})
	accept(t, e, journal.Written, sample(1))
	for led := true; led; { // so that the next call leads
		e.queue.mu.Lock()
		led = e.queue.led
		e.queue.mu.Unlock()
	}
	armed.Store(true)
	func() {
		defer func() { _ = recover() }()
		_, _ = e.Accept(context.Background(), []journal.Accept{sample(2)}, journal.Written)
		t.Error("no panic")
	}()
	select {
	case <-e.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("the journal did not fail")
	}
	if _, err := e.Accept(context.Background(), []journal.Accept{sample(3)}, journal.Written); !errors.Is(err, journal.ErrFailed) {
		t.Fatalf("after it: %v", err)
	}
}

// Of three callers one syncs, and two wait; the one that would be next gives up. The third gets its fsync all the same.
func TestNextToLeadHasGone(t *testing.T) {
	var held atomic.Bool
	entered, let := make(chan struct{}), make(chan struct{})
	e := start(t, Options{Sync: true, syncFile: func(f *os.File) error {
		if held.Swap(false) {
			close(entered)
			<-let
		}
		return fdatasync(f)
	}})
	accept(t, e, journal.Synced, sample(1))
	held.Store(true)
	call := func(ctx context.Context, n int) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := e.Accept(ctx, []journal.Accept{sample(n)}, journal.Synced)
			done <- err
		}()
		return done
	}
	waiting := func(n int) {
		for range 10_000 {
			e.syncs.mu.Lock()
			got := len(e.syncs.waiting)
			e.syncs.mu.Unlock()
			if got == n {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("never %d waiting", n)
	}
	ctx, giveUp := context.WithCancel(context.Background())
	first := call(context.Background(), 2)
	<-entered
	next := call(ctx, 3)
	waiting(2)
	last := call(context.Background(), 4)
	waiting(3)
	giveUp()
	if err := <-next; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(let)
	for _, done := range []<-chan error{first, last} {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a caller waits for ever")
		}
	}
}

// A group was written, and an fsync has failed by the time that its callers are answered: nobody is told of a success after that, not even who did not ask for the disk.
func TestNoSuccessOnceAnFsyncHasFailed(t *testing.T) {
	for _, d := range []journal.Durability{journal.Written, journal.Synced} {
		var e *Engine
		var armed atomic.Bool
		e = start(t, Options{Sync: true, Observer: func(event.State, event.Reason, *event.Record) {
			if armed.Load() {
				_ = e.fail(errors.New("input/output error"))
			}
		}})
		accept(t, e, journal.Synced, sample(1))
		armed.Store(true)
		if v, err := e.Accept(t.Context(), []journal.Accept{sample(2)}, d); !errors.Is(err, journal.ErrFailed) {
			t.Errorf("durability %d: %+v, %v", d, v, err)
		}
	}
}

// TestWhatIsBeingWrittenOutIsWaitedFor: the index is behind while the disk has not confirmed what goes into it, whoever asked for nothing newer.
func TestWhatIsBeingWrittenOutIsWaitedFor(t *testing.T) {
	g := &gate{}
	e := start(t, Options{Sync: true, syncFile: g.sync})
	release := g.hold()
	defer release()
	accept(t, e, journal.Written, sample(1))
	e.applier.kickNow()
	for frozen := false; !frozen; time.Sleep(time.Millisecond) {
		e.mu.RLock()
		frozen = e.frozen != nil
		e.mu.RUnlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if err := e.settle(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, journal.ErrFull) {
		t.Fatalf("whoever waits for it: %v", err)
	}
	release()
	must(t, e.settle(t.Context()))
	if it, err := e.snap.item(1); it == nil || err != nil {
		t.Errorf("the index has not: %v", err)
	}
}

// TestARefusedTransitionIsAsDurableAsWhatRefusesIt: its answer shows what another has written, which a power cut must not take.
func TestARefusedTransitionIsAsDurableAsWhatRefusesIt(t *testing.T) {
	g := &gate{}
	e := start(t, Options{Sync: true, syncFile: g.sync})
	old := accept(t, e, journal.Synced, sample(1)).Record
	release := g.hold()
	defer release()
	now := deliver(t, e, journal.Written, old)
	refused := make(chan journal.Outcome, 1)
	go func() {
		out, err := e.Commit(t.Context(), []journal.Transition{{Record: old}}, journal.Synced)
		if err != nil {
			t.Error(err)
			out = make([]journal.Outcome, 1)
		}
		refused <- out[0]
	}()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		select {
		case out := <-refused:
			t.Fatalf("answered before the disk had it: %+v", out)
		default:
		}
		e.syncs.mu.Lock()
		waits = len(e.syncs.waiting) > 0
		e.syncs.mu.Unlock()
	}
	release()
	if out := <-refused; out.Applied || out.Record.Rev != now.Rev {
		t.Errorf("%+v", out)
	}
}
