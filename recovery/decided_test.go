package recovery_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// slowDisk is a journal whose changes can be read before the call that made them returns, as while an fsync is waited for.
type slowDisk struct {
	journal.Journal
	meanwhile func(*event.Record) // after a change, before its call returns
}

func (d *slowDisk) Commit(ctx context.Context, ts []journal.Transition, how journal.Durability) ([]journal.Outcome, error) {
	out, err := d.Journal.Commit(ctx, ts, how)
	for i := range out {
		if out[i].Applied && d.meanwhile != nil {
			d.meanwhile(&out[i].Record)
		}
	}
	return out, err
}

func newSlowBed(t *testing.T, change func(*recovery.SourceConfig)) (*bed, *slowDisk) {
	disk := &slowDisk{}
	b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
		model, work := b.openModel(observe)
		disk.Journal = model
		return disk, work
	}, func(s *recovery.SourceConfig, u *forward.Config) {
		inSequence(s, u)
		s.Delivery.OnUnknown = "hold"
		change(s)
	})
	return b, disk
}

// beside runs f, and gives it as long as it can get without what the caller holds.
func beside(f func()) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	for range 100_000 {
		select {
		case <-done:
			return
		default:
			runtime.Gosched()
		}
	}
}

// A decision on an event that comes as soon as it can be seen that one is wanted, as from the stream of changes, does not leave the event behind in its lane: the
// resource stood still until the next start.
func TestADecisionAsSoonAsItIsWanted(t *testing.T) {
	for _, c := range []struct {
		how    string
		decide func(r *recovery.Recovery, id event.ID)
		want   string
	}{
		{"replayed", func(r *recovery.Recovery, id event.ID) {
			_, _ = r.ReplayOne(context.Background(), id, "", "ops", true, "yes")
		}, "1 1 2 3"},
		{"replayed with others", func(r *recovery.Recovery, id event.ID) {
			_, _ = r.StartReplay(context.Background(), recovery.ReplaySpec{IDs: []string{"v1"}, Force: true, Reason: "yes", Actor: "ops"})
		}, "1 1 2 3"},
		{"resolved", func(r *recovery.Recovery, id event.ID) { _, _ = r.Resolve(context.Background(), id, "ops", "yes") }, "1 2 3"},
		{"discarded", func(r *recovery.Recovery, id event.ID) { _, _ = r.Discard(context.Background(), id, "ops", "no") }, "1 2(gap 1) 3"},
	} {
		t.Run(c.how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, disk := newSlowBed(t, func(*recovery.SourceConfig) {})
				b.up()
				b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
					return hooktest.Answer{Break: nth == 1 && s.Header.Get("Hooktender-Event-Id") == "v1"}
				})
				decided := false
				disk.meanwhile = func(rec *event.Record) {
					if rec.Reason == event.WaitingForDecision && !decided {
						decided = true
						beside(func() { c.decide(b.r, rec.ID) })
					}
				}
				b.version(1)
				b.version(2)
				b.version(3)
				time.Sleep(time.Minute)
				if got := b.arrivals(); got != c.want {
					t.Errorf("the consumer saw %s, want %s; %v", got, c.want, b.states())
				}
			})
		})
	}
}

// An older version is resolved while the delivery of a newer one, which on_failure: continue let pass, is written to disk: the cursor does not go back. After a
// restart the newer version was waited for as if it had never come.
func TestADecisionMovesNoCursorBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, disk := newSlowBed(t, func(s *recovery.SourceConfig) { s.Ordering.OnFailure = "continue" })
		b.up()
		b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
			return hooktest.Answer{Break: s.Header.Get("Hooktender-Event-Id") == "v1"}
		})
		b.version(1)
		id := b.find("v1").ID
		disk.meanwhile = func(rec *event.Record) {
			if rec.EventID == "v2" && rec.State == event.Delivered {
				beside(func() { _, _ = b.r.Resolve(context.Background(), id, "ops", "yes") })
			}
		}
		b.version(2)
		synctest.Wait()
		if st, err := disk.Resources(t.Context(), []event.ResourceKey{{Source: "s", Resource: "r"}}); err != nil || st[0].Version != "2" {
			t.Errorf("the journal has the cursor at %q, %v; %v", st[0].Version, err, b.states())
		}
	})
}

// A version that comes as soon as a newer one can be seen to be delivered is told that it is stale, also where its sender is not kept waiting. It was told that it
// was accepted, and then was stale.
func TestStaleAsSoonAsTheNewerOneIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, disk := newSlowBed(t, func(s *recovery.SourceConfig) {
			s.Ordering.Policy, s.Ordering.Start, s.Delivery.Mode = "reject_stale", "first_seen", "store"
		})
		b.up()
		told := make(chan recovery.Handled, 1)
		disk.meanwhile = func(rec *event.Record) {
			if rec.EventID == "v2" && rec.State == event.Delivered {
				beside(func() { told <- b.version(1) })
			}
		}
		b.version(2)
		time.Sleep(time.Minute)
		if h := <-told; h.Outcome != recovery.Stale || b.arrivals() != "2" {
			t.Errorf("its sender was told %v, and the consumer saw %s; want %v and 2", h.Outcome, b.arrivals(), recovery.Stale)
		}
	})
}

// rotten is a journal that cannot read the payload of one event.
type rotten struct {
	journal.Journal
	id  string
	err error
}

func (j *rotten) Get(ctx context.Context, id event.ID, withPayload bool) (event.Record, *event.Payload, error) {
	rec, p, err := j.Journal.Get(ctx, id, withPayload)
	if withPayload && err == nil && rec.EventID == j.id {
		return rec, nil, fmt.Errorf("read %s: %w", id, j.err)
	}
	return rec, p, err
}

// A pending event whose payload is damaged or gone fails, and keeps nobody waiting: neither what is behind it in its lane, nor its upstream.
func TestAnEventThatCannotBeReadFails(t *testing.T) {
	for _, resource := range []string{"", "r"} {
		for err, want := range map[error]event.Reason{journal.ErrCorrupt: event.Corrupt, journal.ErrNoPayload: event.Expired} {
			synctest.Test(t, func(t *testing.T) {
				b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
					model, work := b.openModel(observe)
					return &rotten{model, "first", err}, work
				}, func(s *recovery.SourceConfig, u *forward.Config) {
					s.Delivery.Mode, s.Ordering.Policy, u.MaxInFlight = "store", "serial", 1
				})
				b.up()
				b.pause(true)
				b.send("first", resource, "")
				b.send("second", resource, "")
				b.pause(false)
				time.Sleep(time.Minute)
				first, second := b.find("first"), b.find("second")
				if first.State != event.Failed || first.Reason != want || first.Attempts != 0 || first.LastErrText == "" {
					t.Errorf("%q, %v: %s/%s after %d attempts, %q", resource, err, first.State, first.Reason, first.Attempts, first.LastErrText)
				}
				if second.State != event.Delivered || len(b.consumer.Seen()) != 1 {
					t.Errorf("%q, %v: the one behind it is %s/%s", resource, err, second.State, second.Reason)
				}
			})
		}
	}
}

// What was delivered stays so where a forced replay leaves it undecided and the next one is refused. It became a dead letter, which its sender could have delivered
// once more.
func TestWhatWasDeliveredStaysSoAfterAnUndecidedForcedReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.OnUnknown = "hold" })
		b.up()
		b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
			return []hooktest.Answer{{}, {Break: true}, {Status: 422}}[min(nth, 3)-1]
		})
		b.send("evt_1", "", "")
		for _, want := range []event.Reason{event.WaitingForDecision, event.NoReason} {
			if res, err := b.r.ReplayOne(t.Context(), b.find("evt_1").ID, "", "ops", true, "yes"); err != nil || !res.Started {
				t.Fatalf("%+v, %v", res, err)
			}
			time.Sleep(time.Second)
			if rec := b.find("evt_1"); rec.Reason != want {
				t.Fatalf("%s/%s, want reason %q", rec.State, rec.Reason, want)
			}
		}
		rec := b.find("evt_1")
		if rec.State != event.Delivered || b.r.SafeToRetry(&rec).Verdict != "no_need" {
			t.Errorf("%s/%s, %+v", rec.State, rec.Reason, b.r.SafeToRetry(&rec))
		}
		if h := b.send("evt_1", "", ""); h.Outcome != recovery.Duplicate || len(b.consumer.Seen()) != 3 {
			t.Errorf("its sender is told %s, the consumer saw it %d times", h.Outcome, len(b.consumer.Seen()))
		}
	})
}
