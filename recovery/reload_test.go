package recovery_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/recovery"
)

// another is a second source like the bed's.
func (b *bed) another(name string) recovery.SourceConfig {
	s := b.source
	s.Name, s.Path = name, "/"+name
	return s
}

// reload brings upstreams and sources into effect.
func (b *bed) reload(upstreams map[string]forward.Config, sources ...recovery.SourceConfig) {
	b.t.Helper()
	if err := b.r.Apply(recovery.Config{Upstreams: upstreams, Sources: sources}); err != nil {
		b.t.Fatal(err)
	}
}

// A source that a reload gives another upstream takes its backlog along, although that is in the line of the old one, which is down, behind what stays.
func TestBacklogFollowsItsSource(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = "store", policy
				u.Breaker = forward.BreakerConfig{Failures: 1, Probe: time.Hour, MaxProbe: time.Hour}
			})
			b.up()
			down := b.upstream
			down.URL = "http://127.0.0.1:1"
			upstreams := map[string]forward.Config{"down": down, "app": b.upstream}
			s, stays := b.source, b.another("stays")
			s.Delivery.Upstream, stays.Delivery.Upstream = "down", "down"
			b.reload(upstreams, s, stays)
			for i := range 5 {
				b.sendTo("stays", fmt.Sprint("evt_", i), fmt.Sprint("r", i), "")
				b.send(fmt.Sprint("evt_", i), fmt.Sprint("r", i), "")
			}
			time.Sleep(time.Second)
			b.reload(upstreams, b.source, stays)
			time.Sleep(time.Second)
			if n := len(b.consumer.Seen()); n != 5 {
				t.Errorf("%s: %d of 5 events have come along", policy, n)
			}
		})
	}
}
