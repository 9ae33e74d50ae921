package embedded

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// An op is one call that waits for the writer. The caller prepares it (everything that can be encoded without knowing what
// others write), the writer decides it, and whoever writes or syncs for it releases it.
type op struct {
	durability journal.Durability
	accepts    []acceptItem
	commits    []commitItem
	verdicts   []journal.Verdict   // one for each of accepts; the caller's afterwards
	outcomes   []journal.Outcome   // one for each of commits; the caller's afterwards
	run        func(*writer) error // for the rarer kinds; its error is the journal's failure

	wait uint64 // the frame that must be on disk (or, for Written, written) before the release
	err  error
	done chan struct{} // capacity 2: a value where the caller is to lead the next fsync (lead is set then), and one at the release, unless the caller itself decided it (see end)

	leads bool // the caller can lead an fsync; guarded by syncs.mu once the op is queued
	lead  bool // it is to; written before the value in done

	buf  []byte      // bodies of the items
	keys []event.Key // of the items
}

type acceptItem struct {
	frame    frame
	parts    parts
	received int64
	owners   [maxKeys]event.Seq // of the keys, in the index as of gen
	gen      uint64
	verdict  *journal.Verdict // holds the record as it was given until it is decided
}

type commitItem struct {
	frame   frame
	parts   parts
	found   *item // the event as of gen, in the overlay or, if that did not have it, in the index
	gen     uint64
	attempt [1][]byte        // of parts
	outcome *journal.Outcome // holds the record as it was given until it is decided
}

// queue holds the ops that nobody has taken yet, and the writer's lead. Who pushes an op while nobody leads decides it itself: then no goroutine has to be
// woken for it. What comes in meanwhile is up to the writer's goroutine.
type queue struct {
	mu    sync.Mutex
	ops   []*op
	spare []*op
	err   error         // set once: no more ops
	led   bool          // somebody leads. From the beginning, so that nothing is decided before Run
	turn  chan struct{} // capacity 1: the lead, for the writer's goroutine
}

// push adds an op; lead says that the caller leads now (see writer.once). The error is the one that the queue was closed with.
func (q *queue) push(o *op) (lead bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false, q.err
	}
	q.ops = append(q.ops, o)
	lead = !q.led
	q.led = true
	return lead, nil
}

// nudge has the writer's goroutine look for something to do, if nobody leads.
func (q *queue) nudge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.led {
		q.led = true
		q.turn <- struct{}{}
	}
}

// take gives everything queued, in order; the slice is valid until the next take. open is false once the queue is closed. The caller leads.
func (q *queue) take() (ops []*op, open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops = q.ops
	q.ops = q.spare[:0]
	q.spare = ops
	return ops, q.err == nil
}

// resign gives up the lead; false: there is something to do, and the caller still leads.
func (q *queue) resign(more func() bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ops) > 0 || q.err != nil || more() {
		return false
	}
	q.led = false
	return true
}

func (q *queue) close(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.nudge()
}

// newOp takes an op from the pool.
func (e *Engine) newOp(d journal.Durability) *op {
	o, _ := e.pool.Get().(*op)
	if o == nil {
		o = &op{done: make(chan struct{}, 2)}
	}
	o.durability = d
	return o
}

// keepBuf bounds the buffer that an op in the pool keeps, in bytes: events of usual size need no new one.
const keepBuf = 256 << 10

// free puts an op back that nobody else holds any more.
func (e *Engine) free(o *op) {
	clear(o.accepts)
	clear(o.commits)
	if cap(o.buf) > keepBuf {
		o.buf = nil
	}
	*o = op{done: o.done, accepts: o.accepts[:0], commits: o.commits[:0], buf: o.buf[:0], keys: o.keys[:0]}
	e.pool.Put(o)
}

// submit queues an op and waits for its release. After an error of ctx the op still runs and must not be used again.
func (e *Engine) submit(ctx context.Context, o *op) (abandoned bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, err
	}
	o.leads = true
	lead, err := e.queue.push(o)
	if err != nil {
		return true, err
	}
	if lead {
		syncs, done := e.writer.once(o)
		if done {
			return false, o.err
		}
		if syncs {
			e.leadSync()
		}
	}
	for o.await(ctx) {
		if !o.lead {
			return false, o.err
		}
		o.lead = false
		e.leadSync()
	}
	e.syncs.leave(o)
	return true, ctx.Err()
}

// await waits for a value in done; false: ctx has ended.
func (o *op) await(ctx context.Context) bool {
	gone := ctx.Done()
	if gone == nil { // to wait for one channel costs a third less
		<-o.done
		return true
	}
	select {
	case <-o.done:
		return true
	case <-gone:
		return false
	}
}

// call runs fn in the writer and waits for its group to reach d.
func (e *Engine) call(ctx context.Context, d journal.Durability, fn func(*writer) error) error {
	_, err := e.submit(ctx, &op{durability: d, run: fn, done: make(chan struct{}, 2)})
	return err
}

// A body is built behind the others in the op's buffer. Appending may move the buffer, so the parts that alias it are cut
// only when all bodies are there: a bodyPlan remembers offsets meanwhile.
type bodyPlan struct {
	from, to               int
	recordFrom, recordTo   int
	attemptFrom, attemptTo int
	payloadFrom, payloadTo int
}

func (p *bodyPlan) record(b []byte, r *event.Record) []byte {
	b, at := openSection(b, secRecord)
	b = closeSection(appendRecord(b, r), at)
	p.recordFrom, p.recordTo = at, len(b)
	return b
}

func (p *bodyPlan) attempt(b []byte, a *event.Attempt) []byte {
	if a == nil {
		return b
	}
	b, at := openSection(b, secAttempt)
	b = closeSection(appendAttempt(b, a), at)
	p.attemptFrom, p.attemptTo = at, len(b)
	return b
}

func (p *bodyPlan) payload(b []byte, payload *event.Payload) []byte {
	if payload == nil {
		return b
	}
	b = slices.Grow(b, payload.Size()+len(payload.Method)+len(payload.Peer)+64)
	b, at := openSection(b, secPayload)
	b = append(b, 0, 0, 0, 0)
	b = closeSection(appendPayload(b, payload), at)
	binary.LittleEndian.PutUint32(b[at:], checksum(b[at+4:]))
	p.payloadFrom, p.payloadTo = at, len(b)
	return b
}

func appendResourceSection(b []byte, r *event.ResourceState) []byte {
	if r == nil {
		return b
	}
	b, at := openSection(b, secResource)
	return closeSection(appendResource(b, r), at)
}

func appendKeySection(b []byte, s section, keys []event.Key) []byte {
	if len(keys) == 0 {
		return b
	}
	b, at := openSection(b, s)
	return closeSection(appendKeys(b, keys), at)
}

// cut fills the frame and the parts from the finished buffer.
func (p *bodyPlan) cut(buf []byte, r *event.Record, f *frame, x *parts) {
	f.body = buf[p.from:p.to:p.to]
	f.bodySum = checksum(f.body)
	x.record, x.front, x.source = buf[p.recordFrom:p.recordTo], frontOf(r), r.Source
	if p.attemptTo > 0 {
		x.attempts = append(x.attempts, buf[p.attemptFrom:p.attemptTo])
	}
	if p.payloadTo > 0 {
		x.payload, x.payloadAt = buf[p.payloadFrom:p.payloadTo], p.payloadFrom-p.from
		f.flags |= flagPayload
	}
}
