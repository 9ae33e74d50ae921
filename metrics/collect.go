package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metric is one row of the declaration.
type metric struct {
	name   string // without the prefix
	help   string
	kind   prometheus.ValueType // of a histogram: 0
	labels []string
	emit   func(s *Set, m *emitter)
}

const prefix = "hooktender_"

// states are the values of the label state (SPEC §7).
var states = []string{"pending", "delivered", "failed", "replayed", "rejected"}

const histogram prometheus.ValueType = 0

// declared lists every metric (SPEC §10).
var declared = []metric{
	{"requests_total", "Requests answered, by how they ended.", prometheus.CounterValue, []string{"source", "outcome"}, eachSource(func(e *emitter, name string, s *Source) {
		for _, o := range s.requests.values {
			e.value(float64(s.requests.by[o].Value()), name, o)
		}
	})},
	{"request_duration_seconds", "Time from the first byte of a request to its answer.", histogram, []string{"source"}, eachSource(func(e *emitter, name string, s *Source) { e.histogram(s.Duration, name) })},
	{"verify_duration_seconds", "Time to check a signature.", histogram, []string{"provider"}, func(s *Set, e *emitter) {
		each(s, s.providers, func(name string, p *Provider) { e.histogram(p.Verify, name) })
	}},
	{"attempts_total", "Requests to an upstream, by what came of them.", prometheus.CounterValue, []string{"upstream", "outcome"}, eachUpstream(func(e *emitter, name string, u *Upstream) {
		for _, o := range u.attempts.values {
			e.value(float64(u.attempts.by[o].Value()), name, o)
		}
	})},
	{"upstream_duration_seconds", "Time that an attempt took.", histogram, []string{"upstream"}, eachUpstream(func(e *emitter, name string, u *Upstream) { e.histogram(u.Duration, name) })},
	{"events", "Events that the log remembers, by state.", prometheus.GaugeValue, []string{"source", "state"}, eachGauge(func(e *emitter, g *SourceGauge) {
		for _, st := range states {
			e.value(float64(g.Events[st]), g.Name, st)
		}
	})},
	{"oldest_pending_seconds", "Age of the oldest event that is not delivered yet; 0 if none.", prometheus.GaugeValue, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(e.age(g.OldestPending), g.Name) })},
	{"dead_letters", "Failed events that wait for an operator.", prometheus.GaugeValue, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(float64(g.DeadLetters), g.Name) })},
	{"dedup_lookups_total", "Lookups of event ids, by the tier that was asked and what it said.", prometheus.CounterValue, []string{"tier", "result"}, func(s *Set, e *emitter) {
		for _, t := range lookupTiers {
			for _, r := range lookupResults {
				e.value(float64(s.lookups[t].by[r].Value()), t, r)
			}
		}
	}},
	{"conflicts_total", "Requests with a known event id and another body.", prometheus.CounterValue, []string{"source"},
		eachSource(func(e *emitter, name string, s *Source) { e.value(float64(s.Conflicts.Value()), name) })},
	{"held_events", "Early events that wait for their turn.", prometheus.GaugeValue, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(float64(g.Held), g.Name) })},
	{"gap_seconds", "Age of the oldest open gap; 0 if none.", prometheus.GaugeValue, []string{"source"},
		eachGauge(func(e *emitter, g *SourceGauge) { e.value(e.age(g.OldestGap), g.Name) })},
	{"breaker_open", "1 while the breaker of the upstream is open.", prometheus.GaugeValue, []string{"upstream"}, func(s *Set, e *emitter) {
		if f := s.gauges.Load().Upstreams; f != nil {
			for _, u := range f() {
				e.value(flag(u.BreakerOpen), u.Name)
			}
		}
	}},
	{"journal_sync_duration_seconds", "Time that an fsync of the journal took.", histogram, nil, func(s *Set, e *emitter) { e.histogram(s.Journal.Sync) }},
	{"journal_group_size", "Items that shared one group commit.", histogram, nil, func(s *Set, e *emitter) { e.histogram(s.Journal.GroupSize) }},
	{"journal_bytes", "Size of the journal on disk.", prometheus.GaugeValue, nil, journalGauge(func(g JournalGauge) float64 { return float64(g.Bytes) })},
	{"disk_free_bytes", "Free space on the journal's volume.", prometheus.GaugeValue, nil, journalGauge(func(g JournalGauge) float64 { return float64(g.FreeBytes) })},
	{"replay_events_total", "Events that replays have brought to an end.", prometheus.CounterValue, []string{"result"}, func(s *Set, e *emitter) {
		for _, r := range s.replays.values {
			e.value(float64(s.replays.by[r].Value()), r)
		}
	}},
	{"config_reloads_total", "Reloads of the configuration.", prometheus.CounterValue, []string{"result"}, func(s *Set, e *emitter) {
		for _, r := range s.reloads.values {
			e.value(float64(s.reloads.by[r].Value()), r)
		}
	}},
	{"config_last_reload_successful", "1 if the configuration in use is the file's.", prometheus.GaugeValue, nil, func(s *Set, e *emitter) { e.value(flag(s.lastReload.Load())) }},
	{"build_info", "Always 1; the labels say what runs.", prometheus.GaugeValue, []string{"version", "revision", "goversion"},
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

// emitter sends the series of one metric.
type emitter struct {
	ch      chan<- prometheus.Metric
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	now     time.Time
	sources []SourceGauge // asked once per scrape
}

func (e *emitter) value(v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.desc, e.kind, v, labels...)
}

func (e *emitter) histogram(h *Histogram, labels ...string) {
	count, sum, buckets := h.snapshot()
	e.ch <- prometheus.MustNewConstHistogram(e.desc, count, sum, buckets, labels...)
}

func (e *emitter) age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(e.now.Sub(since).Seconds(), 0)
}

// descriptions are made once: one per row of declared.
var descriptions = func() []*prometheus.Desc {
	out := make([]*prometheus.Desc, len(declared))
	for i, m := range declared {
		out[i] = prometheus.NewDesc(prefix+m.name, m.help, m.labels, nil)
	}
	return out
}()

// Describe sends every description (prometheus.Collector).
func (s *Set) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
}

// Collect sends every series as it is now (prometheus.Collector).
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch: ch}
	if ask := s.gauges.Load().Sources; ask != nil {
		e.sources = ask()
	}
	e.now = time.Now()
	for i, m := range declared {
		e.desc, e.kind = descriptions[i], m.kind
		m.emit(s, &e)
	}
}

// Gatherer is a registry of the Set and of what the Go runtime and the process say of themselves: what /metrics shows.
func (s *Set) Gatherer() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(s, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
