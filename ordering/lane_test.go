package ordering

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
)

func policy(t testing.TB, change func(*Config)) *Policy {
	t.Helper()
	c := Default()
	change(&c)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	p, err := NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func at(seq int, v string) *Entry {
	e := &Entry{ID: event.MakeID(time.Unix(1, 0), event.Seq(seq), 0), Text: v}
	if v != "" {
		e.Version, _ = Parse("integer", v)
	}
	return e
}

// What an arriving version meets, policy by policy (SPEC §5).
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		config  func(*Config)
		cursor  string
		waiting []string
		flying  string
		version string
		want    Decision
	}{
		{"serial, idle", func(c *Config) { c.Policy = "serial" }, "", nil, "", "", Pass},
		{"serial, something in flight", func(c *Config) { c.Policy = "serial" }, "", nil, "1", "", Turn},
		{"reject_stale, first of a resource", stalePolicy, "", nil, "", "5", Pass},
		{"reject_stale, newer", stalePolicy, "5", nil, "", "9", Pass},
		{"reject_stale, older", stalePolicy, "5", nil, "", "4", Stale},
		{"reject_stale, equal is forwarded", stalePolicy, "5", nil, "", "5", Pass},
		{"reject_stale, equal is stale when ties are rejected", func(c *Config) { stalePolicy(c); c.Ties = "reject" }, "5", nil, "", "5", Stale},
		{"reject_stale, ten is more than nine", stalePolicy, "9", nil, "", "10", Pass},
		{"reject_stale, digits without end", stalePolicy, "99999999999999999999998", nil, "", "99999999999999999999999", Pass},
		{"reject_stale, 2^53+1 is more than 2^53", stalePolicy, "9007199254740992", nil, "", "9007199254740993", Pass},
		{"reject_stale, negative", stalePolicy, "-5", nil, "", "-6", Stale},
		{"reject_stale, a newer one in flight", stalePolicy, "5", nil, "7", "6", Turn},
		{"max_jump, exactly", func(c *Config) { stalePolicy(c); c.MaxJump = 10 }, "5", nil, "", "15", Pass},
		{"max_jump, beyond", func(c *Config) { stalePolicy(c); c.MaxJump = 10 }, "5", nil, "", "16", Jump},
		{"max_jump, 2^63-1 and more", func(c *Config) { stalePolicy(c); c.MaxJump = 10 }, "5", nil, "", "9223372036854775808", Jump},
		{"max_jump, first of a resource", func(c *Config) { stalePolicy(c); c.MaxJump = 10 }, "", nil, "", "1000", Pass},
		{"in_sequence, what fills the gap passes what is held", sequence, "1", []string{"3", "4"}, "", "2", Pass},
		{"in_sequence, what fills the gap while it is retried", sequence, "1", []string{"2", "3"}, "", "2", Turn},
		{"in_sequence, first seen", sequence, "", nil, "", "7", Pass},
		{"in_sequence, next", sequence, "4", nil, "", "5", Pass},
		{"in_sequence, behind a gap", sequence, "4", nil, "", "6", Hold},
		{"in_sequence, predecessor in flight", sequence, "4", nil, "5", "6", Turn},
		{"in_sequence, predecessors in flight and waiting", sequence, "4", []string{"6"}, "5", "7", Turn},
		{"in_sequence, a gap behind those on their way", sequence, "4", []string{"6"}, "5", "8", Hold},
		{"in_sequence, two of the next version and its successor wait", sequence, "4", []string{"5", "5", "6"}, "", "7", Turn},
		{"in_sequence, behind a gap while the first seen waits", sequence, "", []string{"5"}, "", "7", Hold},
		{"in_sequence, next, 2^63", sequence, "9223372036854775807", nil, "", "9223372036854775808", Pass},
		{"in_sequence, next, beyond 2^63", sequence, "9223372036854775808", nil, "", "9223372036854775809", Pass},
		{"in_sequence, behind a gap at 2^63", sequence, "9223372036854775807", nil, "", "9223372036854775809", Hold},
		{"in_sequence, start 1", func(c *Config) { sequence(c); c.Start = "1" }, "", nil, "", "1", Pass},
		{"in_sequence, start 1, second first", func(c *Config) { sequence(c); c.Start = "1" }, "", nil, "", "2", Hold},
		{"in_sequence, behind a gap while the first seen is in flight", sequence, "", nil, "5", "7", Hold},
		{"in_sequence, after the first seen, which is in flight", sequence, "", nil, "5", "6", Turn},
		{"in_sequence, what fills the gap", sequence, "4", []string{"6", "7"}, "", "5", Pass},
		{"in_sequence, equal", sequence, "4", nil, "", "4", Pass},
		{"in_sequence, equal when ties are rejected", func(c *Config) { sequence(c); c.Ties = "reject" }, "4", nil, "", "4", Stale},
		{"in_sequence, what fills a gap while something is in flight", sequence, "4", []string{"7"}, "5", "6", Turn},
		{"in_sequence, max_jump, first of a resource", func(c *Config) { sequence(c); c.MaxJump = 2 }, "", nil, "", "1000", Pass},
		{"in_sequence, max_jump counts from what is on its way", func(c *Config) { sequence(c); c.MaxJump = 2 }, "4", []string{"6", "7"}, "5", "9", Hold},
		{"in_sequence, max_jump does not count from behind a gap", func(c *Config) { sequence(c); c.MaxJump = 2 }, "4", []string{"6"}, "", "7", Jump},
		{"max_jump, versions that queue up in an outage", func(c *Config) { stalePolicy(c); c.MaxJump = 2 }, "4", []string{"6", "8"}, "5", "10", Turn},
		{"max_jump counts from what is in flight", func(c *Config) { stalePolicy(c); c.MaxJump = 2 }, "4", nil, "6", "8", Turn},
		{"max_jump, beyond what is in flight", func(c *Config) { stalePolicy(c); c.MaxJump = 2 }, "4", nil, "6", "9", Jump},
		{"reject_stale has no start", func(c *Config) { stalePolicy(c); c.Start = "5" }, "", nil, "", "3", Pass},
		{"reject_stale, max_jump does not count from a start", func(c *Config) { stalePolicy(c); c.Start, c.MaxJump = "1", 10 }, "", nil, "", "1000", Pass},
		{"max_jump from the start", func(c *Config) { sequence(c); c.Start, c.MaxJump = "1", 10 }, "", nil, "", "11", Jump},
		{"window, equal", func(c *Config) { c.Policy = "window" }, "4", nil, "", "4", Hold},
		{"window, equal when ties are rejected", func(c *Config) { c.Policy, c.Ties = "window", "reject" }, "4", nil, "", "4", Stale},
		{"in_sequence, below the start", func(c *Config) { sequence(c); c.Start = "1" }, "", nil, "", "0", Stale},
		{"window, anything newer", func(c *Config) { c.Policy = "window" }, "4", nil, "", "9", Hold},
		{"window, older", func(c *Config) { c.Policy = "window" }, "4", nil, "", "3", Stale},
		{"window, below what has left", func(c *Config) { c.Policy = "window" }, "4", nil, "8", "6", Stale},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy(t, c.config)
			l := NewLane(p, event.ResourceState{Version: c.cursor})
			if c.flying != "" {
				e := at(1, c.flying)
				l.flying, l.left = e, e.Version
			}
			for i, v := range c.waiting {
				l.Add(at(i+2, v))
			}
			var v Version
			if p.Versions() {
				v, _ = Parse("integer", c.version)
			}
			if got := l.Judge(v); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func stalePolicy(c *Config) { c.Policy = "reject_stale" }
func sequence(c *Config)    { c.Policy = "in_sequence" }

func TestVersions(t *testing.T) {
	for _, c := range []struct{ compare, a, b string }{
		{"integer", "9", "10"}, {"integer", "007", "8"}, {"integer", "-2", "-1"}, {"integer", "9223372036854775807", "9223372036854775808"},
		{"timestamp", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000001Z"},
		{"timestamp", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z"},
		{"timestamp", "2026-01-01t00:00:00z", "2026-01-01T00:00:00.1+00:00"},
		{"timestamp", "2016-11-18T10:46:28+0100", "2016-11-18T09:46:28.5Z"}, {"timestamp", "2015-10-05T14:42:19.000-0700", "2015-10-05T14:43:19-0700"}, // SonarQube, QuickBooks
		{"timestamp", "2020-10-06 15:27:18 UTC", "2020-10-06T15:27:18.705Z"}, {"timestamp", "2020-10-06 15:27:18 +0200", "2020-10-06 15:27:18 UTC"}, // GitLab
		{"timestamp", "1700000000", "1700000000.5"}, {"timestamp", "1700000000.123456", "1700000000124"},
		{"timestamp", "1700000000.09", "1700000000.5"}, {"timestamp", "1700000000.5", "1700000001000"}, {"timestamp", "1699999999000", "1700000000"},
		{"timestamp", "100000000000", "1700000000"}, {"timestamp", "1678-01-01T00:00:00Z", "2261-12-31T23:59:59Z"}, // eleven digits: milliseconds, of 1973
		{"lexicographic", "10", "9"}, {"lexicographic", "a", "b"},
	} {
		a, err := Parse(c.compare, c.a)
		b, err2 := Parse(c.compare, c.b)
		if err != nil || err2 != nil || !a.Less(b) || b.Less(a) {
			t.Errorf("%s: %s < %s: %v %v", c.compare, c.a, c.b, err, err2)
		}
	}
	for _, v := range []Version{at(1, "-5").Version, at(1, "-9223372036854775809").Version, {kind: words}} {
		if none := (Version{}); !none.Less(v) || v.Less(none) {
			t.Errorf("none is not before %+v", v)
		}
	}
	for _, c := range []struct{ compare, text string }{
		{"integer", ""}, {"integer", "1.0"}, {"integer", "+1"}, {"integer", " 1"}, {"integer", "1e3"}, {"integer", "seven"},
		{"timestamp", "yesterday"}, {"timestamp", "-5"}, {"timestamp", "2262-01-01T00:00:00Z"}, {"timestamp", "1677-12-31T23:59:59Z"}, {"timestamp", "9223372036"}, {"timestamp", "2020-10-06 15:27:18"},
		{"timestamp", "2020-10-06 15:27:18 CET"}, {"timestamp", "2020-10-06"}, {"timestamp", "2020-10-06T15:27:18+01000"}, {"lexicographic", ""},
	} {
		if _, err := Parse(c.compare, c.text); err == nil {
			t.Errorf("%s: %q passes for a version", c.compare, c.text)
		}
	}
}

// In sequence: a gap fills, or is given up and named.
func TestGap(t *testing.T) {
	p := policy(t, sequence)
	l := NewLane(p, event.ResourceState{Version: "4"})
	e7, e8 := at(1, "7"), at(2, "8")
	e7.Release, e8.Release = 100, 200
	l.Add(e8)
	l.Add(e7)
	if got := l.Missing(10); !slices.Equal(got, []string{"5-6"}) {
		t.Errorf("missing %v", got)
	}
	if s := l.Next(50); s.Go != nil || s.Wake != 100 {
		t.Fatalf("before the wait is over: %+v", s)
	}
	s := l.Next(100)
	if s.Go != e7 || s.Gap != "5-6" {
		t.Fatalf("after it: %+v", s)
	}
	l.Delivered(e7)
	if s := l.Next(100); s.Go != e8 || s.Gap != "" {
		t.Fatalf("the next is contiguous: %+v", s)
	}
	l.Delivered(e8)
	late := at(3, "5")
	l.Add(late)
	if s := l.Next(100); len(s.Stale) != 1 {
		t.Fatalf("a version of the gap that comes too late is stale: %+v", s)
	}
}

// A permanent failure of the next version is a gap that is over.
func TestGivenUpVersionIsAGapThatIsOver(t *testing.T) {
	p := policy(t, sequence)
	l := NewLane(p, event.ResourceState{Version: "4"})
	e5, e6 := at(1, "5"), at(2, "6")
	l.Add(e5)
	l.Add(e6)
	s := l.Next(1)
	if s.Go != e5 {
		t.Fatalf("%+v", s)
	}
	if _, floor, changed := l.After(e5, WasGivenUp); floor != "5" || !changed {
		t.Errorf("the journal must remember that 5 was given up, got %q", floor)
	}
	l.GivenUp(e5)
	if s = l.Next(1); s.Go != e6 || s.Gap != "5" {
		t.Fatalf("%+v", s)
	}
}

func TestGapAsDeadLetters(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnGap = "dead_letter" })
	l := NewLane(p, event.ResourceState{Version: "4"})
	e6, e7 := at(1, "6"), at(2, "7")
	e6.Release, e7.Release = 100, 200
	l.Add(e6)
	l.Add(e7)
	if s := l.Next(100); s.Go != nil || len(s.Lost) != 2 {
		t.Fatalf("what was held becomes dead letters: %+v", s)
	}
	if !l.Idle() || l.Cursor() != "4" {
		t.Errorf("the cursor stays, got %q", l.Cursor())
	}
}

// The first version seen of a resource is refused for good: what is held behind it is lost with it.
func TestTheFirstVersionSeenBecomesADeadLetter(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnGap = "dead_letter" })
	l := NewLane(p, event.ResourceState{})
	e5, e6, e8 := at(1, "5"), at(2, "6"), at(3, "8")
	l.Add(e5)
	l.Next(1)
	e6.Release, e8.Release, e8.Early = 100, 100, true
	l.Add(e6)
	l.Add(e8)
	_, floor, changed := l.After(e5, WasGivenUp)
	if lost := l.GivenUp(e5); !slices.Equal(lost, []*Entry{e6, e8}) || !l.Idle() {
		t.Errorf("%d are lost, %d wait", len(lost), l.Waiting())
	}
	// Nor is it forgotten: it is still the first, and what comes after it is behind a gap until it comes again.
	for name, l := range map[string]*Lane{"the lane": l, "a new lane": NewLane(p, event.ResourceState{Floor: floor})} {
		if d := l.Judge(at(4, "6").Version); d != Hold || !changed {
			t.Errorf("%s: 6 after the first was refused: %s", name, d)
		}
		again := at(5, "5")
		if d := l.Judge(again.Version); d != Pass {
			t.Errorf("%s: the first, again: %s", name, d)
		}
		l.Add(again)
		if s := l.Next(1); s.Go != again || s.Gap != "" {
			t.Errorf("%s: the first, again: %+v", name, s)
		}
		l.Delivered(again)
		if d := l.Judge(at(6, "6").Version); d != Pass || l.Cursor() != "5" {
			t.Errorf("%s: 6 after 5: %s", name, d)
		}
	}
}

// Window: leave sorted by version; what comes late is stale.
func TestWindow(t *testing.T) {
	p := policy(t, func(c *Config) { c.Policy = "window" })
	l := NewLane(p, event.ResourceState{})
	e3, e1, e2 := at(1, "3"), at(2, "1"), at(3, "2")
	e3.Release, e1.Release, e2.Release = 100, 110, 120
	for _, e := range []*Entry{e3, e1, e2} {
		l.Add(e)
	}
	var order []string
	for l.Waiting() > 0 {
		s := l.Next(120)
		if s.Go == nil {
			t.Fatalf("%+v", s)
		}
		order = append(order, s.Go.Text)
		l.Delivered(s.Go)
	}
	if got := strings.Join(order, " "); got != "1 2 3" {
		t.Errorf("left in order %s", got)
	}
}

// Below what has left the window is stale, also while that is in flight, is retried, or is retried after a restart. What an operator forces through does not count.
func TestWindowDoesNotGoBackBehindWhatHasLeft(t *testing.T) {
	p := policy(t, func(c *Config) { c.Policy = "window" })
	five := at(9, "5").Version
	l := NewLane(p, event.ResourceState{Version: "4"})
	far, e8 := at(1, "20"), at(2, "8")
	far.Forced = true
	l.Add(far)
	if s := l.Next(0); s.Go != far || l.Judge(five) != Hold {
		t.Errorf("5 while 20 is forced: %s", l.Judge(five))
	}
	l.Gone(far)
	e8.Release = 10
	l.Add(e8)
	if d := l.Judge(five); d != Hold {
		t.Errorf("5 while 8 waits: %s", d)
	}
	if s := l.Next(9); s.Go != nil || s.Wake != 10 {
		t.Errorf("before the window is over: %+v", s)
	}
	if s := l.Next(10); s.Go != e8 || l.Judge(five) != Stale {
		t.Errorf("5 while 8 is in flight: %s", l.Judge(five))
	}
	l.Back(e8, 1000)
	if d := l.Judge(five); d != Stale {
		t.Errorf("5 while 8 is retried: %s", d)
	}
	if s := l.Next(11); s.Go != nil || s.Wake != 1000 {
		t.Errorf("before the retry is due: %+v", s)
	}
	l = NewLane(p, event.ResourceState{Version: "4"})
	l.Add(e8)
	if d := l.Judge(five); d != Stale {
		t.Errorf("5 while 8 is retried after a restart: %s", d)
	}
	l.Delivered(e8)
	if d := NewLane(p, event.ResourceState{Version: l.Cursor()}).Judge(five); d != Stale {
		t.Errorf("5 after a restart: %s", d)
	}
}

// Of several attempts of unknown outcome the newest is decided first: if it arrived, those before it come too late.
func TestTheNewestUnknownOutcomeIsDecidedFirst(t *testing.T) {
	l := NewLane(policy(t, stalePolicy), event.ResourceState{Version: "3"})
	e4, e5, e6 := at(1, "4"), at(2, "5"), at(3, "6")
	e5.Retry, e5.Unknown, e6.Retry, e6.Unknown = true, true, true, true
	for _, e := range []*Entry{e4, e5, e6} {
		l.Add(e)
	}
	if s := l.Next(1); s.Go != e6 {
		t.Fatalf("%+v", s)
	}
	l.Delivered(e6)
	if s := l.Next(1); s.Go != nil || len(s.Stale) != 2 || !l.Idle() {
		t.Errorf("4 and 5 after 6: %+v", s)
	}
}

// An operator's forced replay passes below the cursor, and the cursor does not go back with it.
func TestAForcedVersionDoesNotMoveTheCursorBack(t *testing.T) {
	for _, name := range []string{"reject_stale", "in_sequence", "window", "serial"} {
		l := NewLane(policy(t, func(c *Config) { c.Policy = name }), event.ResourceState{Version: "8"})
		e := at(1, "5")
		e.Forced = true
		l.Add(e)
		if !l.Has(e.ID) || l.Has(event.MakeID(time.Unix(1, 0), 2, 0)) {
			t.Errorf("%s: who waits is not known", name)
		}
		if s := l.Next(1); s.Go != e || s.Gap != "" || len(s.Stale) > 0 || !l.Has(e.ID) || l.Has(event.MakeID(time.Unix(1, 0), 2, 0)) {
			t.Fatalf("%s: %+v", name, s)
		}
		if version, _, changed := l.After(e, WasDelivered); version != "8" || changed {
			t.Errorf("%s: the journal is told %s", name, version)
		}
		l.Delivered(e)
		if l.Cursor() != "8" || !l.Idle() {
			t.Errorf("%s: the cursor is %s", name, l.Cursor())
		}
	}
}

// A retry that blocks, and one that does not.
func TestOnFailure(t *testing.T) {
	for _, c := range []struct{ mode, want string }{{"block", ""}, {"continue", "6"}} {
		p := policy(t, func(cfg *Config) { stalePolicy(cfg); cfg.OnFailure = c.mode })
		l := NewLane(p, event.ResourceState{Version: "4"})
		e5, e6 := at(1, "5"), at(2, "6")
		l.Add(e5)
		l.Next(1)
		l.Back(e5, 1000)
		l.Add(e6)
		got := ""
		if s := l.Next(2); s.Go != nil {
			got = s.Go.Text + s.Gap // of which reject_stale knows none
		}
		if got != c.want {
			t.Errorf("on_failure %s: %q goes", c.mode, got)
		}
	}
}

// A user's consumer had applied version 5 when the connection broke; version 4, which came next, must not follow it.
func TestNothingOlderGoesBeforeAnUnknownOutcomeIsDecided(t *testing.T) {
	for _, mode := range []string{"block", "continue"} {
		p := policy(t, func(c *Config) { stalePolicy(c); c.OnFailure = mode })
		l := NewLane(p, event.ResourceState{Version: "3"})
		e5, e4, e6 := at(1, "5"), at(2, "4"), at(3, "6")
		l.Add(e5)
		l.Next(1)
		e5.Unknown = true
		l.Back(e5, 1000)
		l.Add(e4)
		if s := l.Next(2); s.Go != nil {
			t.Errorf("on_failure %s: %s goes", mode, s.Go.Text)
		}
		l.Add(e6)
		if s := l.Next(3); mode == "continue" && s.Go != e6 || mode == "block" && s.Go != nil {
			t.Errorf("on_failure %s: a later version: %+v", mode, s)
		}
		if mode == "continue" {
			continue
		}
		if s := l.Next(1000); s.Go != e5 {
			t.Fatalf("%+v", s)
		}
		l.Delivered(e5)
		if s := l.Next(1000); len(s.Stale) != 1 || s.Stale[0] != e4 {
			t.Errorf("4 after 5: %+v", s)
		}
	}
}

// on_failure: continue lets a later version pass one that is being retried also where they are in sequence; the gap is named.
func TestContinueInSequence(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnFailure = "continue" })
	l := NewLane(p, event.ResourceState{Version: "4"})
	e5, e6, e8 := at(1, "5"), at(2, "6"), at(3, "8")
	l.Add(e5)
	l.Next(1)
	l.Back(e5, 1000)
	e6.Release, e8.Release = 500, 500
	l.Add(e6)
	l.Add(e8)
	s := l.Next(2)
	if s.Go != e6 || s.Gap != "5" {
		t.Fatalf("%+v", s)
	}
	l.Delivered(e6)
	if s = l.Next(3); s.Go != nil || len(s.Stale) != 1 || s.Wake != 500 {
		t.Errorf("7 is missing and 5 comes too late: %+v", s)
	}
}

// A retry whose gap has filled meanwhile carries none.
func TestGapIsNamedAsItIsAtTheAttempt(t *testing.T) {
	p := policy(t, sequence)
	l := NewLane(p, event.ResourceState{Version: "4"})
	e7 := at(1, "7")
	e7.Release = 10
	l.Add(e7)
	if s := l.Next(10); s.Gap != "5-6" {
		t.Fatalf("%+v", s)
	}
	l.Back(e7, 100)
	for i, v := range []string{"5", "6"} {
		e := at(i+2, v)
		l.Add(e)
		if s := l.Next(11); s.Go != e {
			t.Fatalf("%s does not go: %+v", v, s)
		}
		l.Delivered(e)
	}
	if s := l.Next(100); s.Go != e7 || s.Gap != "" {
		t.Errorf("%+v", s)
	}
}

// A quarantined version that an operator forces through and that fails opens no gap to the honest ones.
func TestForcedVersionThatFailsLeavesTheSequence(t *testing.T) {
	for _, on := range []string{"release", "dead_letter"} {
		p := policy(t, func(c *Config) { sequence(c); c.OnGap = on })
		l := NewLane(p, event.ResourceState{Version: "4"})
		held, far := at(1, "6"), at(2, "9223372036854775807")
		held.Release, far.Forced = 500, true
		l.Add(held)
		l.Add(far)
		if s := l.Next(1); s.Go != far {
			t.Fatalf("the gap does not hold what is forced: %+v", s)
		}
		if _, _, changed := l.After(far, WasGivenUp); changed {
			t.Error("the journal is told of a floor")
		}
		if lost := l.GivenUp(far); len(lost) > 0 {
			t.Errorf("%d events are lost", len(lost))
		}
		if d := l.Judge(at(3, "7").Version); d != Hold {
			t.Errorf("7 behind the missing 5: %s", d)
		}
		if d := l.Judge(at(4, "5").Version); d != Pass {
			t.Errorf("5, the next: %s", d)
		}
	}
}

// The retry of what was forced through goes when it is due, not when those behind a gap have waited long enough.
func TestForcedVersionIsRetriedWhenItIsDue(t *testing.T) {
	l := NewLane(policy(t, sequence), event.ResourceState{Version: "4"})
	held, far := at(1, "6"), at(2, "9")
	held.Release, far.Forced = 5000, true
	l.Add(held)
	l.Add(far)
	if s := l.Next(1); s.Go != far {
		t.Fatalf("%+v", s)
	}
	l.Back(far, 1000)
	if s := l.Next(2); s.Go != nil || s.Wake != 1000 {
		t.Errorf("before it is due: %+v", s)
	}
	if s := l.Next(1000); s.Go != far {
		t.Errorf("when it is due: %+v", s)
	}
}

// A reload that compares otherwise puts what waits into the order of the new comparison.
func TestAnotherComparisonIsAnotherOrder(t *testing.T) {
	l := NewLane(policy(t, func(c *Config) { stalePolicy(c); c.Compare = "lexicographic" }), event.ResourceState{})
	for i, v := range []string{"9", "10"} {
		e := at(i+1, v)
		e.Version, _ = Parse("lexicographic", v)
		l.Add(e)
	}
	if e := l.Entries(); e[0].Text != "10" {
		t.Errorf("as text %s is first", e[0].Text)
	}
	l.Adopt(policy(t, stalePolicy))
	if s := l.Next(1); s.Go == nil || s.Go.Text != "9" {
		t.Errorf("as integers: %+v", s)
	}
}

// Settled by an operator: what waits behind it waits no longer, also where gaps become dead letters.
func TestSettledVersionIsNotWaitedFor(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnGap = "dead_letter" })
	l := NewLane(p, event.ResourceState{Version: "4"})
	e5, e6 := at(1, "5"), at(2, "6")
	l.Add(e5)
	l.Next(1)
	l.Back(e5, Never) // waits for a decision
	e6.Release = 100
	l.Add(e6)
	if s := l.Next(200); s.Go != nil || len(s.Lost) > 0 {
		t.Fatalf("before the decision: %+v", s)
	}
	if _, floor, changed := l.After(e5, WasSettled); !changed || floor != "5" {
		t.Errorf("the journal is told %q", floor)
	}
	l.Remove(e5.ID)
	l.Settled(e5)
	if s := l.Next(200); s.Go != e6 || s.Gap != "5" {
		t.Errorf("after it: %+v", s)
	}
}

func TestSetCursor(t *testing.T) {
	p := policy(t, sequence)
	l := NewLane(p, event.ResourceState{Version: "9223372036854775807"})
	l.SetCursor("4")
	if d := l.Judge(at(1, "5").Version); d != Pass || l.Cursor() != "4" {
		t.Errorf("5 is judged %s", d)
	}
	l.SetCursor("")
	if d := l.Judge(at(2, "3").Version); d != Pass {
		t.Errorf("a forgotten cursor: %s", d)
	}
	l = NewLane(p, event.ResourceState{Version: "4", Floor: "7"})
	l.SetCursor("4")
	if d := l.Judge(at(3, "5").Version); d != Pass || l.Judge(at(4, "8").Version) != Hold {
		t.Errorf("5 counts as given up: %s", d)
	}
	l = NewLane(policy(t, func(c *Config) { c.Policy = "window" }), event.ResourceState{Version: "7"})
	e := at(4, "8")
	e.Release = 1
	l.Add(e)
	if l.Next(1); l.Flying() != e {
		t.Error("8 is not in flight")
	}
	l.Delivered(e)
	l.SetCursor("4")
	if d := l.Judge(at(5, "6").Version); d != Hold {
		t.Errorf("6 in a window that was put back to 4: %s", d)
	}
}

// A reload to a policy that keeps no versions, or reads them otherwise, and back again: the cursor is where it was.
func TestTheCursorSurvivesAPolicyThatCannotReadIt(t *testing.T) {
	for name, between := range map[string]func(*Config){
		"serial":    func(c *Config) { c.Policy = "serial" },
		"none":      func(c *Config) { c.Policy = "none" },
		"timestamp": func(c *Config) { c.Policy, c.Compare = "reject_stale", "timestamp" },
	} {
		l := NewLane(policy(t, stalePolicy), event.ResourceState{Version: "-10", Floor: ""})
		l.Add(at(1, "11"))
		l.Adopt(policy(t, between))
		if l.Judge(at(2, "-11").Version) == Stale {
			t.Errorf("%s: stale by a cursor that cannot be read", name)
		}
		l.Adopt(policy(t, stalePolicy))
		if d := l.Judge(at(3, "-11").Version); d != Stale || l.Cursor() != "-10" {
			t.Errorf("%s and back: %s, cursor %q", name, d, l.Cursor())
		}
	}
}

// types: globs in which a slash is a character like others.
func TestTypes(t *testing.T) {
	for _, c := range []struct {
		glob, kind string
		want       bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"orders/*", "orders/create", true}, {"orders*", "orders/create", true}, {"*/create", "orders/create", true},
		{"invoice.*", "invoice.paid", true}, {"invoice.*", "charge.paid", false}, {"invoice.*", "", false}, {"invoice.paid", "invoice.paid", true},
		{"invoice.?aid", "invoice.paid", true}, {"invoice.[pv]*", "invoice.voided", true},
	} {
		p := policy(t, func(cfg *Config) { stalePolicy(cfg); cfg.Types = []string{"x", c.glob} })
		if got := p.Applies(&event.Record{Type: c.kind, Verified: true}); got != c.want {
			t.Errorf("%q looks at %q: %t", c.glob, c.kind, got)
		}
		if p.Applies(&event.Record{Type: c.kind, Provider: "stripe"}) {
			t.Errorf("%q looks at %q of an unverified event", c.glob, c.kind)
		}
	}
}

// Dead letters count for max_jump, also once the lane is gone: the versions after many that were refused for good are honest.
func TestMaxJumpCountsFromWhatWasGivenUp(t *testing.T) {
	for _, name := range []string{"reject_stale", "window", "in_sequence"} {
		p := policy(t, func(c *Config) { c.Policy, c.MaxJump, c.OnGap = name, 2, "release" })
		st := event.ResourceState{Version: "4"}
		for i, v := range []string{"5", "6", "7"} {
			l := NewLane(p, st)
			e := at(i+1, v)
			e.Release = 1
			if d := l.Judge(e.Version); d == Jump {
				t.Errorf("%s: %s after those that were refused is a jump", name, v)
			}
			l.Add(e)
			if s := l.Next(1); s.Go != e {
				t.Fatalf("%s: %+v", name, s)
			}
			st.Version, st.Floor, _ = l.After(e, WasGivenUp)
			l.GivenUp(e)
		}
		l := NewLane(p, st)
		if d := l.Judge(at(8, "9").Version); d == Jump || d == Stale {
			t.Errorf("%s: 9 after 7 was refused: %s", name, d)
		}
		if d := l.Judge(at(9, "10").Version); d != Jump {
			t.Errorf("%s: 10 after 7 was refused: %s", name, d)
		}
		if d := l.Judge(at(5, "6").Version); d == Stale {
			t.Errorf("%s: a refused version that its sender sends again: %s", name, d)
		}
	}
}

// What was judged and is being stored counts as on its way: the next version is not behind a gap, and no jump. If it does not come after all, it counts no more.
func TestWhatIsBeingStoredIsOnItsWay(t *testing.T) {
	l := NewLane(policy(t, func(c *Config) { sequence(c); c.MaxJump = 1 }), event.ResourceState{Version: "4"})
	five, six := at(0, "5"), at(0, "6")
	l.Expect(five)
	if d := l.Judge(six.Version); d != Pass && d != Turn {
		t.Errorf("6 while 5 is stored: %s", d)
	}
	l.Expect(six)
	if d := l.Judge(at(0, "7").Version); d != Pass && d != Turn {
		t.Errorf("7 while 5 and 6 are stored: %s", d)
	}
	for _, e := range []*Entry{five, six} { // the other way round
		l.Expected(e)
	}
	l.Expect(six)
	l.Expect(five)
	if d := l.Judge(at(0, "7").Version); d != Pass && d != Turn {
		t.Errorf("7 while 6 and 5 are stored: %s", d)
	}
	l.Expected(six)
	l.Add(at(2, "6"))
	if s := l.Next(0); s.Go != nil {
		t.Errorf("6 goes before 5: %+v", s)
	}
	l.Expected(five) // the disk is full: its sender is told 503
	if d := l.Judge(at(0, "7").Version); d != Jump {
		t.Errorf("7 without 5: %s", d)
	}
	l.Add(at(1, "5"))
	if s := l.Next(0); s.Go == nil || s.Go.Text != "5" {
		t.Errorf("5 in the end: %+v", s)
	}

	for _, c := range []struct {
		name   string
		change func(*Config, *Entry)
		goes   string
	}{
		{"a newer one", func(*Config, *Entry) {}, ""},
		{"a retry", func(_ *Config, e *Entry) { e.Retry = true }, ""},
		{"a forced one", func(_ *Config, e *Entry) { e.Forced = true }, "6"},
		{"one of unknown outcome", func(_ *Config, e *Entry) { e.Retry, e.Unknown = true, true }, "6"},
		{"the newer one is all that counts", func(c *Config, _ *Entry) { stalePolicy(c) }, "6"},
	} {
		e := at(2, "6")
		e.Release = 1
		l = NewLane(policy(t, func(conf *Config) { conf.Policy = "window"; c.change(conf, e) }), event.ResourceState{Version: "4"})
		l.Expect(five)
		l.Add(e)
		if s := l.Next(1); goes(s) != c.goes || s.Wake != Never {
			t.Errorf("%s while 5 is stored: %q goes, wakes at %d", c.name, goes(s), s.Wake)
		}
	}

	held := policy(t, func(c *Config) { sequence(c); c.Start = "1" })
	l = NewLane(held, event.ResourceState{})
	l.Expect(&Entry{Version: at(0, "3").Version, Text: "3", Early: true})
	if d := l.Judge(at(0, "4").Version); d != Hold || l.Early() != 1 {
		t.Errorf("4 while 3, which is early, is stored: %s, %d early", d, l.Early())
	}
}

// What the journal remembers of a version that was given up, or delivered beside one.
func TestFloor(t *testing.T) {
	lost := func(c *Config) { sequence(c); c.OnGap = "dead_letter" }
	jump := func(c *Config) { stalePolicy(c); c.MaxJump = 2 }
	for _, c := range []struct {
		name          string
		config        func(*Config)
		cursor, floor string
		version       string
		forced        bool
		how           End
		want          string
		changed       bool
	}{
		{"the first seen", sequence, "", "", "5", false, WasGivenUp, "5", true},
		{"the first seen, discarded", sequence, "", "", "5", false, WasSettled, "5", true},
		{"the first, forced", sequence, "", "", "5", true, WasGivenUp, "", false},
		{"the next", sequence, "4", "", "5", false, WasGivenUp, "5", true},
		{"the next, forced", sequence, "4", "", "5", true, WasGivenUp, "5", true},
		{"one after a gap that was given up", sequence, "4", "", "7", false, WasGivenUp, "7", true},
		{"one out of line, forced", sequence, "4", "", "7", true, WasGivenUp, "", false},
		{"one that was given up before", sequence, "4", "6", "5", false, WasGivenUp, "6", false},
		{"gaps are kept", lost, "4", "", "5", false, WasGivenUp, "", false},
		{"gaps are kept, discarded", lost, "4", "", "5", false, WasSettled, "5", true},
		{"gaps are kept, the first seen", lost, "", "", "5", false, WasGivenUp, "4", true},
		{"gaps are kept, the first, forced", lost, "", "", "5", true, WasGivenUp, "", false},
		{"reject_stale without max_jump has none", stalePolicy, "4", "", "5", false, WasGivenUp, "", false},
		{"max_jump counts from it", jump, "4", "", "5", false, WasGivenUp, "5", true},
		{"max_jump, again what was given up before", jump, "4", "6", "5", false, WasGivenUp, "6", false},
		{"max_jump, forced", jump, "4", "", "20", true, WasGivenUp, "", false},
		{"delivered below it", sequence, "4", "6", "5", false, WasDelivered, "6", true},
		{"delivered beyond it", sequence, "4", "6", "7", false, WasDelivered, "", true},
		{"serial", func(c *Config) { c.Policy = "serial" }, "", "", "", false, WasGivenUp, "", false},
	} {
		p := policy(t, c.config)
		l := NewLane(p, event.ResourceState{Version: c.cursor, Floor: c.floor})
		e := at(1, c.version)
		e.Forced = c.forced
		if _, floor, changed := l.After(e, c.how); floor != c.want || changed != c.changed {
			t.Errorf("%s: floor %q, changed %t", c.name, floor, changed)
		}
		if c.how == WasGivenUp {
			if l.GivenUp(e); l.floorAs != c.want || l.floor != NewLane(p, event.ResourceState{Floor: c.want}).floor {
				t.Errorf("%s: the lane's floor is %q", c.name, l.floorAs)
			}
		}
	}
}

// Before anything was delivered the gap begins with the first version seen, which was given up; where gaps are kept it comes after what is remembered instead of it.
func TestGapAfterTheFirstWasGivenUp(t *testing.T) {
	for _, c := range []struct{ onGap, floor, want string }{{"release", "5", "5-6"}, {"dead_letter", "4", "5-6"}, {"release", "", ""}, {"dead_letter", "", ""}} {
		l := NewLane(policy(t, func(c2 *Config) { sequence(c2); c2.OnGap = c.onGap }), event.ResourceState{Floor: c.floor})
		e := at(1, "7")
		e.Forced = true
		l.Add(e)
		if s := l.Next(1); s.Go != e || s.Gap != c.want {
			t.Errorf("%s, floor %q: %+v", c.onGap, c.floor, s)
		}
	}
}

// What was held behind the first version seen does not take its place when that is back with its sender: it waits as long as it would have.
func TestWhatWasHeldIsNotTheFirst(t *testing.T) {
	for _, onGap := range []string{"release", "dead_letter"} { // no gap is known of
		l := NewLane(policy(t, func(c *Config) { sequence(c); c.OnGap = onGap }), event.ResourceState{})
		e := at(1, "7")
		e.Early, e.Release = true, 100
		l.Add(e)
		if s := l.Next(99); s.Go != nil || s.Wake != 100 {
			t.Errorf("%s, before its wait is over: %+v", onGap, s)
		}
		if s := l.Next(100); s.Go != e || s.Gap != "" {
			t.Errorf("%s, after it: %+v", onGap, s)
		}
	}
}

// What waits for its turn behind the first version seen, or is being stored, does not take its place either.
func TestWhatWaitedForItsTurnIsNotTheFirst(t *testing.T) {
	for _, c := range []struct {
		name    string
		conf    func(*Config)
		cursor  string
		forced  bool
		goes    string // once 5 is back with its sender
		retried string // once its sender has sent it again
	}{
		{"the first seen", sequence, "", false, "", "5"},
		{"one after the cursor", sequence, "4", false, "", "5"},
		{"a forced one", sequence, "", true, "6", ""},
		{"another policy", stalePolicy, "", false, "6", ""},
	} {
		l := NewLane(policy(t, c.conf), event.ResourceState{Version: c.cursor})
		e5, e6, e7 := at(1, "5"), at(2, "6"), at(3, "7")
		e5.Forced, e6.Release, e7.Release = c.forced, 100, 101
		l.Add(e5)
		l.Next(1)
		l.Add(e6)
		l.Expect(e7)
		l.Returned(e5)
		if early := l.Early() > 0; early != (c.retried != "" && c.cursor == "") {
			t.Errorf("%s: what waits is early: %t", c.name, early)
		}
		l.Expected(e7)
		l.Add(e7)
		s := l.Next(2)
		if got := goes(s); got != c.goes {
			t.Errorf("%s: %q goes, want %q", c.name, got, c.goes)
		}
		if c.goes != "" {
			continue
		}
		if s.Wake != 100 {
			t.Errorf("%s: wakes at %d", c.name, s.Wake)
		}
		if d := l.Judge(e5.Version); d != Pass {
			t.Errorf("%s: the sender's retry: %s", c.name, d)
		}
		l.Add(e5)
		if got := goes(l.Next(3)); got != c.retried {
			t.Errorf("%s: %q goes after the retry", c.name, got)
		}
		for _, want := range []string{"6", "7"} {
			l.Delivered(l.Flying())
			if got := goes(l.Next(4)); got != want {
				t.Errorf("%s: %q goes, want %s", c.name, got, want)
			}
		}
	}
}

func goes(s Step) string {
	if s.Go == nil {
		return ""
	}
	return s.Go.Text
}

// What an operator resolves while it waits leaves the attempt in flight where it is.
func TestResolvedWhileAnotherIsInFlight(t *testing.T) {
	l := NewLane(policy(t, stalePolicy), event.ResourceState{Version: "4"})
	e5, e6 := at(1, "5"), at(2, "6")
	l.Add(e5)
	l.Next(1)
	l.Add(e6)
	l.Remove(e6.ID)
	if l.Delivered(e6); l.Flying() != e5 || l.Cursor() != "6" {
		t.Errorf("in flight %v, cursor %s", l.Flying(), l.Cursor())
	}
}

// Which of those that wait are lost with a version that is given up.
func TestLostWithAVersionThatIsGivenUp(t *testing.T) {
	lost := func(c *Config) { sequence(c); c.OnGap = "dead_letter" }
	for _, c := range []struct {
		name   string
		config func(*Config)
		cursor string
		up     string
		forced bool
		want   string
	}{
		{"the next", lost, "4", "5", false, "6 8"},
		{"the first seen", lost, "", "5", false, "6 8"},
		{"one like the cursor", lost, "5", "5", false, ""},
		{"one out of line", lost, "3", "5", true, ""},
		{"the first, forced", lost, "", "5", true, ""},
		{"gaps are released", sequence, "4", "5", false, ""},
		{"reject_stale knows of no gaps", func(c *Config) { lost(c); stalePolicy(c) }, "4", "5", false, ""},
	} {
		l := NewLane(policy(t, c.config), event.ResourceState{Version: c.cursor})
		e := at(1, c.up)
		e.Forced = c.forced
		same, e6, retried, forced, e8 := at(2, "5"), at(3, "6"), at(4, "7"), at(5, "7"), at(6, "8")
		retried.Retry, forced.Forced = true, true
		for _, w := range []*Entry{same, e6, retried, forced, e8} {
			l.Add(w)
		}
		var got []string
		for _, x := range l.GivenUp(e) {
			got = append(got, x.Text)
		}
		if s := strings.Join(got, " "); s != c.want || l.Waiting() != 5-len(got) {
			t.Errorf("%s: lost %q, %d wait", c.name, s, l.Waiting())
		}
	}
}

// What had its turn once is not asked about gaps and windows again, nor lost with a gap: it goes when it is due, also after a restart.
func TestARetryWaitsForNothingElse(t *testing.T) {
	for _, change := range []func(*Config){sequence, func(c *Config) { sequence(c); c.OnGap = "dead_letter" }, func(c *Config) { c.Policy = "window" }} {
		p := policy(t, change)
		l := NewLane(p, event.ResourceState{Version: "4"})
		e, held := at(1, "7"), at(2, "9")
		e.Retry, e.Due, held.Release = true, 10, 1000
		l.Add(e)
		l.Add(held)
		if s := l.Next(9); s.Go != nil || s.Wake != 10 {
			t.Errorf("%s: before it is due: %+v", p.Policy, s)
		}
		if s := l.Next(10); s.Go != e || len(s.Lost) > 0 {
			t.Errorf("%s: when it is due: %+v", p.Policy, s)
		}
	}
}

// A forced replay passes what is held, one at a time; while it is not due it keeps nothing that is too late from being found.
func TestForcedReplays(t *testing.T) {
	l := NewLane(policy(t, sequence), event.ResourceState{Version: "4"})
	held, f8, f9 := at(1, "7"), at(2, "8"), at(3, "9")
	held.Release, f8.Forced, f9.Forced, f8.Due, f9.Due = 50, true, true, 10, 100
	for _, e := range []*Entry{held, f8, f9} {
		l.Add(e)
	}
	if s := l.Next(9); s.Go != nil || s.Wake != 10 {
		t.Errorf("before one is due: %+v", s)
	}
	f9.Due = 10
	if s := l.Next(10); s.Go != f8 || !slices.Equal(l.Entries(), []*Entry{held, f9}) {
		t.Errorf("when both are due: %+v, %d wait", s, l.Waiting())
	}
	if d := l.Judge(at(4, "9").Version); d != Hold {
		t.Errorf("9 while 8 is forced: %s", d)
	}
	l.Gone(f8)
	f9.Due = 100
	if s := l.Next(10); s.Go != nil || s.Wake != 50 {
		t.Errorf("the gap is over before the other is due: %+v", s)
	}

	l = NewLane(policy(t, func(c *Config) { stalePolicy(c); c.OnFailure, c.MaxJump = "continue", 2 }), event.ResourceState{Version: "5"})
	f3, late, f4 := at(1, "3"), at(2, "4"), at(3, "4")
	f3.Forced, f3.Retry, f3.Due, f4.Forced = true, true, 1000, true
	e6, f5 := at(6, "6"), at(7, "5")
	e6.Retry, e6.Unknown, e6.Due, f5.Forced = true, true, 1000, true
	for _, e := range []*Entry{f3, late, f4, e6} {
		l.Add(e)
	}
	if s := l.Next(1); s.Go != f4 || !slices.Equal(s.Stale, []*Entry{late}) || !slices.Equal(l.Entries(), []*Entry{e6, f3}) {
		t.Errorf("among forced ones, and one of unknown outcome: %+v", s)
	}
	l.Gone(f4)
	l.Add(f5)
	if s := l.Next(1); s.Go != f5 {
		t.Errorf("before an unknown outcome is decided: %+v", s)
	}
	l.Gone(f5)
	l.Remove(e6.ID)
	far := at(4, "20")
	far.Forced = true
	l.Add(far)
	for range 2 {
		if d := l.Judge(at(5, "21").Version); d != Jump {
			t.Errorf("21 while 20 is forced: %s", d)
		}
		l.Next(1)
	}
	if l.Flying() != far {
		t.Error("20 is not in flight")
	}
}

// A forced one that waits fills no gap, nor does a retry of the version at the cursor; and where a version was given up, one below it opens none.
func TestWhatIsNoPredecessor(t *testing.T) {
	l := NewLane(policy(t, sequence), event.ResourceState{Version: "4"})
	forced := at(1, "5")
	forced.Forced = true
	l.Add(forced)
	if d := l.Judge(at(2, "6").Version); d != Hold {
		t.Errorf("6 while 5 is forced: %s", d)
	}

	l = NewLane(policy(t, sequence), event.ResourceState{Version: "3", Floor: "6"})
	l.flying = at(1, "5")
	if d := l.Judge(at(2, "7").Version); d != Turn {
		t.Errorf("7 after 6, which was given up, while 5 is in flight: %s", d)
	}
	l.Add(at(3, "8"))
	if got := l.Missing(10); !slices.Equal(got, []string{"7"}) {
		t.Errorf("missing after 6: %v", got)
	}

	l = NewLane(policy(t, func(c *Config) { sequence(c); c.OnFailure = "continue" }), event.ResourceState{Version: "4"})
	again, six := at(1, "4"), at(2, "6")
	again.Retry, again.Due, six.Release = true, 100, 50
	l.Add(again)
	l.Add(six)
	if s := l.Next(1); s.Go != nil || s.Wake != 50 {
		t.Errorf("6 while 4 is retried and 5 is missing: %+v", s)
	}
}

// An attempt of unknown outcome is on its way, wherever it stands: what follows it is not behind a gap.
func TestWhatFollowsAnUnknownOutcome(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnFailure = "continue" })
	for _, c := range []struct{ unknown, flying string }{{"7", ""}, {"5", "7"}} {
		l := NewLane(p, event.ResourceState{Version: "4"})
		e := at(1, c.unknown)
		e.Retry, e.Unknown, e.Due = true, true, 1000
		l.Add(e)
		if c.flying != "" {
			l.flying = at(2, c.flying)
		}
		if eight, nine := l.Judge(at(3, "8").Version), l.Judge(at(4, "9").Version); eight != Turn || nine != Hold {
			t.Errorf("unknown %s, in flight %q: 8 %s, 9 %s", c.unknown, c.flying, eight, nine)
		}
	}
}

// The lane is looked at again when the first of what waits is due, whatever its version.
func TestWake(t *testing.T) {
	p := policy(t, func(c *Config) { sequence(c); c.OnFailure = "continue" })
	l := NewLane(p, event.ResourceState{Version: "4"})
	e5, e6, e9 := at(1, "5"), at(2, "6"), at(3, "9")
	e5.Retry, e5.Due, e6.Retry, e6.Due, e9.Release = true, 100, true, 200, 300
	for _, e := range []*Entry{e9, e6, e5} {
		l.Add(e)
	}
	if s := l.Next(1); s.Go != nil || s.Wake != 100 {
		t.Errorf("%+v", s)
	}
	e5.Due = 400
	if s := l.Next(1); s.Go != nil || s.Wake != 200 {
		t.Errorf("%+v", s)
	}
}

// Equal versions go in order of arrival, and so does everything with serial.
func TestEqualVersionsGoInOrderOfArrival(t *testing.T) {
	for _, name := range []string{"serial", "reject_stale", "in_sequence", "window"} {
		l := NewLane(policy(t, func(c *Config) { c.Policy = name }), event.ResourceState{Version: "4"})
		es := []*Entry{at(1, "5"), at(2, "5"), at(3, "5")}
		for _, i := range []int{1, 0, 2} {
			l.Add(es[i])
		}
		if !slices.Equal(l.Entries(), es) {
			t.Errorf("%s: another order", name)
		}
		if e, ok := l.Remove(es[1].ID); !ok || e != es[1] || !slices.Equal(l.Entries(), []*Entry{es[0], es[2]}) {
			t.Errorf("%s: another is taken out", name)
		}
		if _, ok := l.Remove(es[1].ID); ok {
			t.Errorf("%s: it is taken out twice", name)
		}
	}
}

// What resources get shows as missing.
func TestMissing(t *testing.T) {
	l := NewLane(policy(t, sequence), event.ResourceState{Version: "4"})
	l.flying = at(1, "5")
	forced, e7, same, e10 := at(2, "6"), at(3, "7"), at(4, "7"), at(5, "10")
	forced.Forced = true
	for _, e := range []*Entry{forced, e7, same, e10} {
		l.Add(e)
	}
	if got := l.Missing(10); !slices.Equal(got, []string{"6", "8-9"}) {
		t.Errorf("missing %v", got)
	}
	if got := l.Missing(1); !slices.Equal(got, []string{"6"}) {
		t.Errorf("the first that is missing: %v", got)
	}
	l.flying.Forced = true
	if got := l.Missing(1); !slices.Equal(got, []string{"5-6"}) {
		t.Errorf("a forced one in flight fills no gap: %v", got)
	}
	if got := NewLane(policy(t, sequence), event.ResourceState{}).Missing(10); len(got) > 0 {
		t.Errorf("nothing waits: %v", got)
	}
	l = NewLane(policy(t, sequence), event.ResourceState{})
	l.Add(at(1, "7"))
	if got := l.Missing(10); len(got) > 0 {
		t.Errorf("before the first seen: %v", got)
	}
	l = NewLane(policy(t, sequence), event.ResourceState{Version: "4"})
	l.flying = at(1, "7")
	unknown, e6, e9 := at(2, "6"), at(3, "6"), at(4, "9")
	unknown.Unknown = true
	for _, e := range []*Entry{unknown, e6, e9} {
		l.Add(e)
	}
	if got := l.Missing(10); !slices.Equal(got, []string{"8"}) {
		t.Errorf("behind a gap that is over: %v", got)
	}
	if l.flying = nil; !slices.Equal(l.Missing(10), []string{"7-8"}) {
		t.Errorf("behind an unknown outcome: %v", l.Missing(10))
	}
	l = NewLane(policy(t, stalePolicy), event.ResourceState{Version: "4"})
	l.Add(at(1, "7"))
	l.Add(at(2, "9"))
	if got := l.Missing(10); len(got) > 0 {
		t.Errorf("reject_stale knows of no gaps: %v", got)
	}
}

// A reload while events wait: a longer wait holds for them, too, a window stays closed behind what has left it, and all versions are read anew.
func TestAdopt(t *testing.T) {
	wait := func(name string, d time.Duration) *Policy {
		return policy(t, func(c *Config) { c.Policy, c.MaxWait = name, d })
	}
	l := NewLane(wait("in_sequence", time.Second), event.ResourceState{Version: "4"})
	e7 := at(1, "7")
	e7.Release = 100
	l.Add(e7)
	l.Adopt(wait("in_sequence", 3*time.Second))
	if s := l.Next(100); s.Go != nil || s.Wake != 100+int64(2*time.Second) {
		t.Errorf("after a reload to a longer wait: %+v", s)
	}

	l = NewLane(wait("window", time.Second), event.ResourceState{Version: "4"})
	retried, waits := at(1, "8"), at(2, "12")
	retried.Retry, retried.Due, waits.Release = true, 1000, 1000
	l.Add(retried)
	l.Add(waits)
	l.Adopt(wait("window", time.Second))
	if seven, ten := l.Judge(at(3, "7").Version), l.Judge(at(4, "10").Version); seven != Stale || ten != Hold {
		t.Errorf("after a reload: 7 %s, 10 %s", seven, ten)
	}

	l = NewLane(policy(t, func(c *Config) { stalePolicy(c); c.Compare = "lexicographic" }), event.ResourceState{Version: "8"})
	for _, v := range []string{"9", "10", "11"} {
		e := &Entry{Text: v}
		e.Version, _ = Parse("lexicographic", v)
		switch v {
		case "9":
			l.flying = e
		case "10":
			l.Add(e)
		default:
			l.Expect(e)
		}
	}
	l.Adopt(policy(t, sequence))
	if next, gap := l.Judge(at(1, "12").Version), l.Judge(at(2, "13").Version); next != Turn || gap != Hold {
		t.Errorf("after a reload that reads versions as integers: 12 %s, 13 %s", next, gap)
	}

	l = NewLane(policy(t, func(c *Config) { c.Policy = "serial" }), event.ResourceState{})
	nameless := &Entry{ID: event.MakeID(time.Unix(1, 0), 1, 0)} // one without a version, on its way
	l.flying = nameless
	l.Add(&Entry{Text: "5", Early: true})
	l.Adopt(policy(t, func(c *Config) { sequence(c); c.OnGap = "dead_letter" }))
	if lost := l.GivenUp(nameless); len(lost) > 0 {
		t.Errorf("what waits after a reload is lost with one that has no version: %v", lost)
	}
}
