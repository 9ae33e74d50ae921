package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// ledger is the sender's side: what was acknowledged. The consumer's side is hooktest.Consumer. judge compares them.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool // answered 2xx
}

func (l *ledger) ack(id string) {
	l.mu.Lock()
	l.acked[id] = true
	l.mu.Unlock()
}

func (l *ledger) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for id := range l.acked {
		out = append(out, id)
	}
	return out
}

// judge checks the promise: every acknowledged event arrived; a second time only if marked.
func judge(t *testing.T, l *ledger, c *hooktest.Consumer) (repeats int) {
	t.Helper()
	seen, unmarked := map[string]int{}, 0
	for _, s := range c.Seen() {
		id := s.Header.Get("Hooktender-Event-Id")
		seen[id]++
		if seen[id] > 1 {
			repeats++
			if s.Header.Get("Hooktender-Redelivered") != "possible" {
				unmarked++
				t.Errorf("%s came again without a mark (attempt %s)", id, s.Header.Get("Hooktender-Attempt"))
			}
		}
	}
	lost := 0
	for _, id := range l.list() {
		if seen[id] == 0 {
			lost++
			if lost <= 5 {
				t.Errorf("%s was acknowledged and never arrived", id)
			}
		}
	}
	if lost+unmarked > 0 {
		t.Errorf("%d acknowledged lost, %d repeats unmarked", lost, unmarked)
	}
	return repeats
}

// SIGKILL under load, again and again: nothing acknowledged is lost, every repeat is marked.
func TestKillUnderLoad(t *testing.T) {
	for _, mode := range []string{"hybrid", "store", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			c, addr := consumer(t)
			g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", timeout: 3s, breaker: {failures: 100000}}}\nsources:\n%s", addr,
				source("s", "delivery: {mode: "+mode+", upstream: app, retry: {base: 50ms, factor: 1, max_attempts: 1000}}")))
			l := &ledger{acked: map[string]bool{}}
			var next atomic.Int64
			for cycle := range *kills {
				loadAndKill(g, l, &next)
				g.launch()
				if t.Failed() {
					t.Fatalf("in cycle %d", cycle)
				}
			}
			drained(t, g, l, c)
			repeats := judge(t, l, c)
			t.Logf("%s: %d kills, %d sent, %d acknowledged, 0 lost, %d repeats, all marked", mode, *kills, next.Load(), len(l.list()), repeats)
		})
	}
}

// loadAndKill sends from 16 connections and kills the gateway at a random moment.
func loadAndKill(g *gatewayProcess, l *ledger, next *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				id := fmt.Sprintf("evt_%d", next.Add(1))
				status, _ := g.post(ctx, "/s", hooktest.Custom(secret, hooktest.CustomBody(id, "t", "", ""), time.Now()))
				switch {
				case status >= 200 && status <= 299:
					l.ack(id)
				case status == 0:
					return // the gateway is gone
				}
			}
		})
	}
	time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
	p := g.cmd.Process
	_ = p.Kill()
	_ = g.cmd.Wait()
	g.cmd = nil
	cancel()
	wg.Wait()
	g.client.CloseIdleConnections()
}

// drained waits until all that was acknowledged has arrived (≤ 30 s).
func drained(t *testing.T, g *gatewayProcess, l *ledger, c *hooktest.Consumer) {
	t.Helper()
	for range 300 {
		seen := map[string]bool{}
		for _, s := range c.Seen() {
			seen[s.Header.Get("Hooktender-Event-Id")] = true
		}
		missing := 0
		for _, id := range l.list() {
			if !seen[id] {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// 64 senders of one id: exactly one delivery, every answer a success.
func TestManySendersOfOneID(t *testing.T) {
	c, addr := consumer(t)
	g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", max_in_flight: 256}}\nsources:\n%s%s", addr,
		source("hybrid", "delivery: {mode: hybrid, upstream: app}"), source("store", "delivery: {mode: store, upstream: app}")))
	for _, mode := range []string{"hybrid", "store"} {
		for i := range *ids {
			id := fmt.Sprintf("%s_%d", mode, i)
			r := hooktest.Custom(secret, hooktest.CustomBody(id, "t", "", ""), time.Now())
			var wg sync.WaitGroup
			var bad atomic.Int64
			gate := make(chan struct{})
			for range 64 {
				wg.Go(func() {
					<-gate
					if status, _ := g.post(context.Background(), "/"+mode, r); status < 200 || status > 299 {
						bad.Add(1)
					}
				})
			}
			close(gate)
			wg.Wait()
			if bad.Load() > 0 {
				t.Fatalf("%s: %d of 64 answers were no success", id, bad.Load())
			}
		}
	}
	want := 2 * *ids
	for range 200 {
		if len(c.Seen()) >= want {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	count := map[string]int{}
	for _, s := range c.Seen() {
		count[s.Header.Get("Hooktender-Event-Id")]++
	}
	if len(count) != want || len(c.Seen()) != want {
		t.Errorf("%d ids, %d of them arrived, %d requests", want, len(count), len(c.Seen()))
	}
	t.Logf("64 senders × %d ids: %d deliveries", want, len(c.Seen()))
}
