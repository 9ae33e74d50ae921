package embedded

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Retention counts in the journal's own time. It began as the wall clock's and goes on with the monotonic clock, so that
// somebody who sets the wall clock forgets nothing early and keeps nothing for years. The difference of the two is the
// shift; where it is not zero, every stored time has it beside it. Across a restart of the process the
// boot clock says how long it took; across a restart of the machine the wall clock is believed up to maxAway.
type clock struct {
	now  func() time.Time
	boot func() bootTime
	mono bool // boot is the monotonic clock too, for tests
	own  bool // the wall clock is not package time's, or runs in a bubble: there is nothing to correct
	log  interface{ Warn(string, ...any) }

	base  time.Time // with its monotonic reading
	run   int64     // boot's nanoseconds at base
	start int64     // the journal's time at base

	shift  atomic.Int64 // wall clock minus journal's time, as it was last seen
	jumped atomic.Int64 // the journal's time when the shift changed last; 0 = never
	before atomic.Int64 // the shift before that
	mu     sync.Mutex   // one change at a time
}

const (
	clockSlack = int64(2 * time.Second)  // smaller differences are the clock being disciplined
	maxAway    = int64(24 * time.Hour)   // how much a restart of the machine may age the journal
	jumpGrace  = int64(10 * time.Second) // so long after a jump, times taken before it may still come in
)

// bootTime is how long the machine has run, and since which boot.
type bootTime struct {
	id    uint64 // hash of the boot's id; 0 = unknown
	nanos int64
}

// A mark is what the clocks said when the log had last reached the disk; the ledger keeps it.
type mark struct {
	journal, wall int64
	boot          bootTime
}

// begin sets the journal's time, given the last mark (zero for a new journal).
func (c *clock) begin(last mark) {
	boot := c.boot()
	c.base, c.run = c.now(), boot.nanos
	wall := nanos(c.base)
	c.start = wall
	if c.own || last.journal == 0 {
		return
	}
	shift := last.wall - last.journal
	away := wall - last.wall
	switch {
	case boot.id != 0 && boot.id == last.boot.id:
		away = max(0, boot.nanos-last.boot.nanos)
	case away < 0:
		away = 0
	case away > maxAway:
		away = maxAway
	}
	c.start = last.journal + away
	if d := wall - c.start - shift; d < clockSlack && d > -clockSlack {
		c.start = wall - shift
	} else {
		c.log.Warn("the clock was set while the gateway did not run, or it did not run for long: retention and retries count on from the last entry",
			"by", time.Duration(d).String(), "counted", time.Duration(away).String())
	}
	c.shift.Store(wall - c.start)
}

// read gives the journal's time, having looked whether the wall clock was set.
func (c *clock) read() int64 {
	t := c.now()
	if c.own {
		return nanos(t)
	}
	at := c.start + c.elapsed(t)
	shift := nanos(t) - at
	if d := shift - c.shift.Load(); d >= clockSlack || d <= -clockSlack {
		c.set(shift, at)
	}
	return at
}

// elapsed is the monotonic time between base and t.
func (c *clock) elapsed(t time.Time) int64 {
	if c.mono {
		return c.boot().nanos - c.run
	}
	return int64(t.Sub(c.base))
}

func (c *clock) set(shift, at int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.shift.Load()
	if d := shift - old; d < clockSlack && d > -clockSlack {
		return
	}
	c.before.Store(old)
	c.jumped.Store(at)
	c.shift.Store(shift)
	c.log.Warn("the clock was set: retention and retries count on as if it had not been", "by", time.Duration(shift-old).String(),
		"now", fromNanos(at+shift).Format(time.RFC3339))
}

// mark is what the ledger shall say of the clocks.
func (c *clock) mark() mark {
	at := c.read()
	return mark{journal: at, wall: at + c.shift.Load(), boot: c.boot()}
}

// shiftOf is the shift of a time that the wall clock gave a moment ago: right after a jump it may be from before it.
func (c *clock) shiftOf(wall, now int64) int64 {
	shift := c.shift.Load()
	if at := c.jumped.Load(); at == 0 || now-at > jumpGrace {
		return shift
	}
	before := c.before.Load()
	if distance(wall-before, now) < distance(wall-shift, now) {
		return before
	}
	return shift
}

// of is the journal's time at a moment that the wall clock gave just now.
func (c *clock) of(wall time.Time) int64 {
	now := c.read() // somebody may have set the clock since the last look at it
	return nanos(wall) - c.shiftOf(nanos(wall), now)
}

func distance(a, b int64) int64 {
	if a < b {
		return b - a
	}
	return a - b
}

// shift says in p what the times of an event's frame must be corrected by.
func (w *writer) shift(f *frame, p *parts, old *item) {
	c := &w.e.clock
	now := c.shift.Load()
	switch f.kind {
	case kindAccept:
		if now != 0 || c.jumped.Load() != 0 {
			p.shift.received = c.shiftOf(p.front.received, w.now)
			p.shift.settled = p.shift.received
		}
	case kindCarry:
		p.shift = old.shift
	case kindCommit:
		if now == 0 && c.jumped.Load() == 0 && old.shift == (shifts{}) {
			return
		}
		p.shift = old.shift
		if p.front.settled != old.settled {
			p.shift.settled = c.shiftOf(p.front.settled, w.now)
		}
	}
}

const shiftSize = 5 + 16 // of the section

func appendShift(body []byte, s shifts) []byte {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(s.received))
	binary.LittleEndian.PutUint64(b[8:], uint64(s.settled))
	return appendSection(slices.Clip(body), secShift, b[:])
}

// Steady is the time by which retries are scheduled: the wall clock's as of now, except that setting the clock does not
// change it. It never goes back, not even over a restart.
func (e *Engine) Steady() time.Time {
	c := &e.clock
	if c.own {
		return c.now()
	}
	return fromNanos(c.start + c.elapsed(c.now()))
}

// Shift is what is to be added to a time of Steady to have it as the wall clock shows it.
func (e *Engine) Shift() time.Duration { return time.Duration(e.clock.shift.Load()) }
