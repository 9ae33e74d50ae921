package ordering

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/hooktender/hooktender/event"
)

// Never is a time that does not come; the unit of times in lanes is nanoseconds since 1970.
const Never = math.MaxInt64

// Entry is one event in a lane.
type Entry struct {
	ID      event.ID
	EventID string
	Version Version // none with serial
	Text    string  // the version as received
	Due     int64   // not before; 0 = at once. Only a retry waits here; Never = waits for a decision
	Retry   bool    // it has failed before and is being retried
	Unknown bool    // an attempt of its present run may have reached the upstream: nothing older goes before it is decided
	Early   bool    // it came before its time: behind a gap, or its window was open. These are what max_held counts
	Release int64   // when it stops waiting for versions before it; 0 = does not wait
	Forced  bool    // an operator's forced replay: the gate lets it pass
	Owner   any     // the scheduler's own
}

// Lane is the queue of one resource: at most one event in flight, the rest sorted by version (serial: by arrival). It is not safe
// for concurrent use.
type Lane struct {
	policy  *Policy
	cursor  Version // highest version delivered
	text    string  // the cursor as received
	floor   Version // highest version given up above the cursor; see lifted
	floorAs string
	left    Version // window: highest version that has left the buffer
	flying  *Entry
	waiting []*Entry
	coming  []*Entry // judged, and on their way into the journal
}

// NewLane makes a lane from what the journal remembers of the resource. A stored version that the present comparison cannot read counts as none.
func NewLane(p *Policy, st event.ResourceState) *Lane {
	l := &Lane{policy: p}
	l.cursor, l.text = stored(p, st.Version)
	l.floor, l.floorAs = stored(p, st.Floor)
	return l
}

// stored reads a version that the journal remembers. What cannot be read is kept as it is: the next policy may be able to.
func stored(p *Policy, text string) (Version, string) {
	v, _ := p.Version(text)
	return v, text
}

// Policy is what the lane goes by now: Adopt changes it.
func (l *Lane) Policy() *Policy { return l.policy }

// Idle says whether nothing waits and nothing is in flight.
func (l *Lane) Idle() bool { return l.flying == nil && len(l.waiting) == 0 }

// Waiting is the number of events that are not in flight.
func (l *Lane) Waiting() int { return len(l.waiting) }

// Early is the number of events that wait behind a gap or for their window, or will.
func (l *Lane) Early() int {
	n := 0
	for _, list := range [...][]*Entry{l.waiting, l.coming} {
		for _, e := range list {
			if e.Early {
				n++
			}
		}
	}
	return n
}

// Expect says that an event that was judged is on its way into the journal: those that are judged meanwhile count on it. Its ID may be unknown.
func (l *Lane) Expect(e *Entry) { l.coming = append(l.coming, e) }

// Expected ends Expect, and says whether there was one: the event has been added, or does not come.
func (l *Lane) Expected(e *Entry) bool {
	n := len(l.coming)
	l.coming = slices.DeleteFunc(l.coming, func(other *Entry) bool { return other == e })
	return len(l.coming) < n
}

// overtakes says whether an event would leave before an older one that came in time and is being stored: that one would be stale. With
// reject_stale the newer one is all that counts.
func (l *Lane) overtakes(e *Entry) bool {
	return !e.Forced && !e.Unknown && l.policy.Policy != "reject_stale" &&
		slices.ContainsFunc(l.coming, func(other *Entry) bool { return other.Version.Less(e.Version) })
}

// ahead is what waits, in order, and what is on its way there.
func (l *Lane) ahead() []*Entry {
	if len(l.coming) == 0 {
		return l.waiting
	}
	all := append(make([]*Entry, 0, len(l.waiting)+len(l.coming)), l.waiting...)
	for _, e := range l.coming { // few, and what waits may be very many: it is in order already
		i, _ := slices.BinarySearchFunc(all, e, l.order)
		all = slices.Insert(all, i, e)
	}
	return all
}

func (l *Lane) sort(es []*Entry) {
	sort.SliceStable(es, func(i, j int) bool { return l.order(es[i], es[j]) < 0 }) // a generic sort weighs more
}

// Entries are the events that wait, in order. The slice is the lane's own.
func (l *Lane) Entries() []*Entry { return l.waiting }

// Flying is the event in flight, nil if there is none.
func (l *Lane) Flying() *Entry { return l.flying }

// Cursor is the highest version delivered, as received; "" if none.
func (l *Lane) Cursor() string { return l.text }

// Judge says what the policy decides about a version that comes in now.
func (l *Lane) Judge(v Version) Decision {
	if d := l.gate(v); d != Pass {
		return d
	}
	if p := l.policy; p.MaxJump > 0 {
		if base := l.newest(); base.Known() && v.beyond(base, p.MaxJump) {
			return Jump
		}
	}
	return l.policy.judge(l, v)
}

// base is the newest version that the upstream has: the cursor, or what comes before the configured start.
func (l *Lane) base() Version {
	if l.cursor.Known() || !l.policy.start.Known() || l.policy.Policy != "in_sequence" {
		return l.cursor
	}
	return l.policy.start.plus(-1)
}

// newest is what max_jump counts from: the newest version that the upstream has, that was given up, or that is on its way there without a
// gap. Were it the cursor alone, an outage would quarantine the honest versions that queue up meanwhile.
func (l *Lane) newest() Version {
	p := l.policy
	if p.Policy == "in_sequence" {
		if next := l.next(); next.Known() {
			return next.plus(-1)
		}
		return Version{}
	}
	newest := maxVersion(l.base(), l.floor)
	if l.flying != nil && !l.flying.Forced {
		newest = maxVersion(newest, l.flying.Version)
	}
	for _, e := range l.ahead() {
		if !e.Forced {
			newest = maxVersion(newest, e.Version)
		}
	}
	return newest
}

// gate is what every attempt passes, the first and each retry: below the cursor is stale, equal follows ties.
func (l *Lane) gate(v Version) Decision {
	p := l.policy
	switch {
	case l.cursor.Known() && p.Late(v, l.cursor), !l.cursor.Known() && p.Policy == "in_sequence" && v.Less(p.start):
		return Stale
	}
	return Pass
}

// expected is the version that in_sequence lets pass next; none while nothing was seen and start is first_seen.
func (l *Lane) expected() Version {
	if l.policy.Policy != "in_sequence" {
		return Version{}
	}
	base := maxVersion(l.cursor, l.floor)
	if !base.Known() {
		return l.policy.start
	}
	next := base.plus(1)
	return maxVersion(next, l.policy.start)
}

// following is the version that in_sequence lets pass once what is in flight is through.
func (l *Lane) following() Version {
	next := l.expected()
	if l.flying != nil && !l.flying.Forced && !l.flying.Version.Less(next) {
		return l.flying.Version.plus(1)
	}
	return next
}

// next is the version that follows everything delivered, given up, in flight, or waiting without a gap before it; none while nothing was
// seen and start is first_seen.
func (l *Lane) next() Version {
	next := l.following()
	for _, e := range l.ahead() {
		switch {
		case e.Forced:
		case e.Unknown && !e.Version.Less(next):
			next = e.Version.plus(1)
		case !next.Known() && !e.Early, next.Known() && e.Version.Compare(next) == 0:
			next = e.Version.plus(1)
		case next.Less(e.Version):
			return next
		}
	}
	return next
}

// firstRelease is the earliest time at which one of these stops waiting.
func firstRelease(waiting []*Entry) int64 {
	first := int64(Never)
	for _, e := range waiting {
		if e.Release > 0 && e.Release < first {
			first = e.Release
		}
	}
	return first
}

// Add puts an event into the lane.
func (l *Lane) Add(e *Entry) {
	i, _ := slices.BinarySearchFunc(l.waiting, e, l.order)
	l.waiting = slices.Insert(l.waiting, i, e)
	if e.Retry {
		l.left = maxVersion(l.left, e.Version) // also after a restart: what has left once stays ahead of what comes late
	}
}

func (l *Lane) order(a, b *Entry) int {
	if a.Unknown != b.Unknown { // it may be there already, so what is older comes too late once that is known
		if a.Unknown {
			return -1
		}
		return 1
	}
	if c := a.Version.Compare(b.Version); c != 0 { // serial has none
		if a.Unknown {
			return -c // the newest of these first, for the same reason
		}
		return c
	}
	return cmp.Compare(a.ID.Seq(), b.ID.Seq())
}

// Remove takes a waiting event out (it was settled by an operator); false if it is not waiting.
func (l *Lane) Remove(id event.ID) (*Entry, bool) {
	for i, e := range l.waiting {
		if e.ID == id {
			l.waiting = slices.Delete(l.waiting, i, i+1)
			return e, true
		}
	}
	return nil, false
}

// Has says whether an event waits here, or is in flight.
func (l *Lane) Has(id event.ID) bool {
	for _, e := range l.waiting {
		if e.ID == id {
			return true
		}
	}
	return l.flying != nil && l.flying.ID == id
}

// Step is what a lane wants done now.
type Step struct {
	Go    *Entry   // deliver this one; it is in flight from now on
	Gap   string   // versions missing before Go: "5", "5-7", comma-separated
	Stale []*Entry // these came too late: reject them; they have left the lane
	Lost  []*Entry // these waited for a gap that was given up: dead letters; they have left the lane
	Wake  int64    // look again at this time, if Go is nil; Never = when something changes
}

// Next decides what happens now (nanoseconds since 1970). Call it after every change.
func (l *Lane) Next(now int64) Step {
	var s Step
	s.Wake = Never
	if l.flying != nil {
		return s
	}
	l.dropStale(&s)
	next := l.expected()
	var unknown Version // the newest that was passed over and may be at the upstream already
	for i, e := range l.waiting {
		if !e.Forced && e.Version.Less(unknown) {
			continue
		}
		if e.Due > now {
			s.Wake = min(s.Wake, e.Due)
			if l.policy.OnFailure != "continue" {
				return s
			}
			if e.Unknown {
				unknown = maxVersion(unknown, e.Version)
			}
			if next.Known() && e.Version.Compare(next) == 0 {
				next = next.plus(1) // a later version may pass it: that is no gap
			}
			continue
		}
		ready := e.Forced || e.Retry || l.policy.ready(next, l.waiting[i:], now)
		if ready && !l.overtakes(e) {
			l.depart(i, next, &s)
			return s
		}
		if !ready {
			s.Wake = min(s.Wake, firstRelease(l.waiting[i:]))
		}
		for k, f := range l.waiting[i+1:] {
			if f.Forced && f.Due <= now {
				l.depart(i+1+k, next, &s)
				break
			} else if f.Forced {
				s.Wake = min(s.Wake, f.Due)
			}
		}
		return s
	}
	return s
}

// dropStale takes out what is too late. Those that wait are in order, so the first that is not ends the search.
func (l *Lane) dropStale(s *Step) {
	kept := 0
	for i, e := range l.waiting {
		late := !e.Forced && l.gate(e.Version) == Stale
		if !late && !e.Forced && !e.Unknown {
			l.waiting = slices.Delete(l.waiting, kept, i)
			return
		}
		if late {
			s.Stale = append(s.Stale, e)
		} else {
			l.waiting[kept] = e
			kept++
		}
	}
	l.waiting = slices.Delete(l.waiting, kept, len(l.waiting))
}

func (l *Lane) depart(i int, next Version, s *Step) {
	e := l.waiting[i]
	if l.keepsGaps() && !e.Forced && !e.Retry && next.Known() && next.Less(e.Version) {
		s.Lost = l.drop(next)
		return
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.flying = e
	if !e.Forced {
		l.left = maxVersion(l.left, e.Version)
	}
	s.Go, s.Gap = e, l.gap(e.Version)
}

// gap names the versions between the cursor and v that were not delivered; only in_sequence knows of any.
func (l *Lane) gap(v Version) string {
	if l.policy.Policy != "in_sequence" {
		return ""
	}
	switch base := l.base(); {
	case base.Known():
		return span(base.plus(1), v.plus(-1))
	case l.floor.Known() && l.policy.OnGap == "dead_letter": // the floor is what comes before the first version
		return span(l.floor.plus(1), v.plus(-1))
	case l.floor.Known():
		return span(l.floor, v.plus(-1))
	}
	return ""
}

// drop empties the lane of everything that waits for the version next. What is retried had its turn already.
func (l *Lane) drop(next Version) []*Entry {
	var lost []*Entry
	l.waiting = slices.DeleteFunc(l.waiting, func(e *Entry) bool {
		behind := !e.Forced && !e.Retry && next.Known() && next.Less(e.Version) // what a reload made unreadable in flight has none
		if behind {
			lost = append(lost, e)
		}
		return behind
	})
	return lost
}

// Delivered says that the event in flight was delivered. It moves the cursor.
func (l *Lane) Delivered(e *Entry) {
	l.land(e)
	if l.policy.versions && l.cursor.Less(e.Version) {
		l.cursor, l.text = e.Version, e.Text
	}
}

// GivenUp says that the event in flight, or one that waited, is a dead letter: the lane goes on without it. Under on_gap: dead_letter
// what is held behind it is lost with it; the caller settles those.
func (l *Lane) GivenUp(e *Entry) (lost []*Entry) {
	l.land(e)
	next := l.expected()
	l.floor, l.floorAs, _ = l.lifted(e, WasGivenUp)
	if l.keepsGaps() && (e.Version.Compare(next) == 0 || !next.Known() && !e.Forced) {
		return l.drop(e.Version)
	}
	return nil
}

// Settled says that an operator discarded an event that waited. What waits behind it waits no longer. (What happened by other means is Delivered.)
func (l *Lane) Settled(e *Entry) {
	l.floor, l.floorAs, _ = l.lifted(e, WasSettled)
}

// keepsGaps says whether a version that is missing stays so: what comes behind it is lost.
func (l *Lane) keepsGaps() bool {
	return l.policy.Policy == "in_sequence" && l.policy.OnGap == "dead_letter"
}

// lifted is the floor once e is given up, or discarded, and whether it is another one than now. A forced version that is out of line tells nothing about those
// before it. Where gaps are kept, the first version seen that is given up is the first all the same: the floor is what comes before it.
func (l *Lane) lifted(e *Entry, how End) (floor Version, text string, changed bool) {
	floor, text = l.floor, l.floorAs
	next := l.expected()
	switch {
	case !floor.Less(e.Version), e.Version.Less(l.cursor):
	case l.policy.Policy != "in_sequence": // in the others only max_jump asks for it
		changed = l.policy.MaxJump > 0 && !e.Forced
	case how == WasGivenUp && l.keepsGaps():
		if !next.Known() && !e.Forced {
			first := e.Version.plus(-1)
			return first, first.digits(), true
		}
	default:
		changed = e.Version.Compare(next) == 0 || next.Less(e.Version) && !e.Forced
	}
	if changed {
		floor, text = e.Version, e.Text
	}
	return floor, text, changed
}

// Back says that the attempt of the event in flight failed for now: it waits in the lane until due.
func (l *Lane) Back(e *Entry, due int64) {
	l.land(e)
	e.Due, e.Retry = due, true
	l.Add(e)
}

func (l *Lane) land(e *Entry) {
	if l.flying == e {
		l.flying = nil
	}
}

// End is how an event leaves its lane.
type End uint8

const (
	WasDelivered End = iota + 1
	WasGivenUp       // a dead letter
	WasSettled       // discarded by an operator before it was a dead letter
)

// After is what the journal shall remember of the resource once e has come to this end, and whether that differs from what it remembers now.
func (l *Lane) After(e *Entry, how End) (version, floor string, changed bool) {
	version, floor = l.text, l.floorAs
	switch {
	case !l.policy.versions:
		return version, floor, false
	case how == WasDelivered:
		if l.cursor.Less(e.Version) {
			version = e.Text
			if !e.Version.Less(l.floor) {
				floor = ""
			}
		}
		return version, floor, version != l.text
	}
	_, floor, changed = l.lifted(e, how)
	return version, floor, changed
}

// SetCursor puts the cursor where an operator wants it, up or down ("" = nothing was delivered yet), and forgets the floor.
func (l *Lane) SetCursor(text string) {
	l.cursor, l.text = stored(l.policy, text)
	l.floor, l.floorAs = Version{}, ""
	l.left = l.cursor
}

// Missing names the versions between the cursor and the newest that waits which have not come, at most limit entries.
func (l *Lane) Missing(limit int) []string {
	var out []string
	if l.policy.Policy != "in_sequence" {
		return out
	}
	next := l.following()
	for _, e := range l.waiting {
		if e.Forced || e.Version.Less(next) {
			continue
		}
		if next.Known() && !e.Unknown {
			if s := span(next, e.Version.plus(-1)); s != "" {
				if out = append(out, s); len(out) == limit {
					return out
				}
			}
		}
		next = e.Version.plus(1)
	}
	return out
}

// Adopt puts the lane under another policy (a reload). Events whose version the new comparison cannot read keep the order they have.
func (l *Lane) Adopt(p *Policy) {
	fresh := NewLane(p, event.ResourceState{Version: l.text, Floor: l.floorAs})
	longer := int64(p.MaxWait - l.policy.MaxWait)
	l.policy, l.cursor, l.text, l.floor, l.floorAs, l.left = p, fresh.cursor, fresh.text, fresh.floor, fresh.floorAs, fresh.left
	read := func(e *Entry) {
		if v, err := p.Version(e.Text); err == nil {
			e.Version = v
		}
	}
	if l.flying != nil {
		read(l.flying)
	}
	for _, e := range l.waiting {
		read(e)
		if e.Release > 0 {
			e.Release += longer
		}
		if e.Retry {
			l.left = maxVersion(l.left, e.Version)
		}
	}
	l.sort(l.waiting)
	for _, e := range l.coming {
		read(e)
	}
}

// Gone says that the event in flight is not tried now: the lane goes on as if it had not come.
func (l *Lane) Gone(e *Entry) { l.land(e) }

// Returned says that the event in flight is back with its sender, who may send it again. What waited for its turn behind the first version seen
// does not take its place: it waits like what was held.
func (l *Lane) Returned(e *Entry) {
	l.land(e)
	if l.policy.Policy != "in_sequence" || l.expected().Known() || e.Forced {
		return
	}
	for _, w := range l.ahead() {
		w.Early = w.Early || e.Version.Less(w.Version)
	}
}
