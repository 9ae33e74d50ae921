package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/hooktest"
)

var (
	orderKills    = flag.Int("order-kills", 2, "kill -9 while versions arrive in any order and deliveries fail")
	orderVersions = flag.Int("order-versions", 12, "versions of each resource")
)

// Every policy keeps a resource from going back in time, whatever the order of arrival, with duplicates, failing deliveries, lost answers and kill -9: of what a consumer
// takes, versions grow; with in_sequence all come, with the others each is delivered or told to be too late.
//
// Large: go test ./e2e -run TestOrderWhateverHappens -order-kills 20 -order-versions 60
func TestOrderWhateverHappens(t *testing.T) {
	t.Parallel()
	const resources = 8
	n := *orderVersions
	c, addr := consumer(t)
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(7, 11))
	refused := map[string]bool{} // attempts that the consumer certainly did not take
	attempt := func(s *hooktest.Seen) string {
		return s.Header.Get("Hooktender-Id") + " " + s.Header.Get("Hooktender-Attempt")
	}
	c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		mu.Lock()
		defer mu.Unlock()
		switch x := rnd.IntN(10); {
		case x < 2:
			refused[attempt(s)] = true
			return hooktest.Answer{Status: 503}
		case x == 2:
			return hooktest.Answer{Break: true}
		}
		return hooktest.Answer{Delay: time.Duration(rnd.IntN(5)) * time.Millisecond}
	})
	deliver := "delivery: {mode: store, upstream: app, " + quick + "}\n    "
	blocks := source("serial", deliver+"ordering: {policy: serial}") + source("stale", deliver+"ordering: {policy: reject_stale, ties: reject}") +
		source("seq", deliver+"ordering: {policy: in_sequence, start: 1, max_wait: 10m}") + source("window", deliver+"ordering: {policy: window, max_wait: 500ms}")
	g := startGateway(t, sources(addr, blocks))
	policies := []string{"serial", "stale", "seq", "window"}
	type one struct {
		policy, resource string
		version          int
	}
	var all []one
	for _, p := range policies {
		for r := range resources {
			for v := 1; v <= n; v++ {
				all = append(all, one{p, fmt.Sprint("r", r), v})
			}
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	id := func(o one) string { return fmt.Sprintf("%s.%d", o.resource, o.version) }
	send := func(o one) {
		for range 200 { // as senders do: until it is taken
			status, _ := g.post(context.Background(), "/"+o.policy, hooktest.Custom(secret, hooktest.CustomBody(id(o), "t", o.resource, strconv.Itoa(o.version)), time.Now()))
			if status/100 == 2 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s %s is not taken", o.policy, id(o))
	}
	for k := range *orderKills + 1 {
		part := all[len(all)*k/(*orderKills+1) : len(all)*(k+1)/(*orderKills+1)]
		var senders sync.WaitGroup
		for from := range 16 {
			senders.Go(func() {
				for i := from; i < len(part); i += 16 {
					if send(part[i]); i%5 == 0 {
						send(part[i]) // a duplicate
					}
				}
			})
		}
		senders.Wait()
		if k < *orderKills {
			g.kill()
			g.launch()
		}
	}
	g.await("everything ends", 2*time.Minute, func() bool {
		sources, err := g.api().Sources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiting := int64(0)
		for _, s := range sources {
			waiting += s.Counts["pending"]
		}
		return waiting == 0
	})
	outcomes := map[string]int{}
	for e, err := range g.api().AllEvents(t.Context(), client.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		outcomes[e.Source+" "+e.State+"/"+string(e.Reason)]++
	}
	t.Log(outcomes)
	if got := outcomes["seq delivered/"]; got != resources*n {
		t.Errorf("in_sequence delivered %d of %d: %v", got, resources*n, outcomes)
	}
	for _, p := range policies {
		if got := outcomes[p+" delivered/"] + outcomes[p+" rejected/stale"]; got != resources*n {
			t.Errorf("%s: %d of %d are delivered or stale: %v", p, got, resources*n, outcomes)
		}
	}
	last, inversions, unmarked, came := map[string]int{}, 0, 0, map[string]bool{}
	for _, s := range c.Seen() {
		source, event := s.Header.Get("Hooktender-Source"), s.Header.Get("Hooktender-Event-Id")
		resource, v, _ := strings.Cut(event, ".")
		version, _ := strconv.Atoi(v)
		if mu.Lock(); !refused[attempt(&s)] { // the consumer took it, or may have: its answer was lost
			if source != "serial" && version < last[source+resource] {
				inversions++
			}
			last[source+resource] = max(version, last[source+resource])
		}
		mu.Unlock()
		if came[source+event] && s.Header.Get("Hooktender-Attempt") == "1" {
			unmarked++
		}
		came[source+event] = true
	}
	if inversions > 0 || unmarked > 0 {
		t.Errorf("%d inversions, %d first attempts made again", inversions, unmarked)
	}
}

// What an operator and a sender see of order: ties and comparisons, a gap while it lasts and afterwards, a version sent by mistake, a bound that is reached.
func TestWhatOrderShows(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	const deliver = "delivery: {mode: hybrid, upstream: app}\n    "
	store := func(order string) string { return "delivery: {mode: store, upstream: nobody}\n    " + order }
	blocks := source("times", deliver+"ordering: {policy: reject_stale, compare: timestamp, ties: reject}") + source("ties", deliver+"ordering: {policy: reject_stale}") +
		source("words", deliver+"ordering: {policy: reject_stale, compare: lexicographic}") +
		source("typed", deliver+`ordering: {policy: reject_stale, types: ["*.updated"]}`) +
		source("gap", deliver+"ordering: {policy: in_sequence, start: 1, max_wait: 4s}") + source("dead", deliver+"ordering: {policy: in_sequence, start: 1, max_wait: 1s, on_gap: dead_letter}") +
		source("jump", deliver+"ordering: {policy: reject_stale, max_jump: 1000}") + source("far", deliver+"ordering: {policy: reject_stale}") +
		source("pending", store("limits: {pending: 2}")) + source("resources", store("ordering: {policy: serial}\n    limits: {resources: 2}")) +
		source("held", deliver+"ordering: {policy: in_sequence, start: 1, max_wait: 10m, max_held: 2}\n    limits: {held: 3}") + source("rate", deliver+"limits: {rate: 0.3}")
	nobody := freeAddr(t)
	text := strings.Replace(sources(addr, blocks), "upstreams: {", fmt.Sprintf("upstreams: {nobody: {url: \"http://%s\", breaker: {failures: 1, probe: 100ms, max_probe: 200ms}}, ", nobody), 1)
	g := prepareGateway(t, text, "info")
	g.launch()
	sent := 0
	send := func(path, kind, resource, version string, status int, outcome string) string {
		t.Helper()
		sent++
		id := fmt.Sprint("evt_", sent)
		g.want(path+" "+resource+" "+version, g.ask("/"+path, hooktest.Custom(secret, hooktest.CustomBody(id, kind, resource, version), time.Now())), status, outcome)
		return id
	}
	for _, x := range []struct {
		path, version string
		stale         bool
	}{
		{"times", `"2026-01-01T00:00:00.25Z"`, false}, {"times", `"2026-01-01T01:00:00.250000000+01:00"`, true}, {"times", `"2026-01-01T00:00:00.2Z"`, true},
		{"times", `1767225601`, false}, {"times", `1767225601001`, false}, {"times", `1767225601000`, true},
		{"ties", `9`, false}, {"ties", `"10"`, false}, {"ties", `10`, false}, {"ties", `9`, true}, {"ties", `1180591620717411303424`, false}, {"ties", `1180591620717411303423`, true},
		{"words", `"9"`, false}, {"words", `"10"`, true},
		{"jump", `5`, false}, {"jump", `1005`, false},
	} {
		if x.stale {
			send(x.path, "t", "r", x.version, 200, "stale")
		} else {
			send(x.path, "t", "r", x.version, 200, "delivered")
		}
	}
	send("typed", "invoice.updated", "r", "5", 200, "delivered")
	send("typed", "invoice.paid", "r", "4", 200, "delivered")
	send("typed", "invoice.updated", "r", "4", 200, "stale")

	// Beyond a bound: 503 or 429 with Retry-After, no trace, and the sender's retry is taken once there is room.
	beyond := func(path, resource, version string, status int) {
		t.Helper()
		for range 2 {
			a := g.ask("/"+path, custom("beyond_"+path, resource, version))
			if s, err := strconv.Atoi(a.head.Get("Retry-After")); a.status != status || err != nil || s < 1 {
				t.Errorf("%s: beyond the bound: %d, Retry-After %q", path, a.status, a.head.Get("Retry-After"))
			}
		}
		if m := g.record(path, "beyond_"+path); m != nil {
			t.Errorf("%s: what was refused left a trace: %v", path, m)
		}
	}

	// A gap, while it lasts and when it is given up.
	send("gap", "t", "r", "1", 200, "delivered")
	early := send("gap", "t", "r", "4", 202, "held")
	at, err := g.api().Resource(t.Context(), "gap", "r")
	if err != nil || strings.Join(at.Missing, ",") != "2-3" || len(at.Held) != 1 || string(at.Held[0].EventID) != early || at.Held[0].ReleaseAt.IsZero() {
		t.Errorf("%+v %v", at, err)
	}
	time.Sleep(300 * time.Millisecond)
	if m := g.series(); m[`hooktender_held_events{source="gap"}`] != 1 || m[`hooktender_gap_seconds{source="gap"}`] < 0.3 {
		t.Errorf("metrics show %g held, a gap of %g s", m[`hooktender_held_events{source="gap"}`], m[`hooktender_gap_seconds{source="gap"}`])
	}
	g.kill()
	g.launch() // the deadline stays
	send("dead", "t", "r", "1", 200, "delivered")
	lost := send("dead", "t", "r", "3", 202, "held")
	send("rate", "t", "r", "1", 200, "delivered") // there is room again in three seconds
	beyond("rate", "r", "2", 429)
	g.becomes("gap", early, "delivered/")
	if seen := c.Of("gap", early); len(seen) != 1 || seen[0].Header.Get("Hooktender-Gap") != "2-3" {
		t.Errorf("%d requests after the gap", len(seen))
	}
	send("gap", "t", "r", "3", 200, "stale")
	g.becomes("dead", lost, "failed/gap")
	send("dead", "t", "r", "2", 200, "delivered")
	if _, err := g.api().Replay(t.Context(), "dead", lost, api.ReplayRequest{}); err != nil {
		t.Error(err)
	}
	g.becomes("dead", lost, "replayed/")

	// A version sent by mistake.
	send("jump", "t", "r", "9223372036854775807", 202, "quarantined")
	send("jump", "t", "r", "1006", 200, "delivered")
	send("far", "t", "r", "9223372036854775807", 200, "delivered")
	send("far", "t", "r", "7", 200, "stale")
	cmd := exec.Command(binary, "resources", "set-cursor", "far", "r", "6", "--admin", "http://"+g.admin, "--reason", "sent by mistake", "--yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("set-cursor: %v\n%s", err, out)
	}
	send("far", "t", "r", "7", 200, "delivered")
	if raw, err := os.ReadFile(g.stderr.Name()); err != nil || !strings.Contains(string(raw), `"msg":"audit"`) || !strings.Contains(string(raw), "sent by mistake") {
		t.Errorf("setting a cursor is not audited: %v", err)
	}

	// What bounds keep back, until there is room.
	send("pending", "t", "r", "1", 202, "accepted")
	send("pending", "t", "r", "2", 202, "accepted")
	beyond("pending", "r", "3", 503)
	send("resources", "t", "r1", "1", 202, "accepted")
	send("resources", "t", "r2", "1", 202, "accepted")
	beyond("resources", "r3", "1", 503)
	send("held", "t", "r", "3", 202, "held")
	send("held", "t", "r", "5", 202, "held")
	beyond("held", "r", "7", 503)
	send("held", "t", "r2", "3", 202, "held")
	a := g.ask("/held", custom("per_source", "r3", "3"))
	g.want("held per source", a, 503, "unavailable")

	there := hooktest.NewConsumer()
	t.Cleanup(there.Close)
	if _, err := there.Listen(nobody); err != nil {
		t.Fatal(err)
	}
	for v := 1; v <= 4; v += 3 { // what fills a gap is always taken
		send("held", "t", "r", strconv.Itoa(v), 200, "delivered")
		if v == 1 {
			send("held", "t", "r", "2", 200, "delivered")
		}
	}
	for path, at := range map[string][2]string{"pending": {"r", "3"}, "resources": {"r3", "1"}, "held": {"r", "7"}, "rate": {"r", "2"}} {
		g.await(path+": the sender's retry", 10*time.Second, func() bool {
			a := g.ask("/"+path, custom("beyond_"+path, at[0], at[1]))
			return a.status == http.StatusOK && a.outcome() == "delivered" || a.status == http.StatusAccepted
		})
	}
	for _, path := range []string{"pending", "resources", "rate"} {
		g.becomes(path, "beyond_"+path, "delivered/")
	}
	g.becomes("held", "beyond_held", "pending/held")
}

// In observe mode a request that failed verification comes through, and its version counts for nothing: cursors come from verified bytes only.
func TestAForgedVersionThatIsOnlyObservedMovesNoCursor(t *testing.T) {
	t.Parallel()
	_, addr := consumer(t)
	observed := func(name, order string) string {
		return strings.Replace(source(name, "delivery: {mode: hybrid, upstream: app}\n    ordering: "+order), "verify: {", "verify: {mode: observe, ", 1)
	}
	g := startGateway(t, sources(addr, observed("newest", "{policy: reject_stale}")+observed("sequence", "{policy: in_sequence, start: 1, max_wait: 10m}")+
		observed("watched", "{policy: reject_stale, mode: observe}")))
	for _, path := range []string{"newest", "sequence", "watched"} {
		send := func(key, id, version string) {
			t.Helper()
			g.want(path+" "+id, g.ask("/"+path, hooktest.Custom(key, hooktest.CustomBody(id, "t", "r", version), time.Now())), 200, "delivered")
		}
		send("not the sender's secret", "forged_high", "1000")
		send(secret, "genuine_1", "1")
		send("not the sender's secret", "forged_low", "0")
		g.kill()
		g.launch()
		send("not the sender's secret", "forged_again", "2000")
		send(secret, "genuine_2", "2")
		if at, err := g.api().Resource(t.Context(), path, "r"); err != nil || string(at.Version) != "2" || len(at.Missing) > 0 {
			t.Errorf("%s: %+v %v", path, at, err)
		}
	}
}
