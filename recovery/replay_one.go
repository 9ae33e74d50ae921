package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// maxSingles replays of one event are remembered, the newest. They do not take the places of the jobs.
const (
	maxSingles   = 1000
	singlePrefix = "replay-one/"
)

// singles are the replays of one event each, so that the id that such a replay is answered with can be asked for like a job's.
type singles struct {
	mu  sync.Mutex
	all map[string]*single
	ids []string // oldest first
}

// single is the replay of one event: when it began and for whom, and how it ended.
type single struct {
	Replay Replay
	Event  event.ID
}

// remember makes a replay known before its event can end, and gives those that are too many.
func (s *singles) remember(v *single) (drop []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*single{}
	}
	s.all[v.Replay.ID] = v
	s.ids = append(s.ids, v.Replay.ID)
	drop = slices.Clone(s.ids[:max(0, len(s.ids)-maxSingles)])
	s.ids = s.ids[len(drop):]
	for _, id := range drop {
		delete(s.all, id)
	}
	return drop
}

// forget takes back one that did not start.
func (s *singles) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
	s.ids = slices.DeleteFunc(s.ids, func(other string) bool { return other == id })
}

func (s *singles) begun(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id] != nil
}

func (s *singles) view(id string) (Replay, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.all[id]
	if v == nil {
		return Replay{}, false
	}
	out := v.Replay
	out.Skips = slices.Clone(out.Skips)
	return out, true
}

// changed hears of every change of a record that a replay has started.
func (s *singles) changed(rec *event.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.all[rec.ReplayID]; v != nil && v.Event == rec.ID && v.Replay.State == "running" {
		v.Replay.ended(rec, time.Now())
	}
}

// ended ends the replay of one event with it, if that has come to an end.
func (v *Replay) ended(rec *event.Record, at time.Time) {
	if rec.State == event.Pending && rec.Reason != event.WaitingForDecision {
		return
	}
	v.tally(rec)
	v.State, v.FinishedAt = "done", at
}

// storeSingle keeps a replay that has begun over a restart: how it ends is read from the record then. It drops those that are too many.
func (r *Recovery) storeSingle(ctx context.Context, begun single, drop []string) error {
	raw, err := json.Marshal(begun)
	if err != nil {
		return err
	}
	if err := r.journal.MetaPut(ctx, singlePrefix+begun.Replay.ID, raw, journal.Written); err != nil {
		return err
	}
	return r.dropSingles(ctx, drop)
}

func (r *Recovery) dropSingles(ctx context.Context, ids []string) error {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = singlePrefix + id
	}
	return r.drop(ctx, keys)
}

// loadSingles brings back the replays of one event. Of one whose event another replay has taken up since, only that it was sent is known.
func (r *Recovery) loadSingles(ctx context.Context) error {
	var list []*single
	if err := eachStored(ctx, r, singlePrefix, func(v single) error { list = append(list, &v); return nil }); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b *single) int { return a.Replay.CreatedAt.Compare(b.Replay.CreatedAt) })
	for _, v := range list {
		if rec, _, err := r.journal.Get(ctx, v.Event, false); err == nil && rec.ReplayID == v.Replay.ID {
			v.Replay.ended(&rec, cmp.Or(rec.SettledAt, rec.LastAttemptAt))
		} else {
			v.Replay.State = "done"
		}
		if err := r.dropSingles(ctx, r.singles.remember(v)); err != nil {
			return err
		}
	}
	return nil
}
