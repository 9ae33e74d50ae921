package cli

import (
	"bytes"
	"encoding/base64"
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
