package demo

import (
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/hooktest"
)

// The demo passes, and fails when something goes wrong that it promises not to: its check is no decoration. It leaves nothing behind in either case.
func TestTheDemoChecksItself(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*hooktest.Consumer)
		says  string // a part of its faults; "" = it passes
	}{
		{"all is well", func(*hooktest.Consumer) {}, ""},
		{"a forged event arrives", arrives("stripe", "evt_forged"), "must be 0×"},
		{"a stale order arrives", arrives("orders", "o-late"), "must be 0×"},
		{"an event arrives twice", arrives("github", "d-1"), "must be 1×"},
		{"an order arrives before its turn", arrives("orders", "o-3"), "order 7 reached the consumer as"},
		{"an event fails", func(c *hooktest.Consumer) {
			c.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
				if s.Header.Get("Hooktender-Event-Id") == "evt_out_2" {
					return hooktest.Answer{Status: 400}
				}
				return hooktest.Answer{}
			})
		}, "must be delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tmp, consumer := t.TempDir(), hooktest.NewConsumer()
			c.fault(consumer)
			r, err := run(t.Context(), tmp, consumer, io.Discard)
			faults := ""
			if r != nil {
				faults = r.Fault
				for _, s := range r.Steps {
					faults += "\n" + s.Fault
				}
			}
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrCheck) || !strings.Contains(faults, c.says)) {
				t.Errorf("error %v, want %q in\n%s", err, c.says, faults)
			}
			if r == nil || r.Pass != (err == nil) || len(r.Steps) < 10 {
				t.Errorf("result %+v", r)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// arrives is a fault: the consumer sees an event that the gateway did not let through, or once too often.
func arrives(source, id string) func(*hooktest.Consumer) {
	return func(c *hooktest.Consumer) {
		r := httptest.NewRequest("POST", "/"+source, nil)
		r.Header.Set("Hooktender-Source", source)
		r.Header.Set("Hooktender-Event-Id", id)
		c.ServeHTTP(httptest.NewRecorder(), r)
	}
}
