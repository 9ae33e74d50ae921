package admin_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
	"github.com/hooktender/hooktender/recovery"
)

func TestReplayOfOne(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "ok", nil)
	p.Receive(t, "stripe", "dead", admintest.Dead)
	p.Receive(t, "stripe", "open", admintest.Undecided)
	if got := p.want(200, "POST", "/v1/events/ok/replay", `{}`); got.at("result") != "skipped" || got.at("why") != "already_delivered" {
		t.Errorf("%s", got.body)
	}
	if got := p.want(202, "POST", "/v1/events/dead/replay?source=stripe", `{"reason":"upstream is back"}`); got.at("result") != "started" || got.at("replay_id") == nil {
		t.Errorf("%s", got.body)
	}
	p.want(409, "POST", "/v1/events/open/replay", `{"reason":"not forced"}`)
	p.want(202, "POST", "/v1/events/open/replay", `{"force":true,"reason":"it did not arrive"}`)
	p.want(422, "POST", "/v1/events/ok/replay", `{"force":true}`)
	p.want(422, "POST", "/v1/events/ok/replay", `{"force":true,"reason":" "}`)
	if got := p.want(404, "POST", "/v1/events/none/replay", `{}`); got.at("was_received") != "no" {
		t.Errorf("%s", got.body)
	}
}

// While the gateway reads from the journal what waits, questions are answered and nothing is changed: an event that was replayed then used to be in the
// schedule twice.
func TestNothingIsChangedWhileTheGatewayStarts(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "dead", admintest.Dead)
	p.Control.Starting = true
	for _, path := range []string{"/v1/events/dead/replay", "/v1/events/dead/resolve", "/v1/replays", "/v1/sources/stripe/pause", "/v1/config/reload", "/v1/drain"} {
		if got := p.want(503, "POST", path, `{"reason":"too early"}`); got.header.Get("Retry-After") != "1" {
			t.Errorf("%s: come again after %q", path, got.header.Get("Retry-After"))
		}
	}
	if got := p.want(200, "GET", "/v1/events/dead", ""); got.at("state") != "failed" {
		t.Errorf("%s", got.body)
	}
	p.Control.Starting = false
	p.want(202, "POST", "/v1/events/dead/replay", `{}`)
}

func TestMalformedBodies(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", admintest.Dead)
	for _, body := range []string{"", " ", "{", "null", "[]", `"x"`, `{"force":1}`, `{"reason":"x"} {}`, `{"reason":"x","colour":"red"}`, "{\"reason\":\"\xff\"}",
		`{"reason":"` + strings.Repeat("x", 1001) + `"}`} {
		p.want(422, "POST", "/v1/events/evt_1/replay", body)
		p.want(422, "POST", "/v1/events/evt_1/resolve", body)
		p.want(422, "POST", "/v1/replays", body)
	}
	for _, body := range []string{`{"reason":"x","reason":"y"}`, `{"reason":"x","REASON":"y"}`, `{"force":true,"\u0066orce":false,"reason":"x"}`, `{"reason":"x","rea\u017fon":"y"}`} {
		p.want(422, "POST", "/v1/events/evt_1/replay", body) // whoever looks at it before us may go by the other
	}
	p.want(422, "POST", "/v1/replays", `{"filter":{"source":"stripe","state":["failed"],"source":"github"},"dry_run":true}`)
	p.want(422, "POST", "/v1/events/evt_1/discard", `{"reason":""}`)
	for _, body := range []string{`{}`, `{"ids":[]}`, `{"ids":[""]}`, `{"ids":["a"],"filter":{"state":"failed"}}`, `{"ids":["a"],"from_checkpoint":true}`,
		`{"from_checkpoint":true}`, `{"from_checkpoint":true,"from_cursor":"x","filter":{"source":"stripe"}}`, `{"from_cursor":"nonsense"}`, `{"filter":{"state":"gone"}}`,
		`{"filter":{"reason":["x"]}}`, `{"filter":{"since":"yesterday"}}`, `{"filter":{"colour":"red"}}`, `{"filter":{},"rate":-1}`, `{"filter":{},"force":true}`, `{"filter":{"state":1}}`} {
		p.want(422, "POST", "/v1/replays", body)
	}
	for _, body := range []string{`{"ids":[%q]}`, `{"ids":[%q],"dry_run":true}`, `{"filter":{"type":%q}}`, `{"filter":{"resource":%q}}`} { // the journal keeps no job of such
		p.want(422, "POST", "/v1/replays", fmt.Sprintf(body, strings.Repeat("x", 3001)))
		if a := p.do("POST", "/v1/replays", fmt.Sprintf(body, strings.Repeat("x", 3000))); a.status > 201 {
			t.Errorf("%s: %d", body, a.status)
		}
	}
	p.want(404, "POST", "/v1/replays", `{"filter":{"source":"nobody"}}`)
	p.want(413, "POST", "/v1/replays", strings.Repeat(" ", 5<<20))
}

func TestResolveAndDiscardKeepTheirReason(t *testing.T) {
	p := start(t, nil)
	for action, reason := range map[string]string{"resolve": "resolved", "discard": "discarded"} {
		p.Receive(t, "stripe", action, admintest.Dead)
		got := p.want(200, "POST", "/v1/events/"+action+"/"+action, `{"reason":"by hand"}`)
		if got.at("state") != "failed" || got.at("reason") != reason || got.at("resolution", "by") != "local" || got.at("resolution", "reason") != "by hand" {
			t.Errorf("%s", got.body)
		}
		p.want(409, "POST", "/v1/events/"+action+"/"+action, `{"reason":"again"}`)
	}
	p.Receive(t, "stripe", "ok", nil)
	p.want(409, "POST", "/v1/events/ok/resolve", `{"reason":"x"}`)
}

func TestReplaysOfMany(t *testing.T) {
	p := start(t, nil)
	for i := range 4 {
		p.Receive(t, "stripe", fmt.Sprintf("dead_%d", i), admintest.Dead)
		p.Receive(t, "stripe", fmt.Sprintf("ok_%d", i), nil)
	}
	p.Core.Fails["dead_3"] = true
	dry := p.want(200, "POST", "/v1/replays", `{"filter":{"source":"stripe"},"dry_run":true}`)
	if dry.at("would_replay") != 4.0 || dry.at("skipped", "already_delivered") != 4.0 || dry.at("state") != "done" || dry.at("dry_run") != true {
		t.Errorf("%s", dry.body)
	}
	got := p.want(201, "POST", "/v1/replays", `{"name":"after the outage","filter":{"state":["failed"]},"reason":"back"}`)
	if got.at("total") != 4.0 || got.at("replayed") != 3.0 || got.at("failed") != 1.0 || got.at("skipped") != 0.0 || got.at("actor") != "local" {
		t.Errorf("%s", got.body)
	}
	id := fmt.Sprint(got.at("id"))
	if loc := got.header.Get("Location"); loc != "/v1/replays/"+id {
		t.Errorf("Location %q", loc)
	}
	p.want(200, "GET", "/v1/replays/"+id, "")
	if list := p.want(200, "GET", "/v1/replays", ""); list.at("data", 0, "id") != id {
		t.Errorf("%s", list.body)
	}
	if c := p.want(200, "POST", "/v1/replays/"+id+"/cancel", `{"reason":"enough"}`); c.at("state") != "cancelled" {
		t.Errorf("%s", c.body)
	}
	p.want(404, "GET", "/v1/replays/none", "")
	p.want(404, "POST", "/v1/replays/none/cancel", `{}`)
	cursor := p.want(200, "GET", "/v1/events?order=asc&limit=2", "").at("next_cursor")
	after := p.want(200, "POST", "/v1/replays", fmt.Sprintf(`{"from_cursor":%q,"dry_run":true}`, cursor))
	if after.at("total") != 6.0 {
		t.Errorf("from a cursor: %s", after.body)
	}
}

func TestOverview(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", nil)
	p.Receive(t, "stripe", "evt_2", admintest.Dead)
	p.Receive(t, "stripe", "evt_3", nil)
	cp := p.want(200, "GET", "/v1/checkpoints?source=stripe", "")
	if cp.at("data", 0, "event_id") != "evt_1" || cp.at("data", 0, "failed") != 1.0 || cp.at("data", 0, "holes") != 1.0 || cp.at("data", 0, "last_delivered_event_id") != "evt_3" {
		t.Errorf("%s", cp.body)
	}
	if all, none := p.want(200, "GET", "/v1/checkpoints", ""), p.want(200, "GET", "/v1/checkpoints?source=", ""); string(all.body) != string(none.body) {
		t.Errorf("of an empty source:\n%s\nof all:\n%s", none.body, all.body)
	}
	from := url.QueryEscape(fmt.Sprint(cp.at("data", 0, "cursor")))
	if diff := cmp.Diff([]string{"evt_2", "evt_3"}, p.want(200, "GET", "/v1/events?order=asc&cursor="+from, "").ids()); diff != "" {
		t.Errorf("the checkpoint's cursor: %s", diff)
	}
	if all := p.want(200, "GET", "/v1/checkpoints", ""); all.at("data", 0, "source") != "github" || all.at("data", 0, "cursor") != nil {
		t.Errorf("%s", all.body)
	}
	src := p.want(200, "GET", "/v1/sources", "")
	if diff := cmp.Diff(map[string]any{"pending": 0.0, "delivered": 2.0, "failed": 1.0, "replayed": 0.0, "rejected": 0.0}, src.at("data", 1, "counts")); diff != "" {
		t.Error(diff)
	}
	if got := p.want(200, "POST", "/v1/sources/stripe/pause", `{}`); got.at("paused") != true {
		t.Errorf("%s", got.body)
	}
	if got := p.want(200, "POST", "/v1/sources/stripe/resume", ``); got.at("paused") != false {
		t.Errorf("%s", got.body)
	}
	p.want(404, "POST", "/v1/sources/nobody/pause", `{}`)
	for _, path := range []string{"sources/stripe/pause", "sources/stripe/resume", "config/reload"} { // why may be said, of every mutation
		p.want(200, "POST", "/v1/"+path, `{"reason":"deploy"}`)
		p.want(422, "POST", "/v1/"+path, `{"why":"deploy"}`)
		p.want(422, "POST", "/v1/"+path, `{"reason":7}`)
	}
	p.Core.BreakerOpen = true
	if got := p.want(200, "GET", "/v1/upstreams", ""); got.at("data", 0, "breaker") != "open" || got.at("data", 0, "next_probe_at") == nil {
		t.Errorf("%s", got.body)
	}
	p.Core.Resources["stripe/a/b"] = recovery.ResourceStatus{State: event.ResourceState{Version: "4", EventID: "evt_1", UpdatedAt: time.Now()},
		Held: []recovery.HeldEvent{{EventID: "evt_9", Version: "9", ReleaseAt: time.Now()}}, Missing: []string{"5", "7-8"}}
	if got := p.want(200, "GET", "/v1/resources/stripe/a%2Fb", ""); got.at("version") != "4" || got.at("missing", 1) != "7-8" || got.at("resource") != "a/b" {
		t.Errorf("%s", got.body)
	}
	p.want(404, "GET", "/v1/resources/stripe/none", "")
	for _, c := range []struct {
		path, body string
		status     int
		want       any
	}{
		{"stripe/a%2Fb", `{"version":"7","reason":"sent by mistake"}`, 200, "7"},
		{"stripe/a%2Fb", `{"version":9223372036854775808}`, 200, "9223372036854775808"},
		{"stripe/a%2Fb", `{"version":null}`, 200, nil},
		{"stripe/a%2Fb", `{}`, 422, nil},
		{"stripe/a%2Fb", `{"version":true}`, 422, nil},
		{"stripe/a%2Fb", `{"version":""}`, 422, nil},
		{"stripe/a%2Fb", `{"version":"seven"}`, 422, nil},
		{"github/x", `{"version":"1"}`, 409, nil},
		{"nobody/x", `{"version":"1"}`, 404, nil},
	} {
		if got := p.want(c.status, "POST", "/v1/resources/"+c.path+"/cursor", c.body); c.status == 200 && got.at("version") != c.want {
			t.Errorf("%s: %s", c.body, got.body)
		}
	}
	audits := p.audits()
	if l := audits[len(audits)-9]; l["action"] != "set_cursor" || l["target"] != "stripe/a/b version 7" || l["reason"] != "sent by mistake" {
		t.Errorf("audit: %v", l)
	}
	p.want(404, "GET", "/v1/resources/nobody/x", "")
}

func TestReloadAndDrain(t *testing.T) {
	p := start(t, nil)
	p.Control.Changed = []string{"sources.stripe.path"}
	if got := p.want(200, "POST", "/v1/config/reload", `{}`); got.at("result") != "reloaded" || got.at("changed", 0) != "sources.stripe.path" {
		t.Errorf("%s", got.body)
	}
	p.Control.Err = errors.Join(errors.New("hooktender.yaml:3:1: a"), errors.New("hooktender.yaml:4:1: b"))
	if got := p.want(422, "POST", "/v1/config/reload", ``); got.at("errors", 1) != "hooktender.yaml:4:1: b" {
		t.Errorf("%s", got.body)
	}
	p.want(200, "GET", "/readyz", "")
	if got := p.want(202, "POST", "/v1/drain", `{}`); got.at("result") != "draining" {
		t.Errorf("%s", got.body)
	}
	if got := p.want(503, "GET", "/readyz", ""); got.at("detail") != "draining" {
		t.Errorf("%s", got.body)
	}
	p.want(200, "GET", "/livez", "")
}

func TestEveryMutationLeavesOneAuditLine(t *testing.T) {
	p := start(t, tokens)
	rec := p.Receive(t, "stripe", "evt_1", admintest.Dead)
	p.want(401, "POST", "/v1/drain", `{}`)
	p.token = "reader-token-01234567"
	p.want(403, "POST", "/v1/events/evt_1/resolve", `{"reason":"x"}`)
	p.token = "ops-token-0123456789"
	p.want(422, "POST", "/v1/events/evt_1/resolve", `{}`)
	p.want(200, "POST", "/v1/events/evt_1/resolve", `{"reason":"by hand"}`)
	p.want(409, "POST", "/v1/events/evt_1/discard", `{"reason":"no"}`)
	p.want(202, "POST", "/v1/events/evt_1/replay", `{"force":true,"reason":"after all"}`)
	p.want(200, "GET", "/v1/events", "")
	var got [][5]any
	for _, l := range p.audits() {
		got = append(got, [5]any{l["actor"], l["action"], l["target"], l["reason"], l["outcome"]})
	}
	own := "stripe/" + rec.ID.String()
	want := [][5]any{{"unknown", "drain", "", "", "denied"}, {"reader", "resolve", "evt_1", "", "denied"}, {"ops", "resolve", "evt_1", "", "refused"},
		{"ops", "resolve", own, "by hand", "done"}, {"ops", "discard", own, "no", "refused"}, {"ops", "replay", own, "after all", "started"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(p.Log.String(), "ops-token") {
		t.Error("a token is in the log")
	}
}

// Anybody who reaches the port can send what is refused, with a target of 8 KB, and each time was a line.
func TestCallsWithoutATokenWriteFewLines(t *testing.T) {
	p := start(t, tokens)
	const calls = 100
	began := time.Now()
	for range calls {
		p.want(401, "POST", "/v1/events/evt_1/resolve", `{}`)
	}
	if n, most := len(p.audits()), 20*(1+int(time.Since(began)/time.Minute)); n < 20 || n > most {
		t.Errorf("%d lines of %d calls, want 20 a minute", n, calls)
	}
	p.token = "reader-token-01234567"
	p.want(403, "POST", "/v1/events/evt_1/resolve", `{}`)
	if last := p.audits(); last[len(last)-1]["actor"] != "reader" {
		t.Errorf("a caller that is known has no line: %v", last[len(last)-1])
	}
}

func TestAnIdempotencyKeyMakesACallHappenOnce(t *testing.T) {
	p := start(t, nil)
	calls := 0
	p.Core.OnReplay = func() { calls++ }
	p.Receive(t, "stripe", "evt_1", admintest.Dead)
	first := p.want(202, "POST", "/v1/events/evt_1/replay", `{"reason":"a"}`, "Idempotency-Key", "k1")
	again := p.want(202, "POST", "/v1/events/evt_1/replay", `{"reason":"a"}`, "Idempotency-Key", "k1")
	if string(first.body) != string(again.body) || calls != 1 {
		t.Errorf("%d calls, %s then %s", calls, first.body, again.body)
	}
	p.want(422, "POST", "/v1/events/evt_1/replay", `{"reason":"b"}`, "Idempotency-Key", "k1")
	p.want(200, "POST", "/v1/events/evt_1/replay", `{"reason":"a"}`, "Idempotency-Key", "k2")
	p.want(400, "POST", "/v1/events/evt_1/replay", `{}`, "Idempotency-Key", strings.Repeat("k", 256))
	p.Receive(t, "stripe", "evt_2", admintest.Dead)
	p.want(202, "POST", "/v1/events/evt_2/replay", `{"reason":"a"}`, "Idempotency-Key", "k1")

	made := p.want(201, "POST", "/v1/replays", `{"filter":{}}`, "Idempotency-Key", "k3")
	same := p.want(201, "POST", "/v1/replays", `{"filter":{}}`, "Idempotency-Key", "k3")
	if made.at("id") != same.at("id") || same.header.Get("Location") == "" {
		t.Errorf("%s then %s", made.body, same.body)
	}
	if list := p.want(200, "GET", "/v1/replays", ""); len(list.at("data").([]any)) != 1 {
		t.Errorf("%s", list.body)
	}
	p.want(404, "POST", "/v1/events/evt_3/replay", `{}`, "Idempotency-Key", "k4")
	p.Receive(t, "stripe", "evt_3", admintest.Dead)
	p.want(202, "POST", "/v1/events/evt_3/replay", `{}`, "Idempotency-Key", "k4") // a refusal is not kept
}

func TestTheSameKeyAtTheSameTimeIsAConflict(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", admintest.Dead)
	inside, leave := make(chan struct{}), make(chan struct{})
	p.Core.OnReplay = func() { close(inside); <-leave }
	var work sync.WaitGroup
	work.Go(func() { p.want(202, "POST", "/v1/events/evt_1/replay", `{}`, "Idempotency-Key", "k") })
	<-inside
	p.want(409, "POST", "/v1/events/evt_1/replay", `{}`, "Idempotency-Key", "k")
	close(leave)
	work.Wait()
}
