//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// sinkStats is what the sink has seen.
type sinkStats struct{ Unique, Repeats, Holes uint64 }

// holeMark stands where the number of an event begins that is not answered.
const holeMark = "blackhole"

// A sink is the consumer: one thread over epoll that reads whole requests, notes the number at the end of each body and answers 200,
// but for black holes.
type sink struct {
	epoll int
	mu    sync.Mutex // guards peers, which the accepting goroutine adds to
	peers map[int32]*peer
	seen  []uint64 // one bit per number
	stats sinkStats
}

type peer struct {
	fd   int
	buf  []byte
	have int
	skip int // where the body begins; 0 = the head is not complete
	need int // bytes of the whole request
}

var (
	sinkAnswer = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	sinkBad    = []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
)

func runSink(addr string) error {
	debug.SetGCPercent(400)
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	s := &sink{peers: map[int32]*peer{}}
	if s.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	go s.accept(l)
	runtime.LockOSThread()
	var events [256]syscall.EpollEvent
	for {
		n, err := epollWait(s.epoll, events[:], time.Minute)
		if err != nil {
			return err
		}
		for _, ev := range events[:n] {
			s.mu.Lock()
			p := s.peers[ev.Fd]
			s.mu.Unlock()
			if p != nil && !s.serve(p) {
				s.mu.Lock()
				delete(s.peers, ev.Fd)
				s.mu.Unlock()
				_ = syscall.Close(p.fd)
			}
		}
	}
}

func (s *sink) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "sink:", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		fd, err := rawSocket(c.(*net.TCPConn))
		_ = c.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, "sink:", err)
			continue
		}
		s.mu.Lock()
		s.peers[int32(fd)] = &peer{fd: fd, buf: make([]byte, 8192)}
		s.mu.Unlock()
		if err := watch(s.epoll, fd); err != nil {
			fmt.Fprintln(os.Stderr, "sink:", err)
		}
	}
}

// serve reads all that has come; false: the connection is over.
func (s *sink) serve(p *peer) bool {
	for {
		if p.have == len(p.buf) {
			p.buf = append(p.buf, make([]byte, len(p.buf))...)
		}
		room := len(p.buf) - p.have
		n, err := rawRead(p.fd, p.buf[p.have:])
		if err == syscall.EAGAIN {
			return true
		}
		if err != 0 || n == 0 {
			return false
		}
		p.have += n
		if !s.requests(p) {
			return false
		}
		if n < room {
			return true // the socket was empty: the next byte makes an edge
		}
	}
}

// requests answers every complete request in the buffer.
func (s *sink) requests(p *peer) bool {
	for {
		in := p.buf[:p.have]
		if p.skip == 0 {
			i := bytes.Index(in, headEnd)
			if i < 0 {
				return len(in) < 1<<16
			}
			p.skip = i + 4
			p.need = p.skip
			if v, ok := headValue(in[:i+2], "content-length:"); ok {
				n, ok := decimal(v)
				if !ok || n > 64<<20 {
					_, _ = rawWrite(p.fd, sinkBad)
					return false
				}
				p.need += int(n)
			}
		}
		if p.have < p.need {
			return true
		}
		if !s.answer(p, in[:p.need]) {
			return false
		}
		p.have = copy(p.buf, in[p.need:])
		p.skip = 0
	}
}

func (s *sink) answer(p *peer, request []byte) bool {
	if bytes.HasPrefix(request, []byte("GET /stats ")) {
		raw, _ := json.Marshal(s.stats)
		return writeAll(p.fd, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(raw), raw))
	}
	body := request[p.skip:]
	if len(body) < idDigits+2 {
		return writeAll(p.fd, sinkBad)
	}
	number, ok := decimal(body[len(body)-2-idDigits : len(body)-2])
	switch {
	case bytes.HasPrefix(body[len(body)-2-idDigits:], []byte(holeMark)):
		s.stats.Holes++
		return true
	case !ok:
		return writeAll(p.fd, sinkBad)
	}
	s.note(number)
	return writeAll(p.fd, sinkAnswer)
}

func (s *sink) note(n uint64) {
	word, bit := n/64, uint64(1)<<(n%64)
	for word >= uint64(len(s.seen)) {
		s.seen = append(s.seen, make([]uint64, max(1024, len(s.seen)))...)
	}
	if s.seen[word]&bit != 0 {
		s.stats.Repeats++
		return
	}
	s.seen[word] |= bit
	s.stats.Unique++
}

// writeAll writes an answer, which is far smaller than any socket's buffer.
func writeAll(fd int, b []byte) bool {
	n, err := rawWrite(fd, b)
	return err == 0 && n == len(b)
}
