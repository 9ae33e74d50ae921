// Package hooktest is a kit for testing what stands behind hooktender, and hooktender itself: senders that sign as the vendors do, a consumer that fails
// by plan, and a gateway that runs inside a testing/synctest bubble. The signers are written from the vendors' documents and share no code with package verify.
package hooktest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Request is one webhook request as a sender writes it.
type Request struct {
	Header http.Header
	Body   []byte
}

func mac(secret []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, secret)
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// Stripe signs a body as of a time (docs.stripe.com/webhooks, "Verify manually"): t=<unix>,v1=<hex HMAC-SHA256 of "t.body">.
func Stripe(secret string, body []byte, at time.Time) Request {
	ts := strconv.FormatInt(at.Unix(), 10)
	return Request{Body: body, Header: http.Header{
		"Content-Type":     {"application/json; charset=utf-8"},
		"User-Agent":       {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
		"Stripe-Signature": {"t=" + ts + ",v1=" + hex.EncodeToString(mac([]byte(secret), ts, ".", string(body)))},
	}}
}

// StripeBody is a Stripe event with this id, type and object.
func StripeBody(id, kind, object string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"object":"event","type":%q,"created":%d,"data":{"object":{"id":%q,"object":"invoice"}}}`, id, kind, time.Now().Unix(), object)
}

// GitHub signs a body (docs.github.com, "Validating webhook deliveries"): the delivery id is not signed.
func GitHub(secret, delivery, kind string, body []byte) Request {
	return Request{Body: body, Header: http.Header{
		"Content-Type":        {"application/json"},
		"User-Agent":          {"GitHub-Hookshot/044aadd"},
		"X-Github-Delivery":   {delivery},
		"X-Github-Event":      {kind},
		"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac([]byte(secret), string(body)))},
	}}
}

// Standard signs a body as of a time by Standard Webhooks 1.0 (symmetric, v1). secret is "whsec_" and base64; the error is the base64's.
func Standard(secret, id string, body []byte, at time.Time) (Request, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return Request{}, fmt.Errorf("secret: %w", err)
	}
	ts := strconv.FormatInt(at.Unix(), 10)
	return Request{Body: body, Header: http.Header{
		"Content-Type":      {"application/json"},
		"Webhook-Id":        {id},
		"Webhook-Timestamp": {ts},
		"Webhook-Signature": {"v1," + base64.StdEncoding.EncodeToString(mac(key, id, ".", ts, ".", string(body)))},
	}}, nil
}

// Slack signs a body as of a time (api.slack.com, "Verifying requests from Slack"): v0=<hex HMAC-SHA256 of "v0:t:body">, and t in a header.
func Slack(secret string, body []byte, at time.Time) Request {
	ts := strconv.FormatInt(at.Unix(), 10)
	return Request{Body: body, Header: http.Header{
		"Content-Type":              {"application/json"},
		"X-Slack-Request-Timestamp": {ts},
		"X-Slack-Signature":         {"v0=" + hex.EncodeToString(mac([]byte(secret), "v0:", ts, ":", string(body)))},
	}}
}

// Custom signs a body as of a time in the form of the README's custom source: X-Signature: sha256=<hex HMAC-SHA256 of "timestamp.body">, X-Timestamp.
func Custom(secret string, body []byte, at time.Time) Request {
	ts := strconv.FormatInt(at.Unix(), 10)
	return Request{Body: body, Header: http.Header{
		"Content-Type": {"application/json"},
		"X-Timestamp":  {ts},
		"X-Signature":  {"sha256=" + hex.EncodeToString(mac([]byte(secret), ts, ".", string(body)))},
	}}
}

// CustomBody is a body with everything that ordering needs. version "" leaves it out.
func CustomBody(id, kind, resource, version string) []byte {
	v := ""
	if version != "" {
		v = `,"version":` + version
	}
	return fmt.Appendf(nil, `{"id":%q,"type":%q,"resource":%q%s}`, id, kind, resource, v)
}
