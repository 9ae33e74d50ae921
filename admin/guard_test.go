package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/internal/admintest"
)

func tokens(o *admin.Options) {
	o.Tokens = []admin.Token{
		{Name: "ops", Hash: admin.HashToken([]byte("ops-token-0123456789")), Scopes: api.Scopes},
		{Name: "reader", Hash: admin.HashToken([]byte("reader-token-01234567")), Scopes: []string{api.ScopeEventsRead}},
		{Name: "replayer", Hash: admin.HashToken([]byte("replayer-token-012345")), Scopes: []string{api.ScopeReplayWrite}},
	}
}

func TestScopesOfEveryRoute(t *testing.T) {
	p := start(t, tokens)
	p.Receive(t, "stripe", "evt_1", nil)
	for _, c := range []struct {
		method, path, scope string
	}{
		{"GET", "/v1/events", "events:read"}, {"GET", "/v1/events/evt_1", "events:read"}, {"GET", "/v1/events/evt_1/attempts", "events:read"},
		{"GET", "/v1/events/evt_1/payload", "payloads:read"}, {"POST", "/v1/events/evt_1/replay", "replay:write"}, {"POST", "/v1/events/evt_1/resolve", "replay:write"},
		{"POST", "/v1/events/evt_1/discard", "replay:write"}, {"POST", "/v1/replays", "replay:write"}, {"GET", "/v1/replays", "events:read"},
		{"GET", "/v1/replays/x", "events:read"}, {"POST", "/v1/replays/x/cancel", "replay:write"}, {"GET", "/v1/checkpoints", "events:read"},
		{"GET", "/v1/resources/stripe/x", "events:read"}, {"GET", "/v1/sources", "events:read"}, {"GET", "/v1/upstreams", "events:read"},
		{"POST", "/v1/sources/stripe/pause", "admin"}, {"POST", "/v1/sources/stripe/resume", "admin"}, {"GET", "/v1/stream", "events:read"},
		{"GET", "/v1/whoami", ""}, {"POST", "/v1/config/reload", "admin"}, {"POST", "/v1/drain", "admin"},
	} {
		p.token = ""
		if a := p.want(401, c.method, c.path, ""); !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: no WWW-Authenticate", c.path)
		}
		for token, scope := range map[string]string{"reader-token-01234567": "events:read", "replayer-token-012345": "replay:write"} {
			p.token = token
			if c.path == "/v1/stream" && scope == c.scope {
				continue
			}
			got := p.do(c.method, c.path, "")
			if allowed := c.scope == "" || c.scope == scope; allowed == (got.status == 403) {
				t.Errorf("%s %s with %s: %d", c.method, c.path, scope, got.status)
			}
		}
		if said := p.contract.Scope(c.method, c.path); said != c.scope {
			t.Errorf("%s %s: the description says scope %q, want %q", c.method, c.path, said, c.scope)
		}
	}
	for _, open := range []string{"/livez", "/startupz", "/readyz", "/v1/openapi.json"} {
		p.token = ""
		p.want(200, "GET", open, "")
	}
}

func TestForceNeedsItsOwnScope(t *testing.T) {
	p := start(t, tokens)
	p.Receive(t, "stripe", "evt_1", nil)
	p.token = "replayer-token-012345"
	p.want(200, "POST", "/v1/events/evt_1/replay", `{}`)
	p.want(403, "POST", "/v1/events/evt_1/replay", `{"force":true,"reason":"x"}`)
	p.want(403, "POST", "/v1/replays", `{"filter":{},"force":true,"reason":"x"}`)
	p.token = "ops-token-0123456789"
	p.want(202, "POST", "/v1/events/evt_1/replay", `{"force":true,"reason":"x"}`)
}

func TestFailedLoginsAreLimitedAndNobodyIsLockedOut(t *testing.T) {
	p := start(t, tokens)
	p.token = "wrong"
	began, limited := time.Now(), 0
	for range 130 {
		switch a := p.do("GET", "/v1/whoami", ""); a.status {
		case 401:
		case 429:
			limited++
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		default:
			t.Fatalf("status %d", a.status)
		}
	}
	if least := 30 - int(time.Since(began)/(6*time.Second)); limited < least || limited > 30 { // every six seconds one more is heard
		t.Errorf("%d of 130 wrong logins were limited, want 30", limited)
	}
	p.token = "reader-token-01234567"
	if got := p.want(200, "GET", "/v1/whoami", ""); got.at("name") != "reader" {
		t.Errorf("%s", got.body)
	}
}

func TestTokensChangeOnReload(t *testing.T) {
	p := start(t, tokens)
	p.token = "reader-token-01234567"
	p.want(200, "GET", "/v1/whoami", "")
	p.want(200, "GET", "/v1/whoami", "", "Authorization", "bearer "+p.token)
	p.want(401, "GET", "/v1/whoami", "", "Authorization", "Basic "+p.token)
	if err := p.Server.SetTokens([]admin.Token{{Name: "new", Hash: admin.HashToken([]byte("new-token-0123456789")), Scopes: []string{api.ScopeAdmin}}}); err != nil {
		t.Fatal(err)
	}
	p.want(401, "GET", "/v1/whoami", "")
	if err := p.Server.SetTokens([]admin.Token{{Name: "x", Scopes: []string{"root"}}}); err == nil {
		t.Error("an unknown scope was taken")
	}
}

func TestOpenLoopbackIsLocalWithAllScopes(t *testing.T) {
	p := start(t, nil)
	if got := p.want(200, "GET", "/v1/whoami", ""); got.at("name") != "local" || len(got.at("scopes").([]any)) != 5 {
		t.Errorf("%s", got.body)
	}
}

func TestAListenerBeyondLoopbackNeedsTokens(t *testing.T) {
	p := start(t, nil)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := p.Server.Serve(context.Background(), l); !errors.Is(err, admin.ErrOpen) {
		t.Errorf("got %v", err)
	}
}

func TestHostsAndOrigins(t *testing.T) {
	p := start(t, func(o *admin.Options) { o.AllowedHosts = []string{"gw.internal:9090", "0.0.0.0"} })
	host := strings.TrimPrefix(p.URL, "http://")
	for _, c := range []struct {
		status int
		header []string
	}{
		{200, nil},
		{200, []string{"Host", "localhost:9090"}}, {200, []string{"Host", "LOCALHOST"}}, {200, []string{"Host", "127.0.0.1"}}, {200, []string{"Host", "[::1]:9090"}},
		{200, []string{"Host", "gw.internal"}}, {200, []string{"Host", "127.9.9.9:1"}},
		{403, []string{"Host", "evil.example"}}, {403, []string{"Host", "localhost.evil.example"}}, {403, []string{"Host", "10.1.2.3"}}, {403, []string{"Host", "0.0.0.0"}},
		{200, []string{"Sec-Fetch-Site", "same-origin"}}, {200, []string{"Sec-Fetch-Site", "none"}}, {200, []string{"Origin", "http://" + host}},
		{403, []string{"Sec-Fetch-Site", "cross-site"}}, {403, []string{"Sec-Fetch-Site", "same-site"}}, {403, []string{"Origin", "http://evil.example"}},
		{403, []string{"Origin", "null"}}, {403, []string{"Origin", "http://localhost:1"}},
	} {
		p.want(c.status, "GET", "/v1/whoami", "", c.header...)
		p.want(c.status, "GET", "/readyz", "", c.header...)
	}
}

// HAProxy's checks are HTTP/1.0 without a Host, which no browser sends: they were told 403.
func TestAProbeWithoutAHostIsAnswered(t *testing.T) {
	host := strings.TrimPrefix(start(t, nil).URL, "http://")
	for head, want := range map[string]string{
		"GET /readyz HTTP/1.0\r\n\r\n":                       "HTTP/1.0 200",
		"GET /readyz HTTP/1.0\r\nHost: evil.example\r\n\r\n": "HTTP/1.0 403",
		"GET /readyz HTTP/1.1\r\nHost:\r\n\r\n":              "HTTP/1.1 403",
	} {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		status := make([]byte, len(want))
		if _, err = c.Write([]byte(head)); err == nil {
			_, err = io.ReadFull(c, status)
		}
		if err != nil || string(status) != want {
			t.Errorf("%q: %s, %v; want %s", head, status, err, want)
		}
	}
}

func TestMutationsAreJSONOnly(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", admintest.Dead)
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json;charset=utf-16", "json"} {
		p.want(415, "POST", "/v1/events/evt_1/replay", `{}`, "Content-Type", kind)
		p.want(415, "POST", "/v1/drain", ``, "Content-Type", kind)
	}
	p.want(202, "POST", "/v1/events/evt_1/replay", `{}`, "Content-Type", "Application/JSON; charset=UTF-8")
}

func TestUnknownPathsAndMethods(t *testing.T) {
	p := start(t, nil)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/events/", "/v1//events", "/v1/events/x/y", "/v1/events/../sources", "/debug/pprof/", "/V1/events"} {
		p.want(404, "GET", path, "")
	}
	for path, allow := range map[string]string{"/v1/events": "GET, HEAD", "/v1/replays": "GET, HEAD, POST", "/v1/drain": "POST"} {
		if a := p.want(405, http.MethodDelete, path, ""); a.header.Get("Allow") != allow {
			t.Errorf("%s: Allow %q", path, a.header.Get("Allow"))
		}
	}
	p.want(405, "GET", "/v1/drain", "")
	p.want(200, "HEAD", "/v1/events", "")
}
