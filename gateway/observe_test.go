package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// Where failed verification is only observed, the sender's id means the genuine event, whether the forged one came before it or after it; alone the
// forged one is found.
func TestTheSendersIDMeansTheGenuineEvent(t *testing.T) {
	for name, identity := range map[string]string{
		"an id":              `{id: "json:id"}`,
		"an account":         `{id: "json:id", account: "json:type"}`,
		"an id of two parts": `{id: ["json:id", "json:type"]}`,
	} {
		head, _, _ := strings.Cut(sources, "    identity:")
		head = strings.Replace(head, "verify: {", "verify: {mode: observe, ", 1)
		synctest.Test(t, func(t *testing.T) {
			b := up(t, head+"    identity: "+identity+"\n    delivery: {mode: hybrid, upstream: app}\n", env)
			post := func(id, key string) string {
				t.Helper()
				status, h, err := b.Ask("/s", hooktest.Custom(key, hooktest.CustomBody(id, "t", "", ""), time.Now()))
				if status != 200 || h.Get("Hooktender-Outcome") != "delivered" || err != nil {
					t.Errorf("%s: %s: %d %s %v", name, id, status, h.Get("Hooktender-Outcome"), err)
				}
				return h.Get("Hooktender-Id")
			}
			want := map[string]string{}
			want["alone"] = post("alone", "forged")
			post("before", "forged")
			want["before"] = post("before", secret)
			want["after"] = post("after", secret)
			post("after", "forged")
			for id, ours := range want {
				if strings.Contains(name, "two") {
					id += ":t"
				}
				_, body, err := b.Admin("/v1/events/" + id)
				var rec struct{ ID string }
				if json.Unmarshal(body, &rec) != nil || rec.ID != ours || err != nil {
					t.Errorf("%s: %s: %s %v, want %s", name, id, body, err, ours)
				}
			}
		})
	}
}
