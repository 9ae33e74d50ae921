package recovery_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// While the breaker is open: hybrid senders are answered at once, proxy senders sent away; one probe at a time, further and further apart; attempts and
// elapsed time stand still, also over a restart; then everything arrives.
func TestOpenBreaker(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		for _, mode := range []string{"hybrid", "proxy"} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
					s.Delivery.Mode, s.Ordering.Policy = mode, policy
					s.Delivery.Retry.MaxAttempts, s.Delivery.Retry.Base = 4, 100*time.Millisecond
					u.Breaker = forward.BreakerConfig{Failures: 3, Probe: 2 * time.Second, MaxProbe: 16 * time.Second}
				})
				b.up()
				b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer {
					return hooktest.Answer{Status: 503, Delay: 50 * time.Millisecond}
				})
				for i := range 3 {
					b.send(fmt.Sprint("first", i), fmt.Sprint("first", i), "")
				}
				time.Sleep(500 * time.Millisecond)
				if got := b.r.Upstreams()[0]; got.Breaker != "open" || got.NextProbeAt.IsZero() {
					t.Fatalf("%s/%s: %+v", policy, mode, got)
				}
				for i := range 200 {
					began := time.Now()
					h := b.send(fmt.Sprint("later", i), fmt.Sprint("r", i%5), "")
					if waited := time.Since(began); mode == "hybrid" && (h.Outcome != recovery.Accepted || waited > 0) {
						t.Fatalf("%s/%s: %s after %s", policy, mode, h.Outcome, waited)
					}
					if mode == "proxy" && h.Outcome == recovery.Unavailable && h.RetryAfter != 2*time.Second {
						t.Errorf("%s: come again after %s", policy, h.RetryAfter)
					}
					if mode == "proxy" && h.Outcome != recovery.Unavailable && h.Outcome != recovery.Returned {
						t.Errorf("%s: %s", policy, h.Outcome)
					}
					time.Sleep(500 * time.Millisecond)
				}
				if mode == "proxy" {
					// Now and then one of the requests was the probe: 2, 4, 8, 16, 16 … seconds apart.
					if n := len(b.consumer.Seen()); n < 8 || n > 12 {
						t.Errorf("%s/%s: %d requests in 100 s", policy, mode, n)
					}
					return
				}
				b.restart()
				time.Sleep(time.Hour)
				seen := b.consumer.Seen()
				if n := len(seen); n < 220 || n > 250 {
					t.Errorf("%s/%s: %d requests in an hour", policy, mode, n)
				}
				for i, s := range seen[10:] {
					if gap := s.At.Sub(seen[10+i-1].At); gap < 50*time.Millisecond {
						t.Errorf("%s/%s: probes %s apart", policy, mode, gap)
					}
				}
				if got := b.states(); got["failed/exhausted"] != 0 {
					t.Errorf("%s/%s: %v", policy, mode, got)
				}
				b.consumer.Plan(nil)
				time.Sleep(5 * time.Minute)
				if got := b.states(); got["delivered"] != 203 {
					t.Errorf("%s/%s: when it is back: %v", policy, mode, got)
				}
			})
		}
	}
}

// A rate below that of the probes holds for these, too: the schedule waits for the token (it does not ask again and again, or this test would not end), and a
// proxy sender is sent away at once.
func TestOpenBreakerWithoutATokenForTheProbe(t *testing.T) {
	for _, mode := range []string{"hybrid", "proxy"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Delivery.Mode = mode
				u.Rate = 0.1
				u.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Second, MaxProbe: time.Second}
			})
			b.send("first", "r", "")
			time.Sleep(2 * time.Second)
			began := time.Now()
			h := b.send("second", "r", "")
			if want := map[string]recovery.Outcome{"hybrid": recovery.Accepted, "proxy": recovery.Unavailable}[mode]; h.Outcome != want || time.Since(began) > 0 {
				t.Errorf("%s: %s after %s", mode, h.Outcome, time.Since(began))
			}
			b.up()
			time.Sleep(30 * time.Second)
			if got := b.states(); mode == "hybrid" && got["delivered"] != 2 {
				t.Errorf("%s: %v", mode, got)
			}
		})
	}
}

// beside reloads with a second source, whose consumer is an upstream of that name.
func (b *bed) beside(name string) (map[string]forward.Config, recovery.SourceConfig) {
	other := b.upstream
	other.URL += "/" + name
	upstreams := map[string]forward.Config{"app": b.upstream, name: other}
	stays := b.another("stays")
	stays.Delivery.Upstream = name
	b.reload(upstreams, b.source, stays)
	return upstreams, stays
}

// What waited during an outage is not given up for its first failure after it: not where the wall clock was set back over a restart, nor where a restart or a
// reload has brought another consumer.
func TestOutageCountsWhateverEndsIt(t *testing.T) {
	for name, end := range map[string]func(b *bed, back func()){
		"a restart":                     func(b *bed, back func()) { b.stop(); time.Sleep(time.Hour); back(); b.start() },
		"a restart, the clock set back": func(b *bed, back func()) { b.stop(); b.shift -= time.Hour; back(); b.start() },
		"a restart with another consumer": func(b *bed, back func()) {
			b.stop()
			time.Sleep(time.Hour)
			back()
			b.upstream.URL += "/new"
			b.start()
		},
		"a restart with an upstream of another name": func(b *bed, back func()) {
			b.stop()
			time.Sleep(time.Hour)
			back()
			b.source.Delivery.Upstream = "new"
			b.name = "new"
			b.start()
			b.restart()
		},
		"a reload with the consumer of another source": func(b *bed, back func()) {
			upstreams, stays := b.beside("other")
			time.Sleep(time.Hour)
			back()
			b.source.Delivery.Upstream = "other"
			b.reload(upstreams, b.source, stays)
		},
		"a restart after a reload with the consumer of another source": func(b *bed, back func()) {
			upstreams, stays := b.beside("other")
			time.Sleep(time.Hour)
			b.source.Delivery.Upstream = "other"
			b.pause(true)
			b.reload(upstreams, b.source, stays)
			b.name, b.upstream = "other", upstreams["other"]
			b.restart()
			back()
			b.pause(false)
		},
		"a restart that brings back what a reload took out, with another consumer": func(b *bed, back func()) {
			stays := b.another("stays")
			moved := b.upstream
			moved.URL += "/new"
			b.reload(map[string]forward.Config{"app": moved}, stays)
			time.Sleep(time.Hour)
			b.stop()
			back()
			b.upstream = moved
			b.start()
		},
		"a reload with another consumer": func(b *bed, back func()) {
			time.Sleep(time.Hour)
			back()
			b.source.Delivery.Upstream = "new"
			if err := b.r.Apply(recovery.Config{Upstreams: map[string]forward.Config{"new": b.upstream}, Sources: []recovery.SourceConfig{b.source}}); err != nil {
				b.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, func(_ *recovery.SourceConfig, u *forward.Config) { u.Breaker.Failures = 3 })
				b.up()
				b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
				for i := range 3 {
					b.send(fmt.Sprint("evt_", i), "", "")
				}
				end(b, func() {
					var came atomic.Int64
					b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer {
						if came.Add(1) == 2 {
							return hooktest.Answer{Status: 503}
						}
						return hooktest.Answer{}
					})
				})
				time.Sleep(time.Hour)
				if got := b.states(); got["delivered"] != 3 {
					t.Error(got)
				}
			})
		})
	}
}

// What waits for a retry is tried at once when the gateway is about to go, also where the wall clock was set.
func TestPushAfterTheClockWasSet(t *testing.T) {
	for _, shift := range []time.Duration{0, time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Ordering.Policy = "serial" })
			b.stop()
			b.shift = shift
			b.start()
			b.up()
			b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
				if nth > 1 {
					return hooktest.Answer{}
				}
				return hooktest.Answer{Status: 503, Header: map[string][]string{"Retry-After": {"200"}}}
			})
			b.send("evt_1", "", "")
			b.send("in a lane", "r", "")
			b.r.Push()
			synctest.Wait()
			for _, id := range []string{"evt_1", "in a lane"} {
				if got := b.find(id); got.State != event.Delivered {
					t.Errorf("the clock set by %s: %s is %s/%s", shift, id, got.State, got.Reason)
				}
			}
		})
	}
}

// Retry-After is not capped by max_delay; a retry that would fall after max_elapsed is not waited for; a negative one is a refusal.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		value  string
		status int
		second time.Duration // 0 = none
		want   event.Reason
	}{
		{"100", 503, 100 * time.Second, event.NoReason}, {"100", 429, 100 * time.Second, event.NoReason}, {"299", 503, 299 * time.Second, event.NoReason},
		{"301", 503, 0, event.Exhausted}, {"-1", 503, 0, event.Permanent}, {"soon", 503, 5 * time.Second, event.NoReason},
		{"9223372036", 503, 0, event.Exhausted}, {"99999999999999999999", 503, 0, event.Exhausted}, {"-99999999999", 503, 0, event.Permanent}, {"Fri, 31 Dec 9999 23:59:59 GMT", 503, 0, event.Exhausted},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Retry.MaxDelay, s.Delivery.Retry.Base, s.Delivery.Retry.Jitter = 5*time.Second, 10*time.Second, "none"
			})
			b.up()
			b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
				if nth > 1 {
					return hooktest.Answer{}
				}
				return hooktest.Answer{Status: c.status, Header: map[string][]string{"Retry-After": {c.value}}, Delay: time.Second}
			})
			began := time.Now()
			b.send("evt_1", "", "")
			ended := b.find("evt_1")
			time.Sleep(10 * time.Minute)
			seen := b.consumer.Seen()
			if c.second == 0 {
				if len(seen) != 1 || ended.State != event.Failed || ended.Reason != c.want {
					t.Errorf("Retry-After: %s: %s/%s at once, %d requests", c.value, ended.State, ended.Reason, len(seen))
				}
				return
			}
			if len(seen) != 2 || seen[1].At.Sub(began).Round(100*time.Millisecond) != time.Second+c.second || b.find("evt_1").State != event.Delivered {
				t.Errorf("Retry-After: %s with %d: %d requests, the last after %s", c.value, c.status, len(seen), seen[len(seen)-1].At.Sub(began))
			}
		})
	}
}

// An answer that opens the breaker, or fails a probe, cannot put an event off for longer than it may take: it would wait for years, with all that waits behind it, and be no
// dead letter that could be settled.
func TestRetryAfterOfAnOpenBreaker(t *testing.T) {
	for _, policy := range []string{"none", "serial", "a long delay"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Ordering.Policy, u.Breaker.Failures = policy, 1
				if policy == "a long delay" {
					s.Ordering.Policy, s.Delivery.Retry.MaxElapsed, s.Delivery.Retry.Base, s.Delivery.Retry.Jitter = "none", time.Second, 30*time.Second, "none"
				}
			})
			b.up()
			b.consumer.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
				if s.Header.Get("Hooktender-Event-Id") == "evt_1" && nth == 1 {
					return hooktest.Answer{Status: 503, Header: map[string][]string{"Retry-After": {"999999999"}}}
				}
				return hooktest.Answer{}
			})
			b.send("evt_1", "r", "")
			b.send("evt_2", "r", "")
			b.send("evt_3", "other", "")
			time.Sleep(b.source.Delivery.Retry.MaxElapsed + time.Minute)
			if got := b.states(); got["delivered"] != 3 {
				t.Errorf("%s: %v, the next attempt at %s", policy, got, b.find("evt_1").NextAt)
			}
		})
	}
}

// A thousand events that fail at the same moment are retried all over the interval, not in waves.
func TestRetriesSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, buckets, base = 1000, 50, 100 * time.Second
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Delivery.Retry.Base, s.Delivery.Retry.MaxElapsed = base, time.Hour
			u.MaxInFlight, u.Breaker.Failures = 2000, 5000
		})
		b.up()
		b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
			if nth == 1 {
				return hooktest.Answer{Status: 500, Delay: time.Second}
			}
			return hooktest.Answer{}
		})
		began := time.Now()
		for i := range n {
			go b.send(fmt.Sprint("evt_", i), "", "")
		}
		time.Sleep(base + 2*time.Second)
		var hist [buckets]int
		late := 0
		for _, s := range b.consumer.Seen()[n:] {
			i := int(s.At.Sub(began.Add(time.Second)) * buckets / base)
			if i < 0 || i >= buckets {
				late++
				continue
			}
			hist[i]++
		}
		if got := b.states()["delivered"]; got != n || late > 0 {
			t.Errorf("%d delivered, %d outside the interval", got, late)
		}
		for i, k := range hist {
			if k > 3*n/buckets || k == 0 {
				t.Errorf("%d retries in bucket %d; the mean is %d", k, i, n/buckets)
			}
		}
	})
}

// Those who wait for their turn in a lane are answered as soon as the breaker opens.
func TestSendersInALaneAreLetGoWhenTheBreakerOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Ordering.Policy, s.Delivery.Retry.Jitter = "serial", "none"
			u.Breaker.Failures = 2
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if h := b.send(fmt.Sprint("evt_", i), "r", ""); h.Outcome != recovery.Accepted {
					t.Errorf("event %d: %s", i, h.Outcome)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 1100*time.Millisecond { // the second failure is the first retry, after a second
			t.Errorf("the last was answered after %s", took)
		}
		b.consumer.Plan(nil)
		time.Sleep(time.Minute)
		if got := b.states(); got["delivered"] != 10 {
			t.Errorf("%v", got)
		}
	})
}

// Those who wait for their turn in a lane, behind a retry, are answered as soon as the gateway is about to go, and so are those who come last: it waits no longer than an attempt
// takes, and they used to wait on until they were cut off without an answer.
func TestSendersInALaneAreLetGoWhenTheGatewayGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Ordering.Policy, s.Delivery.Retry.Jitter, s.Delivery.Retry.Base = "serial", "none", time.Minute
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
		b.send("evt_0", "r", "")
		began := time.Now()
		var wg sync.WaitGroup
		send := func(id string) {
			wg.Go(func() {
				if h := b.send(id, "r", ""); h.Outcome != recovery.Accepted || time.Since(began) != time.Second {
					t.Errorf("%s: %s after %s", id, h.Outcome, time.Since(began))
				}
			})
		}
		for i := range 3 {
			send(fmt.Sprint("evt_", i+1))
		}
		time.Sleep(time.Second)
		b.r.Leaving()
		send("last")
		wg.Wait()
		b.consumer.Plan(nil)
		b.restart()
		time.Sleep(time.Hour)
		if got := b.states(); got["delivered"] != 5 {
			t.Errorf("%v", got)
		}
	})
}

// Those who wait for their turn in a lane are answered as soon as an operator pauses the source; the attempt under way comes to its end.
func TestSendersInALaneAreLetGoWhenTheSourceIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) { s.Ordering.Policy = "serial" })
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 3 * time.Second} })
		began := time.Now()
		var wg sync.WaitGroup
		var delivered atomic.Int32
		for i := range 10 {
			wg.Go(func() {
				h := b.send(fmt.Sprint("evt_", i), "r", "")
				switch took := time.Since(began); {
				case h.Outcome == recovery.Accepted && took == time.Second:
				case h.Outcome == recovery.Delivered && took == 3*time.Second:
					delivered.Add(1)
				default:
					t.Errorf("event %d: %s after %s", i, h.Outcome, took)
				}
			})
		}
		time.Sleep(time.Second)
		if _, err := b.r.SetPaused(t.Context(), "s", true); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		time.Sleep(time.Hour)
		if n := len(b.consumer.Seen()); n != 1 || delivered.Load() != 1 {
			t.Errorf("a paused source sent %d requests, and %d senders heard of it", n, delivered.Load())
		}
		b.consumer.Plan(nil)
		if _, err := b.r.SetPaused(t.Context(), "s", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := b.states(); got["delivered"] != 10 || len(b.consumer.Seen()) != 10 {
			t.Errorf("%v, %d requests", got, len(b.consumer.Seen()))
		}
	})
}

// Beyond a bound the sender is sent away, and nothing is left that would swallow its retry.
func TestBounds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*recovery.SourceConfig)
		fill   func(b *bed)
		send   func(b *bed) recovery.Handled
	}{
		{"pending", func(s *recovery.SourceConfig) { s.Delivery.Mode, s.Pending = "store", 3 },
			func(b *bed) { b.send("a", "", ""); b.send("b", "", ""); b.send("c", "", "") }, func(b *bed) recovery.Handled { return b.send("d", "", "") }},
		{"held", func(s *recovery.SourceConfig) { s.Ordering.Policy, s.Ordering.Start, s.Held = "in_sequence", "1", 2 },
			func(b *bed) { b.send("a", "r1", "3"); b.send("b", "r2", "3") }, func(b *bed) recovery.Handled { return b.send("d", "r3", "3") }},
		{"max_held", func(s *recovery.SourceConfig) {
			s.Ordering.Policy, s.Ordering.Start, s.Ordering.MaxHeld = "in_sequence", "1", 2
		},
			func(b *bed) { b.send("a", "r", "3"); b.send("b", "r", "5") }, func(b *bed) recovery.Handled { return b.send("d", "r", "7") }},
		{"resources", func(s *recovery.SourceConfig) { s.Ordering.Policy, s.Resources, s.Delivery.Mode = "serial", 2, "store" },
			func(b *bed) { b.send("a", "r1", ""); b.send("b", "r2", "") }, func(b *bed) recovery.Handled { return b.send("d", "r3", "") }},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { c.change(s) })
			c.fill(b)
			for range 3 {
				if h := c.send(b); h.Outcome != recovery.Unavailable {
					t.Errorf("%s: beyond the bound: %s", c.name, h.Outcome)
				}
			}
			if _, err := b.r.Find(context.Background(), "s", "d"); err == nil {
				t.Errorf("%s: what was refused left a trace", c.name)
			}
			b.up()
			time.Sleep(2 * time.Minute)
			h := c.send(b)
			time.Sleep(2 * time.Minute)
			if rec := b.find("d"); h.Outcome == recovery.Duplicate || h.Outcome == recovery.Unavailable || rec.State != event.Delivered {
				t.Errorf("%s: the sender's retry: %s, %s/%s", c.name, h.Outcome, rec.State, rec.Reason)
			}
		})
	}
}

// The bound on pending events holds for what comes again after it had failed, too.
func TestBoundOnWhatComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode, s.Pending = "store", 2 })
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
		for _, id := range []string{"a", "b", "c"} {
			b.send(id, "", "")
			time.Sleep(time.Second)
		}
		if _, err := b.r.SetPaused(t.Context(), "s", true); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b"} {
			if h := b.again(id); h.Outcome != recovery.Accepted {
				t.Errorf("%s: %s", id, h.Outcome)
			}
		}
		if h, got := b.again("c"), b.states(); h.Outcome != recovery.Unavailable || got["pending/queued"] != 2 || got["failed/permanent"] != 1 {
			t.Errorf("beyond the bound: %s, %v", h.Outcome, got)
		}
	})
}

// kill ends the process at this very moment and starts it again: the files are as they are now. What the dead process still does happens on other files,
// and it begins no attempt any more; those under way have reached the consumer, but their answers reach nobody.
func (b *bed) kill() {
	b.t.Helper()
	synctest.Wait()
	dir := b.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		b.t.Fatal(err)
	}
	dead := make(chan struct{})
	go func(stop func()) { stop(); close(dead) }(b.stop)
	b.dead, b.dir = append(b.dead, dead), dir
	b.start()
}

// Where nobody knows what became of an attempt, it matters which consumer may have had it: not the one that the restart brought, nor one that a reload had brought since the attempt began.
func TestAnAttemptThatAKillCutsOffNamesItsUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) { s.Delivery.Mode = "store" })
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Second} })
		b.send("first", "", "")
		time.Sleep(time.Second)
		before := b.name
		b.name, b.source.Delivery.Upstream = "second", "second"
		b.reload(map[string]forward.Config{before: b.upstream, b.name: b.upstream}, b.source)
		b.send("second", "", "")
		time.Sleep(time.Second)
		b.name, b.source.Delivery.Upstream = "third", "third"
		b.kill()
		b.consumer.Plan(nil)
		time.Sleep(time.Minute)
		for id, had := range map[string]string{"first": before, "second": "second"} {
			attempts, err := b.engine.Attempts(t.Context(), b.find(id).ID)
			if err != nil || len(attempts) != 2 || attempts[0].Upstream != had || attempts[1].Upstream != "third" {
				t.Errorf("%s: %+v (%v), not of %s and third", id, attempts, err, had)
			}
		}
	})
}

// At most once, also where it was the gateway that died during the attempt: nobody knows, so it waits for a decision, and what is newer with it.
func TestKillDuringAnAttemptThatMustNotBeRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Ordering.Policy, s.Delivery.OnUnknown, s.Delivery.Mode = "reject_stale", "hold", "store"
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Second} })
		b.version(5)
		time.Sleep(time.Second)
		b.kill()
		b.version(4)
		b.version(6)
		time.Sleep(time.Hour)
		rec := b.find("v5")
		if rec.State != event.Pending || rec.Reason != event.WaitingForDecision || b.arrivals() != "5" {
			t.Fatalf("5 is %s/%s, the consumer saw %s", rec.State, rec.Reason, b.arrivals())
		}
		attempts, err := b.engine.Attempts(context.Background(), rec.ID)
		if err != nil || len(attempts) != 1 || attempts[0].Outcome != event.OutcomeUnknown || attempts[0].ErrKind != forward.KindCrash {
			t.Errorf("%+v, %v", attempts, err)
		}
		if _, err := b.r.Resolve(context.Background(), rec.ID, "ops", "it had happened"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := b.arrivals(); got != "5 6" || b.find("v4").Reason != event.Stale {
			t.Errorf("after the decision: %s; 4 is %s", got, b.find("v4").State)
		}
	})
}

// An attempt that a kill cuts off counts like every other: with the last one that max_attempts allows the event is a dead letter, and what waits behind it goes on, also
// after one more restart.
func TestKillDuringTheLastAttempt(t *testing.T) {
	for _, policy := range []string{"none", "in_sequence"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Ordering.Policy, s.Ordering.Start, s.Delivery.Mode, s.Ordering.MaxWait = policy, "1", "store", 24*time.Hour
				s.Delivery.Retry.MaxAttempts, s.Delivery.Retry.Base, s.Delivery.Retry.Jitter = 2, 2*time.Second, "none"
			})
			b.up()
			b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
				if nth == 1 {
					return hooktest.Answer{Status: 503}
				}
				return hooktest.Answer{Delay: 5 * time.Second}
			})
			b.version(1)
			time.Sleep(3 * time.Second)
			b.kill()
			b.consumer.Plan(nil)
			time.Sleep(time.Minute)
			rec := b.find("v1")
			if rec.State != event.Failed || rec.Reason != event.Exhausted || rec.Attempts != 2 || !rec.Unknown || b.arrivals() != "1 1" {
				t.Errorf("%s: %s/%s after %d attempts; the consumer saw %s", policy, rec.State, rec.Reason, rec.Attempts, b.arrivals())
			}
			b.restart()
			b.version(2)
			time.Sleep(time.Minute)
			if got := b.find("v2"); got.State != event.Delivered {
				t.Errorf("%s: the next is %s/%s", policy, got.State, got.Reason)
			}
		})
	}
}

// Random arrival, failing deliveries, lost answers and SIGKILL at random moments: what the consumer applies for the first time is strictly newer than all
// before, whatever it sees again is marked, and everything accepted comes to its end.
//
// More: go test ./recovery -run TestOrderUnderKills -kill-rounds 50
func TestOrderUnderKills(t *testing.T) {
	for _, policy := range []string{"reject_stale", "in_sequence", "window"} {
		for round := range *killRounds {
			synctest.Test(t, func(t *testing.T) { orderUnderKills(t, policy, uint64(round)) })
		}
	}
}

var killRounds = flag.Int("kill-rounds", 1, "rounds of TestOrderUnderKills, per policy")

func orderUnderKills(t *testing.T, policy string, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
		s.Ordering.Policy, s.Ordering.Start, s.Ordering.MaxWait, s.Ordering.MaxHeld = policy, "1", 10*time.Minute, 1000
		s.Delivery.Mode, s.Delivery.Retry.MaxAttempts, s.Delivery.Retry.MaxElapsed = "store", 1000, 24*time.Hour
		s.Delivery.Retry.MaxDelay = 20 * time.Second
		if policy == "window" {
			s.Ordering.MaxWait = 5 * time.Second
		}
		u.Breaker.Failures = 1000
	})
	b.up()
	var mu sync.Mutex
	moods := rand.New(rand.NewPCG(seed, 2))
	newest, applied := map[int]int{}, map[string]int{}
	b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		mu.Lock()
		defer mu.Unlock()
		mood := moods.IntN(8)
		if mood < 2 {
			return hooktest.Answer{Status: 500}
		}
		id := s.Header.Get("Hooktender-Event-Id")
		var r, v int
		_, _ = fmt.Sscanf(id, "evt_%d_%d", &r, &v)
		if applied[id]++; applied[id] > 1 && s.Header.Get("Hooktender-Redelivered") != "possible" {
			t.Errorf("%s/%d: %s is sent again and not marked", policy, seed, id)
		}
		if v < newest[r] {
			t.Errorf("%s/%d: resource %d: version %d after %d", policy, seed, r, v, newest[r])
		}
		newest[r] = max(newest[r], v)
		return hooktest.Answer{Delay: time.Duration(moods.IntN(400)) * time.Millisecond, Break: mood == 2}
	})
	const resources, versions = 4, 25
	var all [][2]int
	for i := range resources * versions {
		all = append(all, [2]int{i / versions, i%versions + 1})
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, e := range all {
		id, resource, version := fmt.Sprintf("evt_%d_%d", e[0], e[1]), fmt.Sprint("r", e[0]), fmt.Sprint(e[1])
		b.send(id, resource, version)
		if random.IntN(4) == 0 {
			if h := b.send(id, resource, version); h.Outcome != recovery.Duplicate && h.Outcome != recovery.Stale {
				t.Errorf("%s/%d: %s again: %s", policy, seed, id, h.Outcome)
			}
		}
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		if random.IntN(12) == 0 {
			b.kill()
		}
	}
	time.Sleep(3 * time.Hour)
	got := b.states()
	if got["delivered"]+got["rejected/stale"] != len(all) || policy == "in_sequence" && got["delivered"] != len(all) {
		t.Errorf("%s/%d: at the end: %v", policy, seed, got)
	}
	if len(applied) != got["delivered"] {
		t.Errorf("%s/%d: %d applied, %d delivered", policy, seed, len(applied), got["delivered"])
	}
}

// A sender that waits for a slot when its source is paused is answered as one that comes later: nothing is sent for it.
func TestSendersWhoWaitForASlotWhenTheSourceIsPaused(t *testing.T) {
	for mode, want := range map[string]recovery.Outcome{"hybrid": recovery.Accepted, "proxy": recovery.Unavailable} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Delivery.Mode, u.MaxInFlight = mode, 1
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 3 * time.Second} })
			go b.send("first", "r", "")
			synctest.Wait()
			told := make(chan recovery.Handled, 3)
			for i := range cap(told) {
				go func() { told <- b.send(fmt.Sprint("evt_", i), "r", "") }()
			}
			synctest.Wait()
			if _, err := b.r.SetPaused(t.Context(), "s", true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			for range cap(told) {
				if h := <-told; h.Outcome != want {
					t.Errorf("%s: %s", mode, h.Outcome)
				}
			}
			if n := len(b.consumer.Seen()); n != 1 {
				t.Errorf("%s: a paused source sent %d requests", mode, n-1)
			}
			if _, err := b.r.SetPaused(t.Context(), "s", false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := b.states()["delivered"]; mode == "hybrid" && n != 4 {
				t.Errorf("%s: %v", mode, b.states())
			}
		})
	}
}

// What comes in while its source is paused is kept for later, and its sender answered at once; a proxy sender keeps it.
func TestSendersOfAPausedSource(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		for mode, want := range map[string]recovery.Outcome{"store": recovery.Accepted, "hybrid": recovery.Accepted, "proxy": recovery.Unavailable} {
			synctest.Test(t, func(t *testing.T) {
				b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, _ *forward.Config) {
					s.Delivery.Mode, s.Ordering.Policy = mode, policy
				})
				b.up()
				b.pause(true)
				began, kept := time.Now(), 1
				if want == recovery.Unavailable {
					kept = 0
				}
				if h := b.send("e", "r", ""); h.Outcome != want || h.RetryAfter != 0 || time.Since(began) > 0 {
					t.Errorf("%s/%s: %+v after %s", policy, mode, h, time.Since(began))
				}
				time.Sleep(time.Minute)
				if got := b.states(); got["pending/queued"] != kept || len(got) != kept || len(b.consumer.Seen()) > 0 {
					t.Errorf("%s/%s: %v, the consumer saw %d", policy, mode, got, len(b.consumer.Seen()))
				}
				b.pause(false)
				time.Sleep(time.Minute)
				if n := len(b.consumer.Seen()); n != kept {
					t.Errorf("%s/%s: later the consumer saw %d", policy, mode, n)
				}
			})
		}
	}
}

// A pause, unlike an outage, counts as time elapsed (docs/guarantees.md): what had failed before gets one more attempt after a long one.
func TestAPauseCountsAsTimeElapsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		for _, status := range []int{503, 200} {
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
			b.send(fmt.Sprint("evt_", status), "", "")
			b.pause(true)
			time.Sleep(time.Hour)
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: status} })
			b.pause(false)
			time.Sleep(time.Minute)
		}
		if got := b.states(); got["failed/exhausted"] != 1 || got["delivered"] != 1 {
			t.Errorf("%v", got)
		}
		if n := len(b.consumer.Seen()); n != 4 {
			t.Errorf("the consumer saw %d requests", n)
		}
	})
}

// Who waits for a slot longer than it may is answered then: accepted, and delivered later, or told to come again, and nothing is kept. The slots stay whole.
func TestWhoWaitsForASlotInVain(t *testing.T) {
	for mode, want := range map[string]recovery.Outcome{"hybrid": recovery.Accepted, "proxy": recovery.Unavailable} {
		synctest.Test(t, func(t *testing.T) {
			b := newBedOn(t, (*bed).openModel, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Delivery.Mode, s.Delivery.Deadline, u.Timeout, u.MaxInFlight = mode, 5*time.Second, 5*time.Second, 1
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 4 * time.Second} })
			for _, id := range []string{"a", "b"} {
				go b.send(id, "", "")
				synctest.Wait()
			}
			began := time.Now()
			if h := b.send("c", "", ""); h.Outcome != want || time.Since(began) != 5*time.Second {
				t.Errorf("%s: %s after %s", mode, h.Outcome, time.Since(began))
			}
			time.Sleep(time.Minute)
			seen := map[string]int{"hybrid": 3, "proxy": 2}[mode]
			if n := len(b.consumer.Seen()); n != seen || b.states()["delivered"] != seen {
				t.Errorf("%s: the consumer saw %d, want %d: %v", mode, n, seen, b.states())
			}
			if h := b.send("d", "", ""); h.Outcome != recovery.Delivered {
				t.Errorf("%s: later: %s", mode, h.Outcome)
			}
		})
	}
}

// An event that the journal turns out to know, or that somebody else has changed as its sender sends it again, is a duplicate, and its slot is free for others.
func TestADuplicateUsesNoSlot(t *testing.T) {
	for _, mode := range []string{"store", "hybrid", "proxy"} {
		synctest.Test(t, func(t *testing.T) {
			between := &overtaken{}
			b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
				model, work := b.openModel(observe)
				between.Journal = model
				return between, work
			}, func(s *recovery.SourceConfig, u *forward.Config) { s.Delivery.Mode, u.MaxInFlight = mode, 1 })
			b.up()
			b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
				return hooktest.Answer{Status: map[string]int{"failed": 400}[s.Header.Get("Hooktender-Event-Id")]}
			})
			b.send("failed", "", "")
			synctest.Wait()
			failed := b.find("failed")
			if h := b.send("failed", "", ""); h.Outcome != recovery.Duplicate || h.Fate.ID != failed.ID {
				t.Errorf("%s: the same again: %+v", mode, h)
			}
			between.events = map[string]bool{"failed": true}
			if mode != "store" {
				if h := b.again("failed"); h.Outcome != recovery.Duplicate || h.Fate.ID != failed.ID {
					t.Errorf("%s: sent again while somebody else changes it: %+v", mode, h)
				}
			}
			b.send("next", "", "")
			time.Sleep(time.Second)
			if rec := b.find("next"); rec.State != event.Delivered || len(b.consumer.Seen()) != 2 {
				t.Errorf("%s: the next is %s, the consumer saw %d", mode, rec.State, len(b.consumer.Seen()))
			}
		})
	}
}
