package embedded

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// start opens an engine and runs it until the test ends.
func start(t testing.TB, o Options) *Engine {
	t.Helper()
	if o.Dir == "" {
		o.Dir = memDir(t)
	}
	o.AllowTmpfs = true
	if o.Log == nil {
		o.Log = quiet
	}
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	t.Cleanup(func() {
		e.Close()
		<-done
	})
	return e
}

var onDisk = flag.Bool("disk", false, "keep every journal on the disk, none in memory")

// memDir is a directory in memory, where there is one with room: a shared disk makes the tests that open many journals wait for it. With -disk it is on the disk.
func memDir(t testing.TB) string {
	t.Helper()
	const mem = "/dev/shm"
	if _, free, err := Filesystem(mem); *onDisk || err != nil || free < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(mem, "hooktender-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// sample is an event to accept.
func sample(n int) journal.Accept {
	id := fmt.Sprintf("evt_%d", n)
	return journal.Accept{
		Record: event.Record{
			Source: "stripe", Provider: "stripe", EventID: id, Type: "invoice.paid", Resource: fmt.Sprintf("in_%d", n/2), Version: "1",
			Verified: true, State: event.Pending, Reason: event.Delivering, ReceivedAt: time.Now(), BodyBytes: 1024,
		},
		Payload: &event.Payload{Method: "POST", Target: []byte("/webhooks/stripe"), Host: []byte("example.com"),
			Head: event.Head("Content-Type: application/json\r\n"), Body: make([]byte, 1024), Peer: "192.0.2.1"},
		Keys: []event.Key{event.MakeKey(event.KeyEvent, "stripe", "", id)},
	}
}

func accept(t testing.TB, j journal.Journal, d journal.Durability, a journal.Accept) journal.Verdict {
	t.Helper()
	v, err := j.Accept(context.Background(), []journal.Accept{a}, d)
	if err != nil {
		t.Fatal(err)
	}
	return v[0]
}

func deliver(t testing.TB, j journal.Journal, d journal.Durability, r event.Record) event.Record {
	t.Helper()
	r.State, r.Reason = event.Delivered, event.NoReason
	r.DeliveredAt, r.SettledAt, r.Attempts = time.Now(), time.Now(), 1
	o, err := j.Commit(context.Background(), []journal.Transition{{
		Record: r, Attempt: &event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: time.Now(), Duration: time.Millisecond, Outcome: event.OutcomeDelivered, Status: 200, Excerpt: []byte("ok"), Upstream: "app"},
	}}, d)
	if err != nil || !o[0].Applied {
		t.Fatal(err, o)
	}
	return o[0].Record
}

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	e := start(t, Options{Dir: dir, Sync: true})
	v := accept(t, e, journal.Written, sample(1))
	if !v.Accepted || v.Record.Seq != 1 {
		t.Fatalf("%+v", v)
	}
	if d := accept(t, e, journal.Synced, sample(1)); d.Accepted || d.Record.ID != v.Record.ID {
		t.Fatalf("%+v", d)
	}
	deliver(t, e, journal.Synced, v.Record)
	page, err := e.List(context.Background(), journal.Query{Source: "stripe"})
	if err != nil || len(page.Records) != 1 {
		t.Fatal(err, page)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = start(t, Options{Dir: dir, Sync: true})
	r, p, err := e.Get(context.Background(), v.Record.ID, true)
	if err != nil || r.State != event.Delivered || len(p.Body) != 1024 {
		t.Fatal(err, r, p)
	}
	as, err := e.Attempts(context.Background(), r.ID)
	if err != nil || len(as) != 1 || string(as[0].Excerpt) != "ok" {
		t.Fatal(err, as)
	}
}
