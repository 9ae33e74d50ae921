package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

func TestASecretNeverPrints(t *testing.T) {
	s := NewSecret([]byte("hunter2"))
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "p", &s)
	j, _ := json.Marshal(map[string]any{"a": s, "b": &s, "c": []Secret{s}})
	all := log.String() + string(j) + s.String() + fmt.Sprintf("%v %+v %#v %s %q %x %d %v %+v", s, s, s, s, s, s, s, []Secret{s}, struct{ S Secret }{s})
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e74657232") || strings.Contains(all, "104 117") {
		t.Error(all)
	}
}

// The value of these headers is not shown where payloads are.
func TestShowsSecretIsAboutTokensAsTheyAre(t *testing.T) {
	token := Spec{Scheme: "token", Header: "X-Token", Also: []string{"X-Old-Token"}}
	for _, tt := range []struct {
		spec   Spec
		header string
		want   bool
	}{
		{token, "x-token", true},
		{token, "X-OLD-TOKEN", true},
		{token, "X-Token-2", false},
		{Spec{Scheme: "token", Location: "headers:X-T-"}, "x-t-12", true},
		{Spec{Scheme: "token", Location: "query:t"}, "t", false},
		{Spec{Scheme: "hmac", Header: "X-Signature"}, "X-Signature", false},
		{Spec{Scheme: "hmac", Header: "X-Signature", Allow: "header:X-Key"}, "X-Key", true},
		{Spec{Any: []Spec{{Scheme: "hmac", Header: "X-Signature"}, token}}, "X-Token", true},
		{Spec{All: []Spec{token, {Scheme: "hmac", Header: "X-Signature"}}}, "X-Signature", false},
	} {
		if got := tt.spec.ShowsSecret(tt.header, nil); got != tt.want {
			t.Errorf("%+v, %s: %v", tt.spec, tt.header, got)
		}
	}
}

func TestCompileRefusesSecretsThatProveNothing(t *testing.T) {
	hexKey, b64 := fieldsSpec.Clone(), fieldsSpec.Clone()
	hexKey.Key, b64.Key = "hex", "base64"
	tests := []struct {
		name   string
		spec   Spec
		secret string
	}{
		{"empty", fieldsSpec, ""}, {"a newline", fieldsSpec, "\n"}, {"a trailing newline", fieldsSpec, "abc\n"}, {"a leading space", fieldsSpec, " abc"},
		{"not hex", hexKey, "xyz!"}, {"odd hex", hexKey, "abc"}, {"not base64", b64, "a"}, {"base64 of nothing", taggedSpec, "whsec_"},
		{"base64 with a line break", b64, "YWJj\nZGVm"}, {"loose base64", b64, "YWJjZB=="}, {"an asymmetric key", taggedSpec, "whpk_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile(tt.spec, []Secret{NewSecret([]byte(tt.secret))}, Options{})
			var se *SpecError
			if !errors.As(err, &se) || se.Field != "secrets" {
				t.Fatalf("%v", err)
			}
			if s := strings.TrimSpace(tt.secret); len(s) > 3 && strings.Contains(err.Error(), s) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := Compile(fieldsSpec, nil, Options{}); err == nil {
		t.Error("no secret at all was accepted")
	}
}

// A public key that no signature of the scheme can fit is refused: every genuine request was a 401, and nothing said why.
func TestCompileRefusesKeysOfAnotherKind(t *testing.T) {
	text := map[string]string{}
	for name, make := range map[string]func() (any, error){
		"rsa": func() (any, error) { k, err := rsa.GenerateKey(rand.Reader, 2048); return &k.PublicKey, err },
		"p256": func() (any, error) {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			return &k.PublicKey, err
		},
		"p384": func() (any, error) {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			return &k.PublicKey, err
		},
		"ed": func() (any, error) { k, _, err := ed25519.GenerateKey(rand.Reader); return k, err },
	} {
		key, err := make()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		text[name] = base64.StdEncoding.EncodeToString(der)
	}
	signed := func(algorithm string) Spec {
		return Spec{Scheme: "public_key", Algorithm: algorithm, Encoding: "base64", Header: "S", Key: "spki", Signed: "{body}"}
	}
	token := func(algorithms ...string) Spec { return Spec{Scheme: "jwt", Header: "S", Algorithms: algorithms} }
	chosen := signed("")
	chosen.AlgorithmFrom, chosen.AlgorithmChoices = "json:v", map[string]string{"1": "rsa-sha1", "2": "rsa-sha256"}
	for _, tt := range []struct {
		spec   Spec
		keys   string
		secret string
		want   string
	}{
		{signed("ed25519"), "ed", "", ""},
		{signed("ed25519"), "rsa", "", "number 1 is an RSA key, not one for ed25519"},
		{signed("ed25519"), "rsa ed", "", ""}, // parts of all and any share them
		{signed("ecdsa-sha256"), "p384", "", ""},
		{signed("ecdsa-sha256"), "ed", "", "number 1 is an Ed25519 key, not one for ecdsa-sha256"},
		{signed("rsa-sha256"), "p256", "", "number 1 is a key on P-256, not one for rsa-sha256"},
		{chosen, "rsa", "", ""},
		{chosen, "ed", "", "number 1 is an Ed25519 key, not one for rsa-sha1, rsa-sha256"},
		{token("ES256"), "p256", "", ""},
		{token("ES256"), "p384", "", "number 1 is a key on P-384, not one for ES256"},
		{token("HS256", "RS256", "ES384"), "p384", "", ""},
		{token("HS256", "RS256"), "ed", "", "number 1 is an Ed25519 key, not one for RS256"},
		{token("HS256", "RS256"), "ed", "the-secret", ""},
		{Spec{Scheme: "http_signature", Algorithm: "rsa-pss-sha512"}, "rsa", "", ""},
		{Spec{Scheme: "http_signature", Algorithm: "ecdsa-p384-sha384"}, "p256", "", "number 1 is a key on P-256, not one for ecdsa-p384-sha384"},
	} {
		var opts Options
		for name := range strings.FieldsSeq(tt.keys) {
			opts.PublicKeys = append(opts.PublicKeys, text[name])
		}
		var secrets []Secret
		if tt.secret != "" {
			secrets = []Secret{NewSecret([]byte(tt.secret))}
		}
		_, err := Compile(tt.spec, secrets, opts)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s %v, keys %q: %v, want %q", tt.spec.Scheme, tt.spec.Algorithm, tt.spec.Algorithms, tt.keys, err, tt.want)
		}
	}
}

func TestCheckNamesEveryFault(t *testing.T) {
	s := Spec{Mode: "off", Scheme: "hmac", Algorithm: "md4", Encoding: "octal", Header: "X Y", Signed: "{body}{nope}", Tolerance: -1, Unit: "min", Refuse: "(",
		Format: "fields", Require: map[string]string{"X Y": "1"}}
	err := s.Check()
	for _, field := range []string{"mode:", "algorithm:", "encoding:", "header:", "signed:", "tolerance:", "unit:", "refuse:", "fields:", "require:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not in %v", field, err)
		}
	}
	digest := Spec{Scheme: "digest", Algorithm: "sha256", Encoding: "hex", Header: "X", Signed: "{body}"}
	if digest.Check() == nil {
		t.Error("a digest without a secret was accepted")
	}
	late := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X", Signed: "{timestamp}.{body}"}
	if late.Check() == nil {
		t.Error("{timestamp} without a timestamp was accepted")
	}
	prefixed := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X", Signed: "{id}.{body}", ID: "header:X-Id"} // no request has such a header
	if err := prefixed.Check(); err == nil || !strings.Contains(err.Error(), "id:") {
		t.Errorf("a name that no header has was accepted for {id}: %v", err)
	}
}

func TestVerdicts(t *testing.T) {
	v := mustCompile(t, fieldsSpec, "old-secret", "secret")
	signer := mustCompile(t, fieldsSpec, "secret")
	good := signedKiB(t, signer)
	sig, _ := good.Head.Get("X-Signature")
	head := func(value string) *event.Request {
		r := good.Clone()
		r.Head = setLine(r.Head, "X-Signature", []byte(value))
		return r
	}
	tests := []struct {
		name string
		req  *event.Request
		at   time.Duration
		want Check
	}{
		{"good", good, 0, CheckNone},
		{"as old as allowed", good, 5 * time.Minute, CheckNone},
		{"as old as allowed, by whole seconds", good, 5*time.Minute + 999*time.Millisecond, CheckNone}, // the sender cut its fraction off
		{"a second older", good, 5*time.Minute + time.Second, CheckStale},
		{"as early as allowed", good, -5 * time.Minute, CheckNone},
		{"earlier", good, -5*time.Minute - 1, CheckFuture},
		{"upper-case hex", head(strings.ToUpper(string(sig[:0])) + "t=1760000000,v1=" + strings.ToUpper(string(sig[len("t=1760000000,v1="):]))), 0, CheckNone},
		{"another signature first", head("t=1760000000,v1=" + strings.Repeat("0", 64) + string(sig[len("t=1760000000"):])), 0, CheckNone},
		{"32 signatures", head(strings.Repeat("v1="+strings.Repeat("0", 64)+",", 31) + string(sig)), 0, CheckNone},
		{"33 signatures", head(strings.Repeat("v1="+strings.Repeat("0", 64)+",", 32) + string(sig)), 0, CheckTooLarge},
		{"over 16 KiB", head(string(sig) + ",x=" + strings.Repeat("x", MaxHeader)), 0, CheckTooLarge},
		{"no timestamp", head(string(sig[len("t=1760000000,"):])), 0, CheckMissing},
		{"two timestamps", head("t=1760000000," + string(sig)), 0, CheckDuplicate},
		{"a leading zero", head("t=01760000000" + string(sig[len("t=1760000000"):])), 0, CheckMalformed},
		{"17 digits", head("t=17600000000000000" + string(sig[len("t=1760000000"):])), 0, CheckMalformed},
		{"16 digits", head("t=9999999999999999" + string(sig[len("t=1760000000"):])), 0, CheckMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := v.Verify(tt.req, benchTime.Add(tt.at))
			if got.Check != tt.want || got.OK != (tt.want == CheckNone) {
				t.Fatalf("%v, want %v", got.Check, tt.want)
			}
			if got.OK && (got.SecretIndex != 1 || len(got.MAC) != 32 || !got.SignedAt.Equal(benchTime) || got.Binds != BindsBody) {
				t.Errorf("%+v", got)
			}
			if !got.OK && (got.MAC != nil || got.SecretIndex != -1) {
				t.Errorf("a refused request shows %+v", got)
			}
		})
	}
}

func TestResignReplacesTheLinesInPlace(t *testing.T) {
	later := benchTime.Add(time.Hour)
	for name, v := range map[string]*Verifier{"fields": mustCompile(t, fieldsSpec, "secret", "old"), "tagged": mustCompile(t, taggedSpec, "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v")} {
		req := signedKiB(t, v)
		req.Head = req.Head.AppendString("X-Last", "1")
		head, ok := v.Resign(req, later)
		if !ok {
			t.Fatalf("%s: cannot sign again", name)
		}
		again := *req
		again.Head = head
		if got := v.Verify(&again, later); !got.OK || !got.SignedAt.Equal(later) {
			t.Errorf("%s: %v", name, got.Check)
		}
		var before, after []string
		for k := range req.Head.All() {
			before = append(before, string(k))
		}
		for k := range head.All() {
			after = append(after, string(k))
		}
		if strings.Join(before, ",") != strings.Join(after, ",") {
			t.Errorf("%s: lines %v became %v", name, before, after)
		}
		if !v.Verify(req, benchTime).OK {
			t.Errorf("%s: the stored request was changed", name)
		}
	}
	bare := fieldsSpec.Clone()
	bare.Format, bare.Fields, bare.Timestamp, bare.Signed = "", nil, "", "{body}"
	v := mustCompile(t, bare, "secret")
	if _, ok := v.Resign(signedKiB(t, v), later); ok {
		t.Error("a scheme without a timestamp needs no second signature")
	}
}

func TestReplayKeyIsNeededForUnsignedIDsOnly(t *testing.T) {
	bare := fieldsSpec.Clone()
	bare.Format, bare.Fields, bare.Timestamp, bare.Signed, bare.Tolerance = "", nil, "", "{body}", 0
	ageless := fieldsSpec.Clone()
	ageless.Tolerance = 0
	typed, field := bare.Clone(), bare.Clone()
	typed.Signed, field.Signed, field.Binds = "{header:Content-Type}.{body}", "{form:id}", "body"
	tests := []struct {
		name string
		spec Spec
		id   string
		want bool
	}{
		{"an unsigned header, no timestamp", bare, "header:X-Id", true},
		{"in the body", bare, "json:id", false},
		{"the body's hash", bare, "body:sha256", false},
		{"an unsigned query", bare, "query:id", true},
		{"an unsigned header, a timestamp", fieldsSpec, "header:X-Id", false},
		{"an unsigned header, a timestamp of any age", ageless, "header:X-Id", true},
		{"a signed header", taggedSpec, "header:Webhook-Id", false},
		{"a field of a form, which another Content-Type hides", bare, "form:id | body:sha256", true},
		{"a field of a form, a timestamp", fieldsSpec, "json:id | form:id", true},
		{"a field of a form, its Content-Type signed", typed, "form:id | body:sha256", false},
		{"a signed field of a form", field, "form:id", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			secret := "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v"
			list, err := selector.ParseList(tt.id)
			if err != nil {
				t.Fatal(err)
			}
			if got := mustCompile(t, tt.spec, secret).NeedsReplayKey(list); got != tt.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestExplainSaysWhatWouldHelp(t *testing.T) {
	v := mustCompile(t, fieldsSpec, "other", "secret")
	plain := fieldsSpec.Clone()
	plain.Format, plain.Fields, plain.Timestamp, plain.Signed, plain.Prefix = "", nil, "", "{body}", "sha256="
	p := mustCompile(t, plain, "secret")
	b64 := plain.Clone()
	b64.Key = "base64"
	ms := fieldsSpec.Clone()
	ms.Unit = "ms"
	inMilliseconds, inBase64 := mustCompile(t, ms, "secret"), plain.Clone()
	inBase64.Encoding = "base64"
	edit := func(req *event.Request, change func(*event.Request)) *event.Request {
		c := req.Clone()
		change(c)
		return c
	}
	fields := signedKiB(t, mustCompile(t, fieldsSpec, "secret"))
	token := mustCompile(t, Spec{Scheme: "jwt", Location: "bearer", Algorithms: []string{"HS256"}, MaxAge: time.Hour}, "secret")
	signed := signedKiB(t, token)
	tests := []struct {
		name string
		v    *Verifier
		req  *event.Request
		at   time.Duration
		want string
	}{
		{"good", v, fields, 0, "fits secret or key number 2"},
		{"stale", v, fields, 612 * time.Second, "312 s too old"},
		{"future", v, fields, -310 * time.Second, "10 s too far in the future"},
		{"a newline", p, edit(signedKiB(t, p), func(r *event.Request) { r.Body = append(r.Body, '\n') }), 0, "would fit without the trailing newline"},
		{"no prefix", p, edit(signedKiB(t, p), func(r *event.Request) { r.Head = bytes.Replace(r.Head, []byte("sha256="), nil, 1) }), 0, `does not begin with "sha256="`},
		{"absent", p, edit(signedKiB(t, p), func(r *event.Request) { r.Head = dropLines(r.Head, "X-Signature").AppendString("X-Hub-Signature", "1") }), 0, "there is no header X-Signature"},
		{"another header", p, edit(signedKiB(t, p), func(r *event.Request) { r.Head = dropLines(r.Head, "X-Signature").AppendString("X-Hub-Signature", "1") }), 0, "there is a header X-Hub-Signature"},
		{"twice", p, edit(signedKiB(t, p), func(r *event.Request) { r.Head = r.Head.AppendString("x-signature", "1") }), 0, "X-Signature (2 lines)"},
		{"milliseconds for seconds", mustCompile(t, fieldsSpec, "secret"), signedKiB(t, inMilliseconds), 0, "its time is not in the unit s"},
		{"hex for base64", mustCompile(t, inBase64, "secret"), signedKiB(t, p), 0, "would fit read as hex"},
		{"expired, and signed just now", token, signed, 400 * time.Second, "the signature fits, but it has expired"},
		{"a time that is none", v, edit(fields, func(r *event.Request) { r.Head = bytes.Replace(r.Head, []byte("t="), []byte("t=+"), 1) }), 0, "no signature or timestamp that can be read"},
		{"form of the key", mustCompile(t, plain, "c2VjcmV0"), signedKiB(t, mustCompile(t, b64, "c2VjcmV0")), 0, "with the secret taken as base64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var all []string
			for _, f := range tt.v.Explain(tt.req, benchTime.Add(tt.at)) {
				all = append(all, f.Text)
			}
			text := strings.Join(all, "\n")
			if !strings.Contains(text, tt.want) {
				t.Errorf("%q is not in:\n%s", tt.want, text)
			}
			if strings.Contains(text, "secret\"") || strings.Contains(text, "c2VjcmV0") {
				t.Errorf("shows a secret:\n%s", text)
			}
		})
	}
}

// fuzzHeader fuzzes the value of one header of a good request: it must never be accepted, unless it decodes to the
// good signature, and never panic.
func fuzzHeader(f *testing.F, v *Verifier, name string) {
	good := signedKiB(f, v)
	value, _ := good.Head.Get(name)
	want := v.Verify(good, benchTime)
	f.Add(string(value))
	f.Add(string(value) + "," + string(value))
	f.Add("t=1,v1=00")
	f.Add("v1,AAAA v1,")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\r\n\x00") {
			return
		}
		req := *good
		req.Head = setLine(good.Head, name, []byte(text))
		got := v.Verify(&req, benchTime)
		v.Explain(&req, benchTime)
		if got.OK && !bytes.Equal(got.MAC, want.MAC) {
			t.Fatalf("%q was accepted", text)
		}
		if got.OK && len(text) < 43 {
			t.Fatalf("%q was accepted, shorter than any signature", text)
		}
	})
}

func FuzzFieldsHeader(f *testing.F) {
	fuzzHeader(f, mustCompile(f, fieldsSpec, "secret"), "X-Signature")
}

func FuzzTaggedHeader(f *testing.F) {
	fuzzHeader(f, mustCompile(f, taggedSpec, "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v"), "webhook-signature")
}

func FuzzPlainHeader(f *testing.F) {
	spec := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "base64", Header: "X-Signature", Prefix: "sha256=", Signed: "{body}"}
	fuzzHeader(f, mustCompile(f, spec, "secret"), "X-Signature")
}

func FuzzListAndPositionalHeader(f *testing.F) {
	spec := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Format: "positional", Timestamp: "field:0", Signed: "{timestamp}.{body}", Tolerance: time.Hour}
	fuzzHeader(f, mustCompile(f, spec, "secret"), "X-Signature")
}

func FuzzParametersHeader(f *testing.F) {
	spec := Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "base64", Header: "X-Signature", Format: "parameters", Fields: []string{"signature"}, Timestamp: "header:Date", Unit: "http",
		Signed: "{method|lower} {target} {host} {timestamp} {sha256:body}", Tolerance: time.Hour}
	f.Add(`keyid="k", algorithm="hmac", signature="AAAA", headers="(request-target) host date digest"`)
	fuzzHeader(f, mustCompile(f, spec, "secret"), "X-Signature")
}

// The list of signed headers is signed itself: no other list is accepted, whatever it leaves out or adds.
func FuzzListOfHeaders(f *testing.F) {
	v := mustCompile(f, Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Timestamp: "header:X-Time", Unit: "ms", Signed: "{headers:X-Signed}\n{body}", Tolerance: time.Hour}, "secret")
	good := signedKiB(f, v)
	list, _ := good.Head.Get("X-Signed")
	for _, text := range []string{string(list), "x-signed", "x-time,x-signed", "x-signed,x-time,content-type", "", ",,", "X-Signed,x-time"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\r\n\x00") {
			return
		}
		req := *good
		req.Head = setLine(good.Head, "X-Signed", []byte(text))
		if got := v.Verify(&req, benchTime); got.OK != (strings.Trim(text, " \t") == string(list)) {
			t.Fatalf("%q: %v, %s", text, got.OK, got.Check)
		}
	})
}

func FuzzJWTHeader(f *testing.F) {
	spec := Spec{Scheme: "jwt", Algorithms: []string{"HS256", "ES256"}, Header: "X-Token", BodyClaim: "h", MaxAge: time.Hour}
	fuzzHeader(f, mustCompile(f, spec, "secret"), "X-Token")
}

func FuzzSignatureInputHeader(f *testing.F) {
	spec := Spec{Scheme: "http_signature", Algorithm: "hmac-sha256", Key: "base64", Components: []string{"@method", "@target-uri", "content-digest"}, Tolerance: time.Hour}
	f.Add(`sig1=("@method" "@query-param";name="a");created=1;keyid="x";nonce="\"";alg="hmac-sha256", b=()`)
	fuzzHeader(f, mustCompile(f, spec, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="), "Signature-Input")
}

func FuzzTemplate(f *testing.F) {
	f.Add("v0:{timestamp}:{body}")
	f.Add("[id:{query:data.id|lower};]{{x}[[{header:X?}")
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := parseTemplate(text)
		if err != nil {
			return
		}
		for _, o := range tmpl.ops {
			if o.kind == "" && len(o.literal) == 0 {
				t.Fatalf("%q has an empty literal", text)
			}
		}
	})
}
