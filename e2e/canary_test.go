package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/hooktest"
)

// raw sends bytes to the public port and gives what comes back.
func (g *gatewayProcess) raw(addr, request string) string {
	g.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.WriteString(conn, request)
	var b bytes.Buffer
	_, _ = io.Copy(&b, bufio.NewReader(conn))
	return b.String()
}

// Secrets in every header, query, body and config field appear in no log, no metric, no answer of the API that does not need the scope for
// payloads, and on no command's output.
func TestSecretsAppearNowhere(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	down := freeAddr(t)
	const canary = "CANARY-" // every secret begins so
	admin := fmt.Sprintf(", debug: true, tokens: [{name: ops, token: {value: %sadmin-token-0123456789}, scopes: [events:read, replay:write, replay:force, admin]}]", canary)
	text := fmt.Sprintf(`upstreams:
  app: {url: "http://%s", timeout: 3s}
  gone: {url: "http://%s/prefix", timeout: 1s}
sources:
%s%s  hub:
    path: /hub
    provider: meta
    secrets: [{value: %shub-secret-0123}]
    handshake: {verify_token: %sverify-token-0123}
    upstream: app
`, addr, down, source("s", refusing), source("d", "delivery: {mode: hybrid, upstream: gone, retry: {base: 10ms, max_attempts: 2, max_elapsed: 1s}}"), canary, canary)
	g := startGuarded(t, admin, text)
	g.kill()
	secretFile := filepath.Join(g.dir, "secret")
	if err := os.WriteFile(secretFile, []byte(canary+"signing-secret-0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(g.dir, "hooktender.yaml")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.ReplaceAll(good, []byte("{env: E2E_SECRET}"), fmt.Appendf(nil, "{file: %s}", secretFile))
	write := func(b []byte) {
		if err := os.WriteFile(config, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	g.logLevel = "debug"
	g.launch()

	var seen bytes.Buffer // all that came out
	sign := func(id string) hooktest.Request {
		body := fmt.Appendf(nil, `{"id":%q,"type":"x","resource":"r-%s","version":"1","card":"%sbody"}`, id, id, canary)
		r := hooktest.Custom(canary+"signing-secret-0123456789", body, time.Now())
		for _, h := range []string{"Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "X-Whatever", "User-Agent", "Referer", "X-Forwarded-For", "Hooktender-Replay", "Traceparent"} {
			r.Header.Set(h, canary+"header-"+h)
		}
		return r
	}
	for _, path := range []string{"/s?token=" + canary + "query", "/d?token=" + canary + "query", "/nowhere/" + canary + "path"} {
		for i := range 2 {
			status, outcome := g.post(t.Context(), path, sign(fmt.Sprintf("e%d", i)))
			fmt.Fprintln(&seen, status, outcome)
		}
		forged := sign("forged")
		forged.Header.Set("X-Signature", "sha256="+canary+"signature")
		g.post(t.Context(), path, forged)
	}
	for _, request := range []string{
		"POST /s?" + canary + "q HTTP/1.1\r\nHost: x\r\nAuthorization : " + canary + "h\r\n\r\n",
		"POST /s HTTP/1.1\r\nHost: " + canary + "host\r\nContent-Length: 5\r\nContent-Length: 6\r\nCookie: " + canary + "c\r\n\r\nhello",
		"GET /hub?hub.mode=subscribe&hub.challenge=1&hub.verify_token=" + canary + "wrong HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		canary + "method /s HTTP/1.1\r\nHost: x\r\n\r\n", "POST /s " + canary + "\r\n\r\n",
		"POST /s HTTP/1.1\r\nHost: x\r\nX-Long: " + canary + strings.Repeat("x", 20<<10) + "\r\n\r\n",
	} {
		seen.WriteString(g.raw(g.public, request))
		seen.WriteString(g.raw(g.admin, request))
	}
	c.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 500} })
	g.post(t.Context(), "/s", sign("fails"))

	bad := bytes.ReplaceAll(good, []byte("{value: "+canary+"hub"), []byte("{valeu: "+canary+"hub"))
	write(bad)
	p := func(method, path, body string, header ...string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.admin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+canary+"admin-token-0123456789")
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		fmt.Fprintln(&seen, method, resp.StatusCode)
		_ = resp.Header.Write(&seen)
		_, _ = io.Copy(&seen, resp.Body)
	}
	api, err := client.New("http://"+g.admin, canary+"admin-token-0123456789")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Event(t.Context(), "d", "e1", client.Wait{For: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	_ = followed(t, api)
	for _, path := range []string{"/v1/events", "/v1/events/e1?source=d", "/v1/events/e1/attempts?source=d", "/v1/events/e1/attempts?source=s", "/v1/events/e1/payload?source=s", "/v1/events/fails",
		"/v1/replays", "/v1/checkpoints", "/v1/sources", "/v1/upstreams", "/v1/whoami", "/metrics", "/v1/openapi.json", "/readyz", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2"} {
		p("GET", path, "")
		p("GET", path, "", "Authorization", "Bearer "+canary+"wrong-token")
		p("GET", path, "", "Origin", "https://"+canary+"origin.example")
	}
	p("POST", "/v1/config/reload", "")
	p("POST", "/v1/events/e1/replay?source=s", `{"`+canary+`field":1}`, "Idempotency-Key", canary+"key", "Authorization", "Bearer nobody")
	p("POST", "/v1/sources/s/pause", `{}`, "Idempotency-Key", canary+"key")
	for _, args := range [][]string{{"validate"}, {"doctor"}, {"config", "print"}, {"run"}} {
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--config", config, "--admin", "http://"+g.admin)...)
		cmd.Env = append(os.Environ(), "HOOKTENDER_TOKEN="+canary+"wrong-token-0123")
		out, _ := cmd.CombinedOutput()
		seen.Write(out)
	}
	write(good)
	for _, args := range [][]string{{"validate"}, {"doctor"}, {"config", "print"}, {"config", "print", "-o", "json"}, {"events", "list"}} {
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--config", config, "--admin", "http://"+g.admin)...)
		cmd.Env = append(os.Environ(), "HOOKTENDER_TOKEN="+canary+"admin-token-0123456789")
		out, _ := cmd.CombinedOutput()
		seen.Write(out)
	}
	g.kill()
	log, err := os.ReadFile(g.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(`"level":"DEBUG"`)) && !bytes.Contains(log, []byte(`"msg":"attempt"`)) {
		t.Errorf("the log says too little for this test to mean something:\n%.2000s", log)
	}
	for _, want := range []string{"did you mean", "secrets: [{…", "hooktender_requests_total", "GET 401", "Bad Request"} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("nothing of what came out holds %q: this test means less than it should", want)
		}
	}
	for name, out := range map[string][]byte{"the log": log, "an answer or an output": seen.Bytes()} {
		for line := range bytes.Lines(out) {
			if i := bytes.Index(line, []byte(canary)); i >= 0 {
				t.Errorf("%s: …%.300s", name, line[max(0, i-200):])
			}
		}
	}
}

// followed reads the stream for a moment, so that it is among what came out.
func followed(t *testing.T, c *client.Client) (last api.Event) {
	ctx := t.Context()
	_ = c.Stream(ctx, "", "1", func(ch client.Change) error {
		last = ch.Event
		return io.EOF
	})
	return last
}
