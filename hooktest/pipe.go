package hooktest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBytes is how much one direction of a Pipe holds before its writer waits.
const pipeBytes = 64 << 10

// Pipe is a connection in memory that behaves like a socket: what is written waits for its reader, the end of one side is seen by the other only after that, and
// Waiting tells whether there is something to read. Waiting on it is durably blocking in a testing/synctest bubble. Both ends are safe for concurrent use.
func Pipe() (a, b *PipeConn) {
	there, back := &stream{}, &stream{}
	there.changed.L, back.changed.L = &there.mu, &back.mu
	return &PipeConn{in: back, out: there}, &PipeConn{in: there, out: back}
}

// stream is one direction.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	from    int // buf[from:] is unread
	ended   bool
	broken  bool // nobody will read
	read    deadline
	write   deadline
}

// deadline of one side of a stream; its mutex guards it.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (d *deadline) set(s *stream, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.passed = !t.IsZero() && !time.Now().Before(t); d.passed {
		s.changed.Broadcast()
	} else if !t.IsZero() {
		var own *time.Timer
		own = time.AfterFunc(time.Until(t), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if d.timer == own {
				d.passed = true
				s.changed.Broadcast()
			}
		})
		d.timer = own
	}
}

func (s *stream) end(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.broken = true, s.broken || broken
	s.changed.Broadcast()
}

// PipeConn is one end of a Pipe.
type PipeConn struct{ in, out *stream }

// Waiting says how many bytes can be read without waiting, and whether the end follows them.
func (p *PipeConn) Waiting() (n int, ended bool) {
	s := p.in
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buf) - s.from, s.ended
}

// Read reads what is there, or waits for it.
func (p *PipeConn) Read(b []byte) (int, error) {
	s := p.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.broken:
			return 0, io.ErrClosedPipe
		case s.read.passed:
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > s.from:
			n := copy(b, s.buf[s.from:])
			if s.from += n; s.from == len(s.buf) {
				s.buf, s.from = s.buf[:0], 0
			}
			s.changed.Broadcast()
			return n, nil
		case s.ended:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		s.changed.Wait()
	}
}

// Write hands over all of b; it waits while the other side holds too much.
func (p *PipeConn) Write(b []byte) (n int, err error) {
	s := p.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.ended:
			return n, io.ErrClosedPipe
		case s.write.passed:
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		if room := pipeBytes - (len(s.buf) - s.from); room > 0 {
			k := min(room, len(b)-n)
			s.buf = append(s.buf, b[n:n+k]...)
			n += k
			s.changed.Broadcast()
		} else {
			s.changed.Wait()
		}
	}
}

// Close ends both directions: the other side may still read what was written to it.
func (p *PipeConn) Close() error {
	p.out.end(false)
	p.in.end(true)
	return nil
}

// SetDeadline is net.Conn's.
func (p *PipeConn) SetDeadline(t time.Time) error {
	_ = p.SetReadDeadline(t)
	return p.SetWriteDeadline(t)
}

// SetReadDeadline is net.Conn's.
func (p *PipeConn) SetReadDeadline(t time.Time) error {
	p.in.read.set(p.in, t)
	return nil
}

// SetWriteDeadline is net.Conn's.
func (p *PipeConn) SetWriteDeadline(t time.Time) error {
	p.out.write.set(p.out, t)
	return nil
}

// LocalAddr is none.
func (p *PipeConn) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr is none.
func (p *PipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
