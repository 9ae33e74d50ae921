package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// A gate is a consumer that keeps the events whose id begins with "slow" until it is opened, and counts how many requests it has at once.
type gate struct {
	mu        sync.Mutex
	now, most int
	open      chan struct{}
}

func gated(c *hooktest.Consumer) *gate {
	g := &gate{open: make(chan struct{})}
	c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		g.add(1)
		defer g.add(-1)
		if strings.HasPrefix(s.Header.Get("Hooktender-Event-Id"), "slow") {
			select {
			case <-g.open:
			case <-time.After(time.Minute):
			}
		}
		return hooktest.Answer{}
	})
	return g
}

func (g *gate) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

// wants503 is a refusal that names a time to come again.
func (g *gatewayProcess) wants503(what string, a answer) {
	g.t.Helper()
	g.want(what, a, 503, "unavailable")
	if n, err := strconv.Atoi(a.head.Get("Retry-After")); err != nil || n < 1 {
		g.t.Errorf("%s: Retry-After %q", what, a.head.Get("Retry-After"))
	}
}

// The bytes of bodies that are handled at once are bounded: beyond it 503 and Retry-After, what is small goes on, and the sender's retry is new.
func TestBytesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	at := gated(c)
	g := startGateway(t, "limits: {in_flight_bytes: 1MiB}\n"+strings.Replace(sources(addr, source("s", "delivery: {mode: proxy, upstream: app}")), "timeout: 3s", "timeout: 1m", 1))
	big := func(id string) hooktest.Request { return letter(id, 400_000) }
	var senders sync.WaitGroup
	for i := range 2 {
		senders.Go(func() { g.want("within the bound", g.ask("/s", big(fmt.Sprint("slow", i))), 200, "delivered") })
	}
	g.await("both are under way", 20*time.Second, func() bool { return len(c.Seen()) == 2 })
	for range 2 {
		g.wants503("beyond the bound", g.ask("/s", big("third")))
	}
	g.want("a small one", g.ask("/s", custom("small", "", "")), 200, "delivered")
	if r := g.record("s", "third"); r != nil || len(c.Of("s", "third")) != 0 {
		t.Errorf("what was refused left a trace: %v", r)
	}
	close(at.open)
	senders.Wait()
	g.want("its sender's retry", g.ask("/s", big("third")), 200, "delivered")
}

// No more requests than max_in_flight are with the upstream at once: who waits for one is answered 202 in time, in hybrid and store mode, and is delivered when there is room.
func TestRequestsToTheUpstreamAreBounded(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	at := gated(c)
	g := startGateway(t, strings.Replace(sources(addr, source("h", "delivery: {mode: hybrid, upstream: app, deadline: 300ms}")+source("s", "delivery: {mode: store, upstream: app}")),
		"timeout: 3s", "timeout: 1m, max_in_flight: 2", 1))
	var senders sync.WaitGroup
	for i := range 2 {
		senders.Go(func() {
			g.want("its deadline passes, its attempt goes on", g.ask("/h", custom(fmt.Sprint("slow", i), "", "")), 202, "accepted")
		})
	}
	g.await("both are under way", 20*time.Second, func() bool { return len(c.Seen()) == 2 })
	for i := range 10 {
		senders.Go(func() {
			g.want("no room in time", g.ask("/"+[]string{"h", "s"}[i%2], custom(fmt.Sprint("waits", i), "", "")), 202, "accepted")
		})
	}
	senders.Wait()
	if n := len(c.Seen()); n != 2 {
		t.Errorf("%d requests are with the upstream", n)
	}
	close(at.open)
	for i := range 10 {
		g.becomes([]string{"h", "s"}[i%2], fmt.Sprint("waits", i), "delivered/")
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	if n := len(c.Seen()); n != 12 || at.most > 2 {
		t.Errorf("%d requests came, %d of them at once", n, at.most)
	}
}

// One resource whose event hangs keeps nobody else from being delivered, and its own later event waits for it.
func TestAResourceThatHangsBlocksNoOther(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	at := gated(c)
	g := startGateway(t, strings.Replace(sources(addr, source("serial", "delivery: {mode: hybrid, upstream: app, deadline: 300ms}\n    ordering: {policy: serial}")+
		source("seq", "delivery: {mode: hybrid, upstream: app, deadline: 300ms}\n    ordering: {policy: in_sequence, start: 1}")), "timeout: 3s", "timeout: 1m", 1))
	for _, s := range []string{"serial", "seq"} {
		g.want(s+" hangs", g.ask("/"+s, custom("slow_"+s, "black", "1")), 202, "accepted")
		if a := g.ask("/"+s, custom("behind_"+s, "black", "2")); a.status != 202 {
			t.Errorf("%s: behind it: %d %s", s, a.status, a.body)
		}
	}
	var senders sync.WaitGroup
	for i := range 40 {
		senders.Go(func() {
			s := []string{"serial", "seq"}[i%2]
			for range 50 { // its deadline may pass on a busy machine; it is delivered all the same
				if a := g.ask("/"+s, custom(fmt.Sprintf("other%d", i), fmt.Sprint("r", i), "1")); a.status != 200 && a.status != 202 {
					t.Errorf("%s: another resource: %d %s", s, a.status, a.body)
				} else if a.status == 200 {
					break
				}
			}
		})
	}
	senders.Wait()
	for i := range 40 {
		g.becomes([]string{"serial", "seq"}[i%2], fmt.Sprintf("other%d", i), "delivered/")
	}
	for _, s := range []string{"serial", "seq"} {
		if len(c.Of(s, "slow_"+s)) != 1 || len(c.Of(s, "behind_"+s)) != 0 {
			t.Errorf("%s: the second version came before the first was answered", s)
		}
	}
	close(at.open)
	for _, s := range []string{"serial", "seq"} {
		g.becomes(s, "behind_"+s, "delivered/")
	}
}

// At most once: what may have arrived waits for a person, and its lane with it. resolve says that it arrived, discard that it did not, a forced replay sends it again, marked.
func TestWhatWaitsForADecision(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	p := planned(c)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app, on_unknown: hold, deadline: 300ms}\n    ordering: {policy: in_sequence, start: 1, max_wait: 10m}")))
	for _, how := range []string{"resolve", "discard", "replay"} {
		first, second := how+"_1", how+"_2"
		p.on(first, hooktest.Answer{Break: true}, hooktest.Answer{})
		g.want(how+": the answer is lost", g.ask("/s", custom(first, how, "1")), 202, "accepted")
		g.becomes("s", first, "pending/waiting_for_decision")
		g.want(how+": its sender's retry", g.ask("/s", custom(first, how, "1")), 200, "duplicate")
		if a := g.ask("/s", custom(second, how, "2")); a.status != 202 {
			t.Errorf("%s: the next of its lane: %d %s", how, a.status, a.body)
		}
		if r := g.record("s", second); r == nil || r["state"] != "pending" || len(c.Of("s", second)) != 0 {
			t.Errorf("%s: the next of its lane went before the decision: %v", how, r)
		}
	}
	operate := func(code int, args ...string) {
		t.Helper()
		if got, out, said := g.command(append(args, "--source", "s", "--admin", "http://"+g.admin)...); got != code {
			t.Errorf("%v: exit %d, want %d\n%s%s", args, got, code, out, said)
		}
	}
	operate(6, "replay", "replay_1") // not without force
	g.kill()
	g.launch() // the decision is still awaited
	for _, how := range []string{"resolve", "discard", "replay"} {
		g.becomes("s", how+"_1", "pending/waiting_for_decision")
		if n := len(c.Of("s", how+"_1")); n != 1 {
			t.Errorf("%s_1 was sent %d times", how, n)
		}
	}
	operate(0, "dead", "resolve", "resolve_1", "--reason", "it is in our books", "--yes")
	operate(0, "dead", "discard", "discard_1", "--reason", "it is not wanted", "--yes")
	operate(0, "replay", "replay_1", "--force", "--reason", "it did not arrive", "--yes")
	for how, want := range map[string]string{"resolve": "failed/resolved", "discard": "failed/discarded", "replay": "replayed/"} {
		m := g.becomes("s", how+"_1", want)
		g.becomes("s", how+"_2", "delivered/")
		if res, _ := m["resolution"].(map[string]any); how != "replay" && (res == nil || !strings.HasPrefix(fmt.Sprint(res["reason"]), "it is")) {
			t.Errorf("%s: the reason is not kept: %v", how, m)
		}
		next := c.Of("s", how+"_2")
		if gap := next[0].Header.Get("Hooktender-Gap"); len(next) != 1 || gap != map[string]string{"discard": "1"}[how] {
			t.Errorf("%s: the next came %d times, after a gap of %q", how, len(next), gap)
		}
		seen := c.Of("s", how+"_1")
		switch {
		case how != "replay" && len(seen) != 1:
			t.Errorf("%s: sent %d times", how, len(seen))
		case how == "replay" && (len(seen) != 2 || seen[1].Header.Get("Hooktender-Redelivered") != "possible"):
			t.Errorf("replay: sent %d times: %v", len(seen), seen[len(seen)-1].Header)
		}
	}
}

// CloudEvents over HTTP: identity, resource and sequence stand in headers that are signed. As an integer 10 comes after 9, as text before it.
func TestCloudEventsInSequence(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	events := func(name, order string) string {
		return fmt.Sprintf(`  %s:
    path: /%[1]s
    provider: custom
    secrets: [{env: E2E_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, signed: "{header:ce-id}.{header:ce-sequence}.{body}"}
    identity: {id: ["header:ce-source", "header:ce-id"], type: "header:ce-type", resource: "header:ce-subject", version: "header:ce-sequence"}
    delivery: {upstream: app}
    ordering: {%s}
`, name, order)
	}
	g := startGateway(t, sources(addr, events("seq", "policy: in_sequence, start: 8, max_wait: 10m")+events("number", "policy: reject_stale")+events("text", "policy: reject_stale, compare: lexicographic")))
	send := func(source, sequence string, status int, outcome string) {
		t.Helper()
		body := []byte(`{"a":1}`)
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "id-%s.%s.%s", sequence, sequence, body)
		h := http.Header{"X-Signature": {hex.EncodeToString(mac.Sum(nil))}, "Content-Type": {"application/json"}}
		for name, v := range map[string]string{"ce-specversion": "1.0", "ce-source": "/orders", "ce-id": "id-" + sequence, "ce-type": "order.changed", "ce-subject": "o1", "ce-sequence": sequence} {
			h.Set(name, v)
		}
		g.want(source+" "+sequence, g.ask("/"+source, hooktest.Request{Body: body, Header: h}), status, outcome)
	}
	send("seq", "8", 200, "delivered")
	send("seq", "11", 202, "held")
	send("seq", "10", 202, "held")
	send("seq", "9", 200, "delivered")
	g.await("the held ones", 20*time.Second, func() bool { return len(c.Seen()) == 4 })
	var order []string
	for _, s := range c.Seen() {
		order = append(order, s.Header.Get("Ce-Sequence"))
	}
	if got := strings.Join(order, " "); got != "8 9 10 11" {
		t.Errorf("they came as %s", got)
	}
	send("number", "9", 200, "delivered")
	send("number", "10", 200, "delivered")
	send("number", "8", 200, "stale")
	send("text", "9", 200, "delivered")
	send("text", "10", 200, "stale")
}

// What has waited for longer than its sender's tolerance is signed again with a time of now, if the source does not say otherwise; its body stays as it is.
func TestWhatWaitedIsSignedAgain(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	short := func(name, more string) string {
		return strings.Replace(source(name, "delivery: {mode: store, upstream: app, "+more+"retry: {base: 50ms, factor: 1, max_attempts: 100000}}"), "tolerance: 5m", "tolerance: 4s", 1)
	}
	g := startGateway(t, sources(addr, short("auto", "")+short("off", "resign: off, ")))
	c.Close()
	sent := time.Now()
	r := letter("evt", 100)
	for _, s := range []string{"auto", "off"} {
		g.want(s, g.ask("/"+s, hooktest.Custom(secret, r.Body, sent)), 202, "accepted")
	}
	time.Sleep(time.Until(sent.Add(5100 * time.Millisecond))) // older than the tolerance, whatever the second began with
	if _, err := c.Listen(""); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"auto", "off"} {
		g.becomes(s, "evt", "delivered/")
		seen := c.Of(s, "evt")
		last := seen[len(seen)-1]
		stamp, _ := strconv.ParseInt(last.Header.Get("X-Timestamp"), 10, 64)
		again := hooktest.Custom(secret, r.Body, time.Unix(stamp, 0))
		if last.Header.Get("X-Signature") != again.Header.Get("X-Signature") || string(last.Body) != string(r.Body) {
			t.Errorf("%s: the signature is not of this body and time: %v", s, last.Header)
		}
		if fresh := last.At.Sub(time.Unix(stamp, 0)) < 4*time.Second; fresh != (s == "auto") {
			t.Errorf("%s: the signature is of %s before it arrived", s, last.At.Sub(time.Unix(stamp, 0)))
		}
	}
}
