package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
)

const secret = "bubble-secret-0123456789"

func env(string) (string, bool) { return secret, true }

const sources = `
upstreams: {app: {url: "http://127.0.0.1:3000", breaker: {failures: 3}}}
retention: {dedup: 168h, payload: 72h, record: 168h, dead_letter: 720h}
sources:
  s:
    path: /s
    provider: custom
    secrets: [{env: SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
    delivery: {mode: hybrid, upstream: app}
`

func TestMain(m *testing.M) {
	if err := hooktest.Warm(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

type bubble struct {
	*hooktest.Bubble
	t *testing.T
}

func start(t *testing.T) bubble {
	t.Helper()
	b, err := hooktest.NewBubble(t.TempDir(), sources, env)
	if err != nil {
		t.Fatal(err)
	}
	return bubble{b, t}
}

// up starts a gateway with a configuration of its own, which ends with the test.
func up(t *testing.T, text string, env func(string) (string, bool)) *hooktest.Bubble {
	t.Helper()
	b, err := hooktest.NewBubble(t.TempDir(), text, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Down()
		_ = b.Stop()
	})
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b bubble) post(id string, want int, outcome string) {
	b.t.Helper()
	status, got, err := b.Post("/s", hooktest.Custom(secret, hooktest.CustomBody(id, "t", "", ""), time.Now()))
	if err != nil || status != want || got != outcome {
		b.t.Fatalf("%s: %d %s %v, want %d %s", id, status, got, err, want, outcome)
	}
}

// state is "state/reason" of an event, or the status of the answer if there is no record.
func (b bubble) state(id string) string {
	b.t.Helper()
	status, body, err := b.Admin("/v1/events/" + id + "?source=s")
	if err != nil {
		b.t.Fatal(err)
	}
	var rec struct{ State, Reason string }
	if status != 200 || json.Unmarshal(body, &rec) != nil {
		return fmt.Sprint(status)
	}
	return rec.State + "/" + rec.Reason
}

func (b bubble) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// A start that is refused, by a damaged journal or a port that is taken, says why. It once ended in a panic.
func TestRefusedStartSaysWhy(t *testing.T) {
	parse := func(dir, public string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("refused.yaml", fmt.Appendf(nil, "version: 1\nlisten: %q\nadmin: {listen: \"127.0.0.1:0\"}\ndata_dir: %q\njournal: {min_free: 0}\n%s", public, dir, sources), env)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.New(parse(dir, "127.0.0.1:0"), gateway.Options{}); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), "FORMAT") {
		t.Errorf("with a damaged journal: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := gateway.New(parse(t.TempDir(), l.Addr().String()), gateway.Options{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("on a port that is taken: %v", err)
	}
}

// A reload names what the file says and only a restart applies: until the restart, whichever reload brought it, and no longer once the
// file says what is in effect.
func TestAReloadSaysWhatWaitsForARestart(t *testing.T) {
	dir := t.TempDir()
	parse := func(public, memory string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("reloaded.yaml", fmt.Appendf(nil, "version: 1\nlisten: %q\nadmin: {listen: \"127.0.0.1:0\"}\ndata_dir: %q\njournal: {min_free: 0, memory: %s}\n%s", public, dir, memory, sources), env)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	var log bytes.Buffer
	file := parse("127.0.0.1:0", "16MiB")
	g, err := gateway.New(file, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Load: func() (*config.Config, error) { return file, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = g.Run(ctx)
	})
	for _, c := range []struct{ does, public, memory, waits string }{
		{"another port", "127.0.0.1:1", "16MiB", "keys=[listen]"},
		{"the same file again", "127.0.0.1:1", "16MiB", "keys=[listen]"},
		{"more memory, too", "127.0.0.1:1", "32MiB", `keys="[journal.memory listen]"`},
		{"the port as at the start", "127.0.0.1:0", "32MiB", "keys=[journal.memory]"},
		{"all as at the start", "127.0.0.1:0", "16MiB", ""},
	} {
		log.Reset()
		file = parse(c.public, c.memory)
		if _, err := g.Reload(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.does, err)
		}
		if said := strings.Contains(log.String(), "need a restart"); said != (c.waits != "") || !strings.Contains(log.String(), c.waits) {
			t.Errorf("%s: want %q in\n%s", c.does, c.waits, &log)
		}
	}
}

// The series of a source and an upstream that a reload has taken out stay for some scrapes, and go then. One that comes back begins at 0.
func TestSeriesOfWhatIsGoneGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, text := t.TempDir(), sources
		b, err := hooktest.NewBubble(dir, sources, env, func(o *gateway.Options) {
			o.Load = func() (*config.Config, error) {
				head := fmt.Sprintf("version: 1\nlisten: %q\nadmin: {listen: %q}\ndata_dir: %q\njournal: {min_free: 0, allow_tmpfs: true}\n", hooktest.PublicAddr, hooktest.AdminAddr, dir)
				return config.Parse("bubble.yaml", []byte(head+text), env)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			b.Down()
			_ = b.Stop()
		}()
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		reload := func(to string) {
			t.Helper()
			text = to
			if status, body, err := b.AdminPost("/v1/config/reload", "{}"); status != 200 || err != nil {
				t.Fatal(status, string(body), err)
			}
		}
		post := func(path string) {
			t.Helper()
			if status, _, err := b.Post(path, hooktest.Custom(secret, hooktest.CustomBody(path, "t", "", ""), time.Now())); status != 200 || err != nil {
				t.Fatal(path, status, err)
			}
		}
		shows := func(line string) bool {
			t.Helper()
			_, body, err := b.Admin("/metrics")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(body), line)
		}
		const (
			requests = `hooktender_requests_total{source="s",outcome="delivered"} `
			attempts = `hooktender_attempts_total{upstream="app",outcome="delivered"} `
		)
		post("/s")
		reload(strings.NewReplacer("  s:", "  other:", "/s", "/other", "app", "consumer").Replace(sources))
		post("/other")
		time.Sleep(4 * time.Minute)
		if !shows(requests+"1") || !shows(attempts+"1") {
			t.Error("they are gone before anybody could see the last")
		}
		time.Sleep(10 * time.Minute)
		if shows(`source="s"`) || shows(`upstream="app"`) {
			t.Error("they stay")
		}
		if !shows(`requests_total{source="other",outcome="delivered"} 1`) || !shows(`requests_total{source="",outcome="not_found"} 0`) || !shows(`attempts_total{upstream="consumer",outcome="delivered"} 1`) {
			t.Error("so do those of what is there")
		}
		reload(sources)
		if !shows(requests+"0") || !shows(attempts+"0") {
			t.Error("what comes back does not begin at 0")
		}
	})
}

// A file that is valid, but not for what runs, is refused as loudly as one that is not valid: the admin port is open to others until the
// restart that moves it to loopback, so its tokens may not go before.
func TestAReloadThatCannotTakeEffectIsLogged(t *testing.T) {
	dir := t.TempDir()
	parse := func(admin string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("reloaded.yaml", fmt.Appendf(nil, "version: 1\nlisten: \"127.0.0.1:0\"\nadmin: %s\ndata_dir: %q\njournal: {min_free: 0}\n%s", admin, dir, sources), env)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	var log bytes.Buffer
	g, err := gateway.New(parse(`{listen: "0.0.0.0:0", tokens: [{name: ops, token: {env: TOKEN}, scopes: [admin]}]}`), gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil)),
		Load: func() (*config.Config, error) { return parse(`{listen: "127.0.0.1:9090"}`), nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	_, private := g.Addrs()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/livez", private.(*net.TCPAddr).Port)) // answered once it serves
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	_, refused := g.Reload(t.Context())
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if refused == nil || !strings.Contains(refused.Error(), "until the restart") {
		t.Errorf("reload: %v", refused)
	}
	if !strings.Contains(log.String(), `msg="configuration not reloaded: the old one stays"`) {
		t.Errorf("nothing of it in the log:\n%s", &log)
	}
}

// Ten minutes without a consumer, with a restart in the middle: senders are answered 202, nothing is lost, nothing comes twice.
func TestTenMinutesWithoutTheConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.must(b.Up())
		b.post("evt_before", 200, "delivered")
		b.Down()
		for i := range 30 {
			b.post(fmt.Sprint("evt_", i), 202, "accepted")
			time.Sleep(10 * time.Second)
		}
		b.must(b.Stop())
		b.must(b.Start(env))
		for i := range 30 {
			b.post(fmt.Sprint("evt_", i), 200, "duplicate")
			time.Sleep(10 * time.Second)
		}
		if got := b.state("evt_3"); got != "pending/breaker_open" {
			t.Errorf("during the outage it is %s", got)
		}
		b.must(b.Up())
		time.Sleep(2 * time.Minute)
		for i := range 30 {
			if got := b.state(fmt.Sprint("evt_", i)); got != "delivered/" {
				t.Errorf("evt_%d is %s", i, got)
			}
		}
		if n := len(b.Consumer.Seen()); n != 31 {
			t.Errorf("the consumer saw %d requests of 31 events", n)
		}
		b.must(b.Stop())
		b.Down()
	})
}

// A sender that does not end its request in time is cut off, and the gateway ends as it was told to. The process once exited with 9 for it.
func TestStopDoesNotWaitForASenderForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := hooktest.NewBubble(t.TempDir(), strings.Replace(sources, "path: /s\n", "path: /s\n    limits: {read_timeout: 1h}\n", 1), env)
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.Net.Dial(t.Context(), "tcp", hooktest.PublicAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("POST /s HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n{")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := b.Stop(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Where a sender's published keys cannot be had (no DNS, no way out), it is not known whether a request is genuine. That is no reason to tell
// its sender that it was forged: SNS gives up at any 4xx.
func TestAKeyThatCannotBeHadIsOurFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := hooktest.NewBubble(t.TempDir(), `
upstreams: {app: {url: "http://127.0.0.1:3000"}}
sources:
  s:
    path: /s
    provider: custom
    verify: {scheme: public_key, algorithm: ed25519, encoding: base64, header: X-Signature, signed: "{body}", key: key_id, key_from: "header:X-Key-Id", jwks: "https://keys..invalid/jwks.json"}
    identity: {id: "json:id"}
    upstream: app
`, env)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r := hooktest.Request{Header: http.Header{"X-Signature": {base64.StdEncoding.EncodeToString(make([]byte, 64))}, "X-Key-Id": {"k1"}}, Body: []byte(`{"id":"evt_1"}`)}
			status, head, err := b.Ask("/s", r)
			if err != nil || status != 503 || head.Get("Hooktender-Outcome") != "unavailable" || head.Get("Retry-After") == "" {
				t.Errorf("%d %v, %v", status, head, err)
			}
		}
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// A week of retention: a repeat within it is a duplicate, one after it is a new event, and the record is gone when its time has come.
func TestWeekOfRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.must(b.Up())
		b.post("evt_1", 200, "delivered")
		time.Sleep(167 * time.Hour)
		b.post("evt_1", 200, "duplicate")
		if got := b.state("evt_1"); got != "delivered/" {
			t.Errorf("within a week it is %s", got)
		}
		time.Sleep(2 * time.Hour)
		if got := b.state("evt_1"); got != "404" {
			t.Errorf("after a week it is %s", got)
		}
		b.post("evt_1", 200, "delivered")
		if n := len(b.Consumer.Seen()); n != 2 {
			t.Errorf("the consumer saw %d requests", n)
		}
		b.must(b.Stop())
		b.Down()
	})
}

// A drain before the pod goes: new events are refused, and what waits for a retry is tried at once, while the consumer still lives. A
// consumer that goes first uses up no attempts.
func TestDrainPushesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 5 {
			b.post(fmt.Sprint("evt_", i), 202, "accepted")
		}
		time.Sleep(3 * time.Minute) // the breaker probes every 30 s by now
		b.must(b.Up())
		before := time.Now()
		for path, want := range map[string]int{"/readyz": 200, "/startupz": 200, "/livez": 200} {
			if status, _, err := b.Admin(path); err != nil || status != want {
				t.Errorf("%s: %d %v", path, status, err)
			}
		}
		if status, body, err := b.AdminPost("/v1/drain", "{}"); err != nil || status != 202 {
			t.Fatalf("drain: %d %s %v", status, body, err)
		}
		b.post("evt_new", 503, "unavailable")
		for path, want := range map[string]int{"/readyz": 503, "/startupz": 200, "/livez": 200} {
			if status, _, err := b.Admin(path); err != nil || status != want {
				t.Errorf("draining, %s: %d %v", path, status, err)
			}
		}
		for i := range 5 {
			for b.state(fmt.Sprint("evt_", i)) != "delivered/" {
				if time.Since(before) > 5*time.Second {
					t.Fatalf("evt_%d is still %s", i, b.state(fmt.Sprint("evt_", i)))
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		b.must(b.Stop())
		b.Down()
	})
}

// Where the paths of several sources with {name} fit, a segment that is written out counts for more than one that is not, the first first.
func TestThePathThatSaysMoreIsMeant(t *testing.T) {
	const rest = `, provider: none, insecure: true, identity: {id: "json:id"}, upstream: "http://127.0.0.1:3000"}`
	synctest.Test(t, func(t *testing.T) {
		b := up(t, "sources:\n  a: {path: \"/{kind}/{id}\""+rest+"\n  b: {path: \"/{kind}/orders\""+rest+"\n  c: {path: \"/shop/{id}\""+rest+"\n  d: {path: /shop/7"+rest+"\n", env)
		for path, source := range map[string]string{"/x/1": "a", "/x/orders": "b", "/shop/1": "c", "/shop/orders": "c", "/shop/7": "d"} {
			id := strings.ReplaceAll(path, "/", "-")
			if status, _, err := b.Post(path, hooktest.Request{Body: []byte(`{"id":"` + id + `"}`)}); status != 200 || err != nil {
				t.Errorf("%s: %d %v", path, status, err)
			}
			if len(b.Consumer.Of(source, id)) != 1 {
				t.Errorf("%s: %s did not get it", path, source)
			}
		}
	})
}

// A {name} in a path takes no segment that a consumer would resolve to another path.
func TestANameInAPathDoesNotClimb(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, "sources:\n  a: {path: \"/shop/{id}/x\", provider: none, insecure: true, identity: {id: \"json:id\"}, upstream: \"http://127.0.0.1:3000\"}\n", env)
		for i, c := range []struct {
			segment string
			status  int
		}{
			{"..", 404}, {".", 404}, {"%2e%2E", 404}, {".%2e", 404}, {"..%2Fadmin", 404}, {"a%2f..%2f..%2fadmin", 404}, {"..%5cadmin", 404}, {"..;a=b", 404}, {"..%3b", 404},
			{"...", 200}, {"..a", 200}, {"a..", 200}, {"a%2Fb", 200}, {"a;b", 200}, {"1.2", 200}, {"%252e%252e", 200},
		} {
			path := "/shop/" + c.segment + "/x"
			if status, _, err := b.Post(path, hooktest.Request{Body: fmt.Appendf(nil, `{"id":"%d"}`, i)}); status != c.status || err != nil {
				t.Errorf("%s: %d %v", path, status, err)
			}
		}
	})
}
