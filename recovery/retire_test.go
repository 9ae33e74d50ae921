package recovery_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/recovery"
)

// retired looks often, as the gateway does, and says which sources and upstreams are left.
func (b *bed) retired() (sources, upstreams int) {
	for range 12 {
		s, u := b.r.Retire(5 * time.Minute)
		sources, upstreams = len(s), len(u)
		time.Sleep(time.Minute)
	}
	return sources, upstreams
}

// Where names change with each reload neither the sources nor the upstreams of before stay, with a goroutine each.
func TestNamesThatChangeLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
		b.up()
		turn := func(i int) {
			s := b.another(fmt.Sprint("s", i))
			s.Delivery.Upstream = fmt.Sprint("app", i)
			b.reload(map[string]forward.Config{s.Delivery.Upstream: b.upstream}, s)
			if h := b.sendTo(s.Name, "evt", "", ""); h.Outcome != recovery.Delivered {
				t.Fatalf("%s: %s", s.Name, h.Outcome)
			}
		}
		turn(0)
		b.retired()
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 100 {
			turn(i + 1)
		}
		sources, upstreams := b.retired()
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before+50 || sources != 1 || upstreams != 1 {
			t.Errorf("%d sources and %d upstreams are left, and %d goroutines of %d", sources, upstreams, after, before)
		}
	})
}

// A source that is gone stays as long as something of it is pending, or its sender is being answered. It comes back as it was: paused, with the outage of its upstream.
func TestWhatIsWantedIsNotLetGo(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Ordering.Policy = policy
				u.Timeout = time.Hour
				u.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Second, MaxProbe: time.Second}
			})
			stays, next := b.another("stays"), b.upstream
			next.URL = "http://127.0.0.1:3001"
			stays.Delivery.Upstream = "next"
			away := func() { b.reload(map[string]forward.Config{"next": next}, stays) }
			left := func(when string, sources, upstreams int) {
				t.Helper()
				if s, u := b.retired(); s != sources || u != upstreams {
					t.Errorf("%s, %s: %d sources and %d upstreams are left, want %d and %d", policy, when, s, u, sources, upstreams)
				}
			}
			b.send("evt_1", "r", "")
			old := b.r.Source("s")
			away()
			left("while an event waits", 2, 2)
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 30 * time.Minute} })
			time.Sleep(time.Minute)
			left("while it is under way", 2, 2)
			b.consumer.Plan(nil)
			time.Sleep(time.Hour)
			if got := b.states(); got["delivered"] != 1 {
				t.Fatalf("%s: %v", policy, got)
			}
			left("after it", 1, 1)
			sub := &recovery.Submission{Record: event.Record{Source: "s", EventID: "late", ReceivedAt: time.Now()}}
			if h, err := old.Deliver(t.Context(), sub); h.Outcome != recovery.Unavailable || err != nil {
				t.Errorf("%s: a request from before: %s %v", policy, h.Outcome, err)
			}
			if _, err := b.r.ReplayOne(t.Context(), b.find("evt_1").ID, "", "test", true, "again"); !errors.Is(err, recovery.ErrUnknownSource) {
				t.Errorf("%s: a replay: %v", policy, err)
			}

			b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, b.source, stays)
			if h := b.send("evt_2", "r", ""); h.Outcome != recovery.Delivered {
				t.Errorf("%s: once it is back: %s", policy, h.Outcome)
			}
			if _, err := b.r.SetPaused(t.Context(), "s", true); err != nil {
				t.Fatal(err)
			}
			away()
			left("a paused one", 1, 1)
			b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, b.source, stays)
			if h := b.send("evt_3", "r", ""); h.Outcome != recovery.Accepted {
				t.Errorf("%s: once it is back and paused: %s", policy, h.Outcome)
			}
			away()
			left("a paused one with something pending", 2, 2)
		})
	}
}

// An upstream that is down when it is let go is down when it comes back, and is probed at once.
func TestAnUpstreamThatComesBackIsStillDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Delivery.Mode = "proxy"
			u.Breaker.Failures = 1
		})
		next := b.upstream
		next.URL = "http://127.0.0.1:3001"
		stays := b.another("stays")
		stays.Delivery.Upstream = "next"
		b.send("evt_1", "", "")
		b.reload(map[string]forward.Config{"next": next}, stays)
		if s, u := b.retired(); s != 1 || u != 1 {
			t.Fatalf("%d sources and %d upstreams are left", s, u)
		}
		b.reload(map[string]forward.Config{"app": b.upstream, "next": next}, b.source, stays)
		if got := b.r.Upstreams()[0]; got.Name != "app" || got.Breaker != "open" {
			t.Errorf("it comes back as %+v", got)
		}
		b.up()
		if h := b.send("evt_2", "", ""); h.Outcome != recovery.Delivered {
			t.Errorf("its probe: %s", h.Outcome)
		}
	})
}
