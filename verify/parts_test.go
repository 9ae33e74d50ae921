package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

var tokenPart = Spec{Scheme: "token", Header: "X-Token", Use: []int{2}}

// Two ways to verify, of which all or one must be good.
func TestAllAndAny(t *testing.T) {
	hmacPart := fieldsSpec
	hmacPart.Use = []int{1}
	both := mustCompile(t, Spec{All: []Spec{hmacPart, tokenPart}}, "secret-one", "token-two")
	one := mustCompile(t, Spec{Any: []Spec{hmacPart, tokenPart}}, "secret-one", "token-two")
	signed := signedKiB(t, mustCompile(t, fieldsSpec, "secret-one"))
	with := func(r *event.Request, token string) *event.Request {
		c := r.Clone()
		c.Head = c.Head.AppendString("X-Token", token)
		return c
	}
	plain := &event.Request{Method: "POST", Target: []byte("/h"), Body: signed.Body}
	for _, tt := range []struct {
		name     string
		req      *event.Request
		at       time.Duration
		all, any Check
	}{
		{"both", with(signed, "token-two"), 0, CheckNone, CheckNone},
		{"the signature only", signed, 0, CheckMissing, CheckNone},
		{"the token only", with(plain, "token-two"), 0, CheckMissing, CheckNone},
		{"the token of another part's secret", with(signed, "secret-one"), 0, CheckMismatch, CheckNone},
		{"neither", plain, 0, CheckMissing, CheckMissing},
		{"both, an hour later", with(signed, "token-two"), time.Hour, CheckStale, CheckNone},
		{"an hour later", signed, time.Hour, CheckStale, CheckStale},
	} {
		for _, x := range []struct {
			v    *Verifier
			want Check
		}{{both, tt.all}, {one, tt.any}} {
			if got := x.v.Verify(tt.req, benchTime.Add(tt.at)); got.Check != x.want || got.OK != (x.want == CheckNone) {
				t.Errorf("%s (any: %v): %v, want %v", tt.name, x.v.any, got.Check, x.want)
			}
		}
	}
	if both.Binds() != BindsBody || one.Binds() != BindsOrigin || both.Tolerance() != 5*time.Minute || one.Tolerance() != 0 {
		t.Errorf("all binds %s within %s, any %s within %s", both.Binds(), both.Tolerance(), one.Binds(), one.Tolerance())
	}
	id, _ := selector.ParseList("json:id")
	if !both.SignsID(id) || one.SignsID(id) {
		t.Error("the id is signed where every way in signs it")
	}
	again, err := both.Sign(plain, benchTime)
	if err != nil || !both.Verify(again, benchTime).OK {
		t.Errorf("what was signed is refused: %v", err)
	}
	head, ok := both.Resign(again, benchTime.Add(time.Hour))
	again.Head = head
	if !ok || !both.Verify(again, benchTime.Add(time.Hour)).OK {
		t.Error("signed again it is refused")
	}
	var text []string
	for _, f := range both.Explain(signed, benchTime) {
		text = append(text, f.Text)
	}
	if s := strings.Join(text, "\n"); !strings.Contains(s, "all[0]: the signature fits") || !strings.Contains(s, "all[1]: there is no header X-Token") {
		t.Errorf("explained as\n%s", s)
	}
}

// What is signed says what a good signature proves: a member of the body is not the body, unless the row says that it is all of it.
func TestWhatASignatureBinds(t *testing.T) {
	for signed, want := range map[string]Binding{
		"{timestamp}.{body}": BindsBody, "{sha256:body}": BindsBody, "{url}{form_sorted}": BindsBody, "{json_sorted}": BindsBody, "{url_sorted}": BindsBody,
		"{crc32:body}|{id}": BindsCRC32, "{json:id}": BindsOrigin, "{timestamp}.{json:id}{json:amount}": BindsOrigin, "{form:id}": BindsOrigin,
		"{header:X-Id}.{timestamp}": BindsOrigin, "{url}": BindsOrigin, "{json:id}.{body}": BindsBody,
	} {
		s := Spec{Scheme: "hmac", Signed: signed}
		if got := s.Binding(); got != want {
			t.Errorf("%s binds %s, want %s", signed, got, want)
		}
		if s.Binds = "body"; s.Binding() != BindsBody {
			t.Errorf("%s: binds is given, and is %s", signed, s.Binding())
		}
	}
}

func TestFaultsOfPartsNameThePart(t *testing.T) {
	for want, spec := range map[string]Spec{
		"all: all and any exclude":                 {All: []Spec{tokenPart}, Any: []Spec{tokenPart}},
		"any[0]: all and any cannot stand":         {Any: []Spec{{All: []Spec{tokenPart}}}},
		"any[1].header: say which header":          {Any: []Spec{tokenPart, {Scheme: "token"}}},
		"all[0].mode: stands at the top":           {All: []Spec{{Scheme: "token", Header: "X", Mode: "observe"}}},
		"all[0].scheme: none verifies nothing":     {All: []Spec{{Scheme: "none"}}},
		"all[0]: there is no number 3: 2 are":      {All: []Spec{{Scheme: "token", Header: "X", Use: []int{3}}}},
		"secrets: any[0]: number 1 is not base64":  {Any: []Spec{{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X", Key: "base64", Signed: "{body}"}}},
		"public_keys: any[0]: the scheme needs at": {Any: []Spec{{Scheme: "public_key", Algorithm: "ed25519", Encoding: "hex", Header: "X", Signed: "{body}"}}},
	} {
		_, err := Compile(spec, []Secret{NewSecret([]byte("not base64!")), NewSecret([]byte("b"))}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "not base64!") {
			t.Errorf("%v shows a secret", err)
		}
	}
}

func certificate(t *testing.T, name string, ca bool, parent *x509.Certificate, signer *ecdsa.PrivateKey, usage x509.ExtKeyUsage) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: benchTime.Add(-time.Hour), NotAfter: benchTime.Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	if ca {
		tpl.KeyUsage, tpl.ExtKeyUsage = x509.KeyUsageCertSign, nil
	}
	if parent == nil {
		parent, signer = tpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// A client certificate that the proxy in front passes on is a guard beside a signature.
func TestClientCertificates(t *testing.T) {
	client := x509.ExtKeyUsageClientAuth
	ca, caKey, caPEM := certificate(t, "Sender CA", true, nil, nil, client)
	_, _, goodPEM := certificate(t, "hooks.sender.example", false, ca, caKey, client)
	good, _, _ := certificate(t, "hooks.sender.example", false, ca, caKey, client)
	_, _, otherName := certificate(t, "someone.else.example", false, ca, caKey, client)
	_, _, server := certificate(t, "hooks.sender.example", false, ca, caKey, x509.ExtKeyUsageServerAuth)
	evil, evilKey, _ := certificate(t, "Sender CA", true, nil, nil, client)
	_, _, forged := certificate(t, "hooks.sender.example", false, evil, evilKey, client)
	spec := Spec{Scheme: "client_certificate", Header: "Client-Cert", Names: []string{"hooks.sender.example"}}
	byCA, err := Compile(spec, nil, Options{PublicKeys: []string{caPEM}})
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := Compile(spec, nil, Options{PublicKeys: []string{goodPEM}})
	if err != nil {
		t.Fatal(err)
	}
	rfc9440 := ":" + base64.StdEncoding.EncodeToString(good.Raw) + ":"
	for _, tt := range []struct {
		name, value string
		at          time.Duration
		ca, pinned  bool
	}{
		{"percent-encoded PEM", url.PathEscape(goodPEM), 0, true, true},
		{"RFC 9440", rfc9440, 0, true, false},
		{"expired", url.PathEscape(goodPEM), 2 * time.Hour, false, false},
		{"not yet", url.PathEscape(goodPEM), -2 * time.Hour, false, false},
		{"another name", url.PathEscape(otherName), 0, false, false},
		{"for servers", url.PathEscape(server), 0, false, false},
		{"another issuer of the same name", url.PathEscape(forged), 0, false, false},
		{"the issuer itself", url.PathEscape(caPEM), 0, false, false},
		{"garbage", ":AAAA:", 0, false, false},
		{"empty", "", 0, false, false},
	} {
		req := &event.Request{Method: "POST", Target: []byte("/"), Head: event.Head(nil).AppendString("Client-Cert", tt.value)}
		if got := byCA.Verify(req, benchTime.Add(tt.at)); got.OK != tt.ca {
			t.Errorf("%s, by issuer: %v", tt.name, got.Check)
		}
		if got := pinned.Verify(req, benchTime.Add(tt.at)); got.OK != tt.pinned {
			t.Errorf("%s, pinned: %v", tt.name, got.Check)
		}
		req.Head = append(req.Head, bytes.Clone(req.Head)...)
		if byCA.Verify(req, benchTime).OK {
			t.Errorf("%s: two lines are accepted", tt.name)
		}
	}
	if _, err := Compile(spec, nil, Options{}); err == nil {
		t.Error("no issuer is needed")
	}
	spec.Header, spec.Location = "", "connection"
	handshake, err := Compile(spec, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	both, err := Compile(spec, nil, Options{PublicKeys: []string{caPEM}})
	if err != nil {
		t.Fatal(err)
	}
	someone, _, _ := certificate(t, "someone.else.example", false, ca, caKey, client)
	stranger, _, _ := certificate(t, "hooks.sender.example", false, evil, evilKey, client)
	for _, tt := range []struct {
		name             string
		cert             *x509.Certificate
		handshake, check bool
	}{{"the sender's", good, true, true}, {"another name", someone, false, false}, {"none", nil, false, false}, {"an issuer that is not pinned", stranger, true, false}} {
		req := &event.Request{Method: "POST", Target: []byte("/"), Cert: tt.cert}
		req.Head = req.Head.AppendString("Client-Cert", rfc9440)
		if got := handshake.Verify(req, benchTime); got.OK != tt.handshake {
			t.Errorf("%s, of the connection: %v", tt.name, got.Check)
		}
		if got := both.Verify(req, benchTime); got.OK != tt.check {
			t.Errorf("%s, of the connection and pinned: %v", tt.name, got.Check)
		}
	}
	spec.Names = nil
	if _, err := Compile(spec, nil, Options{}); err == nil {
		t.Error("any certificate of the connection would do")
	}
	if s := (Spec{Scheme: "token", Location: "connection"}); s.Check() == nil {
		t.Error("a token may be a connection")
	}
}

// Any of its names will do, and no part of one.
func TestNamesOfACertificate(t *testing.T) {
	const name = "spiffe://sender/hooks"
	uri, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range []*x509.Certificate{
		{DNSNames: []string{"x", name}}, {EmailAddresses: []string{"x", name}}, {Subject: pkix.Name{CommonName: name}}, {URIs: []*url.URL{{}, uri}},
	} {
		if !named(cert, name) || named(cert, name[:len(name)-1]) || named(cert, name+"x") {
			t.Errorf("%+v", cert)
		}
	}
}

// A key that cannot be had now leaves open whether one of several ways is good, and a way that is good needs it not.
func TestAKeyThatCannotBeHadLeavesAnyOpen(t *testing.T) {
	published := Spec{Scheme: "public_key", Algorithm: "ed25519", Encoding: "base64", Header: "X-Signature", Signed: "{body}", Key: "key_id", KeyFrom: "header:X-Key-Id", JWKS: "https://a.example/jwks"}
	token := Spec{Scheme: "token", Header: "X-Token"}
	head := event.Head(nil).AppendString("X-Signature", base64.StdEncoding.EncodeToString(make([]byte, 64))).AppendString("X-Key-Id", "k")
	for _, tt := range []struct {
		spec  Spec
		token string
		want  Check
	}{
		{published, "", CheckKeys},
		{Spec{Any: []Spec{token, published}}, "wrong", CheckKeys},
		{Spec{Any: []Spec{published, token}}, "wrong", CheckKeys},
		{Spec{Any: []Spec{published, token}}, "the-token", CheckNone},
		{Spec{All: []Spec{token, published}}, "wrong", CheckMismatch},
		{Spec{All: []Spec{token, published}}, "the-token", CheckKeys},
	} {
		v, err := Compile(tt.spec, []Secret{NewSecret([]byte("the-token"))}, Options{Keys: func(*Spec) KeySource { return offline{} }})
		if err != nil {
			t.Fatal(err)
		}
		got := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head[:len(head):len(head)].AppendString("X-Token", tt.token), Body: []byte("{}")}, benchTime)
		if got.Check != tt.want || got.OK != (tt.want == CheckNone) {
			t.Errorf("%+v, %q: %v", tt.spec, tt.token, got.Check)
		}
	}
}

// The same of several signatures by RFC 9421: that one of them is none says nothing of the one whose key cannot be had now.
func TestAKeyThatCannotBeHadLeavesALabelOpen(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Scheme: "http_signature", Algorithm: "ed25519", Components: []string{"@method"}, JWKS: "https://a.example/jwks"}
	v, err := Compile(spec, nil, Options{Keys: func(*Spec) KeySource { return halfOffline{public} }})
	if err != nil {
		t.Fatal(err)
	}
	no := base64.StdEncoding.EncodeToString(make([]byte, 64))
	for names, want := range map[[2]string]Check{{"known", "new"}: CheckKeys, {"new", "known"}: CheckKeys, {"known", "known"}: CheckMismatch} {
		head := event.Head(nil).AppendString("Signature", "a=:"+no+":, b=:"+no+":").
			AppendString("Signature-Input", fmt.Sprintf(`a=("@method");created=1;keyid=%q, b=("@method");created=1;keyid=%q`, names[0], names[1]))
		if got := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head}, benchTime); got.Check != want {
			t.Errorf("%q: %v", names, got.Check)
		}
	}
}

// halfOffline knows one key, and cannot ask for others.
type halfOffline struct{ key ed25519.PublicKey }

func (h halfOffline) Key(_ context.Context, name string) ([]byte, error) {
	if name != "known" {
		return nil, ErrKeyLater
	}
	return fmt.Appendf(nil, `{"kty":"OKP","crv":"Ed25519","x":%q}`, base64.RawURLEncoding.EncodeToString(h.key)), nil
}

// offline is a KeySource that cannot ask.
type offline struct{}

func (offline) Key(context.Context, string) ([]byte, error) { return nil, ErrKeyLater }

// Where several signatures would do, each is a replay key: a captured request from which all but one are taken away is known.
func TestEverySignatureThatWouldDoIsAReplayKey(t *testing.T) {
	secrets := []Secret{NewSecret([]byte("new-secret")), NewSecret([]byte("old-secret")), NewSecret([]byte("old-secret"))}
	hmacOf := func(algorithm, header string, use ...int) Spec {
		return Spec{Scheme: "hmac", Algorithm: algorithm, Encoding: "hex", Header: header, Signed: "{body}", Use: use}
	}
	list := hmacOf("sha256", "X-List")
	list.Format = "list"
	for name, spec := range map[string]Spec{
		"two schemes":                    {Any: []Spec{hmacOf("sha256", "X-A", 1), hmacOf("sha1", "X-B", 1)}},
		"two secrets in one header":      list,
		"one of two, and another scheme": {Any: []Spec{list, hmacOf("sha1", "X-B", 1)}},
		"one of two beside another":      {All: []Spec{list, hmacOf("sha1", "X-B", 1)}},
		"another beside one of two":      {All: []Spec{hmacOf("sha1", "X-B", 1), list}},
	} {
		v, err := Compile(spec, secrets, Options{})
		if err != nil {
			t.Fatal(err)
		}
		a, b := sumOf("sha256", "new-secret"), sumOf("sha1", "new-secret")
		old := sumOf("sha256", "old-secret")
		judge := func(lines ...string) map[string]bool {
			head := event.Head(nil)
			for i := 0; i < len(lines); i += 2 {
				head = head.AppendString(lines[i], lines[i+1])
			}
			verdict := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head, Body: []byte("{}")}, benchTime)
			keys := map[string]bool{}
			for _, mac := range append(verdict.Others, verdict.MAC) {
				if verdict.OK && keys[string(mac)] {
					t.Errorf("%s: the same key twice", name)
				}
				keys[string(mac)] = verdict.OK
			}
			return keys
		}
		whole := judge("X-A", a, "X-B", b, "X-List", a+","+old)
		for _, less := range []map[string]bool{judge("X-A", a), judge("X-B", b), judge("X-List", old), judge("X-List", a), judge("X-List", old, "X-B", b), judge("X-List", a, "X-B", b)} {
			for key, ok := range less {
				if ok && !whole[key] {
					t.Errorf("%s: %x is no key of the whole request", name, key)
				}
			}
		}
	}
}

// The same of RFC 9421, where each signature has a label of its own.
func TestEveryLabelThatWouldDoIsAReplayKey(t *testing.T) {
	spec := Spec{Scheme: "http_signature", Algorithm: "hmac-sha256", Components: []string{"@method", "content-digest"}}
	signer := func(names ...string) *Verifier {
		var secrets []Secret
		for _, n := range names {
			secrets = append(secrets, NewSecret([]byte(n)))
		}
		v, err := Compile(spec, secrets, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	plain := &event.Request{Method: "POST", Target: []byte("/"), Body: []byte("{}")}
	signed := func(v *Verifier, label string) (req *event.Request, input, sig string) {
		req, err := v.Sign(plain, benchTime)
		if err != nil {
			t.Fatal(err)
		}
		i, _ := req.Head.Get("Signature-Input")
		s, _ := req.Head.Get("Signature")
		return req, label + strings.TrimPrefix(string(i), "sig1"), label + strings.TrimPrefix(string(s), "sig1")
	}
	_, input1, sig1 := signed(signer("new-secret"), "a")
	both, input2, sig2 := signed(signer("old-secret"), "b")
	one := signer("new-secret", "old-secret").Verify(both, benchTime)
	both = both.Clone()
	both.Head = setLine(setLine(both.Head, "Signature-Input", []byte(input1+", "+input2)), "Signature", []byte(sig1+", "+sig2))
	whole := signer("new-secret", "old-secret").Verify(both, benchTime)
	if !one.OK || !whole.OK {
		t.Fatal(one.Check, whole.Check)
	}
	if !slices.ContainsFunc(append(whole.Others, whole.MAC), func(mac []byte) bool { return bytes.Equal(mac, one.MAC) }) {
		t.Error("the second signature is no key of the whole request")
	}
}

// RFC 9421 §2.2.6 to §2.2.8: the path is that of the URL that the sender called, and the names and values of query parameters are encoded anew.
func TestSignedPathsAndParameters(t *testing.T) {
	base := strings.Join([]string{`"@target-uri": https://h.example/pre/in?fa%c3%a7ade%22%3a+=a+b%2A~`, `"@path": /pre/in`, `"@request-target": /pre/in?fa%c3%a7ade%22%3a+=a+b%2A~`,
		`"@query-param";name="fa%C3%A7ade%22%3A%20": a%20b*%7E`, ""}, "\n")
	params := fmt.Sprintf(`("@target-uri" "@path" "@request-target" "@query-param";name="fa%%C3%%A7ade%%22%%3A%%20");created=%d`, benchTime.Unix())
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte(base + `"@signature-params": ` + params))
	v, err := Compile(Spec{Scheme: "http_signature", Algorithm: "hmac-sha256", Components: []string{"@path"}}, []Secret{NewSecret([]byte("secret"))}, Options{PublicURL: "https://h.example/pre/"})
	if err != nil {
		t.Fatal(err)
	}
	req := &event.Request{Method: "POST", Target: []byte("/in?fa%c3%a7ade%22%3a+=a+b%2A~")}
	req.Head = req.Head.AppendString("Signature-Input", "s="+params).AppendString("Signature", "s=:"+base64.StdEncoding.EncodeToString(mac.Sum(nil))+":")
	if got := v.Verify(req, benchTime); !got.OK {
		t.Error(got.Check)
	}
}

// Of a field that is there twice with one value {form_sorted} has one, and {url_sorted} both, as the senders that use them.
func TestRepeatedFieldsThatAreSigned(t *testing.T) {
	for signed, want := range map[string]string{"{form_sorted}": "A1A2", "{url_sorted}": "https://h.example/in?b=1&b=1.A1A1A2"} {
		v, err := Compile(Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Sig", Signed: signed}, []Secret{NewSecret([]byte("secret"))}, Options{PublicURL: "https://h.example"})
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, []byte("secret"))
		mac.Write([]byte(want))
		req := &event.Request{Method: "POST", Target: []byte("/in?b=1&b=1"), Body: []byte("A=2&A=1&A=1")}
		req.Head = req.Head.AppendString("Content-Type", "application/x-www-form-urlencoded").AppendString("X-Sig", hex.EncodeToString(mac.Sum(nil)))
		if got := v.Verify(req, benchTime); !got.OK {
			t.Errorf("%s: %s", signed, got.Check)
		}
	}
}

// What authenticates no body is no replay key, alone or beside another: its sender repeats it, and whoever captured two requests could put the one's
// beside the other's. It takes nothing from those that are one.
func TestWhatRepeatsIsNoReplayKey(t *testing.T) {
	body := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Body", Signed: "{body}"}
	repeats := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Session", Signed: "{header:X-Name}"}
	token := Spec{Scheme: "token", Header: "X-Token"}
	fresh, timed := repeats, body
	fresh.Signed, fresh.Timestamp, fresh.Tolerance = "{header:X-Name}{timestamp}", "header:X-Time", 5*time.Minute
	timed.Signed, timed.Timestamp, timed.Tolerance = "{timestamp}{body}", "header:X-Time", 5*time.Minute
	id, err := selector.ParseList("header:X-Id")
	if err != nil {
		t.Fatal(err)
	}
	session := func(name string) string {
		mac := hmac.New(hashOf("sha256"), []byte("the-secret"))
		mac.Write([]byte(name))
		return hex.EncodeToString(mac.Sum(nil))
	}
	for name, tt := range map[string]struct {
		spec  Spec
		needs bool
	}{
		"a token or the body":              {Spec{Any: []Spec{token, body}}, true},
		"a session or the body":            {Spec{Any: []Spec{repeats, body}}, true},
		"a session and the body":           {Spec{All: []Spec{repeats, body}}, true},
		"a session that ends and the body": {Spec{All: []Spec{fresh, body}}, true},
		"the body of a time and a token":   {Spec{All: []Spec{timed, token}}, false},
		"the body and a token":             {Spec{All: []Spec{body, token}}, true},
		"a session or a token, no more":    {Spec{Any: []Spec{repeats, token}}, false},
	} {
		v, err := Compile(tt.spec, []Secret{NewSecret([]byte("the-secret"))}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.NeedsReplayKey(id); got != tt.needs {
			t.Errorf("%s: needs a replay key: %v", name, got)
		}
		if !tt.needs {
			continue
		}
		for _, lines := range [][]string{{"X-Name", "a", "X-Session", session("a")}, {"X-Name", "b", "X-Session", session("b")}, {"X-Token", "the-secret"}, nil} {
			head := event.Head(nil).AppendString("X-Body", sumOf("sha256", "the-secret"))
			for i := 0; i < len(lines); i += 2 {
				head = head.AppendString(lines[i], lines[i+1])
			}
			verdict := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head, Body: []byte("{}")}, benchTime)
			if verdict.OK && (hex.EncodeToString(verdict.MAC) != sumOf("sha256", "the-secret") || len(verdict.Others) > 0) {
				t.Errorf("%s, %v: replay keys %x and %x", name, lines, verdict.MAC, verdict.Others)
			}
		}
	}
}

func sumOf(algorithm, secret string) string {
	mac := hmac.New(hashOf(algorithm), []byte(secret))
	mac.Write([]byte("{}"))
	return hex.EncodeToString(mac.Sum(nil))
}
