package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/verify"
)

func TestVariablesExpandAfterParsing(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"plain", "plain"}, {"${env:PORT}", "8181"}, {":${env:PORT}", ":8181"}, {"${env:NOPE:-a:b}", "a:b"}, {"${env:EMPTY}", ""},
		{"${env:EMPTY:-x}", "x"}, {"${env:NOPE:-}", ""}, {"$${env:PORT}", "${env:PORT}"}, {"${PORT} $PORT", "${PORT} $PORT"},
		{"${env:PORT}${env:PORT}", "81818181"},
	} {
		got, missing, err := expand(tt.in, testEnv)
		if got != tt.want || missing != "" || err != nil {
			t.Errorf("expand(%q) = %q, %q, %v, want %q", tt.in, got, missing, err, tt.want)
		}
	}
	c := mustParse(t, strings.NewReplacer(`":8080"`, `":${env:PORT}"`, "{env: STRIPE_WEBHOOK_SECRET}", `{env: "${env:NOPE:-STRIPE}_WEBHOOK_SECRET"}`).Replace(minimal)+
		"    limits: {body: \"${env:BODY}\", pending: \"${env:PORT}\"}\n")
	if s := c.Sources["stripe"].Secrets; len(s) != 1 || string(s[0].Bytes()) != "whsec_test_0123456789" {
		t.Errorf("a name that is put together: %d secrets", len(s))
	}
	if l := c.Sources["stripe"].Limits; c.Listen != ":8181" || l.Body != 1<<20 || l.Pending != 8181 {
		t.Errorf("listen %q, limits %+v", c.Listen, l)
	}
}

func TestAVariableCannotBringInStructure(t *testing.T) {
	env := func(name string) (string, bool) {
		if name == "INJECT" {
			return "a\nadmin: {listen: \":9\"}", true
		}
		return testEnv(name)
	}
	_, err := Parse("f.yaml", []byte(minimal+"data_dir: \"${env:INJECT}\"\n"), env)
	if err != nil {
		t.Errorf("a value with a newline: %v", err)
	}
}

func TestAnchorsAndMergesWork(t *testing.T) {
	c := mustParse(t, `version: 1
x-defaults: &defaults
  provider: custom
  secrets: [{env: ORDERS_SECRET}]
  verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Sig, signed: "{body}"}
  identity: &identity {id: header:X-Id}
  upstream: http://a
sources:
  a: {<<: *defaults, path: /a}
  b:
    <<: *defaults
    path: /b
    upstream: http://b
`)
	if c.Sources["a"].Delivery.Upstream != "http://a" || c.Sources["b"].Delivery.Upstream != "http://b" || c.Sources["b"].Identity.ID[0] != "header:X-Id" {
		t.Errorf("sources: %+v", c.Sources)
	}
}

func TestManyAliasesAreRefusedInTime(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nx-a: &a [" + strings.Repeat("/a,", 20_000) + "]\nsources:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  s%d: {path: /%d, provider: none, insecure: true, limits: {allow_ips: *a}}\n", i, i)
	}
	_, err := Parse("f.yaml", []byte(b.String()), testEnv)
	if err == nil || !strings.Contains(err.Error(), "too many values") {
		t.Errorf("no refusal")
	}
}

func TestSourcesOfOneURLShareAnUpstream(t *testing.T) {
	c := mustParse(t, minimal+`  two:
    path: /two
    provider: github
    secrets: [{env: ORDERS_SECRET}]
    delivery: {upstream: "http://127.0.0.1:3000"}
  three: {path: /three, provider: github, secrets: [{env: ORDERS_SECRET}], upstream: app}
upstreams: {app: {url: "http://127.0.0.1:3000", timeout: 3s}}
`)
	var got []string
	for name, u := range c.Upstreams {
		got = append(got, fmt.Sprint(name, " ", u.URL, " ", u.Timeout))
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"app http://127.0.0.1:3000 3s", "http://127.0.0.1:3000 http://127.0.0.1:3000 10s"}, got); diff != "" {
		t.Errorf("upstreams (-want +got):\n%s", diff)
	}
}

func TestAPresetGivesItsDefaults(t *testing.T) {
	c := mustParse(t, `version: 1
public_url: https://hooks.example.com/
sources:
  slack: {path: /slack, provider: slack, secrets: [{env: ORDERS_SECRET}], upstream: "http://a"}
  slow: {path: /slow, provider: slack, secrets: [{env: ORDERS_SECRET}], delivery: {upstream: "http://a", deadline: 7s}, verify: {tolerance: 2s}}
  xero: {path: /xero, provider: xero, secrets: [{env: ORDERS_SECRET}], upstream: "http://a", respond: {rejected: 400}}
  dropbox: {path: /dropbox, provider: dropbox, secrets: [{env: ORDERS_SECRET}], upstream: "http://a"}
  jobber: {path: /jobber, provider: jobber, secrets: [{env: ORDERS_SECRET}], upstream: "http://a"}
  customer: {path: /customer, provider: customer-io, secrets: [{env: ORDERS_SECRET}], upstream: "http://a"}
`)
	s := c.Sources
	for name, want := range map[string]time.Duration{"slack": 2 * time.Second, "slow": 7 * time.Second, "jobber": time.Second / 2, "customer": 3 * time.Second} {
		if got := s[name].Delivery.Deadline; got != want {
			t.Errorf("deadline of %s: %s, want %s", name, got, want)
		}
	}
	if s["slow"].Verify.Tolerance != 2*time.Second || s["slow"].Verify.Header != s["slack"].Verify.Header || s["slack"].Verify.Tolerance != 5*time.Minute {
		t.Errorf("verify: %+v", s["slow"].Verify)
	}
	if s["dropbox"].Dedup.Mode != "observe" || s["slack"].Dedup.Mode != "enforce" {
		t.Errorf("dedup: %+v", s["dropbox"].Dedup)
	}
	if r := s["xero"].Respond; r.Rejected != 400 || r.Accepted != 0 {
		t.Errorf("respond: %+v", r)
	}
	if c.PublicURL != "https://hooks.example.com" {
		t.Errorf("public_url %q", c.PublicURL)
	}
}

func TestEveryPresetLoads(t *testing.T) {
	for _, p := range provider.All() {
		text := "version: 1\npublic_url: https://hooks.example.com\nsources:\n  s:\n    path: /s\n    upstream: http://a\n    handshake: {timestamp_header: X-Time}\n    provider: " + p.ID + "\n"
		_, err := Parse("f.yaml", []byte(text), testEnv)
		if all := new(Errors); errors.As(err, &all) {
			for _, f := range all.Problems {
				// What a preset lacks is for the user to give: secrets, keys, parameters.
				challengeOnly := f.Key == "sources.s.verify.scheme" && p.Verify.Scheme == ""
				if !challengeOnly && !strings.HasPrefix(f.Key, "sources.s.secrets") && !strings.HasPrefix(f.Key, "sources.s.public_keys") && f.Hint != "give it under handshake" &&
					p.Confidence != provider.Generic {
					t.Errorf("%s: %v", p.ID, f)
				}
			}
		}
	}
}

func TestPrintIsAFileThatMeansTheSame(t *testing.T) {
	text := everythingIn(t) + `  stripe:
    path: /webhooks/stripe
    provider: stripe
    secrets: [{env: STRIPE_WEBHOOK_SECRET}]
    handshake: {topics: [a, "b: c"], verify_token: {env: ORDERS_SECRET}}
    upstream: http://127.0.0.1:3001
`
	c := mustParse(t, text)
	var b bytes.Buffer
	if err := Print(&b, c); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"orders-secret", "old-secret", "ops-token", "whsec_"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("printed a secret: %s", secret)
		}
	}
	for _, want := range []string{"{env: HOOKTENDER_TOKEN}", "topics: [a, \"b: c\"]", "verify_token: {env: ORDERS_SECRET}", "upstream: http://127.0.0.1:3001"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	again := mustParse(t, b.String())
	if changed, restart := Changed(c, again); changed != nil || restart != nil {
		t.Errorf("changed %v in\n%s", changed, b.String())
	}
}

// Names that YAML takes for a number, or for nothing, are names of sources like others.
func TestNamesThatReadAsNumbersArePrintedAsNames(t *testing.T) {
	c := mustParse(t, minimal+`  2024: {path: /2024, provider: github, secrets: [{env: ORDERS_SECRET}], upstream: 1e3}
  null: {path: /null, provider: github, secrets: [{env: ORDERS_SECRET}], upstream: 1e3}
upstreams: {1e3: {url: "http://a"}}
`)
	raw, err := JSON(c)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Sources, Upstreams map[string]json.RawMessage
	}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Sources) != 3 || doc.Sources["2024"] == nil || doc.Sources["null"] == nil || doc.Upstreams["1e3"] == nil {
		t.Errorf("error %v, printed %s", err, raw)
	}
	if changed, _ := Changed(c, mustParse(t, Text(c, nil))); changed != nil {
		t.Errorf("changed %v in\n%s", changed, Text(c, nil))
	}
}

func TestPrintMasksWhatStandsInTheFile(t *testing.T) {
	c := mustParse(t, strings.Replace(minimal, "{env: STRIPE_WEBHOOK_SECRET}", canary+", {value: "+canary+"}", 1)+
		"    handshake: {verify_token: "+canary+"}\n")
	var b bytes.Buffer
	if err := Print(&b, c); err != nil || strings.Contains(b.String(), canary) || strings.Count(b.String(), `"[secret]"`) != 3 {
		t.Errorf("error %v, printed\n%s", err, b.String())
	}
	if all := fmt.Sprintf("%v %+v %#v", c.Sources["stripe"].Secrets, c.Sources["stripe"].Secrets, c.Warnings); strings.Contains(all, canary) {
		t.Errorf("shows the secret: %s", all)
	}
}

func TestCredentialKnowsTheTokensOfAllSources(t *testing.T) {
	c := mustParse(t, minimal+`  more:
    path: /more
    provider: custom
    secrets: [{env: STRIPE_WEBHOOK_SECRET}]
    verify: {any: [{scheme: token, header: X-Own}, {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, signed: "{body}"}]}
    identity: {id: json:id}
    upstream: http://a
`)
	for header, want := range map[string]bool{"x-own": true, "Authorization": true, "X-Signature": false, "Stripe-Signature": false} {
		if got := c.Credential(header); got != want {
			t.Errorf("%s: %v", header, got)
		}
	}
}

func TestChangedNamesWhatNeedsARestart(t *testing.T) {
	old := mustParse(t, minimal)
	text := strings.NewReplacer(":8080", ":9999", "STRIPE_WEBHOOK_SECRET", "ORDERS_SECRET").Replace(minimal) + `    limits: {rate: 5}
  more: {path: /more, provider: none, insecure: true, identity: {id: json:id}, upstream: app}
upstreams: {app: {url: http://a}}
journal: {memory: 32MiB}
admin: {listen: "127.0.0.1:9091", debug: true}
`
	changed, restart := Changed(old, mustParse(t, text))
	wantChanged := []string{"admin.debug", "admin.listen", "journal.memory", "listen", "sources.more", "sources.stripe.limits.rate", "sources.stripe.secrets", "upstreams.app"}
	if diff := cmp.Diff(wantChanged, changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"admin.listen", "journal.memory", "listen"}, restart); diff != "" {
		t.Errorf("needs a restart (-want +got):\n%s", diff)
	}
	if a, b := Changed(old, old); a != nil || b != nil {
		t.Errorf("nothing changed, but %v %v", a, b)
	}
}

// What a reload says: an upstream that has no name is told by the source that has its URL.
func TestChangedNamesNoUpstreamByItsURL(t *testing.T) {
	changed, _ := Changed(mustParse(t, minimal), mustParse(t, strings.Replace(minimal, "http://127.0.0.1:3000", "http://127.0.0.1:3001", 1)))
	if diff := cmp.Diff([]string{"sources.stripe.delivery.upstream"}, changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
}

// A verify of one's own may take values from under handshake by any name.
func TestAHandshakeHasTheKeysThatVerifyAsksFor(t *testing.T) {
	mustParse(t, strings.Replace(minimal, "path: /webhooks/stripe", "path: /s\n    verify: {timestamp: \"header:{config:time_header}\"}\n    handshake: {time_header: X-Time}", 1))
}

func TestAPathSelectorHasAlternatives(t *testing.T) {
	c := mustParse(t, strings.Replace(minimal, "path: /webhooks/stripe", "path: /webhooks/{shop}\n    identity: {account: \"path:shop | header:X-Shop\"}", 1))
	if got := c.Sources["stripe"].Identity.Account; len(got) != 1 || got[0] != "path:shop | header:X-Shop" {
		t.Errorf("account is %q", got)
	}
}

func TestTheExampleLoads(t *testing.T) {
	if !bytes.HasPrefix(Example(), []byte("# yaml-language-server: $schema=https://")) {
		t.Error("the first line does not name the schema")
	}
	c := mustParse(t, string(Example()))
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
	full := mustParse(t, strings.Replace(everythingIn(t), ", {file:", "] #", 1))
	if changed, _ := Changed(c, full); changed != nil {
		t.Errorf("differs from the file with everything: %v", changed)
	}
}

func TestTheSchemaIsJSON(t *testing.T) {
	var s struct {
		ID         string `json:"$id"`
		Properties map[string]struct{ Description string }
	}
	if err := json.Unmarshal(Schema(), &s); err != nil || s.Properties["retention"].Description == "" || !strings.HasSuffix(s.ID, "/docs/hooktender.schema.json") {
		t.Errorf("error %v, schema %+v", err, s)
	}
}

func TestNoUnknownKeyIsEverTaken(t *testing.T) {
	// Every mapping of the file gets a key that nothing knows.
	lines := strings.Split(everythingIn(t), "\n")
	for i, l := range lines {
		if strings.HasSuffix(strings.TrimSpace(strings.SplitN(l, " #", 2)[0]), ":") {
			indent := strings.Repeat(" ", len(lines[i+1])-len(strings.TrimLeft(lines[i+1], " ")))
			if strings.HasPrefix(strings.TrimSpace(lines[i+1]), "-") {
				continue
			}
			text := strings.Join(lines[:i+1], "\n") + "\n" + indent + "zzz_unknown: {}\n" + strings.Join(lines[i+1:], "\n")
			if _, err := Parse("f.yaml", []byte(text), testEnv); err == nil {
				t.Errorf("taken below %q", l)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(everything))
	f.Add([]byte("a: &a [*a]\nsources: *a\n"))
	f.Add([]byte("x-a: &a {<<: *a}\nversion: 1\nsources: {<<: *a}\n"))
	f.Add([]byte("sources: {s: {handshake: {a: [{env: X}]}, secrets: [{value: ${env:A:-b}}], verify: {claims: {a.b: c}}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data, testEnv)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil {
			_ = err.Error()
			return
		}
		if _, err := Parse("f.yaml", append(bytes.TrimRight(data, "\n"), "\nzzz_unknown: 1\n"...), testEnv); err == nil {
			t.Fatalf("an unknown key was taken in %q", data)
		}
		if again, err := Parse("f.yaml", []byte(Text(c, nil)), testEnv); err == nil {
			if changed, _ := Changed(c, again); len(changed) > 0 && !strings.Contains(Text(c, nil), "[secret]") {
				t.Fatalf("printed, it means something else: %v", changed)
			}
		}
	})
}

// What a preset says that its signature proves is said of what it signs, not of what is signed in its place.
func TestAnotherTextThatIsSignedBindsWhatItCovers(t *testing.T) {
	for verifies, want := range map[string]verify.Binding{
		"": verify.BindsBody, "    verify: {signed: \"{form:id}\"}\n": verify.BindsOrigin, "    verify: {signed: \"{body}\"}\n": verify.BindsBody,
		"    verify: {signed: \"{form:payload}\", binds: body}\n": verify.BindsBody, "    verify: {encoding: hex}\n": verify.BindsBody,
	} {
		c, err := Parse("f.yaml", []byte(strings.Replace(minimal, "provider: stripe\n", "provider: transloadit\n"+verifies, 1)), testEnv)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Sources["stripe"].Verify.Binding(); got != want {
			t.Errorf("%q binds %s, want %s", verifies, got, want)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": "a-secret\n", "crlf": "a-secret\r\n", "two": "a-secret\n\n", "empty": "\n", "marked": "\ufeffa-secret\r\n", "large": strings.Repeat("x", maxSecretFile+1)} {
		write(t, filepath.Join(dir, name), text)
	}
	for name, want := range map[string]string{
		"good": "", "crlf": "", "two": "the file begins or ends with white space", "empty": "the file is empty", "marked": "the file begins with a byte order mark",
		"large": "the file of {file: …} is larger than 64KiB", "none": "the file of {file: …} does not exist", ".": "the file of {file: …} is no regular file",
	} {
		text := strings.Replace(minimal, "{env: STRIPE_WEBHOOK_SECRET}", "{file: "+name+"}", 1)
		c, err := Parse(filepath.Join(dir, "hooktender.yaml"), []byte(text), testEnv)
		switch all := new(Errors); {
		case want == "" && (err != nil || string(c.Sources["stripe"].Secrets[0].Bytes()) != "a-secret"):
			t.Errorf("%s: %v", name, err)
		case want != "" && (!errors.As(err, &all) || all.Problems[0].Message != want):
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}
