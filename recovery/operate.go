package recovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// whySkip says why a replay leaves an event out; "" = it goes. A replay is forced or not; named says that its reason was asked for.
func (r *Recovery) whySkip(ctx context.Context, rec *event.Record, force bool) string {
	switch {
	case rec.State == event.Pending && rec.Reason == event.WaitingForDecision:
		if !force {
			return SkipNeedsForce
		}
	case rec.State == event.Pending:
		return SkipPending
	case !rec.HasPayload:
		if !force && (rec.State == event.Delivered || rec.State == event.Replayed) {
			return SkipDelivered
		}
		return SkipPayloadGone
	case force:
	case rec.State == event.Delivered, rec.State == event.Replayed:
		return SkipDelivered
	case rec.Reason == event.Stale:
		return SkipSuperseded
	case rec.Reason == event.VersionJump:
		return SkipQuarantined
	case rec.Reason == event.Resolved:
		return SkipResolved
	case rec.Reason == event.Discarded:
		return SkipDiscarded
	case r.superseded(ctx, rec):
		return SkipSuperseded
	}
	return ""
}

// newReplayID is a fresh id for a replay.
func newReplayID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "rp_" + hex.EncodeToString(b[:])
}

// ReplayOne starts the replay of one event. Errors: journal.ErrNotFound; ErrNeedsForce for an event that waits for a decision.
func (r *Recovery) ReplayOne(ctx context.Context, id event.ID, actor string, force bool, reason string) (ReplayResult, error) {
	_, why, replay, err := r.replay(ctx, id, newReplayID(), force)
	switch {
	case err != nil:
		return ReplayResult{}, err
	case why == SkipNeedsForce:
		return ReplayResult{}, ErrNeedsForce
	case why != "":
		r.countReplay("skipped")
		return ReplayResult{Why: why}, nil
	}
	return ReplayResult{Started: true, ReplayID: replay}, nil
}

// replay puts one event into a fresh run of attempts under a replay's id.
func (r *Recovery) replay(ctx context.Context, id event.ID, replay string, force bool) (event.Record, string, string, error) {
	for range 8 {
		rec, _, err := r.journal.Get(ctx, id, false)
		if err != nil {
			return rec, "", "", err
		}
		if rec.ReplayID == replay {
			return rec, "", replay, nil // a job that is resumed: it was started before
		}
		s := r.Source(rec.Source)
		if s == nil {
			return rec, "", "", ErrUnknownSource
		}
		if why := r.whySkip(ctx, &rec, force); why != "" {
			return rec, why, "", nil
		}
		waited := rec.State == event.Pending
		s.again(&rec, replay, force)
		out, err := r.journal.Commit(ctx, []journal.Transition{{Record: rec}}, journal.Synced)
		if err != nil {
			return rec, "", "", err
		}
		if !out[0].Applied {
			continue
		}
		s.launch(&out[0].Record, waited)
		return out[0].Record, "", replay, nil
	}
	return event.Record{}, "", "", ErrBusy
}

// again makes of a record the begin of a fresh run of attempts under a replay's id. What had ended keeps what it was, to fall back to.
func (s *Source) again(rec *event.Record, replay string, force bool) {
	prior, why, settled := event.State(0), event.NoReason, rec.Resolution
	if rec.State != event.Pending && !rec.DeadLetter() && rec.Reason != event.Returned {
		prior, why = rec.State, rec.Reason
	}
	s.reopen(rec)
	rec.PriorState, rec.PriorReason, rec.Resolution = prior, why, settled
	rec.State, rec.Reason, rec.NextTrigger = event.Pending, event.Queued, event.TriggerReplay
	rec.ReplayID, rec.Forced = replay, force
}

// launch puts a replayed event into the schedule; waited: it waited for a decision, maybe in its lane.
func (s *Source) launch(rec *event.Record, waited bool) {
	if waited {
		s.unlist(rec)
	}
	s.requeue(rec, nil)
}

// unlist takes a waiting event out of its lane.
func (s *Source) unlist(rec *event.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[rec.Resource]; l != nil {
		if _, ok := l.Remove(rec.ID); ok {
			s.wake(l, 0)
		}
	}
}

// Resolve settles a dead letter, or an event that waits for a decision: it happened by other means. The reason is kept. ErrNotDeadLetter for any other event.
func (r *Recovery) Resolve(ctx context.Context, id event.ID, actor, reason string) (event.Record, error) {
	return r.settle(ctx, id, event.Resolved, actor, reason)
}

// Discard settles a dead letter, or an event that waits for a decision: it is not wanted. As Resolve otherwise.
func (r *Recovery) Discard(ctx context.Context, id event.ID, actor, reason string) (event.Record, error) {
	return r.settle(ctx, id, event.Discarded, actor, reason)
}

func (r *Recovery) settle(ctx context.Context, id event.ID, why event.Reason, actor, reason string) (event.Record, error) {
	for range 8 {
		rec, _, err := r.journal.Get(ctx, id, false)
		if err != nil && !errors.Is(err, journal.ErrNoPayload) {
			return rec, err
		}
		undecided := rec.State == event.Pending && rec.Reason == event.WaitingForDecision
		if !rec.DeadLetter() && !undecided {
			return rec, ErrNotDeadLetter
		}
		now := time.Now()
		rec.State, rec.Reason, rec.SettledAt, rec.NextAt = event.Failed, why, now, time.Time{}
		rec.Resolution = &event.Resolution{By: actor, At: now, Reason: reason}
		out, err := r.journal.Commit(ctx, []journal.Transition{{Record: rec}}, journal.Synced)
		if err != nil {
			return rec, err
		}
		if out[0].Applied {
			if s := r.Source(rec.Source); undecided && s != nil {
				s.unlist(&rec)
			}
			return out[0].Record, nil
		}
	}
	return event.Record{}, ErrBusy
}
