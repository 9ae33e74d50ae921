package verify

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// A body of nothing but the smallest of fields, members or dots takes no more than a few times its size before it is refused.
func TestWhatIsNotSignedTakesLittleMemory(t *testing.T) {
	const size = 2 << 20
	var members strings.Builder
	for i := 0; members.Len() < size; i++ {
		fmt.Fprintf(&members, `,"%x":1`, i)
	}
	form := event.Head(nil).AppendString("Content-Type", "application/x-www-form-urlencoded").AppendString("X-Sig", "00")
	mac := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Sig"}
	for _, tt := range []struct {
		signed string
		body   []byte
	}{
		{"{url}{form_sorted}", bytes.Repeat([]byte("a=1&"), size/4)},
		{"{url_sorted}", bytes.Repeat([]byte("a=1&"), size/4)},
		{"{json_sorted}", []byte("{" + members.String()[1:] + "}")},
		{"", bytes.Repeat([]byte("."), size)},
	} {
		spec := mac
		if spec.Signed = tt.signed; tt.signed == "" {
			spec = Spec{Scheme: "jwt", Algorithms: []string{"HS256"}, Location: "body"}
		}
		v, err := Compile(spec, []Secret{NewSecret([]byte("secret"))}, Options{PublicURL: "https://a.example"})
		if err != nil {
			t.Fatal(err)
		}
		req := &event.Request{Method: "POST", Target: []byte("/"), Head: form, Body: tt.body}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		verdict := v.Verify(req, benchTime)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; verdict.OK || took > 10*size {
			t.Errorf("%s: %d MiB for %d MiB, %v", tt.signed, took>>20, size>>20, verdict.Check)
		}
	}
}

// What is within reason is sorted all the same.
func TestManyFieldsAreSorted(t *testing.T) {
	if _, ok := sortedPairs(bytes.Repeat([]byte("a=1&"), maxPairs), "", "", false); !ok {
		t.Errorf("%d pairs are too many", maxPairs)
	}
	if _, err := selector.SortJSON([]byte("[" + strings.Repeat(`{"a":1},`, 49_999) + `{"a":1}]`)); err != nil {
		t.Errorf("50,000 members: %v", err)
	}
}

// The certificates of a chain are the sender's own: one whose key takes seconds to use is not used.
func TestAChainWithAHugeKeyIsRefused(t *testing.T) {
	root, rootKey, rootPEM := certificate(t, "Root", true, nil, nil, x509.ExtKeyUsageAny)
	leaf, _, _ := certificate(t, "signer", false, root, rootKey, x509.ExtKeyUsageAny)
	huge := new(big.Int).Lsh(big.NewInt(1), maxChainKey)
	made, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Between"}, NotBefore: benchTime.Add(-time.Hour),
		NotAfter: benchTime.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, root, &rsa.PublicKey{N: huge.SetBit(huge, 0, 1), E: 65537}, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Compile(Spec{Scheme: "jwt", Algorithms: []string{"ES256"}, Location: "body", Key: "x5c"}, nil, Options{PublicKeys: []string{rootPEM}})
	if err != nil {
		t.Fatal(err)
	}
	for name, second := range map[string][]byte{"a huge key": made, "a huge certificate": make([]byte, MaxHeader+1)} {
		b64, der := base64.RawURLEncoding.EncodeToString, base64.StdEncoding.EncodeToString
		head := fmt.Appendf(nil, `{"alg":"ES256","x5c":[%q,%q]}`, der(leaf.Raw), der(second))
		token := b64(head) + "." + b64([]byte("{}")) + "." + b64(make([]byte, 64))
		if verdict := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Body: []byte(token)}, benchTime); verdict.Check != CheckTooLarge {
			t.Errorf("%s: %v", name, verdict.Check)
		}
	}
}
