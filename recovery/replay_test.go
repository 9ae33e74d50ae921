package recovery_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// refused makes n dead letters.
func refused(b *bed, n int) {
	b.up()
	b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
	for i := range n {
		b.send(fmt.Sprint("evt_", i), "", "")
	}
	time.Sleep(time.Minute)
	b.consumer.Plan(nil)
}

func (b *bed) pause(on bool) {
	b.t.Helper()
	if _, err := b.r.SetPaused(b.t.Context(), "s", on); err != nil {
		b.t.Fatal(err)
	}
}

// replayFailed starts a replay of all dead letters.
func (b *bed) replayFailed(rate float64) recovery.Replay {
	b.t.Helper()
	v, err := b.r.StartReplay(b.t.Context(), recovery.ReplaySpec{Filter: &journal.Query{Source: "s", States: []event.State{event.Failed}}, Rate: rate})
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// A rate next to nothing sends the first event and no other; it used to send them all at once.
func TestATinyRateIsNoRateWithoutBound(t *testing.T) {
	for _, rate := range []float64{1e-9, 1e-10, 1e-300, math.SmallestNonzeroFloat64} {
		synctest.Test(t, func(t *testing.T) {
			b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
			refused(b, 5)
			before := len(b.consumer.Seen())
			b.replayFailed(rate)
			time.Sleep(time.Hour)
			if n := len(b.consumer.Seen()) - before; n != 1 {
				t.Errorf("rate %g: %d events in an hour", rate, n)
			}
		})
	}
}

// An upstream whose rate is next to nothing gets one event, and nobody looks again and again whether it is time for the next.
func TestATinyRateOfAnUpstreamIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, u *forward.Config) { s.Delivery.Mode, u.Rate = "store", 1e-300 })
		b.up()
		for i := range 3 {
			b.send(fmt.Sprint("evt_", i), "", "")
		}
		time.Sleep(time.Hour) // does not pass while somebody looks again and again
		if n := len(b.consumer.Seen()); n != 1 {
			t.Errorf("%d events in an hour", n)
		}
	})
}

// A replay that had to wait, because as many of its events were open as may be, goes on at its rate: the time is not made up for.
func TestReplayKeepsItsRateAfterAStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate, open = 5000, 100, 4096
		b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
		refused(b, n)
		b.pause(true)
		before := len(b.consumer.Seen())
		began := time.Now()
		v := b.replayFailed(rate)
		time.Sleep(10 * time.Minute)
		if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.Sent > open {
			t.Fatalf("%+v, %v", v, err)
		}
		resumed := time.Now()
		b.pause(false)
		time.Sleep(10 * time.Minute)
		seen := b.consumer.Seen()[before:]
		if len(seen) != n {
			t.Fatalf("%d of %d came, %s after the begin", len(seen), n, time.Since(began))
		}
		if took, least := seen[n-1].At.Sub(resumed), time.Second*(n-open-1)/rate-time.Second; took < least || took > least+2*time.Second {
			t.Errorf("the last %d took %s", n-open, took)
		}
	})
}

// What a cancelled replay had sent is counted as it ends, also after a kill; nothing more is sent.
func TestCancelledReplayIsCountedAfterAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
		refused(b, 50)
		v := b.replayFailed(10)
		time.Sleep(time.Second)
		b.pause(true)
		time.Sleep(time.Second + 50*time.Millisecond)
		v, err := b.r.CancelReplay(t.Context(), v.ID)
		if err != nil || v.Replayed < 10 || v.Sent < v.Replayed+9 || v.Sent > 25 {
			t.Fatalf("%+v, %v", v, err)
		}
		b.kill()
		b.pause(false)
		time.Sleep(time.Minute)
		for range 2 {
			now, err := b.r.Replay(t.Context(), v.ID)
			if err != nil || now.State != "cancelled" || now.Sent != v.Sent || now.Replayed != v.Sent || now.Failed != 0 {
				t.Errorf("%d sent and %d replayed before; now %+v, %v", v.Sent, v.Replayed, now, err)
			}
			b.restart()
		}
		if got := b.states(); got["replayed"] != int(v.Sent) {
			t.Errorf("%v", got)
		}
	})
}

// Where ties are rejected, a version that was delivered by another event is too late like an older one: nothing says that it would be replayed.
func TestAVersionThatWasDeliveredIsNotReplayedWhereTiesAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.Ties = "reject_stale", "reject"
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		b.send("first", "r", "5")
		b.consumer.Plan(nil)
		if h := b.send("second", "r", "5"); h.Outcome != recovery.Delivered {
			t.Fatal(h.Outcome)
		}
		rec := b.find("first")
		if v := b.r.SafeToRetry(&rec).Verdict; v != "superseded" {
			t.Errorf("safe to retry: %s", v)
		}
		if v, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"first"}, DryRun: true}); err != nil || v.SkippedBy[recovery.SkipSuperseded] != 1 {
			t.Errorf("dry run: %+v, %v", v, err)
		}
		if res, err := b.r.ReplayOne(t.Context(), rec.ID, "", "ops", false, ""); err != nil || res.Why != recovery.SkipSuperseded {
			t.Errorf("%+v, %v", res, err)
		}
	})
}

// Of dry runs the newest hundred are remembered; of those before them nothing is left, also in the journal.
func TestOldDryRunsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, (*bed).openModel, func(*recovery.SourceConfig, *forward.Config) {})
		var ids []string
		for range 101 {
			v, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"unknown"}, DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, v.ID)
			time.Sleep(time.Second)
		}
		if _, err := b.r.Replay(t.Context(), ids[0]); err != recovery.ErrUnknownReplay {
			t.Errorf("the first: %v", err)
		}
		if v, err := b.r.Replay(t.Context(), ids[1]); err != nil || len(v.Skips) != 1 {
			t.Errorf("the second: %+v, %v", v, err)
		}
		kept := map[bool]int{}
		stored, err := b.engine.MetaList(t.Context(), "replay")
		for _, e := range stored {
			kept[strings.Contains(e.Key, ids[0])]++
		}
		if err != nil || kept[true] > 0 || kept[false] == 0 {
			t.Errorf("%d entries of the first, %d of others, %v", kept[true], kept[false], err)
		}
	})
}

// An event whose source is not configured any more cannot be replayed, and a dry run knows it.
func TestDryRunKnowsThatASourceIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		refused(b, 2)
		b.source.Name, b.source.Path = "other", "/other"
		b.restart()
		for _, spec := range []recovery.ReplaySpec{{IDs: []string{"evt_0"}}, {Filter: &journal.Query{States: []event.State{event.Failed}}}} {
			run, err := b.r.StartReplay(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			spec.DryRun = true
			plan, err := b.r.StartReplay(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if run, err = b.r.Replay(t.Context(), run.ID); err != nil || run.State != "done" || run.Skipped != run.Total {
				t.Errorf("%+v, %v", run, err)
			}
			if plan.WouldReplay != 0 || plan.Skipped != run.Skipped || plan.SkippedBy[run.Skips[0].Why] != plan.Skipped {
				t.Errorf("%+v; the dry run: %+v", run, plan)
			}
		}
	})
}

// A forced replay of a stale event that fails again leaves the event stale, and is counted as failed: it was sent.
func TestAForcedReplayOfAStaleEventThatFailsIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Ordering.Policy = "reject_stale" })
		b.up()
		b.version(7)
		b.version(5)
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		many, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"v5"}, Force: true, Reason: "yes"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		one, err := b.r.ReplayOne(t.Context(), b.find("v5").ID, "", "ops", true, "yes")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if rec := b.find("v5"); rec.State != event.Rejected || rec.Reason != event.Stale || len(b.consumer.Seen()) != 3 {
			t.Fatalf("%s/%s, %d requests", rec.State, rec.Reason, len(b.consumer.Seen()))
		}
		for range 2 {
			for _, id := range []string{many.ID, one.ReplayID} {
				if v, err := b.r.Replay(t.Context(), id); err != nil || v.State != "done" || v.Failed != 1 || v.Skipped != 0 {
					t.Errorf("%+v, %v", v, err)
				}
			}
			b.restart()
		}
	})
}

// As above, of a replay that was cancelled while some of what it had sent had not ended, and counts that after a restart.
func TestACancelledForcedReplayCountsWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Ordering.Policy = "reject_stale" })
		b.up()
		for _, v := range []int{7, 5, 4} {
			b.version(v)
		}
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		v, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"v5", "v4"}, Force: true, Reason: "yes", Rate: 1})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second / 2)
		b.pause(true)
		time.Sleep(time.Second)
		if v, err := b.r.CancelReplay(t.Context(), v.ID); err != nil || v.Sent != 2 || v.Failed != 1 {
			t.Fatalf("%+v, %v", v, err)
		}
		b.restart()
		b.pause(false)
		time.Sleep(time.Minute)
		if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "cancelled" || v.Sent != 2 || v.Failed != 2 || v.Skipped != 0 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// What a replay had sent is not sent by it again after a restart, also where another replay has taken the event over since.
func TestAResumedReplayLeavesWhatAnotherHasTakenOver(t *testing.T) {
	for _, ended := range []string{"stop", "kill"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
			refused(b, 10)
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
			v := b.replayFailed(1)
			time.Sleep(4500 * time.Millisecond)
			if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.Sent < 4 || v.Sent > 6 {
				t.Fatalf("%+v, %v", v, err)
			}
			if _, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"evt_0", "evt_1", "evt_9"}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if ended == "kill" {
				b.kill()
			} else {
				b.restart()
			}
			time.Sleep(time.Minute)
			for i := range 10 {
				want := 2 // once by its sender, once by the replay
				if i == 0 || i == 1 || i == 9 {
					want = 3
				}
				if n := len(b.consumer.Of("s", fmt.Sprint("evt_", i))); n != want {
					t.Errorf("%s: event %d was sent %d times, want %d", ended, i, n, want)
				}
			}
			if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "done" || v.Total != 10 || v.Sent+v.Skipped != 10 {
				t.Errorf("%s: %+v, %v", ended, v, err)
			}
		})
	}
}

// What fails while a replay of what failed is under way is sent by it, too, where it comes across it: it counts for the total, which was less than what was sent.
func TestAReplaysTotalHoldsWhatFailedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
		refused(b, 2)
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
		b.send("evt_2", "", "") // fails when its attempts are used up
		b.consumer.Plan(func(seen *hooktest.Seen, _ int) hooktest.Answer {
			if seen.Header.Get("Hooktender-Replay") != "" {
				return hooktest.Answer{}
			}
			return hooktest.Answer{Status: 503}
		})
		v := b.replayFailed(1e-3)
		if v.Total != 2 {
			t.Fatalf("%+v", v)
		}
		time.Sleep(15 * time.Minute)
		b.kill()
		time.Sleep(2 * time.Hour)
		if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "done" || v.Sent != 3 || v.Replayed != 3 || v.Total != 3 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// What has ended otherwise before a replay of what failed came across it is none of it: the total said that one was neither sent nor skipped.
func TestAReplaysTotalLeavesOutWhatWasSettledMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		refused(b, 3)
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{} })
		v := b.replayFailed(1e-3)
		time.Sleep(time.Minute)
		rec, err := b.r.Find(t.Context(), "s", "evt_2")
		if err == nil {
			_, err = b.r.Resolve(t.Context(), rec.ID, "ops", "by hand")
		}
		if err != nil || v.Total != 3 {
			t.Fatalf("%+v, %v", v, err)
		}
		b.kill()
		time.Sleep(2 * time.Hour)
		if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "done" || v.Sent != 2 || v.Skipped != 0 || v.Total != 2 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// What another replay has made of an event just before is not how this one ended.
func TestAReplayCountsItsOwnEndOfAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		b.send("evt_1", "", "")
		b.send("evt_2", "", "")
		spec := recovery.ReplaySpec{ID: "slow", IDs: []string{"evt_1", "evt_2"}, Filter: &journal.Query{Source: "s"}, Rate: 1}
		b.consumer.Plan(nil)
		if _, err := b.r.StartReplay(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		spec.ID, spec.IDs = "quick", []string{"evt_2"}
		if _, err := b.r.StartReplay(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		b.consumer.Plan(nil)
		time.Sleep(time.Minute)
		if j, err := b.r.Replay(t.Context(), "slow"); err != nil || j.Replayed != 2 || j.Failed != 0 {
			t.Errorf("%d replayed, %d failed, %v: %v", j.Replayed, j.Failed, err, b.states())
		}
	})
}

// breaker_open is stored with no record: a filter that names it selected nothing, and nobody was told why.
func TestReplayOfWhatWaitsForTheBreakerSaysThatItIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) { s.Delivery.Mode, u.Breaker.Failures = "store", 1 })
		for i := range 3 {
			b.send(fmt.Sprint("evt_", i), "", "")
		}
		time.Sleep(10 * time.Second)
		var shown int64
		for i := range 3 {
			rec := b.find(fmt.Sprint("evt_", i))
			if b.r.View(&rec); rec.Reason == event.BreakerOpen {
				shown++
			}
		}
		filter := &journal.Query{Source: "s", Reasons: []event.Reason{event.BreakerOpen}}
		v, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{Filter: filter, DryRun: true})
		if err != nil || shown == 0 || v.Total != shown || v.SkippedBy[recovery.SkipPending] != shown {
			t.Errorf("%d wait for the breaker, the plan has %d, skipped %v (%v)", shown, v.Total, v.SkippedBy, err)
		}
	})
}

// A replay ends, and in the order of its resource, also where a reload brings or takes away the source's order while it runs; it used to wait until the next start.
func TestAReplayEndsThoughAReloadChangesTheOrder(t *testing.T) {
	for _, to := range [][2]string{{"none", "serial"}, {"serial", "none"}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = "store", to[0]
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
			for i := range 5 {
				b.send(fmt.Sprint("evt_", i), "r", "")
			}
			time.Sleep(time.Minute)
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 4 * time.Second} })
			before := len(b.consumer.Seen())
			v := b.replayFailed(0.5)
			time.Sleep(5 * time.Second)
			s := b.source
			s.Ordering.Policy = to[1]
			b.reload(map[string]forward.Config{"app": b.upstream}, s)
			time.Sleep(time.Hour)
			if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "done" || v.Replayed != 5 {
				t.Errorf("%s, then %s: %+v, %v", to[0], to[1], v, err)
			}
			for i, s := range b.consumer.Seen()[before:] {
				if id := s.Header.Get("Hooktender-Event-Id"); id != fmt.Sprint("evt_", i) {
					t.Errorf("%s, then %s: event %d is %s", to[0], to[1], i, id)
				}
			}
		})
	}
}

// A dead letter whose replay fails for another reason than before says so: it falls back to nothing.
func TestAReplayedDeadLetterSaysWhyItFailedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Delivery.Retry.MaxAttempts = "store", 2
		})
		refused(b, 1)
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
		v := b.replayFailed(0)
		time.Sleep(time.Hour)
		if rec := b.find("evt_0"); rec.State != event.Failed || rec.Reason != event.Exhausted {
			t.Errorf("%s/%s", rec.State, rec.Reason)
		}
		if v, err := b.r.Replay(t.Context(), v.ID); err != nil || v.State != "done" || v.Failed != 1 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}
