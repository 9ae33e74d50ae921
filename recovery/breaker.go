package recovery

import (
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
)

// breakerState of an upstream.
type breakerState uint8

const (
	closed breakerState = iota
	open
	halfOpen // a probe is under way
)

func (s breakerState) String() string { return [...]string{"closed", "open", "half_open"}[s] }

// breaker counts consecutive failures of one upstream and says when to stop trying (SPEC §6). It adds up the time during which it was
// not closed, which does not count towards max_elapsed of any event. Not safe for concurrent use.
type breaker struct {
	cfg      forward.BreakerConfig
	state    breakerState
	failures int           // consecutive
	since    time.Time     // when it left closed
	outage   time.Duration // time not closed, before since
	wait     time.Duration // between the last probe and the next
	next     time.Time     // next probe
	ramp     int           // attempts allowed at once while recovering; 0 = no bound of its own
}

// verdictOf says what an outcome tells about the upstream's health: +1 it is there, -1 it failed, 0 nothing.
func verdictOf(o event.Outcome, status int) int {
	switch {
	case o == event.OutcomeDelivered, o == event.OutcomePermanent:
		return 1
	case status == 408 || status == 425 || status == 429:
		return 0
	}
	return -1
}

// downtime is the time during which the breaker was not closed, up to now.
func (b *breaker) downtime(now time.Time) time.Duration {
	if b.state == closed {
		return b.outage
	}
	return b.outage + max(0, now.Sub(b.since))
}

// admit says whether an attempt may begin now, and whether it is a probe.
func (b *breaker) admit(now time.Time) (ok, probe bool) {
	switch b.state {
	case closed:
		return true, false
	case open:
		if !now.Before(b.next) {
			b.state = halfOpen
			return true, true
		}
	}
	return false, false
}

// hurry is for a new configuration: no wait goes on for longer than that allows.
func (b *breaker) hurry(now time.Time) {
	b.wait = min(b.wait, b.cfg.MaxProbe)
	if last := now.Add(b.cfg.MaxProbe); b.next.After(last) {
		b.next = last
	}
}

// cancel takes back a probe that was admitted and never sent.
func (b *breaker) cancel() {
	if b.state == halfOpen {
		b.state = open
	}
}

// report takes an outcome into account and says whether the state changed between closed and not closed.
func (b *breaker) report(o event.Outcome, status int, probe bool, now time.Time) (changed bool) {
	v := verdictOf(o, status)
	if probe && v == 0 {
		v = 1 // it answers
	}
	switch {
	case v > 0 && b.state != closed:
		b.outage += max(0, now.Sub(b.since))
		b.state, b.failures, b.ramp = closed, 0, 1
		return true
	case v > 0:
		b.failures = 0
		if b.ramp > 0 {
			b.ramp++
		}
	case v < 0 && probe && b.state == halfOpen:
		b.failures++
		b.state = open
		b.wait = min(2*b.wait, b.cfg.MaxProbe)
		b.next = now.Add(b.wait)
	case v < 0:
		b.failures++
		if b.state == closed && b.failures >= b.cfg.Failures {
			b.state, b.since, b.wait, b.ramp = open, now, b.cfg.Probe, 0
			b.next = now.Add(b.wait)
			return true
		}
	}
	return false
}
