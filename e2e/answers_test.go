package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// plans is a consumer that answers by the event's id: the nth request gets the nth answer, the last one repeats. Without a plan: 200.
type plans struct {
	mu sync.Mutex
	by map[string][]hooktest.Answer
}

func planned(c *hooktest.Consumer) *plans {
	p := &plans{by: map[string][]hooktest.Answer{}}
	c.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
		p.mu.Lock()
		defer p.mu.Unlock()
		as := p.by[s.Header.Get("Hooktender-Event-Id")]
		if len(as) == 0 {
			return hooktest.Answer{}
		}
		return as[min(nth, len(as))-1]
	})
	return p
}

func (p *plans) on(id string, as ...hooktest.Answer) {
	p.mu.Lock()
	p.by[id] = as
	p.mu.Unlock()
}

// answer is what a sender reads.
type answer struct {
	status int // 0 = no answer
	head   http.Header
	body   string
}

func (a answer) outcome() string { return a.head.Get("Hooktender-Outcome") }

// ask sends a request, changed as wished, and reads the whole answer.
func (g *gatewayProcess) ask(path string, r hooktest.Request, change ...func(*http.Request)) answer {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.public+path, bytes.NewReader(r.Body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header = r.Header.Clone()
	for _, f := range change {
		f(req)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return answer{head: http.Header{}, body: err.Error()}
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// signed is a body with the signature of every custom source.
func signed(body string) hooktest.Request { return hooktest.Custom(secret, []byte(body), time.Now()) }

func custom(id, resource, version string) hooktest.Request {
	return hooktest.Custom(secret, hooktest.CustomBody(id, "t", resource, version), time.Now())
}

func (g *gatewayProcess) want(what string, a answer, status int, outcome string) {
	g.t.Helper()
	if a.status != status || a.outcome() != outcome {
		g.t.Errorf("%s: %d %q %s, want %d %q", what, a.status, a.outcome(), a.body, status, outcome)
	}
}

// becomes waits until an event is "state/reason".
func (g *gatewayProcess) becomes(source, id, want string) map[string]any {
	g.t.Helper()
	var m map[string]any
	got := ""
	for end := time.Now().Add(30 * time.Second); got != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("%s of %s is %q, want %q", id, source, got, want)
		}
		if m = g.record(source, id); m != nil {
			reason, _ := m["reason"].(string)
			got = fmt.Sprint(m["state"], "/", reason)
		}
	}
	return m
}

const quick = "retry: {base: 10ms, factor: 1, max_attempts: 100000}" // a slow machine may need many

// Each mode against each kind of consumer, and then the sender's next request for the same event (SPEC §3, §12).
func TestWhatASenderReads(t *testing.T) {
	c, addr := consumer(t)
	p := planned(c)
	var blocks strings.Builder
	for _, mode := range []string{"proxy", "hybrid", "store"} {
		blocks.WriteString(source(mode, "delivery: {mode: "+mode+", upstream: app, "+quick+"}"))
	}
	g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", timeout: 1s, breaker: {failures: 100000}}}\nsources:\n%s", addr, &blocks))
	ok, refused, later, broken, late := hooktest.Answer{Body: "took"}, hooktest.Answer{Status: 422, Body: "no"}, hooktest.Answer{Status: 503, Body: "later"},
		hooktest.Answer{Break: true}, hooktest.Answer{Delay: time.Minute}
	for _, r := range []struct {
		mode, name      string
		plan            hooktest.Answer
		status          int
		outcome, becoms string
		again           int // what the sender's repetition reads, once the consumer takes everything
		outcomeAgain    string
		requests        int // at the consumer, in the end
	}{
		{"proxy", "2xx", ok, 200, "delivered", "delivered/", 200, "duplicate", 1},
		{"proxy", "permanent", refused, 422, "failed", "failed/permanent", 200, "delivered", 2},
		{"proxy", "transient", later, 503, "returned", "failed/returned", 200, "delivered", 2},
		{"proxy", "broken", broken, 502, "returned", "failed/returned", 200, "delivered", 2},
		{"proxy", "late", late, 504, "returned", "failed/returned", 200, "delivered", 2},
		{"hybrid", "2xx", ok, 200, "delivered", "delivered/", 200, "duplicate", 1},
		{"hybrid", "permanent", refused, 422, "failed", "failed/permanent", 200, "delivered", 2},
		{"hybrid", "transient", later, 202, "accepted", "delivered/", 200, "duplicate", 2},
		{"hybrid", "broken", broken, 202, "accepted", "delivered/", 200, "duplicate", 2},
		{"hybrid", "late", late, 202, "accepted", "delivered/", 200, "duplicate", 2},
		{"store", "2xx", ok, 202, "accepted", "delivered/", 200, "duplicate", 1},
		{"store", "permanent", refused, 202, "accepted", "failed/permanent", 202, "accepted", 2},
		{"store", "transient", later, 202, "accepted", "delivered/", 200, "duplicate", 2},
	} {
		what, id := r.mode+", "+r.name, r.mode+"-"+strings.ReplaceAll(r.name, " ", "")
		if p.on(id, r.plan, hooktest.Answer{}); r.outcome == "failed" || r.outcome == "returned" {
			p.on(id, r.plan)
		}
		req := custom(id, "", "")
		a := g.ask("/"+r.mode, req)
		g.want(what, a, r.status, r.outcome)
		if a.head.Get("Hooktender-Event-Id") != id || a.head.Get("Hooktender-Id") == "" {
			t.Errorf("%s: ids in the answer: %v", what, a.head)
		}
		if r.plan.Body != "" && r.outcome != "accepted" && a.body != r.plan.Body {
			t.Errorf("%s: the sender reads %q", what, a.body)
		}
		g.becomes(r.mode, id, r.becoms)
		p.on(id)
		again := g.ask("/"+r.mode, req)
		g.want(what+", again", again, r.again, r.outcomeAgain)
		if again.head.Get("Hooktender-Id") != a.head.Get("Hooktender-Id") {
			t.Errorf("%s: one event, two records", what)
		}
		rec := g.becomes(r.mode, id, "delivered/")
		if n := len(c.Of(r.mode, id)); n != r.requests || rec["attempt_count"] != float64(r.requests) {
			t.Errorf("%s: the consumer saw %d requests, attempt_count %v, want %d", what, n, rec["attempt_count"], r.requests)
		}
	}
}

// Requests that go no further, each with its answer, in a form that tells nobody more than it must, and without a trace.
func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	const deliver = "delivery: {mode: hybrid, upstream: app}\n    "
	g := startGateway(t, sources(addr, source("s", deliver+"limits: {body: 1KiB}")+source("far", deliver+"limits: {allow_ips: [10.0.0.0/8]}")+
		source("strict", deliver+"dedup: {on_conflict: reject}")+source("seq", deliver+"ordering: {policy: in_sequence, start: 1, max_wait: 60s, max_jump: 100, ties: reject}")))
	g.want("first", g.ask("/strict", custom("evt_1", "", "")), 200, "delivered")
	g.want("first", g.ask("/seq", custom("evt_1", "r", "1")), 200, "delivered")
	forged := hooktest.Custom("somebody else's", hooktest.CustomBody("evt_f", "t", "", ""), time.Now())
	for _, r := range []struct {
		name, path string
		req        hooktest.Request
		change     func(*http.Request)
		status     int
		outcome    string
	}{
		{"unknown path", "/nowhere", custom("a", "", ""), nil, 404, ""},
		{"method", "/s", custom("a", "", ""), func(r *http.Request) { r.Method = "PUT" }, 405, ""},
		{"too large", "/s", signed(strings.Repeat(" ", 1025)), nil, 413, ""},
		{"header too large", "/s", custom("a", "", ""), with("X-Big", strings.Repeat("x", 20<<10)), 431, ""},
		{"address", "/far", custom("a", "", ""), with("X-Forwarded-For", "10.0.0.1"), 403, "forbidden"},
		{"forged", "/s", forged, nil, 401, "rejected"},
		{"unsigned", "/s", hooktest.Request{Header: http.Header{}, Body: forged.Body}, nil, 401, "rejected"},
		{"old", "/s", hooktest.Custom(secret, forged.Body, time.Now().Add(-6*time.Minute)), nil, 401, "rejected"},
		{"future", "/s", hooktest.Custom(secret, forged.Body, time.Now().Add(6*time.Minute)), nil, 401, "rejected"},
		{"no id", "/s", signed(`{}`), nil, 422, "unidentified"},
		{"id twice", "/s", signed(`{"id":"a","id":"b"}`), nil, 422, "unidentified"},
		{"id a fraction", "/s", signed(`{"id":1.0}`), nil, 422, "unidentified"},
		{"no version", "/seq", signed(`{"id":"a","resource":"r"}`), nil, 422, "unidentified"},
		{"conflict", "/strict", custom("evt_1", "other", ""), nil, 409, "conflict"},
		{"stale", "/seq", custom("b", "r", "0"), nil, 200, "stale"},
		{"a tie", "/seq", custom("c", "r", "1"), nil, 200, "stale"},
		{"early", "/seq", custom("d", "r", "3"), nil, 202, "held"},
		{"a jump", "/seq", custom("e", "r", "102"), nil, 202, "quarantined"},
	} {
		change := r.change
		if change == nil {
			change = func(*http.Request) {}
		}
		a := g.ask(r.path, r.req, change)
		g.want(r.name, a, r.status, r.outcome)
		if problem := strings.HasPrefix(a.head.Get("Content-Type"), "application/problem+json") && strings.Contains(a.body, `"title"`); problem != (r.status >= 400) {
			t.Errorf("%s: %v %s", r.name, a.head, a.body)
		}
		if r.status == 401 && a.body != g.ask("/s", forged).body {
			t.Errorf("%s: the answer tells a forger what is wrong: %s", r.name, a.body)
		}
		if r.status == 405 && a.head.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", r.name, a.head.Get("Allow"))
		}
	}
	if n := len(c.Seen()); n != 2 {
		t.Errorf("the consumer saw %d requests, want the first two", n)
	}
	if m := g.record("s", "evt_f"); m != nil {
		t.Errorf("a forged request left a record: %v", m)
	}
}

// The id of an event is what its source says, and is one id however it is written (SPEC §2, §4, §12).
func TestWhatIsOneEvent(t *testing.T) {
	t.Parallel()
	_, addr := consumer(t)
	block := func(name, path, id string) string {
		b := strings.Replace(source(name, "delivery: {mode: hybrid, upstream: app}"), `id: "json:id"`, "id: "+id, 1)
		return strings.Replace(b, "path: /"+name, "path: "+path, 1)
	}
	account := strings.Replace(source("account", "delivery: {mode: hybrid, upstream: app}"), `id: "json:id"`, `id: "json:id", account: "json:account"`, 1)
	unsigned := strings.Replace(block("unsigned", "/unsigned", `"header:X-Id"`), `signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m`, `signed: "{body}"`, 1)
	g := startGateway(t, sources(addr, block("json", "/json", `"json:a.0.id"`)+block("header", "/header", `"header:X-Id"`)+block("query", "/query", `"query:id"`)+block("form", "/form", `"form:id"`)+
		block("path", "/path/{shop}/hook", `["path:shop", "header:X-Id"]`)+block("hash", "/hash", `"body:sha256"`)+account+unsigned))
	bodyOnly := hooktest.GitHub(secret, "d", "t", []byte("once")).Header.Get("X-Hub-Signature-256")
	unsignedRequest := hooktest.Request{Body: []byte("once"), Header: http.Header{"X-Signature": {bodyOnly}}}
	for _, r := range []struct {
		name, path string
		req        hooktest.Request
		header     string // X-Id
		status     int
		outcome    string
		id         string // Hooktender-Event-Id
	}{
		{"a text", "/json", signed(`{"a":[{"id":"7"}]}`), "", 200, "delivered", "7"},
		{"the same digits as a number", "/json", signed(`{"a":[{"id":7}]}`), "", 200, "duplicate", "7"},
		{"2^53", "/json", signed(`{"a":[{"id":9007199254740992}]}`), "", 200, "delivered", "9007199254740992"},
		{"2^53+1", "/json", signed(`{"a":[{"id":9007199254740993}]}`), "", 200, "delivered", "9007199254740993"},
		{"a member twice on the way", "/json", signed(`{"a":[{"id":"8"}],"a":[{"id":"9"}]}`), "", 422, "unidentified", ""},
		{"a member twice elsewhere", "/json", signed(`{"b":1,"b":2,"a":[{"id":"8"}]}`), "", 200, "delivered", "8"},
		{"255 bytes", "/header", signed("x"), strings.Repeat("i", 255), 200, "delivered", strings.Repeat("i", 255)},
		{"256 bytes", "/header", signed("x"), strings.Repeat("i", 256), 422, "unidentified", ""},
		{"a query", "/query?id=a%20b", signed("x"), "", 200, "delivered", "a%20b"},
		{"a query, written otherwise", "/query?id=a+b", signed("x"), "", 200, "duplicate", "a%20b"},
		{"a query twice", "/query?id=1&%69d=2", signed("x"), "", 422, "unidentified", ""},
		{"a form", "/form", signed("id=f1&x=2"), "", 200, "delivered", "f1"},
		{"a form twice", "/form", signed("id=f1&id=f2"), "", 422, "unidentified", ""},
		{"joined", "/path/a/hook", signed("x"), "b:c", 200, "delivered", "a:b%3Ac"},
		{"joined in other places", "/path/a:b/hook", signed("x"), "c", 200, "delivered", "a%3Ab:c"},
		{"joined, the same", "/path/a/hook", signed("x"), "b:c", 200, "duplicate", "a:b%3Ac"},
		{"the body's hash", "/hash", signed("x"), "", 200, "delivered", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
		{"an account", "/account", signed(`{"id":"1","account":"A"}`), "", 200, "delivered", "1"},
		{"another account", "/account", signed(`{"id":"1","account":"B"}`), "", 200, "delivered", "1"},
		{"the first account again", "/account", signed(`{"id":"1","account":"A"}`), "", 200, "duplicate", "1"},
		{"an id that is not signed", "/unsigned", unsignedRequest, "u1", 200, "delivered", "u1"},
		{"the same signature under another id", "/unsigned", unsignedRequest, "u2", 200, "duplicate", "u2"},
	} {
		a := g.ask(r.path, r.req, func(q *http.Request) {
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if r.header != "" {
				q.Header.Set("X-Id", r.header)
			}
		})
		g.want(r.name, a, r.status, r.outcome)
		if got := a.head.Get("Hooktender-Event-Id"); got != r.id {
			t.Errorf("%s: event id %q, want %q", r.name, got, r.id)
		}
	}
}

// The same id with another body is flagged, in whatever state the first one is (SPEC §4, §12).
func TestAnotherBodyUnderOneID(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	p := planned(c)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app}")))
	for _, r := range []struct {
		first   hooktest.Answer
		status  int
		outcome string
	}{{hooktest.Answer{}, 200, "duplicate"}, {hooktest.Answer{Status: 422}, 200, "delivered"}} {
		id := fmt.Sprint("evt_", r.first.Status)
		p.on(id, r.first, hooktest.Answer{})
		g.ask("/s", custom(id, "a", ""))
		a := g.ask("/s", custom(id, "b", ""))
		g.want(id, a, r.status, r.outcome)
		if a.head.Get("Hooktender-Conflict") != "body" {
			t.Errorf("%s is not flagged: %v", id, a.head)
		}
		if m := g.becomes("s", id, "delivered/"); m["conflicts"] != 1.0 {
			t.Errorf("%s: conflicts %v", id, m["conflicts"])
		}
	}
}

// on_conflict: reject, and requests of one id with two bodies at the same moment. Who has the body of the event that is known is its duplicate, whoever was looked at first;
// where the first is sent away without a trace the other is sent away, too, and refused for nothing.
func TestTwoBodiesUnderOneIDAtTheSameMoment(t *testing.T) {
	c, addr := consumer(t)
	p := planned(c)
	block := source("s", "delivery: {mode: proxy, upstream: narrow}\n    dedup: {on_conflict: reject}")
	g := startGateway(t, strings.Replace(sources(addr, block), "upstreams: {", "upstreams: {narrow: {url: \"http://"+addr+"\", timeout: 1s, max_in_flight: 1}, ", 1))
	g.want("the first", g.ask("/s", custom("known", "a", "1")), 200, "delivered")
	for range 20 {
		got, of := make(chan string, 32), map[string]string{"a": "200 duplicate", "b": "409 conflict"}
		for i := range cap(got) {
			body := string("ab"[i%2])
			go func() {
				if a := g.ask("/s", custom("known", body, "1")); fmt.Sprint(a.status, " ", a.outcome()) != of[body] {
					got <- fmt.Sprintf("%s is told %d %s", body, a.status, a.outcome())
				} else {
					got <- ""
				}
			}()
		}
		for range cap(got) {
			if wrong := <-got; wrong != "" {
				t.Error(wrong)
			}
		}
	}

	var busy sync.WaitGroup // with the upstream: there is always somebody before whoever comes, for longer than anybody waits for it
	defer busy.Wait()
	stop := make(chan struct{})
	defer close(stop)
	for s := range 4 {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("busy_%d_%d", s, i)
				p.on(id, hooktest.Answer{Delay: 800 * time.Millisecond})
				g.ask("/s", custom(id, "r", "1"))
			}
		})
	}
	for i := range 20 {
		id, first := fmt.Sprint("unknown_", i), make(chan answer)
		go func() { first <- g.ask("/s", custom(id, "a", "1")) }()
		second := g.ask("/s", custom(id, "b", "1"))
		a := <-first
		if a.status == 200 || second.status == 200 {
			continue // the others have not come yet
		}
		if a.status != 503 || second.status != 503 || second.head.Get("Hooktender-Conflict") != "" || g.record("s", id) != nil {
			t.Errorf("%d, then %d %s", a.status, second.status, second.outcome())
		}
		return
	}
	t.Error("the upstream is never busy: this is not the case to test")
}

// Duplicates of one that reaches its deadline were told 503 a moment before the first was told 202.
func TestDuplicatesOfOneThatReachesItsDeadlineReadItsAnswer(t *testing.T) {
	c, addr := consumer(t)
	at := gated(c)
	g := startGateway(t, strings.Replace(sources(addr, source("free", "delivery: {mode: hybrid, upstream: app, deadline: 3s}")+
		source("ordered", "delivery: {mode: hybrid, upstream: app, deadline: 3s}\n    ordering: {policy: reject_stale}")), "timeout: 3s", "timeout: 1m", 1)) // all of them come within three seconds, also on a busy machine
	paths, answers := []string{"free", "ordered"}, map[string]chan answer{}
	for _, path := range paths {
		to := make(chan answer, 8)
		for range cap(to) {
			go func() { to <- g.ask("/"+path, custom("slow_"+path, "r", "1")) }()
		}
		answers[path] = to
	}
	for _, path := range paths {
		outcomes := map[string]int{}
		for range cap(answers[path]) {
			a := <-answers[path]
			outcomes[fmt.Sprint(a.status, " ", a.outcome())]++
		}
		if outcomes["202 accepted"] != 1 || outcomes["202 duplicate"] != cap(answers[path])-1 {
			t.Errorf("%s: %v", path, outcomes)
		}
	}
	close(at.open)
	for _, path := range paths {
		g.becomes(path, "slow_"+path, "delivered/")
	}
}

// In store mode the answer does not wait for the consumer: who comes beside the first is a duplicate of a durable event.
func TestSendersOfOneIDAtOnceInStoreMode(t *testing.T) {
	t.Parallel()
	_, addr := consumer(t)
	g := startGateway(t, sources(addr, source("free", "delivery: {mode: store, upstream: app}")+
		source("early", "delivery: {mode: store, upstream: app}\n    ordering: {policy: in_sequence, start: 1, max_wait: 10m}")))
	for path, first := range map[string]string{"free": "202 accepted", "early": "202 held"} {
		outcomes := map[string]int{}
		answers := make(chan answer, 16)
		for range cap(answers) {
			go func() { answers <- g.ask("/"+path, custom("evt_"+path, "r", "5")) }()
		}
		for range cap(answers) {
			a := <-answers
			outcomes[fmt.Sprint(a.status, " ", a.outcome())]++
		}
		if outcomes[first] != 1 || outcomes["200 duplicate"] != cap(answers)-1 {
			t.Errorf("%s: %v", path, outcomes)
		}
	}
}
