package recovery

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// jobs are the replays of many.
type jobs struct {
	mu   sync.Mutex
	all  map[string]*job
	stop chan struct{}
	once sync.Once
}

const (
	maxSkips   = 1000 // skips that a job lists
	maxJobs    = 1000 // jobs that are remembered; so many may run
	maxDryRuns = 100  // of these, dry runs
)

// ErrManyReplays: as many replays run as are remembered.
var ErrManyReplays = errors.New("too many replays are running")

// job is a replay of many. What it needs to go on after a restart is in the journal (replay_store.go); what it has done is in the records
// (ReplayID), so that nothing is sent twice.
type job struct {
	mu     sync.Mutex
	Replay Replay // Skips is empty once they are stored and the job has ended
	Spec   ReplaySpec
	MaxSeq event.Seq // events received later do not belong to it
	After  event.Seq // nor do those up to here
	done   event.Seq // it has sent, or left out, all of the selection up to here
	ids    int       // parts stored of Spec.IDs
	skips  int       // parts stored of Replay.Skips

	storing sync.Mutex // so that what is stored last is newest
	cancel  chan struct{}
	stopped bool
	resumed bool        // it was running, or open, when the process ended
	open    bool        // it was cancelled, and some of what it had sent had not ended: that is counted anew
	counted atomic.Bool // it was cancelled, and all that it had sent has ended
}

func (j *jobs) init() { j.all, j.stop = map[string]*job{}, make(chan struct{}) }
func (j *jobs) halt() { j.once.Do(func() { close(j.stop) }) }

// StartReplay begins a replay of many, or, with DryRun, only counts; one of that id that has begun is given as it is. Errors: ErrUnknownSource, ErrManyReplays, journal.ErrBadCursor, or the
// journal's.
func (r *Recovery) StartReplay(ctx context.Context, spec ReplaySpec) (Replay, error) {
	if r.job(spec.ID) != nil {
		return r.Replay(ctx, spec.ID)
	}
	if spec.Filter != nil && spec.Filter.Source != "" && r.Source(spec.Filter.Source) == nil {
		return Replay{}, ErrUnknownSource
	}
	j := &job{Spec: spec, cancel: make(chan struct{})}
	j.Replay = Replay{ID: replayID(spec.ID), Name: spec.Name, State: "running", DryRun: spec.DryRun, CreatedAt: time.Now(), Actor: spec.Actor, Reason: spec.Reason}
	if err := r.bound(ctx, j); err != nil {
		return Replay{}, err
	}
	if spec.DryRun {
		return r.dryRun(ctx, j)
	}
	err := r.each(ctx, j, func(*event.Record, string) error { j.Replay.Total++; return nil })
	if err != nil {
		return Replay{}, err
	}
	if err := ctx.Err(); err != nil {
		return Replay{}, err
	}
	if err := r.admit(context.WithoutCancel(ctx), j); err != nil { // as in ReplayOne: it would begin at the next start
		return Replay{}, err
	}
	r.begin(func() { r.runJob(j) })
	return j.view(), nil
}

// bound fixes which events the job can hold, so that neither time nor a restart changes it.
func (r *Recovery) bound(ctx context.Context, j *job) error {
	newest, err := r.journal.List(ctx, journal.Query{Limit: 1})
	if err != nil {
		return err
	}
	if len(newest.Records) > 0 {
		j.MaxSeq = newest.Records[0].Seq
	}
	switch {
	case j.Spec.FromCursor != "":
		j.After, err = journal.ParseCursor(j.Spec.FromCursor)
	case j.Spec.FromCheckpoint:
		var cp journal.Checkpoint
		cp, err = r.journal.Checkpoint(ctx, j.Spec.Filter.Source)
		j.After = cp.Seq
	}
	return err
}

// admit stores a new job and makes it known, then drops the oldest ended ones beyond the bound.
func (r *Recovery) admit(ctx context.Context, j *job) error {
	r.jobs.mu.Lock()
	drop, room := r.surplus()
	if room {
		r.jobs.all[j.Replay.ID] = j
	}
	r.jobs.mu.Unlock()
	if !room {
		return ErrManyReplays
	}
	if err := r.storeNew(ctx, j); err != nil {
		r.jobs.mu.Lock()
		delete(r.jobs.all, j.Replay.ID)
		r.jobs.mu.Unlock()
		return err
	}
	for _, old := range drop {
		if err := r.forget(old); err != nil {
			return err
		}
	}
	return nil
}

// surplus takes out what must go before one more is admitted; no room: all are running. The caller holds jobs.mu.
func (r *Recovery) surplus() (drop []*job, room bool) {
	var ended, dry []*job
	for _, j := range r.jobs.all {
		switch v := j.view(); {
		case v.DryRun:
			dry = append(dry, j)
		case v.State != "running":
			ended = append(ended, j)
		}
	}
	oldest := func(a, b *job) int { return a.Replay.CreatedAt.Compare(b.Replay.CreatedAt) } // it never changes
	slices.SortFunc(ended, oldest)
	slices.SortFunc(dry, oldest)
	take := func(from []*job, n int) {
		n = min(max(n, 0), len(from))
		drop = append(drop, from[:n]...)
	}
	take(dry, len(dry)-maxDryRuns+1)
	dry = dry[len(drop):]
	if over := len(r.jobs.all) - len(drop) - maxJobs + 1; over > 0 {
		take(dry, over)
		take(ended, over-len(dry))
	}
	if len(r.jobs.all)-len(drop) >= maxJobs {
		return nil, false
	}
	for _, j := range drop {
		delete(r.jobs.all, j.Replay.ID)
	}
	return drop, true
}

// dryRun walks the selection and counts what would happen.
func (r *Recovery) dryRun(ctx context.Context, j *job) (Replay, error) {
	out := &j.Replay
	out.SkippedBy = map[string]int64{}
	err := r.each(ctx, j, func(rec *event.Record, id string) error {
		out.Total++
		why := SkipUnknownEvent
		if rec != nil {
			why = r.whyOut(ctx, rec, j.Spec.Force)
		}
		if why == "" {
			out.WouldReplay++
			return nil
		}
		out.SkippedBy[why]++
		out.skip(rec, id, why)
		return nil
	})
	if err != nil {
		return Replay{}, err
	}
	out.State, out.FinishedAt = "done", time.Now()
	whole := *out
	if err := r.admit(ctx, j); err != nil {
		return Replay{}, err
	}
	return whole, nil
}

// whyOut is whySkip for an event that a job has selected: also what is of a source that is not configured any more cannot go.
func (r *Recovery) whyOut(ctx context.Context, rec *event.Record, force bool) string {
	why := r.whySkip(ctx, rec, force)
	if why == "" && r.Source(rec.Source) == nil {
		return SkipUnknownEvent
	}
	return why
}

// skip counts an event that is left out, and lists it while there is room.
func (v *Replay) skip(rec *event.Record, id, why string) {
	v.Skipped++
	if len(v.Skips) >= maxSkips {
		return
	}
	s := Skip{EventID: id, Why: why}
	if rec != nil {
		s.ID, s.EventID = rec.ID.String(), rec.EventID
	}
	v.Skips = append(v.Skips, s)
}

// each calls f for every event of the selection, oldest first. A record that this job has started before is always part of it.
func (r *Recovery) each(ctx context.Context, j *job, f func(rec *event.Record, id string) error) error {
	if len(j.Spec.IDs) > 0 {
		return r.eachID(ctx, j, f)
	}
	q := journal.Query{}
	if j.Spec.Filter != nil {
		q = *j.Spec.Filter
	}
	q.Asc, q.Limit, q.MaxSeq, q.Cursor = true, 500, j.MaxSeq, ""
	if j.After > 0 {
		q.Cursor = journal.CursorAfter(j.After)
	}
	want := r.wanted(&q, j.resumed)
	for {
		page, err := r.journal.List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Records {
			rec := &page.Records[i]
			if rec.ReplayID != j.Replay.ID && !want(rec) {
				continue
			}
			if err := f(rec, rec.EventID); err != nil {
				return err
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil
		}
		if r.jobStopped(j) {
			return errJobStopped
		}
	}
}

// wanted gives the test for state and reason. Settled failures count only where a reason names them (SPEC §8). For a job that goes on after a
// restart it takes both out of the query, since what the job has started no longer has the state that was asked for.
func (r *Recovery) wanted(q *journal.Query, resumed bool) func(*event.Record) bool {
	states, reasons := q.States, q.Reasons
	derived := slices.Contains(reasons, event.BreakerOpen) // no record is stored with it
	if derived {
		q.Reasons = append(slices.Clone(reasons), event.Queued, event.Retrying)
	}
	if resumed {
		q.States, q.Reasons = nil, nil
	}
	return func(rec *event.Record) bool {
		if len(states) > 0 && !slices.Contains(states, rec.State) {
			return false
		}
		if len(reasons) > 0 {
			shown := *rec
			if derived {
				r.View(&shown)
			}
			return slices.Contains(reasons, shown.Reason)
		}
		return !(rec.State == event.Failed && rec.Settled())
	}
}

// eachID finds the events of a list of ids. Only their ids are held meanwhile; a record is read when it is its turn.
func (r *Recovery) eachID(ctx context.Context, j *job, f func(*event.Record, string) error) error {
	source := ""
	if j.Spec.Filter != nil {
		source = j.Spec.Filter.Source
	}
	var found []event.ID
	seen := map[event.ID]bool{}
	for _, id := range j.Spec.IDs {
		rec, err := r.Find(ctx, source, id)
		_, several := errors.AsType[*AmbiguousError](err)
		switch {
		case errors.Is(err, journal.ErrNotFound), several:
			if err := f(nil, id); err != nil {
				return err
			}
		case err != nil:
			return err
		case !seen[rec.ID]:
			seen[rec.ID] = true
			found = append(found, rec.ID)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Seq() < found[j].Seq() }) // a generic sort weighs more
	for _, id := range found {
		rec, _, err := r.journal.Get(ctx, id, false)
		if err == nil || isRemnant(&rec, err) {
			err = f(&rec, rec.EventID)
		} else if errors.Is(err, journal.ErrNotFound) {
			err = f(nil, id.String())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *job) view() Replay {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.Replay
	out.Skips = slices.Clone(out.Skips)
	return out
}

// Replays lists jobs, newest first: at most limit of those before the one with the id after ("" = from the newest on). next is the id to go
// on after, "" at the end.
func (r *Recovery) Replays(ctx context.Context, after string, limit int) (list []Replay, next string, err error) {
	r.jobs.mu.Lock()
	all := make([]*job, 0, len(r.jobs.all))
	for _, j := range r.jobs.all {
		all = append(all, j)
	}
	r.jobs.mu.Unlock()
	slices.SortFunc(all, func(a, b *job) int {
		return cmp.Or(b.Replay.CreatedAt.Compare(a.Replay.CreatedAt), cmp.Compare(a.Replay.ID, b.Replay.ID)) // neither ever changes
	})
	if after != "" {
		i := slices.IndexFunc(all, func(j *job) bool { return j.Replay.ID == after })
		if i < 0 {
			return nil, "", journal.ErrBadCursor
		}
		all = all[i+1:]
	}
	for i, j := range all {
		if i == limit {
			return list, list[i-1].ID, nil
		}
		v, err := r.whole(ctx, j)
		if err != nil {
			return nil, "", err
		}
		list = append(list, v)
	}
	return list, "", nil
}

// Replay gives one job, or the replay of one event; ErrUnknownReplay.
func (r *Recovery) Replay(ctx context.Context, id string) (Replay, error) {
	if v, ok := r.singles.view(id); ok {
		return v, nil
	}
	j := r.job(id)
	if j == nil {
		return Replay{}, ErrUnknownReplay
	}
	return r.whole(ctx, j)
}

func (r *Recovery) job(id string) *job {
	r.jobs.mu.Lock()
	defer r.jobs.mu.Unlock()
	return r.jobs.all[id]
}

// CancelReplay stops a job: what it has sent goes on, and is counted as it ends; nothing more is sent, also not after a restart. A job that
// has ended stays as it is. ErrUnknownReplay.
func (r *Recovery) CancelReplay(ctx context.Context, id string) (Replay, error) {
	if v, ok := r.singles.view(id); ok {
		return v, nil // what it has sent goes on, and that is all of it
	}
	j := r.job(id)
	if j == nil {
		return Replay{}, ErrUnknownReplay
	}
	j.mu.Lock()
	cancelled := j.Replay.State == "running" && !j.stopped
	if cancelled {
		j.stopped = true
		j.Replay.State, j.Replay.FinishedAt = "cancelled", time.Now()
		close(j.cancel)
	}
	j.mu.Unlock()
	if cancelled {
		if err := r.store(context.WithoutCancel(ctx), j, ""); err != nil {
			return Replay{}, err
		}
	}
	return r.whole(ctx, j)
}
