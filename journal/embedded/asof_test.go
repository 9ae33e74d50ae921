package embedded

import (
	"testing"
	"testing/synctest"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// TestAListAsOfARevisionWaitsForNoMore: who asks for many lists, as the metrics do for each source, waits for the index once.
func TestAListAsOfARevisionWaitsForNoMore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e := start(t, Options{Dir: dir, InBubble: true, Log: quiet})
		list := func(asOf uint64) (found int, waited bool) {
			before := e.gen.Load()
			page, err := e.List(t.Context(), journal.Query{States: []event.State{event.Pending}, AsOf: asOf})
			must(t, err)
			return len(page.Records), e.gen.Load() != before
		}
		accept(t, e, journal.Synced, sample(1))
		asOf := e.Stats().LastRev
		if n, _ := list(asOf); n != 1 {
			t.Fatalf("%d events as of a revision that has one", n)
		}
		accept(t, e, journal.Synced, sample(2))
		if n, waited := list(asOf); n != 1 || waited {
			t.Errorf("%d events, waited for what came later: %t", n, waited)
		}
		if n, waited := list(0); n != 2 || !waited {
			t.Errorf("%d events of 2, waited: %t", n, waited)
		}
		if n, waited := list(e.Stats().LastRev); n != 2 || waited {
			t.Errorf("%d events of 2, waited though all is there: %t", n, waited)
		}
		accept(t, e, journal.Synced, sample(3))
		if n, waited := list(e.Stats().LastRev + 1000); n != 3 || !waited {
			t.Errorf("%d events of 3 as of a revision that is not reached, waited: %t", n, waited)
		}
	})
}
