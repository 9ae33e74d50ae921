// Package demo shows the main job on loopback: a consumer, the gateway and senders, with duplicates, reordered, stale and forged events, an outage of the
// consumer and a restart of the gateway. It checks what it shows.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/hooktest"
)

const (
	stripeSecret   = "whsec_demo_stripe_0123456789"
	githubSecret   = "demo github secret"
	standardSecret = "whsec_ZGVtby1zdGFuZGFyZC13ZWJob29rcy1rZXk="
	ordersSecret   = "demo-orders-secret-0001"
)

// ErrCheck says that the demo saw something that hooktender must not do.
var ErrCheck = errors.New("the check failed")

// Result is what the demo saw.
type Result struct {
	Steps []Step   `json:"data"`
	Order []string `json:"order"` // ids of order 7 as the consumer saw them
	Fault string   `json:"fault,omitempty"`
	Pass  bool     `json:"passed"`
}

// Step is one thing that a sender did, and what came of it.
type Step struct {
	Sent        string `json:"sent"`
	Source      string `json:"source"`
	Event       string `json:"event"`
	Answer      string `json:"answer"`
	ConsumerSaw int    `json:"consumer_saw"` // times
	State       string `json:"state"`
	Fault       string `json:"fault,omitempty"`
}

// step is a Step with what must come of it.
type step struct {
	Step
	request hooktest.Request
	times   int  // requests at the same moment
	genuine bool // must reach the consumer exactly once
}

type demo struct {
	progress io.Writer // what is going on
	dir      string
	consumer *hooktest.Consumer
	config   *config.Config
	public   string
	admin    string
	stop     func() error
	steps    []*step
	client   *http.Client
}

// Run plays the demo and tells progress what is going on. It leaves nothing behind. The error is ErrCheck if the check fails; the result is nil if it came to none.
func Run(ctx context.Context, progress io.Writer) (*Result, error) {
	return run(ctx, "", hooktest.NewConsumer(), progress)
}

// run is Run with a consumer of the caller's, in a new directory below tmp.
func run(ctx context.Context, tmp string, consumer *hooktest.Consumer, progress io.Writer) (result *Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(tmp, "hooktender-demo-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{progress: progress, dir: dir, consumer: consumer, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}}
	defer d.client.CloseIdleConnections()
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	defer func() {
		d.consumer.Close()
		if d.stop != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	return d.play(ctx)
}

func (d *demo) start(ctx context.Context) error {
	consumer, err := d.consumer.Listen("")
	if err != nil {
		return err
	}
	if d.public, err = hooktest.FreeAddr(); err != nil {
		return err
	}
	if d.admin, err = hooktest.FreeAddr(); err != nil {
		return err
	}
	secrets := map[string]string{"STRIPE": stripeSecret, "GITHUB": githubSecret, "STANDARD": standardSecret, "ORDERS": ordersSecret}
	text := fmt.Sprintf(configuration, d.public, filepath.Join(d.dir, "data"), d.admin, consumer)
	d.config, err = config.Parse("demo.yaml", []byte(text), func(k string) (string, bool) { v, ok := secrets[k]; return v, ok })
	if err != nil {
		return err
	}
	fmt.Fprintf(d.progress, "A consumer on %s, hooktender in front of it on %s, its journal in %s.\n", consumer, d.public, filepath.Join(d.dir, "data"))
	return d.launch(ctx)
}

const configuration = `
version: 1
listen: %q
data_dir: %q
admin: {listen: %q}
journal: {min_free: 16MiB, allow_tmpfs: true}
upstreams: {app: {url: "http://%s", timeout: 2s, breaker: {failures: 5, probe: 200ms, max_probe: 500ms}}}
sources:
  stripe:   {path: /stripe, provider: stripe, secrets: [{env: STRIPE}], delivery: {upstream: app, retry: {base: 300ms}}}
  github:   {path: /github, provider: github, secrets: [{env: GITHUB}], delivery: {upstream: app, retry: {base: 300ms}}}
  standard: {path: /standard, provider: standard-webhooks, secrets: [{env: STANDARD}], delivery: {upstream: app, mode: store, retry: {base: 300ms}}}
  orders:
    path: /orders
    provider: custom
    secrets: [{env: ORDERS}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
    ordering: {policy: in_sequence, start: 1}
    delivery: {upstream: app, retry: {base: 300ms}}
`

// launch starts the gateway; stop ends it and waits.
func (d *demo) launch(ctx context.Context) error {
	g, err := gateway.New(d.config, gateway.Options{Version: "demo"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	d.stop = func() error { d.stop = nil; cancel(); return <-done }
	for range 500 {
		if ok, _ := g.Ready(); ok {
			return nil
		}
		select {
		case err := <-done:
			d.stop = nil
			return fmt.Errorf("the gateway ended: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("the gateway did not become ready")
}

// play sends everything and checks.
func (d *demo) play(ctx context.Context) (*Result, error) {
	now := time.Now()
	d.section("Everything is up: genuine, repeated and forged requests")
	for _, s := range d.upSteps(now) {
		d.send(ctx, s)
	}
	if settled, err := d.settle(ctx); err != nil { // an answer that is on its way is lost with the consumer, and its event sent again
		return nil, err
	} else if !settled {
		return d.verdict()
	}
	d.section("The consumer is down, and hooktender restarts meanwhile")
	d.consumer.Close()
	for _, s := range d.outageSteps(now) {
		d.send(ctx, s)
	}
	if err := d.stop(); err != nil {
		return nil, err
	}
	if err := d.launch(ctx); err != nil {
		return nil, err
	}
	again := &step{Step: Step{Sent: "the same again, after the restart", Source: "stripe", Event: "evt_out_1"}, request: hooktest.Stripe(stripeSecret, hooktest.StripeBody("evt_out_1", "invoice.paid", "in_8"), now), times: 1}
	d.send(ctx, again)
	if _, err := d.consumer.Listen(""); err != nil {
		return nil, err
	}
	d.section("The consumer is back")
	if _, err := d.settle(ctx); err != nil {
		return nil, err
	}
	return d.verdict()
}

func (d *demo) section(title string) { fmt.Fprintf(d.progress, "%s …\n", title) }

func (d *demo) upSteps(now time.Time) []*step {
	stripe := func(id string) []byte { return hooktest.StripeBody(id, "invoice.paid", "in_"+id) }
	push := []byte(`{"ref":"refs/heads/main","repository":{"full_name":"demo/demo"}}`)
	standard, err := hooktest.Standard(standardSecret, "msg_1", []byte(`{"type":"contact.created","data":{}}`), now)
	tampered := hooktest.Stripe(stripeSecret, stripe("evt_tampered"), now)
	tampered.Body = bytes.Replace(tampered.Body, []byte("paid"), []byte("void"), 1)
	order := func(id, version string) hooktest.Request {
		return hooktest.Custom(ordersSecret, hooktest.CustomBody(id, "order.updated", "order_7", version), now)
	}
	if err != nil {
		panic(err) // the secret above is well-formed
	}
	return []*step{
		{Step: Step{Sent: "Stripe event", Source: "stripe", Event: "evt_1"}, request: hooktest.Stripe(stripeSecret, stripe("evt_1"), now), times: 1, genuine: true},
		{Step: Step{Sent: "the same again", Source: "stripe", Event: "evt_1"}, request: hooktest.Stripe(stripeSecret, stripe("evt_1"), now), times: 1},
		{Step: Step{Sent: "Stripe event, 8 requests at once", Source: "stripe", Event: "evt_2"}, request: hooktest.Stripe(stripeSecret, stripe("evt_2"), now), times: 8, genuine: true},
		{Step: Step{Sent: "signed 10 minutes ago", Source: "stripe", Event: "evt_old"}, request: hooktest.Stripe(stripeSecret, stripe("evt_old"), now.Add(-10*time.Minute)), times: 1},
		{Step: Step{Sent: "forged: wrong secret", Source: "stripe", Event: "evt_forged"}, request: hooktest.Stripe("whsec_of_somebody_else", stripe("evt_forged"), now), times: 1},
		{Step: Step{Sent: "forged: body changed", Source: "stripe", Event: "evt_tampered"}, request: tampered, times: 1},
		{Step: Step{Sent: "GitHub push", Source: "github", Event: "d-1"}, request: hooktest.GitHub(githubSecret, "d-1", "push", push), times: 1, genuine: true},
		{Step: Step{Sent: "captured, sent under another id", Source: "github", Event: "d-2"}, request: hooktest.GitHub(githubSecret, "d-2", "push", push), times: 1},
		{Step: Step{Sent: "forged: wrong secret", Source: "github", Event: "d-3"}, request: hooktest.GitHub("guess", "d-3", "push", push), times: 1},
		{Step: Step{Sent: "Standard Webhooks event, stored first", Source: "standard", Event: "msg_1"}, request: standard, times: 1, genuine: true},
		{Step: Step{Sent: "order 7, version 1", Source: "orders", Event: "o-1"}, request: order("o-1", "1"), times: 1, genuine: true},
		{Step: Step{Sent: "order 7, version 3: early", Source: "orders", Event: "o-3"}, request: order("o-3", "3"), times: 1, genuine: true},
		{Step: Step{Sent: "order 7, version 2: fills the gap", Source: "orders", Event: "o-2"}, request: order("o-2", "2"), times: 1, genuine: true},
		{Step: Step{Sent: "order 7, version 1 as a new event: stale", Source: "orders", Event: "o-late"}, request: order("o-late", "1"), times: 1},
	}
}

func (d *demo) outageSteps(now time.Time) []*step {
	var out []*step
	for i := range 3 {
		id := fmt.Sprintf("evt_out_%d", i+1)
		out = append(out, &step{Step: Step{Sent: "Stripe event during the outage", Source: "stripe", Event: id},
			request: hooktest.Stripe(stripeSecret, hooktest.StripeBody(id, "invoice.paid", "in_8"), now), times: 1, genuine: true})
	}
	body := []byte(`{"action":"opened","repository":{"full_name":"demo/demo"}}`)
	return append(out, &step{Step: Step{Sent: "GitHub event during the outage", Source: "github", Event: "d-out"}, request: hooktest.GitHub(githubSecret, "d-out", "issues", body), times: 1, genuine: true})
}

// send sends a step's requests at the same moment and notes the answers.
func (d *demo) send(ctx context.Context, s *step) {
	d.steps = append(d.steps, s)
	answers := make([]string, s.times)
	var wg sync.WaitGroup
	for i := range s.times {
		wg.Go(func() { answers[i] = d.post(ctx, s) })
	}
	wg.Wait()
	counts := map[string]int{}
	var order []string
	for _, a := range answers {
		if counts[a]++; counts[a] == 1 {
			order = append(order, a)
		}
	}
	for i, a := range order {
		if i > 0 {
			s.Answer += ", "
		}
		if s.times > 1 {
			s.Answer += fmt.Sprintf("%d × ", counts[a])
		}
		s.Answer += a
	}
}

func (d *demo) post(ctx context.Context, s *step) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.public+"/"+s.Source, bytes.NewReader(s.request.Body))
	if err != nil {
		return err.Error()
	}
	req.Header = s.request.Header.Clone()
	resp, err := d.client.Do(req)
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Hooktender-Outcome"))
}

// settle waits until every genuine event has come to its end, and notes what became of each event; false: the time is up.
func (d *demo) settle(ctx context.Context) (bool, error) {
	for {
		open := 0
		for _, s := range d.steps {
			var err error
			if s.State, err = d.state(ctx, s); err != nil {
				return false, err
			}
			if s.genuine && (s.State == "no record" || strings.HasPrefix(s.State, "pending")) {
				open++
			}
		}
		if open == 0 {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// state asks the admin port what became of an event.
func (d *demo) state(ctx context.Context, s *step) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.admin+"/v1/events/"+url.PathEscape(s.Event)+"?source="+s.Source, nil)
	if err != nil {
		return "", err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return "no record", nil
	}
	var rec struct{ State, Reason string }
	if err := json.NewDecoder(resp.Body).Decode(&rec); err != nil {
		return "", err
	}
	if rec.Reason != "" {
		return rec.State + "/" + rec.Reason, nil
	}
	return rec.State, nil
}

// verdict checks what was seen: every genuine event delivered, once, nothing else at all, and the order's versions in order.
func (d *demo) verdict() (*Result, error) {
	r := &Result{Pass: true}
	genuine := map[string]bool{}
	for _, s := range d.steps {
		genuine[s.Source+"/"+s.Event] = genuine[s.Source+"/"+s.Event] || s.genuine
	}
	for _, s := range d.steps {
		s.ConsumerSaw = len(d.consumer.Of(s.Source, s.Event))
		switch must := genuine[s.Source+"/"+s.Event]; {
		case must && s.ConsumerSaw != 1:
			s.Fault = "must be 1×"
		case !must && s.ConsumerSaw > 0:
			s.Fault = "must be 0×"
		case must && s.State != "delivered":
			s.Fault = "must be delivered"
		}
		r.Steps, r.Pass = append(r.Steps, s.Step), r.Pass && s.Fault == ""
	}
	if r.Order = d.orders(); !slices.Equal(r.Order, []string{"o-1", "o-2", "o-3"}) {
		r.Fault, r.Pass = "order 7 reached the consumer as "+strings.Join(r.Order, " "), false
	}
	if !r.Pass {
		return r, ErrCheck
	}
	return r, nil
}

// orders are the ids of the orders source in the order in which the consumer saw them.
func (d *demo) orders() []string {
	got := []string{}
	for _, s := range d.consumer.Seen() {
		if s.Header.Get("Hooktender-Source") == "orders" {
			got = append(got, s.Header.Get("Hooktender-Event-Id"))
		}
	}
	return got
}
