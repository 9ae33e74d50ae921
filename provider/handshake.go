package provider

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// maxChallenge bounds a text that is sent back, in bytes.
const maxChallenge = 4096

// HandshakeAnswer is the answer to a sender's challenge. The request is not forwarded.
type HandshakeAnswer struct {
	Status int
	Head   event.Head // header lines, without Content-Length
	Body   []byte
	Notice string // what an operator should be told; "" = nothing
}

// HandshakeOptions are what challenges need besides the preset.
type HandshakeOptions struct {
	Verifier  *verify.Verifier // of the source; signed challenges are answered only after it said yes
	Secrets   []verify.Secret
	Config    map[string][]string // `handshake:` of the source: verify_token, verification_token, public_key_id, allowed_origins, topics
	PublicURL string
	// Enroll takes a secret that a sender delivers in its first request and says whether it was wanted: only in a window
	// that an operator opened, and never over a secret that is already there. Nil = never.
	Enroll func(secret verify.Secret) bool
	// Visit asks for a URL on the sender's own hosts, to confirm a subscription (Keys.Visit). Nil = an operator does.
	Visit func(address string) error
}

// Handshake answers the challenges of one source. It is immutable and may be used from many goroutines.
//
// Challenges can be abused as signing oracles: they are answered only to signed requests where the sender signs them;
// what goes into a MAC has a restricted alphabet, and the presets refuse events of that shape. What is sent back is
// text/plain and nosniff.
type Handshake struct {
	opts HandshakeOptions
	kind challenge
}

// challenge is one way to ask.
type challenge struct {
	methods []string
	answer  func(*Handshake, *event.Request, time.Time) (HandshakeAnswer, bool)
}

// HandshakeKeys are the keys that `handshake:` of a source may have: what challenges, key services and the presets' rows ask for.
var HandshakeKeys = []string{"allowed_origins", "audience", "auto_confirm", "bundle_id", "client_id", "client_secret", "email", "environment", "issuer", "param",
	"public_key_id", "timestamp_header", "topics", "verification_token", "verify_token"}

var (
	onGet  = []string{http.MethodGet}
	onPost = []string{http.MethodPost}
)

// challenges by the name in a row's handshake.
var challenges = map[string]challenge{
	"slack":          {onPost, (*Handshake).slack},
	"discord":        {onPost, (*Handshake).discord},
	"zoom":           {onPost, (*Handshake).zoom},
	"twitch":         {onPost, (*Handshake).twitch},
	"sns":            {onPost, (*Handshake).sns},
	"monday":         {onPost, (*Handshake).monday},
	"lark":           {onPost, (*Handshake).lark},
	"ms_graph":       {onPost, (*Handshake).msGraph},
	"enroll":         {onPost, (*Handshake).enroll},
	"event_grid":     {append(slices.Clone(onPost), http.MethodOptions), (*Handshake).eventGrid},
	"xero":           {onPost, (*Handshake).xero},
	"hub_text":       {onGet, (*Handshake).hubText},
	"hub_json":       {onGet, (*Handshake).hubJSON},
	"websub":         {onGet, (*Handshake).webSub},
	"crc":            {onGet, (*Handshake).crc},
	"echo_query":     {onGet, (*Handshake).echoQuery},
	"echo_check":     {onGet, (*Handshake).echoCheck},
	"linkedin":       {onGet, (*Handshake).linkedIn},
	"challenge_hash": {onGet, (*Handshake).challengeHash},
	"braintree":      {onGet, (*Handshake).braintree},
	"okta":           {onGet, (*Handshake).okta},
	"worldline":      {onGet, (*Handshake).worldline},
	"adobe_sign":     {onGet, (*Handshake).adobeSign},
	"probe":          {[]string{http.MethodHead, http.MethodGet}, (*Handshake).probe},
	"cloudevents":    {[]string{http.MethodOptions}, (*Handshake).cloudEvents},
}

// NewHandshake gives the engine for p's challenge, nil if it has none.
func NewHandshake(p Preset, opts HandshakeOptions) (*Handshake, error) {
	if p.Handshake == "" {
		return nil, nil
	}
	kind, ok := challenges[p.Handshake]
	if !ok {
		return nil, fmt.Errorf("provider %s: unknown handshake %q", p.ID, p.Handshake)
	}
	return &Handshake{opts: opts, kind: kind}, nil
}

// Methods are the request methods of challenges: a source must let them through to Answer even if its events use others.
func (h *Handshake) Methods() []string { return slices.Clone(h.kind.methods) }

// Answer answers req if it is a challenge that may be answered. false: treat it as an event.
func (h *Handshake) Answer(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	if !slices.Contains(h.kind.methods, req.Method) {
		return HandshakeAnswer{}, false
	}
	return h.kind.answer(h, req, now)
}

func (h *Handshake) config(name string) []string { return h.opts.Config[name] }

func (h *Handshake) verified(req *event.Request, now time.Time) bool {
	return h.opts.Verifier != nil && h.opts.Verifier.Verify(req, now).OK
}

func text(status int, body []byte) (HandshakeAnswer, bool) {
	head := event.Head(nil).AppendString("Content-Type", "text/plain").AppendString("X-Content-Type-Options", "nosniff")
	return HandshakeAnswer{Status: status, Head: head, Body: body}, true
}

func jsonAnswer(members map[string]any) (HandshakeAnswer, bool) {
	body, err := json.Marshal(members)
	if err != nil {
		return HandshakeAnswer{}, false
	}
	head := event.Head(nil).AppendString("Content-Type", "application/json").AppendString("X-Content-Type-Options", "nosniff")
	return HandshakeAnswer{Status: http.StatusOK, Head: head, Body: body}, true
}

func refuse(status int) (HandshakeAnswer, bool) { return HandshakeAnswer{Status: status}, true }

// param is a query parameter that is there once, decoded and not too long.
func param(req *event.Request, name string) (string, bool) {
	v, n, ok := selector.Lookup(req.Query(), name)
	return string(v), n == 1 && ok && len(v) > 0 && len(v) <= maxChallenge
}

// line is a header that is there once.
func line(req *event.Request, name string) (string, bool) {
	v, n := req.Head.Get(name)
	return string(v), n == 1 && len(v) > 0 && len(v) <= maxChallenge
}

// members reads strings and numbers out of a JSON body; "" for what is absent or ambiguous.
func members(req *event.Request, paths ...string) []string {
	got := make([]selector.JSONValue, len(paths))
	_ = selector.NewJSONSet(paths...).Extract(req.Body, got)
	out := make([]string, len(paths))
	for i, g := range got {
		if g.Kind == selector.String || g.Kind == selector.Number {
			out[i] = g.Text()
		}
	}
	return out
}

// equals compares with any of the wanted texts in constant time; no wanted text equals nothing.
func equals(got string, wanted []string) bool {
	found := false
	for _, w := range wanted {
		if w != "" && subtle.ConstantTimeCompare([]byte(got), []byte(w)) == 1 {
			found = true
		}
	}
	return found
}

// nonce is the alphabet of challenges that are hashed with a secret.
var nonce = regexp.MustCompile(`^[A-Za-z0-9_=-]{1,128}$`)

func (h *Handshake) slack(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	m := members(req, "type", "challenge")
	if m[0] != "url_verification" || m[1] == "" || len(m[1]) > maxChallenge || !h.verified(req, now) {
		return HandshakeAnswer{}, false
	}
	return text(http.StatusOK, []byte(m[1]))
}

// discord answers pings: type 1 without an event (interactions), type 0 (webhook events).
func (h *Handshake) discord(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	var got [2]selector.JSONValue
	if selector.NewJSONSet("type", "event").Extract(req.Body, got[:]) != nil || got[1].Kind != selector.Absent || got[0].Kind != selector.Number {
		return HandshakeAnswer{}, false
	}
	switch kind := got[0].Text(); {
	case kind != "0" && kind != "1" || !h.verified(req, now):
		return HandshakeAnswer{}, false
	case kind == "0":
		return HandshakeAnswer{Status: http.StatusNoContent}, true
	}
	return jsonAnswer(map[string]any{"type": 1})
}

// zoom answers with the HMAC of a token, made with the secret that the request was signed with. What it signs for events has colons in it, which the alphabet leaves out.
func (h *Handshake) zoom(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	m := members(req, "event", "payload.plainToken")
	if m[0] != "endpoint.url_validation" || !nonce.MatchString(m[1]) || len(h.opts.Secrets) == 0 || h.opts.Verifier == nil {
		return HandshakeAnswer{}, false
	}
	verdict := h.opts.Verifier.Verify(req, now)
	if !verdict.OK {
		return HandshakeAnswer{}, false
	}
	secret := h.opts.Secrets[0]
	if i := verdict.SecretIndex; i > 0 && i < len(h.opts.Secrets) {
		secret = h.opts.Secrets[i]
	}
	mac := hmac.New(sha256.New, secret.Bytes())
	mac.Write([]byte(m[1]))
	return jsonAnswer(map[string]any{"plainToken": m[1], "encryptedToken": hex.EncodeToString(mac.Sum(nil))})
}

func (h *Handshake) twitch(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	if kind, ok := line(req, "Twitch-Eventsub-Message-Type"); !ok || kind != "webhook_callback_verification" || !h.verified(req, now) {
		return HandshakeAnswer{}, false
	}
	if c := members(req, "challenge")[0]; c != "" && len(c) <= maxChallenge {
		return text(http.StatusOK, []byte(c))
	}
	return HandshakeAnswer{}, false
}

// sns answers a confirmation from an allowed topic. Where handshake.auto_confirm says so the URL is visited, under the rules of keys:
// a genuine request may have been made by anybody with a topic of their own, but topics are allowed by name. Else an operator visits it.
func (h *Handshake) sns(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	m := members(req, "Type", "TopicArn", "SubscribeURL")
	if m[0] != "SubscriptionConfirmation" || !h.verified(req, now) {
		return HandshakeAnswer{}, false
	}
	if h.opts.Visit == nil || !equals("true", h.config("auto_confirm")) {
		return HandshakeAnswer{Status: http.StatusOK, Notice: fmt.Sprintf("topic %q asks to be confirmed: visit %q", m[1], m[2])}, true
	}
	if !confirmation(m[2], m[1]) {
		return HandshakeAnswer{Status: http.StatusForbidden, Notice: fmt.Sprintf("topic %q asks for a confirmation at a place that is not trusted", m[1])}, true
	}
	if err := h.opts.Visit(m[2]); err != nil { // it asks again
		return HandshakeAnswer{Status: http.StatusServiceUnavailable, Notice: fmt.Sprintf("topic %q could not be confirmed: %v", m[1], err)}, true
	}
	return HandshakeAnswer{Status: http.StatusOK, Notice: fmt.Sprintf("topic %q is confirmed", m[1])}, true
}

var snsHost = regexp.MustCompile(`^sns\.[a-z0-9-]{3,}\.amazonaws\.com(\.cn)?$`)

// confirmation says whether a SubscribeURL does nothing but confirm a subscription to this topic.
func confirmation(address, topic string) bool {
	u, err := url.Parse(address)
	if err != nil || len(address) > maxChallenge || u.Scheme != "https" || !snsHost.MatchString(u.Host) || u.User != nil || u.Fragment != "" || u.Path != "/" && u.Path != "" {
		return false
	}
	q := u.Query()
	return len(q["Action"]) == 1 && q.Get("Action") == "ConfirmSubscription" && len(q["TopicArn"]) == 1 && q.Get("TopicArn") == topic
}

// eventGrid answers the validation of its own schema, and of CloudEvents'. The former is an event of the source: it is verified first.
func (h *Handshake) eventGrid(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	if req.Method == http.MethodOptions {
		return h.cloudEvents(req, now)
	}
	if kind, ok := line(req, "aeg-event-type"); !ok || kind != "SubscriptionValidation" || !h.verified(req, now) {
		return HandshakeAnswer{}, false
	}
	code := members(req, "0.data.validationCode")[0]
	if code == "" || len(code) > maxChallenge {
		return HandshakeAnswer{}, false
	}
	return jsonAnswer(map[string]any{"validationResponse": code})
}

// xero answers the intent to receive: a signed delivery without events.
func (h *Handshake) xero(req *event.Request, now time.Time) (HandshakeAnswer, bool) {
	var got [1]selector.JSONValue
	if selector.NewJSONSet("events").Extract(req.Body, got[:]) != nil || got[0].Kind != selector.Composite {
		return HandshakeAnswer{}, false
	}
	empty := true
	if !selector.EachElement(got[0].Raw(), func([]byte) bool { empty = false; return false }) || !empty || !h.verified(req, now) {
		return HandshakeAnswer{}, false
	}
	return HandshakeAnswer{Status: http.StatusOK}, true
}

// monday echoes a challenge that is all the body says.
func (h *Handshake) monday(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	m := members(req, "challenge", "event")
	if !nonce.MatchString(m[0]) || len(req.Body) > len(m[0])+64 {
		return HandshakeAnswer{}, false
	}
	return jsonAnswer(map[string]any{"challenge": m[0]})
}

func (h *Handshake) lark(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	m := members(req, "type", "challenge", "token")
	if m[0] != "url_verification" || m[1] == "" || len(m[1]) > maxChallenge {
		return HandshakeAnswer{}, false
	}
	if !equals(m[2], h.config("verification_token")) {
		return refuse(http.StatusUnauthorized)
	}
	return jsonAnswer(map[string]any{"challenge": m[1]})
}

func (h *Handshake) msGraph(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	token, ok := param(req, "validationToken")
	if !ok {
		return HandshakeAnswer{}, false
	}
	return text(http.StatusOK, []byte(token))
}

// enroll takes a secret from the sender's first request, if an operator waits for it.
func (h *Handshake) enroll(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	secret, inHead := line(req, "X-Hook-Secret")
	if !inHead {
		if secret = members(req, "verification_token")[0]; secret == "" {
			return HandshakeAnswer{}, false
		}
	}
	if h.opts.Enroll == nil || strings.ContainsAny(secret, " \t\r\n") || !h.opts.Enroll(verify.NewSecret([]byte(secret))) {
		return refuse(http.StatusUnauthorized)
	}
	a := HandshakeAnswer{Status: http.StatusOK}
	if inHead {
		a.Head = a.Head.AppendString("X-Hook-Secret", secret)
	}
	return a, true
}

// hub is the subscription check with a token of our own (the hub.* parameters of WebSub as used with verify_token).
func (h *Handshake) hub(req *event.Request) (string, bool) {
	mode, ok1 := param(req, "hub.mode")
	value, ok2 := param(req, "hub.challenge")
	token, ok3 := param(req, "hub.verify_token")
	return value, ok1 && ok2 && ok3 && mode == "subscribe" && equals(token, h.config("verify_token"))
}

func (h *Handshake) hubText(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if value, ok := h.hub(req); ok {
		return text(http.StatusOK, []byte(value))
	}
	return refuse(http.StatusForbidden)
}

func (h *Handshake) hubJSON(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if value, ok := h.hub(req); ok {
		return jsonAnswer(map[string]any{"hub.challenge": value})
	}
	return refuse(http.StatusForbidden)
}

// webSub confirms subscriptions to topics that we asked for (W3C WebSub §5.3).
func (h *Handshake) webSub(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	mode, _ := param(req, "hub.mode")
	topic, _ := param(req, "hub.topic")
	value, ok := param(req, "hub.challenge")
	if !ok || mode != "subscribe" || !equals(topic, h.config("topics")) {
		return refuse(http.StatusNotFound)
	}
	return text(http.StatusOK, []byte(value))
}

// crc answers with the HMAC of a token. The preset refuses events that look like one.
func (h *Handshake) crc(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	token, ok := param(req, "crc_token")
	if !ok || !nonce.MatchString(token) || len(h.opts.Secrets) == 0 {
		return refuse(http.StatusBadRequest)
	}
	mac := hmac.New(sha256.New, h.opts.Secrets[0].Bytes())
	mac.Write([]byte(token))
	return jsonAnswer(map[string]any{"response_token": "sha256=" + base64.StdEncoding.EncodeToString(mac.Sum(nil))})
}

func (h *Handshake) echoQuery(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if c, ok := param(req, "challenge"); ok {
		return text(http.StatusOK, []byte(c))
	}
	return HandshakeAnswer{}, false
}

func (h *Handshake) echoCheck(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if c, ok := param(req, "check"); ok {
		return text(http.StatusOK, []byte(c))
	}
	return HandshakeAnswer{}, false
}

// uuid is the alphabet of LinkedIn's challenges; what it signs of events begins otherwise.
var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// linkedIn answers with the HMAC of a code, again every two hours.
func (h *Handshake) linkedIn(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	code, ok := param(req, "challengeCode")
	if !ok || !uuid.MatchString(code) || len(h.opts.Secrets) == 0 {
		return refuse(http.StatusBadRequest)
	}
	mac := hmac.New(sha256.New, h.opts.Secrets[0].Bytes())
	mac.Write([]byte(code))
	return jsonAnswer(map[string]any{"challengeCode": code, "challengeResponse": hex.EncodeToString(mac.Sum(nil))})
}

// challengeHash hashes the challenge with our token and the endpoint's URL.
func (h *Handshake) challengeHash(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	code, ok := param(req, "challenge_code")
	tokens := slices.Concat(h.config("verification_token"), h.config("verify_token"))
	if !ok || !nonce.MatchString(code) || len(tokens) == 0 || h.opts.PublicURL == "" {
		return refuse(http.StatusBadRequest)
	}
	sum := sha256.Sum256([]byte(code + tokens[0] + strings.TrimSuffix(h.opts.PublicURL, "/") + string(req.Path())))
	return jsonAnswer(map[string]any{"challengeResponse": hex.EncodeToString(sum[:])})
}

// btChallenge is the alphabet of Braintree's challenges; the preset refuses payloads of that shape.
var btChallenge = regexp.MustCompile(`^[a-f0-9]{20,32}$`)

func (h *Handshake) braintree(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	c, ok := param(req, "bt_challenge")
	ids := h.config("public_key_id")
	if !ok || !btChallenge.MatchString(c) || len(ids) == 0 || len(h.opts.Secrets) == 0 {
		return refuse(http.StatusBadRequest)
	}
	key := sha1.Sum(h.opts.Secrets[0].Bytes())
	mac := hmac.New(sha1.New, key[:])
	mac.Write([]byte(c))
	return text(http.StatusOK, []byte(ids[0]+"|"+hex.EncodeToString(mac.Sum(nil))))
}

func (h *Handshake) okta(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if c, ok := line(req, "X-Okta-Verification-Challenge"); ok {
		return jsonAnswer(map[string]any{"verification": c})
	}
	return HandshakeAnswer{}, false
}

func (h *Handshake) worldline(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	if c, ok := line(req, "X-GCS-Webhooks-Endpoint-Verification"); ok {
		return text(http.StatusOK, []byte(c))
	}
	return HandshakeAnswer{}, false
}

func (h *Handshake) adobeSign(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	id, ok := line(req, "X-AdobeSign-ClientId")
	if !ok {
		return HandshakeAnswer{}, false
	}
	for _, s := range h.opts.Secrets {
		if equals(id, []string{string(s.Bytes())}) {
			return HandshakeAnswer{Status: http.StatusOK, Head: event.Head(nil).AppendString("X-AdobeSign-ClientId", id)}, true
		}
	}
	return refuse(http.StatusUnauthorized)
}

func (h *Handshake) probe(*event.Request, time.Time) (HandshakeAnswer, bool) {
	return HandshakeAnswer{Status: http.StatusOK}, true
}

// cloudEvents grants a sender the right to deliver (CloudEvents HTTP 1.1 Web Hooks §4).
func (h *Handshake) cloudEvents(req *event.Request, _ time.Time) (HandshakeAnswer, bool) {
	origin, ok := line(req, "WebHook-Request-Origin")
	if !ok {
		return HandshakeAnswer{}, false
	}
	if allowed := h.config("allowed_origins"); len(allowed) > 0 && !equals(origin, allowed) {
		return refuse(http.StatusForbidden)
	}
	a := HandshakeAnswer{Status: http.StatusOK, Head: event.Head(nil).AppendString("Allow", http.MethodPost).AppendString("WebHook-Allowed-Origin", origin)}
	if rate, ok := line(req, "WebHook-Request-Rate"); ok && (rate == "*" || len(rate) <= 9 && strings.Trim(rate, "0123456789") == "") {
		a.Head = a.Head.AppendString("WebHook-Allowed-Rate", rate)
	}
	return a, true
}
