package recovery_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// another is a second source like the bed's.
func (b *bed) another(name string) recovery.SourceConfig {
	s := b.source
	s.Name, s.Path = name, "/"+name
	return s
}

// reload brings upstreams and sources into effect.
func (b *bed) reload(upstreams map[string]forward.Config, sources ...recovery.SourceConfig) {
	b.t.Helper()
	if err := b.r.Apply(recovery.Config{Upstreams: upstreams, Sources: sources}); err != nil {
		b.t.Fatal(err)
	}
}

// A source that a reload gives another upstream takes its backlog along, although that is in the line of the old one, which is down, behind what stays.
func TestBacklogFollowsItsSource(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = "store", policy
				u.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Hour, MaxProbe: time.Hour}
			})
			b.up()
			down := b.upstream
			down.URL = "http://127.0.0.1:1"
			upstreams := map[string]forward.Config{"down": down, "app": b.upstream}
			s, stays := b.source, b.another("stays")
			s.Delivery.Upstream, stays.Delivery.Upstream = "down", "down"
			b.reload(upstreams, s, stays)
			for i := range 5 {
				b.sendTo("stays", fmt.Sprint("evt_", i), fmt.Sprint("r", i), "")
				b.send(fmt.Sprint("evt_", i), fmt.Sprint("r", i), "")
			}
			time.Sleep(time.Second)
			b.reload(upstreams, b.source, stays)
			time.Sleep(time.Second)
			if n := len(b.consumer.Seen()); n != 5 {
				t.Errorf("%s: %d of 5 events have come along", policy, n)
			}
		})
	}
}

// A source that was left out of the configuration over a restart is brought back by a reload: what was pending is delivered, a pause goes on, and an attempt that the
// restart cut off is marked.
func TestSourceThatAReloadBringsBack(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = "store", policy
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Second} })
			b.send("cut", "r", "")
			time.Sleep(time.Second)
			if _, err := b.r.SetPaused(t.Context(), "s", true); err != nil {
				t.Fatal(err)
			}
			for i := range 700 { // more than a page
				b.send(fmt.Sprint("evt_", i), "r", "")
			}
			whole := b.source
			b.source = b.another("other")
			b.kill()
			b.consumer.Plan(nil)
			b.source = whole
			b.reload(map[string]forward.Config{"app": b.upstream}, whole)
			time.Sleep(time.Hour)
			if n := len(b.consumer.Seen()); n != 1 {
				t.Errorf("%s: a paused source sent %d requests", policy, n-1)
			}
			if _, err := b.r.SetPaused(t.Context(), "s", false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if got := b.states(); got["delivered"] != 701 {
				t.Errorf("%s: %v", policy, got)
			}
			if again := b.consumer.Of("s", "cut"); len(again) != 2 || again[1].Header.Get("Hooktender-Redelivered") != "possible" {
				t.Errorf("%s: the attempt that was cut off: %+v", policy, again)
			}
			b.reload(map[string]forward.Config{"app": b.upstream}, whole)
			time.Sleep(time.Minute)
			if n := len(b.consumer.Seen()); n != 702 {
				t.Errorf("%s: %d requests", policy, n)
			}
		})
	}
}

// The order holds also there: what the end of the process cut off goes first, and nothing goes before all that waits is in its lane.
func TestSourceThatAReloadBringsBackKeepsItsOrder(t *testing.T) {
	for _, policy := range []string{"serial", "reject_stale"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = "store", policy
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Second} })
			for v := range 10 {
				b.version(v)
				time.Sleep(100 * time.Millisecond)
			}
			whole := b.source
			b.source = b.another("other")
			b.kill()
			b.consumer.Plan(nil)
			b.source = whole
			b.reload(map[string]forward.Config{"app": b.upstream}, whole)
			time.Sleep(time.Minute)
			if got := b.arrivals(); got != "0 0 1 2 3 4 5 6 7 8 9" {
				t.Errorf("%s: the consumer saw %s", policy, got)
			}
		})
	}
}

// While ordering only observes, what is left in a lane from before goes as all the rest does, and the cursor does not go back for it, also not once the order is back.
func TestTheCursorStaysWhileOrderingObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy = "reject_stale"
			s.Delivery.Retry.Base, s.Delivery.Retry.Jitter = 10*time.Second, "none"
		})
		b.up()
		b.version(5)
		b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
			if s.Header.Get("Hooktender-Event-Id") == "v7" && nth == 1 {
				return hooktest.Answer{Status: 503}
			}
			return hooktest.Answer{}
		})
		b.version(7)
		mode := func(mode string) {
			s := b.source
			s.Ordering.Mode = mode
			b.reload(map[string]forward.Config{"app": b.upstream}, s)
		}
		mode("observe")
		b.version(9)
		time.Sleep(20 * time.Second)
		if got, cursor := b.arrivals(), b.resource().State.Version; got != "5 7 9 7" || cursor != "9" {
			t.Errorf("the consumer saw %s, cursor %s", got, cursor)
		}
		mode("enforce")
		if h := b.version(8); h.Outcome != recovery.Stale {
			t.Errorf("8 after 9: %s", h.Outcome)
		}
	})
}

// An attempt that is under way without a lane when a reload brings an order moves the cursor all the same, and one that ends later in its lane does not take it back.
func TestTheCursorOfAnAttemptThatAReloadMeets(t *testing.T) {
	for _, before := range []string{"none", "observe"} {
		for _, behind := range []time.Duration{0, 5 * time.Second} { // an older version is under way meanwhile, in its lane
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
					s.Delivery.Mode, s.Ordering.Policy = "store", "reject_stale"
					if before == "none" {
						s.Ordering.Policy = "none"
					} else {
						s.Ordering.Mode = "observe"
					}
				})
				b.up()
				b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
					if s.Header.Get("Hooktender-Event-Id") == "v9" {
						return hooktest.Answer{Delay: 3 * time.Second}
					}
					return hooktest.Answer{Delay: behind}
				})
				b.version(9)
				time.Sleep(time.Second)
				s := b.source
				s.Ordering.Policy, s.Ordering.Mode = "reject_stale", "enforce"
				b.reload(map[string]forward.Config{"app": b.upstream}, s)
				if behind > 0 {
					b.version(7)
				}
				time.Sleep(10 * time.Second)
				if cursor := b.resource().State.Version; cursor != "9" {
					t.Errorf("%s, %s behind: cursor %s", before, behind, cursor)
				}
				if h := b.version(8); h.Outcome != recovery.Stale {
					t.Errorf("%s, %s behind: 8 after 9: %s", before, behind, h.Outcome)
				}
			})
		}
	}
}

// What is held, or waits in a lane behind what is retried or waits for a decision, waits no longer for others once a reload has taken the order away; nor does a restart with another
// configuration make it wait. Senders are let go.
func TestWhatIsHeldGoesWhenTheOrderIsTakenAway(t *testing.T) {
	for name, change := range map[string]func(*recovery.SourceConfig){
		"none":    func(s *recovery.SourceConfig) { s.Ordering.Policy = "none" },
		"observe": func(s *recovery.SourceConfig) { s.Ordering.Mode = "observe" },
		"types":   func(s *recovery.SourceConfig) { s.Ordering.Types = []string{"other"} },
	} {
		for _, how := range []string{"reload", "restart"} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
					inSequence(s, u)
					s.Ordering.MaxWait, s.Ordering.OnGap, s.Delivery.OnUnknown, s.Delivery.Mode = 24*time.Hour, "dead_letter", "hold", "store"
				})
				b.up()
				b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
					return hooktest.Answer{Break: s.Header.Get("Hooktender-Event-Id") == "v1" && nth == 1}
				})
				b.version(1) // waits for a decision
				time.Sleep(time.Second)
				b.version(2) // waits for that
				b.version(5) // is held
				b.version(4)
				time.Sleep(time.Second)
				if got := b.arrivals(); got != "1" {
					t.Fatalf("before: %s", got)
				}
				change(&b.source)
				if how == "reload" {
					b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
				} else {
					b.restart()
				}
				time.Sleep(time.Second)
				if got := b.states(); got["delivered"] != 3 || got["pending/waiting_for_decision"] != 1 {
					t.Errorf("%s, %s: the consumer saw %s, %v", name, how, b.arrivals(), got)
				}
				if _, err := b.r.ReplayOne(t.Context(), b.find("v1").ID, "", "ops", true, "looked at it"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if got := b.find("v1"); got.State != event.Replayed {
					t.Errorf("%s, %s: after the decision: %s/%s", name, how, got.State, got.Reason)
				}
			})
		}
	}
}

// A reload to another order that still has lanes: what waits there is judged by the new one at once, and its sender is not let go.
func TestAnotherOrderIsForWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			inSequence(s, u)
			s.Ordering.MaxWait = 24 * time.Hour
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 2 * time.Second} })
		b.send("held", "other", "5")
		go b.version(1)
		synctest.Wait()
		told := make(chan recovery.Outcome, 1)
		go func() { told <- b.version(2).Outcome }()
		synctest.Wait()
		b.source.Ordering.Policy = "reject_stale"
		b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
		if got := <-told; got != recovery.Delivered {
			t.Errorf("the second sender is told %s", got)
		}
		time.Sleep(time.Second)
		if rec := b.find("held"); rec.State != event.Delivered {
			t.Errorf("what was held is %s/%s", rec.State, rec.Reason)
		}
	})
}

// A reload that takes the order away: a sender who waits in a lane is let go at once, in each mode, and its event goes on by itself.
func TestSendersInALaneAreLetGoWhenTheOrderIsTakenAway(t *testing.T) {
	for _, mode := range []string{"proxy", "hybrid"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = mode, "serial"
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 2 * time.Second} })
			go b.send("first", "r", "1")
			synctest.Wait()
			told := make(chan recovery.Outcome, 1)
			go func() { told <- b.send("second", "r", "2").Outcome }()
			synctest.Wait()
			began := time.Now()
			b.source.Ordering.Policy = "none"
			b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
			if got, took := <-told, time.Since(began); got != recovery.Accepted || took > time.Second {
				t.Errorf("%s: the second sender is told %s after %s", mode, got, took)
			}
			time.Sleep(5 * time.Second)
			if n := b.states()["delivered"]; n != 2 || len(b.consumer.Seen()) != 2 {
				t.Errorf("%s: %d of 2 are delivered: %v", mode, n, b.states())
			}
		})
	}
}

// What waits for a decision when a reload brings an order takes its place in its lane: nothing of its resource goes before it is decided.
func TestAnOrderThatAReloadBringsIsForWhatWaitsForADecision(t *testing.T) {
	for _, how := range []string{"reload", "restart"} {
		for _, decision := range []string{"replay", "resolve"} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
					s.Delivery.OnUnknown, s.Delivery.Mode = "hold", "store"
				})
				b.up()
				b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer { return hooktest.Answer{Break: nth == 1} })
				b.version(5)
				time.Sleep(time.Second)
				b.consumer.Plan(nil)
				b.source.Ordering.Policy = "reject_stale"
				if how == "reload" {
					b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
				} else {
					b.restart()
				}
				b.version(4)
				b.version(6)
				time.Sleep(time.Minute)
				if got := b.arrivals(); got != "5" {
					t.Errorf("%s: before the decision: %s", how, got)
				}
				want := "5 6"
				if decision == "replay" {
					want = "5 5 6"
					if _, err := b.r.ReplayOne(t.Context(), b.find("v5").ID, "", "ops", true, "looked at it"); err != nil {
						t.Fatal(err)
					}
				} else if _, err := b.r.Resolve(t.Context(), b.find("v5").ID, "ops", "it had happened"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if got := b.arrivals(); got != want || b.find("v4").Reason != event.Stale {
					t.Errorf("%s, %s: the consumer saw %s; 4 is %s", how, decision, got, b.find("v4").Reason)
				}
			})
		}
	}
}

// interrupted is a journal in which something happens, once, while an event is on its way to the disk.
type interrupted struct {
	journal.Journal
	happens func()
	err     error // of that write
}

func (i *interrupted) Accept(ctx context.Context, evs []journal.Accept, how journal.Durability) ([]journal.Verdict, error) {
	if do := i.happens; do != nil {
		i.happens = nil
		if do(); i.err != nil {
			return nil, i.err
		}
	}
	return i.Journal.Accept(ctx, evs, how)
}

func (i *interrupted) SetCursor(ctx context.Context, st event.ResourceState, how journal.Durability) error {
	if do := i.happens; do != nil {
		i.happens = nil
		do()
	}
	return i.Journal.SetCursor(ctx, st, how)
}

// newInterruptedBed is a bed whose journal is interrupted.
func newInterruptedBed(t *testing.T, change func(*recovery.SourceConfig, *forward.Config)) (*bed, *interrupted) {
	store := &interrupted{}
	return newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
		model, work := b.openModel(observe)
		store.Journal = model
		return store, work
	}, change), store
}

// Two versions that are both too far ahead and come at once are both quarantined: the one that is still being recorded as such is not on its way to the consumer.
func TestOneJumpDoesNotCoverForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newInterruptedBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy, s.Ordering.MaxJump = "store", "reject_stale", 2
		})
		b.up()
		b.version(1)
		synctest.Wait()
		store.happens = func() {
			if h := b.version(9); h.Outcome != recovery.Quarantined {
				t.Errorf("9 while 8 is being recorded: %s", h.Outcome)
			}
		}
		if h := b.version(8); h.Outcome != recovery.Quarantined {
			t.Errorf("8 after 1: %s", h.Outcome)
		}
	})
}

// An event that comes in while a reload brings another order is looked at as that one does, whether it was about to be judged or being stored. It used to have no version
// there, was rejected as stale, in store mode after its sender had been told 202, and was said to be superseded.
func TestAnOrderThatAReloadBringsIsForWhatIsComingIn(t *testing.T) {
	for _, before := range []string{"serial", "reject_stale"} {
		for _, after := range []string{"in_sequence", "reject_stale", "window", "serial", "none"} {
			for _, stored := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					b, store := newInterruptedBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
						s.Delivery.Mode, s.Ordering.Policy = "store", before
					})
					b.up()
					b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: time.Second} })
					b.version(1)
					synctest.Wait()
					reload := func() {
						b.source.Ordering.Policy, b.source.Ordering.Start = after, "1"
						b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
					}
					if stored {
						store.happens = reload
					} else {
						b.asked = reload
					}
					h := b.version(2)
					time.Sleep(time.Hour)
					if got := b.arrivals(); got != "1 2" || h.Outcome == recovery.Stale {
						t.Errorf("%s, then %s (stored: %t): the sender was told %s, the consumer saw %q; %v", before, after, stored, h.Outcome, got, b.states())
					}
				})
			}
		}
	}
}

// A cursor that an operator sets while a reload brings another comparison is read as that one does.
func TestACursorIsSetWhileAReloadComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newInterruptedBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy = "store", "reject_stale"
		})
		b.send("older", "r", "1600000000")
		store.happens = func() {
			b.source.Ordering.Compare = "timestamp"
			b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
		}
		if _, err := b.r.SetCursor(t.Context(), "s", "r", "1700000000"); err != nil {
			t.Fatal(err)
		}
		b.up()
		time.Sleep(time.Hour)
		if rec := b.find("older"); rec.Reason != event.Stale {
			t.Errorf("below the cursor: %s %s", rec.State, rec.Reason)
		}
	})
}

// What waits for an older version that is being stored waits no longer once a reload lets that one pass without an order. It used to wait for ever.
func TestWhatIsBeingStoredLeavesTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newInterruptedBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy, s.Ordering.MaxWait = "store", "window", time.Second
		})
		b.up()
		store.happens = func() {
			b.send("newer", "r", "6")
			time.Sleep(time.Minute)
			if n := len(b.consumer.Seen()); n > 0 {
				t.Errorf("%d have passed the older one", n)
			}
			b.source.Ordering.Compare = "timestamp"
			b.reload(map[string]forward.Config{"app": b.upstream}, b.source)
			time.Sleep(time.Minute)
		}
		b.send("older", "r", "-5") // no timestamp
		time.Sleep(time.Minute)
		if n := b.states()["delivered"]; n != 2 {
			t.Errorf("%d of 2 are delivered: %v", n, b.states())
		}
	})
}

// elsewhere is a second consumer, with the configuration of an upstream for it.
func (b *bed) elsewhere() (*hooktest.Consumer, forward.Config) {
	b.t.Helper()
	l, err := b.net.Listen("127.0.0.1:4000")
	if err != nil {
		b.t.Fatal(err)
	}
	c := hooktest.NewConsumer()
	c.Serve(l)
	b.t.Cleanup(c.Close)
	cfg := b.upstream
	cfg.URL = "http://127.0.0.1:4000"
	return c, cfg
}

// A reload while a sender waits for a slot: its event goes where the source's events go now, by the path and in the order that belong there.
func TestSendersWhoWaitForASlotWhenAReloadComes(t *testing.T) {
	for mode, want := range map[string]recovery.Outcome{"hybrid": recovery.Accepted, "proxy": recovery.Unavailable} {
		for _, what := range []string{"another upstream", "another address", "an order"} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
					s.Delivery.Mode, s.Delivery.Path, u.MaxInFlight = mode, "/old", 1
				})
				b.up()
				moved, next := b.elsewhere()
				b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 3 * time.Second} })
				go b.send("first", "r", "")
				synctest.Wait()
				told := make(chan recovery.Handled, 1)
				go func() { told <- b.send("second", "r", "") }()
				synctest.Wait()
				s, upstreams, want := b.source, map[string]forward.Config{"app": b.upstream, "next": next}, want
				s.Delivery.Path = "/new"
				switch what {
				case "another upstream":
					s.Delivery.Upstream = "next"
				case "another address": // the slot is still the one it waits for
					upstreams["app"], want = next, recovery.Delivered
				case "an order":
					s.Ordering.Policy, moved = "serial", b.consumer
				}
				b.reload(upstreams, s)
				time.Sleep(time.Minute)
				if h := <-told; h.Outcome != want {
					t.Errorf("%s, %s: %s", mode, what, h.Outcome)
				}
				if mode == "proxy" && want != recovery.Delivered {
					return
				}
				if seen := moved.Of("s", "second"); len(seen) != 1 || seen[0].URI != "/new" {
					t.Errorf("%s, %s: %+v", mode, what, seen)
				}
			})
		}
	}
}

// askedForCursors calls f before the journal is asked for the state of a resource.
type askedForCursors struct {
	journal.Journal
	f func()
}

func (j *askedForCursors) Resources(ctx context.Context, keys []event.ResourceKey) ([]event.ResourceState, error) {
	if f := j.f; f != nil {
		j.f = nil
		f()
	}
	return j.Journal.Resources(ctx, keys)
}

// The same where nobody waits for a slot: an event in store mode, of which a reload is told while it comes in.
func TestAnEventThatComesInWhenAReloadComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked *askedForCursors
		b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
			model, work := b.openModel(observe)
			asked = &askedForCursors{Journal: model}
			return asked, work
		}, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Delivery.Path = "store", "/old"
			s.Ordering.Policy, s.Ordering.Mode = "reject_stale", "observe"
		})
		moved, next := b.elsewhere()
		asked.f = func() {
			s := b.source
			s.Delivery.Path, s.Delivery.Upstream = "/new", "next"
			b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, s)
		}
		b.send("evt", "r", "1")
		time.Sleep(time.Minute)
		if seen := moved.Of("s", "evt"); len(seen) != 1 || seen[0].URI != "/new" {
			t.Errorf("%+v", seen)
		}
	})
}

// What the old address of an upstream still answers, or does not, says nothing about the new one.
func TestAnAttemptFromBeforeAReloadIsNotCountedForTheNewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(_ *recovery.SourceConfig, u *forward.Config) {
			u.Breaker = forward.BreakerConfig{Failures: 3, Probe: time.Hour, MaxProbe: time.Hour}
		})
		b.up()
		moved, next := b.elsewhere()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 3 * time.Second, Break: true} })
		for i := range 5 {
			go b.send(fmt.Sprint("evt_", i), "", "")
		}
		time.Sleep(time.Second)
		b.reload(map[string]forward.Config{"app": next}, b.source)
		time.Sleep(time.Minute)
		if up := b.r.Upstreams()[0]; up.Breaker != "closed" || up.ConsecutiveFailures != 0 || len(moved.Seen()) != 5 {
			t.Errorf("%+v after %d requests at the new address", up, len(moved.Seen()))
		}
	})
}

// An operator who lowers breaker.max_probe need not wait for a probe that was put off for longer than that.
func TestAReloadThatLowersMaxProbeBringsTheNextProbeForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(_ *recovery.SourceConfig, u *forward.Config) {
			u.Breaker = forward.BreakerConfig{Failures: 1, Probe: 10 * time.Hour, MaxProbe: 10 * time.Hour}
		})
		b.send("evt_1", "", "")
		b.up()
		time.Sleep(time.Minute)
		next := b.upstream
		next.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Second, MaxProbe: 30 * time.Second}
		b.reload(map[string]forward.Config{"app": next}, b.source)
		time.Sleep(31 * time.Second)
		if r := b.find("evt_1"); r.State != event.Delivered {
			t.Errorf("%s/%s, %+v", r.State, r.Reason, b.r.Upstreams())
		}
	})
}

// An outage that ended with a reload to another address has ended, also for those who ask after a restart: what waits is given up in time.
func TestAnOutageThatAReloadEndedIsOverAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			u.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Hour, MaxProbe: time.Hour}
			s.Delivery.Retry.MaxAttempts, s.Delivery.Retry.Base, s.Delivery.Retry.Factor = 1000, time.Minute, 1
		})
		b.send("evt_1", "", "") // opens the breaker
		moved, next := b.elsewhere()
		b.upstream = next
		b.reload(map[string]forward.Config{"app": next}, b.source)
		time.Sleep(100 * time.Hour)
		moved.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 429} })
		b.send("evt_2", "", "")
		b.restart()
		time.Sleep(time.Hour)
		if r := b.find("evt_2"); r.State != event.Failed || r.Reason != event.Exhausted {
			t.Errorf("%s/%s an hour after its first attempt", r.State, r.Reason)
		}
	})
}

// An upstream, or a source, that a reload takes out is listed while something waits for it, and no longer: the open breaker of one that is gone is no alarm.
func TestWhatIsGoneIsNotListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) { u.Breaker.Failures = 1 })
		_, next := b.elsewhere()
		listed := func() (names string) {
			for _, u := range b.r.Upstreams() {
				names += u.Name + " " + u.Breaker + ", "
			}
			return names
		}
		stays := b.another("stays")
		stays.Delivery.Upstream = "next"
		b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, b.source, stays)
		b.send("evt_1", "", "")
		b.reload(map[string]forward.Config{"next": next}, stays)
		if got, sources := listed(), b.r.Names(); got != "app open, next closed, " || !slices.Equal(sources, []string{"s", "stays"}) {
			t.Errorf("while an event waits: %s%v", got, sources)
		}
		b.up()
		time.Sleep(time.Minute)
		if got, sources := listed(), b.r.Names(); got != "next closed, " || b.states()["delivered"] != 1 || !slices.Equal(sources, []string{"stays"}) {
			t.Errorf("after it: %s%v, %v", got, sources, b.states())
		}
		b.down()
		b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, b.source, stays)
		b.send("evt_2", "", "")
		moved := b.source
		moved.Delivery.Upstream = "next"
		b.reload(map[string]forward.Config{"next": next}, moved, stays)
		time.Sleep(time.Minute)
		if got := listed(); got != "next closed, " || b.states()["delivered"] != 2 {
			t.Errorf("after its source has moved: %s, %v", got, b.states())
		}
	})
}

// askedBefore calls f before the journal lists what is pending.
type askedBefore struct {
	journal.Journal
	f func()
}

func (j *askedBefore) List(ctx context.Context, q journal.Query) (journal.Page, error) {
	if f := j.f; f != nil && len(q.States) == 1 && q.States[0] == event.Pending {
		j.f = nil
		f()
	}
	return j.Journal.List(ctx, q)
}

// An operator replays or settles an event just as a reload brings its source back and what is pending of it is taken up: nothing is sent twice, and nothing waits for what was settled.
func TestDecisionsWhileAReloadBringsTheSourceBack(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			var asked *askedBefore
			b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
				engine, work := b.openEmbedded(observe)
				asked = &askedBefore{Journal: engine}
				return asked, work
			}, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Delivery.OnUnknown, s.Ordering.Policy = "store", "hold", policy
			})
			b.up()
			b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
				switch id := s.Header.Get("Hooktender-Event-Id"); {
				case id == "refused" && nth == 1:
					return hooktest.Answer{Status: 400}
				case id == "undecided":
					return hooktest.Answer{Break: true}
				}
				return hooktest.Answer{Delay: time.Second}
			})
			b.send("refused", "r1", "")
			b.send("undecided", "r2", "")
			time.Sleep(time.Second)
			refused, undecided := b.find("refused").ID, b.find("undecided").ID
			whole := b.source
			b.source = b.another("other")
			b.restart()
			b.source = whole
			asked.f = func() {
				if _, err := b.r.ReplayOne(t.Context(), refused, "", "ops", false, ""); err == nil {
					t.Logf("%s: replayed meanwhile", policy)
				}
				if _, err := b.r.Discard(t.Context(), undecided, "ops", "not wanted"); err == nil {
					t.Logf("%s: discarded meanwhile", policy)
				}
			}
			b.reload(map[string]forward.Config{"app": b.upstream}, whole)
			if asked.f != nil {
				t.Fatal("nothing was taken up")
			}
			time.Sleep(time.Minute)
			_, _ = b.r.ReplayOne(t.Context(), refused, "", "ops", false, "")
			_, _ = b.r.Discard(t.Context(), undecided, "ops", "not wanted")
			b.send("after", "r2", "")
			time.Sleep(time.Minute)
			if n := len(b.consumer.Of("s", "refused")); n != 2 {
				t.Errorf("%s: %d requests, where one was refused and one replayed", policy, n)
			}
			if got := b.states(); got["replayed"] != 1 || got["failed/discarded"] != 1 || got["delivered"] != 1 {
				t.Errorf("%s: %v", policy, got)
			}
		})
	}
}
