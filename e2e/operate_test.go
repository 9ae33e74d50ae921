package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// text is the whole configuration file with these sources.
func (g *gatewayProcess) text(sources string) string {
	return fmt.Sprintf("version: 1\nlisten: %q\nadmin: {listen: %q}\ndata_dir: %q\njournal: {min_free: 64MiB}\n%s", g.public, g.admin, filepath.Join(g.dir, "data"), sources)
}

func (g *gatewayProcess) file() string { return filepath.Join(g.dir, "hooktender.yaml") }

func (g *gatewayProcess) write(path, text string) {
	g.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// call calls the admin port.
func (g *gatewayProcess) call(method, path, body string) answer {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.admin+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := g.client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return answer{resp.StatusCode, resp.Header, b.String()}
}

// A reload by a changed file, a swapped symlink, SIGHUP and the API; all of it takes effect, an invalid file changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	_, addr := consumer(t)
	deliver := "delivery: {mode: hybrid, upstream: app}\n    "
	one, two := sources(addr, source("one", deliver)), sources(addr, source("one", deliver)+source("two", deliver))
	g := startGateway(t, one)
	reloads := func() float64 { return g.series()[`hooktender_config_reloads_total{result="success"}`] }
	g.want("at start", g.ask("/two", custom("a", "", "")), 404, "")

	g.write(g.file(), g.text(two))
	g.await("a changed file", 30*time.Second, func() bool { return g.ask("/two", custom("a", "", "")).status == 200 })

	v1, v2, link := filepath.Join(g.dir, "v1"), filepath.Join(g.dir, "v2"), filepath.Join(g.dir, "link") // as a kubelet swaps a mounted ConfigMap
	for dir, text := range map[string]string{v1: g.text(two), v2: g.text(one)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		g.write(filepath.Join(dir, "hooktender.yaml"), text)
	}
	swap := func(target string) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, link+".new"), os.Rename(link+".new", link)); err != nil {
			t.Fatal(err)
		}
	}
	swap(v1)
	if err := errors.Join(os.Symlink(filepath.Join(link, "hooktender.yaml"), g.file()+".new"), os.Rename(g.file()+".new", g.file())); err != nil {
		t.Fatal(err)
	}
	g.await("the file became a link", 30*time.Second, func() bool { return reloads() == 2 })
	swap(v2)
	g.await("a swapped link", 30*time.Second, func() bool { return g.ask("/two", custom("a", "", "")).status == 404 && reloads() == 3 })

	_ = g.cmd.Process.Signal(syscall.SIGHUP)
	g.await("SIGHUP", 30*time.Second, func() bool { return reloads() == 4 })

	known := custom("known", "", "")
	g.want("first", g.ask("/one", known), 200, "delivered")
	tries := 0
	for changed := false; !changed; { // on a busy machine the watch of the file is quicker now and then: the call finds nothing changed
		if tries++; tries > 20 {
			t.Fatal("the API changes nothing")
		}
		next := strings.Replace(g.text(fmt.Sprintf("retention: {dedup: %dms, payload: 1s}\n", 999+tries)+one), "admin: {", "admin: {debug: true, ", 1)
		g.write(filepath.Join(v2, "hooktender.yaml"), strings.Replace(next, deliver, deliver+"limits: {body: 200}\n    respond: {rejected: 400}\n", 1))
		a := g.call("POST", "/v1/config/reload", "{}")
		if changed = strings.Contains(a.body, `"retention.dedup"`); a.status != 200 {
			t.Fatalf("reload: %+v", a)
		}
	}
	g.want("a limit", g.ask("/one", custom(strings.Repeat("x", 250), "", "")), 413, "")
	g.want("an answer", g.ask("/one", hooktest.Custom("wrong", []byte("{}"), time.Now())), 400, "rejected")
	if a := g.call("GET", "/debug/pprof/cmdline", ""); a.status != 200 {
		t.Errorf("admin.debug: %d", a.status)
	}
	g.await("a shorter dedup window", 30*time.Second, func() bool { return g.ask("/one", known).outcome() == "delivered" })

	g.write(filepath.Join(v2, "hooktender.yaml"), g.text("listn: 1\n"+two))
	if a := g.call("POST", "/v1/config/reload", "{}"); a.status != 422 || !strings.Contains(a.body, "listn") {
		t.Errorf("an invalid file: %+v", a)
	}
	g.want("the old configuration stays", g.ask("/one", custom("b", "", "")), 200, "delivered")
	if n := reloads(); tries == 1 && n != 5 {
		t.Errorf("%v reloads, want 5", n)
	}
}

// What may not start is refused with 3, the place, and nothing on disk; no secret is shown.
func TestConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	const hidden = "tell-nobody-0123456789"
	for _, r := range []struct{ name, from, to, says string }{
		{"an unknown key", "listen:", "lisden:", `:2:1: lisden: unknown key`},
		{"a provider that nobody knows", "provider: custom", "provider: stipe", `did you mean "stripe"?`},
		{"an open admin port", "127.0.0.1:9090", "0.0.0.0:9090", "there are no tokens"},
		{"a short token", "{listen: 127.0.0.1:9090}", "{tokens: [{name: a, token: {value: tell-nobody-012}, scopes: [admin]}]}", "at least 16 bytes"},
		{"a padded secret", "{env: E2E_SECRET}", `"tell-nobody-0123456789 "`, "white space"},
		{"a secret that is not there", "{env: E2E_SECRET}", "{env: NOT_THERE}", "NOT_THERE is not set"},
		{"a variable that is not there", "path: /s", "path: /${env:NOT_THERE}", "NOT_THERE is not set"},
		{"two upstreams", "delivery: {upstream", "upstream: http://b\n    delivery: {upstream", "upstream is short for delivery.upstream"},
		{"no upstream", "delivery: {upstream: http://127.0.0.1:1}", "delivery: {mode: store}", "give a URL or a name under upstreams"},
		{"a timestamp that nobody sends", `, timestamp: "header:X-Timestamp"`, "", "nothing says where it is"},
		{"an order without a version", `, version: "json:version"}`, "}\n    ordering: {policy: window}", "window needs identity.version"},
		{"insecure by accident", "provider: custom", "provider: custom\n    insecure: true", "only beside provider: none"},
		{"little memory", "listen:", "journal: {memory: 15MiB}\nlisten:", "at least 16MiB"},
		{"a URL that is signed and not known", "provider: custom", "provider: twilio", "public_url is needed"},
	} {
		dir := t.TempDir()
		text := "version: 1\nlisten: \":0\"\nadmin: {listen: 127.0.0.1:9090}\nsources:\n" + source("s", "delivery: {upstream: http://127.0.0.1:1}")
		if r.name == "a URL that is signed and not known" {
			text = regexp.MustCompile(`(?m)^    (verify|identity):.*\n`).ReplaceAllString(text, "")
		}
		if err := os.WriteFile(filepath.Join(dir, "hooktender.yaml"), []byte(strings.Replace(text, r.from, r.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"validate", "run"} {
			cmd := exec.CommandContext(t.Context(), binary, command)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "E2E_SECRET="+hidden)
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != 3 || !strings.Contains(string(out), r.says) || !regexp.MustCompile(`hooktender\.yaml:\d+:\d+: `).Match(out) {
				t.Errorf("%s: %s: %v, want exit 3, a place and %q in\n%s", r.name, command, err, r.says, out)
			}
			if bytes.Contains(out, []byte("tell-nobody")) {
				t.Errorf("%s: a secret is shown:\n%s", r.name, out)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%s: left behind %v", r.name, left)
		}
	}
}

// The crash points of SPEC §1 in each mode: nothing acknowledged is lost, what may have arrived is marked, and a sender's retry is a duplicate.
func TestCrashPoints(t *testing.T) {
	for _, mode := range []string{"proxy", "hybrid", "store"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c, addr := consumer(t)
			p := planned(c)
			g := startGateway(t, fmt.Sprintf("upstreams: {app: {url: \"http://%s\", timeout: 1m, breaker: {failures: 100000}}}\nsources:\n%s", addr, source("s", "delivery: {mode: "+mode+", upstream: app, retry: {base: 1s, factor: 1, jitter: none}}")))
			sent := custom("sent", "", "")
			p.on("sent", hooktest.Answer{Delay: time.Minute}, hooktest.Answer{})
			gone := make(chan struct{})
			go func() { defer close(gone); g.ask("/s", sent) }()
			g.await("the bytes are out", 20*time.Second, func() bool { return len(c.Of("s", "sent")) == 1 })
			done := custom("done", "", "")
			g.ask("/s", done)
			g.becomes("s", "done", "delivered/")
			g.kill()
			<-gone
			queued := custom("queued", "", "")
			if mode != "proxy" {
				c.Close()
			}
			g.launch()
			if mode != "proxy" {
				g.want(mode+": no byte sent", g.ask("/s", queued), 202, "accepted")
				g.becomes("s", "queued", "pending/retrying") // no attempt is under way
				g.kill()
				if _, err := c.Listen(""); err != nil {
					t.Fatal(err)
				}
				g.launch()
				g.becomes("s", "queued", "delivered/")
				g.want(mode+": queued, again", g.ask("/s", queued), 200, "duplicate")
			}
			g.becomes("s", "sent", "delivered/")
			g.want(mode+": sent, again", g.ask("/s", sent), 200, "duplicate")
			g.want(mode+": done, again", g.ask("/s", done), 200, "duplicate")
			l := c.Of("s", "sent")
			if last := l[len(l)-1].Header; len(l) != 2 || last.Get("Hooktender-Redelivered") != "possible" || last.Get("Idempotency-Key") != l[0].Header.Get("Idempotency-Key") {
				t.Errorf("%s: bytes out, outcome unknown: %d requests, the last %v", mode, len(l), last)
			}
			for _, id := range []string{"done", "queued"} {
				if l := c.Of("s", id); len(l) > 1 || id == "done" && len(l) == 0 || len(l) == 1 && l[0].Header.Get("Hooktender-Redelivered") != "" {
					t.Errorf("%s: %s arrived %d times", mode, id, len(l))
				}
			}
		})
	}
}

// Refusals and replays of one event are counted, every event has one line in the log and every attempt one; payloads, secrets and ids stay where they belong.
func TestWhatCanBeSeen(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	p := planned(c)
	g := prepareGateway(t, sources(addr, source("s", "limits: {body: 1KiB, read_timeout: 200ms}\n    delivery: {mode: hybrid, upstream: app, "+quick+"}")), "info")
	g.launch()
	const payload = "for-nobody-but-the-consumer"
	event := func(id string) hooktest.Request { return signed(fmt.Sprintf(`{"id":%q,"note":%q}`, id, payload)) }
	p.on("evt_2", hooktest.Answer{Status: 503, Body: payload}, hooktest.Answer{})
	p.on("evt_3", hooktest.Answer{Status: 404, Body: payload})
	for _, r := range []struct {
		path string
		req  hooktest.Request
	}{{"/s", event("evt_1")}, {"/s", event("evt_1")}, {"/s", event("evt_2")}, {"/s", event("evt_3")}, {"/s", hooktest.Custom("wrong", []byte(payload), time.Now())}, {"/s", signed(`{"x":"` + payload + `"}`)},
		{"/nowhere", event("evt_4")}, {"/s", signed(strings.Repeat("x", 1025))}} {
		g.ask(r.path, r.req)
	}
	if conn, err := net.Dial("tcp", g.public); err != nil {
		t.Fatal(err)
	} else {
		fmt.Fprintf(conn, "POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12")
		_, _ = conn.Read(make([]byte, 1024))
		_ = conn.Close()
	}
	g.becomes("s", "evt_2", "delivered/")
	g.call("POST", "/v1/events/evt_1/replay?source=s", `{"force":true,"reason":"test"}`)
	g.becomes("s", "evt_1", "replayed/")
	g.call("POST", "/v1/events/evt_2/replay?source=s", `{}`)
	counted := map[string]float64{
		`requests_total{outcome="not_found",source=""}`: 1, `requests_total{outcome="too_large",source="s"}`: 1, `requests_total{outcome="timeout",source="s"}`: 1,
		`replay_events_total{result="replayed"}`: 1, `replay_events_total{result="skipped"}`: 1,
	}
	var raw []byte
	g.settles(func() (wrong []string) {
		got := g.series()
		for name, want := range counted {
			if v, ok := got["hooktender_"+name]; !ok || v != want {
				wrong = append(wrong, fmt.Sprintf("%s is %v (there: %t), want %v", name, v, ok, want))
			}
		}
		var err error
		if raw, err = os.ReadFile(g.stderr.Name()); err != nil {
			t.Fatal(err)
		}
		lines := map[string]int{}
		for line := range bytes.Lines(raw) {
			var l struct {
				Msg     string
				EventID string `json:"event_id"`
			}
			if err := json.Unmarshal(line, &l); err != nil {
				wrong = append(wrong, fmt.Sprintf("no JSON: %s", line))
			}
			lines[l.Msg+" "+l.EventID]++
		}
		for line, want := range map[string]int{"event evt_1": 1, "event evt_2": 1, "event evt_3": 1, "attempt evt_1": 2, "attempt evt_2": 2, "attempt evt_3": 1, "event evt_4": 0} {
			if lines[line] != want {
				wrong = append(wrong, fmt.Sprintf("%d lines of %s, want %d", lines[line], line, want))
			}
		}
		return wrong
	})
	for _, hidden := range []string{payload, secret} {
		if bytes.Contains(raw, []byte(hidden)) || strings.Contains(g.call("GET", "/metrics", "").body, hidden) {
			t.Errorf("%q is shown", hidden)
		}
	}
}

// Signals that come before the gateway is ready: SIGHUP does not end it, SIGTERM ends it with 0.
func TestSignalsDuringTheStart(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		g := prepareGateway(t, sources("127.0.0.1:1", source("s", "delivery: {mode: store, upstream: app}")), "warn")
		cmd := exec.CommandContext(t.Context(), binary, "run", "--config", g.file())
		cmd.Env = append(os.Environ(), "E2E_SECRET="+secret)
		log, err := cmd.StderrPipe()
		if err := errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		first, err := bufio.NewReader(log).ReadString('\n') // about its configuration; the journal is not open yet
		if err != nil || !strings.Contains(first, "no tokens") {
			t.Fatalf("%q %v", first, err)
		}
		_ = cmd.Process.Signal(sig)
		if sig == syscall.SIGHUP {
			g.await("ready after SIGHUP", 15*time.Second, func() bool {
				resp, err := g.client.Get("http://" + g.admin + "/readyz")
				return err == nil && resp.Body.Close() == nil && resp.StatusCode == 200
			})
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", sig, err)
		}
	}
}

// What is pending of a source that a reload takes out goes to the old upstream, though the upstream's name means another one now.
func TestASourceThatIsTakenOut(t *testing.T) {
	t.Parallel()
	old, oldAddr := consumer(t)
	other, otherAddr := consumer(t)
	old.Close()
	stays := source("stays", "delivery: {mode: hybrid, upstream: app}")
	g := startGateway(t, sources(oldAddr, stays+source("goes", "delivery: {mode: store, upstream: app, "+quick+"}")))
	g.want("pending", g.ask("/goes", custom("evt_1", "", "")), 202, "accepted")
	g.write(g.file(), g.text(sources(otherAddr, stays)))
	if a := g.call("POST", "/v1/config/reload", "{}"); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	g.want("a new request", g.ask("/goes", custom("evt_2", "", "")), 404, "")
	g.want("another source", g.ask("/stays", custom("evt_3", "", "")), 200, "delivered")
	if _, err := old.Listen(""); err != nil {
		t.Fatal(err)
	}
	g.becomes("goes", "evt_1", "delivered/")
	if len(old.Of("goes", "evt_1")) != 1 || len(other.Seen()) != 1 {
		t.Errorf("the old consumer saw %d, the other %d", len(old.Seen()), len(other.Seen()))
	}
}

// Whoever reads the gateway's log may end first: events are taken all the same.
func TestTheReaderOfTheLogGoes(t *testing.T) {
	_, addr := consumer(t)
	g := prepareGateway(t, sources(addr, source("s", refusing)), "info")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g.stderr = w // closed with the test
	g.launch()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		g.send("s", fmt.Sprint("evt_", i), "", "1", "delivered")
	}
}
