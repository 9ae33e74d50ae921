package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

var (
	outageEvents = flag.Int("outage-events", 300, "events that arrive while the consumer is away")
	outageRate   = flag.Int("outage-rate", 100, "attempts a second when it is back")
)

// freshBefore is how many events come before the outage.
const freshBefore = 20

// The consumer goes away while versions of a hundred resources keep arriving, the gateway is killed once meanwhile, and the consumer comes back. None is lost,
// none is a dead letter, each resource's versions come in sequence, once; the backlog drains at the configured rate, and new events are taken as fast as before.
//
// Large: go test ./e2e -run TestOutage -outage-events 10000 -outage-rate 500
func TestOutage(t *testing.T) {
	const resources = 100
	n, rate := *outageEvents, *outageRate
	c, addr := consumer(t)
	g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", rate: %d, breaker: {failures: 5, probe: 200ms, max_probe: 1s}}}\nsources:\n%s%s", addr, rate,
		source("s", "ordering: {policy: in_sequence, start: \"1\"}\n    delivery: {upstream: app}"), source("fresh", "delivery: {upstream: app}")))
	before := latencies(t, g, "before", freshBefore)
	c.Close()

	var next atomic.Int64
	send := func(upTo int) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				// Each sender has its own resources, so that versions arrive in order.
				for i := int(next.Add(1)) - 1; i < upTo; i = int(next.Add(1)) - 1 {
					id, resource, version := fmt.Sprint("evt_", i), fmt.Sprint("r", i%resources), strconv.Itoa(i/resources+1)
					status, outcome := g.post(context.Background(), "/s", hooktest.Custom(secret, hooktest.CustomBody(id, "t", resource, version), time.Now()))
					if status != 202 || outcome != "accepted" && outcome != "held" {
						t.Errorf("%s during the outage: %d %s", id, status, outcome)
					}
				}
			})
		}
		wg.Wait()
	}
	send(n / 2)
	next.Store(int64(n / 2))
	g.kill()
	g.launch()
	send(n)
	rss := g.rss()
	if got := counts(t, g); got["failed"] != 0 || int(got["pending"]) != n {
		t.Fatalf("during the outage: %v", got)
	}

	if _, err := c.Listen(""); err != nil {
		t.Fatal(err)
	}
	var after []time.Duration
	for began := time.Now(); counts(t, g)["pending"] > 0; time.Sleep(50 * time.Millisecond) {
		rss = max(rss, g.rss())
		if time.Since(began) > time.Duration(n/rate+60)*time.Second {
			t.Fatalf("not drained: %v", counts(t, g))
		}
		if len(c.Of("s", "evt_0")) > 0 && len(after) < 50 {
			after = append(after, latencies(t, g, fmt.Sprint("after", len(after)), 1)...)
		}
	}
	if got := counts(t, g); got["failed"] != 0 || int(got["delivered"]) != n {
		t.Errorf("at the end: %v", got)
	}
	judgeDrain(t, c, n, rate)
	slices.Sort(before)
	slices.Sort(after)
	t.Logf("%d events: RSS at most %d MiB; new events before %s, while it drains %s (medians)", n, rss>>20, before[len(before)/2], after[len(after)/2])
	if rss > 200<<20 {
		t.Errorf("RSS %d MiB", rss>>20)
	}
}

// judgeDrain checks order, once, and the rate.
func judgeDrain(t *testing.T, c *hooktest.Consumer, n, rate int) {
	t.Helper()
	versions, at := map[string]int{}, []time.Time{}
	for _, s := range c.Seen() {
		if s.Header.Get("Hooktender-Source") != "s" {
			at = append(at, s.At)
			continue
		}
		at = append(at, s.At)
		i, _ := strconv.Atoi(strings.TrimPrefix(s.Header.Get("Hooktender-Event-Id"), "evt_"))
		resource := fmt.Sprint(i % 100)
		if v := i/100 + 1; v != versions[resource]+1 {
			t.Errorf("resource %s: version %d after %d", resource, v, versions[resource])
		}
		versions[resource]++
		if s.Header.Get("Hooktender-Gap") != "" {
			t.Errorf("a gap before %s", s.Header.Get("Hooktender-Event-Id"))
		}
	}
	at = at[freshBefore:]
	took, half := at[len(at)-1].Sub(at[0]), (len(at)-1)/2
	best := took // of the half that came quickest: on a busy machine others may take the time that all of them need
	for i := range len(at) - half {
		best = min(best, at[i+half].Sub(at[i]))
	}
	got, quickest := float64(len(at)-1)/took.Seconds(), float64(half)/best.Seconds()
	if got > 1.1*float64(rate) || quickest < 0.9*float64(rate) {
		t.Errorf("%d requests in %s: %.0f a second, half of them %.0f, %d are configured", len(at), took, got, quickest, rate)
	} else {
		t.Logf("%d requests in %s: %.1f a second, half of them %.1f, %d are configured", len(at), took.Round(time.Millisecond), got, quickest, rate)
	}
}

// latencies is how long senders of events without order wait for the upstream's answer.
func latencies(t *testing.T, g *gatewayProcess, name string, n int) []time.Duration {
	t.Helper()
	var out []time.Duration
	for i := range n {
		began := time.Now()
		status, outcome := g.post(context.Background(), "/fresh", hooktest.Custom(secret, hooktest.CustomBody(fmt.Sprint(name, "_", i), "t", "", ""), time.Now()))
		if status != 200 || outcome != "delivered" {
			t.Errorf("a new event: %d %s", status, outcome)
		}
		out = append(out, time.Since(began))
	}
	return out
}

// counts is the number of events of source s by state.
func counts(t *testing.T, g *gatewayProcess) map[string]int64 {
	t.Helper()
	sources, err := g.api().Sources(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if s.Name == "s" {
			return s.Counts
		}
	}
	return nil
}
