package embedded

import (
	"context"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// What a group has decided holds for the rest of it, however large it is: a key is taken once, a revision replaced once.
func TestGroupSeesItself(t *testing.T) {
	e := start(t, Options{})
	ctx := context.Background()
	from := 0
	for _, n := range []int{1, smallStage - 1, smallStage, smallStage + 1, 3 * smallStage} {
		var evs []journal.Accept
		for i := range 2 * n {
			evs = append(evs, sample(from+i%n))
		}
		from += n
		verdicts, err := e.Accept(ctx, evs, journal.Written)
		must(t, err)
		var ts []journal.Transition
		for i, v := range verdicts {
			if v.Accepted != (i < n) || v.Record.ID != verdicts[i%n].Record.ID {
				t.Fatalf("group of %d: event %d: %+v", n, i, v)
			}
			r := v.Record
			r.State, r.Reason = event.Delivered, event.NoReason
			ts = append(ts, journal.Transition{Record: r})
		}
		outcomes, err := e.Commit(ctx, ts, journal.Written)
		must(t, err)
		for i, o := range outcomes {
			if o.Applied != (i < n) || o.Record.ID != ts[i].Record.ID || o.Record.Rev != outcomes[i%n].Record.Rev || o.Record.Rev == ts[i].Record.Rev {
				t.Fatalf("group of %d: transition %d: %+v", n, i, o)
			}
		}
	}
	counts, err := e.Counts(ctx)
	must(t, err)
	if len(counts) != 1 || counts[0].State != event.Delivered || counts[0].N != int64(from) {
		t.Fatalf("%d events: %+v", from, counts)
	}
}

// A transition is decided by what its event is then, not by what the caller found when it was prepared.
func TestTransitionPreparedEarly(t *testing.T) {
	flush := func(t *testing.T, e *Engine, _ event.Record) { must(t, e.settle(context.Background())) }
	change := func(t *testing.T, e *Engine, r event.Record) { deliver(t, e, journal.Written, r) }
	for name, c := range map[string]struct {
		before, between []func(*testing.T, *Engine, event.Record)
		applied         bool
	}{
		"as it was":                  {applied: true},
		"in the index meanwhile":     {between: []func(*testing.T, *Engine, event.Record){flush}, applied: true},
		"in the index":               {before: []func(*testing.T, *Engine, event.Record){flush}, applied: true},
		"changed":                    {between: []func(*testing.T, *Engine, event.Record){change}},
		"changed in the index":       {before: []func(*testing.T, *Engine, event.Record){flush}, between: []func(*testing.T, *Engine, event.Record){change}},
		"changed, then in the index": {between: []func(*testing.T, *Engine, event.Record){change, flush}},
		"in the index, then changed": {between: []func(*testing.T, *Engine, event.Record){flush, change}},
		"and in the index once more": {between: []func(*testing.T, *Engine, event.Record){flush, change, flush}},
		"changed in it, and flushed": {before: []func(*testing.T, *Engine, event.Record){flush}, between: []func(*testing.T, *Engine, event.Record){change, flush}},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, Options{})
			r := accept(t, e, journal.Written, sample(1)).Record
			for _, fn := range c.before {
				fn(t, e, r)
			}
			o := e.newOp(journal.Written)
			must(t, e.prepareCommits(o, []journal.Transition{{Record: r}}))
			for _, fn := range c.between {
				fn(t, e, r)
			}
			_, err := e.submit(context.Background(), o)
			must(t, err)
			if o.outcomes[0].Applied != c.applied {
				t.Fatalf("%+v", o.outcomes[0])
			}
		})
	}
}
