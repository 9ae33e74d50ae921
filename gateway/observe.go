package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/metrics"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
)

// observe is the journal's observer.
func (g *Gateway) observe(old event.State, oldReason event.Reason, rec *event.Record) {
	g.recovery.Observe(old, oldReason, rec)
}

// measure counts attempts and replays.
func (g *Gateway) measure() recovery.Measure {
	return recovery.Measure{
		Upstream: func(name string) func(o event.Outcome, d time.Duration) {
			u := g.metrics.Upstream(name)
			var by [event.OutcomeNotSent + 1]*metrics.Counter
			for o := range by {
				by[o] = u.Attempts(event.Outcome(o).String())
			}
			return func(o event.Outcome, d time.Duration) {
				by[o].Inc()
				u.Duration.Observe(d)
			}
		},
		Replay: func(result string) { g.metrics.Replays(result).Inc() },
	}
}

// lookups counts what dedup asks.
func (g *Gateway) lookups() func(tier string, hit bool) {
	lruHit, lruMiss, logHit, logMiss := g.metrics.Lookups("lru", true), g.metrics.Lookups("lru", false), g.metrics.Lookups("log", true), g.metrics.Lookups("log", false)
	return func(tier string, hit bool) {
		switch {
		case tier == "lru" && hit:
			lruHit.Inc()
		case tier == "lru":
			lruMiss.Inc()
		case hit:
			logHit.Inc()
		default:
			logMiss.Inc()
		}
	}
}

// watch counts what a source's requests end as.
func (g *Gateway) watch(s *proxy.Source) {
	m := g.metrics.Source(s.Name)
	s.OnAnswer = func(outcome string, d time.Duration) {
		m.Requests(outcome).Inc()
		m.Duration.Observe(d)
	}
	s.OnConflict = m.Conflicts.Inc
	s.OnVerify = g.metrics.Provider(s.Provider).Verify.Observe
}

// refused counts what the server answers before a source sees it.
func (g *Gateway) refused(target []byte, status int) {
	outcome := "malformed"
	switch status {
	case http.StatusRequestTimeout:
		outcome = "timeout"
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		outcome = "too_large"
	case http.StatusTooManyRequests:
		outcome = "rate_limited"
	case http.StatusServiceUnavailable:
		outcome = "unavailable"
	}
	g.metrics.Source(g.pipeline.SourceAt(target)).Requests(outcome).Inc()
}

// gauges are asked when somebody reads /metrics.
func (g *Gateway) gauges() metrics.Gauges {
	return metrics.Gauges{Sources: g.sourceGauges, Upstreams: g.upstreamGauges, Journal: func() metrics.JournalGauge {
		st := g.engine.Stats()
		return metrics.JournalGauge{Bytes: st.Bytes, FreeBytes: st.FreeBytes}
	}}
}

func (g *Gateway) sourceGauges() []metrics.SourceGauge {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // Prometheus waits for ten
	defer cancel()
	sources, err := g.recovery.Sources(ctx)
	if err != nil {
		return nil
	}
	var out []metrics.SourceGauge
	for _, s := range sources {
		sg := metrics.SourceGauge{Name: s.Name, Events: map[string]int64{}, OldestPending: s.OldestPendingAt, Held: s.Held, OldestGap: g.recovery.OldestGap(s.Name)}
		for st, n := range s.Counts {
			sg.Events[st.String()] = n
		}
		for _, c := range s.Reasons {
			r := event.Record{State: c.State, Reason: c.Reason}
			if r.DeadLetter() {
				sg.DeadLetters += c.N
			}
			if c.State == event.Failed && c.Reason == event.Corrupt {
				sg.Corrupt += c.N
			}
		}
		out = append(out, sg)
	}
	return out
}

func (g *Gateway) upstreamGauges() []metrics.UpstreamGauge {
	var out []metrics.UpstreamGauge
	for _, u := range g.recovery.Upstreams() {
		out = append(out, metrics.UpstreamGauge{Name: u.Name, BreakerOpen: u.Breaker != "closed"})
	}
	return out
}
