// Package journaltest is what journal.Journal promises, as tests. An engine passes by calling Run with a Factory; the names
// of the tests read as the specification.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Config is what a test asks of a new journal.
type Config struct {
	Retention journal.Retention
	Now       func() time.Time // the clock that the dedup window is judged by
	Observer  journal.Observer
	Full      func() bool // whether free space is below the bound
}

// A Fixture is one journal under test, empty at first.
type Fixture struct {
	// Journal is running; the fixture closes it when the test ends.
	Journal journal.Journal
	// Reopen closes the journal and opens it again. The old one must not be used any more.
	Reopen func() journal.Journal
	// Crash leaves the journal as a killed process would, and opens what is on disk.
	Crash func() journal.Journal
	// HoldSync makes the disk confirm nothing until release is called.
	HoldSync func() (release func())
}

// lives gives the journal as it is, after a crash and after a close; each is gone when the next begins.
func (x *Fixture) lives() iter.Seq[journal.Journal] {
	return func(yield func(journal.Journal) bool) {
		_ = yield(x.Journal) && yield(x.Crash()) && yield(x.Reopen())
	}
}

// Factory makes a journal; it fails the test if it cannot.
type Factory func(t *testing.T, c Config) *Fixture

// Run checks an engine.
func Run(t *testing.T, f Factory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Factory)
	}{
		{"OneAcceptedPerKey", oneAcceptedPerKey},
		{"DuplicateIsAsDurableAsItsOriginal", duplicateIsAsDurable},
		{"BarrierWaitsForTheDisk", barrierWaits},
		{"KeysAreClaimedTogether", keysTogether},
		{"BatchWithTheSameKeyTwice", batchTwice},
		{"AliasIsTakenOver", aliasTakenOver},
		{"AcceptCopiesWhatItKeeps", acceptCopies},
		{"RevisionDecides", revisionDecides},
		{"OneOfManyCommitsWins", oneCommitWins},
		{"RecordKeepsEveryField", everyField},
		{"AttemptsInOrder", attemptsInOrder},
		{"RunningAttemptIsListed", runningAttempt},
		{"CursorInTheSameCommit", cursorInCommit},
		{"PayloadOfARedelivery", payloadReplaced},
		{"PagingBothWays", pagingBothWays},
		{"PagingIsStableUnderInserts", pagingStable},
		{"EveryFilter", everyFilter},
		{"BadCursor", badCursor},
		{"PendingMissesNothing", pendingMissesNothing},
		{"CheckpointAndHoles", checkpointAndHoles},
		{"CountsFollowStates", countsFollow},
		{"NotesAreVisibleAtOnce", notesVisible},
		{"Meta", metaValues},
		{"DedupWindow", dedupWindow},
		{"PayloadRetention", payloadRetention},
		{"RecordRetention", recordRetention},
		{"MarkerOutlivesTheRecord", markerOutlives},
		{"FailedRecordStaysAsLongAsItsMarker", failedRecordStays},
		{"DeadLetterRetention", deadLetterRetention},
		{"PendingNeverExpires", pendingNeverExpires},
		{"SweepIsBounded", sweepBounded},
		{"LargeBodies", largeBodies},
		{"FullRefusesOnlyNewEvents", fullRefuses},
		{"ObserverInOrder", observerInOrder},
		{"ReopenAfterClose", func(t *testing.T, f Factory) { reopen(t, f, false) }},
		{"ReopenAfterCrash", func(t *testing.T, f Factory) { reopen(t, f, true) }},
		{"SeqIsNeverReused", seqNeverReused},
		{"ClosedAnswersErrClosed", closed},
		{"CancelledContext", cancelled},
		{"EverythingAtOnce", everythingAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, f)
		})
	}
}

var ctx = context.Background()

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

func keyOf(id string) event.Key { return event.MakeKey(event.KeyEvent, "stripe", "", id) }

// newEvent is a minimal event with an id.
func newEvent(id string) journal.Accept {
	return journal.Accept{
		Record: event.Record{
			Source: "stripe", EventID: id, Type: "invoice.paid", Resource: "in_" + id, Version: "1",
			State: event.Pending, Reason: event.Queued, ReceivedAt: time.Now().UTC().Round(0),
		},
		Payload: &event.Payload{Method: "POST", Target: []byte("/w"), Host: []byte("h"), Head: event.Head("A: b\r\n"), Body: []byte("body of " + id)},
		Keys:    []event.Key{keyOf(id)},
		Aliases: []event.Key{event.MakeKey(event.KeyAlias, "stripe", id)},
	}
}

func at(a journal.Accept, t time.Time) journal.Accept {
	a.Record.ReceivedAt = t
	return a
}

func from(a journal.Accept, source string) journal.Accept {
	a.Record.Source = source
	return a
}

// accept stores one event that must be new.
func accept(t *testing.T, j journal.Journal, a journal.Accept) event.Record {
	t.Helper()
	v := tryAccept(t, j, a)
	if !v.Accepted || v.Key != -1 {
		t.Fatalf("event %q is a duplicate of %+v", a.Record.EventID, v.Record)
	}
	return v.Record
}

func tryAccept(t *testing.T, j journal.Journal, a journal.Accept) journal.Verdict {
	t.Helper()
	v, err := j.Accept(ctx, []journal.Accept{a}, journal.Written)
	if err != nil {
		t.Fatal(err)
	}
	if len(v) != 1 {
		t.Fatalf("%d verdicts for one event", len(v))
	}
	return v[0]
}

// commit applies one transition that must apply.
func commit(t *testing.T, j journal.Journal, tr journal.Transition) event.Record {
	t.Helper()
	o := tryCommit(t, j, tr)
	if !o.Applied {
		t.Fatalf("not applied: %+v", o)
	}
	return o.Record
}

func tryCommit(t *testing.T, j journal.Journal, tr journal.Transition) journal.Outcome {
	t.Helper()
	d := journal.Written
	if tr.Record.Seq%8 == 0 { // not each: a disk may take its time
		d = journal.Synced
	}
	o, err := j.Commit(ctx, []journal.Transition{tr}, d)
	if err != nil {
		t.Fatal(err)
	}
	return o[0]
}

// settle moves a record to a state at a time.
func settle(t *testing.T, j journal.Journal, r event.Record, s event.State, why event.Reason, when time.Time) event.Record {
	t.Helper()
	r.State, r.Reason = s, why
	r.SettledAt = time.Time{}
	if s != event.Pending {
		r.SettledAt = when
	}
	if s == event.Delivered {
		r.DeliveredAt = when
	}
	return commit(t, j, journal.Transition{Record: r})
}

func get(t *testing.T, j journal.Journal, id event.ID) event.Record {
	t.Helper()
	r, _, err := j.Get(ctx, id, false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sweep(t *testing.T, j journal.Journal, now time.Time) {
	t.Helper()
	for range 1000 {
		n, err := j.Sweep(ctx, now, 100)
		if err != nil {
			t.Fatal(err)
		}
		if n < 100 {
			return
		}
	}
	t.Fatal("Sweep finds no end")
}

func lookup(t *testing.T, j journal.Journal, k event.Key) event.Fate {
	t.Helper()
	f, err := j.Lookup(ctx, []event.Key{k})
	if err != nil {
		t.Fatal(err)
	}
	return f[0]
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func list(t *testing.T, j journal.Journal, q journal.Query) []event.Record {
	t.Helper()
	var all []event.Record
	for {
		p, err := j.List(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Records...)
		if p.Next == "" {
			return all
		}
		q.Cursor = p.Next
	}
}

func ids(rs []event.Record) []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = r.EventID
	}
	return out
}

func name(i int) string { return fmt.Sprintf("evt_%04d", i) }
