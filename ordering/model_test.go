package ordering

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hooktender/hooktender/event"
)

// Any arrival order × duplicates of versions × gaps × failures × lost answers × kills × operators, against a model of a consumer that remembers what
// it has applied. What must hold, whatever happens:
//   - what the consumer applies for the first time is strictly newer than all before (as new, where ties are forwarded; in turn, with serial),
//   - it is sent again only if an attempt of unknown outcome came before, and then never after something newer,
//   - one at a time, and never before its window or the wait for its gap is over,
//   - a gap is named as it is,
//   - every event comes to an end, and to the right one: stale only below something newer, lost only where gaps become dead letters.
//
// 100,000 of them: go test ./ordering -run TestModel -rapid.checks=100000
func TestModel(t *testing.T) { rapid.Check(t, func(t *rapid.T) { newModel(t).play() }) }

const modelWait = 50 // max_wait, in the model's ticks

type modelEvent struct {
	seq, version   int
	arrived        int64
	retry, unknown bool
	due            int64
	applied        int // times
	early          bool
	end            string
}

type model struct {
	t        *rapid.T
	p        *Policy
	lane     *Lane
	stored   event.ResourceState // what the journal remembers
	events   []*modelEvent
	entries  map[*Entry]*modelEvent
	flying   *Entry
	now      int64
	newest   int   // version that the consumer applied
	applied  []int // versions, each once
	lastTurn int   // serial: seq of the newest first application
}

func newModel(t *rapid.T) *model {
	c := Default()
	c.Policy = rapid.SampledFrom([]string{"serial", "reject_stale", "in_sequence", "window"}).Draw(t, "policy")
	c.Ties = rapid.SampledFrom([]string{"forward", "reject"}).Draw(t, "ties")
	c.OnGap = rapid.SampledFrom([]string{"release", "dead_letter"}).Draw(t, "on_gap")
	c.OnFailure = rapid.SampledFrom([]string{"block", "continue"}).Draw(t, "on_failure")
	c.Start = rapid.SampledFrom([]string{"first_seen", "1", "3"}).Draw(t, "start")
	c.MaxWait = modelWait
	p, err := NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, p: p, lane: NewLane(p, event.ResourceState{}), entries: map[*Entry]*modelEvent{}, now: 1}
	n := rapid.IntRange(1, 25).Draw(t, "events")
	for i := range n {
		m.events = append(m.events, &modelEvent{seq: i + 1, version: rapid.IntRange(1, 10).Draw(t, "version")})
	}
	return m
}

func (m *model) choose(n int) int { return rapid.IntRange(0, n-1).Draw(m.t, "choice") }

func (m *model) entry(e *modelEvent) *Entry {
	x := &Entry{ID: event.MakeID(time.Unix(1, 0), event.Seq(e.seq), 0), Text: strconv.Itoa(e.version), Release: e.arrived + modelWait, Retry: e.retry,
		Unknown: e.unknown && e.retry, Due: e.due, Early: e.early}
	if m.p.Versions() {
		x.Version, _ = m.p.Version(x.Text)
	} else {
		x.Text = ""
	}
	m.entries[x] = e
	return x
}

func (m *model) play() {
	for _, e := range m.events {
		for m.choose(3) > 0 {
			m.act()
		}
		m.arrive(e)
	}
	for range 2000 {
		if m.lane.Idle() {
			break
		}
		m.now += 9
		m.settleDown()
	}
	m.judgeEnd()
}

// arrive is an event that comes in.
func (m *model) arrive(e *modelEvent) {
	e.arrived = m.now
	x := m.entry(e)
	switch d := m.lane.Judge(x.Version); d {
	case Stale:
		m.endStale(e)
		return
	case Hold:
		e.early, x.Early = true, true
	case Jump:
		m.t.Fatalf("a jump without max_jump")
	}
	m.lane.Add(x)
}

// act is one step of the world.
func (m *model) act() {
	switch m.choose(8) {
	case 0:
		m.now += int64(m.choose(40))
	case 1:
		m.kill()
	case 2, 3, 4:
		m.land(m.choose(6))
	default:
		m.step()
	}
}

// settleDown is act without more trouble.
func (m *model) settleDown() {
	if m.flying != nil {
		m.land(0)
		return
	}
	m.step()
}

func (m *model) step() {
	s := m.lane.Next(m.now)
	for _, x := range s.Stale {
		m.endStale(m.entries[x])
	}
	for _, x := range s.Lost {
		m.endLost(m.entries[x])
	}
	if s.Go == nil {
		return
	}
	if m.flying != nil {
		m.t.Fatalf("%s goes while %s is in flight", s.Go.Text, m.flying.Text)
	}
	m.flying = s.Go
	m.mayGo(m.entries[s.Go], s.Gap)
}

// mayGo checks that it is this event's turn.
func (m *model) mayGo(e *modelEvent, gap string) {
	if m.p.Versions() {
		if e.version < m.newest || e.version == m.newest && m.p.Ties == "reject" && !e.unknown && m.cursor() == m.newest {
			m.t.Fatalf("version %d goes after %d", e.version, m.newest)
		}
	}
	released := slices.ContainsFunc(m.events, func(x *modelEvent) bool {
		return x.end == "" && x.arrived > 0 && x.version >= e.version && x.arrived+modelWait <= m.now
	})
	switch m.p.Policy {
	case "window":
		if !released && !e.retry {
			m.t.Fatalf("version %d goes before its window is over", e.version)
		}
	case "in_sequence":
		if want := m.gapBefore(e); gap != want {
			m.t.Fatalf("version %d goes with the gap %q, want %q", e.version, gap, want)
		}
		if m.waitsFor(e) && !released && !e.retry {
			m.t.Fatalf("version %d goes out of sequence before its wait is over", e.version)
		}
	}
}

// cursor is the newest version known to be delivered.
func (m *model) cursor() int { n, _ := strconv.Atoi(m.stored.Version); return n }

// gapBefore names the versions between the cursor and e; nothing is missing before the first one seen.
func (m *model) gapBefore(e *modelEvent) string {
	from := m.cursor() + 1
	if m.cursor() == 0 {
		switch floor, _ := strconv.Atoi(m.stored.Floor); {
		case m.p.start.Known():
			from = int(m.p.start.small)
		case m.stored.Floor != "" && m.p.OnGap == "dead_letter":
			from = floor + 1
		case floor > 0:
			from = floor
		default:
			return ""
		}
	}
	switch to := e.version - 1; {
	case to < from:
		return ""
	case to == from:
		return strconv.Itoa(to)
	default:
		return fmt.Sprintf("%d-%d", from, to)
	}
}

// waitsFor says whether a version before e is missing that was neither given up nor may be passed.
func (m *model) waitsFor(e *modelEvent) bool {
	floor, _ := strconv.Atoi(m.stored.Floor)
	from := max(m.cursor(), floor) + 1
	if from == 1 && m.stored.Floor == "" {
		if !m.p.start.Known() {
			return false
		}
		from = int(m.p.start.small)
	}
	for v := from; v < e.version; v++ {
		passable := slices.ContainsFunc(m.events, func(x *modelEvent) bool {
			return x.version == v && x.end == "" && x.retry && m.p.OnFailure == "continue"
		})
		if !passable {
			return true
		}
	}
	return false
}

// land ends the attempt in flight.
func (m *model) land(how int) {
	x := m.flying
	if x == nil {
		return
	}
	m.flying = nil
	e := m.entries[x]
	switch how {
	case 0, 1:
		m.apply(e)
		m.stored.Version, m.stored.Floor, _ = m.lane.After(x, WasDelivered)
		m.lane.Delivered(x)
		e.end = "delivered"
	case 2: // refused for now
		m.back(x, e)
	case 3: // the answer is lost; it was applied, or not
		if m.choose(2) == 0 {
			m.apply(e)
		}
		e.unknown, x.Unknown = true, true
		m.back(x, e)
	case 4: // refused for good; who has applied it says so at the second time
		if e.applied > 0 {
			m.back(x, e)
			return
		}
		m.giveUp(x, e)
	case 5: // the sender was told (proxy)
		if e.applied > 0 {
			m.back(x, e)
			return
		}
		m.lane.Gone(x)
		e.end = "returned"
	}
}

func (m *model) back(x *Entry, e *modelEvent) {
	e.retry, e.due = true, m.now+int64(m.choose(30))
	m.lane.Back(x, e.due)
}

func (m *model) giveUp(x *Entry, e *modelEvent) {
	m.stored.Version, m.stored.Floor, _ = m.lane.After(x, WasGivenUp)
	e.end = "given up"
	for _, y := range m.lane.GivenUp(x) {
		m.endLost(m.entries[y])
	}
}

// apply is the consumer taking an event.
func (m *model) apply(e *modelEvent) {
	e.applied++
	switch {
	case e.applied > 1 && !e.unknown:
		m.t.Fatalf("version %d was applied twice and no outcome was unknown", e.version)
	case e.applied > 1 && m.p.Versions() && e.version < m.newest:
		m.t.Fatalf("version %d is applied again after %d", e.version, m.newest)
	case e.applied > 1:
		return
	}
	if m.p.Policy == "serial" && m.p.OnFailure == "block" && e.seq < m.lastTurn {
		m.t.Fatalf("event %d after event %d", e.seq, m.lastTurn)
	}
	m.lastTurn = max(m.lastTurn, e.seq)
	if m.p.Versions() {
		if e.version < m.newest {
			m.t.Fatalf("version %d is applied after %d", e.version, m.newest)
		}
		m.newest = e.version
	}
	m.applied = append(m.applied, e.version)
}

// kill ends the process and starts it again: memory is gone, the journal is not. An attempt under way has reached the consumer, or not.
func (m *model) kill() {
	if x := m.flying; x != nil {
		e := m.entries[x]
		if m.choose(2) == 0 {
			m.apply(e)
		}
		e.retry, e.unknown, e.due = true, true, m.now
		m.flying = nil
	}
	m.lane = NewLane(m.p, m.stored)
	for _, e := range m.events {
		if e.arrived > 0 && e.end == "" {
			m.lane.Add(m.entry(e))
		}
	}
}

func (m *model) endStale(e *modelEvent) {
	e.end = "stale"
	ok := e.version < m.newest || e.version == m.newest && m.p.Ties == "reject"
	if m.p.Policy == "window" && !ok { // below what has left its buffer, though that is being retried
		ok = slices.ContainsFunc(m.events, func(x *modelEvent) bool {
			return x.version > e.version && (x.retry || x.end != "") || m.flying != nil && m.entries[m.flying] == x
		})
	}
	if m.p.Policy == "in_sequence" && m.p.start.Known() && e.version < int(m.p.start.small) {
		ok = true
	}
	if !ok {
		m.t.Fatalf("version %d is stale though the newest is %d", e.version, m.newest)
	}
}

func (m *model) endLost(e *modelEvent) {
	e.end = "lost"
	if m.p.Policy != "in_sequence" || m.p.OnGap != "dead_letter" || e.applied > 0 && !e.unknown {
		m.t.Fatalf("version %d is lost", e.version)
	}
}

func (m *model) judgeEnd() {
	if !m.lane.Idle() {
		m.t.Fatalf("%d events are left behind", m.lane.Waiting())
	}
	var ends []string
	for _, e := range m.events {
		if e.end == "" {
			m.t.Fatalf("event %d (version %d) came to no end", e.seq, e.version)
		}
		if e.end == "delivered" && e.applied == 0 {
			m.t.Fatalf("event %d counts as delivered and was not applied", e.seq)
		}
		ends = append(ends, e.end)
	}
	if m.p.Policy == "serial" && strings.Contains(strings.Join(ends, " "), "stale") {
		m.t.Fatal("serial knows of no stale events")
	}
}
