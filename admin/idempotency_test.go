package admin_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
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
