package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A job is stored as a head under replay/<id>, written last, and parts of its lists under replay-ids/<id>/ and replay-skips/<id>/, since one
// value holds at most 64 KiB.
const (
	headPrefix  = "replay/"
	idsPrefix   = "replay-ids/"
	skipsPrefix = "replay-skips/"
	donePrefix  = "replay-done/" // job.done, written much more often than the head
	maxValue    = 60 << 10
)

// storedJob is the head.
type storedJob struct {
	Replay     Replay
	Spec       ReplaySpec
	MaxSeq     event.Seq
	After      event.Seq
	IDs, Skips int  // parts
	Open       bool // cancelled, and some of what it had sent has not ended
}

func partKey(prefix, id string, n int) string { return fmt.Sprintf("%s%s/%05d", prefix, id, n) }

// storeNew writes a job for the first time, with its ids.
func (r *Recovery) storeNew(ctx context.Context, j *job) error {
	n, err := storeParts(ctx, r.journal, idsPrefix, j.Replay.ID, j.Spec.IDs)
	if err != nil {
		return err
	}
	j.ids = n
	return r.store(ctx, j, "")
}

// store writes how far a job is, or that it has come to an end ("" = it has not), which it is seen to have once that is stored: a crash does not take it back. Once it has ended
// its skips are in the journal only.
func (r *Recovery) store(ctx context.Context, j *job, end string) error {
	j.storing.Lock()
	defer j.storing.Unlock()
	v := j.view()
	if end != "" && v.State == "running" {
		v.State, v.FinishedAt = end, time.Now()
		defer func() {
			j.mu.Lock()
			if !j.stopped {
				j.Replay.State, j.Replay.FinishedAt = v.State, v.FinishedAt
			}
			j.mu.Unlock()
		}()
	}
	ended := v.State != "running"
	skips := j.skips
	if ended && len(v.Skips) > 0 {
		var err error
		if skips, err = storeParts(ctx, r.journal, skipsPrefix, v.ID, v.Skips); err != nil {
			return err
		}
	}
	listed := len(v.Skips)
	v.Skips = nil
	head := storedJob{Replay: v, Spec: j.Spec, MaxSeq: j.MaxSeq, After: j.After, IDs: j.ids, Skips: skips, Open: v.State == "cancelled" && !j.counted.Load()}
	head.Spec.IDs = nil
	raw, err := json.Marshal(head)
	if err != nil {
		return err
	}
	if err := r.journal.MetaPut(ctx, headPrefix+v.ID, raw, journal.Synced); err != nil {
		return err
	}
	if !ended || listed == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.skips = skips
	if len(j.Replay.Skips) == listed && !j.stopped { // one that was cancelled may still add to them
		j.Replay.Skips = nil
	}
	return nil
}

// storeDone writes up to where a job that goes on after a restart has nothing left to send.
func (r *Recovery) storeDone(ctx context.Context, j *job, done event.Seq) error {
	if done <= j.done {
		return nil
	}
	j.done = done
	return r.journal.MetaPut(ctx, donePrefix+j.Replay.ID, strconv.AppendUint(nil, uint64(done), 10), journal.Written)
}

// storeParts writes a list in parts that fit, and says how many.
func storeParts[T any](ctx context.Context, jl journal.Journal, prefix, id string, list []T) (n int, err error) {
	for len(list) > 0 {
		k := len(list)
		raw, err := json.Marshal(list[:k])
		for err == nil && len(raw) > maxValue && k > 1 {
			k = max(1, min(k-1, k*maxValue/len(raw)))
			raw, err = json.Marshal(list[:k])
		}
		if err != nil {
			return n, err
		}
		if err := jl.MetaPut(ctx, partKey(prefix, id, n), raw, journal.Written); err != nil {
			return n, err
		}
		list, n = list[k:], n+1
	}
	return n, nil
}

func loadParts[T any](ctx context.Context, jl journal.Journal, prefix, id string, n int) ([]T, error) {
	var list []T
	for i := range n {
		raw, err := jl.MetaGet(ctx, partKey(prefix, id, i))
		if err != nil {
			return nil, err
		}
		var part []T
		if err := json.Unmarshal(raw, &part); err != nil {
			return nil, fmt.Errorf("stored replay %s: %w", id, err)
		}
		list = append(list, part...)
	}
	return list, nil
}

// whole is a job with its skips, wherever they are.
func (r *Recovery) whole(ctx context.Context, j *job) (Replay, error) {
	j.mu.Lock()
	n := j.skips
	j.mu.Unlock()
	v := j.view()
	if len(v.Skips) > 0 || n == 0 {
		return v, nil
	}
	var err error
	v.Skips, err = loadParts[Skip](ctx, r.journal, skipsPrefix, v.ID, n)
	return v, err
}

// forget takes a job out of the journal.
func (r *Recovery) forget(j *job) error {
	ctx, id := context.Background(), j.Replay.ID
	keys := []string{headPrefix + id, donePrefix + id}
	for i := range j.ids {
		keys = append(keys, partKey(idsPrefix, id, i))
	}
	j.mu.Lock()
	skips := j.skips
	j.mu.Unlock()
	for i := range skips {
		keys = append(keys, partKey(skipsPrefix, id, i))
	}
	return r.drop(ctx, keys)
}

// drop takes values out of the journal.
func (r *Recovery) drop(ctx context.Context, keys []string) error {
	for _, k := range keys {
		if err := r.journal.MetaPut(ctx, k, nil, journal.Written); err != nil {
			return err
		}
	}
	return nil
}

// eachStored gives f every stored value whose key has a prefix; one that is not readable is logged and left out.
func eachStored[T any](ctx context.Context, r *Recovery, prefix string, f func(T) error) error {
	entries, err := r.journal.MetaList(ctx, prefix)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var v T
		if err := json.Unmarshal(e.Value, &v); err != nil {
			r.log.Error("stored replay not readable", "key", e.Key, "error", err)
			continue
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// loadReplays brings back the jobs; those that were running start again, and find in the records what they have sent. Those that were cancelled see out what they had sent.
func (r *Recovery) loadReplays(ctx context.Context) error {
	return eachStored(ctx, r, headPrefix, func(st storedJob) (err error) {
		j := &job{Replay: st.Replay, Spec: st.Spec, MaxSeq: st.MaxSeq, After: st.After, ids: st.IDs, skips: st.Skips, cancel: make(chan struct{})}
		r.jobs.mu.Lock()
		r.jobs.all[j.Replay.ID] = j
		r.jobs.mu.Unlock()
		if j.Replay.State != "running" && !st.Open {
			return nil
		}
		if j.Spec.IDs, err = loadParts[string](ctx, r.journal, idsPrefix, j.Replay.ID, st.IDs); err != nil {
			return err
		}
		raw, err := r.journal.MetaGet(ctx, donePrefix+j.Replay.ID)
		if err != nil {
			return err
		}
		done, _ := strconv.ParseUint(string(raw), 10, 64) // none: nothing is known to be sent
		j.done, j.resumed = event.Seq(done), true
		j.Replay.Sent, j.Replay.Replayed, j.Replay.Failed = 0, 0, 0
		if j.open = st.Open; !j.open {
			j.Replay.Skipped, j.Replay.Skips = 0, nil
		} else if j.Replay.Skips, err = loadParts[Skip](ctx, r.journal, skipsPrefix, j.Replay.ID, st.Skips); err != nil {
			return err
		} else {
			j.stopped = true
			close(j.cancel)
		}
		r.begin(func() { r.runJob(j) })
		return nil
	})
}
