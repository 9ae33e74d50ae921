package provider

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/verify"
)

// signedBy makes the three kinds of request whose key is named in them, each signed with the key of that id.
func signedBy(t *testing.T, id string, ec *ecdsa.PrivateKey, ed ed25519.PrivateKey, now time.Time) map[string]*event.Request {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	body := `{"id":"evt_1"}`
	sum := sha256.Sum256([]byte(body))
	msg := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":%q}`, id)) + "." + b64(fmt.Appendf(nil, `{"iss":"sender","iat":%d,"h":"%x"}`, now.Unix(), sum))
	digest := sha256.Sum256([]byte(msg))
	r, s, err := ecdsa.Sign(rand.Reader, ec, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	token := msg + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	detached, err := ed.Sign(nil, []byte(body), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	input := fmt.Sprintf(`("@method" "content-digest");created=%d;keyid=%q`, now.Unix(), id)
	contentDigest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	base := "\"@method\": POST\n\"content-digest\": " + contentDigest + "\n\"@signature-params\": " + input
	message := ed25519.Sign(ed, []byte(base))
	std := base64.StdEncoding.EncodeToString
	req := func(pairs ...string) *event.Request {
		out := &event.Request{Method: "POST", Target: []byte("/h"), Host: []byte("h"), Body: []byte(body)}
		for i := 0; i < len(pairs); i += 2 {
			out.Head = out.Head.AppendString(pairs[i], pairs[i+1])
		}
		return out
	}
	return map[string]*event.Request{
		"jwt":            req("Authorization", "Bearer "+token),
		"public_key":     req("X-Key-Id", id, "X-Signature", std(detached)),
		"http_signature": req("Content-Digest", contentDigest, "Signature-Input", "sig1="+input, "Signature", "sig1=:"+std(message)+":"),
	}
}

// A sender that is on no list, publishes its keys as a JWK set, and names one in each request.
func TestACustomSenderMayPublishItsKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(public)},
		{"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	k, base := keyServer(t, "/jwks", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) })
	fetched := ""
	source := func(s *verify.Spec) verify.KeySource { fetched = s.JWKS; return k }
	now := time.Unix(1760000000, 0)
	for name, spec := range map[string]verify.Spec{
		"jwt":            {Scheme: "jwt", Algorithms: []string{"ES256"}, Location: "bearer", Issuer: "sender", BodyClaim: "h", MaxAge: time.Minute, JWKS: base + "/jwks"},
		"public_key":     {Scheme: "public_key", Algorithm: "ed25519", Encoding: "base64", Header: "X-Signature", Signed: "{body}", Key: "key_id", KeyFrom: "header:X-Key-Id", JWKS: base + "/jwks"},
		"http_signature": {Scheme: "http_signature", Algorithm: "ed25519", Components: []string{"@method", "content-digest"}, Tolerance: time.Minute, JWKS: base + "/jwks"},
	} {
		t.Run(name, func(t *testing.T) {
			part := verify.Spec{All: []verify.Spec{spec}}
			for how, s := range map[string]verify.Spec{"alone": spec, "as a part": part} {
				v, err := verify.Compile(s, nil, verify.Options{PublicURL: "https://h", Keys: source})
				if err != nil || fetched != base+"/jwks" {
					t.Fatalf("%s: %v, keys from %q", how, err, fetched)
				}
				own := map[string]string{"jwt": "ec"}[name]
				if own == "" {
					own = "ed"
				}
				for id, want := range map[string]bool{own: true, "oct": false, "nobody": false, "": false} {
					req := signedBy(t, id, ec, ed, now)[name]
					if got := v.Verify(req, now); got.OK != want || got.OK && got.Binds != verify.BindsBody {
						t.Errorf("%s, key %q: %+v", how, id, got)
					}
					req.Body = []byte(`{"id":"evt_2"}`)
					if v.Verify(req, now).OK {
						t.Errorf("%s, key %q: another body is accepted", how, id)
					}
				}
			}
			if _, err := verify.Compile(spec, nil, verify.Options{PublicURL: "https://h"}); err == nil {
				t.Error("without a source of keys there is nothing to verify with")
			}
			plain := spec
			plain.JWKS = "http://sender.example/jwks"
			if plain.Check() == nil {
				t.Error("keys over http are taken")
			}
		})
	}
}

// A pattern of hosts or paths has to fit all of the name: sender.example is not sender.example.evil.net.
func TestAPatternOfHostsFitsTheWholeName(t *testing.T) {
	spec := verify.Spec{Scheme: "public_key", Algorithm: "rsa-sha256", Encoding: "base64", Header: "X-Signature", Signed: "{body}", Key: "certificate_url", KeyFrom: "header:X-Cert",
		KeyHostPattern: `keys\.sender\.example`, KeyPathPattern: `/certs/[a-z]+\.pem`}
	asked := &asking{}
	v, err := verify.Compile(spec, nil, verify.Options{Keys: func(*verify.Spec) verify.KeySource { return asked }})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"https://keys.sender.example/certs/a.pem": true, "https://keys.sender.example.evil.net/certs/a.pem": false, "https://evil-keys.sender.example/certs/a.pem": false,
		"https://keys.sender.example/x/certs/a.pem": false, "https://keys.sender.example/certs/a.pem.x": false, "http://keys.sender.example/certs/a.pem": false,
		"https://keys.sender.example:8443/certs/a.pem": false, "https://u@keys.sender.example/certs/a.pem": false, "https://keys.sender.example/certs/a.pem?x": false,
	} {
		*asked = asking{}
		req := &event.Request{Method: "POST", Target: []byte("/"), Body: []byte("{}")}
		req.Head = req.Head.AppendString("X-Cert", address).AppendString("X-Signature", "AAAA")
		if v.Verify(req, time.Now()).OK || (asked.name == address) != want {
			t.Errorf("%s was asked for: %v", address, asked.name == address)
		}
	}
	for _, change := range []func(*verify.Spec){func(s *verify.Spec) { s.KeyHostPattern = "" }, func(s *verify.Spec) { s.KeyPathPattern = "" }, func(s *verify.Spec) { s.KeyFrom = "" }} {
		s := spec
		if change(&s); s.Check() == nil {
			t.Errorf("%+v may take certificates from anywhere, or from nowhere", s)
		}
	}
}

// asking remembers which key was asked for, and has none.
type asking struct{ name string }

func (a *asking) Key(_ context.Context, name string) ([]byte, error) {
	a.name = name
	return nil, verify.ErrUnknownKey
}
