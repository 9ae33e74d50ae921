package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// SIGKILL under load, again and again: nothing acknowledged is lost, every repeat is marked. `go run ./e2e/torture` is the long form.
func TestKillUnderLoad(t *testing.T) {
	for _, mode := range []string{"hybrid", "store", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c, addr := consumer(t)
			book := &ledger.Book{}
			c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
				h := s.Header
				book.Done(book.Arrive(h.Get("Hooktender-Event-Id"), s.Body, h.Get("Idempotency-Key"), h.Get("Hooktender-Redelivered") == "possible", "", 0), 200)
				return hooktest.Answer{}
			})
			g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", timeout: 3s, breaker: {failures: 100000}}}\nsources:\n%s", addr,
				source("s", "delivery: {mode: "+mode+", upstream: app, retry: {base: 50ms, factor: 1, max_attempts: 1000}}")))
			var next atomic.Int64
			for range *kills {
				loadAndKill(g, book, &next)
				g.launch()
			}
			r := book.Judge(drained(t, g))
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			t.Log(mode, r.String())
		})
	}
}

// loadAndKill sends from 16 connections and kills the gateway at a random moment.
func loadAndKill(g *gatewayProcess, book *ledger.Book, next *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				id := fmt.Sprintf("evt_%d", next.Add(1))
				body := hooktest.CustomBody(id, "t", "", "")
				book.Send(id, body, false)
				status, outcome := g.post(ctx, "/s", hooktest.Custom(secret, body, time.Now()))
				if status == 0 {
					return // the gateway is gone
				}
				book.Answer(id, status, outcome, "", 0)
			}
		})
	}
	time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
	began := book.Begin()
	g.kill()
	cancel()
	wg.Wait()
	book.Cut(ledger.Kill, began)
}

// drained waits until nothing is pending (≤ 30 s), and gives state/reason of every event.
func drained(t *testing.T, g *gatewayProcess) map[string]string {
	t.Helper()
	var states map[string]string
	for range 300 {
		states = map[string]string{}
		pending := 0
		for cursor := ""; ; {
			var page struct {
				Data []struct {
					EventID string `json:"event_id"`
					State   string `json:"state"`
					Reason  string `json:"reason"`
				} `json:"data"`
				Next string `json:"next_cursor"`
			}
			resp, err := g.client.Get("http://" + g.admin + "/v1/events?limit=500&cursor=" + url.QueryEscape(cursor))
			if err != nil {
				t.Fatal(err)
			}
			err = json.NewDecoder(resp.Body).Decode(&page)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp.StatusCode, err)
			}
			for _, r := range page.Data {
				states[r.EventID] = r.State + "/" + r.Reason
				if r.State == "pending" {
					pending++
				}
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if pending == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return states
}

// 64 senders of one id: exactly one delivery, every answer a success.
func TestManySendersOfOneID(t *testing.T) {
	t.Parallel()
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
