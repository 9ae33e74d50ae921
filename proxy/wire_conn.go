package proxy

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/socket"
)

// A conn reads requests from a socket, each strictly and to its end, and writes answers in the bytes that they were given. It owns all
// deadlines. To fasthttp, which accepts connections and keeps the workers, it looks like one that sends a single, harmless
// request (standIn) once the first true one is there, and what fasthttp writes to it is dropped.
//
// One goroutine at a time uses it, the connection's worker; Shutdown only touches state and deadlines, which are safe.
type conn struct {
	net.Conn // the socket: deadlines and the end, from any goroutine
	srv      *Server
	rw       net.Conn        // what is read from and written to: the socket, or TLS on it
	raw      syscall.RawConn // to wait on the socket without a buffer; nil = it cannot be done
	waitFunc func(fd uintptr) bool
	waitErr  error
	sendFunc func(fd uintptr) bool
	out      []byte     // of send: what has not been written yet
	sendErr  error      // … and why it will not be
	peer     netip.Addr // who speaks to us: the other end of the socket, or whom its PROXY header names
	counted  netip.Addr // the address on the books; the zero Addr = none
	trusted  bool       // peer was a trusted proxy as the connection began
	tls      bool
	cert     *x509.Certificate // of the client, verified; nil = it showed none
	opened   bool              // PROXY header and TLS handshake are done

	state atomic.Int32 // connFresh, connIdle, connActive
	since atomic.Int64 // unix nanoseconds: when it began to wait
	evict atomic.Bool  // it must end, see leave

	head   wireHead
	chunk  chunker
	buf    []byte  // from the head's first byte on; what is in it beyond ok is not checked yet
	pooled *[]byte // where buf came from; nil with it
	ok     int     // bytes of buf that belong to the request under way
	left   int64   // bytes of a body of known length that have not come in yet
	apart  bool    // the body comes into memory of its own; else it stays in buf, behind the head
	body   []byte  // decoded; whole once the request is complete
	loan   *[]byte // where the memory of a body apart came from
	shown  int     // bytes of the stand-in that fasthttp has

	complete bool // the last byte of the request has passed the check
	answered bool // the request under way has been answered
	closing  bool // the last answer said "Connection: close"
	linger   bool // the sender may still be writing
	broken   bool // nobody listens any more
	limits   Limits
	reserved int64     // bytes of body counted against the server's bound
	began    time.Time // first byte of the request under way
	readBy   time.Time // deadline set on the socket; zero = none
	writeBy  time.Time
	paused   bool // "100 Continue" is still owed

	req    event.Request
	reply  Answer
	closed atomic.Bool
}

// States of a connection that Shutdown tells apart.
const (
	connFresh   int32 = iota // no byte yet
	connIdle                 // between two requests
	connActive               // in a request
	connOpening              // no byte of a request yet; PROXY header or TLS handshake first
)

// headBufs holds buffers for heads; a connection has one only while it is in a request.
var headBufs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// apartAbove is the length in bytes above which a body has memory of its own, which grows as it comes in.
const apartAbove = 16 << 10

// answerRoom is the least room in bytes for the header lines of an answer, in buf behind the request.
const answerRoom = 512

// bodyStep is the least room in bytes for a body apart; it doubles as the body comes in.
const bodyStep = 2 << 10

// standIn is what fasthttp is shown in place of a connection's requests. It looks at nothing of it.
const standIn = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"

// Read gives fasthttp the stand-in once the connection's first request is there.
func (c *conn) Read(p []byte) (int, error) {
	if c.shown == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.shown == len(standIn) {
		return 0, io.EOF
	}
	n := copy(p, standIn[c.shown:])
	c.shown += n
	return n, nil
}

// next waits for a request and returns once it is complete. Any error ends the connection; a *wireFault has been answered by then.
func (c *conn) next() error {
	err := c.read()
	if f, ok := err.(*wireFault); ok {
		c.refuse(f)
	}
	return err
}

func (c *conn) read() error {
	if err := c.begin(); err != nil {
		return err
	}
	headBy := c.began.Add(c.srv.cfg.Load().HeadTimeout)
	for {
		done, f := c.head.parse(c.buf)
		if f != nil {
			return f
		}
		if done {
			break
		}
		if err := c.more(headBy, faultHeadTime); err != nil {
			return err
		}
	}
	if f := c.headDone(); f != nil {
		return f
	}
	for !c.complete {
		if err := c.readBody(); err != nil {
			return err
		}
	}
	c.buf = slices.Grow(c.buf, answerRoom)
	if !c.apart {
		c.body = c.buf[c.head.pos:c.ok:c.ok]
	}
	return nil
}

// begin prepares for the next request and returns once its first bytes are in buf.
func (c *conn) begin() error {
	rest := copy(c.buf, c.buf[c.ok:])
	c.buf = c.buf[:rest]
	c.head, c.chunk = wireHead{}, chunker{}
	c.ok, c.left = 0, 0
	c.returnBody()
	c.complete, c.answered, c.paused = false, false, false
	c.req, c.reply = event.Request{}, Answer{} // they hold on to bodies
	if err := c.first(); err != nil {
		return err
	}
	if c.buf[0] == '\r' { // one empty line before a request is forgiven (RFC 9112 §2.2)
		for len(c.buf) < 2 {
			if err := c.more(c.began.Add(c.srv.cfg.Load().HeadTimeout), faultHeadTime); err != nil {
				return err
			}
		}
		if c.buf[1] == '\n' {
			c.buf = c.buf[:copy(c.buf, c.buf[2:])]
			return c.first() // by itself it is no begin of one: some senders end a body with it
		}
	}
	return nil
}

// first waits for a byte, if there is none.
func (c *conn) first() error {
	if len(c.buf) == 0 {
		if c.raw == nil { // else tryRead does, once it has to wait
			c.release()
		}
		if err := c.await(); err != nil {
			return err
		}
	}
	c.began = time.Now()
	return nil
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

// await blocks until the first bytes of a request are in buf, the end of the idle time, or the server's end. The last two are
// io.EOF: the connection is closed without a word.
func (c *conn) await() error {
	if !c.opened {
		if err := c.open(); err != nil {
			return err
		}
		if len(c.buf) > 0 {
			c.state.Store(connActive)
			return nil
		}
	}
	fresh := c.state.Load() == connFresh
	now := time.Now()
	if !fresh {
		c.since.Store(now.UnixNano())
		c.state.Store(connIdle)
	}
	var end time.Time // of the grace, once it has begun
	for ; ; now = time.Now() {
		leaving := c.srv.draining.Load() || c.evict.Load() // after state: either we see it, or Shutdown sees us waiting
		if !leaving {
			c.deadline(c.idleUntil(now, fresh))
		} else {
			if end.IsZero() {
				end = c.idleUntil(now, fresh)
			}
			c.readBy = time.Time{} // Shutdown may have changed it
			c.deadlineExact(end)
		}
		err := c.wait()
		if err == nil {
			c.state.Store(connActive)
			return nil
		}
		leaving = c.srv.draining.Load() || c.evict.Load()
		if errors.Is(err, os.ErrDeadlineExceeded) && leaving && (end.IsZero() || time.Now().Before(end)) {
			continue // it was Shutdown that woke us: a request may be on its way
		}
		c.broken = true
		return io.EOF
	}
}

// wait reads the first bytes of a request into buf. On a socket it holds no buffer while it waits.
func (c *conn) wait() error {
	if c.raw != nil {
		if err := c.raw.Read(c.waitFunc); err != nil {
			return err
		}
		return c.waitErr
	}
	c.acquire()
	n, err := c.rw.Read(c.buf[:cap(c.buf)])
	if n > 0 {
		c.buf = c.buf[:n]
		return nil
	}
	c.release()
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// tryRead reads what is there; false: nothing is.
func (c *conn) tryRead(fd uintptr) bool {
	c.acquire()
	n, err := socket.Read(fd, c.buf[:cap(c.buf)])
	switch {
	case err == syscall.EAGAIN:
		c.release()
		return false
	case n > 0:
		c.buf, c.waitErr = c.buf[:n], nil
		return true
	case err == nil:
		err = io.EOF
	}
	c.release()
	c.waitErr = err
	return true
}

// trySend writes what there is room for; false: some of it must wait.
func (c *conn) trySend(fd uintptr) bool {
	for len(c.out) > 0 {
		n, err := socket.Write(fd, c.out)
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			c.sendErr = err
			return true
		}
		c.out = c.out[n:]
	}
	return true
}

// idleUntil says how long to wait for a request: once the server drains, or the connection must make room, briefly, so that what is on
// its way is answered.
func (c *conn) idleUntil(now time.Time, fresh bool) time.Time {
	switch {
	case c.srv.draining.Load() && fresh:
		return now.Add(freshGrace)
	case c.srv.draining.Load():
		return now.Add(idleGrace)
	case c.evict.Load():
		return now.Add(evictGrace)
	}
	return now.Add(c.srv.cfg.Load().IdleTimeout)
}

// deadline sets the read deadline, unless the present one is as good: setting one costs more than comparing two.
func (c *conn) deadline(t time.Time) {
	if d := t.Sub(c.readBy); d >= 0 && d < min(time.Second, c.srv.cfg.Load().IdleTimeout/16) && !c.srv.draining.Load() && !c.evict.Load() {
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
	n, err := c.rw.Read(c.buf[len(c.buf):cap(c.buf)])
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
		if time.Now().Before(c.readBy) { // it was set for the wait before this request: see Shutdown and evict
			return c.Conn.SetReadDeadline(c.readBy)
		}
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
	if h.chunked || h.length > apartAbove {
		return c.bodyApart()
	}
	if !c.reserve(h.length) {
		return faultBusy
	}
	c.take()
	return nil
}

// bodyBufs holds memory for bodies; what is new in it is small, for a body that only trickles in.
var bodyBufs = sync.Pool{New: func() any { b := make([]byte, 0, bodyStep); return &b }}

// keepBody bounds in bytes what bodyBufs keeps of one body.
const keepBody = 256 << 10

// grow gives body room for n more bytes. Its memory doubles, up to most bytes in all.
func grow(body []byte, n int, most int64) []byte {
	if cap(body)-len(body) >= n {
		return body
	}
	room := max(len(body)+n, int(min(int64(2*cap(body)), most)))
	return append(make([]byte, 0, room), body...)
}

// returnBody gives the memory of the last request's body back: nobody has it any more.
func (c *conn) returnBody() {
	if c.loan != nil && cap(c.body) <= keepBody {
		*c.loan = c.body[:0]
		bodyBufs.Put(c.loan)
	}
	c.apart, c.body, c.loan = false, nil, nil
}

// take counts what has come into buf of a body that stays there.
func (c *conn) take() {
	n := min(c.left, int64(len(c.buf)-c.ok))
	c.ok += int(n)
	c.left -= n
	c.complete = c.left == 0
}

// bodyApart begins a body that has memory of its own with the part that came along with the head.
func (c *conn) bodyApart() *wireFault {
	c.apart = true
	c.loan = bodyBufs.Get().(*[]byte)
	c.body = (*c.loan)[:0]
	rest := c.buf[c.ok:]
	if c.head.chunked {
		c.chunk.max, c.chunk.sink = c.limits.Body, &c.body
		n, f := c.dechunk(rest)
		c.ok += n
		return f
	}
	rest = rest[:min(c.left, int64(len(rest)))]
	c.ok += len(rest)
	c.left -= int64(len(rest))
	c.body = append(c.body, rest...)
	c.complete = c.left == 0
	if !c.reserve(int64(len(rest))) {
		return faultBusy
	}
	return nil
}

// readBody reads on in a body. Its memory grows with what has come in, not with what was announced.
func (c *conn) readBody() error {
	if err := c.goOn(); err != nil {
		return err
	}
	by := c.began.Add(c.limits.ReadTimeout)
	if !c.apart {
		err := c.more(by, faultBodyTime)
		c.take()
		return err
	}
	c.deadlineExact(by)
	if c.head.chunked {
		return c.readChunks()
	}
	c.body = grow(c.body, 1, int64(len(c.body))+c.left)
	room := c.body[len(c.body):cap(c.body)]
	n, err := c.rw.Read(room[:min(int64(len(room)), c.left)])
	if n == 0 {
		return c.readError(err, faultBodyTime)
	}
	c.body = c.body[:len(c.body)+n]
	c.left -= int64(n)
	c.complete = c.left == 0
	if !c.reserve(int64(n)) {
		return faultBusy
	}
	return nil
}

// readChunks reads on in a chunked body; what follows it is the begin of the next request.
func (c *conn) readChunks() error {
	buf := chunkBufs.Get().(*[]byte)
	defer chunkBufs.Put(buf)
	n, err := c.rw.Read(*buf)
	if n == 0 {
		return c.readError(err, faultBodyTime)
	}
	used, f := c.dechunk((*buf)[:n])
	if f != nil {
		return f
	}
	c.buf = append(c.buf, (*buf)[used:n]...)
	return nil
}

// chunkBufs holds buffers for chunked bodies on their way in.
var chunkBufs = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// dechunk follows a chunked body and keeps what it holds.
func (c *conn) dechunk(b []byte) (int, *wireFault) {
	before := len(c.body)
	n, done, f := c.chunk.feed(b)
	c.complete = done
	if f == nil && !c.reserve(int64(len(c.body)-before)) {
		f = faultBusy
	}
	return n, f
}

// goOn sends the "100 Continue" that is owed.
func (c *conn) goOn() error {
	if !c.paused {
		return nil
	}
	c.paused = false
	return c.send(continueLine, nil, time.Now())
}

// reserve counts n more bytes of body against the server's bound.
func (c *conn) reserve(n int64) bool {
	if n == 0 {
		return true
	}
	c.reserved += n
	most := c.srv.cfg.Load().MaxBytes
	return c.srv.bytes.Add(n) <= most || most <= 0
}

func (c *conn) unreserve() {
	if c.reserved != 0 {
		c.srv.bytes.Add(-c.reserved)
		c.reserved = 0
	}
}

// Write drops what fasthttp writes: the answer has gone out already.
func (c *conn) Write(p []byte) (int, error) { return len(p), nil }

// Close ends the connection. After a refusal the sender may still be writing, and it may have written what nobody reads; a plain close
// would let the kernel reset the connection under the answer; so it lingers, for at most a second and a MiB (RFC 9112 §9.6).
func (c *conn) Close() error {
	c.returnBody()
	c.release()
	if !c.broken && (c.linger || c.closing && c.unread()) {
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

// unread says whether bytes have come that nobody has read.
func (c *conn) unread() (some bool) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var b [1]byte
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		some = err == nil && n > 0
	})
	return some
}

func (c *conn) lingering() {
	if half, ok := c.rw.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); c.tls && (!ok || half.CloseWrite() != nil) {
		return
	}
	buf := chunkBufs.Get().(*[]byte)
	defer chunkBufs.Put(buf)
	if c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	for total := 0; total < lingerBytes; {
		n, err := c.Conn.Read(*buf)
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
	idleGrace   = time.Second          // for the next request on a kept connection: its sender cannot know yet
	evictGrace  = 5 * time.Millisecond // for a request on a connection that must end
)
