package embedded

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestAListStepsOverWhatIsGoneOnce: between an event that is pending for long and a new one thousands have expired. A list with a filter began in each of their blocks, and stepped over all the
// deletions below again.
func TestAListStepsOverWhatIsGoneOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		hour := journal.Retention{Payload: time.Hour, Record: time.Hour, Dedup: time.Hour, DeadLetter: time.Hour}
		e := start(t, Options{Dir: dir, InBubble: true, Log: quiet, Retention: hour})
		const gone = 40 * blockEvents
		old := accept(t, e, journal.Synced, sample(0)).Record
		for n := 1; n <= gone; n++ {
			deliver(t, e, journal.Written, accept(t, e, journal.Written, sample(n)).Record)
		}
		time.Sleep(2 * time.Hour)
		for {
			n, err := e.Sweep(t.Context(), time.Now(), 1000)
			must(t, err)
			if n == 0 {
				break
			}
		}
		fresh := accept(t, e, journal.Synced, sample(gone+1)).Record
		must(t, e.settle(t.Context()))
		v, err := e.view()
		must(t, err)
		defer v.release()
		for _, asc := range []bool{false, true} {
			s, err := newScan(&journal.Query{Source: old.Source, Asc: asc})
			must(t, err)
			s.v, s.ctx = &v, t.Context()
			must(t, s.run())
			want := []event.ID{fresh.ID, old.ID}
			if asc {
				want[0], want[1] = want[1], want[0]
			}
			if len(s.found) != 2 || s.found[0].id != want[0] || s.found[1].id != want[1] {
				t.Fatalf("found %d events of 2", len(s.found))
			}
			if s.walks > 4 {
				t.Errorf("began %d walks over what is gone (oldest first: %t)", s.walks, asc)
			}
		}
	})
}
