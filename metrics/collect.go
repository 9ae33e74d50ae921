package metrics

import (
	"maps"
	"slices"
	"time"
)

// metric is one row of the declaration.
type metric struct {
	name   string // without the prefix
	help   string
	kind   kind
	labels []string
	emit   func(s *Set, m *emitter)
}

const prefix = "hooktender_"

// states are the values of the label state (SPEC §7).
var states = []string{"pending", "delivered", "failed", "replayed", "rejected"}

// kind of a metric, as the exposition format names it.
type kind string

const (
	counter   kind = "counter"
	gauge     kind = "gauge"
	histogram kind = "histogram"
)

// declared lists every metric (SPEC §10).
var declared = []metric{
	{"requests_total", "Requests answered, by how they ended.", counter, []string{"source", "outcome"}, eachSource(func(e *emitter, name string, s *Source) {
		for _, o := range s.requests.values {
			e.value(float64(s.requests.by[o].Value()), name, o)
		}
	})},
	{"request_duration_seconds", "Time from the first byte of a request to its answer.", histogram, []string{"source"}, eachSource(func(e *emitter, name string, s *Source) { e.histogram(s.Duration, name) })},
	{"verify_duration_seconds", "Time to check a signature.", histogram, []string{"provider"}, func(s *Set, e *emitter) {
		each(s, s.providers, func(name string, p *Provider) { e.histogram(p.Verify, name) })
	}},
	{"attempts_total", "Requests to an upstream, by what came of them.", counter, []string{"upstream", "outcome"}, eachUpstream(func(e *emitter, name string, u *Upstream) {
		for _, o := range u.attempts.values {
			e.value(float64(u.attempts.by[o].Value()), name, o)
		}
	})},
	{"upstream_duration_seconds", "Time that an attempt took.", histogram, []string{"upstream"}, eachUpstream(func(e *emitter, name string, u *Upstream) { e.histogram(u.Duration, name) })},
	{"events", "Events that the log remembers, by state.", gauge, []string{"source", "state"}, eachGauge(func(e *emitter, g *SourceGauge) {
		for _, st := range states {
			e.value(float64(g.Events[st]), g.Name, st)
		}
	})},
	{"oldest_pending_seconds", "Age of the oldest event that is not delivered yet; 0 if none.", gauge, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(e.age(g.OldestPending), g.Name) })},
	{"dead_letters", "Failed events that wait for an operator.", gauge, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(float64(g.DeadLetters), g.Name) })},
	{"corrupt_events", "Failed events whose stored bytes are damaged and were not forwarded; anything but 0 is an alarm.", gauge, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(float64(g.Corrupt), g.Name) })},
	{"dedup_lookups_total", "Lookups of event ids, by the tier that was asked and what it said.", counter, []string{"tier", "result"}, func(s *Set, e *emitter) {
		for _, t := range lookupTiers {
			for _, r := range lookupResults {
				e.value(float64(s.lookups[t].by[r].Value()), t, r)
			}
		}
	}},
	{"conflicts_total", "Requests with a known event id and another body.", counter, []string{"source"},
		eachSource(func(e *emitter, name string, s *Source) { e.value(float64(s.Conflicts.Value()), name) })},
	{"held_events", "Early events that wait for their turn.", gauge, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(float64(g.Held), g.Name) })},
	{"gap_seconds", "Age of the oldest open gap; 0 if none.", gauge, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(e.age(g.OldestGap), g.Name) })},
	{"breaker_open", "1 while the breaker of the upstream is open.", gauge, []string{"upstream"}, func(s *Set, e *emitter) {
		if f := s.gauges.Load().Upstreams; f != nil {
			for _, u := range f() {
				e.value(flag(u.BreakerOpen), u.Name)
			}
		}
	}},
	{"journal_sync_duration_seconds", "Time that an fsync of the journal took.", histogram, nil, func(s *Set, e *emitter) { e.histogram(s.Journal.Sync) }},
	{"journal_group_size", "Items that shared one group commit.", histogram, nil, func(s *Set, e *emitter) { e.histogram(s.Journal.GroupSize) }},
	{"journal_bytes", "Size of the journal on disk.", gauge, nil, journalGauge(func(g JournalGauge) float64 { return float64(g.Bytes) })},
	{"disk_free_bytes", "Free space on the journal's volume.", gauge, nil, journalGauge(func(g JournalGauge) float64 { return float64(g.FreeBytes) })},
	{"replay_events_total", "Events that replays have brought to an end.", counter, []string{"result"}, func(s *Set, e *emitter) {
		for _, r := range s.replays.values {
			e.value(float64(s.replays.by[r].Value()), r)
		}
	}},
	{"config_reloads_total", "Reloads of the configuration.", counter, []string{"result"}, func(s *Set, e *emitter) {
		for _, r := range s.reloads.values {
			e.value(float64(s.reloads.by[r].Value()), r)
		}
	}},
	{"config_last_reload_successful", "1 if the configuration in use is the file's.", gauge, nil, func(s *Set, e *emitter) { e.value(flag(s.lastReload.Load())) }},
	{"build_info", "Always 1; the labels say what runs.", gauge, []string{"version", "revision", "goversion"},
		func(s *Set, e *emitter) { e.value(1, s.build.version, s.build.revision, s.build.goVersion) }},
}

func eachSource(f func(*emitter, string, *Source)) func(*Set, *emitter) {
	return func(s *Set, e *emitter) { each(s, s.sources, func(n string, v *Source) { f(e, n, v) }) }
}

func eachUpstream(f func(*emitter, string, *Upstream)) func(*Set, *emitter) {
	return func(s *Set, e *emitter) { each(s, s.upstreams, func(n string, v *Upstream) { f(e, n, v) }) }
}

func eachGauge(f func(*emitter, *SourceGauge)) func(*Set, *emitter) {
	return func(_ *Set, e *emitter) {
		for i := range e.sources {
			f(e, &e.sources[i])
		}
	}
}

func journalGauge(f func(JournalGauge) float64) func(*Set, *emitter) {
	return func(s *Set, e *emitter) {
		if ask := s.gauges.Load().Journal; ask != nil {
			e.value(f(ask()))
		}
	}
}

// each visits a map of the Set in order of names.
func each[T any](s *Set, m map[string]*T, f func(string, *T)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, n := range slices.Sorted(maps.Keys(m)) {
		f(n, m[n])
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// emitter writes the series of one metric.
type emitter struct {
	text
	of      *metric
	now     time.Time
	sources []SourceGauge // asked once per scrape
}

func (e *emitter) value(v float64, labels ...string) {
	e.sample(prefix+e.of.name, v, e.of.labels, labels)
}

func (e *emitter) histogram(h *Histogram, labels ...string) {
	name := prefix + e.of.name
	names, values := append(slices.Clip(e.of.labels), "le"), append(slices.Clip(labels), "")
	count, sum, buckets := h.snapshot()
	for _, bound := range h.bounds {
		le := float64(bound) / h.scale
		values[len(values)-1] = number(le)
		e.sample(name+"_bucket", float64(buckets[le]), names, values)
	}
	values[len(values)-1] = "+Inf"
	e.sample(name+"_bucket", float64(count), names, values)
	e.sample(name+"_sum", sum, e.of.labels, labels)
	e.sample(name+"_count", float64(count), e.of.labels, labels)
}

func (e *emitter) age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(e.now.Sub(since).Seconds(), 0)
}

// AppendText appends every series as it is now, and what the Go runtime and the process say of themselves, in ContentType.
func (s *Set) AppendText(b []byte) []byte {
	e := emitter{text: text{b}}
	if ask := s.gauges.Load().Sources; ask != nil {
		e.sources = ask()
	}
	e.now = time.Now()
	for i := range declared {
		e.of = &declared[i]
		e.head(prefix+e.of.name, e.of.help, e.of.kind)
		e.of.emit(s, &e)
	}
	e.runtime()
	return e.b
}
