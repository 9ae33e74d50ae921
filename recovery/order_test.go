package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// arrivals is what the consumer saw, as "version" or "version(gap …)", oldest first.
func (b *bed) arrivals() string {
	var out []string
	for _, s := range b.consumer.Seen() {
		v := strings.TrimPrefix(s.Header.Get("Hooktender-Event-Id"), "v")
		if gap := s.Header.Get("Hooktender-Gap"); gap != "" {
			v += "(gap " + gap + ")"
		}
		out = append(out, v)
	}
	return strings.Join(out, " ")
}

// version submits version v of resource r; the event's id is v and the version.
func (b *bed) version(v int) recovery.Handled { return b.send(fmt.Sprint("v", v), "r", fmt.Sprint(v)) }

func (b *bed) resource() recovery.ResourceStatus {
	b.t.Helper()
	r, err := b.r.Resource(context.Background(), "s", "r")
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func inSequence(s *recovery.SourceConfig, _ *forward.Config) {
	s.Ordering.Policy, s.Ordering.Start = "in_sequence", "1"
}

// A gap: visible while it lasts, also over a restart, and named when it is given up.
func TestGapIsReleasedAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, inSequence)
		b.up()
		if h := b.version(1); h.Outcome != recovery.Delivered {
			t.Fatalf("1: %s", h.Outcome)
		}
		began := time.Now()
		for _, v := range []int{4, 7, 3} {
			if h := b.version(v); h.Outcome != recovery.Held || time.Since(began) > time.Second {
				t.Errorf("%d: %s after %s", v, h.Outcome, time.Since(began))
			}
		}
		if rec := b.find("v4"); rec.State != event.Pending || rec.Reason != event.Held || !rec.NextAt.Equal(rec.HeldSince.Add(30*time.Second)) {
			t.Errorf("4 is %s/%s until %s", rec.State, rec.Reason, rec.NextAt)
		}
		time.Sleep(10 * time.Second)
		b.restart()
		r := b.resource()
		if !slices.Equal(r.Missing, []string{"2", "5-6"}) || len(r.Held) != 3 || r.Held[0].Version != "3" || r.State.Version != "1" || len(r.Pending) != 3 {
			t.Errorf("while it lasts: %+v", r)
		}
		if until := r.Held[1].ReleaseAt.Sub(began); until < 30*time.Second || until > 31*time.Second {
			t.Errorf("4 is released after %s", until)
		}
		if since := b.r.OldestGap("s").Sub(began); since < 0 || since > time.Second {
			t.Errorf("the gap is open since %s", since)
		}
		time.Sleep(time.Minute)
		if got := b.arrivals(); got != "1 3(gap 2) 4 7(gap 5-6)" {
			t.Errorf("the consumer saw %s", got)
		}
		if h := b.version(5); h.Outcome != recovery.Stale {
			t.Errorf("5 comes too late: %s", h.Outcome)
		}
		if h := b.version(8); h.Outcome != recovery.Delivered || b.resource().State.Version != "8" || !b.r.OldestGap("s").IsZero() {
			t.Errorf("the next: %s, cursor %s", h.Outcome, b.resource().State.Version)
		}
	})
}

// A gap that fills in time: nothing is named, the sender of what fills it gets the upstream's answer.
func TestGapFillsAlsoWhenTheLaneIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			inSequence(s, u)
			s.Ordering.MaxHeld = 2
		})
		b.up()
		b.version(3)
		b.version(2)
		if h := b.version(5); h.Outcome != recovery.Unavailable {
			t.Errorf("a third one held: %s", h.Outcome)
		}
		if _, err := b.r.Find(context.Background(), "s", "v5"); err == nil {
			t.Error("what was refused left a trace")
		}
		if h := b.version(1); h.Outcome != recovery.Delivered {
			t.Errorf("what fills the gap: %s", h.Outcome)
		}
		time.Sleep(time.Second)
		if h := b.version(5); h.Outcome != recovery.Held {
			t.Errorf("its sender's retry: %s", h.Outcome)
		}
		b.version(4)
		time.Sleep(time.Second)
		if got := b.arrivals(); got != "1 2 3 4 5" {
			t.Errorf("the consumer saw %s", got)
		}
	})
}

// The first version ever seen of a resource goes back to its sender: what is held behind it, or waits for its turn as nothing is missing between them, keeps waiting
// for the sender's retry, also over a restart. It does not become the first.
func TestTheNextWaitsForTheFirstVersionThatWasReturned(t *testing.T) {
	for next, c := range map[int]struct {
		told time.Duration // when its sender is
		seen string
	}{
		7: {0, "5 5 6 7"},
		6: {10 * time.Second, "5 5 6"}, // the timeout of the upstream
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Ordering.Policy, s.Delivery.Mode = "in_sequence", "proxy"
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer {
				return hooktest.Answer{Status: 503, Delay: time.Second}
			})
			began := time.Now()
			first := make(chan recovery.Handled, 1)
			go func() { first <- b.version(5) }()
			synctest.Wait()
			if h := b.version(next); h.Outcome != recovery.Held || time.Since(began) != c.told {
				t.Errorf("%d behind 5: %s after %s", next, h.Outcome, time.Since(began))
			}
			if h := <-first; h.Outcome != recovery.Returned {
				t.Errorf("5: %s", h.Outcome)
			}
			b.consumer.Plan(nil)
			time.Sleep(2 * time.Second)
			b.restart()
			time.Sleep(2 * time.Second)
			if h := b.again("v5"); h.Outcome != recovery.Delivered {
				t.Errorf("its sender's retry: %s", h.Outcome)
			}
			if next != 6 {
				b.version(6)
			}
			time.Sleep(time.Second)
			if got := b.arrivals(); got != c.seen {
				t.Errorf("the consumer saw %s", got)
			}
		})
	}
}

// deadBehindAGap has delivered version 1, and made dead letters of 3 and 4, as 2 did not come.
func deadBehindAGap(t *testing.T) *bed {
	b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
		inSequence(s, u)
		s.Ordering.OnGap = "dead_letter"
	})
	b.up()
	b.version(1)
	b.version(3)
	b.version(4)
	time.Sleep(time.Minute)
	return b
}

func TestGapBecomesDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := deadBehindAGap(t)
		if got := b.states(); got["failed/gap"] != 2 || b.resource().State.Version != "1" {
			t.Fatalf("%v, cursor %s", got, b.resource().State.Version)
		}
		b.version(2)
		for _, id := range []string{"v3", "v4"} {
			b.pause(true)
			if _, err := b.r.ReplayOne(context.Background(), b.find(id).ID, "", "ops", false, ""); err != nil {
				t.Fatal(err)
			}
			if rec := b.find(id); rec.Reason != event.Queued {
				t.Errorf("%s, which is next, is %s/%s", id, rec.State, rec.Reason)
			}
			b.pause(false)
			time.Sleep(time.Second)
		}
		if got := b.arrivals(); got != "1 2 3 4" {
			t.Errorf("after the replay: %s, %v", got, b.states())
		}
	})
}

// What is replayed while a version before it is missing waits for it like what comes in, and shows that it is held.
func TestAReplayBehindAGapIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := deadBehindAGap(t)
		if got := b.states(); got["failed/gap"] != 2 {
			t.Fatal(got)
		}
		began := time.Now()
		if _, err := b.r.StartReplay(t.Context(), recovery.ReplaySpec{IDs: []string{"v3", "v4"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		b.restart()
		if got := b.states(); got["pending/held"] != 2 {
			t.Errorf("behind the gap: %v", got)
		}
		if _, err := b.r.Resolve(t.Context(), b.find("v3").ID, "ops", "yes"); err != recovery.ErrNotDeadLetter {
			t.Errorf("what is pending is settled: %v", err)
		}
		if r := b.resource(); len(r.Held) != 2 || r.Held[0].ReleaseAt.Sub(began) > 31*time.Second {
			t.Errorf("held since %s: %+v", began, r.Held)
		}
		b.version(2)
		time.Sleep(time.Second)
		if got := b.arrivals(); got != "1 2 3 4" {
			t.Errorf("after the gap: %s, %v", got, b.states())
		}
		if got := b.states(); got["replayed"] != 2 {
			t.Error(got)
		}
	})
}

// What waits behind an attempt whose failure is returned to its sender goes as soon as that is.
func TestTheNextGoesWhenOneIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy = "proxy", "serial"
		})
		b.up()
		b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
			if s.Header.Get("Hooktender-Event-Id") == "v1" {
				return hooktest.Answer{Status: 503, Delay: time.Second}
			}
			return hooktest.Answer{Status: 422, Delay: time.Second}
		})
		began := time.Now()
		go b.version(1)
		synctest.Wait()
		if h := b.version(2); h.Result == nil || time.Since(began) != 2*time.Second {
			t.Errorf("the second: %s after %s", h.Outcome, time.Since(began))
		}
		if _, err := b.r.ReplayOne(t.Context(), b.find("v1").ID, "", "ops", false, ""); err != nil {
			t.Fatal(err)
		}
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 422} })
		time.Sleep(time.Minute)
		if rec := b.find("v1"); !rec.DeadLetter() {
			t.Errorf("returned, and its replay refused: %s/%s", rec.State, rec.Reason)
		}
	})
}

// A permanent failure of the next version is a gap that is over: the one after it goes, says so, and takes the cursor with it.
func TestRefusedVersionIsAGapThatIsOver(t *testing.T) {
	for _, c := range []struct{ onGap, want string }{{"release", "1 2 3(gap 2)"}, {"dead_letter", "1 2"}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				inSequence(s, u)
				s.Ordering.OnGap, s.Delivery.Mode = c.onGap, "store"
			})
			b.up()
			b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
				if s.Header.Get("Hooktender-Event-Id") == "v2" {
					return hooktest.Answer{Status: 400, Delay: time.Second}
				}
				return hooktest.Answer{}
			})
			b.version(1)
			time.Sleep(time.Second)
			b.version(2)
			b.version(3)
			time.Sleep(10 * time.Second)
			if got := b.arrivals(); got != c.want {
				t.Errorf("on_gap %s: the consumer saw %s", c.onGap, got)
			}
			if cursor := b.resource().State.Version; c.onGap == "release" && cursor != "3" || c.onGap == "dead_letter" && (cursor != "1" || b.states()["failed/gap"] != 1) {
				t.Errorf("on_gap %s: cursor %s, %v", c.onGap, cursor, b.states())
			}
		})
	}
}

// Window: everything waits max_wait and leaves sorted; what comes below what has left is stale.
func TestWindowSorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.MaxWait, s.Ordering.MaxHeld = "window", 5*time.Second, 4
		})
		b.up()
		for _, v := range []int{3, 1, 2} {
			if h := b.version(v); h.Outcome != recovery.Held {
				t.Errorf("%d: %s", v, h.Outcome)
			}
			time.Sleep(time.Second)
		}
		b.version(9)
		if h := b.version(10); h.Outcome != recovery.Unavailable {
			t.Errorf("max_held: %s", h.Outcome)
		}
		time.Sleep(3 * time.Second)
		if got := b.arrivals(); got != "1 2 3" {
			t.Errorf("after the first's wait: %s", got)
		}
		if h := b.version(2); h.Outcome != recovery.Duplicate {
			t.Errorf("%s", h.Outcome)
		}
		if h := b.send("late", "r", "2"); h.Outcome != recovery.Stale {
			t.Errorf("late: %s", h.Outcome)
		}
		time.Sleep(3 * time.Second)
		if got := b.arrivals(); got != "1 2 3 9" {
			t.Errorf("at the end: %s", got)
		}
	})
}

// What comes below a version that is on its way out of the window is stale, also if the consumer refuses that one: nobody may be told that it was delivered.
func TestStaleBehindWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.MaxWait = "window", time.Second
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400, Delay: 2 * time.Second} })
		b.version(3)
		time.Sleep(2 * time.Second) // it has left, and is not answered yet
		if h := b.version(2); h.Outcome != recovery.Stale {
			t.Fatalf("late: %s", h.Outcome)
		}
		time.Sleep(2 * time.Second)
		refused, late := b.find("v3"), b.find("v2")
		if refused.State != event.Failed || b.resource().State.Version != "" {
			t.Fatalf("%s, cursor %q", refused.State, b.resource().State.Version)
		}
		if v := b.r.SafeToRetry(&late); v.Verdict != "superseded" || strings.Contains(v.Reason, "delivered") {
			t.Errorf("%+v", v)
		}
	})
}

// A later version waits for one that is being retried, up to the deadline, and then in the lane; with continue it does not.
func TestLaterVersionAndARetry(t *testing.T) {
	for _, c := range []struct {
		policy, onFailure string
		second            recovery.Outcome
		want              string
	}{
		{"reject_stale", "block", recovery.Held, "1 1 2"}, {"reject_stale", "continue", recovery.Delivered, "1 2"},
		{"serial", "block", recovery.Held, "1 1 2"}, {"serial", "continue", recovery.Delivered, "1 2 1"},
		{"in_sequence", "block", recovery.Held, "1 1 2"}, {"in_sequence", "continue", recovery.Delivered, "1 2(gap 1)"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Ordering.Policy, s.Ordering.Start, s.Ordering.OnFailure = c.policy, "1", c.onFailure
				s.Delivery.Deadline, s.Delivery.Retry.Base, s.Delivery.Retry.Jitter = 2*time.Second, 20*time.Second, "none"
			})
			b.up()
			b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
				if s.Header.Get("Hooktender-Event-Id") == "v1" && nth == 1 {
					return hooktest.Answer{Status: 503}
				}
				return hooktest.Answer{}
			})
			if h := b.version(1); h.Outcome != recovery.Accepted {
				t.Errorf("%s/%s: the first: %s", c.policy, c.onFailure, h.Outcome)
			}
			began := time.Now()
			h := b.version(2)
			if waited := time.Since(began); h.Outcome != c.second || h.Outcome == recovery.Held && waited != 2*time.Second {
				t.Errorf("%s/%s: the second: %s after %s", c.policy, c.onFailure, h.Outcome, waited)
			}
			if rec := b.find("v2"); c.second == recovery.Held && (rec.State != event.Pending || rec.Reason != event.Held) {
				t.Errorf("%s/%s: the second is %s/%s", c.policy, c.onFailure, rec.State, rec.Reason)
			}
			time.Sleep(time.Minute)
			if got := b.arrivals(); got != c.want {
				t.Errorf("%s/%s: the consumer saw %s, want %s (%v)", c.policy, c.onFailure, got, c.want, b.states())
			}
		})
	}
}

// A version that a sender sent by mistake is quarantined; the honest one passes; forced through, it goes; an operator takes the cursor back.
func TestVersionSentByMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.MaxJump = "reject_stale", 100
		})
		b.up()
		b.version(1)
		if h := b.send("far", "r", "9223372036854775807"); h.Outcome != recovery.Quarantined {
			t.Errorf("far ahead: %s", h.Outcome)
		}
		if rec := b.find("far"); rec.State != event.Rejected || rec.Reason != event.VersionJump {
			t.Errorf("far ahead: %s/%s", rec.State, rec.Reason)
		}
		if h := b.version(101); h.Outcome != recovery.Delivered {
			t.Errorf("a jump of exactly max_jump: %s", h.Outcome)
		}
		far := b.find("far").ID
		if res, err := b.r.ReplayOne(context.Background(), far, "", "ops", false, ""); err != nil || res.Why != recovery.SkipQuarantined {
			t.Errorf("unforced: %+v, %v", res, err)
		}
		if res, err := b.r.ReplayOne(context.Background(), far, "", "ops", true, "yes"); err != nil || !res.Started {
			t.Errorf("forced: %+v, %v", res, err)
		}
		time.Sleep(time.Second)
		if h := b.version(102); h.Outcome != recovery.Stale || b.resource().State.Version != "9223372036854775807" {
			t.Errorf("after it: %s", h.Outcome)
		}
		if _, err := b.r.SetCursor(context.Background(), "s", "r", "102"); err != nil {
			t.Fatal(err)
		}
		b.restart()
		if h := b.version(103); h.Outcome != recovery.Delivered || b.resource().State.Version != "103" {
			t.Errorf("the next honest version: %s, cursor %s", h.Outcome, b.resource().State.Version)
		}
	})
}

// A resource is shown with the event that its cursor is of, also after a newer one has been given up: refused, or discarded while it waited for a decision.
func TestAResourceNamesTheEventOfItsCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.MaxJump, s.Delivery.OnUnknown = "reject_stale", 100, "hold"
		})
		b.up()
		b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
			switch s.Header.Get("Hooktender-Event-Id") {
			case "v2", "w2":
				return hooktest.Answer{Status: 400}
			case "v3":
				return hooktest.Answer{Break: true}
			}
			return hooktest.Answer{}
		})
		b.version(1)
		before := b.resource().State
		time.Sleep(time.Second)
		b.version(2)
		b.version(3)
		if _, err := b.r.Discard(context.Background(), b.find("v3").ID, "ops", "no"); err != nil {
			t.Fatal(err)
		}
		after := b.resource().State
		if after.Floor != "3" {
			t.Errorf("given up up to %q", after.Floor)
		}
		if after.EventID != "v1" || after.Version != "1" || !after.UpdatedAt.Equal(before.UpdatedAt) {
			t.Errorf("cursor %s of %s, moved at %s; it was %s of %s at %s", after.Version, after.EventID, after.UpdatedAt, before.Version, before.EventID, before.UpdatedAt)
		}
		b.send("w2", "other", "2")
		if other, err := b.r.Resource(t.Context(), "s", "other"); err != nil || other.State.Floor != "2" || other.State.UpdatedAt.IsZero() {
			t.Errorf("where nothing was delivered: %+v, %v", other.State, err)
		}
	})
}

// A forced replay that the consumer refuses falls back to what the event was: the cursor stays, in the journal as in the lane, and what waits there is not too late.
func TestARefusedForcedReplayMovesNoCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			inSequence(s, u)
			s.Ordering.MaxJump = 100
		})
		b.up()
		refuse := func(id string) {
			b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
				if s.Header.Get("Hooktender-Event-Id") == id {
					return hooktest.Answer{Status: 422}
				}
				return hooktest.Answer{}
			})
		}
		force := func(id string) {
			t.Helper()
			if res, err := b.r.ReplayOne(context.Background(), b.find(id).ID, "", "ops", true, "yes"); err != nil || !res.Started {
				t.Fatalf("%s: %+v, %v", id, res, err)
			}
			time.Sleep(time.Second)
		}
		b.version(1)
		b.send("far", "r", "1000")
		b.version(3) // waits for 2
		refuse("far")
		force("far")
		if rec := b.find("far"); rec.State != event.Rejected || rec.Reason != event.VersionJump {
			t.Errorf("what was refused: %s/%s", rec.State, rec.Reason)
		}
		if rec := b.find("v3"); rec.State != event.Pending || rec.Reason != event.Held {
			t.Errorf("what waits: %s/%s", rec.State, rec.Reason)
		}
		b.version(2)
		time.Sleep(time.Second)
		if got := b.arrivals(); got != "1 far(gap 2-999) 2 3" {
			t.Errorf("the consumer saw %s", got)
		}
		if _, err := b.r.SetCursor(context.Background(), "s", "r", "1"); err != nil { // to have all of it again
			t.Fatal(err)
		}
		refuse("v3")
		force("v3")
		if rec := b.find("v3"); rec.State != event.Delivered || b.resource().State.Version != "1" {
			t.Errorf("3 is %s again, cursor %s", rec.State, b.resource().State.Version)
		}
	})
}

// A cursor is put only where an event can find it: a name that no event can have is a slip of whoever wrote it.
func TestACursorOfWhatNoEventCanBeOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, inSequence)
		part := strings.Repeat("x", 255)
		for name, ok := range map[string]bool{
			"r": true, "a/b": true, "100%": true, "a:": true, "é": true, part: true, strings.Repeat("%00", 255) + ":" + part: true, // joined of parts, percent-encoded
			"": false, part + "x": false, "r\n": false, "a\x00b": false, "\u0085": false, "\xff": false, strings.Repeat("%00", 256) + ":a": false,
		} {
			st, err := b.r.SetCursor(t.Context(), "s", name, "5")
			if (err == nil) != ok || err != nil && !errors.Is(err, recovery.ErrResource) || ok && st.State.Version != "5" {
				t.Errorf("%.40q: %+v, %v", name, st.State, err)
			}
			if _, err := b.r.SetCursor(t.Context(), "s", name, ""); errors.Is(err, recovery.ErrResource) { // one that is there already can be forgotten
				t.Errorf("%.40q cannot be forgotten", name)
			}
		}
	})
}

// set-cursor moves what waits on, and an attempt that is under way does not undo it.
func TestSetCursorWhileSomethingIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, inSequence)
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 3 * time.Second} })
		go b.version(1)
		time.Sleep(time.Second)
		b.version(6)
		if _, err := b.r.SetCursor(context.Background(), "s", "r", "5"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if got, cursor := b.arrivals(), b.resource().State.Version; got != "1 6" || cursor != "6" {
			t.Errorf("the consumer saw %s, cursor %s", got, cursor)
		}
	})
}

// At most once: an attempt of unknown outcome waits for a decision, and its lane with it.
func TestUnknownOutcomeWaitsForADecision(t *testing.T) {
	for _, decision := range []string{"replay", "resolve", "discard", "discard, its source gone"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				inSequence(s, u)
				s.Delivery.OnUnknown = "hold"
			})
			b.up()
			b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer { return hooktest.Answer{Break: nth == 1} })
			if h := b.version(1); h.Outcome != recovery.Accepted {
				t.Errorf("its sender is told %s", h.Outcome)
			}
			b.consumer.Plan(nil)
			b.version(2)
			time.Sleep(time.Hour)
			b.restart()
			time.Sleep(time.Hour)
			rec := b.find("v1")
			if rec.Reason != event.WaitingForDecision || len(b.consumer.Seen()) != 1 || b.r.SafeToRetry(&rec).Verdict != "unsafe" {
				t.Fatalf("after two hours: %s/%s, %s", rec.State, rec.Reason, b.arrivals())
			}
			if _, err := b.r.ReplayOne(context.Background(), rec.ID, "", "ops", false, ""); err != recovery.ErrNeedsForce {
				t.Errorf("unforced: %v", err)
			}
			var err error
			want := "1 2(gap 1)"
			switch decision {
			case "replay":
				_, err = b.r.ReplayOne(context.Background(), rec.ID, "", "ops", true, "looked at it")
				want = "1 1 2"
			case "resolve":
				want = "1 2" // it happened: nothing is missing
				_, err = b.r.Resolve(context.Background(), rec.ID, "ops", "it happened")
			case "discard":
				_, err = b.r.Discard(context.Background(), rec.ID, "ops", "not wanted")
			default:
				want = "1"
				b.source = b.another("other")
				b.restart()
				_, err = b.r.Discard(context.Background(), rec.ID, "ops", "not wanted")
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if got := b.arrivals(); got != want {
				t.Errorf("%s: the consumer saw %s", decision, got)
			}
			if decision == "replay" && b.consumer.Seen()[1].Header.Get("Hooktender-Redelivered") != "possible" {
				t.Error("the forced replay is not marked")
			}
		})
	}
}

// A version that waited for a decision may be at the consumer: replayed by force it goes before the older ones that wait behind it, also where the process ends meanwhile,
// and they are too late then.
func TestNothingOlderGoesBeforeAForcedReplayOfAnUnknownOutcome(t *testing.T) {
	for _, ended := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Ordering.Policy, s.Delivery.OnUnknown, s.Delivery.Mode = "reject_stale", "hold", "store"
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Break: true} })
			b.version(5)
			time.Sleep(time.Second)
			b.consumer.Plan(nil)
			b.version(4)
			time.Sleep(time.Hour)
			if ended {
				b.down()
			}
			if _, err := b.r.ReplayOne(context.Background(), b.find("v5").ID, "", "ops", true, "looked at it"); err != nil {
				t.Fatal(err)
			}
			if ended {
				b.restart()
				b.up()
			}
			time.Sleep(time.Hour)
			if got, older := b.arrivals(), b.find("v4"); got != "5 5" || older.Reason != event.Stale {
				t.Errorf("ended %t: the consumer saw %s; 4 is %s/%s", ended, got, older.State, older.Reason)
			}
		})
	}
}

// observe: everything passes, and the consumer is told what would have been done.
func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			inSequence(s, u)
			s.Ordering.Mode, s.Ordering.MaxJump = "observe", 50
		})
		b.up()
		for _, v := range []int{1, 3, 2, 100, 4} {
			if h := b.version(v); h.Outcome != recovery.Delivered {
				t.Errorf("%d: %s", v, h.Outcome)
			}
		}
		var notes []string
		for _, s := range b.consumer.Seen() {
			notes = append(notes, s.Header.Get("Hooktender-Event-Id")+":"+s.Header.Get("Hooktender-Order"))
		}
		if got := strings.Join(notes, " "); got != "v1: v3:held v2:stale v100:version_jump v4:stale" {
			t.Errorf("the consumer is told %s", got)
		}
	})
}

// What observe has told of an attempt is not told again of a later one: a gap that held it then may be filled when its sender or an operator sends it again, and an order that
// a reload has brought meanwhile is kept, not only told of.
func TestObserveTellsOfEachTimeAnew(t *testing.T) {
	for _, how := range []string{"redelivery", "replay", "replay too early", "reload"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				inSequence(s, u)
				s.Ordering.Mode = "observe"
			})
			b.up()
			b.version(1)
			refuse := 400
			if how == "reload" {
				refuse = 503
			}
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: refuse} })
			b.version(3)
			b.consumer.Plan(nil)
			want := ""
			if how == "replay too early" {
				want = "held"
			} else {
				b.version(2)
			}
			switch how {
			case "redelivery":
				b.again("v3")
			case "replay", "replay too early":
				if _, err := b.r.ReplayOne(t.Context(), b.find("v3").ID, "", "ops", false, ""); err != nil {
					t.Fatal(err)
				}
			case "reload":
				b.source.Ordering.Mode = "enforce"
				b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
			}
			time.Sleep(time.Hour)
			seen := b.consumer.Of("s", "v3")
			if first, last := seen[0].Header.Get("Hooktender-Order"), seen[len(seen)-1].Header.Get("Hooktender-Order"); len(seen) != 2 || first != "held" || last != want {
				t.Errorf("%s: %d attempts, told %q and %q", how, len(seen), first, last)
			}
		})
	}
}

// While order is only observed, an event that failed is replayed as without one, also below the version that was delivered since; the consumer is told.
func TestObserveLetsAReplayPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Ordering.Mode = "reject_stale", "observe"
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		b.version(3)
		b.consumer.Plan(nil)
		b.version(5)
		rec := b.find("v3")
		if verdict := b.r.SafeToRetry(&rec).Verdict; verdict != "yes" {
			t.Errorf("safe to retry: %s", verdict)
		}
		if res, err := b.r.ReplayOne(t.Context(), rec.ID, "", "ops", false, ""); err != nil || !res.Started {
			t.Errorf("%+v %v", res, err)
		}
		time.Sleep(time.Minute)
		seen, now := b.consumer.Of("s", "v3"), b.find("v3")
		if told := seen[len(seen)-1].Header.Get("Hooktender-Order"); len(seen) != 2 || told != "stale" || now.State != event.Replayed {
			t.Errorf("%d attempts, told %q, %s/%s", len(seen), told, now.State, now.Reason)
		}
		if at := b.resource().State.Version; at != "5" {
			t.Errorf("the cursor is %s", at)
		}
	})
}

// A resource whose events hang does not slow the others.
func TestBlackHoledResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Ordering.Policy = "serial" })
		b.up()
		b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
			if strings.HasPrefix(s.Header.Get("Hooktender-Event-Id"), "hole") {
				return hooktest.Answer{Delay: time.Hour}
			}
			return hooktest.Answer{Delay: 10 * time.Millisecond}
		})
		for i := range 50 {
			go b.send(fmt.Sprint("hole", i), "hole", "")
		}
		time.Sleep(time.Second)
		for i := range 300 {
			began := time.Now()
			if h := b.send(fmt.Sprint("evt", i), fmt.Sprint("r", i%7), ""); h.Outcome != recovery.Delivered || time.Since(began) > 11*time.Millisecond {
				t.Fatalf("event %d: %s after %s", i, h.Outcome, time.Since(began))
			}
			time.Sleep(time.Second)
		}
	})
}

// A reload brings an order while events of a resource wait without one, for their retry or for a slot: they take their place in its lane, the oldest goes first, and what
// comes meanwhile waits behind them.
func TestAnOrderThatAReloadBringsIsForWhatWaitsToo(t *testing.T) {
	for name, change := range map[string]func(*recovery.SourceConfig){
		"serial":       func(s *recovery.SourceConfig) { s.Ordering.Policy = "serial" },
		"reject_stale": func(s *recovery.SourceConfig) { s.Ordering.Policy = "reject_stale" },
		"in_sequence":  func(s *recovery.SourceConfig) { inSequence(s, nil) },
		"types":        func(s *recovery.SourceConfig) { s.Ordering.Types = []string{"*"} },
		"enforce":      func(s *recovery.SourceConfig) { s.Ordering.Mode = "enforce" },
	} {
		for _, after := range []time.Duration{10 * time.Millisecond, 5 * time.Minute} { // they wait for their time, or are due and wait for a slot
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
					s.Delivery.Mode, s.Delivery.Retry.MaxElapsed = "store", 12*time.Hour
					switch name {
					case "types":
						s.Ordering.Policy, s.Ordering.Types = "reject_stale", []string{"other"}
					case "enforce":
						s.Ordering.Policy, s.Ordering.Mode = "reject_stale", "observe"
					}
					u.Breaker = forward.BreakerConfig{Failures: 5, Probe: time.Minute, MaxProbe: time.Minute}
				})
				b.up()
				b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
				for v := 1; v <= 5; v++ { // the breaker opens
					b.version(v)
					time.Sleep(time.Millisecond)
				}
				time.Sleep(after)
				before := len(b.consumer.Seen())
				change(&b.source)
				if err := b.r.Apply(recovery.Config{Upstreams: map[string]forward.Config{"app": b.upstream}, Sources: []recovery.SourceConfig{b.source}}); err != nil {
					t.Fatal(err)
				}
				b.version(6)
				b.consumer.Plan(nil)
				time.Sleep(time.Hour)
				var got []string
				for _, s := range b.consumer.Seen()[before:] {
					got = append(got, s.Header.Get("Hooktender-Event-Id")+s.Header.Get("Hooktender-Gap"))
				}
				if want := []string{"v1", "v2", "v3", "v4", "v5", "v6"}; !slices.Equal(got, want) {
					t.Errorf("%s after %s: the consumer saw %v; %v", name, after, got, b.states())
				}
			})
		}
	}
}

// A version that came in time and is still being stored is waited for: what is newer went without it, and it was stale after its sender had been told that it was taken.
func TestNothingOvertakesWhatIsBeingStored(t *testing.T) {
	for _, c := range []struct {
		policy, start string
		err           error
		want          string
	}{
		{"in_sequence", "first_seen", nil, "1 2"},
		{"in_sequence", "1", nil, "1 2"},
		{"window", "first_seen", nil, "1 2"},
		{"in_sequence", "first_seen", journal.ErrFull, "2"},
		{"in_sequence", "1", journal.ErrFull, "2(gap 1)"},
		{"window", "first_seen", journal.ErrFull, "2"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, store := newInterruptedBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy, s.Ordering.Start, s.Ordering.MaxWait = "store", c.policy, c.start, time.Second
			})
			b.up()
			older := func() {
				sub := &recovery.Submission{Record: event.Record{Source: "s", Provider: "custom", EventID: "v1", Resource: "r", Version: "1", Verified: true,
					ReceivedAt: time.Now(), BodyBytes: 2, HasPayload: true},
					Payload: &event.Payload{Method: "POST", Target: []byte("/s"), Head: jsonHead, Body: []byte("{}"), Peer: "127.0.0.1"},
					Keys:    []event.Key{event.MakeKey(event.KeyEvent, "s", "", "v1")}}
				store.happens, store.err = func() { time.Sleep(100 * time.Millisecond) }, c.err
				if _, err := b.r.Source("s").Deliver(context.Background(), sub); err != c.err {
					t.Error(err)
				}
			}
			if c.start == "1" || c.policy == "window" { // 2 has waited long enough while 1 is stored
				b.version(2)
				time.Sleep(950 * time.Millisecond)
				older()
			} else {
				go older()
				synctest.Wait()
				b.version(2)
			}
			time.Sleep(time.Minute)
			if got := b.arrivals(); got != c.want {
				t.Errorf("%s from %s, %v: the consumer saw %s, want %s", c.policy, c.start, c.err, got, c.want)
			}
		})
	}
}
