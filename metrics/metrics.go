// Package metrics declares every metric of SPEC §10 as data and keeps the numbers. What is counted on the way of a request is a Counter
// or a Histogram of this package, looked up when the configuration is applied and then just incremented: no lock, no map, no allocation.
// What can be asked for (queues, breakers, the journal) is asked when somebody looks, through the callbacks of Gauges.
package metrics

import (
	"maps"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Outcomes of requests: the values of Hooktender-Outcome, and what ends a request before it has a source or an event. A closed list.
var Outcomes = []string{"delivered", "failed", "returned", "accepted", "held", "duplicate", "stale", "quarantined", "conflict", "rejected",
	"forbidden", "unidentified", "unavailable", "handshake", "not_found", "method_not_allowed", "too_large", "timeout", "rate_limited", "malformed", other}

// AttemptOutcomes are the outcomes of attempts (SPEC §7). ReplayResults are the ends of events in replays.
var (
	AttemptOutcomes = []string{"delivered", "transient", "permanent", "unknown", "not_sent"}
	ReplayResults   = []string{"replayed", "failed", "skipped"}
	lookupTiers     = []string{"lru", "log"}
	lookupResults   = []string{"hit", "miss"}
	reloadResults   = []string{"success", "failure"}
)

// other takes what is in no list, so that a label never grows with what senders send.
const other = "other"

// counters is one counter per value of a label.
type counters struct {
	values []string // in order, for showing
	by     map[string]*Counter
}

func newCounters(values []string) counters {
	c := counters{values: values, by: make(map[string]*Counter, len(values))}
	for _, v := range values {
		c.by[v] = &Counter{}
	}
	return c
}

// get never returns nil: a value in no list counts as "other", or as the last of the list.
func (c counters) get(value string) *Counter {
	if n := c.by[value]; n != nil {
		return n
	}
	if n := c.by[other]; n != nil {
		return n
	}
	return c.by[c.values[len(c.values)-1]]
}

// Source holds the numbers of one source.
type Source struct {
	requests counters
	// Duration is how long requests took until their answer.
	Duration *Histogram
	// Conflicts counts requests with a known id and another body.
	Conflicts Counter
}

// Requests is the counter of one of Outcomes.
func (s *Source) Requests(outcome string) *Counter { return s.requests.get(outcome) }

// Upstream holds the numbers of one upstream.
type Upstream struct {
	attempts counters
	// Duration is how long attempts took.
	Duration *Histogram
}

// Attempts is the counter of one of AttemptOutcomes.
func (u *Upstream) Attempts(outcome string) *Counter { return u.attempts.get(outcome) }

// Provider holds the numbers of one provider preset.
type Provider struct {
	// Verify is how long checking signatures took.
	Verify *Histogram
}

// Journal holds the numbers of the journal.
type Journal struct {
	// Sync is how long each fsync took; GroupSize how many items shared one group commit (ObserveN).
	Sync, GroupSize *Histogram
}

// Set is all metrics of one process. Create with New. Safe for concurrent use; every series that it knows of exists from the start,
// with 0.
type Set struct {
	mu        sync.RWMutex
	sources   map[string]*Source
	upstreams map[string]*Upstream
	providers map[string]*Provider

	// Journal is fed by the journal's engine.
	Journal Journal

	lookups    map[string]counters // by tier
	replays    counters
	reloads    counters
	lastReload atomic.Bool
	gauges     atomic.Pointer[Gauges]
	build      buildInfo
}

// buildInfo is what build_info shows.
type buildInfo struct{ version, revision, goVersion string }

// thisBuild reads what the Go tool has put into the binary.
func thisBuild() buildInfo {
	b := buildInfo{version: "devel", revision: "unknown", goVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.revision = s.Value
		}
	}
	return b
}

// began is when the process began, about.
var began = time.Now()

// New makes a Set.
func New() *Set {
	s := &Set{sources: map[string]*Source{}, upstreams: map[string]*Upstream{}, providers: map[string]*Provider{}, lookups: map[string]counters{},
		replays: newCounters(ReplayResults), reloads: newCounters(reloadResults), build: thisBuild()}
	s.Journal = Journal{Sync: newHistogram(syncBounds, 1e9), GroupSize: newHistogram(groupBounds, 1)}
	for _, t := range lookupTiers {
		s.lookups[t] = newCounters(lookupResults)
	}
	s.lastReload.Store(true)
	s.gauges.Store(&Gauges{})
	return s
}

// Source gives the numbers of a source; the name "" is for requests that belong to none. They stay until Keep drops them: counters never
// go down.
func (s *Set) Source(name string) *Source {
	return lookup(&s.mu, s.sources, name, func() *Source {
		return &Source{requests: newCounters(Outcomes), Duration: newHistogram(requestBounds, 1e9)}
	})
}

// Upstream gives the numbers of an upstream.
func (s *Set) Upstream(name string) *Upstream {
	return lookup(&s.mu, s.upstreams, name, func() *Upstream {
		return &Upstream{attempts: newCounters(AttemptOutcomes), Duration: newHistogram(requestBounds, 1e9)}
	})
}

// Provider gives the numbers of a provider preset.
func (s *Set) Provider(name string) *Provider {
	return lookup(&s.mu, s.providers, name, func() *Provider { return &Provider{Verify: newHistogram(verifyBounds, 1e9)} })
}

// Keep drops the series of every source and upstream that is not named. One that comes back begins at 0. Whoever still has its numbers counts unseen.
func (s *Set) Keep(sources, upstreams map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sources, func(name string, _ *Source) bool { return name != "" && !sources[name] })
	maps.DeleteFunc(s.upstreams, func(name string, _ *Upstream) bool { return !upstreams[name] })
}

func lookup[T any](mu *sync.RWMutex, m map[string]*T, name string, make func() *T) *T {
	mu.RLock()
	v := m[name]
	mu.RUnlock()
	if v != nil {
		return v
	}
	mu.Lock()
	defer mu.Unlock()
	if m[name] == nil {
		m[name] = make()
	}
	return m[name]
}

// Lookups is the counter of dedup lookups that a tier (lru, log) has answered with a hit or a miss.
func (s *Set) Lookups(tier string, hit bool) *Counter {
	c, ok := s.lookups[tier]
	if !ok {
		c = s.lookups["log"]
	}
	if hit {
		return c.get("hit")
	}
	return c.get("miss")
}

// Replays is the counter of events that replays have brought to one of ReplayResults.
func (s *Set) Replays(result string) *Counter { return s.replays.get(result) }

// Reloaded notes a reload of the configuration.
func (s *Set) Reloaded(ok bool) {
	s.lastReload.Store(ok)
	if ok {
		s.reloads.get("success").Inc()
	} else {
		s.reloads.get("failure").Inc()
	}
}

// Gauges are asked when somebody looks. Members may be nil. They must be safe for concurrent use and answer within five seconds.
type Gauges struct {
	Sources   func() []SourceGauge
	Upstreams func() []UpstreamGauge
	Journal   func() JournalGauge
}

// SourceGauge is the present state of one source.
type SourceGauge struct {
	Name          string
	Events        map[string]int64 // by state; states that are not there are 0
	OldestPending time.Time        // when the oldest pending event was received; zero if none
	DeadLetters   int64
	Corrupt       int64 // of these, with damaged bytes
	Held          int64
	OldestGap     time.Time // since when the longest open gap has been open; zero if none
}

// UpstreamGauge is the present state of one upstream.
type UpstreamGauge struct {
	Name        string
	BreakerOpen bool // also half open
}

// JournalGauge is the present state of the journal.
type JournalGauge struct {
	Bytes     int64
	FreeBytes uint64
}

// SetGauges sets the callbacks.
func (s *Set) SetGauges(g Gauges) { s.gauges.Store(&g) }
