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
	"strings"
	"sync"
	"text/tabwriter"
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

// step is one thing that a sender does, and what must come of it.
type step struct {
	what    string
	source  string
	id      string
	request hooktest.Request
	times   int  // requests at the same moment
	genuine bool // must reach the consumer exactly once
	answers string
	state   string
}

type demo struct {
	out      io.Writer // the table
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

// Run plays the demo, tells progress what is going on and writes its table to out. It leaves nothing behind. The error is ErrCheck if the check fails.
func Run(ctx context.Context, out, progress io.Writer) error {
	return run(ctx, "", hooktest.NewConsumer(), out, progress)
}

// run is Run with a consumer of the caller's, in a new directory below tmp.
func run(ctx context.Context, tmp string, consumer *hooktest.Consumer, out, progress io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(tmp, "hooktender-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{out: out, progress: progress, dir: dir, consumer: consumer, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}}
	defer d.client.CloseIdleConnections()
	if err := d.start(ctx); err != nil {
		return err
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
	fmt.Fprintf(d.out, "A consumer on %s, hooktender in front of it on %s, its journal in %s.\n\n", consumer, d.public, filepath.Join(d.dir, "data"))
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
func (d *demo) play(ctx context.Context) error {
	now := time.Now()
	d.section("Everything is up: genuine, repeated and forged requests")
	for _, s := range d.upSteps(now) {
		d.send(ctx, s)
	}
	if err := d.settle(ctx); err != nil { // an answer that is on its way is lost with the consumer, and its event sent again
		return err
	}
	d.section("The consumer is down, and hooktender restarts meanwhile")
	d.consumer.Close()
	for _, s := range d.outageSteps(now) {
		d.send(ctx, s)
	}
	if err := d.stop(); err != nil {
		return err
	}
	if err := d.launch(ctx); err != nil {
		return err
	}
	again := &step{what: "the same again, after the restart", source: "stripe", id: "evt_out_1", request: hooktest.Stripe(stripeSecret, hooktest.StripeBody("evt_out_1", "invoice.paid", "in_8"), now), times: 1}
	d.send(ctx, again)
	if _, err := d.consumer.Listen(""); err != nil {
		return err
	}
	d.section("The consumer is back")
	if err := d.settle(ctx); err != nil {
		return err
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
		{what: "Stripe event", source: "stripe", id: "evt_1", request: hooktest.Stripe(stripeSecret, stripe("evt_1"), now), times: 1, genuine: true},
		{what: "the same again", source: "stripe", id: "evt_1", request: hooktest.Stripe(stripeSecret, stripe("evt_1"), now), times: 1},
		{what: "Stripe event, 8 requests at once", source: "stripe", id: "evt_2", request: hooktest.Stripe(stripeSecret, stripe("evt_2"), now), times: 8, genuine: true},
		{what: "signed 10 minutes ago", source: "stripe", id: "evt_old", request: hooktest.Stripe(stripeSecret, stripe("evt_old"), now.Add(-10*time.Minute)), times: 1},
		{what: "forged: wrong secret", source: "stripe", id: "evt_forged", request: hooktest.Stripe("whsec_of_somebody_else", stripe("evt_forged"), now), times: 1},
		{what: "forged: body changed", source: "stripe", id: "evt_tampered", request: tampered, times: 1},
		{what: "GitHub push", source: "github", id: "d-1", request: hooktest.GitHub(githubSecret, "d-1", "push", push), times: 1, genuine: true},
		{what: "captured, sent under another id", source: "github", id: "d-2", request: hooktest.GitHub(githubSecret, "d-2", "push", push), times: 1},
		{what: "forged: wrong secret", source: "github", id: "d-3", request: hooktest.GitHub("guess", "d-3", "push", push), times: 1},
		{what: "Standard Webhooks event, stored first", source: "standard", id: "msg_1", request: standard, times: 1, genuine: true},
		{what: "order 7, version 1", source: "orders", id: "o-1", request: order("o-1", "1"), times: 1, genuine: true},
		{what: "order 7, version 3: early", source: "orders", id: "o-3", request: order("o-3", "3"), times: 1, genuine: true},
		{what: "order 7, version 2: fills the gap", source: "orders", id: "o-2", request: order("o-2", "2"), times: 1, genuine: true},
		{what: "order 7, version 1 as a new event: stale", source: "orders", id: "o-late", request: order("o-late", "1"), times: 1},
	}
}

func (d *demo) outageSteps(now time.Time) []*step {
	var out []*step
	for i := range 3 {
		id := fmt.Sprintf("evt_out_%d", i+1)
		out = append(out, &step{what: "Stripe event during the outage", source: "stripe", id: id,
			request: hooktest.Stripe(stripeSecret, hooktest.StripeBody(id, "invoice.paid", "in_8"), now), times: 1, genuine: true})
	}
	body := []byte(`{"action":"opened","repository":{"full_name":"demo/demo"}}`)
	return append(out, &step{what: "GitHub event during the outage", source: "github", id: "d-out", request: hooktest.GitHub(githubSecret, "d-out", "issues", body), times: 1, genuine: true})
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
			s.answers += ", "
		}
		if s.times > 1 {
			s.answers += fmt.Sprintf("%d × ", counts[a])
		}
		s.answers += a
	}
}

func (d *demo) post(ctx context.Context, s *step) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.public+"/"+s.source, bytes.NewReader(s.request.Body))
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

// settle waits until every genuine event has come to its end, and notes what became of each event.
func (d *demo) settle(ctx context.Context) error {
	for {
		open := 0
		for _, s := range d.steps {
			var err error
			if s.state, err = d.state(ctx, s); err != nil {
				return err
			}
			if s.genuine && (s.state == "no record" || strings.HasPrefix(s.state, "pending")) {
				open++
			}
		}
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return d.verdict()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// state asks the admin port what became of an event.
func (d *demo) state(ctx context.Context, s *step) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.admin+"/v1/events/"+url.PathEscape(s.id)+"?source="+s.source, nil)
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

// verdict prints the table and checks it: every genuine event delivered, once, nothing else at all, and each order's versions in order.
func (d *demo) verdict() error {
	tw := tabwriter.NewWriter(d.out, 2, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "SENT\tSOURCE\tEVENT\tANSWER\tCONSUMER SAW\tBECAME\t")
	genuine, faults := map[string]bool{}, 0
	for _, s := range d.steps {
		genuine[s.source+"/"+s.id] = genuine[s.source+"/"+s.id] || s.genuine
	}
	for _, s := range d.steps {
		seen, want := len(d.consumer.Of(s.source, s.id)), 0
		if genuine[s.source+"/"+s.id] {
			want = 1
		}
		mark := ""
		switch {
		case seen != want:
			mark, faults = fmt.Sprintf("  ✗ must be %d×", want), faults+1
		case want > 0 && s.state != "delivered":
			mark, faults = "  ✗ must be delivered", faults+1
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d×%s\t%s\t\n", s.what, s.source, s.id, s.answers, seen, mark, s.state)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if got := d.orders(); got != "o-1 o-2 o-3" {
		faults++
		fmt.Fprintf(d.out, "\n✗ order 7 reached the consumer as %s\n", got)
	}
	if faults > 0 {
		fmt.Fprintf(d.out, "\n✗ %d faults\n", faults)
		return ErrCheck
	}
	fmt.Fprintln(d.out, "\n✓ Every genuine event reached the consumer exactly once, order 7 in order 1, 2, 3; nothing forged, stale or repeated did.")
	return nil
}

// orders are the ids of the orders source in the order in which the consumer saw them.
func (d *demo) orders() string {
	got := ""
	for _, s := range d.consumer.Seen() {
		if s.Header.Get("Hooktender-Source") == "orders" {
			if got != "" {
				got += " "
			}
			got += s.Header.Get("Hooktender-Event-Id")
		}
	}
	return got
}
