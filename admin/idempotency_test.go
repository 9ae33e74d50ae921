package admin_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/internal/admintest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// underIDs notes under which ids replays were asked for.
type underIDs struct {
	admin.Core
	err error
	ids []string
}

func (c *underIDs) StartReplay(ctx context.Context, spec recovery.ReplaySpec) (recovery.Replay, error) {
	if c.ids = append(c.ids, spec.ID); c.err != nil {
		return recovery.Replay{}, c.err
	}
	if spec.DryRun {
		at, skip := time.Now(), recovery.Skip{EventID: strings.Repeat("x", 100), Why: recovery.SkipUnknownEvent}
		return recovery.Replay{ID: spec.ID, State: "done", DryRun: true, CreatedAt: at, FinishedAt: at, Actor: "local", Total: 1000,
			Skips: slices.Repeat([]recovery.Skip{skip}, 1000), SkippedBy: map[string]int64{skip.Why: 1000}}, nil
	}
	return c.Core.StartReplay(ctx, spec)
}

// A key is good for 24 hours. Used again later it asks for another replay; a call that was cut off, also by a kill, for the same one.
func TestAnIdempotencyKeyAsksForAnotherReplayADayLater(t *testing.T) {
	core := &underIDs{}
	var o admin.Options
	g := admintest.Start(t, func(opts *admin.Options) {
		core.Core, opts.Core = opts.Core, core
		o = *opts
	})
	call := func() int { // to a process that has just started
		t.Helper()
		s, err := admin.New(o)
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest("POST", "http://127.0.0.1/v1/replays", strings.NewReader(`{"filter":{}}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "nightly")
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, req)
		return rec.Code
	}
	core.err = journal.ErrClosed
	if status := call(); status != 503 {
		t.Fatal(status)
	}
	core.err = nil
	for range 2 {
		if status := call(); status != 201 {
			t.Fatal(status)
		}
	}
	if len(core.ids) != 2 || core.ids[0] == "" || core.ids[0] != core.ids[1] {
		t.Fatalf("within a day: %q", core.ids)
	}
	entries, err := g.Journal.MetaList(t.Context(), "admin/answer/")
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	var v map[string]any
	if err := json.Unmarshal(entries[0].Value, &v); err != nil {
		t.Fatal(err)
	}
	v["at"] = time.Now().Add(-24 * time.Hour)
	raw, _ := json.Marshal(v)
	if err := g.Journal.MetaPut(t.Context(), entries[0].Key, raw, journal.Synced); err != nil {
		t.Fatal(err)
	}
	if status := call(); status != 201 || len(core.ids) != 3 || core.ids[2] == "" || core.ids[2] == core.ids[1] {
		t.Errorf("a day later: %d, %q", status, core.ids)
	}
}

// The answer to a dry run may be too long to be kept. The same call is told it again; the key is no other body's all the same, so a replay under the key of its plan
// is refused and not answered with the plan.
func TestAnIdempotencyKeyOfALongAnswer(t *testing.T) {
	core := &underIDs{}
	p := start(t, func(o *admin.Options) { core.Core, o.Core = o.Core, core })
	key := []string{"Idempotency-Key", "nightly"}
	plan := p.want(200, "POST", "/v1/replays", `{"filter":{},"dry_run":true}`, key...)
	if len(plan.body) < 64<<10 {
		t.Fatalf("%d bytes are no long answer", len(plan.body))
	}
	p.want(422, "POST", "/v1/replays", `{"filter":{}}`, key...)
	if again := p.want(200, "POST", "/v1/replays", `{"filter":{},"dry_run":true}`, key...); again.at("id") != plan.at("id") {
		t.Errorf("made again: %v, it was %v", again.at("id"), plan.at("id"))
	}
	core.err = journal.ErrClosed
	p.want(503, "POST", "/v1/replays", `{"filter":{}}`, "Idempotency-Key", "other")
	core.err = nil
	p.want(201, "POST", "/v1/replays", `{"filter":{"source":"stripe"}}`, "Idempotency-Key", "other") // a refusal is no answer
	if n := len(core.ids); core.ids[n-1] == core.ids[n-2] {
		t.Errorf("another body under the id of what was refused: %q", core.ids)
	}
}
