package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
)

// flight is one attempt: the event, what is sent, the slot it uses and the lane it holds.
type flight struct {
	src     *Source
	cfg     *compiled
	rec     event.Record // with the attempt counted and the state delivering
	payload *event.Payload
	slot    slot
	client  *forward.Client
	lane    *lane            // nil = none
	entry   *ordering.Entry  // nil = none
	sender  *sender          // nil = nobody waits
	waiting bool             // a proxy sender waits and will be told of a failure
	watched *ordering.Policy // by which the attempt moves the cursor beside the lanes; nil = it does not. Of holdCursor

	// Room for what calls of other rooms take by reference, so that an attempt is one allocation.
	request forward.Call
	wire    forward.Exchange // of request
	head    [704]byte        // of request.Extra
	tried   event.Attempt
	commit  [1]journal.Transition
	kept    event.Payload // of keep
	room    []byte        // … and its bytes; stays with the flight when it is used again
}

// keepRoom bounds in bytes the room that stays with a flight.
const keepRoom = 64 << 10

// keep copies the payload, whose memory the request takes back.
func (f *flight) keep(p *event.Payload) {
	f.room = slices.Grow(f.room[:0], len(p.Target)+len(p.Host)+len(p.Head)+len(p.Body))
	put := func(b []byte) []byte {
		from := len(f.room)
		f.room = append(f.room, b...)
		return f.room[from:len(f.room):len(f.room)]
	}
	f.kept = *p
	f.kept.Target, f.kept.Host, f.kept.Head, f.kept.Body = put(p.Target), put(p.Host), put(p.Head), put(p.Body)
	f.payload = &f.kept
}

// prepare counts the next attempt in the record: it is written before the first byte is sent, so that a crash leaves it unknown.
func (f *flight) prepare(now time.Time) {
	rec := &f.rec
	rec.Attempts++
	if !f.slot.probe {
		rec.Charged++
	}
	if rec.FirstTryAt.IsZero() {
		rec.FirstTryAt, rec.OutageAtTry = f.src.r.steady(), f.cfg.downtime(now)
	}
	rec.State, rec.Reason = event.Pending, event.Delivering
	rec.LastAttemptAt, rec.LastTrigger = now, rec.NextTrigger
	rec.NextAt = time.Time{}
}

// flight gives an empty one; it goes back with put once nobody has it.
func (r *Recovery) flight() *flight {
	if f, _ := r.flights.Get().(*flight); f != nil {
		return f
	}
	return new(flight)
}

func (r *Recovery) put(f *flight) {
	room := f.room[:0]
	if cap(room) > keepRoom {
		room = nil
	}
	*f = flight{room: room}
	r.flights.Put(f)
}

// run makes an attempt for an event that is in the journal.
func (j *errand) run() {
	s, f := j.src, j.flight
	if f == nil {
		f = s.r.flight()
		f.src, f.slot, f.lane, f.entry = s, j.slot, j.lane, j.entry
		f.cfg, f.client = s.aim()
		if j.entry != nil {
			f.sender, _ = j.entry.Owner.(*sender)
		}
	}
	if j.flight != nil || f.begin(j) {
		f.wire.Begin(s.r.ctx, f.client, f.call())
		f.wire.Wait(time.Time{})
		f.finish(new(forward.Result))
	}
	s.r.put(f)
}

// begin reads the event and records that its attempt is under way. False: there is none to be made; slot and lane are free then.
func (f *flight) begin(j *errand) bool {
	s := f.src
	var err error
	f.rec, f.payload, err = s.r.journal.Get(s.r.ctx, j.id, true)
	switch {
	case errors.Is(err, journal.ErrNoPayload), errors.Is(err, journal.ErrCorrupt):
		f.slot.cancel()
		f.unreadable(err)
		return false
	case err != nil, f.rec.State != event.Pending, f.rec.Reason == event.WaitingForDecision:
		f.slot.cancel()
		f.leaveLane()
		if err != nil {
			s.r.log.Error("pending event not read", "id", j.id.String(), "error", err)
		}
		return false
	}
	if f.lane == nil && laned(f.cfg.policy, &f.rec) { // a reload has brought an order meanwhile
		f.slot.cancel()
		s.requeue(&f.rec, nil)
		return false
	}
	if f.rec.Charged >= f.cfg.Delivery.Retry.MaxAttempts { // a crash cut off the last one
		f.slot.cancel()
		f.giveUp(event.Exhausted, nil)
		return false
	}
	if f.lane != nil {
		f.rec.Gap = j.gap // as it is now: what was missing at an earlier attempt may have come
	}
	f.prepare(time.Now())
	// An event that was acknowledged must not come again unmarked after a power cut: that it is being sent is on disk before the first byte. Where
	// the sender still waits nothing was promised yet, and whoever lets it go syncs first; one that comes again after it failed may have been
	// acknowledged before.
	durable := journal.Synced
	if f.sender.listening() && f.rec.LastTrigger != event.TriggerRedelivery {
		durable = journal.Written
	}
	f.tried = *f.begun()
	f.commit[0] = journal.Transition{Record: f.rec, Attempt: &f.tried}
	out, err := s.r.journal.Commit(s.r.ctx, f.commit[:], durable)
	if err != nil || !out[0].Applied {
		f.slot.cancel()
		if err == nil && out[0].Record.State == event.Pending { // somebody changed it meanwhile: look again
			f.stepBack(&out[0].Record)
		} else {
			f.leaveLane()
		}
		return false
	}
	f.rec = out[0].Record
	f.waiting = f.cfg.Delivery.Mode == "proxy" && f.sender.stay()
	return true
}

// stepBack puts the event back where it waited, and nothing goes before it meanwhile.
func (f *flight) stepBack(rec *event.Record) {
	s := f.src
	s.mu.Lock()
	if f.lane == nil || !laned(s.cfg.Load().policy, rec) { // a reload has taken the order away
		s.mu.Unlock()
		f.leaveLane()
		s.requeue(rec, f.sender)
		return
	}
	f.lane.Gone(f.entry)
	if !f.lane.Has(rec.ID) { // else whoever changed it has put it there
		f.lane.Add(f.entry)
	}
	s.wake(f.lane, 0)
	s.mu.Unlock()
}

// aim gives the configuration and the client of an attempt that begins now. They belong together: a source that a reload takes out is
// given its own upstream before the name of the old one gets another address (see keepUpstream), and so never meets that.
func (s *Source) aim() (*compiled, *forward.Client) {
	for {
		c := s.cfg.Load()
		c.up.mu.Lock()
		client := c.up.client
		c.up.mu.Unlock()
		if s.cfg.Load() == c {
			return c, client
		}
	}
}

// unreadable settles a pending event whose payload cannot be read.
func (f *flight) unreadable(cause error) {
	why := event.Expired
	if errors.Is(cause, journal.ErrCorrupt) {
		why = event.Corrupt
		f.src.r.log.Error("stored payload is damaged; the event is not forwarded", "alarm", true, "id", f.rec.ID.String(), "source", f.rec.Source, "event_id", f.rec.EventID)
	}
	f.giveUp(why, cause)
}

// giveUp settles a pending event without another attempt.
func (f *flight) giveUp(why event.Reason, cause error) {
	defer f.holdCursor()()
	rec, _ := f.src.r.change(f.rec.ID, journal.Synced, func(rec *event.Record) (bool, *event.ResourceState) {
		if rec.State != event.Pending {
			return false, nil
		}
		f.src.end(rec, event.Failed, why)
		if cause != nil {
			rec.LastErrKind, rec.LastErrText = forward.KindCorrupt, cause.Error()
		}
		return true, f.cursor(rec)
	})
	f.rec = rec
	f.releaseLane(true)
	f.tell(Handled{Outcome: outcomeOf(event.Failed, why), Fate: rec.Fate()})
}

// begun is the attempt as it stands while it runs.
func (f *flight) begun() *event.Attempt {
	return &event.Attempt{N: f.rec.Attempts, Trigger: f.rec.LastTrigger, StartedAt: f.rec.LastAttemptAt, Upstream: f.cfg.up.name}
}

// call is the request for the upstream: what came in, and what SPEC §3 adds.
func (f *flight) call() *forward.Call {
	p, rec := f.payload, &f.rec
	c := &f.request
	*c = forward.Call{Method: p.Method, Path: p.Target, Head: p.Head, Body: p.Body}
	if path := f.cfg.Delivery.Path; path != "" {
		c.Path = []byte(path)
		for i, b := range p.Target {
			if b == '?' {
				c.Path = append(c.Path, p.Target[i:]...)
				break
			}
		}
	}
	if f.cfg.Delivery.Resign == "auto" && f.cfg.Resign != nil && f.cfg.Tolerance > 0 && !rec.SignedAt.IsZero() && rec.Verified {
		if now := time.Now(); now.Sub(rec.SignedAt) > f.cfg.Tolerance {
			if head, ok := f.cfg.Resign(p.Head, p, now); ok {
				c.Head = head
			}
		}
	}
	c.Extra = f.extra(f.head[:0])
	return c
}

func (f *flight) extra(h event.Head) event.Head {
	p, rec := f.payload, &f.rec
	eventID := rec.EventID
	if !f.cfg.JoinedID { // the parts of a joined one are encoded already
		eventID = event.EscapeID(eventID)
	}
	h = append(rec.ID.AppendText(append(h, "Hooktender-Id: "...)), crlf...)
	h = h.AppendString("Hooktender-Event-Id", eventID)
	h = h.AppendString("Hooktender-Source", rec.Source)
	h = append(strconv.AppendInt(append(h, "Hooktender-Attempt: "...), int64(rec.Attempts), 10), crlf...)
	h = append(event.AppendTime(append(h, "Hooktender-Received-At: "...), rec.ReceivedAt), crlf...)
	if rec.Verified {
		h = append(append(append(append(append(h, "Hooktender-Verified: "...), rec.Provider...), ";binds="...), f.cfg.Binds...), crlf...)
	}
	given := givenBy(p.Head)
	if !given.idempotencyKey {
		h = append(append(append(append(append(h, "Idempotency-Key: "...), rec.Source...), ':'), eventID...), crlf...)
	}
	if !given.requestID {
		h = append(rec.ID.AppendText(append(h, "X-Request-Id: "...)), crlf...)
	}
	if !given.traceparent {
		h = append(appendTraceparent(append(h, "Traceparent: "...), rec), crlf...)
	}
	h = h.AppendString("X-Forwarded-For", p.Peer)
	proto := "http"
	if p.TLS {
		proto = "https"
	}
	h = h.AppendString("X-Forwarded-Proto", proto)
	if len(p.Host) > 0 {
		h = h.Append("X-Forwarded-Host", p.Host)
	}
	if rec.Unknown {
		h = h.AppendString("Hooktender-Redelivered", "possible")
	}
	if rec.LastTrigger == event.TriggerReplay {
		h = h.AppendString("Hooktender-Replay", rec.ReplayID)
	}
	if rec.Gap != "" {
		h = h.AppendString("Hooktender-Gap", rec.Gap)
	}
	if rec.OrderNote != "" && f.cfg.policy.Observing() {
		h = h.AppendString("Hooktender-Order", rec.OrderNote)
	}
	return h
}

const crlf = "\r\n"

// given says which of the lines that the gateway would add the sender has set. A traceparent that is malformed or given twice is not, nor is what
// its own Connection line takes out.
type given struct{ idempotencyKey, requestID, traceparent bool }

func givenBy(head event.Head) (g given) {
	traces := 0
	for rest := head; len(rest) > 0; {
		line := rest[:rest.FirstLine()]
		rest = rest[len(line):]
		if value, ok := event.ValueOf(line, "Traceparent"); ok {
			traces++
			g.traceparent = traces == 1 && isTraceparent(value)
		} else if value, ok := event.ValueOf(line, "Idempotency-Key"); ok {
			g.idempotencyKey = g.idempotencyKey || len(value) > 0
		} else if value, ok := event.ValueOf(line, "X-Request-Id"); ok {
			g.requestID = g.requestID || len(value) > 0 && !forward.Nominates(head, "X-Request-Id")
		}
	}
	return g
}

// isTraceparent checks the value of a traceparent (W3C Trace Context §3.2): version, trace, parent and flags in lower-case hex; a
// version after 00 may go on after these.
func isTraceparent(v []byte) bool {
	const size = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(v) < size || len(v) > size && (string(v[:2]) == "00" || v[size] != '-') || string(v[:2]) == "ff" {
		return false
	}
	for i, c := range v[:size] {
		if dash := i == 2 || i == 35 || i == 52; dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(bytes.Trim(v[3:35], "0")) > 0 && len(bytes.Trim(v[36:52], "0")) > 0
}

// appendTraceparent begins a trace (W3C Trace Context): the event's id is the trace, the attempt the span.
func appendTraceparent(b []byte, rec *event.Record) []byte {
	var span [8]byte
	binary.BigEndian.PutUint64(span[:], uint64(rec.Seq)<<16|uint64(rec.Attempts&0xffff)|1<<63)
	b = hex.AppendEncode(append(b, "00-"...), rec.ID[:])
	b = hex.AppendEncode(append(b, '-'), span[:])
	return append(b, "-01"...)
}

// finish takes the result of the attempt into res: slot, record, lane, schedule, and the sender who waits.
func (f *flight) finish(res *forward.Result) Handled {
	r, now := f.src.r, time.Now()
	*res = f.wire.Result()
	isOpen := f.slot.done(res.Outcome, res.Status, now)
	at := f.attempt(res)
	rec := &f.commit[0].Record
	*rec = f.rec
	f.next(rec, res, isOpen, now)
	defer f.holdCursor()()
	f.commit[0].Attempt, f.commit[0].Cursor = at, f.cursor(rec)
	d := journal.Synced
	if rec.Reason == event.Returned {
		d = journal.Written // the sender is told of a failure: nothing is promised
	}
	out, err := r.journal.Commit(context.Background(), f.commit[:], d) // also when the hard stop broke the attempt off
	if err != nil {
		return f.tell(Handled{Outcome: Unavailable, Fate: f.rec.Fate()})
	}
	if !out[0].Applied {
		// An operator settled it while the attempt ran; the attempt is kept, the decision stands.
		f.keepAttempt(at)
		f.leaveLane()
		return f.tell(Handled{Outcome: Accepted, Fate: out[0].Record.Fate()})
	}
	f.rec = out[0].Record
	r.logAttempt(&f.rec, at)
	if tell := f.cfg.up.measure; tell != nil {
		tell(at.Outcome, at.Duration)
	}
	f.land(&f.rec)
	return f.tell(Handled{Outcome: handledAs(&f.rec), Fate: f.rec.Fate(), Result: res})
}

// keepAttempt stores the attempt beside a record that somebody else changed.
func (f *flight) keepAttempt(at *event.Attempt) {
	for range 8 {
		rec, _, err := f.src.r.journal.Get(context.Background(), f.rec.ID, false)
		if err != nil {
			return
		}
		out, err := f.src.r.journal.Commit(context.Background(), []journal.Transition{{Record: rec, Attempt: at}}, journal.Written)
		if err != nil || out[0].Applied {
			return
		}
	}
}

func (f *flight) attempt(res *forward.Result) *event.Attempt {
	at := &f.tried
	*at = *f.begun()
	at.Duration, at.Outcome, at.Status = res.Duration, res.Outcome, res.Status
	at.ErrKind, at.ErrText, at.Excerpt = res.ErrKind, res.ErrText, res.Excerpt()
	return at
}

// next makes rec the record after the attempt: SPEC §6 in one place.
func (f *flight) next(rec *event.Record, res *forward.Result, isOpen bool, now time.Time) {
	s := f.src
	rec.LastStatus, rec.LastErrKind, rec.LastErrText = res.Status, res.ErrKind, res.ErrText
	if res.Outcome == event.OutcomeUnknown {
		rec.Unknown = true
	}
	if res.Outcome == event.OutcomeNotSent && (isOpen || s.r.leaving.Load()) && !f.slot.probe && rec.Charged > 0 {
		rec.Charged-- // nothing was sent, and the upstream is down or goes as we do: the attempt does not count
	}
	switch {
	case res.Outcome == event.OutcomeDelivered:
		st := event.Delivered
		if rec.LastTrigger == event.TriggerReplay {
			st = event.Replayed
		}
		if rec.DeliveredAt.IsZero() || st == event.Replayed {
			rec.DeliveredAt = now
		}
		s.end(rec, st, event.NoReason)
	case res.Outcome == event.OutcomePermanent, res.HasRetry && res.RetryAfter < 0:
		s.end(rec, event.Failed, event.Permanent)
	case res.Outcome == event.OutcomeUnknown && f.cfg.Delivery.OnUnknown == "hold":
		rec.Reason = event.WaitingForDecision
	case f.waiting:
		s.end(rec, event.Failed, event.Returned)
	default:
		f.backOff(rec, res, now)
	}
}

// backOff schedules the next attempt, or ends the event where attempts or time have run out.
func (f *flight) backOff(rec *event.Record, res *forward.Result, now time.Time) {
	c := &f.cfg.Delivery.Retry
	if rec.Charged >= c.MaxAttempts {
		f.src.end(rec, event.Failed, event.Exhausted)
		return
	}
	wait := c.delay(max(0, rec.Charged-1), f.src.r.random)
	outage := max(0, f.cfg.downtime(now)-rec.OutageAtTry)
	steady := f.src.r.steady()
	left := c.MaxElapsed - (steady.Sub(rec.FirstTryAt) - outage)
	isDown := f.cfg.up.isOpen()
	if res.HasRetry {
		asked := res.RetryAfter
		if isDown { // how much of it will count is not known yet: it is decided when the time would be up
			asked = min(asked, left)
		}
		wait = max(wait, asked)
	}
	if wait > left && !isDown {
		f.src.end(rec, event.Failed, event.Exhausted)
		return
	}
	rec.Reason, rec.NextAt = event.Retrying, steady.Add(wait)
	if rec.NextTrigger != event.TriggerReplay {
		rec.NextTrigger = event.TriggerRetry
	}
}

// holdCursor keeps others from writing the cursor until the function that it gives is called: an operator, and, where no lane does, the other attempts at the resource. It
// decides which order the attempt ends under.
func (f *flight) holdCursor() (release func()) {
	for {
		f.watched = f.observedBy()
		release = f.lockCursor()
		if f.watched == f.observedBy() {
			return release
		}
		release() // a reload came in between
	}
}

func (f *flight) lockCursor() func() {
	s := f.src
	switch {
	case f.watched != nil && f.watched.Observing():
		s.cursors.RLock()
		m := &s.watched[maphash.String(watchedSeed, f.rec.Resource)%uint64(len(s.watched))]
		m.Lock()
		return func() { m.Unlock(); s.cursors.RUnlock() }
	case f.watched != nil: // the others may be in a lane by now
		s.cursors.Lock()
		return s.cursors.Unlock
	case f.lane != nil:
		s.cursors.RLock()
		return s.cursors.RUnlock
	}
	return func() {}
}

// observedBy is the policy whose cursor the attempt moves beside the lanes: where the event's order is only observed, and where a reload has brought one since the attempt
// began. That holds for what is left in a lane, too, while order is observed: what came after the reload passes it there, and moves the cursor.
func (f *flight) observedBy() *ordering.Policy {
	p := f.src.cfg.Load().policy
	if (f.lane == nil || p.Observing()) && f.rec.Resource != "" && p.Applies(&f.rec) && p.Versions() {
		return p
	}
	return nil
}

var watchedSeed = maphash.MakeSeed()

// delivered says how the attempt ended; the record does not: a forced replay that failed falls back to what the event was.
func (f *flight) delivered() bool { return f.tried.Outcome == event.OutcomeDelivered }

// cursor is what the journal shall remember of the resource after this attempt; nil = no change.
func (f *flight) cursor(rec *event.Record) *event.ResourceState {
	if f.watched != nil || f.lane == nil {
		return f.observedCursor(f.watched, rec)
	}
	how := ordering.WasGivenUp
	switch {
	case f.delivered():
		how = ordering.WasDelivered
	case rec.State == event.Pending || rec.Reason == event.Returned:
		return nil
	}
	f.src.mu.Lock()
	was := f.lane.Cursor()
	version, floor, changed := f.lane.After(f.entry, how)
	f.src.mu.Unlock()
	if !changed {
		return nil
	}
	return f.src.state(rec, version, floor, version != was)
}

// state is a resource's state with another cursor or, if that has not moved, with another floor.
func (s *Source) state(rec *event.Record, version, floor string, moved bool) *event.ResourceState {
	st := &event.ResourceState{ResourceKey: event.ResourceKey{Source: rec.Source, Resource: rec.Resource}, Version: version, Floor: floor, UpdatedAt: time.Now()}
	if moved {
		st.EventID = rec.EventID
	} else if old, err := s.r.journal.Resources(context.Background(), []event.ResourceKey{st.ResourceKey}); err == nil && !old[0].UpdatedAt.IsZero() {
		st.EventID, st.UpdatedAt = old[0].EventID, old[0].UpdatedAt
	}
	return st
}

// observedCursor moves the cursor of a resource beside its lane.
func (f *flight) observedCursor(p *ordering.Policy, rec *event.Record) *event.ResourceState {
	if p == nil || !f.delivered() {
		return nil
	}
	v, err := p.Version(rec.Version)
	if err != nil {
		return nil
	}
	st, err := f.src.r.journal.Resources(context.Background(), []event.ResourceKey{{Source: rec.Source, Resource: rec.Resource}})
	if err != nil {
		return nil
	}
	l := ordering.NewLane(p, st[0])
	version, floor, changed := l.After(&ordering.Entry{Version: v, Text: rec.Version}, ordering.WasDelivered)
	if !changed {
		return nil
	}
	return f.src.state(rec, version, floor, version != st[0].Version)
}

// passed tells the lane that there may be by now of a delivery without it.
func (s *Source) passed(p *ordering.Policy, st *event.ResourceState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[st.Resource]; l != nil {
		v, _ := p.Version(st.Version)
		l.Delivered(&ordering.Entry{Version: v, Text: st.Version})
		s.wake(l, 0)
	}
}

// land moves lane and schedule on after the commit.
func (f *flight) land(rec *event.Record) {
	s := f.src
	if f.lane == nil {
		if st := f.commit[0].Cursor; st != nil {
			s.passed(f.watched, st)
		}
		if rec.State == event.Pending {
			s.requeue(rec, nil) // into a lane, if a reload has brought an order meanwhile
		}
		return
	}
	switch {
	case rec.State == event.Pending:
		due := nanos(rec.NextAt)
		if rec.Reason == event.WaitingForDecision {
			due = ordering.Never
		}
		s.mu.Lock()
		if !laned(s.cfg.Load().policy, rec) { // a reload has taken the order away
			s.mu.Unlock()
			f.leaveLane()
			s.requeue(rec, nil)
			return
		}
		f.entry.Owner, f.entry.Forced, f.entry.Unknown = nil, rec.Forced, rec.Unknown
		f.lane.Back(f.entry, due)
		s.wake(f.lane, 0)
		s.mu.Unlock()
	case rec.State == event.Failed && rec.Reason == event.Returned:
		s.mu.Lock()
		f.lane.Returned(f.entry)
		s.wake(f.lane, 0)
		s.mu.Unlock()
	default:
		f.releaseLane(!f.delivered())
	}
}

// releaseLane tells the lane that its event is through, or given up.
func (f *flight) releaseLane(givenUp bool) {
	if f.lane == nil {
		return
	}
	s := f.src
	var lost []*ordering.Entry
	s.mu.Lock()
	if givenUp {
		lost = f.lane.GivenUp(f.entry)
	} else {
		f.lane.Delivered(f.entry)
	}
	s.wake(f.lane, 0)
	s.mu.Unlock()
	s.settleAll(lost, event.Failed, event.Gap)
}

// leaveLane tells the lane to go on as if the event had not come.
func (f *flight) leaveLane() {
	if f.lane == nil {
		return
	}
	f.src.mu.Lock()
	f.lane.Gone(f.entry)
	f.src.wake(f.lane, 0)
	f.src.mu.Unlock()
}

// tell answers the sender who waits, if there is one.
func (f *flight) tell(h Handled) Handled {
	if f.sender != nil {
		f.sender.answer(h)
	}
	return h
}
