package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
)

// smallRequest is the size in bytes up to which head and body are copied together and leave in one write.
const smallRequest = 16 << 10

// sendBufs holds buffers for requests.
var sendBufs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// An Exchange is one request and the wait for its answer. One goroutine at a time may use it; another may go on where one left off. It must not be
// copied, and begins with Begin.
type Exchange struct {
	client   *Client
	ctx      context.Context
	link     *link
	started  time.Time
	deadline time.Time

	head *[]byte     // pooled; the request's head, or all of a small request
	rest [2][]byte   // storage of todo
	todo net.Buffers // what is still to be written, slices of head and of the call's body
	own  bool        // todo belongs to the exchange: the call's memory is free

	sent   bool // a byte has left, or may have
	full   bool // the whole request has been written
	parser parser
	done   bool
	result Result
}

// Begin prepares an exchange; Wait, to be called next, sends the request. The end of ctx breaks the exchange off (hard shutdown).
func (x *Exchange) Begin(ctx context.Context, c *Client, call *Call) {
	*x = Exchange{client: c, ctx: ctx, started: c.now()}
	x.deadline = x.started.Add(c.timeout)
	x.parser.begin(call.Method == "HEAD")
	x.compose(call)
	x.link = c.idleLink(ctx, x.started)
}

func (x *Exchange) compose(call *Call) {
	x.head = sendBufs.Get().(*[]byte)
	b := Compose((*x.head)[:0], call, x.client.prefix, x.client.host)
	if x.client.trust.lost(x.started) {
		b = append(b[:len(b)-2], "Connection: close\r\n\r\n"...)
	}
	x.todo = append(x.rest[:0], nil)
	if len(b)+len(call.Body) <= smallRequest {
		b = append(b, call.Body...)
		x.own = true
	} else if len(call.Body) > 0 {
		x.todo = append(x.todo, call.Body)
	}
	*x.head = b
	x.todo[0] = b
}

// idleLink takes a kept connection; nil if there is none. Nothing waits to be read from it, or turn finds that out.
func (c *Client) idleLink(ctx context.Context, now time.Time) *link {
	if c.trust.lost(now) {
		c.pool.drop()
		return nil
	}
	for {
		l := c.pool.take(now)
		if l == nil {
			return nil
		}
		if !l.watch(ctx) {
			l.close()
			continue
		}
		if l.turns() || l.clean() {
			return l
		}
		c.drop(l, now)
	}
}

// drop closes a kept connection that something waits to be read from.
func (c *Client) drop(l *link, now time.Time) {
	if l.surplus || now.Sub(l.idleSince) < 100*time.Millisecond {
		c.trust.lose(now) // it sends what nobody asked for, or closes what it promised to keep
	}
	l.close()
}

// Wait goes on with the exchange until it is over (true) or until has passed (false; the zero time means no bound but the
// upstream's timeout). It may be called again, also from another goroutine, and resumes exactly where it was; nothing is lost of an
// answer that is half read. A dial that has not succeeded by then is given up: nothing was sent, the exchange is over. Once Wait has
// returned, the slices of the Call are free.
func (x *Exchange) Wait(until time.Time) bool {
	by, short := x.deadline, false
	if !until.IsZero() && until.Before(by) {
		by, short = until, true
	}
	for !x.done {
		var err error
		switch {
		case x.link == nil:
			err = x.connect(by)
		case !x.full && !x.sent && len(x.todo) == 1 && x.link.turns():
			err = x.turn(by)
		case !x.full:
			err = x.write(by)
			switch {
			case err == nil:
			case !isTimeout(err):
				err = x.writeFailed(err)
			case x.sent && !x.link.cancelled.Load() && !x.client.now().Before(x.deadline):
				by, err = x.lastLook(), nil
			}
		default:
			err = x.read(by)
		}
		if err == nil {
			continue
		}
		if short && isTimeout(err) && x.link != nil && !x.link.cancelled.Load() && x.client.now().Before(x.deadline) {
			x.detach()
			return false
		}
		x.fail(err)
	}
	return true
}

// Result is what came of it. Only after Wait has returned true.
func (x *Exchange) Result() Result { return x.result }

// connect dials. No byte has been sent before it returns.
func (x *Exchange) connect(by time.Time) error {
	l, err := x.client.connect(x.ctx, by)
	if err != nil {
		return err
	}
	x.link = l
	if !l.watch(x.ctx) {
		return context.Canceled
	}
	if !l.tls && !l.clean() && l.surplus {
		return x.tooEarly()
	}
	return nil
}

// tooEarly is for a new connection on which the upstream speaks first.
func (x *Exchange) tooEarly() error {
	x.client.trust.lose(x.started)
	return malformed("it came before the request")
}

// turn sends the request and takes the first bytes of the answer.
func (x *Exchange) turn(by time.Time) error {
	l := x.link
	n, err := l.turn(x.todo[0], by)
	if x.todo[0] = x.todo[0][n:]; len(x.todo[0]) == 0 {
		x.full = true
		x.free()
	}
	x.sent = n > 0
	switch {
	case x.full:
		return x.readFailed(err)
	case l.stale && l.used:
		x.client.drop(l, x.client.now())
		x.link = x.client.idleLink(x.ctx, x.started)
		return nil
	case l.stale && l.surplus:
		return x.tooEarly()
	case l.stale:
		return io.ErrUnexpectedEOF
	case err == nil && !x.sent: // there was no room for a byte
		return x.write(by)
	case err != nil && !isTimeout(err):
		return x.writeFailed(err)
	}
	return err
}

// write writes what is left of the request.
func (x *Exchange) write(by time.Time) error {
	slack := time.Duration(0)
	if by.Equal(x.deadline) {
		slack = x.client.timeout / 16
	}
	x.link.writeUntil(by, slack)
	if x.link.cancelled.Load() {
		return context.Canceled
	}
	var n int64
	var err error
	switch {
	case x.link.tls:
		n, err = x.link.seal(&x.todo)
	case len(x.todo) == 1:
		var k int
		k, err = x.link.nc.Write(x.todo[0])
		n, x.todo[0] = int64(k), x.todo[0][k:]
	default:
		n, err = x.todo.WriteTo(x.link.nc)
	}
	x.sent = x.sent || n > 0 || x.link.tls
	if err == nil {
		x.full = true
		x.free()
	}
	return err
}

// writeFailed decides what a broken write means. If no byte has left, a kept connection has simply ended, and another is taken; if
// some have, the upstream may have answered early, so its answer is looked for.
func (x *Exchange) writeFailed(err error) error {
	switch {
	case x.link.cancelled.Load():
		return context.Canceled
	case x.sent:
		x.full = true
		x.link.cutOff = true
		x.free()
		return nil
	case x.link.used:
		x.link.close()
		x.link = nil
		return nil
	}
	return err
}

// lastLook gives up writing because the time is up. An upstream that does not read may have answered all the same, and what it said has come long ago.
func (x *Exchange) lastLook() (by time.Time) {
	x.full, x.link.cutOff = true, true
	x.free()
	x.deadline = x.client.now().Add(x.client.timeout / 16)
	return x.deadline
}

// detach copies what has not been written yet, so that the call's memory is free.
func (x *Exchange) detach() {
	if x.full || x.own {
		return
	}
	x.own = true
	x.rest = [2][]byte{bytes.Join(x.todo, nil)}
	x.todo = x.rest[:1]
	x.recycle()
}

func (x *Exchange) free() {
	x.todo, x.rest = nil, [2][]byte{}
	x.recycle()
}

func (x *Exchange) recycle() {
	if x.head != nil && cap(*x.head) <= 2*smallRequest {
		sendBufs.Put(x.head)
	}
	x.head = nil
}

// read takes one step of the answer.
func (x *Exchange) read(by time.Time) error {
	l, p := x.link, &x.parser
	if l.r < l.w {
		n, err := p.feed(l.buf[l.r:l.w])
		l.r += n
		if err != nil {
			return err
		}
		if p.phase == phaseDone {
			return x.complete()
		}
	}
	return x.readFailed(x.fetch(by))
}

// readFailed decides what the end of the connection means; other errors, and none, it passes on.
func (x *Exchange) readFailed(err error) error {
	if err == io.EOF {
		if err = x.parser.end(); err == nil {
			return x.complete()
		}
	}
	return err
}

// fetch reads from the connection: straight into the body where its length is known, else into the link's buffer.
func (x *Exchange) fetch(by time.Time) error {
	l, p := x.link, &x.parser
	if p.phase != phaseLength || l.r < l.w {
		return l.fill(by)
	}
	if len(p.out) == cap(p.out) {
		p.grow()
	}
	room := p.out[len(p.out):cap(p.out)]
	n, err := l.read(room[:min(int64(len(room)), p.left)], by)
	p.out = p.out[:len(p.out)+n]
	if p.left -= int64(n); err == nil && p.left == 0 {
		p.phase = phaseDone
		return x.complete()
	}
	return err
}

// complete ends the exchange with a whole answer.
func (x *Exchange) complete() error {
	l, p := x.link, &x.parser
	surplus, stray := l.w > l.r, p.strayBody()
	if surplus && !stray {
		x.client.trust.lose(x.started)
		if l.used {
			return malformed("more than one on a kept connection: which is whose cannot be told")
		}
	}
	if l.used && p.status == 408 && p.close {
		x.client.trust.lose(x.started) // it may have been about the idle connection, sent as the request was on its way
	}
	now := x.client.now()
	keep := p.reusable() && !surplus && !stray && !l.cutOff && !l.cancelled.Load() && !x.client.trust.lost(now)
	x.answered(now)
	x.link = nil
	if keep {
		x.client.pool.put(l, now)
	} else {
		l.close()
	}
	return nil
}

func (x *Exchange) answered(now time.Time) {
	p, r := &x.parser, &x.result
	*r = Result{
		Outcome: Classify(p.status), Status: p.status, Head: event.Head(p.out[:p.fields:p.fields]), Body: p.out[p.fields:],
		StartedAt: x.started, Duration: now.Sub(x.started),
	}
	if v, n := r.Head.Get("Retry-After"); n == 1 {
		r.RetryAfter, r.HasRetry = RetryAfter(v, now)
	}
	if r.Outcome == event.OutcomeTransient && r.HasRetry && r.RetryAfter < 0 {
		r.Outcome = event.OutcomePermanent
	}
	if r.Outcome != event.OutcomeDelivered {
		r.ErrKind, r.ErrText = KindStatus, statusText(p.status)
	}
	x.over()
}

// over lets go of everything but the result.
func (x *Exchange) over() {
	x.done = true
	x.free()
	x.parser, x.ctx = parser{}, nil
}

// fail ends the exchange without an answer.
func (x *Exchange) fail(err error) {
	now := x.client.now()
	r := &x.result
	*r = Result{Outcome: event.OutcomeUnknown, ErrKind: x.kind(err), ErrText: clip(err.Error()), StartedAt: x.started, Duration: now.Sub(x.started)}
	if !x.sent {
		r.Outcome = event.OutcomeNotSent
	}
	if l := x.link; l != nil {
		if l.used && !x.answerBegun() && (r.ErrKind == KindReset) && !l.cancelled.Load() {
			x.client.trust.lose(now) // a kept connection that ended under a request
		}
		x.link = nil
		l.close()
	}
	x.over()
}

func (x *Exchange) kind(err error) string {
	switch {
	case x.link == nil:
		return dialKind(err)
	case errors.Is(err, errTooLarge):
		return KindTooLarge
	case errors.Is(err, errSwitched):
		return KindSwitched
	case errors.Is(err, errMalformed):
		return KindMalformed
	case errors.Is(err, errTruncated) && x.answerBegun():
		return KindMalformed
	case isTimeout(err) && !x.link.cancelled.Load():
		return KindTimeout
	}
	return KindReset
}

// answerBegun says whether a byte of an answer has come.
func (x *Exchange) answerBegun() bool { return x.parser.begun() || x.link.w > x.link.r }

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

func clip(s string) string {
	if len(s) > 256 {
		return s[:256]
	}
	return s
}
