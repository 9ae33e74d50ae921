package gateway_test

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

const whsec = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// signers are senders with a signed timestamp: how each signs, and where the consumer finds the time and the signature.
var signers = map[string]struct {
	provider string
	sign     func(id string, at time.Time) hooktest.Request
	lines    []string
	signedAt func(http.Header) string
}{
	"stripe": {"provider: stripe", func(id string, at time.Time) hooktest.Request {
		return hooktest.Stripe(secret, []byte(`{"id":"`+id+`","type":"invoice.paid","data":{"object":{"id":"in_1"}}}`), at)
	}, []string{"Stripe-Signature"}, func(h http.Header) string {
		t, _, _ := strings.Cut(strings.TrimPrefix(h.Get("Stripe-Signature"), "t="), ",")
		return t
	}},
	"slack": {"provider: slack", func(id string, at time.Time) hooktest.Request {
		return hooktest.Slack(secret, []byte(`{"event_id":"`+id+`","type":"event_callback","event":{"type":"message","channel":"C1"}}`), at)
	}, []string{"X-Slack-Signature", "X-Slack-Request-Timestamp"}, func(h http.Header) string { return h.Get("X-Slack-Request-Timestamp") }},
	"standard": {"provider: standard-webhooks", func(id string, at time.Time) hooktest.Request {
		r, _ := hooktest.Standard(whsec, id, []byte(`{"type":"a.b"}`), at)
		return r
	}, []string{"Webhook-Signature", "Webhook-Timestamp"}, func(h http.Header) string { return h.Get("Webhook-Timestamp") }},
	"svix": {"provider: svix", func(id string, at time.Time) hooktest.Request {
		r, _ := hooktest.Standard(whsec, id, []byte(`{"type":"a.b"}`), at)
		h := http.Header{}
		for name, v := range r.Header {
			h[strings.Replace(name, "Webhook-", "Svix-", 1)] = v
		}
		return hooktest.Request{Header: h, Body: r.Body}
	}, []string{"Svix-Signature", "Svix-Timestamp"}, func(h http.Header) string { return h.Get("Svix-Timestamp") }},
	"vonage": {"provider: vonage", vonage, []string{"Authorization"}, func(h http.Header) string {
		var claims struct{ Iat json.Number }
		raw, _ := base64.RawURLEncoding.DecodeString(strings.Split(h.Get("Authorization"), ".")[1])
		_ = json.Unmarshal(raw, &claims)
		return claims.Iat.String()
	}},
	"rfc9421": {"provider: rfc9421", rfc9421, []string{"Signature-Input", "Signature"}, func(h http.Header) string {
		input := h.Get("Signature-Input")
		t, _, _ := strings.Cut(input[strings.LastIndex(input, ";created=")+len(";created="):], ";")
		return t
	}},
	"off": {"provider: stripe", func(id string, at time.Time) hooktest.Request {
		return hooktest.Stripe(secret, []byte(`{"id":"`+id+`","type":"invoice.paid","data":{"object":{"id":"in_1"}}}`), at)
	}, []string{"Stripe-Signature"}, func(h http.Header) string {
		t, _, _ := strings.Cut(strings.TrimPrefix(h.Get("Stripe-Signature"), "t="), ",")
		return t
	}},
}

// macOf is HMAC-SHA256.
func macOf(key, text string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return h.Sum(nil)
}

// vonage signs as Vonage does: a JWT whose payload_hash is that of the body.
func vonage(id string, at time.Time) hooktest.Request {
	body := []byte(`{"message_uuid":"` + id + `"}`)
	b64 := base64.RawURLEncoding.EncodeToString
	token := b64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64(fmt.Appendf(nil, `{"iat":%d,"jti":%q,"iss":"Vonage","payload_hash":"%x"}`, at.Unix(), id, sha256.Sum256(body)))
	return hooktest.Request{Body: body, Header: http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + token + "." + b64(macOf(secret, token))}}}
}

// rfc9421 signs method, URL and the body's digest (RFC 9421 §2.5) for five minutes.
func rfc9421(id string, at time.Time) hooktest.Request {
	body := []byte(`{"id":"` + id + `"}`)
	sum := sha256.Sum256(body)
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	params := fmt.Sprintf(`("@method" "@target-uri" "content-digest");keyid="k;created=1";created=%d;expires=%d`, at.Unix(), at.Unix()+300)
	base := "\"@method\": POST\n\"@target-uri\": https://hooks.example.com/rfc9421\n\"content-digest\": " + digest + "\n\"@signature-params\": " + params
	return hooktest.Request{Body: body, Header: http.Header{"Content-Type": {"application/json"}, "Content-Digest": {digest}, "Signature-Input": {"sig1=" + params},
		"Signature": {"sig1=:" + base64.StdEncoding.EncodeToString(macOf("sixteen bytes or more", base)) + ":"}}}
}

// A consumer that verifies signatures itself takes what has waited for three hours: it is signed anew, body untouched; what did not wait has the sender's own.
func TestSignaturesAfterHoursInTheQueue(t *testing.T) {
	var text strings.Builder
	text.WriteString("public_url: https://hooks.example.com\nupstreams: {app: {url: \"http://127.0.0.1:3000\", breaker: {failures: 2, max_probe: 4m}}}\nsources:\n")
	for name, s := range signers {
		more := ""
		if name == "off" {
			more = ", resign: off"
		}
		env := map[string]string{"standard": "WHSEC", "svix": "WHSEC", "rfc9421": "KEY"}[name]
		id := map[string]string{"vonage": `identity: {id: "json:message_uuid"}, `, "rfc9421": `identity: {id: "json:id"}, `}[name]
		fmt.Fprintf(&text, "  %s: {path: /%s, %s, secrets: [{env: %s}], %sdelivery: {upstream: app%s}}\n", name, name, s.provider, cmp.Or(env, "SECRET"), id, more)
	}
	synctest.Test(t, func(t *testing.T) {
		b := up(t, text.String(), func(name string) (string, bool) {
			return map[string]string{"WHSEC": whsec, "SECRET": secret, "KEY": base64.StdEncoding.EncodeToString([]byte("sixteen bytes or more"))}[name], true
		})
		for name, s := range signers {
			if status, outcome, err := b.Post("/"+name, s.sign("at_once", time.Now())); status != 200 || outcome != "delivered" || err != nil {
				t.Errorf("%s: %d %s %v", name, status, outcome, err)
			}
		}
		b.Down()
		sent := time.Now()
		for name, s := range signers {
			if status, _, err := b.Post("/"+name, s.sign("waited", time.Now())); status != 202 || err != nil {
				t.Errorf("%s: %d %v", name, status, err)
			}
		}
		time.Sleep(3 * time.Hour)
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		for name, s := range signers {
			for id, resigned := range map[string]bool{"at_once": false, "waited": name != "off"} {
				seen := b.Consumer.Of(name, id)
				if len(seen) != 1 {
					t.Errorf("%s: %s came %d times", name, id, len(seen))
					continue
				}
				unix, _ := strconv.ParseInt(s.signedAt(seen[0].Header), 10, 64)
				at := time.Unix(unix, 0)
				if fresh := seen[0].At.Sub(at) < 5*time.Minute; fresh != (resigned || id == "at_once") || !resigned && id == "waited" && at.Sub(sent).Abs() > time.Second {
					t.Errorf("%s: %s is signed as of %s, came at %s", name, id, at, seen[0].At)
				}
				want := s.sign(id, at)
				for _, line := range s.lines {
					if got := seen[0].Header.Values(line); len(got) != 1 || got[0] != want.Header.Get(line) {
						t.Errorf("%s: %s: %s is %q, want %q", name, id, line, got, want.Header.Get(line))
					}
				}
				if string(seen[0].Body) != string(want.Body) {
					t.Errorf("%s: %s: another body", name, id)
				}
			}
		}
	})
}

// The deadline of a preset whose sender gives up soon: Slack is answered after two seconds; the attempt goes on, once, and its result is recorded.
func TestDeadlineOfAnImpatientSender(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := up(t, `
sources:
  s: {path: /s, provider: slack, secrets: [{env: SECRET}], upstream: "http://127.0.0.1:3000", ordering: {policy: `+policy+`}}
  slow: {path: /slow, provider: stripe, secrets: [{env: SECRET}], upstream: "http://127.0.0.1:3000"}
`, env)
			b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer {
				return hooktest.Answer{Delay: 9 * time.Second, Body: "done"}
			})
			began := time.Now()
			status, outcome, err := b.Post("/s", signers["slack"].sign("evt", time.Now()))
			if took := time.Since(began); status != 202 || outcome != "accepted" || err != nil || took != 2*time.Second {
				t.Errorf("%s: slack: %d %s %v after %s", policy, status, outcome, err, took)
			}
			if status, outcome, err = b.Post("/s", signers["slack"].sign("evt", time.Now())); status != 200 || outcome != "duplicate" || err != nil {
				t.Errorf("%s: its repetition while the first runs on: %d %s %v", policy, status, outcome, err)
			}
			began = time.Now()
			status, outcome, _ = b.Post("/slow", signers["stripe"].sign("evt", time.Now()))
			if took := time.Since(began); status != 202 || took != 8*time.Second {
				t.Errorf("%s: stripe: %d %s after %s", policy, status, outcome, took)
			}
			time.Sleep(20 * time.Second)
			if got := (bubble{b, t}).state("evt"); got != "delivered/" || len(b.Consumer.Of("s", "evt")) != 1 {
				t.Errorf("%s: it became %s with %d requests", policy, got, len(b.Consumer.Of("s", "evt")))
			}
		})
	}
}

// Beyond a bound the sender reads 503 or 429 and when to come again; its retry is then taken as if it were the first.
func TestSentAway(t *testing.T) {
	block := `    provider: custom
    secrets: [{env: SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
`
	var text strings.Builder
	text.WriteString("upstreams: {app: {url: \"http://127.0.0.1:3000\", breaker: {failures: 2, probe: 7s}}}\nsources:\n")
	rest := map[string]string{
		"rate":    "delivery: {mode: store, upstream: app}\n    limits: {rate: 0.25}",
		"pending": "delivery: {mode: store, upstream: app}\n    limits: {pending: 1}",
		"held":    "delivery: {upstream: app}\n    ordering: {policy: in_sequence, start: \"1\", max_held: 1}",
		"proxy":   "delivery: {mode: proxy, upstream: app}",
		"lane":    "delivery: {mode: proxy, upstream: app}\n    ordering: {policy: serial}",
	}
	for name, r := range rest {
		fmt.Fprintf(&text, "  %s:\n    path: /%s\n%s    %s\n", name, name, block, r)
	}
	post := func(b *hooktest.Bubble, source, id, version string) (int, http.Header) {
		status, head, err := b.Ask("/"+source, hooktest.Custom(secret, hooktest.CustomBody(id, "t", "r", version), time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		return status, head
	}
	synctest.Test(t, func(t *testing.T) {
		b, err := hooktest.NewBubble(t.TempDir(), text.String(), env)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Stop() }()
		defer b.Down()
		for _, s := range []struct {
			source, first string
			status        int
			after         string
		}{{"rate", "1", 429, "4"}, {"pending", "1", 503, "5"}, {"held", "3", 503, "5"}, {"proxy", "1", 503, "7"}, {"lane", "1", 503, "7"}} {
			post(b, s.source, "first", s.first)
			status, head := post(b, s.source, "second", "9")
			if outcome := head.Get("Hooktender-Outcome"); status != s.status || head.Get("Retry-After") != s.after || s.status == 503 && outcome != "unavailable" {
				t.Errorf("%s: %d %s, Retry-After %q", s.source, status, outcome, head.Get("Retry-After"))
			}
			if status, _, err := b.Admin("/v1/events/second?source=" + s.source); status != 404 || err != nil {
				t.Errorf("%s: a trace is left: %d %v", s.source, status, err)
			}
		}
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		for name := range maps.Keys(rest) {
			if status, head := post(b, name, "second", "9"); status >= 400 || head.Get("Hooktender-Outcome") == "duplicate" {
				t.Errorf("%s: its retry: %d %s", name, status, head.Get("Hooktender-Outcome"))
			}
		}
		time.Sleep(2 * time.Minute)
		for name := range maps.Keys(rest) {
			if seen := b.Consumer.Of(name, "second"); len(seen) != 1 {
				t.Errorf("%s: the consumer saw its retry %d times", name, len(seen))
			}
		}
	})
}

// Whoever is sent away although the event is known reads its id: the sender of one that has failed, while the breaker is open, and that of a duplicate
// whose first runs on for longer than it may wait.
func TestSentAwayWithTheIDOfWhatIsKnown(t *testing.T) {
	text := `upstreams: {app: {url: "http://127.0.0.1:3000", timeout: 1m, breaker: {failures: 2, probe: 7s}}}
sources:
  proxy:
    path: /proxy
    provider: custom
    secrets: [{env: SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id"}
    delivery: {mode: proxy, upstream: app}
`
	synctest.Test(t, func(t *testing.T) {
		b, err := hooktest.NewBubble(t.TempDir(), text, env)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Stop() }()
		if err := b.Up(); err != nil {
			t.Fatal(err)
		}
		defer b.Down()
		post := func(id string) (got string, head http.Header) {
			status, head, err := b.Ask("/proxy", hooktest.Custom(secret, hooktest.CustomBody(id, "t", "r", "1"), time.Now()))
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprint(status, " ", head.Get("Hooktender-Outcome"), ", again after ", head.Get("Retry-After")), head
		}
		b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 40 * time.Second} })
		first := make(chan http.Header)
		go func() { _, head := post("slow"); first <- head }()
		time.Sleep(time.Second)
		got, head := post("slow")
		if id := (<-first).Get("Hooktender-Id"); got != "503 duplicate, again after 1" || head.Get("Hooktender-Id") != id || id == "" {
			t.Errorf("a duplicate of what is under way: %s, %q for %q", got, head.Get("Hooktender-Id"), id)
		}
		if got, _ = post("slow"); got != "200 duplicate, again after " {
			t.Errorf("once the first has ended: %s", got)
		}
		b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 500} })
		post("a")
		_, told := post("b")
		got, head = post("b")
		if id := told.Get("Hooktender-Id"); got != "503 unavailable, again after 7" || head.Get("Hooktender-Id") != id || id == "" {
			t.Errorf("one that has failed: %s, %q for %q", got, head.Get("Hooktender-Id"), id)
		}
	})
}

// A failed event that its sender sends again becomes what it sends now. One that an operator has settled is not delivered any more.
func TestWhatFailedIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, sources, env)
		b.Consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer {
			return hooktest.Answer{Status: []int{422, 200}[min(nth, 2)-1]}
		})
		post := func(id, kind, resource, version string) string {
			_, outcome, err := b.Post("/s", hooktest.Custom(secret, hooktest.CustomBody(id, kind, resource, version), time.Now()))
			if err != nil {
				t.Error(err)
			}
			return outcome
		}
		post("a", "old", "r1", "1")
		time.Sleep(time.Minute)
		outcome := post("a", "new", "r2", "2")
		_, body, err := b.Admin("/v1/events/a?source=s")
		for _, want := range []string{`"type":"new"`, `"resource":"r2"`, `"version":"2"`, fmt.Sprintf(`%x`, sha256.Sum256(hooktest.CustomBody("a", "new", "r2", "2")))} {
			if outcome != "delivered" || !strings.Contains(string(body), want) {
				t.Errorf("%s, %v: no %s in %s", outcome, err, want, body)
			}
		}
		for _, how := range []string{"resolve", "discard"} {
			post(how, "t", "", "")
			if status, body, err := b.AdminPost("/v1/events/"+how+"/"+how, `{"reason":"by hand"}`); status != 200 || err != nil {
				t.Errorf("%s: %d %s %v", how, status, body, err)
			}
			if outcome := post(how, "t", "", ""); outcome != "duplicate" || len(b.Consumer.Of("s", how)) != 1 {
				t.Errorf("%s: %s, the consumer saw it %d times", how, outcome, len(b.Consumer.Of("s", how)))
			}
		}
	})
}

// A gap in the metrics and in the API while it lasts, and the cursor set over HTTP.
func TestGapCanBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, strings.Replace(sources, "delivery:", "ordering: {policy: in_sequence, start: \"1\", max_wait: 10m}\n    delivery:", 1), env)
		for _, v := range []string{"1", "3", "6"} {
			if _, _, err := b.Post("/s", hooktest.Custom(secret, hooktest.CustomBody("v"+v, "t", "a/b", v), time.Now())); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		_, text, err := b.Admin("/metrics")
		for _, want := range []string{`hooktender_held_events{source="s"} 2`, `hooktender_gap_seconds{source="s"} 60`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the metrics lack %s: %v", want, err)
			}
		}
		status, body, err := b.Admin("/v1/resources/s/a%2Fb")
		if status != 200 || !strings.Contains(string(body), `"missing":["2","4-5"]`) || !strings.Contains(string(body), `"release_at":"2000-`) {
			t.Errorf("%d %s %v", status, body, err)
		}
		status, body, err = b.AdminPost("/v1/resources/s/a%2Fb/cursor", `{"version":5,"reason":"2, 4 and 5 never existed"}`)
		if status != 200 || !strings.Contains(string(body), `"version":"5"`) {
			t.Errorf("%d %s %v", status, body, err)
		}
		time.Sleep(time.Second)
		x := bubble{b, t}
		if three, six := x.state("v3"), x.state("v6"); three != "rejected/stale" || six != "delivered/" {
			t.Errorf("3 is %s, 6 is %s", three, six)
		}
	})
}

// Where ids are only observed, what comes while its like is under way passes, too, whatever becomes of the first, and with an order or without.
func TestObservedDuplicatesInFlightPass(t *testing.T) {
	const observed = "identity: {id: \"json:id\", type: \"json:type\", resource: \"json:resource\"}\n    dedup: {mode: observe}"
	for name, rest := range map[string]string{
		"proxy":   "delivery: {mode: proxy, upstream: app}",
		"hybrid":  "delivery: {mode: hybrid, upstream: app}",
		"store":   "delivery: {mode: store, upstream: app}",
		"a lane":  "delivery: {mode: hybrid, upstream: app}\n    ordering: {policy: serial}",
		"observe": "delivery: {mode: hybrid, upstream: app}\n    ordering: {policy: serial, mode: observe}",
	} {
		head, _, _ := strings.Cut(sources, "    identity:")
		synctest.Test(t, func(t *testing.T) {
			b := up(t, head+"    "+observed+"\n    "+rest+"\n", env)
			b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: time.Second} })
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					status, outcome, err := b.Post("/s", hooktest.Custom(secret, hooktest.CustomBody("e", "t", "r", ""), time.Now()))
					if err != nil || status >= 300 || outcome == "duplicate" {
						t.Errorf("%s: %d %s %v", name, status, outcome, err)
					}
				})
			}
			all.Wait()
			time.Sleep(time.Minute)
			if n := len(b.Consumer.Of("s", "e")); n != 3 {
				t.Errorf("%s: the consumer saw %d of 3", name, n)
			}
		})
	}
}
