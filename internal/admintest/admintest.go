// Package admintest runs an admin port for tests: the real server over a real embedded journal, with a small core in place of the
// gateway's. The core does what it is asked at once and keeps all state of events in the journal.
package admintest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/embedded"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/recovery"
)

// Gateway is a running admin port.
type Gateway struct {
	URL     string
	Journal journal.Journal
	Core    *Core
	Control *Control
	Server  *admin.Server
	Log     *Log
}

// Control notes what it was told. Its fields may be set before a call.
type Control struct {
	mu       sync.Mutex
	Changed  []string
	Err      error // of Reload
	NotReady string
	Starting bool
	drained  bool
}

// Reload answers with Changed and Err.
func (c *Control) Reload(context.Context) ([]string, error) { return c.Changed, c.Err }

// Enroll opens a window for the source asana only.
func (c *Control) Enroll(source string, d time.Duration) (time.Time, error) {
	switch source {
	case "asana":
		return time.Now().Add(d), nil
	case "github":
		return time.Time{}, provider.ErrNoEnrolment
	case "notion":
		return time.Time{}, provider.ErrEnrolled
	}
	return time.Time{}, recovery.ErrUnknownSource
}

// Drain makes Ready say no.
func (c *Control) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drained = true
}

// Ready says no after Drain, or while NotReady is set.
func (c *Control) Ready() (bool, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained {
		return false, "draining"
	}
	return c.NotReady == "", c.NotReady
}

// Started says yes unless Starting is set.
func (c *Control) Started() bool { return !c.Starting }

// Log keeps log lines. Safe for concurrent use.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything logged so far: JSON lines.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start runs an admin port on loopback until the test ends. change may set options; the sources are called stripe and github.
func Start(tb testing.TB, change func(*admin.Options)) *Gateway {
	tb.Helper()
	g := &Gateway{Control: &Control{}, Log: &Log{}}
	engine := Open(tb, filepath.Join(tb.TempDir(), "journal"))
	g.Journal, g.Core = engine, newCore(engine)
	o := admin.Options{Journal: engine, Core: g.Core, Control: g.Control, Health: g.Control, Log: slog.New(slog.NewJSONHandler(g.Log, nil))}
	if change != nil {
		change(&o)
	}
	var err error
	if g.Server, err = admin.New(o); err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	g.URL = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := g.Server.Serve(ctx, l); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() {
		cancel()
		work.Wait()
	})
	return g
}

// Open opens an embedded journal in dir and runs it until the test ends.
func Open(tb testing.TB, dir string) *embedded.Engine {
	tb.Helper()
	engine, err := embedded.Open(embedded.Options{Dir: dir, AllowTmpfs: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { _ = engine.Run(context.Background()) })
	tb.Cleanup(func() {
		_ = engine.Close()
		work.Wait()
	})
	return engine
}

// Receive stores an event as received now with the body {}, delivered unless change says otherwise, and gives its record.
func (g *Gateway) Receive(tb testing.TB, source, id string, change func(*event.Record)) event.Record {
	tb.Helper()
	now := time.Now()
	rec := event.Record{Source: source, Provider: source, EventID: id, Type: "invoice.paid", Resource: "in_42", Version: "7", Verified: true,
		State: event.Delivered, ReceivedAt: now, DeliveredAt: now, SettledAt: now, Attempts: 1, LastAttemptAt: now, LastStatus: 200,
		BodyBytes: 2, BodySHA256: sha256.Sum256([]byte("{}"))}
	if change != nil {
		change(&rec)
	}
	payload := &event.Payload{Method: "POST", Target: []byte("/webhooks/" + source + "?a=b"), Host: []byte("example.com"),
		Head: event.Head("Content-Type: application/json\r\nX-Two: 1\r\nX-Two: 2\r\n"), Body: []byte("{}"), Peer: "127.0.0.1"}
	out, err := g.Journal.Accept(context.Background(), []journal.Accept{{Record: rec, Payload: payload,
		Keys: []event.Key{event.MakeKey(event.KeyEvent, source, "", id)}, Aliases: []event.Key{event.MakeKey(event.KeyAlias, source, id)}}}, journal.Written)
	if err != nil || !out[0].Accepted {
		tb.Fatalf("event %q was not stored: %v %+v", id, err, out)
	}
	return out[0].Record
}

// Change commits a new version of an event, with an attempt if it is not nil.
func (g *Gateway) Change(tb testing.TB, id event.ID, attempt *event.Attempt, change func(*event.Record)) event.Record {
	tb.Helper()
	rec, err := g.Core.commit(id, attempt, change)
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// Dead makes a record a dead letter.
func Dead(rec *event.Record) {
	rec.State, rec.Reason, rec.DeliveredAt = event.Failed, event.Exhausted, time.Time{}
	rec.LastStatus, rec.LastErrKind, rec.LastErrText = 503, "status", "503 Service Unavailable"
}

// Undecided makes a record one whose attempt has an unknown outcome and waits for an operator.
func Undecided(rec *event.Record) {
	rec.State, rec.Reason, rec.DeliveredAt, rec.SettledAt, rec.Unknown = event.Pending, event.WaitingForDecision, time.Time{}, time.Time{}, true
	rec.LastStatus, rec.LastErrKind, rec.LastErrText = 0, "timeout", "no answer within 10s"
}

// Queued makes a record one that has not been tried.
func Queued(rec *event.Record) {
	rec.State, rec.Reason, rec.DeliveredAt, rec.SettledAt = event.Pending, event.Queued, time.Time{}, time.Time{}
	rec.Attempts, rec.LastAttemptAt, rec.LastStatus = 0, time.Time{}, 0
}

var errGone = errors.New("the event changed")
