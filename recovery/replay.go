package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// jobs are the replays of many. What a job needs to go on after a restart is in the journal under "replay/<id>"; what it has done is in the
// records (ReplayID), so that nothing is sent twice.
type jobs struct {
	mu   sync.Mutex
	all  map[string]*job
	stop chan struct{}
	once sync.Once
}

const (
	maxSkips = 1000 // skips that a job lists
	maxJobs  = 1000 // finished jobs that are remembered
)

type job struct {
	mu      sync.Mutex
	Replay  Replay
	Spec    ReplaySpec
	MaxSeq  event.Seq // events received later do not belong to it
	cancel  chan struct{}
	stopped bool
	resumed bool              // it was running when the process ended
	waiting map[event.ID]bool // sent and not ended
}

func (j *jobs) init() { j.all, j.stop = map[string]*job{}, make(chan struct{}) }
func (j *jobs) halt() { j.once.Do(func() { close(j.stop) }) }

// StartReplay begins a replay of many, or, with DryRun, only counts. Errors: ErrUnknownSource, journal.ErrBadCursor, or the journal's.
func (r *Recovery) StartReplay(ctx context.Context, spec ReplaySpec) (Replay, error) {
	if spec.Filter != nil && spec.Filter.Source != "" && r.Source(spec.Filter.Source) == nil {
		return Replay{}, ErrUnknownSource
	}
	j := &job{Spec: spec, cancel: make(chan struct{}), waiting: map[event.ID]bool{}}
	j.Replay = Replay{ID: newReplayID(), Name: spec.Name, State: "running", DryRun: spec.DryRun, CreatedAt: time.Now(), Actor: spec.Actor, Reason: spec.Reason}
	newest, err := r.journal.List(ctx, journal.Query{Limit: 1})
	if err != nil {
		return Replay{}, err
	}
	if len(newest.Records) > 0 {
		j.MaxSeq = newest.Records[0].Seq
	}
	plan, err := r.plan(ctx, j)
	if err != nil {
		return Replay{}, err
	}
	j.Replay.Total = plan.Total
	if spec.DryRun {
		plan.ID, plan.Name, plan.Actor, plan.Reason, plan.DryRun = j.Replay.ID, spec.Name, spec.Actor, spec.Reason, true
		plan.State, plan.CreatedAt, plan.FinishedAt = "done", j.Replay.CreatedAt, time.Now()
		return plan, nil
	}
	if err := r.keep(ctx, j, journal.Synced); err != nil {
		return Replay{}, err
	}
	r.launch(j)
	return j.view(), nil
}

func (r *Recovery) launch(j *job) {
	r.jobs.mu.Lock()
	r.jobs.all[j.Replay.ID] = j
	r.forgetOld()
	r.jobs.mu.Unlock()
	r.begin(func() { r.runJob(j) })
}

// forgetOld drops the oldest finished jobs beyond maxJobs. The caller holds jobs.mu.
func (r *Recovery) forgetOld() {
	for len(r.jobs.all) > maxJobs {
		var oldest *job
		for _, j := range r.jobs.all {
			v := j.view()
			if v.State != "running" && (oldest == nil || v.CreatedAt.Before(oldest.view().CreatedAt)) {
				oldest = j
			}
		}
		if oldest == nil {
			return
		}
		delete(r.jobs.all, oldest.Replay.ID)
		if err := r.journal.MetaPut(context.Background(), "replay/"+oldest.Replay.ID, nil, journal.Written); err != nil {
			return
		}
	}
}

// plan walks the selection and counts what would happen.
func (r *Recovery) plan(ctx context.Context, j *job) (Replay, error) {
	out := Replay{SkippedBy: map[string]int64{}}
	err := r.each(ctx, j, func(rec *event.Record, id string) error {
		out.Total++
		why := SkipUnknownEvent
		if rec != nil {
			why = r.whySkip(ctx, rec, j.Spec.Force)
		}
		if why == "" {
			out.WouldReplay++
			return nil
		}
		out.Skipped++
		out.SkippedBy[why]++
		if len(out.Skips) < maxSkips {
			out.Skips = append(out.Skips, skip(rec, id, why))
		}
		return nil
	})
	return out, err
}

func skip(rec *event.Record, id, why string) Skip {
	if rec == nil {
		return Skip{ID: "", EventID: id, Why: why}
	}
	return Skip{ID: rec.ID.String(), EventID: rec.EventID, Why: why}
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
	q.Asc, q.Limit, q.Cursor, q.MaxSeq = true, 500, j.Spec.FromCursor, j.MaxSeq
	after := event.Seq(0)
	if j.Spec.FromCheckpoint {
		cp, err := r.journal.Checkpoint(ctx, q.Source)
		if err != nil {
			return err
		}
		after = cp.Seq
	}
	want := wanted(&q, j.resumed)
	for {
		page, err := r.journal.List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Records {
			rec := &page.Records[i]
			if rec.ReplayID != j.Replay.ID && (rec.Seq <= after || !want(rec)) {
				continue
			}
			if err := f(rec, rec.EventID); err != nil {
				return err
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil
		}
	}
}

// wanted gives the test for state and reason. Settled failures count only where a reason names them (SPEC §8). For a job that goes on after a
// restart it takes both out of the query, since what the job has started no longer has the state that was asked for.
func wanted(q *journal.Query, resumed bool) func(*event.Record) bool {
	states, reasons := q.States, q.Reasons
	if resumed {
		q.States, q.Reasons = nil, nil
	}
	return func(rec *event.Record) bool {
		if len(states) > 0 && !slices.Contains(states, rec.State) {
			return false
		}
		if len(reasons) > 0 {
			return slices.Contains(reasons, rec.Reason)
		}
		return !(rec.State == event.Failed && rec.Settled())
	}
}

func (r *Recovery) eachID(ctx context.Context, j *job, f func(*event.Record, string) error) error {
	source := ""
	if j.Spec.Filter != nil {
		source = j.Spec.Filter.Source
	}
	var found []*event.Record
	for _, id := range j.Spec.IDs {
		rec, err := r.Find(ctx, source, id)
		var several *AmbiguousError
		switch {
		case errors.Is(err, journal.ErrNotFound), errors.As(err, &several):
			if err := f(nil, id); err != nil {
				return err
			}
		case err != nil:
			return err
		case !slices.ContainsFunc(found, func(x *event.Record) bool { return x.ID == rec.ID }):
			found = append(found, &rec)
		}
	}
	slices.SortFunc(found, func(a, b *event.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, rec := range found {
		if err := f(rec, rec.EventID); err != nil {
			return err
		}
	}
	return nil
}

var errJobStopped = errors.New("replay stopped")

// runJob sends what the selection holds, at the job's rate, then waits until all of it has ended.
func (r *Recovery) runJob(j *job) {
	ctx := r.ctx
	listener := &stream{ready: make(chan struct{}, 1)}
	r.hub.listeners.Add(1)
	r.hub.mu.Lock()
	r.hub.streams[listener] = struct{}{}
	r.hub.mu.Unlock()
	defer func() {
		r.hub.mu.Lock()
		delete(r.hub.streams, listener)
		r.hub.mu.Unlock()
		r.hub.listeners.Add(-1)
	}()
	began, n := time.Now(), 0
	err := r.each(ctx, j, func(rec *event.Record, id string) error {
		r.drainEnded(j, listener)
		if rec == nil {
			r.countReplay("skipped")
			j.skip(nil, id, SkipUnknownEvent)
			return nil
		}
		if j.Spec.Rate > 0 && rec.ReplayID != j.Replay.ID {
			if !r.sleep(j, time.Until(began.Add(time.Duration(float64(n)/j.Spec.Rate*float64(time.Second))))) {
				return errJobStopped
			}
			n++
		}
		return r.sendOne(ctx, j, rec)
	})
	if err == nil {
		err = r.waitEnded(j, listener)
	}
	r.finishJob(j, err)
}

// sendOne starts one event of the job and counts what it is.
func (r *Recovery) sendOne(ctx context.Context, j *job, rec *event.Record) error {
	select {
	case <-j.cancel:
		return errJobStopped
	case <-r.jobs.stop:
		return errJobStopped
	default:
	}
	j.mu.Lock()
	j.waiting[rec.ID] = true
	j.mu.Unlock()
	now, why, _, err := r.replay(ctx, rec.ID, j.Replay.ID, j.Spec.Force)
	if err != nil && !errors.Is(err, journal.ErrNotFound) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrUnknownSource) {
		return err
	}
	if err != nil {
		why = SkipUnknownEvent
	}
	if why != "" {
		j.mu.Lock()
		delete(j.waiting, rec.ID)
		j.mu.Unlock()
		r.countReplay("skipped")
		j.skip(rec, rec.EventID, why)
		return nil
	}
	j.mu.Lock()
	j.Replay.Sent++
	j.mu.Unlock()
	if now.State != event.Pending || now.ReplayID != j.Replay.ID {
		r.ended(j, &now)
	}
	return nil
}

func (j *job) skip(rec *event.Record, id, why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.Replay.Skipped++
	if len(j.Replay.Skips) < maxSkips {
		j.Replay.Skips = append(j.Replay.Skips, skip(rec, id, why))
	}
}

// ended counts an event of the job that has come to its end.
func (r *Recovery) ended(j *job, rec *event.Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.waiting[rec.ID] || rec.ReplayID == j.Replay.ID && rec.State == event.Pending && rec.Reason != event.WaitingForDecision {
		return
	}
	delete(j.waiting, rec.ID)
	switch {
	case rec.State == event.Rejected && rec.Reason == event.Stale:
		j.Replay.Skipped++
		if len(j.Replay.Skips) < maxSkips {
			j.Replay.Skips = append(j.Replay.Skips, skip(rec, rec.EventID, SkipSuperseded))
		}
	case rec.State == event.Replayed:
		j.Replay.Replayed++
	default:
		j.Replay.Failed++
	}
}

// countReplay tells metrics how an event of a replay, of one or of many, has ended: replayed, failed or skipped.
func (r *Recovery) countReplay(result string) {
	if r.measure.Replay != nil {
		r.measure.Replay(result)
	}
}

// countIfReplayed is countReplay for a change of a record, if that ends a replay of it.
func (r *Recovery) countIfReplayed(old event.State, rec *event.Record) {
	switch {
	case rec.NextTrigger != event.TriggerReplay || rec.ReplayID == "" || old != event.Pending || rec.State == event.Pending:
	case rec.State == event.Replayed:
		r.countReplay("replayed")
	case rec.State == event.Rejected && rec.Reason == event.Stale:
		r.countReplay("skipped")
	default:
		r.countReplay("failed")
	}
}

// drainEnded takes in the changes that have come since the last call.
func (r *Recovery) drainEnded(j *job, s *stream) {
	r.hub.mu.Lock()
	batch, lost := s.buffer, s.lost
	s.buffer, s.lost = nil, false
	r.hub.mu.Unlock()
	for i := range batch {
		r.ended(j, &batch[i])
	}
	if !lost {
		return
	}
	j.mu.Lock()
	ids := make([]event.ID, 0, len(j.waiting))
	for id := range j.waiting {
		ids = append(ids, id)
	}
	j.mu.Unlock()
	for _, id := range ids {
		if rec, _, err := r.journal.Get(r.ctx, id, false); err == nil && rec.ReplayID == j.Replay.ID {
			r.ended(j, &rec)
		}
	}
}

func (r *Recovery) waitEnded(j *job, s *stream) error {
	for {
		r.drainEnded(j, s)
		j.mu.Lock()
		left := len(j.waiting)
		j.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-s.ready:
		case <-j.cancel:
			return errJobStopped
		case <-r.jobs.stop:
			return errJobStopped
		}
	}
}

func (r *Recovery) sleep(j *job, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-j.cancel:
	case <-r.jobs.stop:
	}
	return false
}

// finishJob writes how the job ended; one that the end of the process stopped goes on at the next start.
func (r *Recovery) finishJob(j *job, err error) {
	j.mu.Lock()
	switch {
	case err == nil:
		j.Replay.State = "done"
	case j.stopped:
		j.Replay.State = "cancelled"
	case errors.Is(err, errJobStopped), errors.Is(err, context.Canceled), errors.Is(err, journal.ErrClosed):
		j.mu.Unlock()
		return
	default:
		j.Replay.State = "failed"
		r.log.Error("replay failed", "replay", j.Replay.ID, "error", err)
	}
	j.Replay.FinishedAt = time.Now()
	j.mu.Unlock()
	if err := r.keep(context.Background(), j, journal.Synced); err != nil {
		r.log.Error("replay not stored", "replay", j.Replay.ID, "error", err)
	}
}

func (j *job) view() Replay {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.Replay
	out.Skips = slices.Clone(out.Skips)
	return out
}

// keep writes the job to the journal. Values are bounded: the list of skips is cut to what fits.
func (r *Recovery) keep(ctx context.Context, j *job, d journal.Durability) error {
	v := j.view()
	for n := len(v.Skips); ; n /= 2 {
		v.Skips = v.Skips[:n]
		raw, err := json.Marshal(struct {
			Replay Replay
			Spec   ReplaySpec
			MaxSeq event.Seq
		}{v, j.Spec, j.MaxSeq})
		if err != nil {
			return err
		}
		if len(raw) <= 60<<10 {
			return r.journal.MetaPut(ctx, "replay/"+v.ID, raw, d)
		}
		if n == 0 {
			return fmt.Errorf("replay %s: too many ids to remember (%d bytes)", v.ID, len(raw))
		}
	}
}

// loadReplays brings back the jobs; those that were running start again, and find in the records what they have sent.
func (r *Recovery) loadReplays(ctx context.Context) error {
	entries, err := r.journal.MetaList(ctx, "replay/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		j := &job{cancel: make(chan struct{}), waiting: map[event.ID]bool{}}
		var st struct {
			Replay Replay
			Spec   ReplaySpec
			MaxSeq event.Seq
		}
		if err := json.Unmarshal(e.Value, &st); err != nil {
			r.log.Error("stored replay not readable", "key", e.Key, "error", err)
			continue
		}
		j.Replay, j.Spec, j.MaxSeq = st.Replay, st.Spec, st.MaxSeq
		if j.Replay.State != "running" {
			r.jobs.mu.Lock()
			r.jobs.all[j.Replay.ID] = j
			r.jobs.mu.Unlock()
			continue
		}
		j.resumed = true
		j.Replay.Sent, j.Replay.Replayed, j.Replay.Failed, j.Replay.Skipped, j.Replay.Skips = 0, 0, 0, 0, nil
		r.launch(j)
	}
	return nil
}

// Replays lists the jobs, newest first.
func (r *Recovery) Replays(context.Context) ([]Replay, error) {
	r.jobs.mu.Lock()
	defer r.jobs.mu.Unlock()
	out := make([]Replay, 0, len(r.jobs.all))
	for _, j := range r.jobs.all {
		out = append(out, j.view())
	}
	sort.Slice(out, func(i, j int) bool {
		return cmp.Or(out[j].CreatedAt.Compare(out[i].CreatedAt), cmp.Compare(out[i].ID, out[j].ID)) < 0
	})
	return out, nil
}

// Replay gives one job; ErrUnknownReplay.
func (r *Recovery) Replay(_ context.Context, id string) (Replay, error) {
	r.jobs.mu.Lock()
	j := r.jobs.all[id]
	r.jobs.mu.Unlock()
	if j == nil {
		return Replay{}, ErrUnknownReplay
	}
	return j.view(), nil
}

// CancelReplay stops a job: what it has sent goes on, nothing more is sent. A job that has ended stays as it is. ErrUnknownReplay.
func (r *Recovery) CancelReplay(_ context.Context, id string) (Replay, error) {
	r.jobs.mu.Lock()
	j := r.jobs.all[id]
	r.jobs.mu.Unlock()
	if j == nil {
		return Replay{}, ErrUnknownReplay
	}
	j.mu.Lock()
	if j.Replay.State == "running" && !j.stopped {
		j.stopped = true
		j.Replay.State, j.Replay.FinishedAt = "cancelled", time.Now()
		close(j.cancel)
	}
	j.mu.Unlock()
	return j.view(), nil
}
