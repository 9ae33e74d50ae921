package recovery

import (
	"context"
	"errors"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

const (
	jobWindow = 4096 // events of one job that are sent and have not ended, or wait for such a one: new events keep their place in the queues
	jobBatch  = 256  // events that one commit starts
)

var errJobStopped = errors.New("replay stopped")

// runner sends what a job has selected. It belongs to one goroutine.
type runner struct {
	r       *Recovery
	j       *job
	changes *follower
	next    time.Time                         // when the rate lets the next event go
	batch   []event.Record                    // to be started next
	waiting map[event.ID]sentEvent            // sent and not ended
	lines   map[event.ResourceKey]*resumeLine // resources with an event that has not ended
	held    int                               // events in lines that wait for the one before
	taken   event.Seq                         // the selection has been looked at up to here
	seen    int64                             // so many events were in it
}

// resumeLine is what waits behind an event of the same resource where no lane keeps the order, or none did when that came along.
type resumeLine struct {
	now  event.ID // whose end lets the next go
	next []event.Record
}

// sentEvent is an event that a job has sent: its resource, and the revision from which on a change comes after that.
type sentEvent struct {
	key event.ResourceKey
	rev uint64
}

// runJob sends what the selection holds, at the job's rate and in the order of each resource, then waits until all of it has ended.
func (r *Recovery) runJob(j *job) {
	w := &runner{r: r, j: j, changes: r.hub.follow(r.reached), next: time.Now(), waiting: map[event.ID]sentEvent{},
		lines: map[event.ResourceKey]*resumeLine{}}
	defer r.hub.leave(w.changes)
	err := r.each(r.ctx, j, w.take)
	for err == nil && w.open() > 0 {
		if err = w.flush(); err == nil {
			err = w.wait()
		}
	}
	if err == nil && !j.open {
		j.mu.Lock()
		j.Replay.Total = w.seen // some may have been delivered or settled since they were counted
		j.mu.Unlock()
	}
	r.finishJob(j, err)
	if j.wasCancelled() {
		w.seeOut()
	}
}

func (j *job) wasCancelled() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stopped
}

// jobStopped says whether the job was cancelled or the process ends.
func (r *Recovery) jobStopped(j *job) bool {
	select {
	case <-r.jobs.stop:
		return true
	case <-j.cancel:
		return !j.open // else it walks over all of it once more
	default:
		return false
	}
}

// open is the number of events that the job has taken and that have not ended.
func (w *runner) open() int { return len(w.waiting) + w.held + len(w.batch) }

// take sends one event of the selection, or says why not.
func (w *runner) take(rec *event.Record, id string) error {
	if w.r.jobStopped(w.j) {
		return errJobStopped
	}
	w.drain()
	if w.j.open && (rec == nil || rec.ReplayID != w.j.Replay.ID) {
		return nil
	}
	w.seen++
	w.j.mu.Lock()
	w.j.Replay.Total = max(w.j.Replay.Total, w.seen) // some may have failed since they were counted
	w.j.mu.Unlock()
	if rec == nil {
		w.skip(nil, id, SkipUnknownEvent)
		return nil
	}
	if rec.ReplayID == w.j.Replay.ID {
		return w.resume(rec)
	}
	why := w.r.whyOut(w.r.ctx, rec, w.j.Spec.Force)
	if why == "" && rec.Seq <= w.j.done {
		why = SkipPending // it was sent before the process ended, and another replay has taken it over
	}
	if why != "" {
		w.taken = rec.Seq
		w.skip(rec, id, why)
		return nil
	}
	if err := w.pace(); err != nil {
		return err
	}
	for w.open() >= jobWindow {
		if err := w.flush(); err != nil {
			return err
		}
		if w.open() < jobWindow {
			break
		}
		if err := w.wait(); err != nil {
			return err
		}
	}
	w.taken = rec.Seq
	w.line(rec)
	if len(w.batch) >= jobBatch || len(w.waiting) == 0 {
		return w.flush()
	}
	return nil
}

// pace waits until the rate lets one more go.
func (w *runner) pace() error {
	if w.j.Spec.Rate <= 0 {
		return nil
	}
	each := time.Duration(min(float64(time.Second)/w.j.Spec.Rate, 1<<62)) // a century, for rates that are next to nothing
	now := time.Now()
	if earliest := now.Add(min(0, each-time.Second)); w.next.Before(earliest) {
		w.next = earliest // what skips or a full window have taken of the time is no burst, beyond a second's
	}
	d := w.next.Sub(now)
	w.next = w.next.Add(each)
	if d <= 0 {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-w.j.cancel:
	case <-w.r.jobs.stop:
	}
	return errJobStopped
}

// resume takes in an event that the job had sent before the process ended.
func (w *runner) resume(rec *event.Record) error {
	w.j.mu.Lock()
	w.j.Replay.Sent++
	w.j.mu.Unlock()
	if w.j.open && tooLate(rec) {
		return nil // counted as skipped when it ended
	}
	key := resourceOf(rec)
	w.waiting[rec.ID] = sentEvent{key, rec.Rev}
	if w.lines[key] == nil && w.keepsOrder(rec) {
		w.lines[key] = &resumeLine{now: rec.ID}
	}
	now, _, err := w.r.journal.Get(w.r.ctx, rec.ID, false) // it may have ended since the page was read
	if err != nil {
		now = *rec
	}
	w.ended(&now)
	return nil
}

func resourceOf(rec *event.Record) event.ResourceKey {
	return event.ResourceKey{Source: rec.Source, Resource: rec.Resource}
}

// keepsOrder says whether the job must keep the order of the event's resource by itself: no lane does.
func (w *runner) keepsOrder(rec *event.Record) bool {
	s := w.r.Source(rec.Source)
	return rec.Resource != "" && s != nil && !laned(s.cfg.Load().policy, rec)
}

// line puts an event into the next batch, or behind the one before it of its resource, also where a lane would keep the order of the two by now.
func (w *runner) line(rec *event.Record) {
	key := resourceOf(rec)
	if l := w.lines[key]; l != nil {
		l.next = append(l.next, *rec)
		w.held++
		return
	}
	if w.keepsOrder(rec) {
		w.lines[key] = &resumeLine{now: rec.ID}
	}
	w.batch = append(w.batch, *rec)
}

// unline lets the next of a resource go once the one before, id, has ended.
func (w *runner) unline(id event.ID, key event.ResourceKey) {
	l := w.lines[key]
	if l == nil || l.now != id {
		return
	}
	if len(l.next) == 0 {
		delete(w.lines, key)
		return
	}
	l.now = l.next[0].ID
	w.batch = append(w.batch, l.next[0])
	l.next = l.next[1:]
	w.held--
}

// flush starts the batch with one commit. What has changed since it was read is judged anew, one by one.
func (w *runner) flush() error {
	if len(w.batch) == 0 {
		return nil
	}
	for len(w.batch) > 0 {
		n := min(len(w.batch), jobBatch)
		now := w.batch[:n:n]
		w.batch = w.batch[n:]
		if err := w.start(now); err != nil {
			return err
		}
	}
	low := w.taken
	for _, l := range w.lines {
		if len(l.next) > 0 {
			low = min(low, l.next[0].Seq-1)
		}
	}
	return w.r.storeDone(w.r.ctx, w.j, low)
}

func (w *runner) start(recs []event.Record) error {
	ts := make([]journal.Transition, len(recs))
	waited := make([]bool, len(recs))
	for i := range recs {
		rec := recs[i]
		if s := w.r.use(rec.Source); s != nil {
			defer s.exit()
			waited[i] = rec.State == event.Pending
			s.again(&rec, w.j.Replay.ID, w.j.Spec.Force)
		} else {
			rec.Rev = 0 // cannot be applied: told below that the source is gone
		}
		ts[i].Record = rec
	}
	out, err := w.r.journal.Commit(w.r.ctx, ts, journal.Synced)
	if err != nil {
		return err
	}
	for i := range out {
		if !out[i].Applied {
			if err := w.startOne(&recs[i]); err != nil {
				return err
			}
			continue
		}
		rec := &out[i].Record
		w.sent(rec)
		w.r.Source(rec.Source).launch(rec, waited[i])
	}
	return nil
}

func (w *runner) sent(rec *event.Record) {
	w.waiting[rec.ID] = sentEvent{resourceOf(rec), rec.Rev}
	w.j.mu.Lock()
	w.j.Replay.Sent++
	w.j.mu.Unlock()
}

// startOne starts an event that has changed since it was read.
func (w *runner) startOne(rec *event.Record) error {
	now, why, err := w.r.replay(w.r.ctx, rec.ID, w.j.Replay.ID, w.j.Spec.Force)
	switch {
	case errors.Is(err, journal.ErrNotFound), errors.Is(err, ErrUnknownSource):
		why = SkipUnknownEvent
	case errors.Is(err, ErrBusy):
		why = SkipPending
	case err != nil:
		return err
	}
	if why != "" {
		w.skip(rec, rec.EventID, why)
		w.unline(rec.ID, resourceOf(rec))
		return nil
	}
	w.sent(&now)
	return nil
}

func (w *runner) skip(rec *event.Record, id, why string) {
	w.j.mu.Lock()
	w.j.Replay.skip(rec, id, why)
	w.j.mu.Unlock()
	w.r.countReplay("skipped")
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
	case rec.State == event.Replayed && rec.LastErrKind == "":
		r.countReplay("replayed")
	case tooLate(rec):
		r.countReplay("skipped")
	default:
		r.countReplay("failed")
	}
}

// ended counts an event of the job that has come to its end, and lets the next of its resource go.
func (w *runner) ended(rec *event.Record) {
	sent, ok := w.waiting[rec.ID]
	if !ok || rec.Rev < sent.rev || rec.ReplayID == w.j.Replay.ID && rec.State == event.Pending && rec.Reason != event.WaitingForDecision {
		return
	}
	delete(w.waiting, rec.ID)
	w.j.mu.Lock()
	w.j.Replay.tally(rec)
	w.j.mu.Unlock()
	w.unline(rec.ID, sent.key)
}

// tooLate says whether a replay of an event ended with its being stale. A forced one is never judged so: it has failed, and the event has fallen back
// to what it was.
func tooLate(rec *event.Record) bool {
	return rec.State == event.Rejected && rec.Reason == event.Stale && !rec.Forced
}

// tally counts the end of an event that was sent.
func (v *Replay) tally(rec *event.Record) {
	switch {
	case tooLate(rec):
		v.skip(rec, rec.EventID, SkipSuperseded)
	case rec.State == event.Replayed && rec.LastErrKind == "": // else it has fallen back to what an earlier replay had made of it
		v.Replayed++
	default:
		v.Failed++
	}
}

// drain takes in the changes that have come since the last call.
func (w *runner) drain() {
	batch, lost := w.r.hub.take(w.changes)
	for i := range batch {
		w.ended(&batch[i])
	}
	if !lost {
		return
	}
	w.changes.last = w.r.reached()
	ids := make([]event.ID, 0, len(w.waiting))
	for id := range w.waiting {
		ids = append(ids, id)
	}
	for _, id := range ids {
		if rec, _, err := w.r.journal.Get(w.r.ctx, id, false); err == nil {
			w.ended(&rec)
		} else if errors.Is(err, journal.ErrNotFound) {
			w.ended(&event.Record{ID: id, State: event.Failed})
		}
	}
}

// wait returns when something has changed; errJobStopped if the job was.
func (w *runner) wait() error {
	select {
	case <-w.changes.ready:
		w.drain()
		return nil
	case <-w.j.cancel:
	case <-w.r.jobs.stop:
	}
	return errJobStopped
}

// seeOut counts what a cancelled job has sent, until all of it has ended or the process does.
func (w *runner) seeOut() {
	w.batch, w.held = nil, 0
	clear(w.lines)
	for len(w.waiting) > 0 {
		select {
		case <-w.changes.ready:
			w.drain()
		case <-w.r.jobs.stop:
			return
		}
	}
	w.j.counted.Store(true)
	w.r.finishJob(w.j, nil)
}

// finishJob writes how the job ended; one that the end of the process stopped goes on at the next start.
func (r *Recovery) finishJob(j *job, err error) {
	j.mu.Lock()
	stopped := j.stopped
	j.mu.Unlock()
	end := "done"
	switch {
	case stopped || err == nil: // stopped: CancelReplay has said so
	case errors.Is(err, errJobStopped), errors.Is(err, context.Canceled), errors.Is(err, journal.ErrClosed):
		return
	default:
		end = "failed"
		r.log.Error("replay failed", "replay", j.Replay.ID, "error", err)
	}
	if err := r.store(context.Background(), j, end); err != nil {
		r.log.Error("replay not stored", "replay", j.Replay.ID, "error", err)
	}
}
