package gateway_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/provider"
)

const corpusTime = 1760000000

// until waits, inside a bubble, for a time.
func until(unix int64) {
	if d := time.Until(time.Unix(unix, 0)); d > 0 {
		time.Sleep(d)
	}
}

// readCorpus reads a file of vectors.
func readCorpus[T any](t *testing.T, name string) []T {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var list []T
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

type handshake struct {
	Provider, Name string
	Request        provider.Vector
	Secrets        []string
	Config         map[string]any
	Forwarded      bool
	Expect         struct {
		Status  int
		Headers map[string]string
		Body    any
	}
}

// Every challenge of the corpus, sent to a gateway whose sources are a preset's name, secrets and what its challenge needs: answered as the
// sender wants it, and never forwarded.
func TestEveryChallengeThroughTheGateway(t *testing.T) {
	vectors := map[string]provider.Vector{}
	for _, v := range readCorpus[provider.Vector](t, "../verify/testdata/vectors.json") {
		vectors[v.Provider+"/"+v.Name] = v
	}
	list := readCorpus[handshake](t, "../provider/testdata/handshakes.json")
	synctest.Test(t, func(t *testing.T) {
		until(corpusTime)
		var sources strings.Builder
		var all []sent
		for i, h := range list {
			v := h.Request
			v.Provider, v.Name, v.Secrets, v.Config = h.Provider, h.Name, h.Secrets, nil
			switch h.Provider {
			case "aws-sns":
				v = vectors["aws-sns/"+h.Name]
			case "discord":
				v.PublicKey = vectors["discord/valid"].PublicKey
			}
			s, err := asSource(&v)
			if err != nil {
				t.Fatal(err)
			}
			config, _ := json.Marshal(h.Config)
			path := s.path
			if slices.ContainsFunc(all, func(x sent) bool { return x.path == path }) { // the second challenge of a sender has the first's source
				all = append(all, s)
				continue
			}
			all = append(all, s)
			text := strings.Replace(s.source, "handshake: {}", "handshake: "+string(config), 1)
			text = strings.Replace(text, "    methods: ["+v.Method+"]\n", "", 1)
			if strings.Contains(text, "aws-sns") {
				text = strings.Replace(text, "handshake: null", "handshake: {}", 1)
			}
			sources.WriteString(strings.Replace(text, "  s:\n", fmt.Sprintf("  s%d:\n", i), 1))
		}
		b, err := hooktest.NewBubble(t.TempDir(), "public_url: https://hooks.example.com\nupstreams: {app: {url: \"http://127.0.0.1:3000\"}}\nsources:\n"+sources.String(), env)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		for i, h := range list {
			before := len(b.Consumer.Seen())
			resp, body, err := sendFor(b, all[i].Method, all[i].raw(t))
			if err != nil {
				t.Errorf("%s/%s: %v", h.Provider, h.Name, err)
				continue
			}
			if came := len(b.Consumer.Seen()) - before; came > 0 != h.Forwarded || resp.StatusCode != h.Expect.Status {
				t.Errorf("%s/%s: %d, the consumer saw %d", h.Provider, h.Name, resp.StatusCode, came)
			}
			for k, want := range h.Expect.Headers {
				if got := resp.Header.Values(k); len(got) != 1 || got[0] != want {
					t.Errorf("%s/%s: %s is %q, want %q", h.Provider, h.Name, k, got, want)
				}
			}
			switch want := h.Expect.Body.(type) {
			case string:
				if body != want {
					t.Errorf("%s/%s: %q, want %q", h.Provider, h.Name, body, want)
				}
			case map[string]any:
				var got map[string]any
				if json.Unmarshal([]byte(body), &got) != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s/%s: %q, want %v", h.Provider, h.Name, body, slices.Sorted(maps.Keys(want)))
				}
			}
		}
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
		b.Down()
	})
}

const enrolling = `
upstreams: {app: {url: "http://127.0.0.1:3000"}}
sources:
  asana: {path: /asana, provider: asana, upstream: app}
  notion: {path: /notion, provider: notion, upstream: app}
  taken: {path: /taken, provider: asana, upstream: app, secrets: [{env: SECRET}]}
  github: {path: /github, provider: github, upstream: app, secrets: [{env: SECRET}]}
`

func hexMAC(secret, body string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil))
}

// Asana and Notion deliver their secret in the first request. It is taken in a window that an operator opened, once, and holds after a restart.
func TestASenderDeliversItsSecretOnlyWhenItIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b, err := hooktest.NewBubble(dir, enrolling, env)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		refused := `{"type":"about:blank","title":"signature verification failed","status":401}` + "\n"
		post := func(path string, want int, head, body string) string {
			t.Helper()
			raw := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), head, body)
			resp, said, err := send(b, []byte(raw))
			if err != nil || resp.StatusCode != want {
				t.Fatalf("%s %q: %v %v, want %d", path, head, resp, err, want)
			}
			if outcome := resp.Header.Get("Hooktender-Outcome"); want == 401 && (outcome != "rejected" || said != refused) {
				t.Fatalf("%s %q: outcome %q, body %q: not like every other 401", path, head, outcome, said)
			}
			return resp.Header.Get("X-Hook-Secret")
		}
		enroll := func(source string, want int, body string) {
			t.Helper()
			if status, answer, err := b.AdminPost("/v1/sources/"+source+"/enroll", body); err != nil || status != want {
				t.Fatalf("enroll %s: %d %s %v, want %d", source, status, answer, err, want)
			}
		}
		first, second := "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
		event := `{"events":[{"action":"changed","resource":{"gid":"1"}}]}`
		signed := func(secret string) string { return "X-Hook-Signature: " + hexMAC(secret, event) + "\r\n" }

		post("/asana", 401, "X-Hook-Secret: "+first+"\r\n", "{}") // nobody waits
		post("/asana", 401, signed(first), event)
		for source, want := range map[string]int{"none": 404, "github": 409, "taken": 409} {
			enroll(source, want, "{}")
		}
		enroll("asana", 422, `{"for":"25h"}`)
		enroll("asana", 200, `{"for":"1m"}`)
		time.Sleep(61 * time.Second)
		post("/asana", 401, "X-Hook-Secret: "+first+"\r\n", "{}") // too late
		enroll("asana", 200, `{"for":"1m","reason":"a webhook for the new project"}`)
		post("/asana", 401, "X-Hook-Secret: short\r\n", "{}")
		if got := post("/asana", 200, "X-Hook-Secret: "+first+"\r\n", "{}"); got != first {
			t.Fatalf("the answer echoes %q", got)
		}
		post("/asana", 200, signed(first), event) // at once
		post("/asana", 401, "X-Hook-Secret: "+second+"\r\n", "{}")
		post("/asana", 401, signed(second), event)
		enroll("asana", 409, "{}")
		post("/taken", 401, "X-Hook-Secret: "+second+"\r\n", "{}")

		enroll("notion", 200, "")
		token := "secret_notion_0123456789"
		post("/notion", 200, "", `{"verification_token":"`+token+`"}`)
		page := `{"id":"n1","type":"page.created","entity":{"id":"p"},"timestamp":"2025-10-09T08:53:20Z"}`
		post("/notion", 200, "X-Notion-Signature: sha256="+hexMAC(token, page)+"\r\n", page)

		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "enrolled", "asana")); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v %v", info, err)
		}
		if err := b.Start(env); err != nil {
			t.Fatal(err)
		}
		other := `{"events":[{"action":"deleted","resource":{"gid":"1"}}]}`
		post("/asana", 200, "X-Hook-Signature: "+hexMAC(first, other)+"\r\n", other)
		if n := len(b.Consumer.Seen()); n != 3 {
			t.Errorf("the consumer saw %d", n)
		}
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
		b.Down()
	})
}

// Anybody can deliver a secret that nobody waits for, as fast as the network takes it, and each time was a line of the log.
func TestSecretsThatNobodyWaitsForWriteFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		b, err := hooktest.NewBubble(t.TempDir(), enrolling, env, func(o *gateway.Options) { o.Log = slog.New(slog.NewTextHandler(&said, nil)) })
		if err != nil {
			t.Fatal(err)
		}
		deliver := func(path string, times int) {
			t.Helper()
			for range times {
				raw := "POST " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\nX-Hook-Secret: 0123456789abcdef\r\n\r\n"
				if resp, _, err := send(b, []byte(raw)); err != nil || resp.StatusCode != 401 {
					t.Fatalf("%v %v", resp, err)
				}
			}
		}
		deliver("/asana", 100)
		deliver("/notion", 1) // a source has lines of its own
		time.Sleep(time.Minute)
		deliver("/asana", 1)
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
		b.Down()
		for text, want := range map[string]int{"not taken": 22, "source=notion": 1, "left_out=80": 1} {
			if n := strings.Count(said.String(), text); n != want {
				t.Errorf("%q is there %d times, want %d", text, n, want)
			}
		}
	})
}

// A subscription to a topic of ours is confirmed by the gateway itself where that is configured; what others sign is not.
func TestSNSIsConfirmedWhereThatIsConfigured(t *testing.T) {
	var confirm provider.Vector
	for _, v := range readCorpus[provider.Vector](t, "../verify/testdata/vectors.json") {
		if v.Provider == "aws-sns" && v.Name == "subscription-confirmation" {
			confirm = v
		}
	}
	for _, tt := range []struct {
		name, handshake, topic string
		fails                  bool
		status, visits         int
	}{
		{"on", `{auto_confirm: "true"}`, confirm.Secrets[0], false, 200, 1},
		{"on, and Amazon does not answer", `{auto_confirm: "true"}`, confirm.Secrets[0], true, 503, 1},
		{"off", `{}`, confirm.Secrets[0], false, 200, 0},
		{"another topic", `{auto_confirm: "true"}`, "arn:aws:sns:us-east-1:123456789012:Other", false, 401, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				until(confirm.Now)
				v := confirm
				v.Secrets = []string{tt.topic}
				s, err := asSource(&v)
				if err != nil {
					t.Fatal(err)
				}
				var visited []string
				b, err := hooktest.NewBubble(t.TempDir(), "upstreams: {app: {url: \"http://127.0.0.1:3000\"}}\nsources:\n"+strings.Replace(s.source, "handshake: {}", "handshake: "+tt.handshake, 1), env,
					func(o *gateway.Options) {
						o.Visit = func(address string) error {
							visited = append(visited, address)
							if tt.fails {
								return errors.New("no answer")
							}
							return nil
						}
					})
				if err != nil {
					t.Fatal(err)
				}
				resp, _, err := send(b, s.raw(t))
				if err != nil || resp.StatusCode != tt.status || len(visited) != tt.visits {
					t.Errorf("%v %v, visited %q", resp, err, visited)
				}
				if again, outcome := resp.Header.Get("Retry-After"), resp.Header.Get("Hooktender-Outcome"); tt.fails && (again != "5" || outcome != "unavailable") {
					t.Errorf("Retry-After %q, outcome %q: not like every other 503", again, outcome)
				}
				if err := b.Stop(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

const guarded = `
upstreams: {app: {url: "http://127.0.0.1:3000"}}
sources:
  both:
    path: /both
    provider: custom
    secrets: [{value: the-signing-secret}, {value: the-token}]
    verify:
      all:
        - {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, signed: "{body}", use: [1]}
        - {scheme: token, location: bearer, use: [2]}
    identity: {id: "body:sha256"}
    limits: {allow_ips: [127.0.0.0/8, "::1"]}
    upstream: app
  outside:
    path: /outside
    provider: github
    secrets: [{value: the-signing-secret}]
    limits: {allow_ips: [192.0.2.0/24]}
    upstream: app
`

// A signature, a token and an address, all of which must be right.
func TestSeveralGuardsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := hooktest.NewBubble(t.TempDir(), guarded, env)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		const body = `{"n":1}`
		signature, token := "X-Signature: "+hexMAC("the-signing-secret", body)+"\r\n", "Authorization: Bearer the-token\r\n"
		for _, tt := range []struct {
			path, head string
			status     int
			verified   string
		}{
			{"/both", signature, 401, ""},
			{"/both", token, 401, ""},
			{"/both", "X-Signature: " + hexMAC("the-token", body) + "\r\nAuthorization: Bearer the-signing-secret\r\n", 401, ""}, // each part has its own secret
			{"/both", signature + token, 200, "custom;binds=body"},
			{"/outside", "X-GitHub-Delivery: d\r\nX-Hub-Signature-256: sha256=" + hexMAC("the-signing-secret", body) + "\r\n", 403, ""},
		} {
			raw := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n%s", tt.path, len(body), tt.head, body)
			resp, _, err := send(b, []byte(raw))
			if err != nil || resp.StatusCode != tt.status {
				t.Errorf("%s %q: %v %v, want %d", tt.path, tt.head, resp, err, tt.status)
			}
			if seen := b.Consumer.Seen(); tt.verified != "" && (len(seen) != 1 || seen[0].Header.Get("Hooktender-Verified") != tt.verified) {
				t.Errorf("the consumer saw %v", seen)
			}
		}
		if err := b.Stop(); err != nil {
			t.Fatal(err)
		}
		b.Down()
	})
}
