package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/hooktest"
)

// series reads /metrics: one value per name with its labels in order of their names, `name{a="x",b="y"}`.
func (g *gatewayProcess) series() map[string]float64 {
	g.t.Helper()
	resp, err := g.client.Get("http://" + g.admin + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatal(resp.Status, err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		if i := strings.LastIndexByte(line, '}'); i >= 0 { // a label's value may hold a space
			name, value = line[:i+1], strings.TrimSpace(line[i+1:])
		}
		if out[sortLabels(name)], err = strconv.ParseFloat(value, 64); err != nil {
			g.t.Fatalf("%q: %v", line, err)
		}
	}
	return out
}

var label = regexp.MustCompile(`[a-z_]+="[^"]*"`)

func sortLabels(name string) string {
	base, labels, ok := strings.Cut(name, "{")
	if !ok {
		return name
	}
	list := label.FindAllString(labels, -1)
	sort.Strings(list)
	return base + "{" + strings.Join(list, ",") + "}"
}

// Every metric of SPEC §10, with its labels, after a story in which each of them has something to say.
func TestEveryMetricTellsWhatHappened(t *testing.T) {
	t.Parallel()
	app, addr := consumer(t)
	refuse := true
	app.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
		switch id := s.Header.Get("Hooktender-Event-Id"); {
		case strings.HasPrefix(id, "dead") && refuse:
			return hooktest.Answer{Status: 422}
		case strings.HasPrefix(id, "busy"):
			return hooktest.Answer{Status: 503}
		}
		return hooktest.Answer{}
	})
	nobody := freeAddr(t)
	g := startGateway(t, `upstreams:
  app: {url: "http://`+addr+`"}
  nobody: {url: "http://`+nobody+`", breaker: {failures: 2, probe: 1h, max_probe: 1h}}
sources:
`+source("h", "delivery: {mode: hybrid, upstream: app}")+source("p", "delivery: {mode: proxy, upstream: app}")+
		source("s", "delivery: {mode: store, upstream: nobody}")+
		source("o", "delivery: {mode: store, upstream: app}\n    ordering: {policy: in_sequence, max_wait: 60s, start: 1}"))

	g.send("h", "evt_1", "r1", "1", "delivered")
	g.send("h", "evt_1", "r1", "1", "duplicate")
	g.send("h", "evt_1", "r1", "2", "duplicate") // another body: a conflict
	g.send("h", "dead_1", "r2", "1", "failed")
	g.send("h", "dead_2", "r3", "1", "failed")
	g.send("p", "busy_1", "r1", "1", "returned")
	g.send("s", "evt_2", "r1", "1", "accepted")
	g.send("s", "evt_3", "r2", "1", "accepted")
	g.send("o", "evt_4", "r1", "1", "accepted")
	g.send("o", "evt_5", "r1", "3", "held")
	forged := hooktest.Custom("another-secret-0123456789", hooktest.CustomBody("evt_6", "t", "r", "1"), time.Now())
	if status, outcome := g.post(t.Context(), "/h", forged); status != 401 || outcome != "rejected" {
		t.Fatalf("forged: %d %s", status, outcome)
	}
	if status, outcome := g.post(t.Context(), "/h", hooktest.Custom(secret, []byte(`{"type":"t"}`), time.Now())); status != 422 || outcome != "unidentified" {
		t.Fatalf("without an id: %d %s", status, outcome)
	}
	refuse = false
	if _, err := g.api().Replay(t.Context(), "h", "dead_1", api.ReplayRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api().Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "hooktender.yaml"), []byte("version: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api().Reload(t.Context(), ""); err == nil {
		t.Fatal("a broken file was taken")
	}

	counted := map[string]float64{
		`requests_total{outcome="delivered",source="h"}`: 1, `requests_total{outcome="duplicate",source="h"}`: 2, `requests_total{outcome="failed",source="h"}`: 2,
		`requests_total{outcome="rejected",source="h"}`: 1, `requests_total{outcome="unidentified",source="h"}`: 1, `requests_total{outcome="returned",source="p"}`: 1,
		`requests_total{outcome="accepted",source="s"}`: 2, `requests_total{outcome="accepted",source="o"}`: 1, `requests_total{outcome="held",source="o"}`: 1,
		`request_duration_seconds_count{source="h"}`: 7, `request_duration_seconds_count{source="o"}`: 2,
		`verify_duration_seconds_count{provider="custom"}`:     12,
		`attempts_total{outcome="delivered",upstream="app"}`:   3, // evt_1, evt_4 and the replay
		`attempts_total{outcome="permanent",upstream="app"}`:   2,
		`attempts_total{outcome="transient",upstream="app"}`:   1,
		`attempts_total{outcome="not_sent",upstream="nobody"}`: 2, // then the breaker is open
		`upstream_duration_seconds_count{upstream="app"}`:      6,
		`upstream_duration_seconds_count{upstream="nobody"}`:   2,
		`events{source="h",state="delivered"}`:                 1,
		`events{source="h",state="failed"}`:                    1,
		`events{source="h",state="replayed"}`:                  1,
		`events{source="p",state="failed"}`:                    1,
		`events{source="s",state="pending"}`:                   2,
		`events{source="o",state="pending"}`:                   1,
		`events{source="o",state="rejected"}`:                  0,
		`dead_letters{source="h"}`:                             1,
		`dead_letters{source="p"}`:                             0, // its sender was told
		`dedup_lookups_total{result="hit",tier="lru"}`:         2,
		`dedup_lookups_total{result="hit",tier="log"}`:         0,
		`dedup_lookups_total{result="miss",tier="lru"}`:        8,
		`dedup_lookups_total{result="miss",tier="log"}`:        8,
		`conflicts_total{source="h"}`:                          1,
		`held_events{source="o"}`:                              1,
		`held_events{source="h"}`:                              0,
		`gap_seconds{source="h"}`:                              0,
		`oldest_pending_seconds{source="h"}`:                   0,
		`breaker_open{upstream="app"}`:                         0,
		`breaker_open{upstream="nobody"}`:                      1,
		`replay_events_total{result="replayed"}`:               1,
		`replay_events_total{result="failed"}`:                 0,
		`config_reloads_total{result="success"}`:               1,
		`config_reloads_total{result="failure"}`:               1,
		`config_last_reload_successful`:                        0,
	}
	var got map[string]float64
	g.settles(func() (wrong []string) { // not all numbers of a scrape are of one moment
		got = g.series()
		for name, want := range counted {
			if v, ok := got["hooktender_"+name]; !ok || v != want {
				wrong = append(wrong, fmt.Sprintf("%s is %v (there: %t), want %v", name, v, ok, want))
			}
		}
		return wrong
	})
	// Times and sizes: there, and of the right order.
	for name, most := range map[string]float64{
		`gap_seconds{source="o"}`: 30, `oldest_pending_seconds{source="s"}`: 30, `oldest_pending_seconds{source="o"}`: 30,
		`request_duration_seconds_sum{source="h"}`: 30, `verify_duration_seconds_sum{provider="custom"}`: 5, `upstream_duration_seconds_sum{upstream="app"}`: 30,
		`journal_sync_duration_seconds_sum`: 30, `journal_sync_duration_seconds_count`: 100, `journal_group_size_sum`: 200, `journal_group_size_count`: 200,
		`journal_bytes`: 1 << 30, `disk_free_bytes`: 1 << 60,
	} {
		if v, ok := got["hooktender_"+name]; !ok || v <= 0 || v > most {
			t.Errorf("%s is %v (there: %t), want more than 0 and at most %v", name, v, ok, most)
		}
	}
	// Ten events were written and at least six answers waited for the disk: an fsync each, or shared ones.
	if items, groups := got["hooktender_journal_group_size_sum"], got["hooktender_journal_group_size_count"]; items < 20 || groups > items {
		t.Errorf("%v items in %v groups", items, groups)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(k string) bool {
		return strings.HasPrefix(k, `hooktender_build_info{goversion="go1.`) && strings.Contains(k, `,revision="`) && strings.Contains(k, `,version="`) && got[k] == 1
	}) {
		t.Error("no build_info")
	}
	for k := range got {
		for _, id := range []string{"evt_", "dead_1", "dead_2", "busy_", `"r1`} {
			if strings.HasPrefix(k, "hooktender_") && strings.Contains(k, id) {
				t.Errorf("%s has an id as a label", k)
			}
		}
	}
}
