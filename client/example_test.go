package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// canned is a gateway that always says the same, for examples that run anywhere.
func canned(status int, body string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		kind := "application/json"
		if status >= 400 {
			kind = "application/problem+json"
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
}

// Before an event is sent once more: was it received, and can sending it again do harm?
func ExampleClient_Event() {
	gateway := canned(404, `{"title":"Not Found","status":404,"was_received":"no","log_covers_since":"2026-01-01T00:00:00.000000000Z",
		"safe_to_retry":{"verdict":"yes","reason":"it was never received","needs":null}}`)
	defer gateway.Close()

	c, err := client.New(gateway.URL, "token")
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.Event(context.Background(), "stripe", "evt_1", client.Wait{})
	if missing, ok := errors.AsType[*client.NotFound](err); ok {
		fmt.Println(missing.Problem.SafeToRetry.Verdict, missing.Problem.SafeToRetry.Reason)
	}
	// Output: yes it was never received
}

// Wait until an event has reached its consumer, also if it has not been received yet.
func ExampleClient_Event_wait() {
	gateway := canned(200, `{"id":"01K0000000000000000000000A","event_id":"evt_1","source":"stripe","state":"delivered","attempt_count":2}`)
	defer gateway.Close()

	c, err := client.New(gateway.URL, "")
	if err != nil {
		log.Fatal(err)
	}
	e, err := c.Event(context.Background(), "stripe", "evt_1", client.Wait{For: 30 * time.Second, Delivered: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.State, "after", e.AttemptCount, "attempts")
	// Output: delivered after 2 attempts
}

// Every event that failed since yesterday, however many there are.
func ExampleClient_AllEvents() {
	gateway := canned(200, `{"data":[{"event_id":"evt_2","reason":"exhausted"},{"event_id":"evt_1","reason":"permanent"}],"next_cursor":null}`)
	defer gateway.Close()

	c, err := client.New(gateway.URL, "token")
	if err != nil {
		log.Fatal(err)
	}
	for e, err := range c.AllEvents(context.Background(), client.Query{States: []string{"failed"}, Since: time.Now().Add(-24 * time.Hour)}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.EventID, e.Reason)
	}
	// Output:
	// evt_2 exhausted
	// evt_1 permanent
}

// Look before you leap: what a replay would do.
func ExampleClient_StartReplay() {
	gateway := canned(200, `{"id":"rp_1","state":"done","dry_run":true,"would_replay":7,"skipped":{"already_delivered":93}}`)
	defer gateway.Close()

	c, err := client.New(gateway.URL, "token")
	if err != nil {
		log.Fatal(err)
	}
	plan, err := c.StartReplay(context.Background(), api.ReplaySpec{Filter: &api.Filter{Source: "stripe"}, FromCheckpoint: true, DryRun: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*plan.WouldReplay, "missing,", plan.Skipped.Total, "skipped")
	// Output: 7 missing, 93 skipped
}

// A mutation that must happen once carries a key: after a broken connection it is simply made again.
func ExampleWithIdempotencyKey() {
	gateway := canned(202, `{"result":"started","replay_id":"rp_1"}`)
	defer gateway.Close()

	c, err := client.New(gateway.URL, "token")
	if err != nil {
		log.Fatal(err)
	}
	ctx := client.WithIdempotencyKey(context.Background(), "incident-42-evt_1")
	for range 3 {
		res, err := c.Replay(ctx, "stripe", "evt_1", api.ReplayRequest{Reason: "incident 42"})
		if _, ok := errors.AsType[*client.Unreachable](err); ok {
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(res.Result)
		break
	}
	// Output: started
}
