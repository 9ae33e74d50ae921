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
