// Package oracle asks the senders' own libraries: the same generated requests are judged by the engine and by the official Go SDK of the
// sender, and every disagreement has to be on a list, with its reason. It is a module of its own, so that the product depends on no SDK.
package oracle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	paddle "github.com/PaddleHQ/paddle-go-sdk/v4"
	"github.com/bwmarrin/discordgo"
	"github.com/google/go-github/v74/github"
	line "github.com/line/line-bot-sdk-go/v8/linebot/webhook"
	sendgrid "github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/slack-go/slack"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	stripe "github.com/stripe/stripe-go/v85/webhook"
	svix "github.com/svix/svix-webhooks/go"
	twilio "github.com/twilio/twilio-go/client"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/verify"
)

const whsec = "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v"

// oracle is one library: how it says yes.
type oracle struct {
	provider, secret, header string // header: where the signature is
	yes                      func(r *http.Request, body []byte) bool
	sign                     func(req *event.Request, at time.Time) *event.Request // of asymmetric schemes; nil = the engine signs
	keys                     []string
	form                     bool
	body                     string // of all its requests; "" = JSON, or a form
}

func oracles(t *testing.T) []oracle {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ecText := base64.StdEncoding.EncodeToString(spki)
	return []oracle{
		{provider: "stripe", secret: "whsec_test", header: "Stripe-Signature", yes: func(r *http.Request, body []byte) bool {
			return stripe.ValidatePayload(body, r.Header.Get("Stripe-Signature"), "whsec_test") == nil
		}},
		{provider: "github", secret: "gh", header: "X-Hub-Signature-256", yes: func(r *http.Request, body []byte) bool {
			return github.ValidateSignature(r.Header.Get("X-Hub-Signature-256"), body, []byte("gh")) == nil
		}},
		{provider: "slack", secret: "sl", header: "X-Slack-Signature", yes: func(r *http.Request, body []byte) bool {
			v, err := slack.NewSecretsVerifier(r.Header, "sl")
			if err != nil {
				return false
			}
			_, _ = v.Write(body)
			return v.Ensure() == nil
		}},
		{provider: "standard-webhooks", secret: whsec, header: "webhook-signature", yes: func(r *http.Request, body []byte) bool {
			w, err := standardwebhooks.NewWebhook(whsec)
			return err == nil && w.Verify(body, r.Header) == nil
		}},
		{provider: "svix", secret: whsec, header: "svix-signature", yes: func(r *http.Request, body []byte) bool {
			w, err := svix.NewWebhook(whsec)
			return err == nil && w.Verify(body, r.Header) == nil
		}},
		{provider: "line", secret: "ln", header: "X-Line-Signature", yes: func(r *http.Request, body []byte) bool {
			return line.ValidateSignature("ln", r.Header.Get("X-Line-Signature"), body)
		}},
		{provider: "paddle", secret: "pdl_ntfset_x", header: "Paddle-Signature", yes: func(r *http.Request, body []byte) bool {
			ok, err := paddle.NewWebhookVerifier("pdl_ntfset_x").Verify(r)
			return err == nil && ok
		}},
		{provider: "twilio", secret: "tw", header: "X-Twilio-Signature", form: true, yes: func(r *http.Request, body []byte) bool {
			v := twilio.NewRequestValidator("tw")
			return v.ValidateBody("https://hooks.example.com/h?x=1", body, r.Header.Get("X-Twilio-Signature"))
		}},
		{provider: "discord", header: "X-Signature-Ed25519", keys: []string{hex.EncodeToString(public)}, yes: func(r *http.Request, body []byte) bool {
			return discordgo.VerifyInteraction(r, public)
		}, sign: func(req *event.Request, at time.Time) *event.Request {
			stamp := strconv.FormatInt(at.Unix(), 10)
			sig := ed25519.Sign(private, append([]byte(stamp), req.Body...))
			return with(req, "X-Signature-Timestamp", stamp, "X-Signature-Ed25519", hex.EncodeToString(sig))
		}},
		{provider: "sendgrid", header: "X-Twilio-Email-Event-Webhook-Signature", keys: []string{ecText}, yes: func(r *http.Request, body []byte) bool {
			key, err := sendgrid.ConvertPublicKeyBase64ToECDSA(ecText)
			if err != nil {
				return false
			}
			ok, err := sendgrid.VerifySignature(key, body, r.Header.Get("X-Twilio-Email-Event-Webhook-Signature"), r.Header.Get("X-Twilio-Email-Event-Webhook-Timestamp"))
			return err == nil && ok
		}, sign: func(req *event.Request, at time.Time) *event.Request {
			stamp := strconv.FormatInt(at.Unix(), 10)
			sum := sha256.Sum256(append([]byte(stamp), req.Body...))
			sig, err := ecdsa.SignASN1(rand.Reader, ec, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return with(req, "X-Twilio-Email-Event-Webhook-Timestamp", stamp, "X-Twilio-Email-Event-Webhook-Signature", base64.StdEncoding.EncodeToString(sig))
		}},
	}
}

func with(req *event.Request, pairs ...string) *event.Request {
	out := req.Clone()
	for i := 0; i < len(pairs); i += 2 {
		out.Head = out.Head.AppendString(pairs[i], pairs[i+1])
	}
	return out
}

// replace gives the header another value.
func replace(req *event.Request, name string, change func(string) string) *event.Request {
	out := req.Clone()
	out.Head = nil
	for k, v := range req.Head.All() {
		if strings.EqualFold(string(k), name) {
			v = []byte(change(string(v)))
		}
		out.Head = out.Head.Append(string(k), v)
	}
	return out
}

// a way to spoil or to vary a genuine request.
type variation struct {
	name  string
	age   time.Duration
	apply func(o *oracle, req *event.Request) *event.Request
}

func same(_ *oracle, r *event.Request) *event.Request { return r }

func onHeader(change func(string) string) func(*oracle, *event.Request) *event.Request {
	return func(o *oracle, r *event.Request) *event.Request { return replace(r, o.header, change) }
}

func onBody(change func([]byte) []byte) func(*oracle, *event.Request) *event.Request {
	return func(_ *oracle, r *event.Request) *event.Request {
		out := r.Clone()
		out.Body = change(out.Body)
		return out
	}
}

var variations = []variation{
	{"genuine", 0, same},
	{"ten minutes old", 10 * time.Minute, same},
	{"ten minutes ahead", -10 * time.Minute, same},
	{"four seconds old", 4 * time.Second, same},
	{"body: a space more", 0, onBody(func(b []byte) []byte { return append(b, ' ') })},
	{"body: a byte changed", 0, onBody(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })},
	{"body: empty", 0, onBody(func([]byte) []byte { return nil })},
	{"signature: empty", 0, onHeader(func(string) string { return "" })},
	{"signature: half", 0, onHeader(func(s string) string { return s[:len(s)/2] })},
	{"signature: upper case", 0, onHeader(strings.ToUpper)},
	{"signature: a character changed", 0, onHeader(func(s string) string {
		at := len(s) * 2 / 3 // within the hex or base64 of every scheme, and not in what pads it
		other := byte('0')
		if s[at] == '0' {
			other = '1'
		}
		return s[:at] + string(other) + s[at+1:]
	})},
	{"signature: twice, comma between", 0, onHeader(func(s string) string { return s + "," + s })},
	{"signature: twice, space between", 0, onHeader(func(s string) string { return s + " " + s })},
	{"signature: garbage after it", 0, onHeader(func(s string) string { return s + "x" })},
	{"signature: quotes around it", 0, onHeader(func(s string) string { return `"` + s + `"` })},
	{"signature: on two lines", 0, func(o *oracle, r *event.Request) *event.Request {
		v, _ := r.Head.Get(o.header)
		return with(r, o.header, string(v))
	}},
}

// Where the engine and a library disagree, and why that is right.
var disagreements = map[string]string{
	"stripe: signature: on two lines":                    "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"github: signature: on two lines":                    "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"slack: signature: on two lines":                     "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"standard-webhooks: signature: on two lines":         "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"svix: signature: on two lines":                      "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"line: signature: on two lines":                      "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"paddle: signature: on two lines":                    "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"twilio: signature: on two lines":                    "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"discord: signature: on two lines":                   "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"sendgrid: signature: on two lines":                  "two lines of one header: a proxy on the way and the consumer may read different ones (the library reads the first)",
	"stripe: ten minutes ahead":                          "the library looks into the past only: a request kept back could be made fresh by its date",
	"paddle: ten minutes ahead":                          "the library checks no time unless told; the preset does, both ways",
	"paddle: ten minutes old":                            "the library checks no time unless told; the preset does, as the documents say",
	"discord: ten minutes old":                           "the library checks no time; a captured request could be repeated for ever",
	"discord: ten minutes ahead":                         "the library checks no time",
	"sendgrid: ten minutes old":                          "the library checks no time",
	"sendgrid: ten minutes ahead":                        "the library checks no time",
	"stripe: signature: twice, comma between":            "two timestamps in one header are ambiguous",
	"standard-webhooks: signature: twice, comma between": "the specification separates with a space; the library splits \"v1,…,v1,…\" at the first comma only and ignores the rest of an undecodable one",
	"svix: signature: twice, comma between":              "as standard-webhooks",
	"stripe: signature: twice, space between":            "one of the pairs cannot be read and is passed over, the other is genuine; the library refuses the whole header",
	"paddle: signature: twice, comma between":            "one of the pairs cannot be read and is passed over, the other is genuine",
	"paddle: signature: twice, space between":            "one of the pairs cannot be read and is passed over, the other is genuine",
}

// compiled is the engine's verifier for the oracle's requests.
func (o *oracle) compiled(t *testing.T) *verify.Verifier {
	t.Helper()
	p, ok := provider.Get(o.provider)
	if !ok {
		t.Fatal(o.provider)
	}
	var secrets []verify.Secret
	if o.secret != "" {
		secrets = append(secrets, verify.NewSecret([]byte(o.secret)))
	}
	v, err := verify.Compile(p.Verify, secrets, verify.Options{PublicURL: "https://hooks.example.com", PublicKeys: o.keys})
	if err != nil {
		t.Fatalf("%s: %v", o.provider, err)
	}
	return v
}

// varied makes a genuine request of the sender, signed as long ago as x says, and varies it.
func (o *oracle) varied(t *testing.T, v *verify.Verifier, x variation, now time.Time) *event.Request {
	t.Helper()
	req := &event.Request{Method: "POST", Target: []byte("/h?x=1"), Host: []byte("hooks.example.com"), Body: []byte(`{"id":"evt_1","type":"a.b","n":"` + x.name + `"}`)}
	switch {
	case o.body != "":
		req.Body = []byte(o.body)
		req = with(req, "Content-Type", "text/plain")
	case o.form:
		req.Body = []byte("CallSid=CA1&From=%2B1415&Digits=12")
		req = with(req, "Content-Type", "application/x-www-form-urlencoded")
	default:
		req = with(req, "Content-Type", "application/json", "webhook-id", "msg_1", "svix-id", "msg_1")
	}
	signed, err := req, error(nil)
	if o.sign != nil {
		signed = o.sign(req, now.Add(-x.age))
	} else if signed, err = v.Sign(req, now.Add(-x.age)); err != nil {
		t.Fatalf("%s: %v", o.provider, err)
	}
	return x.apply(o, signed)
}

// compare holds the engine's verdict against the library's. Every disagreement has to be on the list, and everything on the list has to be one.
type comparison struct {
	list   map[string]string
	agreed int
	seen   map[string]bool
}

func (c *comparison) compare(t *testing.T, key string, ours, theirs bool) {
	t.Helper()
	switch reason, listed := c.list[key]; {
	case ours == theirs:
		c.agreed++
		if listed {
			t.Errorf("%s is on the list (%s), but both say %v", key, reason, ours)
		}
	case !listed:
		t.Errorf("%s: the engine says %v, the library %v", key, ours, theirs)
	default:
		c.seen[key] = true
	}
}

func (c *comparison) end(t *testing.T) {
	t.Helper()
	for key := range c.list {
		if !c.seen[key] {
			t.Errorf("%s is on the list, but nothing of that name was asked", key)
		}
	}
	t.Logf("%d agreements, %d disagreements with a reason", c.agreed, len(c.seen))
}

func TestTheSendersOwnLibrariesAgree(t *testing.T) {
	c := comparison{list: disagreements, seen: map[string]bool{}}
	for _, o := range oracles(t) {
		v := o.compiled(t)
		for _, x := range variations {
			now := time.Now()
			req := o.varied(t, v, x, now)
			c.compare(t, o.provider+": "+x.name, v.Verify(req, now).OK, o.yes(asHTTP(t, req), req.Body))
		}
	}
	c.end(t)
}

func asHTTP(t *testing.T, req *event.Request) *http.Request {
	t.Helper()
	r, err := http.NewRequest(req.Method, "https://hooks.example.com"+string(req.Target), bytes.NewReader(req.Body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range req.Head.All() {
		r.Header.Add(string(k), string(v))
	}
	return r
}
