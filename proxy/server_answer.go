package proxy

import (
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

var (
	continueLine = []byte("HTTP/1.1 100 Continue\r\n\r\n")
	closeLine    = []byte("Connection: close\r\n")
	keepLine     = []byte("Connection: keep-alive\r\n")
)

// smallAnswer is the size in bytes up to which head and body are copied together and leave in one write.
const smallAnswer = 16 << 10

// answer writes a as the answer to the request under way, which must be complete. It notes whether the connection ends with it.
func (c *conn) answer(a *Answer) {
	c.answered = true
	c.closing = c.closing || a.Close || c.head.closes() || c.srv.draining.Load() || c.evict.Load() || c.srv.crowded.Load() > 0
	head := string(c.head.method.of(c.buf)) == fasthttp.MethodHead
	noBody := a.Status == 204 || a.Status == 304 || a.Status < 200 || head && len(a.Body) == 0 // an upstream's, of a length unknown here (RFC 9110 §8.6)
	out := outBufs.Get().(*[]byte)
	now := time.Now()
	b := c.appendHead((*out)[:0], a.Status, now)
	b = append(b, a.Head...)
	if !noBody {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(a.Body)), 10)
		b = append(b, "\r\n"...)
	}
	if c.closing {
		b = append(b, closeLine...)
	} else if c.head.http10 {
		b = append(b, keepLine...)
	}
	b = append(b, "\r\n"...)
	body := a.Body
	if noBody || head {
		body = nil
	}
	if len(b)+len(body) <= smallAnswer {
		b, body = append(b, body...), nil
	}
	c.linger = c.linger || c.closing && (len(c.buf) > c.ok || !c.complete)
	_ = c.send(b, body, now)
	if cap(b) <= 2*smallAnswer {
		*out = b[:0]
		outBufs.Put(out)
	}
}

// outBufs holds buffers for answers.
var outBufs = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// appendHead begins an answer: status line and Date.
func (c *conn) appendHead(b []byte, status int, now time.Time) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, fasthttp.StatusMessage(status)...)
	b = append(b, "\r\nDate: "...)
	b = append(b, c.srv.date.at(now)...)
	return append(b, "\r\n"...)
}

// send writes to the socket, within the write timeout; after an error the connection is of no use.
func (c *conn) send(head, body []byte, now time.Time) error {
	if c.broken {
		return net.ErrClosed
	}
	if limit := c.srv.cfg.Load().WriteTimeout; c.writeBy.Sub(now) < limit { // between one and two timeouts, seldom set
		c.writeBy = now.Add(2 * limit)
		_ = c.Conn.SetWriteDeadline(c.writeBy)
	}
	var err error
	if len(body) == 0 && c.raw != nil {
		c.out, c.sendErr = head, nil
		if err = c.raw.Write(c.sendFunc); err == nil {
			err = c.sendErr
		}
		c.out = nil
	} else if len(body) == 0 {
		_, err = c.rw.Write(head)
	} else {
		bufs := net.Buffers{head, body}
		_, err = bufs.WriteTo(c.rw)
	}
	if err != nil {
		c.broken, c.closing = true, true
	}
	return err
}

// refuse answers f, unless nobody listens, and ends the connection.
func (c *conn) refuse(f *wireFault) {
	if c.broken {
		return
	}
	c.linger, c.answered = true, true
	a := Answer{Status: f.status, Body: problems[f.status], Close: true, Head: problemHead}
	switch f.status {
	case fasthttp.StatusServiceUnavailable:
		a.Head = busyHead
	case fasthttp.StatusTooManyRequests:
		a.Head = crowdHead
	}
	c.refused(f.status)
	c.returnBody()
	c.unreserve() // before the answer leaves: who has read it may send the next at once
	c.answer(&a)
}

func (c *conn) refused(status int) {
	if tell := c.srv.cfg.Load().OnRefused; tell != nil {
		tell(c.head.target.of(c.buf), status)
	}
}

// shed answers a request that came in whole but is one too many. The connection stays.
func (c *conn) shed() {
	c.refused(fasthttp.StatusServiceUnavailable)
	c.reply = Answer{Status: fasthttp.StatusServiceUnavailable, Head: busyHead, Body: problems[fasthttp.StatusServiceUnavailable]}
}

var (
	problemHead = []byte("Content-Type: application/problem+json\r\n")
	crowdHead   = []byte("Content-Type: application/problem+json\r\nRetry-After: 5\r\n")
	busyHead    = []byte("Content-Type: application/problem+json\r\nHooktender-Outcome: unavailable\r\nRetry-After: 5\r\n")
)

// problems are the bodies of the server's own answers (RFC 9457): generic, so that nobody learns from them.
var problems = func() map[int][]byte {
	m := map[int][]byte{}
	for _, status := range []int{400, 408, 413, 417, 429, 431, 500, 503, 505} {
		m[status] = []byte(`{"type":"about:blank","title":"` + fasthttp.StatusMessage(status) + `","status":` + strconv.Itoa(status) + "}\n")
	}
	return m
}()

// A dateCache holds the text of the present second. Safe for concurrent use.
type dateCache struct{ p atomic.Pointer[dateText] }

type dateText struct {
	sec  int64
	text []byte
}

// at is the value of a Date header (RFC 9110 §6.6.1) at a time.
func (d *dateCache) at(t time.Time) []byte {
	if p := d.p.Load(); p != nil && p.sec == t.Unix() {
		return p.text
	}
	p := &dateText{t.Unix(), fasthttp.AppendHTTPDate(nil, t)}
	d.p.Store(p)
	return p.text
}
