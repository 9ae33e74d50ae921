package verify

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
)

// token is a JWT as its sender makes it.
func token(claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	msg := b64([]byte(`{"typ":"JWT","alg":"HS512"}`)) + "." + b64([]byte(claims))
	mac := hmac.New(sha512.New, []byte("secret"))
	mac.Write([]byte(msg))
	return msg + "." + b64(mac.Sum(nil))
}

// A token has three parts in base64url, without padding; there is one way to write it.
func TestTokensAreCompact(t *testing.T) {
	v := mustCompile(t, Spec{Scheme: "jwt", Header: "X-Token", Algorithms: []string{"HS512"}, Binds: "origin"}, "secret")
	good := token(`{"jti":"1"}`)
	for text, want := range map[string]Check{
		good: CheckNone, good + "=": CheckMalformed, good + "==": CheckMalformed, strings.Replace(good, ".", "=.", 1): CheckMalformed, "!" + good: CheckMalformed,
		good + ".": CheckMalformed, good[:strings.LastIndexByte(good, '.')]: CheckMalformed,
	} {
		if got := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: event.Head("X-Token: " + text + "\r\n")}, benchTime); got.Check != want {
			t.Errorf("%s: %s, want %s", text, got.Check, want)
		}
	}
}

// A token's times move by its age, and nothing else that it says; one that is still good by its own word is left alone.
func TestTokensAreSignedAgain(t *testing.T) {
	at := benchTime.Unix()
	bySelf := Spec{Scheme: "jwt", Header: "X-Token", Algorithms: []string{"HS256", "HS512"}, Binds: "origin"}
	byAge := bySelf.Clone()
	byAge.MaxAge = 5 * time.Minute
	for _, c := range []struct {
		name         string
		spec         Spec
		claims, want string
		after        time.Duration
	}{
		{"iat and exp", bySelf, fmt.Sprintf(`{"jti":"1","exp":%d,"iat":%d}`, at+60, at), fmt.Sprintf(`{"jti":"1","exp":%d,"iat":%d}`, at+3660, at+3600), time.Hour},
		{"nbf and exp", bySelf, fmt.Sprintf(`{"nbf": %d, "exp": %d, "x":{"exp":1}}`, at-5, at+60), fmt.Sprintf(`{"nbf": %d, "exp": %d, "x":{"exp":1}}`, at+3600, at+3665), time.Hour},
		{"exp alone", bySelf, fmt.Sprintf(`{"exp":%d}`, at+60), fmt.Sprintf(`{"exp":%d}`, at+3900), time.Hour},
		{"not over yet", bySelf, fmt.Sprintf(`{"iat":%d,"exp":%d}`, at, at+3601), "", time.Hour},
		{"without times", bySelf, `{"jti":"1"}`, "", time.Hour},
		{"an age", byAge, fmt.Sprintf(`{"iat":%d.5}`, at-1), fmt.Sprintf(`{"iat":%d}`, at+7200), 2 * time.Hour},
	} {
		v := mustCompile(t, c.spec, "secret", "old")
		req := &event.Request{Method: "POST", Target: []byte("/"), Head: event.Head("X-Token: " + token(c.claims) + "\r\n")}
		if got := v.Verify(req, benchTime); !got.OK {
			t.Fatalf("%s: %s", c.name, got.Check)
		}
		now := benchTime.Add(c.after)
		head, ok := v.Resign(req, now)
		if ok != (c.want != "") {
			t.Errorf("%s: signed again: %t", c.name, ok)
			continue
		}
		if !ok {
			continue
		}
		line, _ := head.Get("X-Token")
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(string(line), ".")[1])
		if err != nil || string(raw) != c.want {
			t.Errorf("%s: %s, want %s", c.name, raw, c.want)
		}
		if got := v.Verify(&event.Request{Method: "POST", Target: []byte("/"), Head: head}, now); !got.OK {
			t.Errorf("%s: signed again it is %s", c.name, got.Check)
		}
	}
}

// Of several signatures (RFC 9421) the gateway's own gets new times; the others, and all other parameters, stay as they are, whatever text they hold.
func TestHTTPSignaturesAreSignedAgain(t *testing.T) {
	spec := Spec{Scheme: "http_signature", Algorithm: "hmac-sha256", Components: []string{"@method", "x-a"}, Tolerance: 5 * time.Minute}
	v := mustCompile(t, spec, "secret")
	plain := &event.Request{Method: "POST", Target: []byte("/"), Head: event.Head("X-A: 1\r\n")}
	signed, err := v.Sign(plain, benchTime)
	if err != nil {
		t.Fatal(err)
	}
	input, _ := signed.Head.Get("Signature-Input")
	sig, _ := signed.Head.Get("Signature")
	other := `xsig1=("@method" "x-a");keyid="sig1=:a;created=1)";created=1`
	signed.Head = setLine(signed.Head, "Signature-Input", []byte(other+", "+string(input)))
	signed.Head = setLine(signed.Head, "Signature", []byte("xsig1=:AAAA:,"+string(sig)))
	if got := v.Verify(signed, benchTime); !got.OK {
		t.Fatal(got.Check)
	}
	now := benchTime.Add(time.Hour)
	head, ok := v.Resign(signed, now)
	again := *signed
	again.Head = head
	if got := v.Verify(&again, now); !ok || !got.OK || !got.SignedAt.Equal(now) {
		t.Errorf("signed again: %t, %+v", ok, got)
	}
	input, _ = head.Get("Signature-Input")
	sig, _ = head.Get("Signature")
	if !strings.HasPrefix(string(input), other+", sig1=") || !strings.HasPrefix(string(sig), "xsig1=:AAAA:,sig1=:") {
		t.Errorf("%s\n%s", input, sig)
	}
	if _, ok := v.Resign(plain, now); ok {
		t.Error("what was never signed is signed")
	}
}

// Where there are several ways, what is signed again is what is too old by its own measure, beside ways that have none: the upstream may check it.
func TestOneOfSeveralWaysIsSignedAgain(t *testing.T) {
	stamped := func(header string, tolerance time.Duration) Spec {
		return Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: header, Signed: "{timestamp}.{body}", Timestamp: "header:" + header + "-Time", Tolerance: tolerance}
	}
	short, long := stamped("X-Short", 5*time.Minute), stamped("X-Long", 2*time.Hour)
	static := Spec{Scheme: "token", Header: "X-Static"}
	dated := Spec{Scheme: "jwt", Header: "X-Token", Algorithms: []string{"HS256", "HS512"}, Binds: "origin"}
	lasts := fmt.Sprintf(`{"iat":%d,"exp":%d}`, benchTime.Unix(), benchTime.Add(24*time.Hour).Unix())
	ends := fmt.Sprintf(`{"iat":%d,"exp":%d}`, benchTime.Unix(), benchTime.Add(time.Minute).Unix())
	for name, c := range map[string]struct {
		spec, check Spec
		claims      string
	}{
		"beside a token":                              {Spec{Any: []Spec{short, static}}, short, ends},
		"beside one that lasts longer":                {Spec{Any: []Spec{long, short}}, short, ends},
		"with a token":                                {Spec{All: []Spec{static, short}}, short, ends},
		"a token that ends, with one that never does": {Spec{All: []Spec{static, dated}}, dated, ends},
		"a token that ends, or one that never does":   {Spec{Any: []Spec{static, dated}}, dated, ends},
		"with a token that is still good":             {Spec{All: []Spec{dated, short}}, short, lasts},
	} {
		v := mustCompile(t, c.spec, "secret")
		plain := &event.Request{Method: "POST", Target: []byte("/"), Body: []byte("{}")}
		req, err := mustCompile(t, Spec{All: []Spec{short, long, static}}, "secret").Sign(plain, benchTime)
		if err != nil {
			t.Fatal(err)
		}
		req.Head = req.Head.AppendString("X-Token", token(c.claims))
		if got := v.Verify(req, benchTime); !got.OK || !got.SignedAt.Equal(benchTime) {
			t.Errorf("%s: %s, signed at %s", name, got.Check, got.SignedAt)
		}
		now := benchTime.Add(time.Hour)
		if after := v.ResignAfter(); after == 0 || after > 5*time.Minute {
			t.Errorf("%s: it is looked at after %s", name, after)
		}
		head, _ := v.Resign(req, now)
		again := *req
		again.Head = head
		if got := mustCompile(t, c.check, "secret").Verify(&again, now); !got.OK {
			t.Errorf("%s: signed again it is %s", name, got.Check)
		}
	}
}
