package admin_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

func TestARecordIsShownWhole(t *testing.T) {
	p := start(t, nil)
	at := time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("", 3600))
	rec := p.Receive(t, "stripe", "evt_1", func(r *event.Record) {
		admintest.Queued(r)
		r.Reason, r.Attempts, r.LastAttemptAt, r.LastStatus, r.NextAt = event.Retrying, 2, at, 503, at
		r.LastErrKind, r.LastErrText, r.ReceivedAt = "status", "503 <busy> & bye", at
		r.Version = ""
	})
	got := p.want(200, "GET", "/v1/events/evt_1?source=stripe", "")
	want := map[string]any{
		"id": rec.ID.String(), "event_id": "evt_1", "source": "stripe", "type": "invoice.paid", "resource": "in_42", "version": nil,
		"state": "pending", "reason": "retrying", "received_at": "2026-01-02T02:04:05.000000060Z", "occurred_at": nil, "delivered_at": nil,
		"attempt_count": 2.0, "last_attempt_at": "2026-01-02T02:04:05.000000060Z", "last_status_code": 503.0,
		"last_error": map[string]any{"kind": "status", "message": "503 <busy> & bye"}, "next_retry_at": "2026-01-02T02:04:05.000000060Z",
		"duplicates": 0.0, "conflicts": 0.0, "body_bytes": 2.0, "body_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
		"replay_id": nil, "safe_to_retry": map[string]any{"verdict": "wait", "reason": "it is queued", "needs": nil},
	}
	if diff := cmp.Diff(want, got.object); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if !contains(got.body, `503 <busy> & bye`) {
		t.Errorf("HTML escapes in %s", got.body)
	}
	if byOurs := p.want(200, "GET", "/v1/events/"+rec.ID.String(), ""); byOurs.at("event_id") != "evt_1" {
		t.Errorf("by our id: %s", byOurs.body)
	}
}

func contains(b []byte, s string) bool { return strings.Contains(string(b), s) }

func TestIdsOfAnyShapeAreFound(t *testing.T) {
	p := start(t, nil)
	for _, id := range []string{"a/b", "100%", "%2F", "..", ".", "x y", "é☃", "a//b", "q?x=1#f", "a+b", `"`, "a%3Ab"} {
		p.Receive(t, "stripe", id, nil)
		var path strings.Builder
		for i := range len(id) {
			path.WriteString(fmt.Sprintf("%%%02X", id[i]))
		}
		for _, esc := range []string{path.String(), url.PathEscape(id)} {
			if esc == "." || esc == ".." {
				continue
			}
			if got := p.want(200, "GET", "/v1/events/"+esc, ""); got.at("event_id") != id {
				t.Errorf("%q: got %v", id, got.at("event_id"))
			}
			p.want(200, "GET", "/v1/events/"+esc+"/attempts", "")
		}
	}
}

func TestAnUnknownEventSaysWhatThatMeans(t *testing.T) {
	p := start(t, nil)
	got := p.want(404, "GET", "/v1/events/evt_none?source=stripe", "")
	if got.at("was_received") != "no" || got.at("safe_to_retry", "verdict") != "yes" {
		t.Errorf("%s", got.body)
	}
	if _, there := got.object["log_covers_since"]; !there {
		t.Errorf("log_covers_since is missing: %s", got.body)
	}
	if got := p.want(404, "GET", "/v1/events/evt_none?source=nobody", ""); got.at("was_received") != nil {
		t.Errorf("an unknown source says nothing of the event: %s", got.body)
	}
}

func TestAnIdInTwoSourcesIsAConflict(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", nil)
	p.Receive(t, "github", "evt_1", nil)
	got := p.want(409, "GET", "/v1/events/evt_1", "")
	if diff := cmp.Diff([]any{"github", "stripe"}, got.at("sources")); diff != "" {
		t.Error(diff)
	}
	p.want(200, "GET", "/v1/events/evt_1?source=github", "")
}

func TestPagesAreStableWhileEventsComeIn(t *testing.T) {
	p := start(t, nil)
	for i := range 7 {
		p.Receive(t, "stripe", fmt.Sprintf("evt_%d", i), nil)
	}
	var got []string
	path := "/v1/events?limit=3"
	for range 5 {
		page := p.want(200, "GET", path, "")
		got = append(got, page.ids()...)
		next, more := page.at("next_cursor").(string)
		if !more {
			break
		}
		p.Receive(t, "stripe", "late_"+next, nil)
		path = "/v1/events?limit=3&cursor=" + url.QueryEscape(next)
	}
	if diff := cmp.Diff([]string{"evt_6", "evt_5", "evt_4", "evt_3", "evt_2", "evt_1", "evt_0"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestListFilters(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "ok", nil)
	p.Receive(t, "stripe", "dead", admintest.Dead)
	p.Receive(t, "github", "queued", admintest.Queued)
	p.Receive(t, "github", "other", func(r *event.Record) { r.Type, r.Resource = "push", "repo" })
	later := url.QueryEscape(event.FormatTime(time.Now().Add(time.Hour)))
	for query, want := range map[string][]string{
		"": {"other", "queued", "dead", "ok"}, "order=asc": {"ok", "dead", "queued", "other"}, "source=github": {"other", "queued"},
		"state=failed": {"dead"}, "state=failed,pending": {"queued", "dead"}, "reason=exhausted": {"dead"}, "type=push": {"other"},
		"resource=repo": {"other"}, "since=" + later: nil, "until=" + later + "&limit=1": {"other"}, "source=stripe&state=pending": nil,
		"until=0001-01-01T00:00:00Z": nil, "since=0001-01-01T00:00:00Z": {"other", "queued", "dead", "ok"},
	} {
		got := p.want(200, "GET", "/v1/events?"+query, "")
		if diff := cmp.Diff(want, got.ids()); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
	if got := p.want(200, "POST", "/v1/replays", `{"filter":{"until":"0001-01-01T00:00:00Z"},"dry_run":true}`); got.at("total") != 0.0 {
		t.Errorf("a replay of what came before the year 1: %s", got.body)
	}
	if got := p.want(200, "POST", "/v1/replays", `{"filter":{"since":"9999-01-01T00:00:00Z"},"dry_run":true}`); got.at("total") != 0.0 {
		t.Errorf("a replay of what comes later: %s", got.body)
	}
}

func TestBadParameters(t *testing.T) {
	p := start(t, nil)
	p.Receive(t, "stripe", "evt_1", nil)
	for _, path := range []string{"/v1/events?limit=501", "/v1/events?limit=0", "/v1/events?limit=x", "/v1/events?state=gone", "/v1/events?reason=none",
		"/v1/events?since=yesterday", "/v1/events?until=2026-13-01T00:00:00Z", "/v1/events?order=up", "/v1/events?cursor=nonsense", "/v1/events?colour=red",
		"/v1/events?limit=1&limit=2", "/v1/events?a=%zz", "/v1/events/evt_1?wait=long", "/v1/events/evt_1?wait=-1s", "/v1/events/evt_1?wait=-99999999h", "/v1/events/evt_1?wait=99999999", "/v1/events/evt_1?wait=", "/v1/events/evt_1?until=never", "/v1/events/evt_1?x=1",
		"/v1/stream?cursor=nonsense", "/v1/stream?x=1", "/v1/sources?x=1"} {
		p.want(400, "GET", path, "")
	}
	for _, route := range p.Server.Routes() { // a mutation with a parameter that it does not know is not made without it
		if method, path, _ := strings.Cut(route, " "); method == "POST" {
			path = strings.NewReplacer("{id}", "evt_1", "{name}", "stripe", "{source}", "stripe", "{resource}", "r").Replace(path)
			p.want(400, "POST", path+"?dry_run=true", `{"reason":"x"}`)
		}
	}
	p.want(404, "GET", "/v1/events?source=nobody", "")
	p.want(404, "GET", "/v1/checkpoints?source=nobody", "")
	p.want(404, "GET", "/v1/stream?source=nobody", "")
}

func TestBreakerOpenIsAFilterThatIsDerived(t *testing.T) {
	p := start(t, nil)
	for i := range 5 {
		p.Receive(t, "stripe", fmt.Sprintf("q%d", i), admintest.Queued)
		p.Receive(t, "stripe", fmt.Sprintf("d%d", i), admintest.Undecided)
	}
	if got := p.want(200, "GET", "/v1/events?reason=breaker_open", ""); len(got.ids()) != 0 {
		t.Errorf("no breaker is open: %v", got.ids())
	}
	p.Core.BreakerOpen = true
	if got := p.want(200, "GET", "/v1/events?reason=queued", ""); len(got.ids()) != 0 {
		t.Errorf("all of them wait for the breaker: %v", got.ids())
	}
	first := p.want(200, "GET", "/v1/events?reason=breaker_open&limit=3", "")
	rest := p.want(200, "GET", "/v1/events?reason=breaker_open&limit=3&cursor="+url.QueryEscape(fmt.Sprint(first.at("next_cursor"))), "")
	if diff := cmp.Diff([]string{"q4", "q3", "q2", "q1", "q0"}, append(first.ids(), rest.ids()...)); diff != "" {
		t.Error(diff)
	}
}

func TestAWaitEndsWithTheEvent(t *testing.T) {
	p := start(t, nil)
	rec := p.Receive(t, "stripe", "evt_1", admintest.Queued)
	began := time.Now()
	if got := p.want(200, "GET", "/v1/events/evt_1?wait=50ms", ""); got.at("state") != "pending" {
		t.Errorf("%s", got.body)
	}
	if d := time.Since(began); d < 50*time.Millisecond {
		t.Errorf("did not wait: %s", d)
	}
	time.AfterFunc(30*time.Millisecond, func() {
		p.Change(t, rec.ID, nil, func(r *event.Record) { r.State, r.Reason = event.Delivered, event.NoReason })
	})
	if got := p.want(200, "GET", "/v1/events/evt_1?wait=2h&until=delivered", ""); got.at("state") != "delivered" {
		t.Errorf("%s", got.body)
	}
	time.AfterFunc(30*time.Millisecond, func() { p.Receive(t, "stripe", "evt_2", nil) })
	if got := p.want(200, "GET", "/v1/events/evt_2?source=stripe&wait=30s", ""); got.at("state") != "delivered" {
		t.Errorf("an id that comes later: %s", got.body)
	}
	p.want(404, "GET", "/v1/events/evt_3?wait=10ms", "")
	p.want(200, "GET", "/v1/events/evt_2?wait=99999999h", "") // more than time.Duration holds
}

func TestAttemptsAndPayload(t *testing.T) {
	p := start(t, nil)
	rec := p.Receive(t, "stripe", "evt_1", func(r *event.Record) { admintest.Queued(r); r.Reason = event.Delivering })
	got := p.want(200, "GET", "/v1/events/evt_1/attempts", "")
	begun := []any{map[string]any{"n": 1.0, "trigger": "initial", "started_at": event.FormatTime(rec.ReceivedAt), "duration_ms": nil, "outcome": nil,
		"status_code": nil, "error": nil, "response_excerpt": nil, "upstream": "app"}}
	if diff := cmp.Diff(begun, got.at("data")); diff != "" {
		t.Errorf("the first attempt, under way: %s", diff)
	}
	at := time.Now()
	p.Change(t, rec.ID, &event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: at, Duration: 1500 * time.Millisecond, Outcome: event.OutcomeTransient,
		Status: 503, ErrKind: "status", ErrText: "503", Excerpt: []byte("b\xffd"), Upstream: "app"}, func(r *event.Record) { r.Attempts = 1 })
	p.Change(t, rec.ID, &event.Attempt{N: 2, Trigger: event.TriggerRetry, StartedAt: at, Upstream: "app"}, func(r *event.Record) { r.Attempts = 2 })
	got = p.want(200, "GET", "/v1/events/evt_1/attempts", "")
	when := event.FormatTime(at)
	want := []any{
		map[string]any{"n": 1.0, "trigger": "initial", "started_at": when, "duration_ms": 1500.0, "outcome": "transient", "status_code": 503.0,
			"error": map[string]any{"kind": "status", "message": "503"}, "response_excerpt": "b\uFFFDd", "upstream": "app"},
		map[string]any{"n": 2.0, "trigger": "retry", "started_at": when, "duration_ms": nil, "outcome": nil, "status_code": nil, "error": nil,
			"response_excerpt": nil, "upstream": "app"},
	}
	if diff := cmp.Diff(want, got.at("data")); diff != "" {
		t.Error(diff)
	}
	pay := p.want(200, "GET", "/v1/events/evt_1/payload", "")
	if diff := cmp.Diff(map[string]any{"method": "POST", "path": "/webhooks/stripe?a=b", "content_type": "application/json",
		"headers":     []any{[]any{"Content-Type", "application/json"}, []any{"X-Two", "1"}, []any{"X-Two", "2"}},
		"body_base64": base64.StdEncoding.EncodeToString([]byte("{}"))}, pay.object); diff != "" {
		t.Error(diff)
	}
	if raw := p.want(200, "GET", "/v1/events/evt_1/payload", "", "Accept", "application/octet-stream"); string(raw.body) != "{}" {
		t.Errorf("raw: %q", raw.body)
	}
}
