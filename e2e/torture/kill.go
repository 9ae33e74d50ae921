package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// scene is a gateway between its senders and its consumer, and their books.
type scene struct {
	b    *bench
	book *ledger.Book
	c    *consumer
	g    *gateway
	s    *senders

	probed string       // a file on the gateway's disk to measure fsyncs with; "" = do not
	late   atomic.Int64 // the longest of them under the present load, in nanoseconds
}

func newScene(b *bench, data, journal, delivery string) (*scene, error) {
	sc := &scene{b: b, book: &ledger.Book{}}
	var err error
	if sc.c, err = newConsumer(sc.book); err != nil {
		return nil, err
	}
	if sc.g, err = newGateway(b, data, journal, delivery, sc.c.addr); err != nil {
		return nil, err
	}
	sc.s = &senders{book: sc.book, g: sc.g, n: 16, pad: 2000}
	return sc, nil
}

func (sc *scene) close() {
	sc.g.kill()
	sc.c.close()
}

// load sends until stop is called; stop waits for the senders.
func (sc *scene) load(seed uint64) (stop func()) {
	ctx, cancel := context.WithCancel(sc.b.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { sc.s.run(ctx, seed) })
	sc.late.Store(0)
	if sc.probed != "" {
		wg.Go(func() { sc.probe(ctx) })
	}
	return func() { cancel(); wg.Wait() }
}

// probe measures how long the disk lets an fsync wait: on one that others use, too, an outcome of the gateway waits as long before it is written.
func (sc *scene) probe(ctx context.Context) {
	f, err := os.Create(sc.probed)
	if err != nil {
		return
	}
	defer f.Close()
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := f.WriteAt([]byte{1}, 0); err != nil || f.Sync() != nil {
			return
		}
		sc.late.Store(max(sc.late.Load(), int64(time.Since(began))))
		time.Sleep(5 * time.Millisecond)
	}
}

// interrupt kills the gateway and books the interruption. The pause lets requests that had left the gateway come in.
func (sc *scene) interrupt(stop func()) {
	began := sc.book.Begin()
	sc.g.kill()
	stop()
	time.Sleep(10 * time.Millisecond)
	sc.book.Late = time.Duration(sc.late.Load())
	sc.book.Cut(ledger.Kill, began)
}

// judge lets everything come to its end and compares the books.
func (sc *scene) judge() (ledger.Report, error) {
	sc.c.down.Store(false)
	sc.c.slow.Store(0)
	if err := sc.g.drained(3 * time.Minute); err != nil {
		return ledger.Report{}, err
	}
	states, err := sc.g.states(time.Time{})
	if err != nil {
		return ledger.Report{}, err
	}
	return sc.book.Judge(states), sc.g.panics()
}

// times is a few durations, summarised.
type times []time.Duration

func (t times) String() string {
	if len(t) == 0 {
		return "none"
	}
	s := slices.Clone(t)
	slices.Sort(s)
	return fmt.Sprintf("median %s, longest %s", s[len(s)/2].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond))
}

// underLoad lets the gateway work for a random while, ends that, starts it again and checks, cycle by cycle; in every outage-th the consumer refuses, so that there is a backlog.
// It says how long each start took.
func (sc *scene) underLoad(outage int, end func(stop func()) error, check func(cycle int, began time.Time) error) (times, error) {
	b := sc.b
	var ready times
	if _, err := sc.g.launch(); err != nil {
		return nil, err
	}
	for cycle := range b.cycles {
		if b.ctx.Err() != nil {
			return nil, b.ctx.Err()
		}
		sc.c.down.Store(cycle%outage == outage-1)
		began := time.Now()
		stop := sc.load(b.seed + uint64(cycle))
		time.Sleep(time.Duration(50+b.rnd.IntN(400)) * time.Millisecond)
		if err := end(stop); err != nil {
			return nil, fmt.Errorf("cycle %d: %w", cycle, err)
		}
		took, err := sc.g.launch()
		if err == nil {
			ready = append(ready, took)
			err = check(cycle, began)
		}
		if err != nil {
			return nil, fmt.Errorf("cycle %d: %w", cycle, err)
		}
	}
	return ready, nil
}

// killUnderLoad kills at random moments, under a consumer that takes its time.
func killUnderLoad(b *bench, mode string) (result, error) {
	sc, err := newScene(b, filepath.Join(b.dir, "data"), "min_free: 64MiB", "mode: "+mode)
	if err != nil {
		return result{}, err
	}
	defer sc.close()
	sc.probed = filepath.Join(b.dir, "probe")
	ready, err := sc.underLoad(3, func(stop func()) error { sc.interrupt(stop); return nil }, func(int, time.Time) error {
		sc.c.slow.Store(int64(b.rnd.IntN(int(10 * time.Millisecond))))
		return nil
	})
	if err != nil {
		return result{}, err
	}
	r, err := sc.judge()
	return result{r, "ready again: " + ready.String()}, err
}

// killDuringRecovery kills the gateway while it opens its journal or has just begun to deliver a backlog.
func killDuringRecovery(b *bench) (result, error) {
	sc, err := newScene(b, filepath.Join(b.dir, "data"), "min_free: 64MiB", "mode: store")
	if err != nil {
		return result{}, err
	}
	defer sc.close()
	full, err := sc.g.launch()
	if err != nil {
		return result{}, err
	}
	sc.c.down.Store(true)
	opened := 0
	for cycle := range b.cycles {
		if b.ctx.Err() != nil {
			return result{}, b.ctx.Err()
		}
		if cycle%10 == 0 { // something new to recover
			if cycle > 0 {
				if full, err = sc.g.launch(); err != nil {
					return result{}, fmt.Errorf("cycle %d: %w", cycle, err)
				}
			}
			sc.c.down.Store(true)
			stop := sc.load(b.seed + uint64(cycle))
			time.Sleep(400 * time.Millisecond)
			sc.interrupt(stop)
			sc.c.down.Store(cycle%20 == 0)
		}
		if err := sc.g.start(); err != nil {
			return result{}, err
		}
		select {
		case <-time.After(time.Duration(b.rnd.Int64N(int64(full) * 2))):
		case <-sc.g.gone:
			return result{}, fmt.Errorf("cycle %d: the process ended by itself, %s:\n%s", cycle, sc.g.ended(), sc.g.stderr())
		}
		if sc.g.status("/readyz") == 200 {
			opened++
		}
		sc.interrupt(func() {})
	}
	if _, err := sc.g.launch(); err != nil {
		return result{}, err
	}
	r, err := sc.judge()
	return result{r, fmt.Sprintf("killed before it was ready: %d, after: %d", b.cycles-opened, opened)}, err
}

// backlog kills the gateway while many events are pending, and measures the start.
func backlog(b *bench) (result, error) {
	sc, err := newScene(b, filepath.Join(b.dir, "data"), "min_free: 64MiB", "mode: store")
	if err != nil {
		return result{}, err
	}
	defer sc.close()
	if _, err := sc.g.launch(); err != nil {
		return result{}, err
	}
	sc.c.down.Store(true)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < b.cycles && b.ctx.Err() == nil; i += 64 {
				id := fmt.Sprintf("evt_%d", i)
				l := letter{path: "/s", id: id, body: body(id, "", 0, 200)}
				sc.book.Send(id, l.body, false)
				sc.s.post(b.ctx, l, hooktest.Custom(secret, l.body, time.Now()))
			}
		})
	}
	wg.Wait()
	if n, err := sc.g.pending(); err != nil || n < b.cycles*9/10 {
		return result{}, errors.Join(err, fmt.Errorf("only %d of %d events are pending", n, b.cycles))
	}
	var ready, spent times
	for range 5 {
		sc.interrupt(func() {})
		took, err := sc.g.launch()
		if err != nil {
			return result{}, err
		}
		used, err := hooktest.CPU(sc.g.cmd.Process.Pid)
		if err != nil {
			return result{}, err
		}
		ready, spent = append(ready, took), append(spent, used)
	}
	r, err := sc.judge()
	return result{r, fmt.Sprintf("ready with %d pending: %s; processor time until then: %s", b.cycles, ready, spent)}, err
}
