package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/internal/admintest"
)

const (
	opsToken    = "e2e-ops-token-0123456789"
	readerToken = "e2e-reader-token-0123456"
	tokens      = `, tokens: [{name: ops, token: {value: ` + opsToken + `}, scopes: [events:read, payloads:read, replay:write, replay:force, admin]}, {name: reader, token: {value: ` + readerToken + `}, scopes: [events:read]}]`
)

// port calls the admin port and holds every answer against its own description.
type port struct {
	g        *gatewayProcess
	contract *admintest.Contract
}

func (p *port) call(want int, method, path, body string, header ...string) (raw []byte, h http.Header) {
	p.g.t.Helper()
	req, resp := p.ask(method, path, body, header)
	for try := 0; want == 429 && resp.StatusCode == 401 && try < 500; try++ { // the limit has recovered meanwhile: these failures count, too
		_ = resp.Body.Close()
		req, resp = p.ask(method, path, body, header)
	}
	defer resp.Body.Close()
	var err error
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		if raw, err = io.ReadAll(resp.Body); err != nil {
			p.g.t.Fatal(err)
		}
	}
	if resp.StatusCode != want {
		p.g.t.Errorf("%s %s %.200s: want %d, got %d %.600s", method, path, body, want, resp.StatusCode, raw)
	}
	if why := p.contract.Check(method, req.URL.EscapedPath(), resp.StatusCode, resp.Header.Get("Content-Type"), raw); why != "" {
		p.g.t.Errorf("%s %s ← %d: the answer breaks the description: %s\n%.600s", method, path, resp.StatusCode, why, raw)
	}
	return raw, resp.Header
}

// ask sends a request with the token of an operator, and with other headers; an empty one is left out.
func (p *port) ask(method, path, body string, header []string) (*http.Request, *http.Response) {
	p.g.t.Helper()
	req, err := http.NewRequestWithContext(p.g.t.Context(), method, "http://"+p.g.admin+path, strings.NewReader(body))
	if err != nil {
		p.g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+opsToken)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			req.Host = header[i+1]
		case header[i+1] == "":
			req.Header.Del(header[i])
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := p.g.client.Do(req)
	if err != nil {
		p.g.t.Fatal(err)
	}
	return req, resp
}

// Every answer of every route of the real gateway is as the OpenAPI document that it serves says, and every described answer was seen, save
// those that need a broken disk.
func TestEveryAnswerIsAsDescribed(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGuarded(t, tokens, sources(addr, source("s", refusing)+source("hold", "delivery: {mode: hybrid, upstream: app, on_unknown: hold, retry: {base: 20ms, max_attempts: 2}}")+
		source("seq", "delivery: {mode: hybrid, upstream: app}\n    ordering: {policy: in_sequence, start: \"1\", max_wait: 60s, max_jump: 100}")+
		"  asana:\n    path: /asana\n    provider: asana\n    upstream: app\n"))
	doc, err := g.client.Get("http://" + g.admin + "/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer doc.Body.Close()
	raw, _ := io.ReadAll(doc.Body)
	p := &port{g, admintest.ReadContract(t, raw)}

	plan := map[string]hooktest.Answer{"refused": {Status: 422, Body: "no\xff"}, "lost": {Break: true}, "dead": {Status: 422}, "dead2": {Status: 422}, "dead3": {Status: 422}}
	var mu sync.Mutex
	c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		mu.Lock()
		defer mu.Unlock()
		return plan[s.Header.Get("Hooktender-Event-Id")]
	})
	g.send("s", "ok", "r", "1", "delivered")
	g.send("s", "both", "r", "1", "delivered")
	g.send("hold", "both", "r", "1", "delivered")
	g.send("hold", "lost", "r", "1", "accepted")
	for _, id := range []string{"refused", "dead", "dead2", "dead3"} {
		g.send("s", id, "r", "1", "failed")
	}
	g.send("seq", "q1", "z", "1", "delivered")
	g.send("seq", "q3", "z", "3", "held")
	g.send("seq", "q0", "z", "0", "stale")
	g.send("seq", "far", "z", "999", "quarantined")

	get := []string{"/v1/events", "/v1/events?limit=1", "/v1/events?state=failed,rejected&order=asc", "/v1/events?reason=held", "/v1/events/ok", "/v1/events/q0",
		"/v1/events/far", "/v1/events/refused/attempts", "/v1/events/lost/attempts", "/v1/events/ok/payload", "/v1/replays", "/v1/checkpoints", "/v1/checkpoints?source=s",
		"/v1/resources/seq/z", "/v1/resources/s/r", "/v1/sources", "/v1/upstreams", "/v1/whoami", "/v1/events/lost?wait=20ms", "/v1/stream?source=s"}
	for _, path := range get {
		p.call(200, "GET", path, "")
		p.call(401, "GET", path, "", "Authorization", "")
		p.call(400, "GET", path+map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]+"no=such", "")
		p.call(403, "GET", path, "", "Host", "evil.example")
	}
	p.call(200, "GET", "/v1/events/ok/payload", "", "Accept", "application/octet-stream")
	p.call(403, "GET", "/v1/events/ok/payload", "", "Authorization", "Bearer "+readerToken)
	for _, op := range p.contract.Operations() {
		path, open := strings.CutPrefix(op, "GET ")
		if !open || !p.contract.Open("GET", path) {
			continue
		}
		p.call(200, "GET", path, "", "Authorization", "")
		p.call(403, "GET", path, "", "Origin", "https://evil.example")
	}
	for _, path := range []string{"/v1/events?source=no", "/v1/events/none", "/v1/events/none?wait=10ms", "/v1/events/none/attempts", "/v1/events/none/payload", "/v1/replays/none",
		"/v1/checkpoints?source=no", "/v1/resources/s/none", "/v1/resources/no/x", "/v1/stream?source=no"} {
		p.call(404, "GET", path, "")
	}
	for _, path := range []string{"/v1/events/both", "/v1/events/both/attempts", "/v1/events/both/payload"} {
		p.call(409, "GET", path, "")
	}
	p.call(400, "GET", "/v1/events?limit=501", "")
	p.call(400, "GET", "/v1/stream?cursor=x", "")

	mu.Lock()
	plan["dead"] = hooktest.Answer{}
	mu.Unlock()
	p.call(200, "POST", "/v1/events/ok/replay", `{}`)
	p.call(202, "POST", "/v1/events/dead/replay", `{}`, "Idempotency-Key", "k1")
	if _, h := p.call(202, "POST", "/v1/events/dead/replay", `{}`, "Idempotency-Key", "k1"); h.Get("Idempotency-Replayed") != "true" {
		t.Error("a repeated call was made again")
	}
	p.call(422, "POST", "/v1/events/dead/replay", `{"reason":"other"}`, "Idempotency-Key", "k1")
	p.call(409, "POST", "/v1/events/lost/replay", `{}`)
	p.call(404, "POST", "/v1/events/none/replay", `{}`)
	p.call(200, "POST", "/v1/events/dead2/resolve", `{"reason":"by hand"}`)
	p.call(200, "POST", "/v1/events/dead3/discard", `{"reason":"unwanted"}`)
	for _, how := range []string{"resolve", "discard"} {
		p.call(409, "POST", "/v1/events/ok/"+how, `{"reason":"x"}`)
		p.call(422, "POST", "/v1/events/refused/"+how, `{}`)
		p.call(404, "POST", "/v1/events/none/"+how, `{"reason":"x"}`)
	}
	p.call(200, "POST", "/v1/replays", `{"filter":{"source":"s"},"from_checkpoint":true,"dry_run":true}`)
	created, h := p.call(201, "POST", "/v1/replays", `{"name":"n","ids":["ok","none","lost","far","refused"],"rate":1}`)
	if !strings.HasPrefix(h.Get("Location"), "/v1/replays/rp_") {
		t.Errorf("Location %q, %s", h.Get("Location"), created)
	}
	p.call(200, "GET", h.Get("Location"), "")
	p.call(200, "POST", h.Get("Location")+"/cancel", ``)
	p.call(404, "POST", "/v1/replays/none/cancel", `{}`)
	p.call(404, "POST", "/v1/replays", `{"filter":{"source":"no"}}`)
	p.call(200, "GET", "/v1/replays?limit=1", "")
	p.call(200, "POST", "/v1/sources/s/pause", `{"reason":"a deployment"}`)
	p.call(200, "POST", "/v1/sources/s/resume", ``)
	p.call(200, "POST", "/v1/sources/asana/enroll", `{"for":"1m"}`)
	p.call(404, "POST", "/v1/sources/no/enroll", `{}`)
	p.call(200, "POST", "/v1/resources/seq/z/cursor", `{"version":"2","reason":"2 will never come"}`)
	p.call(404, "POST", "/v1/resources/no/z/cursor", `{"version":"2"}`)
	p.call(404, "POST", "/v1/sources/no/pause", ``)
	p.call(404, "POST", "/v1/sources/no/resume", ``)
	p.call(200, "POST", "/v1/config/reload", ``)
	config := filepath.Join(g.dir, "hooktender.yaml")
	good, _ := os.ReadFile(config)
	if err := os.WriteFile(config, append(slices.Clone(good), "nonsense: 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	p.call(422, "POST", "/v1/config/reload", ``)
	if err := os.WriteFile(config, good, 0o600); err != nil {
		t.Fatal(err)
	}
	post := []string{"/v1/events/ok/replay", "/v1/events/ok/resolve", "/v1/events/ok/discard", "/v1/replays", "/v1/replays/x/cancel", "/v1/sources/s/pause", "/v1/sources/s/resume",
		"/v1/sources/asana/enroll", "/v1/resources/seq/z/cursor", "/v1/config/reload", "/v1/drain"}
	for _, path := range post {
		p.call(401, "POST", path, `{}`, "Authorization", "")
		p.call(403, "POST", path, `{}`, "Authorization", "Bearer "+readerToken)
		p.call(415, "POST", path, `{}`, "Content-Type", "text/plain")
		p.call(422, "POST", path, `{"no_such":1}`)
		p.call(422, "POST", path, `[]`)
		p.call(413, "POST", path, `{"reason":"`+strings.Repeat("x", 5<<20)+`"}`)
		p.call(400, "POST", path, `{}`, "Idempotency-Key", strings.Repeat("k", 256))
	}
	p.call(202, "POST", "/v1/drain", ``)
	p.call(503, "GET", "/readyz", "")
	for range 200 {
		req, _ := http.NewRequest("GET", "http://"+g.admin+"/v1/whoami", nil)
		req.Header.Set("Authorization", "Bearer wrong")
		if resp, err := g.client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	for _, path := range get {
		p.call(429, "GET", path, "", "Authorization", "Bearer wrong")
		p.call(200, "GET", "/v1/whoami", "") // and nobody is locked out
	}
	p.call(429, "GET", "/v1/replays/x", "", "Authorization", "Bearer wrong")
	for _, path := range post {
		p.call(429, "POST", path, `{}`, "Authorization", "Bearer wrong")
	}
	for _, missed := range p.contract.Unseen() {
		if s := missed[len(missed)-3:]; s != "500" && s != "503" && s != "410" && s != "409" && !strings.HasPrefix(missed, "GET /v1/replays/{id}") {
			t.Errorf("not seen: %s", missed)
		}
	}
}

// verdict asks whether an event can be sent again.
func (g *gatewayProcess) verdict(source, id string) string {
	g.t.Helper()
	e, err := g.api().Event(g.t.Context(), source, id, client.Wait{})
	if missing, ok := errors.AsType[*client.NotFound](err); ok {
		return missing.Problem.SafeToRetry.Verdict
	}
	if err != nil {
		g.t.Fatal(err)
	}
	if e.SafeToRetry.Reason == "" {
		g.t.Errorf("%s: no reason", id)
	}
	return e.State + "/" + string(e.Reason) + " " + e.SafeToRetry.Verdict
}

// "Can I safely retry?" has the right answer in every state, and after a kill at the worst moment.
func TestSafeToRetryIsRightInEveryStateAndAfterAKill(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	const stale = "ordering: {policy: reject_stale}"
	g := startGateway(t, strings.Replace(sources(addr, source("s", refusing)+source("hold", "delivery: {mode: hybrid, upstream: app, on_unknown: hold}")+
		source("redo", "delivery: {mode: hybrid, upstream: app, retry: {base: 20ms, max_attempts: 2}}")+source("prox", "delivery: {mode: proxy, upstream: app}")+
		source("slow", "delivery: {mode: hybrid, upstream: app, retry: {base: 1h, max_attempts: 9, max_elapsed: 10h, jitter: full}}")+
		source("ord", refusing+"\n    "+stale)), "timeout: 3s", "timeout: 1m", 1))
	var mu sync.Mutex
	answers := map[string]hooktest.Answer{"refused": {Status: 410}, "exhausted": {Status: 503}, "returned": {Status: 503}, "retrying": {Status: 503}, "old": {Status: 400},
		"cut": {Delay: time.Minute}, "cut2": {Delay: time.Minute}, "resolved": {Status: 400}, "discarded": {Status: 400}, "broken": {Break: true}}
	c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		mu.Lock()
		defer mu.Unlock()
		return answers[s.Header.Get("Hooktender-Event-Id")]
	})
	check := func(source, id, want string) {
		t.Helper()
		if got := g.verdict(source, id); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	g.send("s", "delivered", "a", "1", "delivered")
	g.send("s", "refused", "a", "1", "failed")
	g.send("s", "exhausted", "a", "1", "accepted")
	g.send("prox", "returned", "a", "1", "returned")
	g.send("slow", "retrying", "a", "1", "accepted")
	g.send("ord", "old", "a", "1", "failed")
	g.send("ord", "new", "a", "2", "delivered")
	g.send("ord", "late", "a", "1", "stale")
	g.send("s", "resolved", "a", "1", "failed")
	g.send("s", "discarded", "a", "1", "failed")
	g.send("s", "broken", "a", "1", "accepted")
	for id, settle := range map[string]func(context.Context, string, string, string) (api.Event, error){"resolved": g.api().Resolve, "discarded": g.api().Discard} {
		if e, err := settle(t.Context(), "s", id, "by the test"); err != nil || e.Resolution == nil || e.Resolution.Reason != "by the test" {
			t.Errorf("%s: %+v %v", id, e, err)
		}
	}
	if _, err := g.api().Pause(t.Context(), "s", ""); err != nil {
		t.Fatal(err)
	}
	g.send("s", "paused", "a", "1", "accepted")
	check("s", "never", "yes")
	check("s", "delivered", "delivered/ no_need")
	check("s", "refused", "failed/permanent yes")
	check("prox", "returned", "failed/returned yes")
	check("slow", "retrying", "pending/retrying wait")
	check("ord", "old", "failed/permanent superseded")
	check("ord", "late", "rejected/stale superseded")
	check("s", "resolved", "failed/resolved no_need")
	check("s", "discarded", "failed/discarded yes")
	check("s", "paused", "pending/queued wait")
	if _, err := g.api().Resume(t.Context(), "s", ""); err != nil {
		t.Fatal(err)
	}
	for _, end := range [][2]string{{"exhausted", "failed/exhausted yes"}, {"broken", "failed/exhausted unsafe"}, {"paused", "delivered/ no_need"}} {
		if _, err := g.api().Event(t.Context(), "s", end[0], client.Wait{For: 20 * time.Second}); err != nil {
			t.Fatal(err)
		}
		check("s", end[0], end[1])
	}

	// The worst moment: bytes are sent and no answer has come when the process is killed.
	var wg sync.WaitGroup
	for source, id := range map[string]string{"hold": "cut", "redo": "cut2"} {
		wg.Go(func() {
			g.post(context.Background(), "/"+source, hooktest.Custom(secret, hooktest.CustomBody(id, "x", "b", "1"), time.Now()))
		})
	}
	g.await("both are under way", 20*time.Second, func() bool { return len(c.Of("hold", "cut")) == 1 && len(c.Of("redo", "cut2")) == 1 })
	check("hold", "cut", "pending/delivering wait")
	g.kill()
	wg.Wait()
	mu.Lock()
	answers["cut2"] = hooktest.Answer{Status: 400}
	answers["cut"] = hooktest.Answer{}
	mu.Unlock()
	g.launch()
	check("hold", "cut", "pending/waiting_for_decision unsafe")
	if _, err := g.api().Event(t.Context(), "redo", "cut2", client.Wait{For: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	check("redo", "cut2", "failed/permanent unsafe")
	if seen := c.Of("redo", "cut2"); len(seen) != 2 || seen[1].Header.Get("Hooktender-Redelivered") != "possible" {
		t.Errorf("%d requests", len(seen))
	}
	if _, err := g.api().Replay(t.Context(), "hold", "cut", api.ReplayRequest{}); err == nil {
		t.Error("what waits for a decision was replayed without force")
	}
	if _, err := g.api().Replay(t.Context(), "hold", "cut", api.ReplayRequest{Force: true, Reason: "it did not arrive"}); err != nil {
		t.Error(err)
	}
	if _, err := g.api().Event(t.Context(), "hold", "cut", client.Wait{For: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	check("hold", "cut", "replayed/ no_need")
	if seen := c.Of("hold", "cut"); len(seen) != 2 || seen[1].Header.Get("Hooktender-Redelivered") != "possible" || seen[1].Header.Get("Idempotency-Key") != seen[0].Header.Get("Idempotency-Key") {
		t.Errorf("%d requests", len(seen))
	}
	// A forced replay that fails leaves a delivered event delivered.
	mu.Lock()
	answers["delivered"] = hooktest.Answer{Status: 400}
	mu.Unlock()
	if _, err := g.api().Replay(t.Context(), "s", "delivered", api.ReplayRequest{Force: true, Reason: "once more"}); err != nil {
		t.Error(err)
	}
	g.await("the forced replay", 20*time.Second, func() bool { return len(c.Of("s", "delivered")) == 2 })
	if _, err := g.api().Event(t.Context(), "s", "delivered", client.Wait{For: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	check("s", "delivered", "delivered/ no_need")
}

// A stream that is broken off and taken up again, also after a kill, misses no change; one that stays sees each once, in order.
func TestTheStreamMissesNothing(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", refusing)+source("t", refusing)))
	c.Plan(func(s *hooktest.Seen, nth int) hooktest.Answer {
		if id := s.Header.Get("Hooktender-Event-Id"); strings.HasPrefix(id, "e") && strings.HasSuffix(id, "3") && nth == 1 {
			return hooktest.Answer{Status: 503}
		}
		return hooktest.Answer{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var whole []string // of the stream that stays
	var cursors []string
	text := func(ch client.Change) string {
		return fmt.Sprint(ch.Event.EventID, " ", ch.Event.State, "/", ch.Event.Reason)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = g.api().Stream(ctx, "", "", func(ch client.Change) error {
			mu.Lock()
			whole, cursors = append(whole, text(ch)), append(cursors, ch.Cursor)
			mu.Unlock()
			return nil
		})
	})
	heard := func() int { mu.Lock(); defer mu.Unlock(); return len(whole) }
	for i := 0; heard() == 0; i++ { // until it listens
		g.send("s", fmt.Sprintf("begin%d", i), "r", "1", "delivered")
	}
	var senders sync.WaitGroup
	for k := range 4 {
		senders.Go(func() {
			for i := k; i < 60; i += 4 {
				g.post(t.Context(), "/"+[]string{"s", "t"}[i%2], hooktest.Custom(secret, hooktest.CustomBody(fmt.Sprintf("e%02d", i), "x", "r", "1"), time.Now()))
			}
		})
	}
	senders.Wait()
	final := func() int {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for _, w := range whole {
			if strings.HasPrefix(w, "e") && strings.HasSuffix(w, " delivered/") {
				n++
			}
		}
		return n
	}
	g.await("all are delivered", 20*time.Second, func() bool { return final() == 60 })
	cancel()
	wg.Wait()
	// Broken off after each seventh change.
	var pieces []string
	cursor, enough := cursors[0], errors.New("enough")
	for len(pieces) < len(whole)-1 {
		n := 0
		if err := g.api().Stream(t.Context(), "", cursor, func(ch client.Change) error {
			pieces, cursor = append(pieces, text(ch)), ch.Cursor
			if n++; n == 7 || len(pieces) == len(whole)-1 {
				return enough
			}
			return nil
		}); !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	if !slices.Equal(pieces, whole[1:]) {
		t.Errorf("in pieces:\n%s\nwhole:\n%s", strings.Join(pieces, "\n"), strings.Join(whole[1:], "\n"))
	}
	// After a kill every event that changed since is told, as it is.
	g.send("s", "before-kill", "r", "1", "delivered")
	g.kill()
	g.launch()
	g.send("s", "after-kill", "r", "1", "delivered")
	var after []string
	if err := g.api().Stream(t.Context(), "", cursors[len(cursors)-1], func(ch client.Change) error {
		if after = append(after, text(ch)); len(after) == 2 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if want := []string{"before-kill delivered/", "after-kill delivered/"}; !slices.Equal(after, want) {
		t.Errorf("%v, want %v", after, want)
	}
}

// startGuarded is startGateway with more keys for the admin port: ", tokens: …".
func startGuarded(t *testing.T, admin, sources string) *gatewayProcess {
	t.Helper()
	g := prepareGateway(t, sources, "warn")
	listen := fmt.Sprintf("admin: {listen: %q", g.admin)
	text := strings.Replace(g.text(sources), listen, listen+admin, 1)
	if !strings.Contains(text, listen+admin) {
		t.Fatal("the configuration has no admin port")
	}
	g.write(g.file(), text)
	g.launch()
	return g
}
