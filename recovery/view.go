package recovery

import (
	"context"
	"encoding/json"
	"sort"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// View completes a record with what is derived when it is read: an event that is due while the breaker of its upstream is open shows breaker_open.
func (r *Recovery) View(rec *event.Record) {
	if rec.State != event.Pending {
		return
	}
	due := rec.NextAt
	if !due.IsZero() {
		rec.NextAt = due.Add(r.shift()).UTC()
	}
	if rec.Reason != event.Queued && rec.Reason != event.Retrying {
		return
	}
	if s := r.Source(rec.Source); s != nil && !s.paused.Load() && s.cfg.Load().up.isOpen() && !due.After(r.steady()) {
		rec.Reason = event.BreakerOpen
	}
}

// SafeToRetry answers "can I safely send it again?" (SPEC §7); nil is an event that was never received.
func (r *Recovery) SafeToRetry(rec *event.Record) SafeToRetry {
	if rec == nil {
		return SafeToRetry{Verdict: "yes", Reason: "it was never received: send it"}
	}
	switch rec.State {
	case event.Pending:
		return pendingVerdict(rec.Reason)
	case event.Delivered, event.Replayed:
		return SafeToRetry{Verdict: "no_need", Reason: "it was delivered"}
	case event.Rejected:
		if rec.Reason == event.VersionJump {
			return SafeToRetry{Verdict: "wait", Reason: "it is quarantined: its version is too far ahead", Needs: "an operator's forced replay"}
		}
		return SafeToRetry{Verdict: "superseded", Reason: "a newer version went before it"} // delivered; or, in a window, sent and perhaps refused
	}
	switch {
	case rec.Reason == event.Resolved:
		return SafeToRetry{Verdict: "no_need", Reason: "it was resolved by an operator"}
	case r.superseded(context.Background(), rec):
		return SafeToRetry{Verdict: "superseded", Reason: "a newer version was delivered"}
	case rec.Unknown:
		return SafeToRetry{Verdict: "unsafe", Reason: "the outcome of an attempt is unknown: it may have taken effect", Needs: "an upstream that honours the idempotency key"}
	}
	return failedVerdict(rec.Reason)
}

// failedVerdict is for what failed without an effect: every attempt was answered, or never sent.
func failedVerdict(why event.Reason) SafeToRetry {
	const again = "; replay it, or let the sender send it again"
	reason := "it failed and had no effect" + again
	switch why {
	case event.Permanent:
		reason = "the upstream refused it for good, and it had no effect" + again
	case event.Exhausted:
		reason = "attempts or time ran out, and it had no effect" + again
	case event.Returned:
		reason = "the sender was told of the failure and may send it again; it had no effect"
	case event.Gap:
		reason = "a version before it never came, and it was not delivered" + again
	case event.Expired:
		reason = "it failed and had no effect; its payload is gone, so only the sender can send it again"
	case event.Corrupt:
		reason = "it was not delivered: its stored payload is damaged, so only the sender can send it again"
	case event.Discarded:
		reason = "an operator discarded it, and it had no effect; only a forced replay delivers it, a redelivery is answered as a duplicate"
	}
	return SafeToRetry{Verdict: "yes", Reason: reason}
}

func pendingVerdict(why event.Reason) SafeToRetry {
	switch why {
	case event.WaitingForDecision:
		return SafeToRetry{Verdict: "unsafe", Reason: "the outcome of an attempt is unknown: it may have taken effect", Needs: "a decision: replay with force, or resolve"}
	case event.Retrying:
		return SafeToRetry{Verdict: "wait", Reason: "a retry is scheduled"}
	case event.Held:
		return SafeToRetry{Verdict: "wait", Reason: "it waits for its turn"}
	case event.BreakerOpen:
		return SafeToRetry{Verdict: "wait", Reason: "the upstream is down; it is delivered when the upstream is back"}
	case event.Delivering:
		return SafeToRetry{Verdict: "wait", Reason: "an attempt is under way"}
	}
	return SafeToRetry{Verdict: "wait", Reason: "it is queued"}
}

// superseded says whether a newer version of the event's resource was delivered, or its own by another event where ties are rejected. Where
// order is only observed nothing is.
func (r *Recovery) superseded(ctx context.Context, rec *event.Record) bool {
	s := r.Source(rec.Source)
	if s == nil || rec.Resource == "" || rec.Version == "" {
		return false
	}
	p := s.cfg.Load().policy
	if !p.Versions() || !p.Applies(rec) || p.Observing() {
		return false
	}
	st, err := r.journal.Resources(ctx, []event.ResourceKey{{Source: rec.Source, Resource: rec.Resource}})
	if err != nil || st[0].Version == "" {
		return false
	}
	cursor, err := p.Version(st[0].Version)
	if err != nil {
		return false
	}
	v, err := p.Version(rec.Version)
	return err == nil && p.Late(v, cursor)
}

// Sources gives every source of Names with its queue, by name. Where the disk is full and the index waits for space, it is not known since when events are pending.
func (r *Recovery) Sources(ctx context.Context) ([]SourceStatus, error) {
	counts, err := r.journal.Counts(ctx)
	if err != nil {
		return nil, err
	}
	now, waits := r.journal.Stats(), ctx
	if now.Full {
		var cancel context.CancelFunc
		waits, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	var out []SourceStatus
	for _, name := range r.Names() {
		st, err := r.sourceStatus(waits, r.known(name), counts, now.LastRev)
		if err != nil && (ctx.Err() != nil || waits.Err() == nil) {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// sourceStatus is of one source. What was written after the revision asOf need not be in the index yet: to wait for it costs an fsync, and for each of many sources again.
func (r *Recovery) sourceStatus(ctx context.Context, s *Source, counts []journal.Count, asOf uint64) (SourceStatus, error) {
	c := s.cfg.Load()
	st := SourceStatus{Name: s.name, Path: c.Path, Provider: c.Provider, Mode: c.Delivery.Mode, Upstream: c.up.name, Paused: s.paused.Load(),
		Counts: map[event.State]int64{}, Held: s.held.Load()}
	for _, n := range counts {
		if n.Source == s.name {
			st.Counts[n.State] += n.N
			st.Reasons = append(st.Reasons, n)
		}
	}
	if st.Counts[event.Pending] == 0 {
		return st, nil
	}
	oldest, err := r.journal.List(ctx, journal.Query{Source: s.name, States: []event.State{event.Pending}, Asc: true, Limit: 1, AsOf: asOf})
	if err != nil {
		return st, err
	}
	if len(oldest.Records) > 0 {
		st.OldestPendingAt = oldest.Records[0].ReceivedAt
	}
	return st, nil
}

// Upstreams gives every upstream with its breaker, by name: those of the configuration, and others as long as something waits for them.
func (r *Recovery) Upstreams() []UpstreamStatus {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []UpstreamStatus
	for _, u := range r.upstreams {
		if u.named || u.wanted() {
			out = append(out, u.status())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// UpstreamOf names the upstream of a source; "" for one that is none.
func (r *Recovery) UpstreamOf(source string) string {
	if s := r.known(source); s != nil {
		return s.cfg.Load().up.name
	}
	return ""
}

// SetPaused stops or resumes the deliveries of a source; events keep being accepted. It survives a restart.
func (r *Recovery) SetPaused(ctx context.Context, source string, paused bool) (SourceStatus, error) {
	s := r.Source(source)
	if s == nil {
		return SourceStatus{}, ErrUnknownSource
	}
	var value []byte
	if paused {
		value, _ = json.Marshal(event.FormatTime(time.Now()))
	}
	if err := s.setPaused(ctx, paused, value); err != nil {
		return SourceStatus{}, err
	}
	counts, err := r.journal.Counts(ctx)
	if err != nil {
		return SourceStatus{}, err
	}
	return r.sourceStatus(ctx, s, counts, 0)
}

// setPaused is one call at a time: what is in the journal last also holds now.
func (s *Source) setPaused(ctx context.Context, paused bool, value []byte) error {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	if err := s.r.journal.MetaPut(ctx, "paused/"+s.name, value, journal.Synced); err != nil {
		return err
	}
	s.paused.Store(paused)
	if paused {
		s.letGo()
	}
	s.cfg.Load().up.poke()
	return nil
}

// Resource says how far the consumer has come with one resource. ErrUnknownSource; a resource that was never seen has no state and nothing waits.
func (r *Recovery) Resource(ctx context.Context, source, resource string) (ResourceStatus, error) {
	s := r.Source(source)
	if s == nil {
		return ResourceStatus{}, ErrUnknownSource
	}
	st, err := r.journal.Resources(ctx, []event.ResourceKey{{Source: source, Resource: resource}})
	if err != nil {
		return ResourceStatus{}, err
	}
	out := ResourceStatus{State: st[0], Known: !st[0].UpdatedAt.IsZero()}
	out.State.ResourceKey = event.ResourceKey{Source: source, Resource: resource}
	page, err := r.journal.List(ctx, journal.Query{Source: source, Resource: resource, States: []event.State{event.Pending}, Asc: true, Limit: 500})
	if err != nil {
		return out, err
	}
	for i := range page.Records {
		out.Pending = append(out.Pending, page.Records[i].ID)
	}
	if !out.Known {
		if err := r.lastDelivered(ctx, &out); err != nil {
			return out, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[resource]
	if l == nil {
		return out, nil
	}
	out.Missing = l.Missing(1000)
	for i, e := range l.Entries() {
		if i < 1000 && !e.Retry {
			h := HeldEvent{ID: e.ID, EventID: e.EventID, Version: e.Text}
			if p := s.cfg.Load().policy.Policy; p == "in_sequence" || p == "window" {
				h.ReleaseAt = time.Unix(0, e.Release).Add(s.r.shift()) // in the others nothing waits for a time
			}
			out.Held = append(out.Held, h)
		}
	}
	return out, nil
}

// lastDelivered fills in how far the consumer has come with a resource that no policy keeps a cursor of: the event received last of those
// that were delivered.
func (r *Recovery) lastDelivered(ctx context.Context, out *ResourceStatus) error {
	q := journal.Query{Source: out.State.Source, Resource: out.State.Resource, Limit: 1}
	seen, err := r.journal.List(ctx, q)
	if err != nil || len(seen.Records) == 0 {
		return err
	}
	out.Known = true
	q.States = []event.State{event.Delivered, event.Replayed}
	done, err := r.journal.List(ctx, q)
	if err != nil || len(done.Records) == 0 {
		return err
	}
	rec := &done.Records[0]
	out.State.Version, out.State.EventID, out.State.UpdatedAt = rec.Version, rec.EventID, rec.DeliveredAt
	return nil
}

// OldestGap is since when the gap that has been open longest in a source has been open; zero if there is none.
func (r *Recovery) OldestGap(source string) time.Time {
	s := r.Source(source)
	if s == nil {
		return time.Time{}
	}
	p := s.cfg.Load().policy
	if p.Policy != "in_sequence" {
		return time.Time{} // the other policies know of no gaps
	}
	wait := p.MaxWait
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := time.Time{}
	for _, l := range s.lanes {
		if len(l.Missing(1)) == 0 {
			continue
		}
		for _, e := range l.Entries() {
			if e.Retry {
				continue
			}
			if since := time.Unix(0, e.Release).Add(s.r.shift() - wait); oldest.IsZero() || since.Before(oldest) {
				oldest = since
			}
		}
	}
	return oldest
}
