package provider

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

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
