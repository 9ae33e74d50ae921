// Package embedded is the journal's one-machine engine: an append-only log that is the truth, and a disposable index over
// it. See DESIGN.md.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// An Engine is a journal.Journal on one machine. Open makes it; Run does its work; Close ends it. All methods are safe for
// concurrent use; those that write wait until Run runs.
type Engine struct {
	opts   Options
	lock   *os.File
	wal    *wal
	index  *index
	ledger *ledger      // written by whoever holds syncs.ledger
	born   int64        // Unix nanoseconds: when the journal was created
	covers atomic.Int64 // what was received before may be missing: it was lost, or retention has taken its id
	// rebuilding: the index is incomplete and must not say how far it is. Only while Open runs.
	rebuilding bool
	pool       sync.Pool

	queue   queue
	writer  *writer // made by Run; used by whoever leads the queue
	syncs   syncs
	applier applier
	filters filters
	walks   walks
	sweeper sweeper
	space   *space
	clock   clock

	// mu guards what readers see. The writer changes the active layer and what belongs to it, the applier moves layers.
	mu         sync.RWMutex
	active     *layer
	frozen     *layer                         // being written to the index; nil if nothing is
	spare      *layer                         // an empty one for the next freeze; may be nil
	snap       *snapshot                      // nil once closed
	indexed    uint64                         // the number of the last frame that a flush has put into it; 0 = none since the start
	reading    sync.WaitGroup                 // views in use; added to with mu held and snap set
	gen        atomic.Uint64                  // of snap; changed with mu held, after snap
	recent     [64]atomic.Pointer[recentItem] // what readers found in the index lately, by number
	counts     counters
	horizon    int64
	nextSeq    event.Seq
	notes      map[event.ID]noteCount // not taken by the writer yet
	notesTaken map[event.ID]noteCount // in the writer's present group
	notesDue   bool                   // notes have waited for as long as they may

	failOnce sync.Once
	failed   chan struct{}
	failErr  error // set before failed is closed

	groups, items atomic.Int64
	full          atomic.Bool
	retention     atomic.Pointer[journal.Retention]

	life     sync.Mutex
	running  bool
	closing  chan struct{}
	closed   bool
	stopped  chan struct{}
	closeErr error // set before stopped is closed
}

var _ journal.Journal = (*Engine)(nil)

// errRun: Run was called twice.
var errRun = errors.New("journal: Run was called before")

// Run does the engine's work until Close is called, ctx ends (which closes the engine) or the journal fails and is closed.
// It returns when nothing is left running, with the error that Close returns. It must be called once.
func (e *Engine) Run(ctx context.Context) error {
	e.life.Lock()
	if e.running || e.closed {
		closed := e.closed && !e.running
		e.life.Unlock()
		if closed {
			return nil
		}
		return errRun
	}
	e.running = true
	e.life.Unlock()

	stopPrepare, stopSync, stopApply := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var writing, preparing, syncing, applying, filtering sync.WaitGroup
	e.writer = newWriter(e)
	writing.Go(e.writer.loop)
	preparing.Go(func() { e.wal.prepare(stopPrepare) })
	syncing.Go(func() { e.syncLoop(stopSync) })
	applying.Go(func() { e.applyLoop(stopApply) })
	filtering.Go(func() { e.buildFilters(e.closing) })
	if !e.opts.InBubble {
		filtering.Go(func() { e.space.guard(e.closing) })
	}
	select {
	case <-ctx.Done():
		e.beginClose()
	case <-e.closing:
	}
	writing.Wait()
	close(stopApply)
	applying.Wait()
	filtering.Wait()
	e.dropFilterJob()
	close(stopSync)
	syncing.Wait()
	close(stopPrepare)
	preparing.Wait()
	return e.finish()
}

// Close writes what is queued, syncs, brings the index up to date and releases the files; it waits for Run to return. A
// second call returns what the first one did.
func (e *Engine) Close() error {
	if run := e.beginClose(); run {
		<-e.stopped
		return e.closeErr
	}
	return e.finish()
}

// beginClose refuses further calls; it says whether Run finishes the rest.
func (e *Engine) beginClose() (run bool) {
	e.life.Lock()
	defer e.life.Unlock()
	if !e.closed {
		e.closed = true
		e.queue.close(journal.ErrClosed)
		close(e.closing)
	}
	return e.running
}

// finish releases the files, once.
func (e *Engine) finish() error {
	e.life.Lock()
	defer e.life.Unlock()
	select {
	case <-e.stopped:
		return e.closeErr
	default:
	}
	ops, _ := e.queue.take()
	for _, o := range ops {
		o.release(journal.ErrClosed)
	}
	e.mu.Lock()
	snap := e.snap
	e.snap = nil
	e.mu.Unlock()
	e.reading.Wait()
	snap.release()
	err := e.Err()
	if err == nil {
		err = e.ledger.file.Sync()
	}
	err = errors.Join(err, e.closeFiles())
	e.closeErr = err
	close(e.stopped)
	return err
}

// closeFiles leaves the index as it is where the volume is full: Badger ends by writing a table through a mapping, and would die of SIGBUS. The next start makes up
// for that, as after a kill; the lock stays until the process ends, since Badger does not stop.
func (e *Engine) closeFiles() error {
	var errs []error
	left := e.index != nil && e.space.scarce()
	if left {
		e.opts.Log.Warn("the volume is full: the index is left as a kill would leave it")
	} else if e.index != nil {
		failed := e.failed
		if e.Err() != nil {
			failed = nil
		}
		closed := make(chan error, 1)
		go func() { closed <- e.index.close() }()
		select {
		case err := <-closed:
			errs = append(errs, err)
		case <-failed: // Badger tries again for ever to write its last table
			left = true
			errs = append(errs, e.Err())
		}
	}
	if e.wal != nil {
		errs = append(errs, e.wal.close())
	}
	if e.ledger != nil {
		errs = append(errs, e.ledger.file.Close())
	}
	if !left {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

// fail makes the journal's failure final and gives it as callers see it.
func (e *Engine) fail(cause error) error {
	e.failOnce.Do(func() {
		e.failErr = fmt.Errorf("%w: %w", journal.ErrFailed, cause)
		close(e.failed)
	})
	e.syncs.abort(e.failErr)
	return e.failErr
}

// failure is the error that the journal failed with, nil if it did not.
func (e *Engine) failure() error {
	select {
	case <-e.failed:
		return e.failErr
	default:
		return nil
	}
}

// Failed is closed when a write or fsync has failed. No later write succeeds.
func (e *Engine) Failed() <-chan struct{} { return e.failed }

// Err is why the journal failed (journal.ErrFailed and its cause), nil while it has not.
func (e *Engine) Err() error { return e.failure() }

// usable is the error of a read on a closed journal.
func (e *Engine) usable(ctx context.Context) error {
	select {
	case <-e.closing:
		return journal.ErrClosed
	default:
		return ctx.Err()
	}
}
