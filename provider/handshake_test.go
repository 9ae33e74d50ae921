package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/verify"
)

// handshakeCase is an element of testdata/handshakes.json.
type handshakeCase struct {
	Provider  string
	Name      string
	Request   Vector
	Secrets   []string
	Now       int64
	Config    map[string]any
	Forwarded bool
	Why       string
	Expect    struct {
		Status  int
		Headers map[string]string
		Body    any
	}
}

func loadHandshakes(t *testing.T) (cases []handshakeCase) {
	b, err := os.ReadFile("testdata/handshakes.json")
	if err == nil {
		err = json.Unmarshal(b, &cases)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestEveryHandshakeIsAnsweredAsExpected(t *testing.T) {
	vectors := loadVectors(t)
	for _, c := range loadHandshakes(t) {
		t.Run(c.Provider+"/"+c.Name, func(t *testing.T) { c.check(t, vectors) })
	}
}

func (c *handshakeCase) check(t *testing.T, vectors []Vector) {
	in := c.Request
	in.Provider, in.Secrets, in.Now, in.Config = c.Provider, c.Secrets, c.Now, c.Config
	for _, v := range vectors {
		switch {
		case c.Provider == "aws-sns" && v.Provider == "aws-sns" && v.Name == c.Name:
			in = v
		case c.Provider == "discord" && v.Provider == "discord" && v.Name == "valid":
			in.PublicKey = v.PublicKey
		}
	}
	p, ok := Get(c.Provider)
	if !ok {
		t.Fatalf("no preset %q", c.Provider)
	}
	opts := HandshakeOptions{Config: map[string][]string{}, PublicURL: "https://hooks.example.com"}
	for k, v := range c.Config {
		switch x := v.(type) {
		case string:
			opts.Config[k] = []string{x}
		case []any:
			for _, one := range x {
				opts.Config[k] = append(opts.Config[k], one.(string))
			}
		}
	}
	for _, s := range in.Secrets {
		opts.Secrets = append(opts.Secrets, verify.NewSecret([]byte(s)))
	}
	opts.Verifier, _ = in.Verifier()
	req, err := in.Request()
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHandshake(p, opts)
	if err != nil {
		t.Fatal(err)
	}
	got, handled := HandshakeAnswer{}, false
	if h != nil {
		got, handled = h.Answer(req, time.Unix(in.Now, 0))
	}
	switch {
	case c.Forwarded:
		if handled || !opts.Verifier.Verify(req, time.Unix(in.Now, 0)).OK {
			t.Fatalf("handled=%v, want a verified event", handled)
		}
		return
	case c.Expect.Status == 401 && !handled:
		if opts.Verifier.Verify(req, time.Unix(in.Now, 0)).OK {
			t.Fatal("verified, want 401")
		}
		return
	case !handled:
		t.Fatal("not answered")
	}
	if got.Status != c.Expect.Status {
		t.Errorf("status %d, want %d", got.Status, c.Expect.Status)
	}
	for k, want := range c.Expect.Headers {
		if v, n := got.Head.Get(k); n != 1 || string(v) != want {
			t.Errorf("%s: %q (%d lines), want %q", k, v, n, want)
		}
	}
	if text, ok := c.Expect.Body.(string); ok {
		if string(got.Body) != text {
			t.Errorf("body %q, want %q", got.Body, text)
		}
	} else if c.Expect.Body != nil {
		var body any
		if err := json.Unmarshal(got.Body, &body); err != nil || !reflect.DeepEqual(body, c.Expect.Body) {
			t.Errorf("body %s, want %v", got.Body, c.Expect.Body)
		}
	}
}

// Challenges of senders that register no endpoint without an answer, and what is none.
func TestChallengesInTheQuery(t *testing.T) {
	const id = "890e4665-4dfe-4ab1-b689-ed553bceeed0"
	for _, tt := range []struct {
		provider, query string
		status          int
		body            string
	}{
		{"nylas", "challenge=abc-1", 200, "abc-1"},
		{"onfleet", "check=example", 200, "example"},
		{"linkedin", "challengeCode=" + id + "&applicationId=1", 200,
			`{"challengeCode":"` + id + `","challengeResponse":"` + hexMAC("secret", id) + `"}`},
		{"linkedin", "challengeCode=hmacsha256=1", 400, ""}, // that would sign the body 1
		{"linkedin", "challengeCode=" + id + "&challengeCode=" + id, 400, ""},
	} {
		p, _ := Get(tt.provider)
		h, err := NewHandshake(p, HandshakeOptions{Secrets: []verify.Secret{verify.NewSecret([]byte("secret"))}})
		if h == nil || err != nil {
			t.Errorf("%s: no challenge is known, %v", tt.provider, err)
			continue
		}
		got, ok := h.Answer(&event.Request{Method: "GET", Target: []byte("/x?" + tt.query)}, time.Now())
		if !ok || got.Status != tt.status || string(got.Body) != tt.body {
			t.Errorf("%s?%s: %t %d %s, want %d %s", tt.provider, tt.query, ok, got.Status, got.Body, tt.status, tt.body)
		}
	}
}

// While a secret is changed a challenge is answered with the one that it is signed with, wherever that stands.
func TestZoomIsAnsweredWithTheSecretThatItUsed(t *testing.T) {
	p, _ := Get("zoom")
	secrets := []verify.Secret{verify.NewSecret([]byte("old-secret")), verify.NewSecret([]byte("new-secret"))}
	v, err := verify.Compile(p.Verify, secrets, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHandshake(p, HandshakeOptions{Verifier: v, Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"event":"endpoint.url_validation","payload":{"plainToken":"abc"}}`
	for _, secret := range []string{"old-secret", "new-secret", "other-secret"} {
		req := &event.Request{Method: "POST", Target: []byte("/z"), Body: []byte(body)}
		req.Head = req.Head.AppendString("X-Zm-Request-Timestamp", "1760000000").AppendString("X-Zm-Signature", "v0="+hexMAC(secret, "v0:1760000000:"+body))
		got, ok := h.Answer(req, time.Unix(1760000000, 0))
		if ok != (secret != "other-secret") || ok && string(got.Body) != `{"encryptedToken":"`+hexMAC(secret, "abc")+`","plainToken":"abc"}` {
			t.Errorf("%s: %t %s", secret, ok, got.Body)
		}
	}
}

func hexMAC(secret, text string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil))
}
