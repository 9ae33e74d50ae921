package cli

import (
	"testing"
	"time"
)

func TestABarTellsRateAndRemainingTime(t *testing.T) {
	p := &progress{what: "replaying", total: 1000}
	for _, c := range []struct {
		done int64
		more string
		took time.Duration
		want string
	}{
		{0, "", 0, "replaying [..............................] 0/1000"},
		{250, "250 replayed", 5 * time.Second, "replaying [#######.......................] 250/1000 50/s, 15s left (250 replayed)"},
		{999, "", 10 * time.Minute, "replaying [#############################.] 999/1000 1.7/s, 1s left"},
		{1200, "", time.Second, "replaying [##############################] 1000/1000 1000/s"},
	} {
		if got := p.line(c.done, c.more, c.took); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
