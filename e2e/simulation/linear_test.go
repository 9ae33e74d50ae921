package simulation

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hooktender/hooktender/recovery"
)

var histories = flag.Int("histories", 150, "how many histories are checked for linearizability")

// call is one operation on one event: a sender submits it, somebody asks for its state, an operator replays it.
type call struct{ kind, id string }

// told is what came back; the zero told is nothing (the gateway was killed).
type told struct {
	status  int
	outcome string // of a submit
	state   string // of a status
	replay  string // of a replay: started, or why it was skipped
}

// What an event is, seen from outside. again is pending because of a replay.
const (
	none      = "none"
	pending   = "pending"
	again     = "pending (replay)"
	delivered = "delivered"
	replayed  = "replayed"
	failed    = "failed"
	rejected  = "rejected"
)

// meanwhile is what an event may have become by itself.
var meanwhile = map[string][]string{
	none: {none}, pending: {pending, delivered, failed, rejected}, again: {again, replayed, failed, rejected},
	delivered: {delivered}, replayed: {replayed}, failed: {failed}, rejected: {rejected},
}

// step is the specification: from a state, what an operation that was answered so may lead to; nothing = it cannot have been answered so.
func step(state string, in call, out told) (next []string) {
	for _, s := range meanwhile[state] {
		fresh := s == none || s == failed // a submit begins anew
		switch in.kind {
		case "status":
			if out.state == strings.TrimSuffix(s, " (replay)") {
				next = append(next, s)
			}
		case "replay":
			switch {
			case out.replay == "started" && s == failed:
				next = append(next, again)
			case out.replay == recovery.SkipDelivered && (s == delivered || s == replayed), out.replay == recovery.SkipPending && (s == pending || s == again):
				next = append(next, s)
			case out.replay == recovery.SkipSuperseded && (s == failed || s == rejected):
				next = append(next, s)
			case out.replay == "":
				next = append(next, s)
				if s == failed {
					next = append(next, again)
				}
			}
		case "submit":
			ok := out.status >= 200 && out.status <= 299
			switch {
			case out.status == 0, out.outcome == "unavailable", out.outcome == "duplicate" && !ok: // it may have been taken, or not
				next = append(next, s)
				if fresh {
					next = append(next, meanwhile[pending]...)
				}
			case out.outcome == "duplicate":
				if !fresh {
					next = append(next, s)
				}
			case !fresh:
			default: // taken; from here on it is pending until it has come to its end (see note)
				next = append(next, meanwhile[pending]...)
			}
		}
	}
	slices.Sort(next)
	return slices.Compact(next)
}

func specification() porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			byID := map[string]int{}
			for _, o := range history {
				id := o.Input.(call).id
				if _, ok := byID[id]; !ok {
					byID[id] = len(parts)
					parts = append(parts, nil)
				}
				parts[byID[id]] = append(parts[byID[id]], o)
			}
			return parts
		},
		Init: func() []any { return []any{none} },
		Step: func(state, in, out any) (next []any) {
			for _, s := range step(state.(string), in.(call), out.(told)) {
				next = append(next, s)
			}
			return next
		},
	}).ToModel()
}

// note keeps an operation. open = nothing came back: it may take effect at any time. Whoever was told that the event is delivered sees it delivered from then on.
func (w *world) note(client int, began int64, in call, out told, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := porcupine.Operation{ClientId: client, Input: in, Call: began, Output: out, Return: w.tick()}
	if open {
		o.Return = math.MaxInt64
	}
	w.history = append(w.history, o)
	if out.outcome == "delivered" {
		w.history = append(w.history, porcupine.Operation{ClientId: client, Input: call{"status", in.id}, Call: w.tick(), Output: told{state: delivered}, Return: w.tick()})
	}
}

// tick orders the operations. The caller holds mu.
func (w *world) tick() int64 {
	w.clock++
	return w.clock
}

func (w *world) now() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tick()
}

// onlooker asks for states and replays what failed, at random, until the world is quiet.
func (w *world) onlooker(client int) {
	for {
		w.pause(700 * time.Millisecond)
		w.mu.Lock()
		l, quiet, id, replay := w.live, w.quiet, w.ids[w.rnd.IntN(len(w.ids))], w.rnd.IntN(3) == 0
		w.mu.Unlock()
		if quiet {
			return
		}
		if l == nil {
			continue
		}
		began := w.now()
		rec, err := l.recovery.Find(context.Background(), "s", id)
		state := rec.State.String()
		if err != nil {
			state = none
		}
		if !l.alive() || err != nil && strings.Contains(err.Error(), "closed") {
			continue
		}
		w.note(client, began, call{"status", id}, told{state: state}, false)
		if state == none || !replay {
			continue
		}
		began = w.now()
		r, err := l.recovery.ReplayOne(context.Background(), rec.ID, "", "ops", false, "")
		out := told{replay: r.Why}
		if r.Started {
			out.replay = "started"
		}
		if dead := err != nil || !l.alive(); dead {
			w.note(client, began, call{"replay", id}, told{}, true)
		} else {
			w.note(client, began, call{"replay", id}, out, false)
		}
	}
}

func (l *life) alive() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.live == l
}

// Submits, duplicates, states and replays of an event look as if they had happened one after the other, whatever was killed meanwhile.
func TestHistoriesAreLinearizable(t *testing.T) {
	operations, open, kills := 0, 0, 0
	for seed := uint64(1); seed <= uint64(*histories); seed++ {
		w := simulate(t, seed, func(w *world) {
			w.set.policy = []string{"none", "reject_stale"}[seed%2]
			for i := range w.plan {
				w.plan[i].power = false // what a power cut may take, a status may have shown before
			}
			w.watched = true
		})
		operations += len(w.history)
		for _, o := range w.history {
			if o.Return == math.MaxInt64 {
				open++
			}
		}
		for _, n := range w.crashed {
			kills += n
		}
		if res := porcupine.CheckOperationsTimeout(specification(), w.history, 20*time.Second); res != porcupine.Ok {
			var lines []string
			for _, o := range w.history {
				lines = append(lines, fmt.Sprintf("%d–%d %+v → %+v", o.Call, o.Return, o.Input, o.Output))
			}
			t.Fatalf("seed %d: %v\n%s\n%s", seed, res, strings.Join(lines, "\n"), strings.Join(w.trace, "\n"))
		}
	}
	t.Logf("%d histories, %d operations (%d of them unanswered), %d kills: linearizable", *histories, operations, open, kills)
}

// A specification that takes everything proves nothing.
func TestSpecificationRefuses(t *testing.T) {
	op := func(at int64, kind string, out told) porcupine.Operation {
		return porcupine.Operation{Input: call{kind, "e"}, Output: out, Call: at, Return: at + 1}
	}
	accepted, done := told{status: 202, outcome: "accepted"}, told{status: 200, outcome: "delivered"}
	for name, h := range map[string][]porcupine.Operation{
		"forgotten":           {op(1, "submit", accepted), op(3, "status", told{state: none})},
		"delivered twice":     {op(1, "submit", done), op(3, "status", told{state: delivered}), op(5, "submit", done)},
		"accepted twice":      {op(1, "submit", accepted), op(3, "submit", told{status: 200, outcome: "duplicate"}), op(5, "submit", done), op(7, "status", told{state: delivered}), op(9, "submit", done)},
		"undone":              {op(1, "submit", done), op(3, "status", told{state: delivered}), op(5, "status", told{state: pending})},
		"duplicate of nobody": {op(1, "submit", told{status: 200, outcome: "duplicate"})},
		"replay of delivered": {op(1, "submit", done), op(3, "status", told{state: delivered}), op(5, "replay", told{replay: "started"})},
	} {
		if porcupine.CheckOperations(specification(), h) {
			t.Errorf("%s: taken for right", name)
		}
	}
}
