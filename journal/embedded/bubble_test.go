package embedded

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestInABubble: hours pass in milliseconds, and nothing is left running at the end.
func TestInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		kept := journal.Retention{Payload: 7 * time.Hour, Record: 17 * time.Hour, Dedup: 17 * time.Hour, DeadLetter: 72 * time.Hour} // the clock is noted on the disk every ten minutes
		e, err := Open(Options{Dir: dir, Sync: true, InBubble: true, Log: quiet, Retention: kept})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- e.Run(context.Background()) }()
		r := accept(t, e, journal.Synced, sample(1)).Record
		pending := accept(t, e, journal.Synced, sample(2)).Record
		deliver(t, e, journal.Synced, r)
		time.Sleep(10 * time.Hour)
		if _, err := e.Sweep(context.Background(), time.Now(), 100); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.Get(context.Background(), r.ID, true); !errors.Is(err, journal.ErrNoPayload) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Hour)
		if _, err := e.Sweep(context.Background(), time.Now(), 100); err != nil {
			t.Fatal(err)
		}
		if !accept(t, e, journal.Synced, sample(1)).Accepted || accept(t, e, journal.Synced, sample(2)).Accepted {
			t.Fatal("the dedup window")
		}
		var waiting []event.ID
		err = e.Pending(context.Background(), func(page []event.Record) error {
			for i := range page {
				waiting = append(waiting, page[i].ID)
			}
			return nil
		})
		if err != nil || len(waiting) != 2 || waiting[0] != pending.ID {
			t.Fatal(waiting, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestWhoIsEarlyIsNotForgotten: the applier waits for the disk to have frames that the writer has published a moment ago and not yet handed to the syncer. Nobody else
// waits, as with journal.sync: none; once it was left waiting, until the overlay was full and the writer waited for it.
func TestWhoIsEarlyIsNotForgotten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e := start(t, Options{Dir: dir, InBubble: true, Log: quiet})
		accept(t, e, journal.Written, sample(1))
		done := make(chan error, 1)
		go func() { done <- e.awaitSynced(e.published() + 1) }()
		synctest.Wait() // the syncer has looked
		accept(t, e, journal.Written, sample(2))
		synctest.Wait()
		select {
		case err := <-done:
			must(t, err)
		default:
			t.Fatal("the frames are written and nobody makes them durable")
		}
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	e, err := Open(Options{Dir: t.TempDir(), Sync: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	accept(t, e, journal.Written, sample(1))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := e.Accept(context.Background(), []journal.Accept{sample(2)}, journal.Written); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWithoutRun(t *testing.T) {
	o := Options{Dir: t.TempDir(), Log: quiet}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := e.Accept(context.Background(), []journal.Accept{sample(1)}, journal.Written)
		waiting <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
	if err := e.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	start(t, o)
}

func TestTmpfsIsRefused(t *testing.T) {
	name, _, err := Filesystem("/dev/shm")
	if err != nil || name != "tmpfs" {
		t.Skip("no tmpfs at /dev/shm")
	}
	if _, err := Open(Options{Dir: "/dev/shm/hooktender-test-never-made", Log: quiet}); err == nil {
		t.Fatal("opened a journal in memory")
	}
}
