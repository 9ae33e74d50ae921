package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

// FuzzAdmin: whatever is asked, the answer is one that the API's description has, never a 500; a list gives nothing but what its query
// asks for; a parameter that is unknown or given twice is a 400.
func FuzzAdmin(f *testing.F) {
	g := admintest.Start(f, nil)
	for i := range 40 {
		g.Receive(f, []string{"stripe", "github"}[i%2], fmt.Sprintf("evt_%d", i), func(r *event.Record) {
			r.Type, r.Resource = fmt.Sprintf("t%d", i%3), fmt.Sprintf("r%d", i%5)
			switch i % 4 {
			case 1:
				r.State, r.Reason = event.Failed, event.Permanent
			case 2:
				r.State, r.Reason = event.Pending, event.Retrying
			}
		})
	}
	w := httptest.NewRecorder()
	g.Server.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/v1/openapi.json", nil))
	contract := admintest.ReadContract(f, w.Body.Bytes())
	for _, target := range []string{
		"/v1/events?source=stripe&state=failed,pending&reason=permanent&type=t1&resource=r1&since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00.5%2B01:00&order=asc&limit=3&cursor=x",
		"/v1/events?limit=0", "/v1/events?limit=501", "/v1/events?a=b", "/v1/events?limit=1&limit=1", "/v1/events?state=delivered;order=asc", "/v1/events?state=%zz", "/v1/events?order=up",
		"/v1/events/evt_1?source=stripe&wait=30s&until=delivered", "/v1/events/evt_0?wait=-1s", "/v1/events/nobody", "/v1/events/evt_1/attempts", "/v1/events/evt_1/payload",
		"/v1/events/evt_1/replay", "/v1/events/evt_1/resolve", "/v1/replays", "/v1/replays?limit=1", "/v1/replays/x", "/v1/replays/x/cancel", "/v1/checkpoints?source=stripe",
		"/v1/resources/stripe/r1", "/v1/resources/stripe/r1/cursor", "/v1/sources", "/v1/sources/stripe/pause", "/v1/sources/asana/enroll", "/v1/upstreams", "/v1/stream?cursor=1&source=stripe",
		"/v1/whoami", "/livez", "/readyz", "/startupz", "/v1/%2e%2e/events", "//v1/events", "/v1/events/%00", "*",
	} {
		f.Add(uint8(0), target, `{"reason":"r"}`)
		f.Add(uint8(1), target, `{"name":"n","ids":["evt_1"],"filter":{"source":"stripe","state":"failed"},"from_checkpoint":true,"dry_run":true,"rate":5,"force":true,"reason":"r"}`)
	}
	f.Fuzz(func(t *testing.T, method uint8, target, body string) {
		methods := []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"}
		m := methods[int(method)%len(methods)]
		if strings.ContainsAny(target, "\r\n") {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf(
			"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", m, target, len(body), body))))
		if err != nil {
			return // the port's own server answers that
		}
		r.RemoteAddr = "127.0.0.1:1"
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // waits and streams end by it
		defer cancel()
		w := httptest.NewRecorder()
		if strings.Contains(r.URL.RawQuery, "wait=") {
			return // a wait lasts as long as it is told to
		}
		g.Server.ServeHTTP(w, r.WithContext(ctx))
		answer := w.Result()
		if w.Code >= 500 && w.Code != 503 {
			t.Fatalf("%s %s: %d %s", m, target, w.Code, w.Body)
		}
		if m != http.MethodHead && m != http.MethodOptions {
			if why := contract.Check(m, r.URL.EscapedPath(), w.Code, answer.Header.Get("Content-Type"), w.Body.Bytes()); why != "" {
				t.Fatalf("%s %s ← %d: the answer breaks the description: %s\n%.600s", m, target, w.Code, why, w.Body)
			}
		}
		if m == http.MethodGet && r.URL.EscapedPath() == "/v1/events" {
			judgeList(t, r.URL.RawQuery, w)
		}
	})
}

// judgeList holds a list of events against its query.
func judgeList(t *testing.T, query string, w *httptest.ResponseRecorder) {
	v, err := url.ParseQuery(query)
	bad := err != nil
	for name, values := range v {
		bad = bad || len(values) > 1 || !strings.Contains(" source state reason type resource since until order limit cursor ", " "+name+" ")
	}
	if bad && w.Code != 400 {
		t.Fatalf("%q: %d", query, w.Code)
	}
	if w.Code != 200 {
		return
	}
	var page api.Page[api.Event]
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	limit := 100
	if s := v.Get("limit"); s != "" {
		if _, err := fmt.Sscan(s, &limit); err != nil || limit < 1 || limit > 500 {
			t.Fatalf("a limit of %q", s)
		}
	}
	one := func(of, value string) bool { return of == "" || strings.Contains(","+of+",", ","+value+",") }
	for i, e := range page.Data {
		if i >= limit || v.Get("source") != "" && e.Source != v.Get("source") || !one(v.Get("state"), string(e.State)) || !one(v.Get("reason"), string(e.Reason)) {
			t.Fatalf("%q gives %+v", query, e)
		}
	}
}
