package gateway_test

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// unsigned is a source whose ids no signature covers: what is signed is a second replay key.
const unsigned = `
sources:
  s: {path: /s, provider: github, secrets: [{env: SECRET}], delivery: {mode: proxy, upstream: "http://127.0.0.1:3000"}}
`

// A captured request of an event that has failed, sent again under another id, is that event's next attempt, and takes the other id from nobody: the genuine
// event of that id is new.
func TestAnAttemptUnderAnotherIDTakesNoID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, unsigned, env)
		status := 500
		b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: status} })
		for _, s := range []struct {
			id, body string
			upstream int
			want     int
			outcome  string
		}{
			{"a", `{"n":1}`, 500, 500, "returned"},
			{"b", `{"n":1}`, 200, 200, "delivered"},
			{"b", `{"n":1}`, 200, 200, "duplicate"},
			{"b", `{"n":2}`, 200, 200, "delivered"},
			{"a", `{"n":1}`, 200, 200, "duplicate"},
			{"b", `{"n":2}`, 200, 200, "duplicate"},
		} {
			status = s.upstream
			if got, outcome, err := b.Post("/s", hooktest.GitHub(secret, s.id, "push", []byte(s.body))); got != s.want || outcome != s.outcome || err != nil {
				t.Errorf("%s with %s: %d %s %v, want %d %s", s.id, s.body, got, outcome, err, s.want, s.outcome)
			}
		}
		if n := len(b.Consumer.Of("s", "b")); n != 1 {
			t.Errorf("the consumer saw b %d times", n)
		}
	})
}

// Nor does it while it is under way: the genuine event of that id, which comes meanwhile, is not answered as it was.
func TestAnAttemptUnderAnotherIDAnswersForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, unsigned, env)
		answer := hooktest.Answer{Status: 500}
		b.Consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return answer })
		post := func(id, body string) string {
			_, outcome, err := b.Post("/s", hooktest.GitHub(secret, id, "push", []byte(body)))
			if err != nil {
				t.Error(err)
			}
			return outcome
		}
		post("a", `{"n":1}`)
		answer = hooktest.Answer{Status: 200, Delay: 3 * time.Second}
		captured := make(chan string)
		go func() { captured <- post("b", `{"n":1}`) }()
		time.Sleep(time.Second)
		if genuine, was := post("b", `{"n":2}`), <-captured; genuine != "delivered" || was != "delivered" || len(b.Consumer.Of("s", "b")) != 1 {
			t.Errorf("the genuine event: %s, the captured one: %s, the consumer saw b %d times", genuine, was, len(b.Consumer.Of("s", "b")))
		}
	})
}

// Where the hash of the body is a part of the id, the sender's own id still finds and awaits its newest event.
func TestTheSendersIDFindsWhatTheBodyTellsApart(t *testing.T) {
	for name, id := range map[string]string{"last": "[header:X-GitHub-Delivery, body:sha256]", "first": "[body:sha256, header:X-GitHub-Delivery]"} {
		synctest.Test(t, func(t *testing.T) {
			b := up(t, "sources:\n  s: {path: /s, provider: github, secrets: [{env: SECRET}], identity: {id: "+id+"}, upstream: \"http://127.0.0.1:3000\"}\n", env)
			soon := make(chan string)
			go func() {
				_, body, _ := b.Admin("/v1/events/d1?wait=50s")
				soon <- string(body)
			}()
			synctest.Wait()
			began := time.Now()
			for _, body := range []string{`{"n":1}`, `{"n":2}`} {
				status, h, err := b.Ask("/s", hooktest.GitHub(secret, "d1", "push", []byte(body)))
				_, found, _ := b.Admin("/v1/events/d1")
				if ours := h.Get("Hooktender-Id"); status != 200 || err != nil || ours == "" || !strings.Contains(string(found), `"id":"`+ours+`"`) {
					t.Errorf("%s, %s: %d %v, found %s, want %s", name, body, status, err, found, ours)
				}
			}
			if got := <-soon; !strings.Contains(got, `"state":"delivered"`) || time.Since(began) > 10*time.Second {
				t.Errorf("%s: waited %s for %s", name, time.Since(began), got)
			}
		})
	}
}

// keyed is the MAC of a text by any hash.
func keyed(with func() hash.Hash, key, text string) []byte {
	h := hmac.New(with, []byte(key))
	h.Write([]byte(text))
	return h.Sum(nil)
}

// Two events of a sender whose topics may have the same body are two, where the topic is not signed either; a captured one under another id is none.
func TestOneBodyForTwoTopics(t *testing.T) {
	const body = `{"id":7,"status":"paid"}`
	base64MAC := base64.StdEncoding.EncodeToString(macOf(secret, body))
	for provider, name := range map[string]struct{ id, topic, signature, mac string }{
		"shopify":       {"X-Shopify-Webhook-Id", "X-Shopify-Topic", "X-Shopify-Hmac-SHA256", base64MAC},
		"woocommerce":   {"X-WC-Webhook-Delivery-ID", "X-WC-Webhook-Topic", "X-WC-Webhook-Signature", base64MAC},
		"discourse":     {"X-Discourse-Event-Id", "X-Discourse-Event", "X-Discourse-Event-Signature", "sha256=" + hexMAC(secret, body)},
		"patreon":       {"X-Unused", "X-Patreon-Event", "X-Patreon-Signature", hex.EncodeToString(keyed(md5.New, secret, body))},
		"helpscout":     {"X-Unused", "X-HelpScout-Event", "X-HelpScout-Signature", base64.StdEncoding.EncodeToString(keyed(sha1.New, secret, body))},
		"commercelayer": {"X-Unused", "X-CommerceLayer-Topic", "X-CommerceLayer-Signature", base64MAC},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := up(t, "sources:\n  s: {path: /s, provider: "+provider+", secrets: [{env: SECRET}], upstream: \"http://127.0.0.1:3000\"}\n", env)
			for _, s := range []struct{ id, topic, outcome string }{
				{"1", "created", "delivered"}, {"2", "updated", "delivered"}, {"1", "created", "duplicate"}, {"3", "created", "duplicate"}, {"4", "updated", "duplicate"},
				{"5", "Created", "duplicate"}, {"6", "CREATED/", "duplicate"}, {"7", "_created", "duplicate"}, {"8", "cre.ated", "duplicate"}, // a consumer may take each for the same
			} {
				status, outcome, err := b.Post("/s", hooktest.Request{Body: []byte(body), Header: http.Header{name.id: {s.id}, name.topic: {s.topic},
					name.signature: {name.mac}}})
				if status != 200 || outcome != s.outcome || err != nil {
					t.Errorf("%s: %s %s: %d %s %v, want %s", provider, s.id, s.topic, status, outcome, err, s.outcome)
				}
			}
		})
	}
}

// The body of a captured request is read otherwise under another Content-Type, which nobody signs: what takes the place of its id makes no new event of it.
func TestAnotherContentTypeMakesNoNewEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := up(t, `
sources:
  slack: {path: /slack, provider: slack, secrets: [{env: SECRET}], upstream: "http://127.0.0.1:3000"}
  own:
    path: /own
    provider: custom
    secrets: [{env: SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, signed: "{body}"}
    identity: {id: "form:trigger_id | body:sha256"}
    upstream: "http://127.0.0.1:3000"
`, env)
		const body, form = "trigger_id=13345224609.738474920&command=%2Fpay", "application/x-www-form-urlencoded"
		now := strconv.FormatInt(time.Now().Unix(), 10)
		for path, signed := range map[string]http.Header{
			"/slack": {"X-Slack-Request-Timestamp": {now}, "X-Slack-Signature": {"v0=" + hexMAC(secret, "v0:"+now+":"+body)}},
			"/own":   {"X-Signature": {hexMAC(secret, body)}},
		} {
			for i, kind := range []string{form, "text/plain", "application/json", form} {
				signed.Set("Content-Type", kind)
				status, outcome, err := b.Post(path, hooktest.Request{Body: []byte(body), Header: signed.Clone()})
				if want := []string{"delivered", "duplicate"}[min(i, 1)]; status != 200 || outcome != want || err != nil {
					t.Errorf("%s as %s: %d %s %v, want %s", path, kind, status, outcome, err, want)
				}
			}
		}
	})
}
