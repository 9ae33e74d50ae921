package oracle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/verify"
)

// question is one request for npm/judge.cjs: a library, what it is given, and how Node shows the request's headers.
type question struct {
	Library string            `json:"library"`
	Secret  string            `json:"secret"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Cert    string            `json:"cert,omitempty"`
}

// Where the engine and a library of npm disagree, and why that is right. Node joins lines of one name with a comma.
var npmDisagreements = map[string]string{
	"stripe: ten minutes ahead":                               "the library looks into the past only: a request kept back could be made fresh by its date",
	"stripe: signature: twice, comma between":                 "two timestamps in one header are ambiguous",
	"stripe: signature: on two lines":                         "two lines of one header: a proxy on the way and the consumer may read different ones",
	"svix: signature: twice, comma between":                   "the specification separates with a space; the library takes what stands between the first two commas and ignores the rest",
	"svix: signature: on two lines":                           "two lines of one header: a proxy on the way and the consumer may read different ones",
	"standardwebhooks: signature: twice, comma between":       "as svix",
	"standardwebhooks: signature: on two lines":               "as svix",
	"@slack/bolt: ten minutes ahead":                          "the library looks into the past only: a request kept back could be made fresh by its date",
	"discord-interactions: ten minutes old":                   "the library checks no time: a captured request could be repeated for ever",
	"discord-interactions: ten minutes ahead":                 "the library checks no time",
	"@sendgrid/eventwebhook: ten minutes old":                 "the library checks no time: a captured request could be repeated for ever",
	"@sendgrid/eventwebhook: ten minutes ahead":               "the library checks no time",
	"@sendgrid/eventwebhook: signature: twice, comma between": "Node's base64 ends at the padding and ignores what follows; one signature must have one text",
	"@sendgrid/eventwebhook: signature: twice, space between": "as with a comma",
	"@sendgrid/eventwebhook: signature: on two lines":         "as with a comma",
	"@sendgrid/eventwebhook: signature: garbage after it":     "Node's base64 ends at the padding and ignores what follows; one signature must have one text",
	"@sendgrid/eventwebhook: signature: quotes around it":     "Node's base64 passes over characters that are none of its own; one signature must have one text",
	"sns-validator: another topic, genuine":                   "Amazon signs the messages of every account: only topics that are configured may send",
}

// npmOracles are the senders whose JavaScript libraries are asked, by the name of the package.
func npmOracles(t *testing.T) map[string]oracle {
	t.Helper()
	out := map[string]oracle{
		"stripe":               {provider: "stripe", secret: "whsec_test", header: "Stripe-Signature"},
		"@octokit/webhooks":    {provider: "github", secret: "gh", header: "X-Hub-Signature-256"},
		"twilio":               {provider: "twilio", secret: "tw", header: "X-Twilio-Signature", form: true},
		"svix":                 {provider: "svix", secret: whsec, header: "svix-signature"},
		"standardwebhooks":     {provider: "standard-webhooks", secret: whsec, header: "webhook-signature"},
		"@shopify/shopify-api": {provider: "shopify", secret: "sh", header: "X-Shopify-Hmac-SHA256"},
		"@slack/bolt":          {provider: "slack", secret: "sl", header: "X-Slack-Signature"},
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out["discord-interactions"] = oracle{provider: "discord", header: "X-Signature-Ed25519", keys: []string{hex.EncodeToString(public)}, sign: func(req *event.Request, at time.Time) *event.Request {
		stamp := strconv.FormatInt(at.Unix(), 10)
		return with(req, "X-Signature-Timestamp", stamp, "X-Signature-Ed25519", hex.EncodeToString(ed25519.Sign(private, append([]byte(stamp), req.Body...))))
	}}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	out["@sendgrid/eventwebhook"] = oracle{provider: "sendgrid", header: "X-Twilio-Email-Event-Webhook-Signature", keys: []string{base64.StdEncoding.EncodeToString(spki)}, sign: func(req *event.Request, at time.Time) *event.Request {
		stamp := strconv.FormatInt(at.Unix(), 10)
		sum := sha256.Sum256(append([]byte(stamp), req.Body...))
		var sig []byte
		for len(sig)%3 == 0 { // one whose base64 has padding: what Node makes of the rest depends on it
			if sig, err = ecdsa.SignASN1(rand.Reader, ec, sum[:]); err != nil {
				t.Fatal(err)
			}
		}
		return with(req, "X-Twilio-Email-Event-Webhook-Timestamp", stamp, "X-Twilio-Email-Event-Webhook-Signature", base64.StdEncoding.EncodeToString(sig))
	}}
	return out
}

// ask has node judge all questions at once.
func ask(t *testing.T, questions []question) []bool {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not here: the libraries of npm are not asked")
	}
	if _, err := os.Stat("npm/node_modules"); err != nil {
		t.Skip("the libraries of npm are not here (npm ci --prefix e2e/oracle/npm --ignore-scripts): they are not asked")
	}
	in, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "npm/judge.cjs")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("judge.cjs: %v\n%s", err, stderr.Bytes())
	}
	var answers []bool
	if err := json.Unmarshal(got, &answers); err != nil || len(answers) != len(questions) {
		t.Fatalf("judge.cjs: %v, %d answers to %d questions\n%s", err, len(answers), len(questions), got)
	}
	return answers
}

// asNode is the request as Node's http shows it: names in lower case, lines of one name joined.
func asNode(library, secret string, req *event.Request) question {
	q := question{Library: library, Secret: secret, URL: "https://hooks.example.com" + string(req.Target), Headers: map[string]string{}, Body: base64.StdEncoding.EncodeToString(req.Body)}
	for k, v := range req.Head.All() {
		name := strings.ToLower(string(k))
		if old, there := q.Headers[name]; there {
			v = []byte(old + ", " + string(v))
		}
		q.Headers[name] = string(v)
	}
	return q
}

func TestTheSendersLibrariesOnNPMAgree(t *testing.T) {
	var questions []question
	var keys []string
	var ours []bool
	now := time.Now()
	for library, o := range npmOracles(t) {
		v := o.compiled(t)
		secret := o.secret
		if secret == "" {
			secret = o.keys[0]
		}
		for _, x := range variations {
			req := o.varied(t, v, x, now)
			if library == "@shopify/shopify-api" { // it wants them, and signs none
				req = with(req, "X-Shopify-Topic", "orders/create", "X-Shopify-Shop-Domain", "s.myshopify.com", "X-Shopify-API-Version", "2026-01", "X-Shopify-Webhook-Id", "w1")
			}
			questions, keys, ours = append(questions, asNode(library, secret, req)), append(keys, library+": "+x.name), append(ours, v.Verify(req, now).OK)
		}
	}
	for _, n := range notifications(t) {
		q := asNode("sns-validator", "", n.req)
		q.Cert = n.cert
		questions, keys, ours = append(questions, q), append(keys, "sns-validator: "+n.name), append(ours, n.ours)
	}
	c := comparison{list: npmDisagreements, seen: map[string]bool{}}
	for i, theirs := range ask(t, questions) {
		c.compare(t, keys[i], ours[i], theirs)
	}
	c.end(t)
}

// notification is one message of Amazon SNS, with the engine's verdict on it and the certificate that is at its address.
type notification struct {
	name, cert string
	req        *event.Request
	ours       bool
}

// notifications are messages of SNS, signed by its documentation: the members in order, each name and value on lines of their own.
func notifications(t *testing.T) []notification {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sns.amazonaws.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	const topic, address = "arn:aws:sns:us-east-1:123456789012:t", "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem"
	p, _ := provider.Get("aws-sns")
	v, err := verify.Compile(p.Verify, []verify.Secret{verify.NewSecret([]byte(topic))}, verify.Options{Keys: verify.StaticKeys{address: []byte(cert)}.Any})
	if err != nil {
		t.Fatal(err)
	}
	genuine := func() map[string]string {
		return map[string]string{"Type": "Notification", "MessageId": "m1", "TopicArn": topic, "Subject": "s", "Message": "hello\n", "Timestamp": time.Now().UTC().Format(time.RFC3339), "SignatureVersion": "2", "SigningCertURL": address}
	}
	sign := func(m map[string]string) {
		var text strings.Builder
		for _, k := range []string{"Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"} {
			if val, ok := m[k]; ok {
				fmt.Fprintf(&text, "%s\n%s\n", k, val)
			}
		}
		hash := crypto.SHA256
		if m["SignatureVersion"] == "1" {
			hash = crypto.SHA1
		}
		h := hash.New()
		h.Write([]byte(text.String()))
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, hash, h.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		m["Signature"] = base64.StdEncoding.EncodeToString(sig)
	}
	var out []notification
	add := func(name string, before, after func(map[string]string)) {
		m := genuine()
		before(m)
		sign(m)
		after(m)
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		req := &event.Request{Method: "POST", Target: []byte("/"), Body: body}
		out = append(out, notification{name, cert, req, v.Verify(req, time.Now()).OK})
	}
	nothing := func(map[string]string) {}
	set := func(k, val string) func(map[string]string) { return func(m map[string]string) { m[k] = val } }
	drop := func(k string) func(map[string]string) { return func(m map[string]string) { delete(m, k) } }
	confirmation := func(m map[string]string) {
		delete(m, "Subject")
		m["Type"], m["Token"], m["SubscribeURL"] = "SubscriptionConfirmation", "tok", "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription"
	}
	add("genuine", nothing, nothing)
	add("version 1", set("SignatureVersion", "1"), nothing)
	add("no subject", drop("Subject"), nothing)
	add("confirmation", confirmation, nothing)
	add("message changed", nothing, set("Message", "bye"))
	add("subject changed", nothing, set("Subject", "t"))
	add("subject added", drop("Subject"), set("Subject", "s"))
	add("topic changed", nothing, set("TopicArn", topic+"x"))
	add("another topic, genuine", set("TopicArn", topic+"x"), nothing)
	add("type changed", confirmation, set("Type", "Notification"))
	add("version exchanged", nothing, set("SignatureVersion", "1"))
	add("version 3", set("SignatureVersion", "3"), nothing)
	add("no signature", nothing, drop("Signature"))
	add("signature empty", nothing, set("Signature", ""))
	add("signature garbage", nothing, set("Signature", "AAAA"))
	add("certificate elsewhere", set("SigningCertURL", "https://sns.evil.example/x.pem"), nothing)
	add("certificate over http", set("SigningCertURL", strings.Replace(address, "https", "http", 1)), nothing)
	add("certificate at a host that begins alike", set("SigningCertURL", "https://sns.us-east-1.amazonaws.com.evil.example/x.pem"), nothing)
	return out
}
