package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/provider"
)

// wanted is what a sender's documents say of the answers it wants: to an event, also when it comes again, and to one that is forged (0: 401).
type wanted struct {
	statuses   []int
	kind, body string
	forged     int
}

var (
	any2xx = []int{200, 201, 202, 204}
	ok     = []int{200}

	answersWanted = map[string]wanted{
		"twilio":            {ok, "text/xml", `<?xml version="1.0" encoding="UTF-8"?><Response/>`, 0},
		"plivo":             {ok, "text/xml", "<Response/>", 0},
		"dropbox-sign":      {ok, "text/plain", "Hello API Event Received", 0},
		"adyen":             {ok, "text/plain", "[accepted]", 0},
		"discord":           {statuses: []int{204}},
		"xero":              {statuses: ok, forged: 401},
		"gocardless":        {statuses: []int{204}, forged: 498},
		"ms-graph":          {statuses: []int{202}},
		"shopify":           {statuses: ok},
		"mailgun":           {statuses: ok},
		"telegram":          {statuses: ok},
		"line":              {statuses: ok},
		"meta":              {statuses: ok},
		"linear":            {statuses: ok},
		"paddle":            {statuses: ok},
		"persona":           {statuses: ok},
		"pandadoc":          {statuses: ok},
		"wise":              {statuses: ok},
		"postmark":          {statuses: ok},
		"transloadit":       {statuses: ok},
		"lemonsqueezy":      {statuses: ok},
		"onfleet":           {statuses: ok},
		"monday":            {statuses: ok},
		"asana":             {statuses: []int{200, 204}},
		"zoom":              {statuses: []int{200, 204}},
		"azure-event-grid":  {statuses: any2xx},
		"google-pubsub":     {statuses: any2xx},
		"slack":             {statuses: any2xx},
		"stripe":            {statuses: any2xx},
		"github":            {statuses: any2xx},
		"standard-webhooks": {statuses: any2xx},
		"zendesk":           {statuses: any2xx},
		"intercom":          {statuses: any2xx},
		"aws-sns":           {statuses: any2xx},
		"paypal":            {statuses: any2xx},
		"square":            {statuses: any2xx},
		"hubspot-v3":        {statuses: any2xx},
	}
)

// Every sender gets the answer that it wants from the gateway itself: an event that is accepted into the journal, the same again, a forged one.
func TestTheAnswersThatSendersWant(t *testing.T) {
	corpus := map[string][]provider.Vector{}
	for _, name := range []string{"vectors", "more", "negatives"} {
		for _, v := range readCorpus[provider.Vector](t, "../verify/testdata/"+name+".json") {
			corpus[v.Provider] = append(corpus[v.Provider], v)
		}
	}
	for name, want := range answersWanted {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			genuine, forged := pairOf(t, corpus[name])
			synctest.Test(t, func(t *testing.T) { askFor(t, genuine, forged, want) })
		})
	}
}

// pairOf finds a genuine vector that is no challenge, and a forged one for the same source at the same time.
func pairOf(t *testing.T, list []provider.Vector) (genuine, forged sent) {
	for i := range list {
		g, err := asSource(&list[i])
		if err != nil || g.Expect != "valid" || strings.Contains(g.Body, "SubscriptionConfirmation") {
			continue
		}
		for j := range list {
			f, err := asSource(&list[j])
			if err == nil && f.Expect != "valid" && f.source == g.source && f.base == g.base && f.Now == g.Now {
				return g, f
			}
		}
	}
	t.Fatal("the corpus has no such pair")
	return
}

func askFor(t *testing.T, genuine, forged sent, want wanted) {
	if d := time.Until(time.Unix(genuine.Now, 0)); d > 0 {
		time.Sleep(d)
	}
	more := "    identity: {id: \"body:sha256\"}\n    dedup: {mode: enforce}\n" // the corpus leaves out ids at times, and some rows only observe them
	source := strings.Replace(genuine.source, "    upstream: app\n", "    delivery: {mode: store, upstream: app}\n"+more, 1)
	b, err := hooktest.NewBubble(t.TempDir(), "public_url: "+genuine.base+"\nupstreams: {app: {url: \"http://127.0.0.1:3000\"}}\nsources:\n"+source, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
	for i, outcome := range []string{"accepted", "duplicate"} {
		resp, body, err := send(b, genuine.raw(t))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(want.statuses, resp.StatusCode) || resp.Header.Get("Content-Type") != want.kind || body != want.body || len(resp.Cookies()) > 0 || resp.Header.Get("Hooktender-Outcome") != outcome {
			t.Errorf("%d: %d %s %q, want one of %d %s %q, %s; it was %s", i+1, resp.StatusCode, resp.Header.Get("Content-Type"), body, want.statuses, want.kind, want.body, outcome, resp.Header.Get("Hooktender-Outcome"))
		}
	}
	resp, _, err := send(b, forged.raw(t))
	if err != nil {
		t.Fatal(err)
	}
	if status := max(want.forged, 401); resp.StatusCode != status || resp.Header.Get("Hooktender-Outcome") != "rejected" {
		t.Errorf("%s: %s, want %d rejected, it was %s", forged.Name, resp.Status, status, fmt.Sprint(resp.Header["Hooktender-Outcome"]))
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.Down()
}
