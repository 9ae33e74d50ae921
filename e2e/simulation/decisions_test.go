package simulation

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

var decisions = flag.Uint64("decisions", 150, "how many seeds with replays and decisions, from -from on")

// decider is an operator who starts and cancels replays of all that failed, and decides what waits for a decision: at random, in the end all of it.
func (w *world) decider() {
	ctx := context.Background()
	for left := 20; left > 0; {
		w.pause(3 * time.Second)
		w.mu.Lock()
		l, id, act := w.live, w.ids[w.rnd.IntN(len(w.ids))], w.rnd.IntN(4)
		if w.quiet {
			left--
		}
		w.mu.Unlock()
		switch {
		case l == nil:
		case left < 20:
			for _, id := range w.ids {
				w.decide(l, id)
			}
		case act < 2:
			w.decide(l, id)
		case act == 2:
			job, err := l.recovery.StartReplay(ctx, recovery.ReplaySpec{ID: fmt.Sprintf("rp_%d", len(w.jobs)),
				Filter: &journal.Query{Source: "s", States: []event.State{event.Failed}}, Rate: 2, Actor: "ops"})
			w.mu.Lock()
			w.logf("replay %s: %v", job.ID, err)
			if err == nil && w.live == l {
				w.jobs, w.jobLives = append(w.jobs, job.ID), append(w.jobLives, w.lives)
			}
			w.mu.Unlock()
		case len(w.jobs) > 0:
			job := w.jobs[len(w.jobs)-1]
			_, err := l.recovery.CancelReplay(ctx, job)
			w.mu.Lock()
			w.logf("replay %s is cancelled: %v", job, err)
			w.mu.Unlock()
		}
	}
}

// decide ends the wait of an event for a decision: sent again, resolved or discarded.
func (w *world) decide(l *life, id string) {
	ctx := context.Background()
	rec, err := l.recovery.Find(ctx, "s", id)
	if err != nil || rec.State != event.Pending || rec.Reason != event.WaitingForDecision {
		return
	}
	w.mu.Lock()
	how, e := w.rnd.IntN(4), w.ref.of(id)
	was := e.held
	if how < 2 {
		e.held = false // from now on it may come
	}
	w.mu.Unlock()
	var started bool
	switch how {
	case 2:
		_, err = l.recovery.Resolve(ctx, rec.ID, "ops", "done by hand")
	case 3:
		_, err = l.recovery.Discard(ctx, rec.ID, "ops", "not wanted")
	default:
		var r recovery.ReplayResult
		r, err = l.recovery.ReplayOne(ctx, rec.ID, "", "ops", true, "asked the consumer")
		started = r.Started
	}
	w.mu.Lock()
	w.logf("%s is decided (%d): %v", id, how, err)
	switch {
	case w.live != l: // what is in the journal says what became of it
	case how >= 2:
		e.settled = e.settled || err == nil
	case !started:
		e.held = e.held || was
	}
	w.mu.Unlock()
	l.pass("decided")
}

// judgeJobs looks at the replays that were begun: each has ended and has counted what the journal says that it replayed; without a restart all its figures are right.
func (w *world) judgeJobs(l *life) {
	replayed := map[string]int64{}
	for _, id := range w.ids {
		if rec, ok := w.record(l.model, id); ok && rec.State == event.Replayed {
			replayed[rec.ReplayID]++
		}
	}
	for i, id := range w.jobs {
		j, err := l.recovery.Replay(context.Background(), id)
		switch {
		case err != nil:
			w.fault(fmt.Errorf("replay %s: %w", id, err))
		case j.State != "done" && j.State != "cancelled":
			w.fault(fmt.Errorf("replay %s is %s in the end", id, j.State))
		case j.Replayed < replayed[id]:
			w.fault(fmt.Errorf("replay %s counts %d replayed, and the journal has %d: %+v", id, j.Replayed, replayed[id], j))
		case w.jobLives[i] != w.lives: // its selection is another after a restart, where events have changed by other means
		case j.Sent < j.Replayed+j.Failed, j.Sent > j.Replayed+j.Failed+j.Skipped, j.State == "done" && j.Replayed+j.Failed+j.Skipped != j.Total:
			w.fault(fmt.Errorf("replay %s of %d: %d sent, %d replayed, %d failed, %d skipped", id, j.Total, j.Sent, j.Replayed, j.Failed, j.Skipped))
		}
	}
}

// Several replays at once, begun and cancelled at any time, with crashes in between, in a third of the seeds right after a decision, and a source whose unknown outcomes wait for a decision: nothing comes again that nobody has
// asked for, nothing that was settled comes at all, and each replay comes to its end and knows what it has replayed.
func TestDecisions(t *testing.T) {
	jobs, asked := 0, 0
	for seed := *from; seed < *from+*decisions; seed++ {
		w := simulate(t, seed, func(w *world) {
			w.decided, w.set.hold = true, seed%3 != 0
			if seed%3 == 1 {
				w.plan = append([]planned{{"decided", 1, seed%2 == 0}}, w.plan...)
			}
		})
		jobs += len(w.jobs)
		for _, line := range w.trace {
			if strings.Contains(line, "is decided") {
				asked++
			}
		}
		if len(w.faults) > 0 {
			t.Fatalf("seed %d (%+v): %v\nagain with: go test ./e2e/simulation -run TestDecisions -from %d -decisions 1\n%s", seed, w.set, w.faults, seed, strings.Join(w.trace, "\n"))
		}
	}
	t.Logf("%d seeds, %d replays, %d decisions", *decisions, jobs, asked)
	if *decisions >= 150 && (jobs == 0 || asked == 0) {
		t.Error("nobody has decided anything")
	}
}
