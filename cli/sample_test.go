package cli

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// Most presets can be tried out without their vendor: what the command signs, the gateway accepts, with the id that was asked for.
func TestTestEventsOfSymmetricPresetsAreAccepted(t *testing.T) {
	made := 0
	for _, p := range provider.All() {
		key := "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
		switch p.Verify.Key {
		case "hex":
			key = strings.Repeat("0f", 32)
		case "base64":
			key = strings.TrimPrefix(key, "whsec_")
		}
		s, err := newSigner(p.Verify, p.Identity, []verify.Secret{verify.NewSecret([]byte(key))}, verify.Options{PublicURL: "https://hooks.example.com"})
		if err != nil {
			continue // needs keys or parameters of its own
		}
		at := time.Now()
		req, err := s.sign(&sample{id: "evt_1", typ: "t", resource: "r", version: "1", account: "a", at: at}, "POST", []byte("/hook"), "hooks.example.com")
		if err != nil {
			continue
		}
		made++
		if v := s.verifier.Verify(req, at); !v.OK {
			t.Errorf("%s: %s", p.ID, v.Check)
		}
		id, err := selector.CompileIdentity(p.Identity)
		if err != nil {
			continue
		}
		if _, err := id.Extract(req, nil); err != nil {
			t.Errorf("%s: %v", p.ID, err)
		}
	}
	if made < 165 {
		t.Errorf("only %d presets can be tried out", made)
	}
}

// Forms that are signed whole, and a header that only the user's parameters name: two events of such a sender can be made, and are two.
func TestTestEventsOfFormsAndParameters(t *testing.T) {
	for _, name := range []string{"mandrill", "plivo", "transloadit", "grafana"} {
		p, err := preset(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSigner(p.Verify, p.Identity, []verify.Secret{verify.NewSecret([]byte("0123456789abcdef"))}, verify.Options{PublicURL: "https://hooks.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		var macs [2]string
		for i, id := range []string{"evt_1", "evt_2"} {
			at := time.Now()
			req, err := s.sign(&sample{id: id, typ: "t", resource: "r", version: "1", at: at}, "POST", []byte("/hook"), "hooks.example.com")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if bytes.Contains(req.Head, []byte("{")) {
				t.Errorf("%s: %s", name, req.Head)
			}
			macs[i] = string(s.verifier.Verify(req, at).MAC)
		}
		if macs[0] == macs[1] {
			t.Errorf("%s: the signature of two events is the same", name)
		}
	}
}

// An id that stands in a header is sent as it is: the gateway takes it as written, so an encoded one would be another id than that which was asked for.
func TestTestEventsHaveTheIDThatWasAskedFor(t *testing.T) {
	for _, name := range []string{"github", "stripe"} {
		p, err := preset(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSigner(p.Verify, p.Identity, []verify.Secret{verify.NewSecret([]byte("0123456789abcdef"))}, verify.Options{})
		if err != nil {
			t.Fatal(err)
		}
		id, err := selector.CompileIdentity(p.Identity)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"evt_1", "a b", "100%", "a%20b", "é:ü", `"q"`} {
			req, err := s.sign(&sample{id: want, typ: "t", resource: "r", version: "1", at: time.Now()}, "POST", []byte("/hook"), "hooks.example.com")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := id.Extract(req, nil); err != nil || got.ID.Text() != want {
				t.Errorf("%s: %q became %q, %v", name, want, got.ID.Text(), err)
			}
		}
	}
}

// What a preset asks for stands under handshake; a test event of such a source is made with it, and so is one with --param.
func TestTestEventsAreMadeWithTheParametersOfTheirSource(t *testing.T) {
	var head http.Header
	var query url.Values
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { head, query = r.Header, r.URL.Query() }))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "hooktender.yaml")
	if err := os.WriteFile(file, []byte(`version: 1
sources:
  alerts: {path: /a, provider: grafana, secrets: [a-secret-0123], handshake: {timestamp_header: X-When}, identity: {id: "body:sha256"}, upstream: "http://a"}
  query: {path: /b, provider: query-token, secrets: [a-secret-0123], handshake: {param: key}, identity: {id: "json:id"}, upstream: "http://a"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		want func() bool
	}{
		{"--source alerts", func() bool { return head.Get("X-When") != "" && head.Get("X-Grafana-Alerting-Signature") != "" }},
		{"--source query", func() bool { return query.Get("key") == "a-secret-0123" }},
		{"--source query --secret another", func() bool { return query.Get("key") == "another" }},
		{"--provider grafana --secret x --param timestamp_header=X-Then", func() bool { return head.Get("X-Then") != "" }},
	} {
		var said bytes.Buffer
		args := append([]string{"send", "--config", file, "--url", s.URL}, strings.Fields(c.args)...)
		if code := Run(t.Context(), args, nil, io.Discard, &said); code != exitOK || !c.want() {
			t.Errorf("send %s: exit %d, sent %v %v\n%s", c.args, code, head, query, said.String())
		}
		head, query = nil, nil
	}
}

// Who signs with a private key is not asked for a public one, which would not help.
func TestTestEventsOfAsymmetricPresetsCannotBeMade(t *testing.T) {
	n := 0
	for _, p := range provider.All() {
		if p.Verify.Scheme != "public_key" && (p.Verify.Scheme != "jwt" || slices.ContainsFunc(p.Verify.Algorithms, func(a string) bool { return strings.HasPrefix(a, "HS") })) {
			continue
		}
		n++
		var said bytes.Buffer
		code := Run(t.Context(), []string{"send", "--provider", p.ID, "--secret", "c2VjcmV0", "--url", "http://127.0.0.1:1/"}, nil, io.Discard, &said)
		if code != exitUsage || !strings.Contains(said.String(), p.ID+": requests of this scheme cannot be signed here: its sender has a private key") {
			t.Errorf("%s: exit %d, %s", p.ID, code, said.String())
		}
	}
	if n < 10 {
		t.Errorf("%d presets", n)
	}
}
