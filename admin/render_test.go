package admin

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/event"
)

// Credentials of the sender are kept for retries, and not shown to whoever may read payloads.
func TestPayloadsHideCredentials(t *testing.T) {
	p := &event.Payload{Target: []byte("/s?t%6Fken=canary"), Head: event.Head("authorization: Bearer canary\r\nCOOKIE: canary\r\nX-Signature: sha256=00\r\nX-Own: canary\r\n"), Body: []byte("{}")}
	for name, tt := range map[string]struct {
		hide  func(string) bool
		shown int
	}{
		"by default":        {nil, 2},
		"a source's token":  {func(h string) bool { return event.Credential(h) || h == "X-Own" }, 1},
		"also in the query": {func(h string) bool { return event.Credential(h) || h == "X-Own" || h == "?token" }, 0},
		"show_credentials":  {func(string) bool { return false }, 4},
	} {
		s := &Server{}
		s.SetHide(tt.hide)
		text, err := json.Marshal(ShowPayload(p, *s.hide.Load()))
		if err != nil || strings.Count(string(text), "canary") != tt.shown || !strings.Contains(string(text), "sha256=00") || !strings.Contains(string(text), "/s?t%6Fken=") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
}
