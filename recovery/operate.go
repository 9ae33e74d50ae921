package recovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/selector"
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

// replayID is as, or a fresh id for a replay.
func replayID(as string) string {
	if as != "" {
		return as
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "rp_" + hex.EncodeToString(b[:])
}

// ReplayOne starts the replay of one event, under the id as ("" = a fresh one) unless that has been started. Errors: journal.ErrNotFound; ErrNeedsForce for an event that waits for a decision.
func (r *Recovery) ReplayOne(ctx context.Context, id event.ID, as, actor string, force bool, reason string) (ReplayResult, error) {
	ctx = context.WithoutCancel(ctx) // what is written is seen through, also when the caller has left: it would stay pending, and in no queue
	if r.singles.begun(as) {
		return ReplayResult{Started: true, ReplayID: as}, nil
	}
	one := &single{Event: id}
	one.Replay = Replay{ID: replayID(as), State: "running", CreatedAt: time.Now(), Actor: actor, Reason: reason, Total: 1, Sent: 1}
	begun, replay := *one, one.Replay.ID
	drop := r.singles.remember(one) // before its event can end
	_, why, err := r.replay(ctx, id, replay, force)
	var stored error
	if err != nil || why != "" {
		r.singles.forget(replay)
		stored = r.dropSingles(ctx, drop)
	} else {
		stored = r.storeSingle(ctx, begun, drop)
	}
	if stored != nil {
		r.log.Error("replay not stored", "replay", replay, "error", stored) // what has started has started
	}
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
func (r *Recovery) replay(ctx context.Context, id event.ID, replay string, force bool) (event.Record, string, error) {
	for range 8 {
		rec, _, err := r.journal.Get(ctx, id, false)
		if err != nil && !isRemnant(&rec, err) {
			return rec, "", err
		}
		if rec.ReplayID == replay {
			r.singles.changed(&rec)
			return rec, "", nil // a job that is resumed, or a call made again after a kill: it was started before
		}
		if why := r.whySkip(ctx, &rec, force); why != "" {
			return rec, why, nil
		}
		s := r.use(rec.Source)
		if s == nil {
			return rec, "", ErrUnknownSource
		}
		defer s.exit()
		waited := rec.State == event.Pending
		s.again(&rec, replay, force)
		if !force {
			if err := s.note(ctx, s.cfg.Load(), &rec); err != nil {
				return rec, "", err
			}
		}
		out, err := r.journal.Commit(ctx, []journal.Transition{{Record: rec}}, journal.Synced)
		if err != nil {
			return rec, "", err
		}
		if !out[0].Applied {
			continue
		}
		s.launch(&out[0].Record, waited)
		return out[0].Record, "", nil
	}
	return event.Record{}, "", ErrBusy
}

// again makes of a record the begin of a fresh run of attempts under a replay's id. What had ended keeps what it was, to fall back to; what waited for a decision
// keeps its place in the lane, since it may be at the consumer: nothing older goes before it.
func (s *Source) again(rec *event.Record, replay string, force bool) {
	waited := rec.State == event.Pending
	prior, why, settled := event.State(0), event.NoReason, rec.Resolution
	switch {
	case waited: // what it was before the forced replay that left it undecided, if one did
		prior, why = rec.PriorState, rec.PriorReason
	case !rec.DeadLetter() && rec.Reason != event.Returned:
		prior, why = rec.State, rec.Reason
	}
	s.reopen(rec)
	rec.PriorState, rec.PriorReason, rec.Resolution = prior, why, settled
	rec.State, rec.Reason, rec.NextTrigger = event.Pending, event.Queued, event.TriggerReplay
	if waited {
		rec.Reason, rec.NextAt = event.Retrying, s.r.steady()
	}
	rec.ReplayID, rec.Forced = replay, force
}

// launch puts a replayed event into the schedule; waited: it waited for a decision, maybe in its lane. What is too early there is held, like what comes in.
func (s *Source) launch(rec *event.Record, waited bool) {
	if waited {
		s.cursors.Lock() // the attempt that left it undecided has landed: it is in its lane
		s.cursors.Unlock()
	}
	if waited && !laned(s.cfg.Load().policy, rec) {
		s.unlist(rec, false) // from the lane that it had before a reload
	}
	s.requeue(rec, nil)
	s.mu.Lock()
	l := s.lanes[rec.Resource]
	early := l != nil && slices.ContainsFunc(l.Entries(), func(e *ordering.Entry) bool {
		return e.ID == rec.ID && !e.Forced && l.Judge(e.Version) == ordering.Hold
	})
	s.mu.Unlock()
	if early {
		s.hold(rec.ID, time.Time{})
	}
}

// unlist takes a waiting event out of its lane; settled: for good. One that happened by other means counts as delivered there.
func (s *Source) unlist(rec *event.Record, settled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[rec.Resource]; l != nil {
		if e, ok := l.Remove(rec.ID); ok {
			switch {
			case rec.Reason == event.Resolved:
				l.Delivered(e)
			case settled:
				l.Settled(e)
			}
			s.wake(l, 0)
		}
	}
}

// aside is what the journal shall remember of a resource once an event that waits in its lane is settled; nil = no change.
func (s *Source) aside(rec *event.Record) *event.ResourceState {
	how := ordering.WasSettled
	if rec.Reason == event.Resolved {
		how = ordering.WasDelivered
	}
	s.mu.Lock()
	l := s.lanes[rec.Resource]
	i := -1
	if l != nil {
		i = slices.IndexFunc(l.Entries(), func(e *ordering.Entry) bool { return e.ID == rec.ID })
	}
	if i < 0 {
		s.mu.Unlock()
		return nil
	}
	was := l.Cursor()
	version, floor, changed := l.After(l.Entries()[i], how)
	s.mu.Unlock()
	if !changed {
		return nil
	}
	return s.state(rec, version, floor, version != was)
}

// SetCursor puts a resource's cursor where an operator wants it, up or down; "" = as if nothing had been delivered yet. What waits is judged
// anew. Errors: ErrUnknownSource, ErrNoVersions, ErrResource, ordering.ErrVersion, or the journal's.
func (r *Recovery) SetCursor(ctx context.Context, source, resource, version string) (ResourceStatus, error) {
	s := r.Source(source)
	if s == nil {
		return ResourceStatus{}, ErrUnknownSource
	}
	p := s.cfg.Load().policy
	if !p.Versions() {
		return ResourceStatus{}, ErrNoVersions
	}
	if version != "" && !possible(resource) { // one that is there already can be forgotten
		return ResourceStatus{}, ErrResource
	}
	if version != "" {
		if _, err := p.Version(version); err != nil {
			return ResourceStatus{}, err
		}
	}
	st := event.ResourceState{ResourceKey: event.ResourceKey{Source: source, Resource: resource}, Version: version, UpdatedAt: time.Now()}
	if err := s.setCursor(ctx, st); err != nil {
		return ResourceStatus{}, err
	}
	return r.Resource(ctx, source, resource)
}

// possible says whether an event can have this resource: a text as selector bounds it, or several that are joined, each percent-encoded.
func possible(resource string) bool {
	if resource == "" || !utf8.ValidString(resource) || strings.ContainsFunc(resource, unicode.IsControl) {
		return false
	}
	bound := selector.MaxText
	if strings.Contains(resource, ":") {
		bound *= 3
	}
	for part := range strings.SplitSeq(resource, ":") {
		if len(part) > bound {
			return false
		}
	}
	return true
}

func (s *Source) setCursor(ctx context.Context, st event.ResourceState) error {
	s.cursors.Lock()
	defer s.cursors.Unlock()
	if err := s.r.journal.SetCursor(ctx, st, journal.Synced); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[st.Resource]; l != nil {
		l.SetCursor(st.Version) // by the order there is now: a reload may have come between
		s.wake(l, 0)
	}
	return nil
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
	ctx = context.WithoutCancel(ctx) // as in ReplayOne: its lane would go on waiting
	for range 8 {
		rec, _, err := r.journal.Get(ctx, id, false)
		if err != nil && !isRemnant(&rec, err) {
			return rec, err
		}
		undecided := rec.State == event.Pending && rec.Reason == event.WaitingForDecision
		if !rec.DeadLetter() && !undecided {
			return rec, ErrNotDeadLetter
		}
		now := time.Now()
		rec.State, rec.Reason, rec.SettledAt, rec.NextAt = event.Failed, why, now, time.Time{}
		rec.Resolution = &event.Resolution{By: actor, At: now, Reason: reason}
		if done, err := r.commitSettled(ctx, &rec, undecided); done || err != nil {
			return rec, err
		}
	}
	return event.Record{}, ErrBusy
}

// commitSettled writes a decision; false: the event changed meanwhile. What waited in its lane for the event waits no longer.
func (r *Recovery) commitSettled(ctx context.Context, rec *event.Record, undecided bool) (bool, error) {
	t := journal.Transition{Record: *rec}
	s := r.known(rec.Source)
	if undecided && s != nil && s.arrives.Load() {
		return false, ErrBusy
	}
	if undecided && s != nil {
		s.cursors.Lock() // the attempt that left it undecided has landed, and no other moves the cursor meanwhile
		defer s.cursors.Unlock()
		t.Cursor = s.aside(rec)
	}
	out, err := r.journal.Commit(ctx, []journal.Transition{t}, journal.Synced)
	if err != nil || !out[0].Applied {
		return false, err
	}
	if *rec = out[0].Record; undecided && s != nil {
		s.unlist(rec, true)
	}
	return true, nil
}
