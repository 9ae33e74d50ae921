package forward

import (
	"context"
	"io"
	"net"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/socket"
)

// A link is one connection to the upstream with what has been read from it and not used yet. One exchange at a time owns it.
type link struct {
	nc     net.Conn
	raw    syscall.RawConn // of the socket itself; nil if it has none
	tls    bool
	sealed *sealed // what tls writes to
	used   bool    // an answer has been read from it
	cutOff bool    // a request could not be written to its end
	buf    []byte
	r, w   int // buf[r:w] is unread

	readBy, writeBy time.Time // deadlines set; zero = none
	idleSince       time.Time

	ctx       context.Context // whose end breaks this link
	unwatch   func() bool
	cancelled atomic.Bool

	stale    bool             // result of the last look
	surplus  bool             // … was because of bytes that nobody asked for
	lookFunc func(fd uintptr) // bound once, as a new closure for each look would be an allocation
	one      [1]byte

	turnFunc func(fd uintptr) bool
	out      []byte // of a turn: what is to be sent
	sent     int    // … bytes that have been
	err      error  // … and what it ended with
}

// A waiter is a connection that is no socket, as in tests, and can say how many bytes wait to be read, and whether the end follows. One that cannot is taken
// for clean.
type waiter interface{ Waiting() (n int, ended bool) }

func newLink(nc net.Conn) *link {
	l := &link{nc: nc, buf: make([]byte, 4<<10)}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			l.raw = raw
			l.lookFunc, l.turnFunc = l.look, l.takeTurn
		}
	}
	return l
}

// watch makes the end of ctx break the link. The registration outlives the exchange: the next one mostly has the same ctx.
// It says false if ctx has ended already.
func (l *link) watch(ctx context.Context) bool {
	if ctx.Done() == nil {
		return l.release()
	}
	if l.ctx != ctx {
		if !l.release() {
			return false
		}
		l.ctx = ctx
		l.unwatch = context.AfterFunc(ctx, l.cancel)
	}
	return !l.cancelled.Load() && ctx.Err() == nil
}

func (l *link) cancel() {
	l.cancelled.Store(true)
	_ = l.nc.SetDeadline(time.Unix(1, 0))
}

// release ends the registration; false means that it came too late.
func (l *link) release() bool {
	ok := l.unwatch == nil || l.unwatch()
	l.ctx, l.unwatch = nil, nil
	return ok && !l.cancelled.Load()
}

func (l *link) close() {
	l.release()
	if l.sealed != nil && len(l.sealed.kept) > 0 { // a farewell would wait for room, behind half a record
		_ = l.sealed.Conn.Close()
		return
	}
	_ = l.nc.Close()
}

// A sealed connection is what TLS writes to: the socket, or memory while hold is set. TLS cannot go on after a write that was interrupted; what it
// has written to memory can be sent in as many turns as it takes.
type sealed struct {
	net.Conn
	hold bool
	kept []byte // not sent yet
}

// Write sends p, or keeps it.
func (s *sealed) Write(p []byte) (int, error) {
	if s.hold {
		s.kept = append(s.kept, p...)
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// sealStep is how much of a request is sealed at once, in bytes.
const sealStep = 16 << 10

// seal writes todo by way of TLS, and takes from it what it has. After a timeout it may be called again. n is what has been sent.
func (l *link) seal(todo *net.Buffers) (n int64, err error) {
	s := l.sealed
	for {
		room := s.kept[:0]
		for len(s.kept) > 0 {
			k, err := s.Conn.Write(s.kept)
			n += int64(k)
			if s.kept = s.kept[k:]; err != nil {
				return n, err
			}
		}
		for len(*todo) > 0 && len((*todo)[0]) == 0 {
			*todo = (*todo)[1:]
		}
		if len(*todo) == 0 {
			s.kept = nil
			return n, nil
		}
		piece := (*todo)[0][:min(sealStep, len((*todo)[0]))]
		s.hold, s.kept = true, room
		k, err := l.nc.Write(piece)
		s.hold = false
		if (*todo)[0] = (*todo)[0][k:]; err != nil {
			return n, err
		}
	}
}

// clean says whether nothing waits to be read, not even the connection's end: whatever does is no answer to a request that has
// not been sent. It does not block.
func (l *link) clean() bool {
	l.stale, l.surplus = true, l.w > l.r
	if l.surplus {
		return false
	}
	if l.raw != nil {
		return l.raw.Control(l.lookFunc) == nil && !l.stale
	}
	l.stale = false
	if w, ok := l.nc.(waiter); ok {
		n, ended := w.Waiting()
		l.stale, l.surplus = n > 0 || ended, n > 0 && !l.tls
	}
	return !l.stale
}

// look reads without waiting. The byte may be lost: a link that has one to read is closed.
func (l *link) look(fd uintptr) {
	n, err := socket.Read(fd, l.one[:])
	l.stale = err != syscall.EAGAIN
	l.surplus = n > 0 && !l.tls // there it may be a ticket, or a farewell
}

// turns says whether the link can take turns: it is a plain socket.
func (l *link) turns() bool { return l.raw != nil && !l.tls }

// turn sends out and reads the first bytes of what comes back into the buffer, until by, in one wait on the socket: it looks whether the
// link is clean, writes, and only then waits, so that no read is tried that must be in vain. It says how many bytes were
// sent. Unless these are all, nothing has been read, and the rest is up to write; if the link was not clean, stale is set and nothing was sent.
func (l *link) turn(out []byte, by time.Time) (int, error) {
	l.r, l.w, l.stale = 0, 0, false
	l.out, l.sent, l.err = out, 0, nil
	err := l.until(by, func() error { return l.raw.Read(l.turnFunc) })
	if err == nil {
		err = l.err
	}
	sent := l.sent
	l.out, l.err = nil, nil
	return sent, err
}

// takeTurn is called by the poller, which has forgotten by then what was ready before, and again whenever there is something to read.
func (l *link) takeTurn(fd uintptr) bool {
	if l.sent < len(l.out) {
		if l.look(fd); l.stale {
			return true
		}
		var err error
		if l.sent, err = socket.Write(fd, l.out); err != nil && err != syscall.EAGAIN {
			l.err = os.NewSyscallError("write", err)
		}
		return l.sent < len(l.out) // the answer takes its time
	}
	switch n, err := socket.Read(fd, l.buf); {
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		l.err = os.NewSyscallError("read", err)
	case n == 0:
		l.err = io.EOF
	default:
		l.w = n
	}
	return true
}

// fill reads more into the buffer, until by.
func (l *link) fill(by time.Time) error {
	if l.r > 0 {
		l.w = copy(l.buf, l.buf[l.r:l.w])
		l.r = 0
	}
	if l.w == len(l.buf) {
		l.buf = append(l.buf, make([]byte, len(l.buf))...)
	}
	n, err := l.read(l.buf[l.w:], by)
	l.w += n
	return err
}

// read reads until by. An error comes without bytes.
func (l *link) read(p []byte, by time.Time) (n int, err error) {
	err = l.until(by, func() error {
		var err error
		n, err = l.nc.Read(p)
		if n > 0 {
			return nil
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	})
	return n, err
}

// earlyBy is how much earlier than asked for a read deadline may be. Setting one costs more than looking at the clock now and then.
const earlyBy = time.Second

// until has a read end at a time. The deadline on the socket may be one from before, and somewhat earlier; then the read goes on.
func (l *link) until(by time.Time, read func() error) error {
	early := by.Sub(l.readBy)
	for {
		if early < 0 || early > earlyBy {
			early, l.readBy = 0, by
			_ = l.nc.SetReadDeadline(by)
			if l.cancelled.Load() { // in case that has just undone what cancel did
				return context.Canceled
			}
		}
		err := read()
		if early == 0 || !isTimeout(err) || l.cancelled.Load() {
			return err
		}
		early = -1
	}
}

// writeUntil sets the write deadline, unless the present one is at most slack later.
func (l *link) writeUntil(by time.Time, slack time.Duration) {
	if d := l.writeBy.Sub(by); d >= 0 && d <= slack {
		return
	}
	l.writeBy = by.Add(slack)
	_ = l.nc.SetWriteDeadline(l.writeBy)
}

// A pool keeps idle links, the latest used on top, each for IdleTimeout.
type pool struct {
	mu     sync.Mutex
	idle   []*link
	bound  int
	closed bool
	timer  *time.Timer // runs while there are links
}

// restTime is how long a link rests before it is used again, so that a stray answer which follows the proper one shows itself before
// it could be taken for the answer to the next request. It costs a few more connections under load, and no time.
const restTime = 2 * time.Millisecond

// take gives the latest used link that has rested; nil if there is none.
func (p *pool) take(now time.Time) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := sort.Search(len(p.idle), func(i int) bool { return now.Sub(p.idle[i].idleSince) < restTime }) // the longest idle are at the bottom
	if n == 0 {
		return nil
	}
	l := p.idle[n-1]
	p.idle = slices.Delete(p.idle, n-1, n)
	return l
}

func (p *pool) put(l *link, now time.Time) {
	l.used, l.idleSince = true, now
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < p.bound
	if keep {
		p.idle = append(p.idle, l)
		if p.timer == nil {
			p.timer = time.AfterFunc(IdleTimeout, p.sweep)
		}
	}
	p.mu.Unlock()
	if !keep {
		l.close()
	}
}

// sweep closes what has been idle for too long. The longest idle are at the bottom.
func (p *pool) sweep() {
	now := time.Now()
	var old []*link
	p.mu.Lock()
	for len(p.idle) > len(old) && now.Sub(p.idle[len(old)].idleSince) >= IdleTimeout {
		old = append(old, p.idle[len(old)])
	}
	p.idle = append(p.idle[:0], p.idle[len(old):]...)
	p.timer = nil
	if len(p.idle) > 0 {
		p.timer = time.AfterFunc(IdleTimeout-now.Sub(p.idle[0].idleSince), p.sweep)
	}
	p.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}

// drop closes all idle links.
func (p *pool) drop() {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, l := range idle {
		l.close()
	}
}

func (p *pool) shut() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}
