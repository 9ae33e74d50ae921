package admintest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/recovery"
)

// Core is the part of the gateway that admin talks to. Events live in the journal; replays and pauses in memory. Fields may be set before
// a call.
type Core struct {
	journal journal.Journal

	Fails       map[string]bool // sender's ids whose replay fails
	BreakerOpen bool            // View derives breaker_open
	Resources   map[string]recovery.ResourceStatus
	OnReplay    func() // called while a replay is started

	mu       sync.Mutex
	paused   map[string]bool
	replays  []recovery.Replay
	changed  chan struct{} // closed and replaced at every change
	log      []event.Record
	followed int
}

func newCore(j journal.Journal) *Core {
	return &Core{journal: j, Fails: map[string]bool{}, Resources: map[string]recovery.ResourceStatus{}, paused: map[string]bool{}, changed: make(chan struct{})}
}

// names are the sources of the core.
var names = []string{"github", "stripe"}

// Names lists the sources.
func (c *Core) Names() []string { return names }

// UpstreamOf is the same for all sources.
func (c *Core) UpstreamOf(string) string { return "app" }

// Find looks an id up as the gateway's core does.
func (c *Core) Find(ctx context.Context, source, id string) (event.Record, error) {
	if source != "" && !slices.Contains(names, source) {
		return event.Record{}, recovery.ErrUnknownSource
	}
	if own, err := event.ParseID(id); err == nil {
		if rec, _, err := c.journal.Get(ctx, own, false); err == nil && (source == "" || source == rec.Source) {
			return rec, nil
		}
	}
	var found []event.Record
	var in []string
	for _, n := range names {
		if source != "" && source != n {
			continue
		}
		fates, err := c.journal.Lookup(ctx, []event.Key{event.MakeKey(event.KeyAlias, n, id)})
		if err != nil {
			return event.Record{}, err
		}
		if !fates[0].Known() {
			continue
		}
		rec, _, err := c.journal.Get(ctx, fates[0].ID, false)
		if err != nil {
			return rec, err
		}
		found, in = append(found, rec), append(in, n)
	}
	switch len(found) {
	case 0:
		return event.Record{}, journal.ErrNotFound
	case 1:
		return found[0], nil
	}
	return event.Record{}, &recovery.AmbiguousError{Sources: in}
}

// Watch looks every few milliseconds.
func (c *Core) Watch(source, id string, until func(*event.Record) bool) (<-chan struct{}, func()) {
	woken, stop := make(chan struct{}, 1), make(chan struct{})
	go func() {
		for {
			if rec, err := c.Find(context.Background(), source, id); err == nil && until(&rec) {
				select {
				case woken <- struct{}{}:
				default:
				}
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	return woken, sync.OnceFunc(func() { close(stop) })
}

// Followed is how many streams of changes have begun.
func (c *Core) Followed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.followed
}

// Changes emits what commit has done; a cursor is the number of changes seen.
func (c *Core) Changes(ctx context.Context, cursor string, emit func(string, *event.Record) error) error {
	c.mu.Lock()
	next := len(c.log)
	c.followed++
	c.mu.Unlock()
	if cursor != "" {
		n, err := strconv.Atoi(cursor)
		if err != nil {
			return journal.ErrBadCursor
		}
		next = n
	} else if err := emit(strconv.Itoa(next), nil); err != nil {
		return err
	}
	for {
		c.mu.Lock()
		batch, wake := slices.Clone(c.log[min(next, len(c.log)):]), c.changed
		c.mu.Unlock()
		for i := range batch {
			next++
			if err := emit(strconv.Itoa(next), &batch[i]); err != nil {
				return err
			}
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// View derives breaker_open while BreakerOpen is set.
func (c *Core) View(rec *event.Record) {
	if c.BreakerOpen && rec.State == event.Pending && (rec.Reason == event.Queued || rec.Reason == event.Retrying) {
		rec.Reason = event.BreakerOpen
	}
}

// SafeToRetry is the verdict of SPEC §7 without orders.
func (c *Core) SafeToRetry(rec *event.Record) recovery.SafeToRetry {
	switch {
	case rec == nil:
		return recovery.SafeToRetry{Verdict: "yes", Reason: "it was never received"}
	case rec.State == event.Delivered, rec.State == event.Replayed, rec.Reason == event.Resolved:
		return recovery.SafeToRetry{Verdict: "no_need", Reason: "it was delivered"}
	case rec.Unknown:
		return recovery.SafeToRetry{Verdict: "unsafe", Reason: "an outcome is unknown", Needs: "a decision"}
	case rec.State == event.Pending:
		return recovery.SafeToRetry{Verdict: "wait", Reason: "it is queued"}
	case rec.State == event.Rejected:
		return recovery.SafeToRetry{Verdict: "superseded", Reason: "a newer version was delivered"}
	}
	return recovery.SafeToRetry{Verdict: "yes", Reason: "it failed and had no effect"}
}

func (c *Core) commit(id event.ID, attempt *event.Attempt, change func(*event.Record)) (event.Record, error) {
	ctx := context.Background()
	rec, _, err := c.journal.Get(ctx, id, false)
	if err != nil {
		return rec, err
	}
	change(&rec)
	out, err := c.journal.Commit(ctx, []journal.Transition{{Record: rec, Attempt: attempt}}, journal.Written)
	if err != nil {
		return rec, err
	}
	if !out[0].Applied {
		return rec, errGone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, out[0].Record)
	close(c.changed)
	c.changed = make(chan struct{})
	return out[0].Record, nil
}

// ReplayOne brings the event to its end before it returns.
func (c *Core) ReplayOne(ctx context.Context, id event.ID, _, _ string, force bool, _ string) (recovery.ReplayResult, error) {
	if c.OnReplay != nil {
		c.OnReplay()
	}
	rec, _, err := c.journal.Get(ctx, id, false)
	if err != nil {
		return recovery.ReplayResult{}, err
	}
	if why := skip(&rec); why != "" && !force {
		if why == recovery.SkipNeedsForce {
			return recovery.ReplayResult{}, recovery.ErrNeedsForce
		}
		return recovery.ReplayResult{Why: why}, nil
	}
	replay := fmt.Sprintf("rp_%d", rec.Rev)
	_, err = c.commit(id, nil, func(r *event.Record) { c.end(r, replay) })
	return recovery.ReplayResult{Started: err == nil, ReplayID: replay}, err
}

func (c *Core) end(r *event.Record, replay string) {
	r.ReplayID, r.Attempts, r.LastAttemptAt = replay, r.Attempts+1, time.Now()
	if c.Fails[r.EventID] {
		if r.Reason != event.WaitingForDecision { // else its outcome is unknown once more
			Dead(r)
		}
		return
	}
	r.State, r.Reason, r.LastStatus, r.LastErrKind, r.LastErrText = event.Replayed, event.NoReason, 200, "", ""
}

func skip(rec *event.Record) string {
	switch {
	case rec.Reason == event.WaitingForDecision:
		return recovery.SkipNeedsForce
	case rec.State == event.Pending:
		return recovery.SkipPending
	case rec.State == event.Delivered, rec.State == event.Replayed:
		return recovery.SkipDelivered
	case rec.State == event.Rejected:
		return recovery.SkipSuperseded
	}
	return ""
}

// Resolve settles a dead letter.
func (c *Core) Resolve(_ context.Context, id event.ID, actor, reason string) (event.Record, error) {
	return c.settle(id, event.Resolved, actor, reason)
}

// Discard settles a dead letter.
func (c *Core) Discard(_ context.Context, id event.ID, actor, reason string) (event.Record, error) {
	return c.settle(id, event.Discarded, actor, reason)
}

func (c *Core) settle(id event.ID, why event.Reason, actor, reason string) (event.Record, error) {
	rec, _, err := c.journal.Get(context.Background(), id, false)
	if err != nil {
		return rec, err
	}
	if !rec.DeadLetter() {
		return rec, recovery.ErrNotDeadLetter
	}
	return c.commit(id, nil, func(r *event.Record) {
		r.Reason, r.Resolution = why, &event.Resolution{By: actor, At: time.Now(), Reason: reason}
	})
}

// StartReplay runs a replay to its end before it returns.
func (c *Core) StartReplay(ctx context.Context, spec recovery.ReplaySpec) (recovery.Replay, error) {
	q := journal.Query{}
	if spec.Filter != nil {
		q = *spec.Filter
	}
	q.Asc, q.Limit, q.Cursor = true, 500, spec.FromCursor
	page, err := c.journal.List(ctx, q)
	if err != nil {
		return recovery.Replay{}, err
	}
	now := time.Now()
	job := recovery.Replay{Name: spec.Name, State: "done", DryRun: spec.DryRun, CreatedAt: now, FinishedAt: now, Actor: spec.Actor, Reason: spec.Reason, SkippedBy: map[string]int64{}}
	c.mu.Lock()
	job.ID = fmt.Sprintf("rp_job_%d", len(c.replays)+1)
	c.mu.Unlock()
	for i := range page.Records {
		if spec.IDs != nil && !slices.Contains(spec.IDs, page.Records[i].EventID) {
			continue
		}
		if err := c.one(&job, &page.Records[i], &spec); err != nil {
			return job, err
		}
	}
	if !spec.DryRun {
		c.mu.Lock()
		c.replays = append(c.replays, job)
		c.mu.Unlock()
	}
	return job, nil
}

func (c *Core) one(job *recovery.Replay, rec *event.Record, spec *recovery.ReplaySpec) error {
	job.Total++
	why := skip(rec)
	switch {
	case why != "" && !spec.Force:
		job.Skipped++
		job.SkippedBy[why]++
		job.Skips = append(job.Skips, recovery.Skip{ID: rec.ID.String(), EventID: rec.EventID, Why: why})
		return nil
	case spec.DryRun:
		job.WouldReplay++
		return nil
	}
	now, err := c.commit(rec.ID, nil, func(r *event.Record) { c.end(r, job.ID) })
	job.Sent++
	if now.State == event.Replayed {
		job.Replayed++
	} else {
		job.Failed++
	}
	return err
}

// Replays lists them, newest first.
func (c *Core) Replays(_ context.Context, after string, limit int) (list []recovery.Replay, next string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	begun := after == ""
	for _, r := range slices.Backward(c.replays) {
		switch {
		case !begun:
			begun = r.ID == after
		case len(list) == limit:
			return list, list[limit-1].ID, nil
		default:
			list = append(list, r)
		}
	}
	if !begun {
		return nil, "", journal.ErrBadCursor
	}
	return list, "", nil
}

// Replay gives one.
func (c *Core) Replay(_ context.Context, id string) (recovery.Replay, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.replays {
		if r.ID == id {
			return r, nil
		}
	}
	return recovery.Replay{}, recovery.ErrUnknownReplay
}

// CancelReplay marks one as cancelled.
func (c *Core) CancelReplay(_ context.Context, id string) (recovery.Replay, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.replays {
		if c.replays[i].ID == id {
			c.replays[i].State = "cancelled"
			return c.replays[i], nil
		}
	}
	return recovery.Replay{}, recovery.ErrUnknownReplay
}

// Sources gives stripe and github with their counts.
func (c *Core) Sources(ctx context.Context) ([]recovery.SourceStatus, error) {
	counts, err := c.journal.Counts(ctx)
	if err != nil {
		return nil, err
	}
	var out []recovery.SourceStatus
	for _, n := range names {
		c.mu.Lock()
		s := recovery.SourceStatus{Name: n, Path: "/webhooks/" + n, Provider: n, Mode: "hybrid", Upstream: "app", Paused: c.paused[n], Counts: map[event.State]int64{}}
		c.mu.Unlock()
		for _, k := range counts {
			if k.Source == n {
				s.Counts[k.State] += k.N
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// Upstreams gives one, whose breaker is BreakerOpen.
func (c *Core) Upstreams() []recovery.UpstreamStatus {
	u := recovery.UpstreamStatus{Name: "app", URL: "http://127.0.0.1:3000", Breaker: "closed"}
	if c.BreakerOpen {
		u.Breaker, u.ConsecutiveFailures, u.NextProbeAt = "open", 10, time.Now().Add(time.Second)
	}
	return []recovery.UpstreamStatus{u}
}

// SetPaused notes it.
func (c *Core) SetPaused(ctx context.Context, source string, paused bool) (recovery.SourceStatus, error) {
	i := slices.Index(names, source)
	if i < 0 {
		return recovery.SourceStatus{}, recovery.ErrUnknownSource
	}
	c.mu.Lock()
	c.paused[source] = paused
	c.mu.Unlock()
	all, err := c.Sources(ctx)
	if err != nil {
		return recovery.SourceStatus{}, err
	}
	return all[i], nil
}

// SetCursor changes what Resources holds; versions are integers.
func (c *Core) SetCursor(ctx context.Context, source, resource, version string) (recovery.ResourceStatus, error) {
	if _, err := ordering.Parse("integer", version); err != nil && version != "" {
		return recovery.ResourceStatus{}, err
	}
	if source == "github" {
		return recovery.ResourceStatus{}, recovery.ErrNoVersions
	}
	r, err := c.Resource(ctx, source, resource)
	if err == nil {
		r.State.Version, r.State.UpdatedAt = version, time.Now()
		c.Resources[source+"/"+resource] = r
	}
	return r, err
}

// Resource gives what Resources holds under source/resource.
func (c *Core) Resource(_ context.Context, source, resource string) (recovery.ResourceStatus, error) {
	if !slices.Contains(names, source) {
		return recovery.ResourceStatus{}, recovery.ErrUnknownSource
	}
	r := c.Resources[source+"/"+resource]
	r.State.ResourceKey = event.ResourceKey{Source: source, Resource: resource}
	r.Known = !r.State.UpdatedAt.IsZero()
	return r, nil
}
