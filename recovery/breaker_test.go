package recovery

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newBreaker() *breaker {
	cfg := forward.BreakerConfig{Failures: 3, Probe: time.Second, MaxProbe: 4 * time.Second}
	return &breaker{cfg: cfg, wait: cfg.Probe}
}

// It opens after consecutive failures; 408, 425 and 429 are none, and a success begins the count anew.
func TestBreakerOpens(t *testing.T) {
	b := newBreaker()
	for _, s := range []struct {
		outcome event.Outcome
		status  int
	}{
		{event.OutcomeTransient, 503}, {event.OutcomeUnknown, 0}, {event.OutcomeTransient, 429}, {event.OutcomeTransient, 408}, {event.OutcomeTransient, 425},
		{event.OutcomePermanent, 404}, {event.OutcomeTransient, 500}, {event.OutcomeNotSent, 0},
	} {
		b.report(s.outcome, s.status, false, start)
		if b.state != closed {
			t.Fatalf("open after %v", s)
		}
	}
	if changed := b.report(event.OutcomeUnknown, 0, false, start); !changed || b.state != open {
		t.Fatal("the third in a row must open it")
	}
}

// While open, one probe at a time, ever further apart up to the bound; the time does not count for events.
func TestBreakerProbes(t *testing.T) {
	b := newBreaker()
	for range 3 {
		b.report(event.OutcomeNotSent, 0, false, start)
	}
	now := start
	for _, wait := range []time.Duration{1, 2, 4, 4, 4} {
		now = now.Add(wait*time.Second - time.Millisecond)
		if ok, _ := b.admit(now); ok {
			t.Fatalf("admitted before %ds were over", wait)
		}
		now = now.Add(time.Millisecond)
		if ok, probe := b.admit(now); !ok || !probe {
			t.Fatalf("no probe after %ds", wait)
		}
		if ok, _ := b.admit(now); ok {
			t.Fatal("two probes at once")
		}
		b.report(event.OutcomeTransient, 503, true, now)
	}
	now = now.Add(4 * time.Second)
	if ok, probe := b.admit(now); !ok || !probe {
		t.Fatal("no probe")
	}
	b.report(event.OutcomeDelivered, 200, true, now)
	if b.state != closed || b.downtime(now.Add(time.Hour)) != now.Sub(start) {
		t.Errorf("state %s, outage %s, want %s", b.state, b.downtime(now), now.Sub(start))
	}
	if b.ramp != 1 {
		t.Errorf("after an outage attempts begin one at a time, ramp %d", b.ramp)
	}
	b.report(event.OutcomeDelivered, 200, false, now)
	if b.ramp != 2 {
		t.Errorf("and grow with each success, ramp %d", b.ramp)
	}
}

// Full jitter: uniform between 0 and base·factor^n, capped.
func TestDelay(t *testing.T) {
	c := DefaultRetry()
	c.Base, c.Factor, c.MaxDelay = time.Second, 2, 5*time.Second
	random := rand.New(rand.NewPCG(1, 2))
	for n, bound := range []time.Duration{1, 2, 4, 5, 5} {
		bound *= time.Second
		var buckets [10]int
		for range 10_000 {
			d := c.delay(n, random.Float64)
			if d < 0 || d >= bound {
				t.Fatalf("retry %d: %s, bound %s", n, d, bound)
			}
			buckets[d*10/bound]++
		}
		for i, k := range buckets {
			if k < 800 || k > 1200 {
				t.Errorf("retry %d: %d of 10,000 in tenth %d: not uniform", n, k, i)
			}
		}
	}
	c.Jitter, c.MaxDelay = "none", 0
	if d := c.delay(400, random.Float64); d <= 0 {
		t.Errorf("no overflow after many retries, got %s", d)
	}
}

// While the breaker is open, requests that wait for a slot are told so at once, also where it is the turn of what is due: that goes no further either, and the next look
// is at the next probe.
func TestNobodyWaitsForASlotWhileTheBreakerIsOpen(t *testing.T) {
	now := time.Unix(1000, 0)
	u := &upstream{turn: true, breaker: *newBreaker(), waiters: []*waiter{{make(chan slot, 1)}, {make(chan slot, 1)}}}
	u.cfg.MaxInFlight = 1
	u.breaker.state, u.breaker.next = open, now.Add(time.Minute)
	told := u.waiters
	u.serve(now, true)
	for i, w := range told {
		select {
		case <-w.granted:
		default:
			t.Errorf("request %d goes on waiting", i)
		}
	}
}

// An outage is over once as many attempts have gone well as may be in flight: then there is a slot for what nobody queues for.
func TestTheRampEndsAtMaxInFlight(t *testing.T) {
	u := &upstream{r: &Recovery{}, cfg: forward.Config{MaxInFlight: 2}, breaker: breaker{ramp: 1}}
	for range 2 {
		if _, ok := u.spare(); ok {
			t.Fatalf("a spare slot at ramp %d", u.breaker.ramp)
		}
		s, _ := u.try(start)
		s.done(event.OutcomeDelivered, 200, start)
	}
	if _, ok := u.spare(); !ok {
		t.Errorf("no spare slot at ramp %d", u.breaker.ramp)
	}
}
