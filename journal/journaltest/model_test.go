package journaltest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// The model that simulations use keeps the same contract as the engine.
func TestModel(t *testing.T) {
	Run(t, func(t *testing.T, c Config) *Fixture {
		disk := &Disk{}
		var mu sync.Mutex
		var held chan struct{}
		o := ModelOptions{Config: c, Before: func(what string) {
			mu.Lock()
			h := held
			mu.Unlock()
			if what == "sync" && h != nil {
				<-h
			}
		}}
		m := OpenModel(disk, o)
		x := &Fixture{Journal: m}
		x.HoldSync = func() func() {
			mu.Lock()
			defer mu.Unlock()
			h := make(chan struct{})
			held = h
			return func() { close(h) }
		}
		x.Reopen = func() journal.Journal { _ = m.Close(); m = OpenModel(disk, o); return m }
		x.Crash = func() journal.Journal { m.Kill(); m = OpenModel(disk, o); return m }
		return x
	})
}

// A power cut takes what was not synced, from the end, and nothing else.
func TestModelLosesOnlyWhatWasNotSynced(t *testing.T) {
	disk := &Disk{}
	m := OpenModel(disk, ModelOptions{})
	if _, err := m.Accept(context.Background(), []journal.Accept{newEvent("a")}, journal.Synced); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"b", "c"} {
		if _, err := m.Accept(context.Background(), []journal.Accept{newEvent(id)}, journal.Written); err != nil {
			t.Fatal(err)
		}
	}
	m.Kill()
	if _, err := m.Commit(context.Background(), nil, journal.Synced); !errors.Is(err, journal.ErrClosed) {
		t.Fatal("a killed journal answers:", err)
	}
	disk.Cut(1)
	for id, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if f, err := OpenModel(disk, ModelOptions{}).Lookup(context.Background(), []event.Key{keyOf(id)}); err != nil || f[0].Known() != want {
			t.Errorf("%s: %+v, %v", id, f, err)
		}
	}
	disk.Cut(10)
	if f, _ := OpenModel(disk, ModelOptions{}).Lookup(context.Background(), []event.Key{keyOf("a")}); !f[0].Known() {
		t.Error("a power cut took what was synced")
	}
}
