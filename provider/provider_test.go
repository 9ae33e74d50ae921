package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/packed"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

func TestThePackedRowsAreTheRows(t *testing.T) {
	want, err := os.ReadFile("providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := packed.Unpack(rows)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("providers.yaml.gz is stale (run: go generate ./provider): %v", err)
	}
}

func TestEveryRowIsSound(t *testing.T) {
	for _, p := range All() {
		if err := p.Verify.Check(); err != nil && p.Verify.Scheme != "" && p.ID != "custom" {
			t.Errorf("%s: %v", p.ID, err)
		}
		if p.ID != "custom" && p.ID != "none" {
			if _, err := selector.CompileIdentity(p.Identity); err != nil {
				t.Errorf("%s: %v", p.ID, err)
			}
		}
		if !slices.Contains([]Confidence{Official, Community, Unconfirmed, Generic}, p.Confidence) {
			t.Errorf("%s: confidence %q", p.ID, p.Confidence)
		}
		if p.Responses.Success.Status == 410 || p.Responses.Rejected.Status == 410 {
			t.Errorf("%s answers 410", p.ID)
		}
		if _, err := NewHandshake(p, HandshakeOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// TestEveryRowHasVectors wants a genuine vector and three different negative ones for every row that says how its sender signs, and a
// challenge with its answer for every row that knows a sender's challenge only.
// What a row asks for under handshake is not refused there.
func TestRowsAskForKnownKeysOfAHandshake(t *testing.T) {
	rows, err := os.ReadFile("providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?:\{config:|handshake\.)([a-z_]+)`).FindAllSubmatch(rows, -1) {
		if !slices.Contains(HandshakeKeys, string(m[1])) {
			t.Errorf("handshake.%s is refused", m[1])
		}
	}
}

// Who shows a payload without a configuration knows the tokens of presets all the same.
func TestTheTokensOfPresetsAreCredentials(t *testing.T) {
	for _, p := range All() {
		for _, spec := range append([]verify.Spec{p.Verify}, append(p.Verify.All, p.Verify.Any...)...) {
			for _, header := range append(spec.Also, spec.Header) {
				if header != "" && p.Verify.ShowsSecret(header, nil) && !event.Credential(header) {
					t.Errorf("%s: %s carries the secret and is no credential", p.ID, header)
				}
			}
		}
	}
}

func TestEveryRowHasVectors(t *testing.T) {
	valid, invalid := map[string]int{}, map[string]map[string]bool{}
	for _, v := range loadVectors(t) {
		if v.Expect == "valid" {
			valid[v.Provider]++
			continue
		}
		if invalid[v.Provider] == nil {
			invalid[v.Provider] = map[string]bool{}
		}
		if invalid[v.Provider][v.Name] {
			t.Errorf("%s/%s is there twice", v.Provider, v.Name)
		}
		invalid[v.Provider][v.Name] = true
	}
	challenged := map[string]bool{}
	for _, c := range loadHandshakes(t) {
		challenged[c.Provider] = true
	}
	for _, p := range All() {
		switch {
		case p.ID == "none" || p.ID == "custom":
		case p.Verify.Scheme == "":
			if !challenged[p.ID] {
				t.Errorf("%s has neither vectors nor a challenge", p.ID)
			}
		case valid[p.ID] == 0 || len(invalid[p.ID]) < 3:
			t.Errorf("%s has %d genuine and %d negative vectors", p.ID, valid[p.ID], len(invalid[p.ID]))
		}
	}
}

func validVectors(t testing.TB) []Vector {
	var out []Vector
	for _, v := range loadVectors(t) {
		if v.Expect == "valid" {
			out = append(out, v)
		}
	}
	return out
}

// TestNoMutationIsAccepted changes one byte of the body of every valid vector whose signature binds the body.
func TestNoMutationIsAccepted(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	tried := 0
	for _, v := range validVectors(t) {
		ver, err := v.Verifier()
		if err != nil {
			t.Fatal(err)
		}
		p, _ := Get(v.Provider)
		if ver.Binds() != verify.BindsBody || len(v.Body) == 0 || p.Verify.Items != "" || p.Verify.Lines != nil || p.Verify.Location == "body" || strings.Contains(p.Verify.Signed, "{form") || strings.Contains(p.Verify.Signed, "url_sorted") {
			continue // only parts of these bodies are signed, or their decoded form
		}
		if v.Config["required"] != nil && len(v.Config["required"].([]any)) == 0 {
			continue // covers no digest
		}
		for range 8 {
			req, err := v.Request()
			if err != nil {
				t.Fatal(err)
			}
			req.Body = bytes.Clone(req.Body)
			switch i := rng.IntN(len(req.Body)); rng.IntN(3) {
			case 0:
				req.Body[i] ^= 1 << rng.IntN(8)
			case 1:
				req.Body = slices.Delete(req.Body, i, i+1)
			default:
				req.Body = slices.Insert(req.Body, i, byte(rng.IntN(256)))
			}
			tried++
			if ver.Verify(req, time.Unix(v.Now, 0)).OK && string(req.Body) != v.Body {
				t.Fatalf("%s/%s accepts %q", v.Provider, v.Name, req.Body)
			}
		}
	}
	if tried < 1000 {
		t.Errorf("only %d mutations", tried)
	}
}

// TestWhatIsSignedVerifies signs a request for every symmetric row and has it verified, again after an hour, and with
// another body.
func TestWhatIsSignedVerifies(t *testing.T) {
	signed := 0
	done := map[string]bool{}
	for _, v := range validVectors(t) {
		ver, err := v.Verifier()
		if err != nil || !ver.Symmetric() || done[v.Provider] {
			continue
		}
		done[v.Provider] = true
		req, err := v.Request()
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1800000000, 0)
		out, err := ver.Sign(req, now)
		if err != nil {
			if v.Provider != "adyen" && v.Provider != "ms-graph" || !errors.Is(err, verify.ErrCannotSign) {
				t.Errorf("%s: %v", v.Provider, err)
			}
			continue
		}
		signed++
		p, _ := Get(v.Provider)
		if p.Verify.Items != "" {
			continue
		}
		if got := ver.Verify(out, now); !got.OK {
			t.Errorf("%s: what was signed is %s", v.Provider, got.Check)
		}
		if got := ver.Verify(out, now.Add(24*time.Hour)); ver.Tolerance() > 0 && got.OK {
			t.Errorf("%s: a day later it is still good", v.Provider)
		}
	}
	if signed < 150 {
		t.Errorf("only %d rows can be signed for", signed)
	}
	t.Logf("%d rows signed for", signed)
}

// stayOld are the rows whose signed time or signature is in the body, which is never touched.
var stayOld = map[string]bool{"mailgun": true}

// TestWhatIsOldIsSignedAgain signs every genuine request of every symmetric row that signs a time again, hours later: with the body, the target and all other lines as
// they were it is good then, and so is one signed again the day after.
func TestWhatIsOldIsSignedAgain(t *testing.T) {
	rows := map[string]bool{}
	for _, v := range validVectors(t) {
		ver, err := v.Verifier()
		if err != nil || !ver.Symmetric() || ver.ResignAfter() == 0 {
			continue
		}
		req, err := v.Request()
		if err != nil {
			t.Fatal(err)
		}
		if ver.Verify(req, time.Unix(v.Now, 0)).SignedAt.IsZero() {
			continue // a token that says nothing of time does not grow old
		}
		for _, later := range []time.Duration{6 * time.Hour, 24 * time.Hour} {
			now := time.Unix(v.Now, 0).Add(later)
			head, ok := ver.Resign(req, now)
			if !ok {
				if !stayOld[v.Provider] {
					t.Errorf("%s/%s is not signed again", v.Provider, v.Name)
				}
				break
			}
			again := *req
			again.Head = head
			if got := ver.Verify(&again, now); !got.OK {
				t.Errorf("%s/%s: signed again it is %s", v.Provider, v.Name, got.Check)
			}
			if got := ver.Verify(req, now); got.OK && ver.Tolerance() > 0 {
				t.Errorf("%s/%s: it is good %s later without", v.Provider, v.Name, later)
			}
			rows[v.Provider] = true
			req = &again
		}
	}
	t.Logf("%d rows are signed again", len(rows))
	for _, p := range All() { // no row slips through for want of a vector
		if p.ID != "custom" && (p.Verify.Scheme == "hmac" || p.Verify.Scheme == "digest" || p.Verify.Scheme == "jwt" || p.Verify.Scheme == "http_signature") && p.Tolerance() > 0 && !rows[p.ID] && !stayOld[p.ID] && !asymmetricRow(&p) {
			t.Errorf("%s signs a time and is not signed again", p.ID)
		}
	}
}

func asymmetricRow(p *Preset) bool {
	return p.Verify.Scheme == "jwt" && !strings.HasPrefix(p.Verify.Algorithms[0], "HS") || p.Verify.Scheme == "http_signature" && !strings.HasPrefix(p.Verify.Algorithm, "hmac")
}

func TestIdentityOfTheCommonPresets(t *testing.T) {
	tests := []struct {
		provider, head, body, id, typ, resource string
	}{
		{"stripe", "", `{"id":"evt_1","type":"invoice.paid","created":1760000000,"data":{"object":{"id":"in_1"}}}`, "evt_1", "invoice.paid", "in_1"},
		{"github", "X-GitHub-Delivery: d1\r\nX-GitHub-Event: push\r\n", `{}`, "d1", "push", ""},
		{"standard-webhooks", "webhook-id: msg_1\r\n", `{"type":"a.b"}`, "msg_1", "a.b", ""},
		{"standard-webhooks", "webhook-id: msg_1\r\n", `[]`, "msg_1", "", ""},
		{"svix", "svix-id: msg_1\r\n", `{"type":"a.b"}`, "msg_1", "a.b", ""},
		{"slack", "", `{"event_id":"Ev1","event":{"type":"message","channel":"C1"}}`, "Ev1", "message", "C1"},
		{"shopify", "X-Shopify-Webhook-Id: w1\r\nX-Shopify-Topic: orders/create\r\n", `{}`, "w1", "orders/create", ""},
		{"telegram", "", `{"update_id":8,"edited_channel_post":{"chat":{"id":-1001}}}`, "8", "", "-1001"},
	}
	for _, tt := range tests {
		p, ok := Get(tt.provider)
		if !ok {
			t.Fatal(tt.provider)
		}
		id, err := selector.CompileIdentity(p.Identity)
		if err != nil {
			t.Fatal(err)
		}
		v, err := id.Extract(&event.Request{Target: []byte("/"), Head: event.Head(tt.head), Body: []byte(tt.body)}, nil)
		if err != nil || v.ID.Text() != tt.id || v.Type.Text() != tt.typ || v.Resource.Text() != tt.resource {
			t.Errorf("%s: %q %q %q, %v", tt.provider, v.ID.Text(), v.Type.Text(), v.Resource.Text(), err)
		}
	}
}

// What senders send besides the events that have an id: each has one all the same, and is not refused. The bodies are those that they document.
func TestEventsWithoutAnIDOfTheirOwn(t *testing.T) {
	for provider, bodies := range map[string][]string{
		"paystack": {`{"event":"subscription.create","data":{"domain":"test","status":"active","subscription_code":"SUB_1","amount":50000}}`,
			`{"event":"invoice.create","data":{"domain":"test","invoice_code":"INV_1","amount":50000}}`},
		"clickup": {`{"event":"listCreated","list_id":"162641234","webhook_id":"w1"}`, `{"event":"taskDeleted","task_id":"1vj37mc","webhook_id":"w1"}`},
		"hcp-terraform": {`{"payload_version":1,"notification_configuration_id":"nc-1","run_url":null,"run_id":null,"notifications":[{"message":"Verification of x","trigger":"verification","run_status":null}]}`,
			`{"payload_version":"2","notification_configuration_id":"nc-1","trigger_scope":"assessment","trigger":"assessment:drifted","workspace_id":"ws-1"}`},
		"elevenlabs":  {`{"type":"voice_removal_notice","event_timestamp":1739537297,"data":{"voice_id":"v1"}}`, `{"type":"voice_removed","event_timestamp":1739537299,"data":{"voice_id":"v1"}}`},
		"cloudevents": {`{"specversion":"1.0","type":"a.b","source":"/s","id":"1","time":"2018-04-05T17:31:00Z","data":{}}`, `{"specversion":"1.0","type":"a.b","source":"/t","id":"1","data":{}}`},
		"intercom":    {`{"type":"notification_event","app_id":"a","data":{"item":{"type":"ping"}},"id":null,"topic":"ping","created_at":1476349292}`},
	} {
		p, _ := Get(provider)
		id, err := selector.CompileIdentity(p.Identity)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, body := range bodies {
			v, err := id.Extract(&event.Request{Target: []byte("/"), Body: []byte(body)}, nil)
			if err != nil || seen[v.ID.Text()] || !v.Type.Present() {
				t.Errorf("%s: %s: %q %q, %v", provider, body, v.ID.Text(), v.Type.Text(), err)
			}
			seen[v.ID.Text()] = true
		}
	}
}

// Two events of a sender that its own ids do not tell apart: the row does, or lets ids be observed only.
func TestDifferentEventsAreNotOne(t *testing.T) {
	for _, tt := range []struct{ provider, head, one, other string }{
		{"storyblok", "", `{"text":"The user x published the Story s (s)","action":"published","space_id":1,"story_id":2,"full_slug":"s"}`,
			`{"text":"The user x published the Story s (s)","action":"published","space_id":1,"story_id":2,"full_slug":"s"}`},
		{"doppler", "", `{"text":"deploy"}`, `{"text":"deploy"}`}, // a body of one's own
		{"frameio", "", `{"type":"asset.updated","resource":{"type":"asset","id":"a1"},"user":{"id":"u1"}}`,
			`{"type":"asset.updated","resource":{"type":"asset","id":"a1"},"user":{"id":"u1"}}`},
		{"hcp-terraform", "", `{"notification_configuration_id":"nc-1","run_id":"run-1","notifications":[{"trigger":"run:needs_attention","run_status":"policy_override"}]}`,
			`{"notification_configuration_id":"nc-1","run_id":"run-1","notifications":[{"trigger":"run:needs_attention","run_status":"policy_checked"}]}`},
		{"clickup", "", `{"event":"taskUpdated","history_items":[{"id":"28007"}],"task_id":"1vj","webhook_id":"w1"}`,
			`{"event":"taskStatusUpdated","history_items":[{"id":"28007"}],"task_id":"1vj","webhook_id":"w1"}`},
		{"calendly", "", `{"event":"event_type.updated","created_at":"2024-01-01T09:00:00.000000Z","payload":{"uri":"https://api.calendly.com/event_types/E1"}}`,
			`{"event":"event_type.updated","created_at":"2024-01-01T09:05:00.000000Z","payload":{"uri":"https://api.calendly.com/event_types/E1"}}`},
		{"line", "", `{"destination":"U1","events":[{"type":"message","webhookEventId":"01A"}]}`, `{"destination":"U1","events":[{"type":"message","webhookEventId":"01A"},{"type":"message","webhookEventId":"01B"}]}`},
		{"line", "", `{"destination":"U1","events":[]}`, `{"destination":"U2","events":[]}`},
		{"woocommerce", "X-WC-Webhook-Delivery-ID: d1\r\n", `{"id":7,"status":"completed"}`, `{"id":8,"status":"completed"}`}, // within one second
		{"viber", "", `{"event":"delivered","timestamp":1457764197627,"message_token":4912661846655238145,"user_id":"01234567890A="}`,
			`{"event":"seen","timestamp":1457764197627,"message_token":4912661846655238145,"user_id":"01234567890A="}`},
		{"viber", "", `{"event":"seen","timestamp":1457764197627,"message_token":4912661846655238145,"user_id":"01234567890A="}`,
			`{"event":"seen","timestamp":1457764197627,"message_token":4912661846655238145,"user_id":"01234567890B="}`},
		{"plaid", "", `{"webhook_type":"TRANSACTIONS","webhook_code":"SYNC_UPDATES_AVAILABLE","item_id":"i","historical_update_complete":true}`,
			`{"webhook_type":"TRANSACTIONS","webhook_code":"SYNC_UPDATES_AVAILABLE","item_id":"i","historical_update_complete":true}`},
		{"ms-graph", "", `{"value":[{"subscriptionId":"s","clientState":"c","changeType":"updated","resource":"me/drive/root"}]}`,
			`{"value":[{"subscriptionId":"s","clientState":"c","changeType":"updated","resource":"me/drive/root"}]}`},
	} {
		p, _ := Get(tt.provider)
		got := [2]string{idOf(t, tt.provider, tt.head, tt.one), idOf(t, tt.provider, tt.head, tt.other)}
		if got[0] == got[1] && p.Dedup != "observe" {
			t.Errorf("%s: %s and %s are both %s", tt.provider, tt.one, tt.other, got[0])
		}
	}
}

// Some senders say in a header alone which event it is: its body may be the same for several.
func TestEventsThatAHeaderTellsApart(t *testing.T) {
	for _, tt := range []struct{ provider, header, body string }{
		{"sanity", "idempotency-key", `{"_id":"post-1"}`},
		{"attio", "Idempotency-Key", `{"webhook_id":"w","events":[{"event_type":"record.updated","id":{"record_id":"r1"},"actor":{"type":"system","id":null}}]}`},
		{"contentful", "X-Contentful-Idempotency-Key", `{"event_type":"build"}`},
		{"patreon", "X-Patreon-Event", `{"data":{"type":"member","id":"m1"}}`},
		{"helpscout", "X-HelpScout-Event", `{"id":1,"status":"active"}`},
		{"commercelayer", "X-CommerceLayer-Topic", `{"data":{"id":"o1","type":"orders"}}`},
	} {
		once, again, other := idOf(t, tt.provider, tt.header+": k1\r\n", tt.body), idOf(t, tt.provider, tt.header+": k1\r\n", tt.body), idOf(t, tt.provider, tt.header+": k2\r\n", tt.body)
		if once != again || once == other {
			t.Errorf("%s: %q %q %q", tt.provider, once, again, other)
		}
		if p, _ := Get(tt.provider); !p.NoReplayKey && !p.TypedReplayKey && p.Verify.Timestamp == "" {
			t.Errorf("%s: the signature of one body is the replay key of all its events", tt.provider)
		}
	}
}

// A retry is the same event where its sender counts attempts in the body, or names the delivery in a header.
func TestARetryIsTheSameEvent(t *testing.T) {
	for _, tt := range []struct{ provider, head, one, retryHead, retry string }{
		{"box", "BOX-DELIVERY-ID: d1\r\n", `{"type":"webhook_event","id":"e1","trigger":"FILE.UPLOADED"}`,
			"BOX-DELIVERY-ID: d2\r\n", `{"type":"webhook_event","id":"e1","trigger":"FILE.UPLOADED"}`},
		{"nylas", "", `{"specversion":"1.0","type":"message.created","id":"n1","time":1,"webhook_delivery_attempt":1,"data":{"object":{"id":"m1"}}}`,
			"", `{"specversion":"1.0","type":"message.created","id":"n1","time":1,"webhook_delivery_attempt":2,"data":{"object":{"id":"m1"}}}`},
		{"heroku", "", `{"id":"e1","resource":"release","action":"create","webhook_metadata":{"attempt":{"id":"a1"},"delivery":{"id":"d1"},"event":{"id":"e1"}}}`,
			"", `{"id":"e1","resource":"release","action":"create","webhook_metadata":{"attempt":{"id":"a2"},"delivery":{"id":"d1"},"event":{"id":"e1"}}}`},
		{"mux", "", `{"type":"video.asset.ready","id":"e1","attempts":[]}`, "", `{"type":"video.asset.ready","id":"e1","attempts":[{"id":"a1","response_status_code":503}]}`},
		{"chargebee", "", `{"id":"ev_1","event_type":"x","webhook_status":"scheduled"}`, "", `{"id":"ev_1","event_type":"x","webhook_status":"re_scheduled"}`},
		{"easypost", "", `{"id":"evt_1","description":"tracker.updated","completed_urls":[]}`, "", `{"id":"evt_1","description":"tracker.updated","completed_urls":["u"]}`},
		{"line", "", `{"destination":"U1","events":[{"type":"message","webhookEventId":"01A","deliveryContext":{"isRedelivery":false}}]}`,
			"", `{"destination":"U1","events":[{"type":"message","webhookEventId":"01A","deliveryContext":{"isRedelivery":true}}]}`},
		{"line", "", `{"destination":"U1","events":[{"webhookEventId":"01A","deliveryContext":{"isRedelivery":false}},{"webhookEventId":"01B","deliveryContext":{"isRedelivery":false}}]}`,
			"", `{"destination":"U1","events":[{"webhookEventId":"01A","deliveryContext":{"isRedelivery":true}},{"webhookEventId":"01B","deliveryContext":{"isRedelivery":true}}]}`},
		{"primer", "", `{"eventType":"PAYMENT.STATUS","signedAt":"1689221338","payment":{"id":"p1","dateUpdated":"2023-02-21T15:36:16.267687","status":"SETTLED"}}`,
			"", `{"eventType":"PAYMENT.STATUS","signedAt":"1689221348","payment":{"id":"p1","dateUpdated":"2023-02-21T15:36:16.267687","status":"SETTLED"}}`},
	} {
		if one, retry := idOf(t, tt.provider, tt.head, tt.one), idOf(t, tt.provider, tt.retryHead, tt.retry); one != retry {
			t.Errorf("%s: %q, its retry %q", tt.provider, one, retry)
		}
	}
}

// What a sender writes for a version is one, as the row compares them: under reject_stale each event would be refused (422).
func TestVersionsAreVersions(t *testing.T) {
	for _, tt := range []struct{ provider, older, newer string }{
		{"gitlab", `{"object_attributes":{"id":1,"updated_at":"2020-10-06 15:27:18 UTC"}}`, `{"object_attributes":{"id":1,"updated_at":"2020-10-06T15:28:18.705Z"}}`},
		{"gitlab-signed", `{"object_attributes":{"id":1,"updated_at":"2020-10-06 15:27:18 UTC"}}`, `{"object_attributes":{"id":1,"updated_at":"2020-10-06 15:28:18 UTC"}}`},
		{"quickbooks", `{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Customer","id":"1","lastUpdated":"2015-10-05T14:42:19-0700"}]}}]}`,
			`{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Customer","id":"1","lastUpdated":"2015-10-05T21:42:20Z"}]}}]}`},
		{"contentful", `{"sys":{"id":"e1","version":20,"updatedAt":"2023-03-22T13:42:10.000Z"}}`, `{"sys":{"id":"e1","revision":5,"updatedAt":"2023-03-22T13:42:11.345Z"}}`}, // saved, then published
		{"box", `{"id":"w1","created_at":"2016-05-09T17:41:27-07:00","source":{"id":"1","type":"file","sequence_id":"3"}}`, `{"id":"w2","created_at":"2016-05-10T00:41:28Z","source":{"id":"1","type":"comment"}}`},
		{"quickbooks", `[{"id":"u-Customer-123","type":"qbo.customer.merged.v1","time":"2025-12-04T15:25:05Z","intuitentityid":"123","intuitaccountid":"9"}]`,
			`[{"id":"u-Customer-123","type":"qbo.customer.merged.v1","time":"2025-12-04T15:25:06Z","intuitentityid":"123","intuitaccountid":"9"}]`},
		{"sonarqube", `{"analysedAt":"2016-11-18T10:46:28+0100","project":{"key":"p"}}`, `{"analysedAt":"2016-11-18T09:46:29+0000","project":{"key":"p"}}`},
	} {
		p, _ := Get(tt.provider)
		var versions [2]ordering.Version
		for i, body := range []string{tt.older, tt.newer} {
			v, err := ordering.Parse(p.Compare, valuesOf(t, tt.provider, "webhook-id: m1\r\n", body).Version.Text())
			if err != nil {
				t.Errorf("%s: %s: %v", tt.provider, body, err)
			}
			versions[i] = v
		}
		if !versions[0].Less(versions[1]) {
			t.Errorf("%s: %s is not older than %s", tt.provider, tt.older, tt.newer)
		}
	}
}

// Things of several kinds, and of several tenants, that have the same number are several resources: what is newer of one is not newer of another.
func TestDifferentResourcesAreNotOne(t *testing.T) {
	for _, tt := range []struct{ provider, one, other string }{
		{"gitlab", `{"object_kind":"issue","object_attributes":{"id":301}}`, `{"object_kind":"merge_request","object_attributes":{"id":301}}`},
		{"gitlab-signed", `{"object_kind":"issue","object_attributes":{"id":301}}`, `{"object_kind":"merge_request","object_attributes":{"id":301}}`},
		{"quickbooks", `{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Customer","id":"1"}]}}]}`,
			`{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Vendor","id":"1"}]}}]}`},
		{"quickbooks", `{"eventNotifications":[{"realmId":"1","dataChangeEvent":{"entities":[{"name":"Customer","id":"1"}]}}]}`,
			`{"eventNotifications":[{"realmId":"2","dataChangeEvent":{"entities":[{"name":"Customer","id":"1"}]}}]}`},
		{"quickbooks", `[{"type":"qbo.customer.updated.v1","intuitentityid":"1","intuitaccountid":"9"}]`, `[{"type":"qbo.vendor.updated.v1","intuitentityid":"1","intuitaccountid":"9"}]`},
		{"box", `{"id":"w1","source":{"id":"5","type":"file"}}`, `{"id":"w1","source":{"id":"5","type":"comment"}}`},
		{"thinkific", `{"id":"e1","resource":"user","payload":{"id":5}}`, `{"id":"e1","resource":"order","payload":{"id":5}}`},
	} {
		const head = "webhook-id: m1\r\n"
		one, other := valuesOf(t, tt.provider, head, tt.one).Resource, valuesOf(t, tt.provider, head, tt.other).Resource
		if !one.Present() || !other.Present() || one.Text() == other.Text() {
			t.Errorf("%s: %s is %q, %s is %q", tt.provider, tt.one, one.Text(), tt.other, other.Text())
		}
	}
}

// Ids that several places of one sender give, each for itself: the account tells them apart.
func TestIdsOfSeveralPlacesAreToldApart(t *testing.T) {
	for _, tt := range []struct{ provider, head, body, otherHead, otherBody string }{
		{"discourse", "X-Discourse-Instance: https://a.example\r\nX-Discourse-Event-Id: 171\r\n", `{}`, "X-Discourse-Instance: https://b.example\r\nX-Discourse-Event-Id: 171\r\n", `{}`},
		{"google-pubsub", "", `{"message":{"messageId":"1"},"subscription":"projects/p/subscriptions/a"}`, "", `{"message":{"messageId":"1"},"subscription":"projects/p/subscriptions/b"}`},
		{"azure-event-grid", "", `[{"id":"1","topic":"/a","subject":"s"}]`, "", `[{"id":"1","topic":"/b","subject":"s"}]`},
		{"azure-event-grid", "ce-id: 1\r\nce-source: /a\r\n", `{}`, "ce-id: 1\r\nce-source: /b\r\n", `{}`},
	} {
		one, other := valuesOf(t, tt.provider, tt.head, tt.body), valuesOf(t, tt.provider, tt.otherHead, tt.otherBody)
		if one.ID.Text() != other.ID.Text() || one.Account.Text() == other.Account.Text() || !one.Account.Present() {
			t.Errorf("%s: %q of %q, %q of %q", tt.provider, one.ID.Text(), one.Account.Text(), other.ID.Text(), other.Account.Text())
		}
	}
}

// MessageBird reports in the query of a GET, which has no body.
func TestReportsWithoutABodyAreNotOne(t *testing.T) {
	p, _ := Get("messagebird")
	id, err := selector.CompileIdentity(p.Identity)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, query := range []string{"", "?id=m1&recipient=31612345678&status=sent", "?id=m1&recipient=31612345678&status=delivered", "?id=m1&recipient=31612345679&status=delivered", "?id=m2&recipient=31612345678&status=sent"} {
		v, err := id.Extract(&event.Request{Method: "GET", Target: []byte("/" + query)}, nil)
		if err != nil || seen[v.ID.Text()] {
			t.Errorf("%s: %q, %v", query, v.ID.Text(), err)
		}
		seen[v.ID.Text()] = true
	}
}

// idOf is the id that the row finds in a request.
func idOf(t *testing.T, provider, head, body string) string {
	t.Helper()
	return valuesOf(t, provider, head, body).ID.Text()
}

func valuesOf(t *testing.T, provider, head, body string) selector.Values {
	t.Helper()
	p, _ := Get(provider)
	id, err := selector.CompileIdentity(p.Identity)
	if err != nil {
		t.Fatal(err)
	}
	v, err := id.Extract(&event.Request{Target: []byte("/"), Head: event.Head(head), Body: []byte(body)}, nil)
	if err != nil {
		t.Error(provider, err)
	}
	return v
}

func TestARowAsYAMLMeansTheSame(t *testing.T) {
	for _, p := range All() {
		var got struct {
			Verify   verify.Spec           `yaml:"verify"`
			Identity selector.IdentitySpec `yaml:"identity"`
		}
		dec := yaml.NewDecoder(bytes.NewReader(p.YAML()))
		dec.KnownFields(true)
		if err := dec.Decode(&got); err != nil {
			t.Fatalf("%s: %v\n%s", p.ID, err, p.YAML())
		}
		if diff := cmp.Diff(p.Verify, got.Verify) + cmp.Diff(p.Identity, got.Identity); diff != "" {
			t.Errorf("%s:\n%s", p.ID, diff)
		}
	}
}

func TestATextAsYAMLMeansTheSame(t *testing.T) {
	long := strings.Repeat("json:a.b.c.d.e.f | ", 20) + "body:sha256"
	for _, text := range []string{
		"a", "{body}", "it's", "'", "\"x\"", `a\b`, "sha256 ", " ", " a", "a  b", "sha384:", "a: b", "a:b", "a #b", "#a", "- a", "-", "? a", ": a", "---", "@method", "%a", "|", "~",
		"true", "Null", "No", "1", "1.5", "1e3", "0x10", "0o7", ".inf", "2024-01-01", "<<", "a\nb", "a\n\nb", "\n", "a\n", "\na", "a\n b", "a\tb", "\x00", "é", long, long + ":",
	} {
		p := Preset{ID: "x", Verify: verify.Spec{Signed: text, Fields: []string{text, text}, Require: map[string]string{text: text}}, Identity: selector.IdentitySpec{ID: selector.Texts{text}, Type: selector.Texts{text, "b"}}}
		var got struct {
			Verify   verify.Spec           `yaml:"verify"`
			Identity selector.IdentitySpec `yaml:"identity"`
		}
		if err := yaml.Unmarshal(p.YAML(), &got); err != nil {
			t.Errorf("%q: %v\n%s", text, err, p.YAML())
		} else if diff := cmp.Diff(p.Verify, got.Verify) + cmp.Diff(p.Identity, got.Identity); diff != "" {
			t.Errorf("%q:\n%s\n%s", text, diff, p.YAML())
		}
	}
}

func TestAPresetIsACopy(t *testing.T) {
	p, _ := Get("stripe")
	p.Verify.Fields[0], p.Identity.ID[0] = "v0", "json:x"
	if again, _ := Get("stripe"); again.Verify.Fields[0] != "v1" || again.Identity.ID[0] != "json:id" {
		t.Error("the table was changed")
	}
}

func TestSuggest(t *testing.T) {
	for name, want := range map[string]string{"strip": "stripe", "Stripe": "stripe", "gihtub": "github", "standard-webhook": "standard-webhooks", "zzzzzz": ""} {
		if got := Suggest(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestJudgeVectorsReportsWhatItCannotJudge(t *testing.T) {
	in := `[{"provider":"nobody","name":"a","method":"POST","url":"https://h/","now":1},{"provider":"github","name":"b","method":"POST","url":"ftp://h/","secrets":["s"]},
		{"provider":"gitlab","name":"c","method":"POST","url":"https://h/","secrets":["s"],"headers":{"X-Gitlab-Token":"s\r\n"}}]`
	var got []Judged
	for j, err := range JudgeVectors(strings.NewReader(in)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, j)
	}
	if len(got) != 3 || got[0].Verdict != "invalid" || !strings.Contains(got[0].Why, "nobody") || got[1].Verdict != "invalid" || got[1].Why == "" ||
		got[2].Verdict != "invalid" || !strings.Contains(got[2].Why, "line break") {
		t.Errorf("%+v", got)
	}
	if b, _ := json.Marshal(got[0]); !strings.HasPrefix(string(b), `{"provider":"nobody","name":"a","verdict":"invalid","why":`) {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{"", "{}", "[{]", "[{}"} {
		failed := false
		for _, err := range JudgeVectors(strings.NewReader(bad)) {
			failed = failed || err != nil
		}
		if !failed {
			t.Errorf("%q is an array of vectors", bad)
		}
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add("GET", "/h?hub.mode=subscribe&hub.challenge=1&hub.verify_token=t", "X-Hook-Secret: s\r\n", `{"type":"url_verification","challenge":"c"}`)
	f.Add("GET", "/h?crc_token=%7B%22a%22%3A1%7D", "", "")
	f.Add("POST", "/h?validationToken=a", "", `{"type":1}`)
	var engines []*Handshake
	for _, p := range All() {
		h, err := NewHandshake(p, HandshakeOptions{Secrets: []verify.Secret{verify.NewSecret([]byte("hunter2-secret"))}, PublicURL: "https://h", Config: map[string][]string{"verify_token": {"t"}, "public_key_id": {"pk"}}})
		if err == nil && h != nil {
			engines = append(engines, h)
		}
	}
	f.Fuzz(func(t *testing.T, method, target, head, body string) {
		req := &event.Request{Method: method, Target: []byte("/" + target), Head: event.Head(head), Body: []byte(body)}
		for _, h := range engines {
			a, ok := h.Answer(req, time.Unix(1760000000, 0))
			if !ok {
				continue
			}
			if bytes.Contains(a.Body, []byte("hunter2-secret")) && !strings.Contains(target+body, "hunter2-secret") && !strings.Contains(target, "%") {
				t.Fatalf("the answer shows the secret: %q", a.Body)
			}
			if ct, _ := a.Head.Get("Content-Type"); len(a.Body) > 0 && string(ct) != "text/plain" && string(ct) != "application/json" {
				t.Fatalf("content type %q", ct)
			}
		}
	})
}
