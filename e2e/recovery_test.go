package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/hooktest"
)

var (
	dead    = flag.Int("dead", 200, "dead letters that a replay delivers")
	waiters = flag.Int("waiters", 200, "calls that wait at the same time")
	paged   = flag.Int("paged", 300, "events that are paged through while more arrive")
)

// api is a client of the gateway's admin port.
func (g *gatewayProcess) api() *client.Client {
	c, err := client.New("http://"+g.admin, "")
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// send delivers one custom event and wants the outcome.
func (g *gatewayProcess) send(source, id, resource, version, want string) {
	g.t.Helper()
	if status, outcome := g.post(g.t.Context(), "/"+source, hooktest.Custom(secret, hooktest.CustomBody(id, "order.paid", resource, version), time.Now())); outcome != want {
		g.t.Fatalf("%s: %d %q, want %q", id, status, outcome, want)
	}
}

// sendMany sends n events from several senders at once.
func (g *gatewayProcess) sendMany(source string, n int, name func(int) (id, resource string), want string) {
	g.t.Helper()
	var wg sync.WaitGroup
	bad := make(chan string, n)
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				id, resource := name(i)
				if status, outcome := g.post(g.t.Context(), "/"+source, hooktest.Custom(secret, hooktest.CustomBody(id, "order.paid", resource, "1"), time.Now())); outcome != want {
					bad <- fmt.Sprintf("%s: %d %q, want %q", id, status, outcome, want)
				}
			}
		})
	}
	wg.Wait()
	if len(bad) > 0 {
		g.t.Fatalf("%d of %d: %s", len(bad), n, <-bad)
	}
}

func (g *gatewayProcess) await(what string, d time.Duration, ok func() bool) {
	g.t.Helper()
	for end := time.Now().Add(d); !ok(); {
		if time.Now().After(end) {
			g.t.Fatalf("%s: not within %s", what, d)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// settles waits until nothing is wrong, for half a minute at most: what is counted or logged may come a moment after what can be seen otherwise.
func (g *gatewayProcess) settles(wrong func() []string) {
	g.t.Helper()
	left := wrong()
	for end := time.Now().Add(30 * time.Second); len(left) > 0 && time.Now().Before(end); left = wrong() {
		time.Sleep(10 * time.Millisecond)
	}
	for _, w := range left {
		g.t.Error(w)
	}
}

// ended waits for the end of a replay.
func (g *gatewayProcess) ended(id string, d time.Duration) api.Replay {
	g.t.Helper()
	var job api.Replay
	g.await("replay "+id, d, func() bool {
		var err error
		job, err = g.api().ReplayStatus(g.t.Context(), id)
		return err == nil && job.State != api.ReplayRunning
	})
	return job
}

func sources(addr, rest string) string {
	return fmt.Sprintf("upstreams: {app: {url: \"http://%s\", timeout: 3s, breaker: {failures: 1000000}}}\nsources:\n%s", addr, rest)
}

const refusing = "delivery: {mode: hybrid, upstream: app, retry: {base: 20ms, max_attempts: 2}}"

// refuse makes the consumer refuse for good until told otherwise.
func refuse(c *hooktest.Consumer) {
	c.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 422} })
}

// A bulk replay delivers every dead letter exactly once, in the order of each resource, though nothing else orders them.
func TestABulkReplayDeliversEachDeadLetterOnceAndInOrder(t *testing.T) {
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	refuse(c)
	lanes := max(1, *dead/10)
	g.sendMany("s", *dead, func(i int) (string, string) { return fmt.Sprintf("e%06d", i), fmt.Sprintf("r%d", i%lanes) }, "failed")
	var order []string // as received
	for e, err := range g.api().AllEvents(t.Context(), client.Query{Source: "s", Asc: true, Limit: 500}) {
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, string(e.EventID))
	}
	c.Plan(nil)
	before := len(c.Seen())
	plan, err := g.api().StartReplay(t.Context(), api.ReplaySpec{Filter: &api.Filter{Source: "s", State: api.Names{"failed"}}, DryRun: true})
	if err != nil || plan.WouldReplay == nil || *plan.WouldReplay != int64(*dead) {
		t.Fatalf("%+v %v", plan, err)
	}
	began, cpu := time.Now(), g.cpu()
	job, err := g.api().StartReplay(t.Context(), api.ReplaySpec{Name: "all", Filter: &api.Filter{Source: "s", State: api.Names{"failed"}}})
	if err != nil {
		t.Fatal(err)
	}
	job = g.ended(job.ID, time.Minute)
	took := time.Since(began)
	t.Logf("%d replayed in %s: %.0f/s, %s of the gateway's processor each", job.Replayed, took.Round(time.Millisecond), float64(job.Replayed)/took.Seconds(),
		((g.cpu() - cpu) / time.Duration(max(1, job.Replayed))).Round(time.Microsecond))
	if job.State != "done" || job.Total != int64(*dead) || job.Sent != job.Total || job.Replayed != job.Total || job.Failed+job.Skipped.Total != 0 {
		t.Errorf("%+v", job)
	}
	times, last := map[string]int{}, map[string]int{}
	for _, s := range c.Seen()[before:] {
		id, i := s.Header.Get("Hooktender-Event-Id"), 0
		times[id]++
		i = slices.Index(order, id)
		var body struct{ Resource string }
		_ = json.Unmarshal(s.Body, &body)
		if n, seen := last[body.Resource]; seen && i < n {
			t.Errorf("%s came after a later one of %s", id, body.Resource)
		}
		last[body.Resource] = i
		if s.Header.Get("Hooktender-Replay") != job.ID || s.Header.Get("Idempotency-Key") != "s:"+id {
			t.Errorf("%s: replay %q, key %q", id, s.Header.Get("Hooktender-Replay"), s.Header.Get("Idempotency-Key"))
		}
	}
	if len(times) != *dead {
		t.Errorf("%d of %d came", len(times), *dead)
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
}

// A replay that a SIGKILL interrupts goes on by itself and sends nothing twice without a mark.
func TestAReplayGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	refuse(c)
	g.sendMany("s", 200, func(i int) (string, string) { return fmt.Sprintf("e%03d", i), "r" + strconv.Itoa(i) }, "failed")
	c.Plan(nil)
	before := len(c.Seen())
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprintf("e%03d", i))
	}
	ids = append(ids, "never-received")
	job, err := g.api().StartReplay(t.Context(), api.ReplaySpec{IDs: ids, Rate: 200})
	if err != nil {
		t.Fatal(err)
	}
	g.await("a third of them", 30*time.Second, func() bool { return len(c.Seen()) > before+60 })
	g.kill()
	g.launch()
	job = g.ended(job.ID, time.Minute)
	if job.State != "done" || job.Replayed != 200 || job.Total != 201 || job.Skipped.Total != 1 || len(job.Skips) != 1 || job.Skips[0].Why != "not_found" {
		t.Errorf("%+v", job)
	}
	times := map[string]int{}
	for _, s := range c.Seen()[before:] {
		id := s.Header.Get("Hooktender-Event-Id")
		if times[id]++; times[id] > 1 && s.Header.Get("Hooktender-Redelivered") != "possible" {
			t.Errorf("%s came again unmarked", id)
		}
	}
	if len(times) != 200 {
		t.Errorf("%d came", len(times))
	}
}

// A long list of ids, and a long list of what was left out, are remembered whole: over a kill in the middle, and after the end.
func TestALongListIsRememberedWhole(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	refuse(c)
	var ids []string
	for i := range 3 {
		ids = append(ids, fmt.Sprintf("dead%d", i))
		g.send("s", ids[i], "r", "1", "failed")
	}
	for i := range 4000 {
		ids = append(ids, fmt.Sprintf("a-sender-never-sent-this-%06d", i))
	}
	c.Plan(nil)
	before := len(c.Seen())
	job, err := g.api().StartReplay(t.Context(), api.ReplaySpec{IDs: ids, Rate: 4})
	if err != nil {
		t.Fatal(err)
	}
	g.await("the first", 30*time.Second, func() bool { return len(c.Seen()) > before })
	g.kill()
	g.launch()
	g.ended(job.ID, time.Minute)
	g.kill()
	g.launch()
	job, err = g.api().ReplayStatus(t.Context(), job.ID)
	if err != nil || job.State != "done" || job.Replayed != 3 || job.Skipped.Total != 4000 || len(job.Skips) != 1000 || job.Skips[999].Why != "not_found" {
		t.Errorf("%s %d replayed, %d skipped, %d listed: %v", job.State, job.Replayed, job.Skipped.Total, len(job.Skips), err)
	}
	list, err := g.api().Replays(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Skips) != 1000 {
		t.Errorf("%d replays: %v", len(list), err)
	}
}

// A cancelled replay sends nothing more, also not after a restart; what it had sent ends and is counted.
func TestACancelledReplayStaysCancelled(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	refuse(c)
	g.sendMany("s", 50, func(i int) (string, string) { return fmt.Sprintf("e%03d", i), "r" }, "failed")
	c.Plan(nil)
	job, err := g.api().StartReplay(t.Context(), api.ReplaySpec{Filter: &api.Filter{State: api.Names{"failed"}}, Rate: 4})
	if err != nil {
		t.Fatal(err)
	}
	g.await("some of them", 30*time.Second, func() bool { j, err := g.api().ReplayStatus(t.Context(), job.ID); return err == nil && j.Sent > 2 })
	if job, err = g.api().CancelReplay(t.Context(), job.ID, ""); err != nil || job.State != "cancelled" || job.FinishedAt.IsZero() {
		t.Fatalf("%+v %v", job, err)
	}
	g.await("what was sent", 30*time.Second, func() bool {
		job, err = g.api().ReplayStatus(t.Context(), job.ID)
		return err == nil && job.Replayed == job.Sent
	})
	g.kill()
	before := len(c.Seen())
	g.launch()
	g.send("s", "later", "x", "1", "delivered")
	if now, err := g.api().ReplayStatus(t.Context(), job.ID); err != nil || now.State != "cancelled" || now.Sent != job.Sent {
		t.Errorf("%+v %v", now, err)
	}
	if n := len(c.Seen()) - before; n != 1 {
		t.Errorf("%d requests after the restart", n)
	}
}

// A hundred people replay one event at the same time, by two ways: it is delivered once.
func TestAHundredReplaysOfOneEventDeliverItOnce(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	refuse(c)
	g.send("s", "e1", "r", "1", "failed")
	c.Plan(nil)
	before := len(c.Seen())
	var wg sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for i := range 100 {
		wg.Go(func() {
			if i%2 == 0 {
				res, err := g.api().Replay(t.Context(), "s", "e1", api.ReplayRequest{})
				if err != nil || res.Result != "started" && res.Why != "still_pending" && res.Why != "already_delivered" {
					t.Errorf("%+v %v", res, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if res.Result == "started" {
					started++
				}
				return
			}
			job, err := g.api().StartReplay(t.Context(), api.ReplaySpec{IDs: []string{"e1"}})
			if err != nil {
				t.Error(err)
				return
			}
			job = g.ended(job.ID, time.Minute)
			mu.Lock()
			defer mu.Unlock()
			started += int(job.Sent)
			if job.Sent+job.Skipped.Total != 1 {
				t.Errorf("%+v", job)
			}
		})
	}
	wg.Wait()
	if n := len(c.Seen()) - before; n != 1 || started != 1 {
		t.Errorf("%d deliveries, %d started", n, started)
	}
}

// Thousands wait, each for another event that has not been received; each hears of its own at once, and all of them cost little.
func TestManyWaitersCostLittle(t *testing.T) {
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	c.Plan(nil)
	g.sendMany("s", 200, func(i int) (string, string) { return "warm" + strconv.Itoa(i), "r" }, "delivered")
	before := g.rss()
	tr := &http.Transport{MaxConnsPerHost: 0}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr}
	type woken struct {
		id string
		at time.Time
	}
	heard := make(chan woken, *waiters)
	var ready sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	limit := make(chan struct{}, 64)
	for i := range *waiters {
		ready.Add(1)
		limit <- struct{}{}
		go func() {
			id := "w" + strconv.Itoa(i)
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.admin+"/v1/events/"+id+"?source=s&wait=60s&until=delivered", nil)
			time.AfterFunc(20*time.Millisecond, func() { ready.Done(); <-limit })
			resp, err := hc.Do(req)
			if err != nil {
				heard <- woken{"failed: " + err.Error(), time.Now()}
				return
			}
			defer resp.Body.Close()
			var e api.Event
			if json.NewDecoder(resp.Body).Decode(&e) != nil || e.State != "delivered" || string(e.EventID) != id {
				id = fmt.Sprintf("%s: %d %s", id, resp.StatusCode, e.State)
			}
			heard <- woken{id, time.Now()}
		}()
	}
	ready.Wait()
	g.await("all of them wait", time.Minute, func() bool { return g.connections() >= *waiters })
	extra := g.rss() - before
	var worst, slow time.Duration // slow is what a call that does nothing takes at the worst, meanwhile: the machine is shared
	var late int
	probing, probed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(probed)
		for {
			began := time.Now()
			if resp, err := g.client.Get("http://" + g.admin + "/livez"); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			slow = max(slow, time.Since(began))
			select {
			case <-probing:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	sent, at := map[string]time.Time{}, make([]time.Time, *waiters)
	var senders sync.WaitGroup
	for k := range 4 {
		senders.Go(func() {
			for i := k; i < *waiters; i += 4 {
				id := "w" + strconv.Itoa(i)
				if status, outcome := g.post(ctx, "/s", hooktest.Custom(secret, hooktest.CustomBody(id, "order.paid", "r"+id, "1"), time.Now())); outcome != "delivered" {
					t.Errorf("%s: %d %q", id, status, outcome)
				}
				at[i] = time.Now()
			}
		})
	}
	senders.Wait()
	for i := range at {
		sent["w"+strconv.Itoa(i)] = at[i]
	}
	var took []time.Duration
	for range *waiters {
		w := <-heard
		at, ok := sent[w.id]
		if !ok {
			t.Fatal(w.id)
		}
		took = append(took, w.at.Sub(at))
	}
	close(probing)
	<-probed
	for _, d := range took {
		if worst = max(worst, d); d > 100*time.Millisecond+2*slow {
			late++
		}
	}
	t.Logf("%d waiters: %.1f MiB extra, the slowest was woken %s after its event; a call that does nothing took up to %s", *waiters, float64(extra)/(1<<20), worst.Round(time.Millisecond), slow.Round(time.Millisecond))
	if extra > 40<<20 {
		t.Errorf("%d MiB extra", extra>>20)
	}
	if late > *waiters/100 {
		t.Errorf("%d were woken later than 100 ms, and twice what a call takes", late)
	}
}

// rss is the gateway's resident memory.
func (g *gatewayProcess) rss() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Skip("no /proc here")
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// connections counts the gateway's sockets.
func (g *gatewayProcess) connections() int {
	dir := fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid)
	entries, _ := os.ReadDir(dir)
	n := 0
	for _, e := range entries {
		if to, _ := os.Readlink(dir + "/" + e.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// Pages are stable: nothing is missed and nothing comes twice while events arrive.
func TestPagesMissNothingWhileEventsArrive(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)))
	c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		switch {
		case bytes.Contains(s.Body, []byte(`3"`)):
			return hooktest.Answer{Status: 500}
		case bytes.Contains(s.Body, []byte(`7"`)):
			return hooktest.Answer{Status: 400}
		}
		return hooktest.Answer{}
	})
	var wg sync.WaitGroup
	for k := range 16 {
		wg.Go(func() {
			for w := k; w < *paged; w += 16 {
				g.post(t.Context(), "/s", hooktest.Custom(secret, hooktest.CustomBody("p"+strconv.Itoa(w), "x", "r"+strconv.Itoa(w), "1"), time.Now()))
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	var arrived atomic.Int64
	began := time.Now()
	for w := range 16 { // 1,000 a second, if the machine has room for it
		wg.Go(func() {
			tick := time.NewTicker(16 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("late%d-%d", w, i)
				g.post(ctx, "/s", hooktest.Custom(secret, hooktest.CustomBody(id, "x", id, "1"), time.Now()))
				arrived.Add(1)
				<-tick.C
			}
		})
	}
	for _, asc := range []bool{false, true} {
		times := map[string]int{}
		for e, err := range g.api().AllEvents(t.Context(), client.Query{Source: "s", Asc: asc, Limit: 100}) {
			if err != nil {
				t.Fatal(err)
			}
			if times[string(e.EventID)]++; asc && len(times) >= *paged+50 {
				break // an ascending walk meets what arrives, for ever
			}
		}
		for i := range *paged {
			if n := times["p"+strconv.Itoa(i)]; n != 1 {
				t.Errorf("asc %v: p%d came %d times", asc, i, n)
			}
		}
		for id, n := range times {
			if n != 1 {
				t.Errorf("asc %v: %s came %d times", asc, id, n)
			}
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d arrived meanwhile, %.0f a second", arrived.Load(), float64(arrived.Load())/time.Since(began).Seconds())
}

// The replay_id that the replay of one event is answered with can be asked for like that of many, also after a restart and while it runs.
func TestTheReplayOfOneEventCanBeFollowed(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: store, upstream: app, retry: {base: 1s, factor: 1}}")))
	p := planned(c)
	replay := func(id string) string {
		t.Helper()
		r, err := g.api().Replay(t.Context(), "s", id, api.ReplayRequest{Reason: "seen to it"})
		if err != nil || r.ReplayID == "" {
			t.Fatalf("%s: %+v %v", id, r, err)
		}
		return r.ReplayID
	}
	want := func(id, state string, replayed, failed int64) {
		t.Helper()
		var job api.Replay
		var err error
		g.await(id, 30*time.Second, func() bool {
			job, err = g.api().ReplayStatus(t.Context(), id)
			return err == nil && job.State == state
		})
		if job.Total != 1 || job.Sent != 1 || job.Replayed != replayed || job.Failed != failed || job.Actor != "local" || job.Reason != "seen to it" ||
			job.CreatedAt.IsZero() || job.FinishedAt.IsZero() != (state == "running") {
			t.Errorf("%s: %+v", id, job)
		}
	}
	for _, id := range []string{"again", "mended", "slow"} {
		p.on(id, hooktest.Answer{Status: 400})
		g.ask("/s", custom(id, "r", "1"))
		g.becomes("s", id, "failed/permanent")
	}
	again := replay("again")
	want(again, "done", 0, 1)
	p.on("mended")
	mended := replay("mended")
	want(mended, "done", 1, 0)
	p.on("slow", hooktest.Answer{Status: 503, Header: http.Header{"Retry-After": {"2"}}})
	slow := replay("slow")
	want(slow, "running", 0, 0)
	g.kill()
	g.launch()
	want(again, "done", 0, 1)
	want(mended, "done", 1, 0)
	want(slow, "running", 0, 0)
	if _, err := g.api().CancelReplay(t.Context(), slow, "too late"); err != nil {
		t.Error(err)
	}
	p.on("slow")
	want(slow, "done", 1, 0)
	if list, err := g.api().Replays(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%d in the list of replays of many: %v", len(list), err)
	}
	if _, err := g.api().Replay(t.Context(), "s", "mended", api.ReplayRequest{}); err != nil { // skipped
		t.Error(err)
	}
}
