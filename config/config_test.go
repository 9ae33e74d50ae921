package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testEnv is the environment of the tests' files.
func testEnv(name string) (string, bool) {
	v, ok := map[string]string{
		"STRIPE_WEBHOOK_SECRET": "whsec_test_0123456789",
		"ORDERS_SECRET":         "orders-secret-0123",
		"HOOKTENDER_TOKEN":      "ops-token-0123456789abcdef",
		"SHORT":                 "short-token",
		"EMPTY":                 "",
		"PADDED":                " padded ",
		"PORT":                  "8181",
		"BODY":                  "1MiB",
	}[name]
	return v, ok
}

const minimal = `version: 1
listen: ":8080"
sources:
  stripe:
    path: /webhooks/stripe
    provider: stripe
    secrets: [{env: STRIPE_WEBHOOK_SECRET}]
    upstream: http://127.0.0.1:3000       # short for delivery: {upstream: …}; a URL, or a name under ` + "`upstreams`" + `
`

const everything = `version: 1
listen: ":8080"                      # public port
public_url: ""                       # example: https://hooks.example.com ; needed by schemes that sign the URL
data_dir: ./data                     # the embedded journal
admin:
  listen: 127.0.0.1:9090             # a non-loopback address without tokens is refused at start
  debug: false                       # serve /debug/pprof
  tokens:
    - {name: ops, token: {env: HOOKTENDER_TOKEN}, scopes: [events:read, payloads:read, replay:write, replay:force, admin]}
journal: {sync: always, min_free: 1GiB, memory: 64MiB, allow_tmpfs: false}
dedup: {cache: 100000}
retention: {dedup: 168h, payload: 72h, record: 168h, dead_letter: 720h}
upstreams:
  app: {url: "http://127.0.0.1:3000", timeout: 10s, max_in_flight: 64, rate: 0, breaker: {failures: 10, probe: 1s, max_probe: 30s}}
sources:
  orders:
    path: /webhooks/orders
    methods: [POST]
    provider: custom
    secrets: [{env: ORDERS_SECRET}, {file: SECRETFILE}]
    public_keys: []
    handshake: {}
    insecure: false
    verify:
      mode: enforce
      scheme: hmac
      algorithm: sha256
      encoding: hex
      header: X-Signature
      prefix: "sha256="
      signed: "{timestamp}.{body}"
      timestamp: header:X-Timestamp
      tolerance: 5m
    identity:
      id: header:X-Event-Id
      account: ""
      type: json:type
      resource: json:data.object.id
      version: json:data.object.version
      occurred_at: json:created
    dedup: {mode: enforce, on_conflict: flag}
    ordering:
      policy: none
      mode: enforce
      types: ["*"]
      compare: integer
      ties: forward
      start: first_seen
      max_wait: 30s
      max_held: 100
      on_gap: release
      on_failure: block
      max_jump: 0
    delivery:
      mode: hybrid
      upstream: app
      path: ""
      deadline: 8s
      on_unknown: redeliver
      retry: {base: 1s, factor: 2, max_delay: 0s, max_attempts: 8, max_elapsed: 5m, jitter: full}
      resign: auto
    limits: {body: 5MiB, rate: 0, read_timeout: 10s, allow_ips: [], pending: 100000, held: 10000, resources: 1000000}
    respond: {accepted: 202, duplicate: 200, stale: 200, held: 202, rejected: 401}
`

// everythingIn is the file with every key, its secret file in dir.
func everythingIn(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(file, []byte("old-secret-4567\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(everything, "SECRETFILE", file)
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("hooktender.yaml", []byte(text), testEnv)
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

func TestTheMinimalFileLoads(t *testing.T) {
	c := mustParse(t, minimal)
	s := c.Sources["stripe"]
	if s.Name != "stripe" || s.Path != "/webhooks/stripe" || s.Delivery.Mode != "hybrid" || s.Delivery.Deadline != 8*time.Second || s.Short != "" {
		t.Errorf("source: %+v", s)
	}
	if s.Delivery.Upstream != "http://127.0.0.1:3000" || c.Upstreams[s.Delivery.Upstream].Timeout != 10*time.Second {
		t.Errorf("upstream %q of %v", s.Delivery.Upstream, c.Upstreams)
	}
	if got := string(s.Secrets[0].Bytes()); got != "whsec_test_0123456789" {
		t.Errorf("secret %q", got)
	}
	if len(c.Warnings) != 1 || c.Warnings[0].Key != "admin" {
		t.Errorf("warnings: %v", c.Warnings)
	}
}

func TestTheFileWithEverythingLoads(t *testing.T) {
	c := mustParse(t, everythingIn(t))
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
	s := c.Sources["orders"]
	if got := string(s.Secrets[1].Bytes()); got != "old-secret-4567" {
		t.Errorf("secret of a file: %q", got)
	}
	if c.Admin.Tokens[0].Scopes[4] != "admin" || c.Journal.MinFree != 1<<30 || s.Limits.Body != 5<<20 || s.Identity.ID[0] != "header:X-Event-Id" || s.Identity.Account != nil {
		t.Errorf("values: %+v", c)
	}
}

func TestEveryDefaultIsThatOfTheFileWithEverything(t *testing.T) {
	full := mustParse(t, everythingIn(t))
	short := mustParse(t, `version: 1
upstreams: {app: {url: "http://127.0.0.1:3000"}}
sources:
  orders:
    path: /webhooks/orders
    provider: custom
    secrets: [{env: ORDERS_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: header:X-Timestamp}
    identity: {id: header:X-Event-Id, type: json:type, resource: json:data.object.id, version: json:data.object.version, occurred_at: json:created}
    upstream: app
`)
	changed, _ := Changed(full, short)
	want := []string{"admin.tokens", "sources.orders.secrets"}
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("keys that differ (-want +got):\n%s", diff)
	}
}

func TestAMissingFileSaysSo(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"), testEnv)
	var all *Errors
	if !errors.As(err, &all) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml: cannot be read: no such file") {
		t.Errorf("error: %v", err)
	}
}
