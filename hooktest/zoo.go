package hooktest

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Zoo is an upstream that misbehaves in every way known to have credited one event with another's answer: answers that are surplus, early,
// late, short, doubled, interim or no HTTP at all, resets, half-closed and stale connections. A proper answer's body is the id of the event
// that it belongs to. It remembers what each event was really told. Create with NewZoo; safe for concurrent use.
type Zoo struct {
	late time.Duration

	mu     sync.Mutex
	random *rand.Rand
	told   map[string][]Told
	open   map[net.Conn]struct{}
	ln     net.Listener
	closed chan struct{}
	wg     sync.WaitGroup
}

// Told is one wire request for an event, and what the zoo did with it.
type Told struct {
	Attempt   string // Hooktender-Attempt
	Behaviour string
	Good      bool // a whole 2xx of the event's own was sent, in time
	Doubtful  bool // a surplus answer before it on its connection came so late that nobody can tell whose it is
}

// lateSurplus is the time after an answer from which what else comes may pass for the answer to the next request. A connection rests twice
// as long in the gateway before it carries another.
const lateSurplus = time.Millisecond

// behaviour answers the event id on v; false ends the connection.
type behaviour struct {
	name   string
	weight int
	good   bool // the event may count as delivered
	do     func(z *Zoo, v *zooConn, id string) bool
}

type zooConn struct {
	net.Conn
	br       *bufio.Reader
	first    time.Time // of an answer that another follows; zero = none does
	doubtful bool      // from the next request on
}

func (v *zooConn) say(s string) bool {
	_, err := io.WriteString(v, s)
	return err == nil
}

func zooAnswer(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func always(answer func(id string) string, stay bool) func(*Zoo, *zooConn, string) bool {
	return func(_ *Zoo, v *zooConn, id string) bool { return v.say(answer(id)) && stay }
}

// stray is the body of answers that belong to no event.
const stray = "stray"

var behaviours = []behaviour{
	{"proper", 40, true, always(func(id string) string { return zooAnswer("200 OK", id) }, true)},
	{"chunked", 5, true, always(func(id string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(id), id)
	}, true)},
	{"in pieces", 3, true, func(_ *Zoo, v *zooConn, id string) bool {
		a := zooAnswer("200 OK", id)
		return v.say(a[:9]) && v.say(a[9:20]) && v.say(a[20:])
	}},
	{"interim answers first", 3, true, always(func(id string) string {
		return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + zooAnswer("200 OK", id)
	}, true)},
	{"closes after each", 8, true, always(func(id string) string { return zooAnswer("200 OK", id) }, false)},
	{"until close", 3, true, always(func(id string) string { return "HTTP/1.1 200 OK\r\n\r\n" + id }, false)},
	{"half-closed", 3, true, func(_ *Zoo, v *zooConn, id string) bool {
		v.say(zooAnswer("200 OK", id))
		_ = v.Conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, v.br)
		return false
	}},
	{"surplus", 4, true, always(func(id string) string { return zooAnswer("200 OK", id) + zooAnswer("200 OK", stray) }, true)},
	{"surplus, later", 4, true, func(_ *Zoo, v *zooConn, id string) bool {
		if v.first.IsZero() {
			v.first = time.Now()
		}
		return v.say(zooAnswer("200 OK", id)) && pause(200*time.Microsecond) && v.say(zooAnswer("200 OK", stray))
	}},
	{"408 on an idle connection", 3, true, func(_ *Zoo, v *zooConn, id string) bool {
		v.say(zooAnswer("200 OK", id))
		pause(time.Millisecond)
		v.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 5\r\n\r\n" + stray)
		return false
	}},
	{"short", 3, false, always(func(id string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id)+9, id)
	}, false)},
	{"no last chunk", 2, false, always(func(id string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(id), id)
	}, false)},
	{"two lengths", 2, false, always(func(id string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Length: 1\r\n\r\n%s", len(id), id)
	}, false)},
	{"switching", 2, false, always(func(string) string {
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
	}, true)},
	{"999", 2, false, always(func(id string) string { return zooAnswer("999 Odd", id) }, true)},
	{"503", 3, false, always(func(id string) string { return zooAnswer("503 Busy", id) }, true)},
	{"no HTTP", 1, false, always(func(string) string { return "SSH-2.0-OpenSSH_9.9\r\n" }, false)},
	{"only interim", 1, false, always(func(string) string { return "HTTP/1.1 100 Continue\r\n\r\n" }, false)},
	{"closes without an answer", 3, false, func(*Zoo, *zooConn, string) bool { return false }},
	{"resets after reading", 3, false, func(_ *Zoo, v *zooConn, _ string) bool {
		_ = v.Conn.(*net.TCPConn).SetLinger(0)
		return false
	}},
	{"after the deadline", 1, false, func(z *Zoo, v *zooConn, id string) bool {
		select {
		case <-z.closed:
			return false
		case <-time.After(z.late):
			return v.say(zooAnswer("200 OK", id))
		}
	}},
}

func pause(d time.Duration) bool {
	time.Sleep(d)
	return true
}

// NewZoo makes a zoo whose choices follow from seed. late is how long it takes for an answer that comes after its deadline. It does not
// listen yet.
func NewZoo(seed uint64, late time.Duration) *Zoo {
	return &Zoo{late: late, random: rand.New(rand.NewPCG(seed, 1)), told: map[string][]Told{}, open: map[net.Conn]struct{}{}, closed: make(chan struct{})}
}

// Listen serves on addr until Close.
func (z *Zoo) Listen(addr string) (string, error) {
	ln, err := listen(addr)
	if err != nil {
		return "", err
	}
	z.ln = ln
	z.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			z.mu.Lock()
			z.open[c] = struct{}{}
			z.mu.Unlock()
			z.wg.Go(func() { z.keep(&zooConn{Conn: c, br: bufio.NewReader(c)}) })
		}
	})
	return ln.Addr().String(), nil
}

// Close ends every connection and waits for its keepers.
func (z *Zoo) Close() {
	_ = z.ln.Close()
	close(z.closed)
	z.mu.Lock()
	for c := range z.open {
		_ = c.Close()
	}
	z.mu.Unlock()
	z.wg.Wait()
}

// keep looks after one connection.
func (z *Zoo) keep(v *zooConn) {
	defer func() {
		_ = v.Close()
		z.mu.Lock()
		delete(z.open, v.Conn)
		z.mu.Unlock()
	}()
	for {
		v.first = time.Time{}
		if z.answersEarly() {
			if _, err := v.br.Peek(1); err != nil {
				return
			}
			if v.first = time.Now(); !v.say(zooAnswer("503 Busy", stray)) {
				return
			}
		}
		req, err := http.ReadRequest(v.br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		id := req.Header.Get("Hooktender-Event-Id")
		b := z.choose(id, req.Header.Get("Hooktender-Attempt"), v.doubtful)
		if !b.do(z, v, id) {
			return
		}
		v.doubtful = v.doubtful || !v.first.IsZero() && time.Since(v.first) > lateSurplus
	}
}

// answersEarly says whether an answer is sent before its request has been read.
func (z *Zoo) answersEarly() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.random.IntN(100) == 0
}

func (z *Zoo) choose(id, attempt string, doubtful bool) *behaviour {
	z.mu.Lock()
	defer z.mu.Unlock()
	total := 0
	for i := range behaviours {
		total += behaviours[i].weight
	}
	n := z.random.IntN(total)
	for i := range behaviours {
		if n -= behaviours[i].weight; n < 0 {
			z.told[id] = append(z.told[id], Told{Attempt: attempt, Behaviour: behaviours[i].name, Good: behaviours[i].good, Doubtful: doubtful})
			return &behaviours[i]
		}
	}
	return &behaviours[0]
}

// Told gives what an event was told, one entry per wire request.
func (z *Zoo) Told(id string) []Told {
	z.mu.Lock()
	defer z.mu.Unlock()
	return append([]Told(nil), z.told[id]...)
}

// Judge compares what the gateway says of an event with what the zoo did: "" if both agree. delivered is the gateway's word, body what its
// sender was answered with then. Doubtful events are let pass: how many there were, Doubtful says.
func (z *Zoo) Judge(id string, delivered bool, body string) string {
	told := z.Told(id)
	seen := map[string]bool{}
	good, doubtful := false, false
	var did []string
	for _, t := range told {
		if seen[t.Attempt] {
			return fmt.Sprintf("attempt %s of %s was two wire requests", t.Attempt, id)
		}
		seen[t.Attempt] = true
		good, doubtful = good || t.Good, doubtful || t.Doubtful
		did = append(did, t.Behaviour)
	}
	switch {
	case doubtful:
		return ""
	case delivered && !good:
		return fmt.Sprintf("%s counts as delivered, and the zoo did: %s", id, strings.Join(did, ", "))
	case delivered && body != id:
		return fmt.Sprintf("%s was credited with the answer %q", id, body)
	}
	return ""
}

// Doubtful gives how many requests were. On a machine that is not busy, there are none.
func (z *Zoo) Doubtful() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, told := range z.told {
		for _, t := range told {
			if t.Doubtful {
				n++
			}
		}
	}
	return n
}
