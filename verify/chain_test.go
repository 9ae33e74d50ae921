package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"testing"

	"github.com/hooktender/hooktender/event"
)

// A chain may end in a certificate of which only the fingerprint is known; what is pinned takes its place. Of an ECDSA signature there are two
// for one message, and both are one replay key.
func TestAChainMayEndInAFingerprint(t *testing.T) {
	root, rootKey, rootPEM := certificate(t, "Root", true, nil, nil, x509.ExtKeyUsageAny)
	other, _, otherPEM := certificate(t, "Root", true, nil, nil, x509.ExtKeyUsageAny)
	leaf, key, _ := certificate(t, "signer", false, root, rootKey, x509.ExtKeyUsageAny)
	b64 := base64.RawURLEncoding.EncodeToString
	der := base64.StdEncoding.EncodeToString
	msg := b64(fmt.Appendf(nil, `{"alg":"ES256","x5c":[%q,%q]}`, der(leaf.Raw), der(root.Raw))) + "." + b64([]byte(`{"app":"a"}`))
	sum := sha256.Sum256([]byte(msg))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	request := func(r, s *big.Int) *event.Request {
		sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		return &event.Request{Method: "POST", Target: []byte("/"), Body: []byte(`{"token":"` + msg + "." + b64(sig) + `"}`)}
	}
	spec := Spec{Scheme: "jwt", Algorithms: []string{"ES256"}, Location: "json:token", Key: "x5c", Claims: map[string]string{"/app": "a"}}
	for _, tt := range []struct {
		name   string
		roots  []string
		pinned []string
		want   bool
	}{
		{"its fingerprint", []string{hexSum(root.Raw)}, nil, true},
		{"another's fingerprint", []string{hexSum(other.Raw)}, nil, false},
		{"pinned", nil, []string{rootPEM}, true},
		{"another is pinned", []string{hexSum(root.Raw)}, []string{otherPEM}, false},
	} {
		spec.KeyRoots = tt.roots
		v, err := Compile(spec, nil, Options{PublicKeys: tt.pinned})
		if err != nil {
			t.Fatal(err)
		}
		one := v.Verify(request(r, s), benchTime)
		two := v.Verify(request(r, new(big.Int).Sub(elliptic.P256().Params().N, s)), benchTime)
		if one.OK != tt.want || two.OK != tt.want || string(one.MAC) != string(two.MAC) {
			t.Errorf("%s: %v and %v, keys %x and %x", tt.name, one.Check, two.Check, one.MAC, two.MAC)
		}
	}
	spec.KeyRoots = nil
	if _, err := Compile(spec, nil, Options{}); err == nil {
		t.Error("a chain may end anywhere")
	}
	for _, change := range []func(*Spec){func(s *Spec) { s.KeyRoots = []string{"AB"} }, func(s *Spec) { s.Algorithms = append(s.Algorithms, "HS256") }} {
		bad := spec.Clone()
		if change(&bad); bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// Whoever sees an ECDSA signature can make a second one for the same message. Both are one replay key.
func TestTheTwoSignaturesOfECDSAAreOneReplayKey(t *testing.T) {
	_, key, pem := certificate(t, "signer", false, nil, nil, x509.ExtKeyUsageAny)
	sum := sha256.Sum256([]byte("{}"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &pair); err != nil {
		t.Fatal(err)
	}
	pair.S.Sub(elliptic.P256().Params().N, pair.S)
	again, err := asn1.Marshal(pair)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Compile(Spec{Scheme: "public_key", Algorithm: "ecdsa-sha256", Encoding: "base64", Header: "X-Signature", Signed: "{body}"}, nil, Options{PublicKeys: []string{pem}})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(sig []byte) Verdict {
		head := event.Head(nil).AppendString("X-Signature", base64.StdEncoding.EncodeToString(sig))
		return v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head, Body: []byte("{}")}, benchTime)
	}
	if one, two := judge(sig), judge(again); !one.OK || !two.OK || string(one.MAC) != string(two.MAC) {
		t.Errorf("%v and %v, keys %x and %x", one.Check, two.Check, one.MAC, two.MAC)
	}
}
