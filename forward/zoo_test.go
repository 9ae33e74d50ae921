package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
)

// A keeper looks after one connection of an upstream; n counts connections from 1.
type keeper func(c *visitor, n int)

// A visitor is a connection as its upstream sees it.
type visitor struct {
	net.Conn
	br *bufio.Reader
}

// read takes one request and gives its X-Id; false at the connection's end.
func (v *visitor) read() (id string, ok bool) {
	req, err := http.ReadRequest(v.br)
	if err != nil {
		return "", false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return "", false
	}
	return req.Header.Get("X-Id"), true
}

func (v *visitor) say(format string, args ...any) bool {
	_, err := fmt.Fprintf(v, format, args...)
	return err == nil
}

func (v *visitor) ok(id string) bool { return v.say("%s", okAnswer(id)) }

// reset ends the connection with an RST.
func (v *visitor) reset() {
	_ = v.Conn.(*net.TCPConn).SetLinger(0)
	_ = v.Close()
}

func okAnswer(id string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
}

// newUpstream starts an upstream and gives its URL.
func newUpstream(t testing.TB, k keeper) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			c.Close()
		}
	})
	go func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			go func() {
				k(&visitor{c, bufio.NewReader(c)}, n)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			}()
		}
	}()
	return "http://" + ln.Addr().String()
}

func newClient(t testing.TB, url string, timeout time.Duration) *forward.Client {
	t.Helper()
	c, err := forward.New("app", forward.Config{URL: url, Timeout: timeout, MaxInFlight: 64}, forward.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func call(id string, body string) *forward.Call {
	return &forward.Call{Method: "POST", Path: []byte("/hook"), Head: event.Head("X-Id: " + id + "\r\n"), Body: []byte(body)}
}

// What each upstream's behaviour comes to (SPEC §6, §12).
func TestOutcomes(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 1<<20)
	const unknown, delivered, permanent, transient = event.OutcomeUnknown, event.OutcomeDelivered, event.OutcomePermanent, event.OutcomeTransient
	for _, c := range []struct {
		name   string
		answer string // then the connection is closed in good order
		out    event.Outcome
		kind   string
		status int
		body   string
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", delivered, "", 200, "ok"},
		{"no reason phrase", "HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", delivered, "", 201, ""},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\no\r\n01\r\nk\r\n0\r\nX-T: 1\r\n\r\n", delivered, "", 200, "ok"},
		{"until close", "HTTP/1.1 200 OK\r\n\r\nok", delivered, "", 200, "ok"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", delivered, "", 200, "ok"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", delivered, "", 204, ""},
		{"204 with a length and a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}", delivered, "", 204, ""},
		{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", permanent, "status", 304, ""},
		{"redirect is not followed", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", permanent, "status", 302, ""},
		{"400", "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", permanent, "status", 400, "no"},
		{"408", "HTTP/1.1 408 X\r\nContent-Length: 0\r\n\r\n", transient, "status", 408, ""},
		{"425", "HTTP/1.1 425 X\r\nContent-Length: 0\r\n\r\n", transient, "status", 425, ""},
		{"429", "HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n", transient, "status", 429, ""},
		{"500", "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", transient, "status", 500, ""},
		{"501", "HTTP/1.1 501 X\r\nContent-Length: 0\r\n\r\n", permanent, "status", 501, ""},
		{"503", "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", transient, "status", 503, ""},
		{"503, never again", "HTTP/1.1 503 X\r\nRetry-After: -1\r\nContent-Length: 0\r\n\r\n", permanent, "status", 503, ""},
		{"505", "HTTP/1.1 505 X\r\nContent-Length: 0\r\n\r\n", permanent, "status", 505, ""},
		{"999", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", permanent, "status", 999, ""},
		{"interim answers are skipped", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", delivered, "", 200, "ok"},
		{"interim answers without end", string(bytes.Repeat([]byte("HTTP/1.1 100 Continue\r\n\r\n"), 99)), unknown, "malformed", 0, ""},
		{"only an interim answer", "HTTP/1.1 100 Continue\r\n\r\n", unknown, "malformed", 0, ""},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", unknown, "switched", 0, ""},
		{"closed without an answer", "", unknown, "reset", 0, ""},
		{"cut in the status line", "HTTP/1.1 20", unknown, "malformed", 0, ""},
		{"cut in the head", "HTTP/1.1 200 OK\r\nContent-Le", unknown, "malformed", 0, ""},
		{"cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", unknown, "malformed", 0, ""},
		{"cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", unknown, "malformed", 0, ""},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", unknown, "malformed", 0, ""},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", unknown, "malformed", 0, ""},
		{"two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", unknown, "malformed", 0, ""},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", unknown, "malformed", 0, ""},
		{"space behind a chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 ;a\r\nok\r\n0\r\n\r\n", delivered, "", 200, "ok"},
		{"chunk size and a word", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 x\r\nok\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"chunk size g", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n0123456789abcdef\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"no chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\n\r\n", unknown, "malformed", 0, ""},
		{"chunk longer than said", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n", unknown, "malformed", 0, ""},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", unknown, "malformed", 0, ""},
		{"folded line", "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 0\r\n\r\n", unknown, "malformed", 0, ""},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", unknown, "malformed", 0, ""},
		{"two digits", "HTTP/1.1 20 OK\r\n\r\n", unknown, "malformed", 0, ""},
		{"status 099", "HTTP/1.1 099 OK\r\n\r\n", unknown, "malformed", 0, ""},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", unknown, "malformed", 0, ""},
		{"no HTTP at all", "SSH-2.0-OpenSSH_9.9\r\n", unknown, "malformed", 0, ""},
		{"a head without end", "HTTP/1.1 200 OK\r\nX: " + string(big[:70<<10]), unknown, "malformed", 0, ""},
		{"more than is made room for at once", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + string(big[:100_000]), delivered, "", 200, string(big[:100_000])},
		{"exactly 8 MiB", "HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n" + string(bytes.Repeat(big, 8)), delivered, "", 200, "*"},
		{"above 8 MiB by length", "HTTP/1.1 200 OK\r\nContent-Length: 8388609\r\n\r\n", unknown, "too_large", 0, ""},
		{"above 8 MiB chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800001\r\n", unknown, "too_large", 0, ""},
		{"above 8 MiB until close", "HTTP/1.1 200 OK\r\n\r\n" + string(bytes.Repeat(big, 9)), unknown, "too_large", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, drip := range []bool{false, true} {
				if drip && len(c.answer) > 1000 {
					continue
				}
				url := newUpstream(t, func(v *visitor, _ int) {
					if _, ok := v.read(); !ok {
						return
					}
					if !drip {
						_, _ = io.WriteString(v, c.answer)
						return
					}
					for i := range len(c.answer) {
						_, _ = io.WriteString(v, c.answer[i:i+1])
					}
				})
				r := newClient(t, url, 5*time.Second).Do(t.Context(), call("1", "body"))
				if r.Outcome != c.out || r.ErrKind != c.kind || r.Status != c.status || c.body != "*" && string(r.Body) != c.body {
					t.Errorf("drip %v: %s %q %d %q (%s)", drip, r.Outcome, r.ErrKind, r.Status, forward.Result{Body: r.Body}.Body, r.ErrText)
				}
				if r.StartedAt.IsZero() || r.Duration <= 0 || len(r.ErrText) > 256 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// Upstreams that break off in ways that are no bytes.
func TestBrokenConnections(t *testing.T) {
	for _, c := range []struct {
		name string
		k    keeper
		body int
		out  event.Outcome
		kind string
	}{
		{"reset after the request", func(v *visitor, _ int) { v.read(); v.reset() }, 10, event.OutcomeUnknown, "reset"},
		{"reset in the middle of the answer", func(v *visitor, _ int) {
			v.read()
			v.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
			time.Sleep(50 * time.Millisecond)
			v.reset()
		}, 10, event.OutcomeUnknown, "reset"},
		{"never answers", func(v *visitor, _ int) { v.read(); v.read() }, 10, event.OutcomeUnknown, "timeout"},
		{"never reads", func(v *visitor, _ int) { <-t.Context().Done() }, 30 << 20, event.OutcomeUnknown, "timeout"},
		{"drips for ever", func(v *visitor, _ int) {
			v.read()
			for v.say("H") {
				time.Sleep(20 * time.Millisecond)
			}
		}, 10, event.OutcomeUnknown, "malformed"},
		{"drips a body for ever", func(v *visitor, _ int) {
			v.read()
			v.say("HTTP/1.1 200 OK\r\n\r\n")
			for v.say("H") {
				time.Sleep(20 * time.Millisecond)
			}
		}, 10, event.OutcomeUnknown, "timeout"},
		{"answers and closes its side", func(v *visitor, _ int) {
			id, _ := v.read()
			v.ok(id)
			_ = v.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, v.br)
		}, 10, event.OutcomeDelivered, ""},
		{"refuses a large body before it is read", func(v *visitor, _ int) {
			_, _ = v.br.ReadString('\n')
			v.say("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			_ = v.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.CopyN(io.Discard, v.br, 40<<20)
		}, 30 << 20, event.OutcomePermanent, "status"},
		{"refuses a large body and never reads it", func(v *visitor, _ int) {
			_, _ = v.br.ReadString('\n')
			v.say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			time.Sleep(2 * time.Second)
		}, 30 << 20, event.OutcomePermanent, "status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			timeout := 20 * time.Second
			if c.kind == "timeout" || strings.HasPrefix(c.name, "drips") {
				timeout = 700 * time.Millisecond
			}
			r := newClient(t, newUpstream(t, c.k), timeout).Do(t.Context(), call("1", string(make([]byte, c.body))))
			if c.kind != "timeout" && !strings.HasPrefix(c.name, "drips") && r.Duration >= timeout {
				t.Errorf("it took %s", r.Duration)
			}
			kind := r.ErrKind
			if c.name == "drips for ever" && kind == "timeout" { // "HH" is rubbish, but a line without end need not be read as one
				kind = "malformed"
			}
			if r.Outcome != c.out || kind != c.kind {
				t.Errorf("%s %q %d (%s)", r.Outcome, r.ErrKind, r.Status, r.ErrText)
			}
		})
	}
}

// A body that a 204 announces may come when the connection is in use for the next event, and look like its answer.
func TestABodyBehindA204IsNobodysAnswer(t *testing.T) {
	client := newClient(t, newUpstream(t, func(v *visitor, _ int) {
		stray := ""
		for id, ok := v.read(); ok; id, ok = v.read() {
			if id == "1" {
				stray = okAnswer("stray")
				v.say("HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n", len(stray))
				continue
			}
			v.say("%sHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", stray)
		}
	}), 5*time.Second)
	if r := client.Do(t.Context(), call("1", "body")); r.Outcome != event.OutcomeDelivered {
		t.Errorf("the first: %+v", r)
	}
	time.Sleep(3 * time.Millisecond) // a connection may be used again by then
	if r := client.Do(t.Context(), call("2", "body")); r.Status != 503 {
		t.Errorf("the second got %d %q", r.Status, r.Body)
	}
}

// Upstreams that answer more, earlier or later than they should. Each answer names the event it belongs to; "stray" belongs to none.
func TestNoAnswerIsCreditedToAnotherEvent(t *testing.T) {
	loop := func(f func(v *visitor, id string) bool) keeper {
		return func(v *visitor, _ int) {
			for {
				id, ok := v.read()
				if !ok || !f(v, id) {
					return
				}
			}
		}
	}
	for name, k := range map[string]keeper{
		"well behaved":           loop(func(v *visitor, id string) bool { return v.ok(id) }),
		"two answers at once":    loop(func(v *visitor, id string) bool { return v.say("%s%s", okAnswer(id), okAnswer("stray")) }),
		"two answers, a bit off": loop(func(v *visitor, id string) bool { v.ok(id); time.Sleep(100 * time.Microsecond); return v.ok("stray") }),
		"a 408 on idle": loop(func(v *visitor, id string) bool {
			v.ok(id)
			time.Sleep(time.Millisecond)
			return !v.say("HTTP/1.1 408 Timeout\r\nConnection: close\r\nContent-Length: 5\r\n\r\nstray")
		}),
		"half an answer more": loop(func(v *visitor, id string) bool { return v.say("%sHTTP/1.1 200", okAnswer(id)) }),
		"closes after each":   loop(func(v *visitor, id string) bool { v.ok(id); return false }),
		"says it closes": loop(func(v *visitor, id string) bool {
			return v.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
		}),
		"resets after each":  loop(func(v *visitor, id string) bool { v.ok(id); time.Sleep(time.Millisecond); v.reset(); return false }),
		"resets every tenth": loop(func(v *visitor, id string) bool { return id[len(id)-1] != '7' && v.ok(id) }),
		"until close":        loop(func(v *visitor, id string) bool { v.say("HTTP/1.1 200 OK\r\n\r\n%s", id); return false }),
		"204 with a body":    loop(func(v *visitor, id string) bool { return v.say("HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nstray") }),
		"drips": loop(func(v *visitor, id string) bool {
			a := okAnswer(id)
			return v.say("%s", a[:9]) && v.say("%s", a[9:40]) && v.say("%s", a[40:])
		}),
		"answers before it reads": func(v *visitor, _ int) {
			for {
				if _, err := v.br.Peek(1); err != nil {
					return
				}
				v.say("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
				if _, ok := v.read(); !ok {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, newUpstream(t, k), 5*time.Second)
			var wg sync.WaitGroup
			var mu sync.Mutex
			outcomes := map[string]int{}
			for g := range 4 {
				wg.Go(func() {
					for i := range 300 {
						id := fmt.Sprintf("%d-%d", g, i)
						r := client.Do(context.Background(), call(id, "body"))
						if r.Status != 0 && r.Status != 204 && r.Status != 408 && string(r.Body) != id && string(r.Body) != "busy" {
							t.Errorf("event %s got %d %q", id, r.Status, r.Body)
						}
						mu.Lock()
						outcomes[r.Outcome.String()+" "+r.ErrKind]++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			t.Log(outcomes)
			switch name {
			case "well behaved", "says it closes", "until close", "drips", "204 with a body":
				if outcomes["delivered "] != 1200 {
					t.Errorf("outcomes %v", outcomes)
				}
			case "resets every tenth":
				if outcomes["unknown reset"] < 120 || outcomes["unknown reset"] > 140 {
					t.Errorf("outcomes %v", outcomes)
				}
			case "answers before it reads":
			default:
				if outcomes["delivered "] < 1180 {
					t.Errorf("outcomes %v", outcomes)
				}
			}
		})
	}
}
