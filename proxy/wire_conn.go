package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hooktender/hooktender/event"
)

// A conn stands between the socket and fasthttp. Reading, it lets fasthttp see the bytes of a request only once its own strict
// check has passed them, never beyond the end of that request, and never late: it owns all deadlines. Writing, it is deaf:
// answers go out through answer and refuse, in the bytes that they were given, and what fasthttp writes is dropped.
//
// One goroutine at a time uses it, the connection's worker; Shutdown only touches state and deadlines, which are safe.
type conn struct {
	net.Conn
	srv  *Server
	peer netip.Addr
	tls  bool

	state atomic.Int32 // connFresh, connIdle, connActive

	head   wireHead
	chunk  chunker
	buf    []byte  // from the head's first byte on; what is in it beyond ok is not checked yet
	pooled *[]byte // where buf came from; nil with it
	given  int     // bytes of buf that fasthttp has
	ok     int     // bytes of buf that belong to the request under way
	left   int64   // bytes of a body of known length that have not come in yet

	complete bool // the last byte of the request has passed the check
	answered bool // the request under way has been answered
	closing  bool // the last answer said "Connection: close"
	linger   bool // the sender may still be writing
	broken   bool // nobody listens any more
	fault    *wireFault
	limits   Limits
	reserved int64     // bytes of body counted against the server's bound
	began    time.Time // first byte of the request under way
	readBy   time.Time // deadline set on the socket; zero = none
	writeBy  time.Time
	paused   bool // "100 Continue" is still owed

	req    event.Request
	reply  Answer
	out    []byte // for answers
	room   []byte // for their header lines
	closed atomic.Bool
}

// States of a connection that Shutdown tells apart.
const (
	connFresh  int32 = iota // no byte yet
	connIdle                // between two requests
	connActive              // in a request
)

// headBufs holds buffers for heads; a connection has one only while it is in a request.
var headBufs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// Read gives fasthttp bytes of one request. Any error ends the connection; a *wireFault has been answered by then.
func (c *conn) Read(p []byte) (int, error) {
	if c.fault != nil {
		return 0, c.fault
	}
	var n int
	var err error
	switch {
	case c.given < c.ok:
		n = c.hand(p)
	case c.inRequest() && !c.complete:
		n, err = c.readBody(p)
	case c.inRequest() && !c.answered:
		err = faultDisagree // fasthttp wants more than there is
	default:
		n, err = c.readHead(p)
	}
	if f, ok := err.(*wireFault); ok {
		c.fault = f
		c.refuse(f) // here, because fasthttp keeps some errors to itself
	}
	return n, err
}

func (c *conn) inRequest() bool { return c.state.Load() == connActive }

func (c *conn) hand(p []byte) int {
	n := copy(p, c.buf[c.given:c.ok])
	c.given += n
	return n
}

// readHead waits for the next request and returns with the first bytes of it once its whole head has passed.
func (c *conn) readHead(p []byte) (int, error) {
	direct, err := c.begin(p)
	if err != nil {
		return 0, err
	}
	for {
		done, f := c.head.parse(c.buf)
		if f != nil {
			return 0, f
		}
		if done {
			break
		}
		direct = 0
		if err := c.more(c.began.Add(c.srv.cfg.HeadTimeout), faultHeadTime); err != nil {
			return 0, err
		}
	}
	if f := c.headDone(); f != nil {
		return 0, f
	}
	if 0 < c.ok && c.ok <= direct { // p holds these bytes already
		c.given = c.ok
		return c.ok, nil
	}
	return c.hand(p), nil
}

// begin prepares for the next request and returns once its first bytes are in buf: left over from the last read, or read into p,
// in which case it says how many.
func (c *conn) begin(p []byte) (direct int, err error) {
	rest := copy(c.buf, c.buf[c.ok:])
	c.buf = c.buf[:rest]
	c.head, c.chunk = wireHead{}, chunker{}
	c.given, c.ok, c.left = 0, 0, 0
	c.complete, c.answered, c.paused = false, false, false
	if rest == 0 {
		c.release()
		if direct, err = c.await(p); err != nil {
			return 0, err
		}
		c.acquire()
		c.buf = append(c.buf, p[:direct]...)
	}
	c.began = time.Now()
	if c.buf[0] == '\r' { // one empty line before a request is forgiven (RFC 9112 §2.2)
		for len(c.buf) < 2 {
			if err := c.more(c.began.Add(c.srv.cfg.HeadTimeout), faultHeadTime); err != nil {
				return 0, err
			}
		}
		if c.buf[1] == '\n' {
			c.buf = c.buf[:copy(c.buf, c.buf[2:])]
			direct = 0
		}
	}
	return direct, nil
}

func (c *conn) acquire() {
	if c.pooled == nil {
		c.pooled = headBufs.Get().(*[]byte)
		c.buf = (*c.pooled)[:0]
	}
}

func (c *conn) release() {
	if c.pooled != nil && cap(c.buf) <= 64<<10 {
		*c.pooled = c.buf[:0] // it may have grown
		headBufs.Put(c.pooled)
	}
	c.buf, c.pooled = nil, nil
}

// await blocks until the first byte of a request, the end of the idle time, or the server's end. The last two are io.EOF: the
// connection is closed without a word.
func (c *conn) await(p []byte) (int, error) {
	fresh := c.state.Load() == connFresh
	if !fresh {
		c.state.Store(connIdle)
	}
	for last := false; ; last = true {
		c.deadline(c.idleUntil(time.Now(), fresh))
		if !last && c.srv.draining.Load() { // after state: either we see it, or Shutdown sees us idle
			last = true
			c.deadline(c.idleUntil(time.Now(), fresh))
		}
		if !fresh && c.srv.crowded.Load() > 0 && !c.srv.draining.Load() {
			c.broken = true
			return 0, io.EOF
		}
		n, err := c.Conn.Read(p)
		if n > 0 {
			c.state.Store(connActive)
			return n, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && c.srv.draining.Load() && !last {
			c.readBy = time.Time{} // Shutdown has changed it: one more, short look for a request that is on its way
			continue
		}
		c.broken = true
		return 0, io.EOF
	}
}

// idleUntil says how long to wait for a request: once the server drains, briefly, so that what was sent before is answered.
func (c *conn) idleUntil(now time.Time, fresh bool) time.Time {
	if !c.srv.draining.Load() {
		return now.Add(c.srv.cfg.IdleTimeout)
	}
	if fresh {
		return now.Add(freshGrace)
	}
	return now.Add(idleGrace)
}

// deadline sets the read deadline, unless the present one is as good: setting one costs more than comparing two.
func (c *conn) deadline(t time.Time) {
	if d := t.Sub(c.readBy); d >= 0 && d < min(time.Second, c.srv.cfg.IdleTimeout/16) && !c.srv.draining.Load() {
		return
	}
	c.readBy = t
	_ = c.Conn.SetReadDeadline(t)
}

// more reads into buf until by; what is late or cut short is a fault.
func (c *conn) more(by time.Time, late *wireFault) error {
	if len(c.buf) == cap(c.buf) {
		c.buf = append(c.buf, 0)[:len(c.buf)]
	}
	c.deadlineExact(by)
	n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return c.readError(err, late)
}

func (c *conn) deadlineExact(t time.Time) {
	if !t.Equal(c.readBy) {
		c.readBy = t
		_ = c.Conn.SetReadDeadline(t)
	}
}

func (c *conn) readError(err error, late *wireFault) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return late
	case err == io.EOF:
		return faultTruncated
	}
	c.broken = true
	return err
}

// headDone decides, before a byte of the body is read, whether the request may go on, and takes the part of the body that came
// along with the head.
func (c *conn) headDone() *wireFault {
	c.state.Store(connActive)
	h := &c.head
	c.ok = h.pos
	path := h.target.of(c.buf)
	for i, b := range path {
		if b == '?' {
			path = path[:i]
			break
		}
	}
	c.limits = c.srv.route(path)
	switch {
	case h.length > c.limits.Body:
		return faultTooLarge
	case h.expectOther:
		return faultExpect
	case time.Since(c.began) > c.limits.ReadTimeout:
		return faultBodyTime
	}
	c.left = h.length
	c.paused = h.expect
	if !h.chunked {
		if !c.reserve(h.length) {
			return faultBusy
		}
		n := min(c.left, int64(len(c.buf)-c.ok))
		c.ok += int(n)
		c.left -= n
		c.complete = c.left == 0
		return nil
	}
	c.chunk.max = c.limits.Body
	n, f := c.dechunk(c.buf[c.ok:])
	c.ok += n
	return f
}

func (c *conn) dechunk(b []byte) (int, *wireFault) {
	before := c.chunk.total
	n, done, f := c.chunk.feed(b)
	c.complete = done
	if f == nil && !c.reserve(c.chunk.total-before) {
		f = faultBusy
	}
	return n, f
}

// readBody reads on from the socket, straight into p.
func (c *conn) readBody(p []byte) (int, error) {
	if c.paused {
		c.paused = false
		if err := c.send(continueLine, nil); err != nil {
			return 0, err
		}
	}
	if !c.head.chunked {
		p = p[:min(int64(len(p)), c.left)]
	}
	c.deadlineExact(c.began.Add(c.limits.ReadTimeout))
	n, err := c.Conn.Read(p)
	if n == 0 {
		return 0, c.readError(err, faultBodyTime)
	}
	if !c.head.chunked {
		c.left -= int64(n)
		c.complete = c.left == 0
		return n, nil
	}
	used, f := c.dechunk(p[:n])
	if f != nil {
		return 0, f
	}
	c.buf = append(c.buf, p[used:n]...) // begin of the next request
	return used, nil
}

// reserve counts n more bytes of body against the server's bound.
func (c *conn) reserve(n int64) bool {
	if n == 0 || c.srv.cfg.MaxBytes <= 0 {
		return true
	}
	c.reserved += n
	return c.srv.bytes.Add(n) <= c.srv.cfg.MaxBytes
}

func (c *conn) unreserve() {
	if c.reserved != 0 {
		c.srv.bytes.Add(-c.reserved)
		c.reserved = 0
	}
}

// Write drops what fasthttp writes: the answer has gone out already.
func (c *conn) Write(p []byte) (int, error) { return len(p), nil }

// Close ends the connection. After a refusal the sender may still be writing, and a plain close would let the kernel reset the
// connection under the answer; so it lingers, for at most a second and a MiB (RFC 9112 §9.6).
func (c *conn) Close() error {
	if c.linger && !c.broken {
		c.lingering()
	}
	err := c.shut()
	c.unreserve()
	c.srv.forget(c)
	return err
}

// shut closes at once; also called by Shutdown from another goroutine.
func (c *conn) shut() error {
	if c.closed.Swap(true) {
		return nil
	}
	return c.Conn.Close()
}

func (c *conn) lingering() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.acquire()
	defer c.release()
	b := c.buf[:cap(c.buf)]
	by := time.Now().Add(lingerTime)
	if c.Conn.SetReadDeadline(by) != nil {
		return
	}
	for total := 0; total < lingerBytes; {
		n, err := c.Conn.Read(b)
		if total += n; err != nil {
			return
		}
	}
}

// Bounds of the end of a connection.
const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
	freshGrace  = time.Second          // for the first byte on a connection that was accepted before a shutdown
	idleGrace   = 5 * time.Millisecond // for a request that crosses the shutdown
)
