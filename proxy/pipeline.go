// Package proxy is the public port: the strict HTTP server, and the pipeline that every request takes,
// limits → route → handshake → verify → identify → dedup → order → deliver → answer, each once and in this order.
package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// Pipeline answers requests (it is the server's Handler). Its table of sources is swapped whole on a reload. Safe for concurrent use.
type Pipeline struct {
	table    atomic.Pointer[table]
	index    *dedup.Index
	journal  journal.Journal
	recovery *recovery.Recovery
	log      *slog.Logger
	draining atomic.Bool
	nowhere  func() // see OnNowhere
	visits   sync.Pool
}

type table struct {
	byPath   map[string]*Source
	patterns []*Source // with {name} segments; the first that fits is meant
	unknown  Limits    // what an unknown path gets
}

// find gives the source of a raw path, and the named parts of the path.
func (t *table) find(path []byte) (*Source, []selector.Param) {
	if s := t.byPath[string(path)]; s != nil {
		return s, nil
	}
	for _, s := range t.patterns {
		if params, ok := s.match(path); ok {
			return s, params
		}
	}
	return nil, nil
}

// NewPipeline makes a pipeline without sources.
func NewPipeline(j journal.Journal, x *dedup.Index, r *recovery.Recovery, log *slog.Logger) *Pipeline {
	p := &Pipeline{index: x, journal: j, recovery: r, log: log}
	p.table.Store(&table{byPath: map[string]*Source{}})
	return p
}

// SetSources swaps the table of sources. Requests under way keep the one they began with.
func (p *Pipeline) SetSources(sources []*Source) {
	t := &table{byPath: make(map[string]*Source, len(sources)), unknown: Limits{Body: 64 << 10, ReadTimeout: 10 * time.Second}}
	for _, s := range sources {
		if len(s.segments) > 0 {
			t.patterns = append(t.patterns, s)
		} else {
			t.byPath[s.Path] = s
		}
	}
	sort.Slice(t.patterns, func(i, j int) bool { return t.patterns[i].before(t.patterns[j]) })
	p.table.Store(t)
}

// OnNowhere is told of each request for a path that no source has, for metrics. Set it before the first request.
func (p *Pipeline) OnNowhere(f func()) { p.nowhere = f }

// SourceAt gives the name of the source that a raw request target belongs to; "" = none.
func (p *Pipeline) SourceAt(target []byte) string {
	path, _, _ := bytes.Cut(target, []byte("?"))
	if s, _ := p.table.Load().find(path); s != nil {
		return s.Name
	}
	return ""
}

// Drain makes every further request a 503.
func (p *Pipeline) Drain() { p.draining.Store(true) }

// Draining says whether Drain was called.
func (p *Pipeline) Draining() bool { return p.draining.Load() }

// Route gives the limits of a path.
func (p *Pipeline) Route(path []byte) Limits {
	t := p.table.Load()
	if s, _ := t.find(path); s != nil {
		return Limits{Body: s.Limits.Body, ReadTimeout: s.Limits.ReadTimeout}
	}
	return t.unknown
}

// visit is one request on its way.
type visit struct {
	src     *Source
	req     *event.Request
	params  []selector.Param
	began   time.Time
	keys    []event.Key
	aliases []event.Key
	mac     []byte   // of the signature that was verified
	others  [][]byte // of further ones
	payload event.Payload
	known   bool                // the journal has been asked about its keys
	astray  bool                // its id is not that of the event that it is: who waits for the id is told nothing
	other   bool                // a redelivery whose body is not the one that failed
	sub     recovery.Submission // with the record
	keybuf  [4]event.Key
	aliasb  [2]event.Key
}

// Handle takes one request through all rooms.
func (p *Pipeline) Handle(ctx context.Context, req *event.Request, a *Answer) {
	v, _ := p.visits.Get().(*visit)
	if v == nil {
		v = &visit{}
	}
	v.req, v.began = req, time.Now()
	r, done := p.limits(v)
	if !done {
		r, done = p.handshake(v)
	}
	if !done {
		r, done = p.verify(v)
	}
	if !done {
		r, done = p.identify(v)
	}
	if !done {
		r = p.once(ctx, v)
	}
	p.answer(v, r, a)
	*v = visit{}
	p.visits.Put(v) // not after a panic: then somebody may still have it
}

// limits finds the source and refuses what may not come in.
func (p *Pipeline) limits(v *visit) (reply, bool) {
	v.src, v.params = p.table.Load().find(v.req.Path())
	switch s := v.src; {
	case s == nil:
		return reply{status: 404}, true
	case !s.allows(v.req.Peer):
		return reply{status: 403, outcome: "forbidden"}, true
	case !s.takes(v.req.Method) && !s.challenged(v.req.Method):
		return reply{status: 405, allow: s.allow}, true
	case p.draining.Load() || p.journal.Err() != nil:
		return unavailable(0), true
	default:
		if wait, ok := s.rate.take(v.began); !ok {
			return reply{status: 429, retryAfter: wait}, true
		}
	}
	return reply{}, false
}

// handshake answers a sender's challenge, where its preset knows one.
func (p *Pipeline) handshake(v *visit) (reply, bool) {
	if v.src.Handshake == nil {
		return reply{}, false
	}
	r, done := v.src.Handshake(v.req, v.began)
	if !done && !v.src.takes(v.req.Method) {
		return reply{status: 405, allow: v.src.allow}, true
	}
	if done && r.Status == 401 { // a challenge that is not its sender's is refused like an event that is not
		return reply{status: v.src.statuses.Rejected, outcome: "rejected"}, true
	}
	if done && r.Status == 503 {
		return unavailable(0), true
	}
	return reply{handshake: r}, done
}

// verify refuses what its sender did not sign. In observe mode it only notes it.
func (p *Pipeline) verify(v *visit) (reply, bool) {
	s := v.src
	if s.Verifier == nil {
		return reply{}, false
	}
	verdict := s.Verifier.Verify(v.req, v.began)
	if s.onVerify != nil {
		s.onVerify(time.Since(v.began))
	}
	switch {
	case verdict.OK:
		v.sub.Record.Verified, v.sub.Record.SignedAt = true, verdict.SignedAt
		v.sub.Record.Origin = s.binds == "origin"
		v.mac, v.others = verdict.MAC, verdict.Others
		return reply{}, false
	case s.Observe:
		p.log.Warn("verification failed, observed only", "source", s.Name, "check", verdict.Check.String())
		return reply{}, false
	case verdict.Check == verify.CheckKeys: // our own fault, perhaps, and then no reason to give up for its sender
		if left, ok := s.lines[verdict.Check].Take(v.began); ok {
			p.log.Warn("the sender's key cannot be had now", "source", s.Name, "left_out", left)
		}
		return unavailable(0), true
	}
	if left, ok := s.lines[verdict.Check].Take(v.began); ok {
		p.log.Info("rejected", "source", s.Name, "check", verdict.Check.String(), "peer", v.req.Peer.String(), "left_out", left)
	}
	return reply{status: s.statuses.Rejected, outcome: "rejected"}, true
}

// identify reads who the event is: id, type, resource, version.
func (p *Pipeline) identify(v *visit) (reply, bool) {
	s := v.src
	ids, err := s.Identity.Extract(v.req, v.params)
	v.sub.Record.Source, v.sub.Record.Provider, v.sub.Record.ReceivedAt = s.Name, s.Provider, v.began
	if err == nil {
		err = s.fill(&v.sub.Record, &ids)
	}
	if err != nil {
		left, ok := 0, v.sub.Record.Verified // of its sender's each one is told: nothing else is left of it
		if !ok {
			left, ok = s.lines[verify.CheckNone].Take(v.began)
		}
		if ok {
			p.log.Info("unidentified", "source", s.Name, "error", err, "left_out", left)
		}
		return reply{status: 422, outcome: "unidentified"}, true
	}
	kind := event.KeyEvent
	if s.Verifier != nil && !v.sub.Record.Verified {
		kind = event.KeyObserved
	}
	v.keybuf[0] = event.MakeKey(kind, ids.ID.AppendParts(append(make([]string, 0, 4), s.Name, v.sub.Record.Account))...)
	v.keys = v.keybuf[:1]
	if s.MACKey && len(v.mac) > 0 {
		for mac, more := v.mac, v.others; ; mac, more = more[0], more[1:] {
			v.keys = append(v.keys, s.macKey(mac, v.sub.Record.Type))
			if len(more) == 0 {
				break
			}
		}
	}
	v.sub.Record.BodyBytes, v.sub.Record.BodySHA256, v.sub.Record.HasPayload = len(v.req.Body), sha256.Sum256(v.req.Body), true
	alias := event.KeyAlias
	if kind == event.KeyObserved {
		alias = kind
	}
	if s.JoinedID || v.sub.Record.Account != "" || kind == event.KeyObserved { // its own key does not tell its id alone
		v.aliases = append(v.aliasb[:0], event.MakeKey(alias, s.Name, v.sub.Record.EventID))
	}
	if s.JoinedID {
		if id := v.sub.Record.SendersID(); id != "" {
			v.aliases = append(v.aliases, event.MakeKey(alias, s.Name, id))
		}
	}
	v.payload = event.Payload{Method: v.req.Method, Target: v.req.Target, Host: v.req.Host, Head: v.req.Head, Body: v.req.Body,
		Peer: v.req.Peer.String(), TLS: v.req.TLS}
	return reply{}, false
}

// once lets the first of several requests for one event through, and answers the others as it was answered. Where ids are only observed all of
// them go through, and the journal knows one of them by the id.
func (p *Pipeline) once(ctx context.Context, v *visit) reply {
	if v.src.Dedup.Mode == "observe" {
		return p.claimed(ctx, v)
	}
	for range 32 {
		mine, other := p.index.Claim(v.keys)
		if mine != nil {
			r := p.claimed(ctx, v)
			if mine.Awaited() && !v.astray {
				mine.Release(r.keep(&v.sub.Record))
			} else {
				mine.Release(nil)
			}
			return r
		}
		value, ok := other.Wait(ctx, v.src.patience())
		if !ok {
			return p.stillUnderWay(ctx, v)
		}
		if first, _ := value.(*kept); first != nil && !first.reply.differs() {
			return p.asTheFirst(v, first)
		}
	}
	return unavailable(time.Second).as("duplicate")
}

// stillUnderWay sends a duplicate away that has waited as long as it may.
func (p *Pipeline) stillUnderWay(ctx context.Context, v *visit) reply {
	r := unavailable(time.Second).as("duplicate")
	if f, known, err := p.index.Lookup(ctx, v.keys, &v.sub.Record.BodySHA256); err == nil && known {
		r.id = f.ID
	}
	return r
}

// claimed is dedup, order and deliver for a request that holds its keys. Where nothing has to be decided before the event is stored, the journal's own
// claim is the look-up.
func (p *Pipeline) claimed(ctx context.Context, v *visit) reply {
	found, known := p.index.Cached(v.keys, &v.sub.Record.BodySHA256, v.began)
	if !known && v.src.claimFirst(&v.sub.Record) {
		return p.deliver(ctx, v)
	}
	if !known {
		var err error
		if found, known, err = p.index.Lookup(ctx, v.keys, &v.sub.Record.BodySHA256); err != nil {
			return p.broken(v, err)
		}
	}
	v.known = true
	if known {
		if r, done := p.duplicate(ctx, v, found); done {
			return r
		}
	}
	return p.deliver(ctx, v)
}

// duplicate answers a known event; false: it goes on as a fresh attempt (its sender redelivers what failed), or ids are only observed.
func (p *Pipeline) duplicate(ctx context.Context, v *visit, f dedup.Found) (reply, bool) {
	s := v.src
	if s.Dedup.Mode == "observe" {
		p.log.Info("duplicate, observed only", "source", s.Name, "event_id", v.sub.Record.EventID)
		p.journal.Note(f.ID, 1, 0)
		v.keys, v.aliases = nil, nil
		return reply{}, false
	}
	conflict := f.Other && f.Key == 0
	v.astray = v.astray || f.Key > 0
	if conflict && s.Dedup.OnConflict == "reject" {
		p.conflict(v, f.ID)
		return reply{status: 409, outcome: "conflict", conflict: true, id: f.ID}, true
	}
	if f.State == event.Failed && f.Reason != event.Resolved && f.Reason != event.Discarded {
		old, _, err := p.journal.Get(ctx, f.ID, false)
		if err == nil {
			if f.Key > 0 {
				v.keys = v.keys[1:] // it came under an id that is not this event's
			}
			p.again(v, &old, conflict)
			return reply{}, false
		}
		if !errors.Is(err, journal.ErrNotFound) {
			return p.broken(v, err), true
		}
	}
	if conflict {
		p.conflict(v, f.ID)
	} else {
		p.journal.Note(f.ID, 1, 0)
	}
	if !f.Durable {
		if _, err := p.journal.Commit(ctx, nil, journal.Synced); err != nil {
			return p.broken(v, err), true
		}
		if f.Final() && !f.Other {
			p.index.Remember(v.keys[f.Key:f.Key+1], &f.Fate)
		}
	}
	return reply{status: s.statuses.Duplicate, outcome: "duplicate", own: &s.Own.Duplicate, conflict: conflict, id: f.ID}, true
}

// conflict counts and logs the same id with another body.
func (p *Pipeline) conflict(v *visit, id event.ID) {
	p.log.Warn("conflict: same id, other body", "source", v.src.Name, "id", id.String(), "event_id", v.sub.Record.EventID)
	p.journal.Note(id, 0, 1)
	if v.src.onConflict != nil {
		v.src.onConflict()
	}
}

// again makes the visit a redelivery of a failed event: the record goes on, with the bytes in hand.
func (p *Pipeline) again(v *visit, old *event.Record, conflict bool) {
	rec := &v.sub.Record
	fresh := *rec
	*rec = *old
	rec.Type, rec.Resource, rec.Version = fresh.Type, fresh.Resource, fresh.Version
	rec.Verified, rec.SignedAt, rec.Origin = fresh.Verified, fresh.SignedAt, fresh.Origin
	rec.BodyBytes, rec.BodySHA256, rec.HasPayload = fresh.BodyBytes, fresh.BodySHA256, true
	if v.other = conflict; conflict {
		p.conflict(v, old.ID)
	}
}

// deliver hands the event over and says what became of it.
func (p *Pipeline) deliver(ctx context.Context, v *visit) reply {
	v.sub.Again = !v.sub.Record.ID.IsZero()
	v.sub.Payload, v.sub.Keys, v.sub.Aliases = &v.payload, v.keys, v.aliases
	h, err := v.src.Delivery.Deliver(ctx, &v.sub)
	switch {
	case err != nil && !(errors.Is(err, journal.ErrFull) && !v.known):
		return p.broken(v, err)
	case err != nil, h.Outcome == recovery.Unavailable:
		if v.known {
			r := unavailable(h.RetryAfter)
			r.id = v.sub.Record.ID
			return r
		}
		return p.ifKnown(ctx, v, unavailable(h.RetryAfter)) // a duplicate is answered also when nothing new is taken
	case h.Outcome == recovery.Duplicate && (!v.known || v.src.Dedup.Mode == "observe"):
		v.known = true
		r, done := p.duplicate(ctx, v, p.index.Met(&h.Fate, h.Key, &v.sub.Record.BodySHA256))
		if done {
			return r
		}
		return p.deliver(ctx, v)
	case h.Outcome == recovery.Duplicate:
		return reply{status: v.src.statuses.Duplicate, outcome: "duplicate", own: &v.src.Own.Duplicate, id: h.Fate.ID}
	}
	if !v.known {
		p.index.Missed()
	}
	if h.Fate.Final() && len(v.keys) > 0 {
		p.index.Remember(v.keys, &h.Fate)
	}
	r := v.src.reply(&h)
	r.conflict = v.other
	return r
}

// ifKnown looks an event up that was not taken: a duplicate has its answer all the same.
func (p *Pipeline) ifKnown(ctx context.Context, v *visit, otherwise reply) reply {
	v.known = true
	found, known, err := p.index.Lookup(ctx, v.keys, &v.sub.Record.BodySHA256)
	switch {
	case err != nil:
		return p.broken(v, err)
	case !known:
		return otherwise
	}
	if r, done := p.duplicate(ctx, v, found); done {
		return r
	}
	return p.deliver(ctx, v)
}

// broken answers our own fault: always 503, never 4xx and never 2xx.
func (p *Pipeline) broken(v *visit, err error) reply {
	if !errors.Is(err, journal.ErrFull) {
		p.log.Error("request not handled", "source", v.src.Name, "error", err)
	}
	return unavailable(0)
}

// asTheFirst answers a duplicate of a request that was under way with that one's answer. Of a store only whether the event is durable was waited
// for: where it is, this is a duplicate like any later one.
func (p *Pipeline) asTheFirst(v *visit, first *kept) reply {
	r := first.reply.as("duplicate")
	if r.id.IsZero() {
		return r // nothing is known that it could differ from
	}
	if v.src.DeliveryConfig.Mode == "store" && r.status/100 == 2 {
		r = reply{status: v.src.statuses.Duplicate, outcome: "duplicate", own: &v.src.Own.Duplicate, id: r.id}
	}
	if r.conflict = first.sum != v.sub.Record.BodySHA256; !r.conflict {
		p.journal.Note(r.id, 1, 0)
		return r
	}
	p.conflict(v, r.id)
	if v.src.Dedup.OnConflict == "reject" {
		return reply{status: 409, outcome: "conflict", conflict: true, id: r.id}
	}
	return r
}
