// Package ordering keeps a resource from going back in time: which version may go to the upstream now, which has to wait, and which
// comes too late. Policies are pure functions of a lane's state and a version; lanes hold what waits. Nothing here does I/O,
// starts a goroutine or reads a clock.
package ordering

import (
	"path"
	"strings"

	"github.com/hooktender/hooktender/event"
)

// Decision is what a policy says about a version that has just come in.
type Decision uint8

const (
	Pass  Decision = iota + 1 // its turn, as soon as nothing else of the resource is in flight
	Turn                      // its turn comes when versions before it, which are on their way, are through
	Hold                      // early: a version before it has not come yet, or its window is open
	Stale                     // a newer version was delivered
	Jump                      // further ahead than max_jump
)

func (d Decision) String() string {
	return [...]string{"", "pass", "turn", "held", "stale", "version_jump"}[d]
}

// Policy is a Config, ready for use. It is immutable.
type Policy struct {
	Config
	start    Version // in_sequence with an integer start
	judge    func(l *Lane, v Version) Decision
	ready    func(next Version, waiting []*Entry, now int64) bool
	versions bool
	everyone bool
}

// NewPolicy compiles a checked Config.
func NewPolicy(c Config) (*Policy, error) {
	p := &Policy{Config: c, versions: c.NeedsVersion()}
	rule := rules[c.Policy]
	p.judge, p.ready = rule.judge, rule.ready
	if c.Start != "first_seen" {
		v, err := parseInteger(c.Start)
		if err != nil {
			return nil, err
		}
		p.start = v
	}
	for _, t := range c.Types {
		p.everyone = p.everyone || t == "*"
	}
	return p, nil
}

// A rule is one line of SPEC §5: what an arriving version meets, and when one that waits may go. The common part (below the
// cursor, ties, max_jump) is in Lane.Judge.
type rule struct {
	judge func(l *Lane, v Version) Decision
	ready func(next Version, waiting []*Entry, now int64) bool
}

var rules = map[string]rule{
	"none":         {judge: func(*Lane, Version) Decision { return Pass }, ready: always},
	"serial":       {judge: inTurn, ready: always},
	"reject_stale": {judge: inTurn, ready: always},
	"in_sequence":  {judge: inSequence, ready: contiguousOrReleased},
	"window":       {judge: inWindow, ready: windowPassed},
}

func always(Version, []*Entry, int64) bool { return true }

func inTurn(l *Lane, _ Version) Decision {
	if l.flying != nil || len(l.waiting) > 0 {
		return Turn
	}
	return Pass
}

// inSequence: the next version passes; one whose predecessors are all here waits for its turn; one behind a gap is held.
func inSequence(l *Lane, v Version) Decision {
	if next := l.next(); next.Known() && next.Less(v) {
		return Hold
	}
	if l.flying == nil && len(l.waiting) > 0 && v.Less(l.waiting[0].Version) {
		return Pass // it fills the gap
	}
	return inTurn(l, v)
}

// contiguousOrReleased: the first of those that wait follows the versions before it, or one of them has waited long enough. While nothing was
// delivered any version may be the first, save one that was held behind another, which may come again.
func contiguousOrReleased(next Version, waiting []*Entry, now int64) bool {
	first := waiting[0]
	return !next.Known() && !first.Early || !next.Less(first.Version) || firstRelease(waiting) <= now
}

func inWindow(l *Lane, v Version) Decision {
	if v.Less(l.left) {
		return Stale
	}
	return Hold
}

func windowPassed(_ Version, waiting []*Entry, now int64) bool { return firstRelease(waiting) <= now }

// Applies says whether the policy looks at the event: types that it does not name pass untouched, without a lane, and so does what failed
// verification, whose version may neither move a cursor nor make a genuine event stale.
func (p *Policy) Applies(rec *event.Record) bool {
	if p.Policy == "none" || rec.Unproven() {
		return false
	}
	if p.everyone {
		return true
	}
	eventType := flat(rec.Type)
	for _, t := range p.Types {
		if ok, err := path.Match(flat(t), eventType); err == nil && ok {
			return true
		}
	}
	return false
}

// flat hides what path.Match would take for the border of a path: in an event's type (orders/create) a slash is a character like others.
func flat(eventType string) string { return strings.ReplaceAll(eventType, "/", "\x00") }

// Versions says whether the policy compares versions.
func (p *Policy) Versions() bool { return p.versions }

// Late says whether version v comes too late once the version at cursor was delivered: it is below it, or equal where ties are rejected.
func (p *Policy) Late(v, cursor Version) bool {
	c := v.Compare(cursor)
	return c < 0 || c == 0 && p.Ties == "reject"
}

// Observing says whether the policy only tells what it would do.
func (p *Policy) Observing() bool { return p.Mode == "observe" }

// Version parses a version as the policy compares it; the zero Version for a policy without versions.
func (p *Policy) Version(text string) (Version, error) {
	if !p.versions {
		return Version{}, nil
	}
	return Parse(p.Compare, text)
}
