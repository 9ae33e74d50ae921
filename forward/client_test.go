package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
)

func TestNotSent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + ln.Addr().String()
	ln.Close()
	plain := newUpstream(t, func(v *visitor, _ int) { v.say("HTTP/1.1 400 Bad Request\r\n\r\n") })
	for name, c := range map[string]struct {
		url  string
		opts forward.Options
		kind string
	}{
		"refused":          {refused, forward.Options{}, forward.KindRefused},
		"unknown name":     {"http://nowhere.invalid:80", forward.Options{}, forward.KindDNS},
		"TLS to plain":     {strings.Replace(plain, "http:", "https:", 1), forward.Options{}, forward.KindTLS},
		"dial takes long":  {"http://h", forward.Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }}, forward.KindDial},
		"dial just fails":  {"http://h", forward.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") }}, forward.KindDial},
		"speaks up before": {"http://h", forward.Options{Dial: dialEager}, forward.KindMalformed},
		"hangs up before":  {"http://h", forward.Options{Dial: dialGone}, forward.KindReset},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := 20 * time.Second
			if name == "dial takes long" || name == "unknown name" { // no name server need answer
				timeout = 300 * time.Millisecond
			}
			client, err := forward.New("app", forward.Config{URL: c.url, Timeout: timeout, MaxInFlight: 4}, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			r := client.Do(t.Context(), call("1", "body"))
			if r.Outcome != event.OutcomeNotSent || r.ErrKind != c.kind || r.Status != 0 {
				t.Errorf("%s %q %s", r.Outcome, r.ErrKind, r.ErrText)
			}
		})
	}
}

// dialEager connects to an upstream whose answer is there before any request.
func dialEager(context.Context, string, string) (net.Conn, error) {
	a, b := hooktest.Pipe()
	_, err := io.WriteString(b, okAnswer("stray"))
	return a, err
}

// dialGone connects to an upstream that has closed the connection already.
func dialGone(context.Context, string, string) (net.Conn, error) {
	a, b := hooktest.Pipe()
	return a, b.Close()
}

func TestTLS(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", r.Host, len(b))
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	base := srv.Client().Transport.(*http.Transport).TLSClientConfig
	client, err := forward.New("app", forward.Config{URL: srv.URL, Timeout: 5 * time.Second, MaxInFlight: 4}, forward.Options{TLS: base})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 10, 1 << 20, 10} {
		r := client.Do(t.Context(), call("1", strings.Repeat("x", n)))
		if want := fmt.Sprintf("%s %d", strings.TrimPrefix(srv.URL, "https://"), n); string(r.Body) != want {
			t.Errorf("%+v, want %q", r, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if conns.Load() > 2 {
		t.Errorf("%d connections", conns.Load())
	}
	srv.CloseClientConnections()
	time.Sleep(3 * time.Millisecond)
	if r := client.Do(t.Context(), call("1", "x")); r.Outcome != event.OutcomeDelivered {
		t.Errorf("after its upstream has closed the kept connection: %+v", r)
	}
	other, err := forward.New("app", forward.Config{URL: srv.URL, Timeout: time.Second, MaxInFlight: 4}, forward.Options{TLS: &tls.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	if r := other.Do(t.Context(), call("1", "")); r.ErrKind != forward.KindTLS || r.Outcome != event.OutcomeNotSent {
		t.Errorf("an unknown authority: %+v", r)
	}
}

// The sender's deadline passes at any point of the answer; another goroutine waits on, and the answer is whole.
func TestHandOver(t *testing.T) {
	answer := "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nX: y\r\n\r\n"
	for at := 0; at < len(answer); at += 7 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			goOn := make(chan struct{})
			url := newUpstream(t, func(v *visitor, _ int) {
				v.read()
				v.say("%s", answer[:at])
				<-goOn
				v.say("%s", answer[at:])
				v.read()
			})
			var x forward.Exchange
			x.Begin(t.Context(), newDialedClient(t, url, 20*time.Second), call("1", "body"))
			for range 3 {
				if x.Wait(time.Now().Add(15 * time.Millisecond)) {
					t.Fatalf("over already: %+v", x.Result())
				}
			}
			close(goOn)
			done := make(chan bool)
			go func() { done <- x.Wait(time.Time{}) }()
			if !<-done {
				t.Fatal("Wait without a bound says it is not over")
			}
			if r := x.Result(); r.Outcome != event.OutcomeDelivered || string(r.Body) != "abcdefg" || r.Duration < 40*time.Millisecond {
				t.Errorf("%+v", r)
			}
		})
	}
}

// newDialedClient is a newClient whose one connection is there already: a dial that is not done when a wait ends is given up, and on a busy machine it may take longer.
func newDialedClient(t *testing.T, url string, timeout time.Duration) *forward.Client {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := forward.New("app", forward.Config{URL: url, Timeout: timeout, MaxInFlight: 64}, forward.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nc, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Once Wait has returned, the call's memory may be used for something else, even if the upstream has not read it all.
func TestHandOverWhileWriting(t *testing.T) {
	goOn := make(chan struct{})
	got := make(chan []byte, 1)
	url := newUpstream(t, func(v *visitor, _ int) {
		<-goOn
		req, err := http.ReadRequest(v.br)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		got <- b
		v.ok("done")
	})
	body := bytes.Repeat([]byte("0123456789"), 3<<20)
	want := bytes.Clone(body)
	c := call("1", "")
	c.Body = body
	var x forward.Exchange
	x.Begin(t.Context(), newDialedClient(t, url, 2*time.Minute), c)
	if x.Wait(time.Now().Add(100 * time.Millisecond)) {
		t.Fatalf("over already: %+v", x.Result())
	}
	clear(body)
	clear(c.Head)
	close(goOn)
	x.Wait(time.Time{})
	if r := x.Result(); r.Outcome != event.OutcomeDelivered {
		t.Errorf("%+v", r)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the upstream got %d bytes, not those that were sent", len(b))
	}
}

// The same over TLS, to the second: a sender is told at its deadline also where an upstream that speaks TLS does not read.
func TestHandOverWhileWritingTLS(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	base := srv.Client().Transport.(*http.Transport).TLSClientConfig
	for name, reads := range map[string]bool{"the upstream reads on": true, "it never does": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				goOn, got := make(chan struct{}), make(chan []byte, 1)
				dial := func(context.Context, string, string) (net.Conn, error) {
					a, b := hooktest.Pipe()
					go func() {
						defer b.Close()
						tc := tls.Server(b, &tls.Config{Certificates: srv.TLS.Certificates})
						if tc.Handshake() != nil {
							return
						}
						<-goOn
						if req, err := http.ReadRequest(bufio.NewReader(tc)); reads && err == nil {
							body, _ := io.ReadAll(req.Body)
							got <- body
							_, _ = io.WriteString(tc, okAnswer("done"))
						}
					}()
					return a, nil
				}
				client, err := forward.New("app", forward.Config{URL: "https://example.com", Timeout: 16 * time.Second, MaxInFlight: 4}, forward.Options{Dial: dial, TLS: base})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				body := bytes.Repeat([]byte("0123456789"), 100<<10)
				want := bytes.Clone(body)
				c := call("1", "")
				c.Body = body
				begin := time.Now()
				var x forward.Exchange
				x.Begin(t.Context(), client, c)
				for _, until := range []time.Duration{2 * time.Second, 8 * time.Second} {
					if x.Wait(begin.Add(until)) || time.Since(begin) != until {
						t.Fatalf("a wait for %s ended after %s: %+v", until, time.Since(begin), x.Result())
					}
				}
				clear(body)
				clear(c.Head)
				if reads {
					close(goOn)
				}
				x.Wait(time.Time{})
				r := x.Result()
				switch {
				case reads:
					if r.Outcome != event.OutcomeDelivered || !bytes.Equal(<-got, want) {
						t.Errorf("the upstream did not get what was sent: %+v", r)
					}
				case r.ErrKind != forward.KindTimeout || r.Outcome != event.OutcomeUnknown || time.Since(begin) > 19*time.Second:
					t.Errorf("after %s: %+v", time.Since(begin), r)
				}
				if !reads {
					close(goOn)
				}
			})
		})
	}
}

// An upstream that answers and never reads is heard once its time is up. What it has not read may be read as the next request: that takes another connection.
func TestAnswerToAHalfWrittenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		dial := func(context.Context, string, string) (net.Conn, error) {
			a, b := hooktest.Pipe()
			dials++
			_, err := io.WriteString(b, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			return late{a}, err
		}
		client, err := forward.New("app", forward.Config{URL: "http://app", Timeout: 16 * time.Second, MaxInFlight: 4}, forward.Options{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for n := 1; n <= 2; n++ {
			r := client.Do(t.Context(), call("1", strings.Repeat("x", 1<<20)))
			if r.Outcome != event.OutcomePermanent || r.Status != 413 || r.Duration > 18*time.Second || dials != n {
				t.Errorf("%d connections: %+v", dials, r)
			}
			time.Sleep(time.Second)
		}
	})
}

// A late connection does not say what waits to be read before it is.
type late struct{ net.Conn }

func TestHardShutdown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url := newUpstream(t, func(v *visitor, _ int) {
		for id, ok := v.read(); ok; id, ok = v.read() {
			if id == "hang" {
				cancel()
				v.read()
				return
			}
			v.ok(id)
		}
	})
	client := newClient(t, url, time.Minute)
	for range 3 {
		if r := client.Do(ctx, call("1", "")); r.Outcome != event.OutcomeDelivered {
			t.Fatalf("%+v", r)
		}
		time.Sleep(3 * time.Millisecond)
	}
	begin := time.Now()
	r := client.Do(ctx, call("hang", ""))
	if r.Outcome != event.OutcomeUnknown || time.Since(begin) > 20*time.Second {
		t.Errorf("after %s: %+v", time.Since(begin), r)
	}
	if r := client.Do(ctx, call("1", "")); r.Outcome != event.OutcomeNotSent {
		t.Errorf("begun after the end: %+v", r)
	}
	time.Sleep(3 * time.Millisecond)
	if r := client.Do(t.Context(), call("1", "")); r.Outcome != event.OutcomeDelivered {
		t.Errorf("another context: %+v", r)
	}
}

// An upstream that drops idle connections early costs no POST.
func TestStaleConnectionsFailNoPost(t *testing.T) {
	conns := make(chan net.Conn, 100)
	url := newUpstream(t, func(v *visitor, _ int) {
		conns <- v.Conn
		for id, ok := v.read(); ok && v.ok(id); id, ok = v.read() {
		}
	})
	client := newClient(t, url, 20*time.Second)
	dropped := 0
	for i := range 60 {
		if r := client.Do(t.Context(), call("1", "body")); r.Outcome != event.OutcomeDelivered {
			t.Errorf("%d: %+v", i, r)
		}
		if time.Sleep(3 * time.Millisecond); i%2 == 1 { // long enough to be used again
			for ; len(conns) > 0; dropped++ {
				_ = (<-conns).Close()
			}
			time.Sleep(3 * time.Millisecond)
		}
	}
	if dropped < 10 {
		t.Errorf("only %d connections: nothing was stale", dropped)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	var conns atomic.Int32
	client := newClient(t, newUpstream(t, func(v *visitor, _ int) {
		conns.Add(1)
		for id, ok := v.read(); ok && v.ok(id); id, ok = v.read() {
		}
	}), 5*time.Second)
	for range 50 {
		client.Do(t.Context(), call("1", "body"))
		time.Sleep(3 * time.Millisecond)
	}
	if n := conns.Load(); n > 2 {
		t.Errorf("%d connections for 50 requests one after the other", n)
	}
	client.CloseIdle()
	client.Do(t.Context(), call("1", "body"))
	if n := conns.Load(); n < 2 {
		t.Error("CloseIdle kept the connection")
	}
}

// Time in a bubble: the timeout is exact, and idle connections end after IdleTimeout.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		dial := func(context.Context, string, string) (net.Conn, error) {
			a, b := hooktest.Pipe()
			open.Add(1)
			go func() {
				defer open.Add(-1)
				v := &visitor{b, bufio.NewReader(b)}
				for id, ok := v.read(); ok; id, ok = v.read() {
					if id == "slow" {
						time.Sleep(time.Hour)
					}
					v.ok(id)
				}
			}()
			return a, nil
		}
		client, err := forward.New("app", forward.Config{URL: "http://app/base/", Timeout: 10 * time.Second, MaxInFlight: 4}, forward.Options{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if r := client.Do(t.Context(), call("1", "body")); string(r.Body) != "1" {
				t.Fatalf("%+v", r)
			}
			time.Sleep(time.Second)
		}
		if open.Load() != 1 {
			t.Errorf("%d connections", open.Load())
		}
		time.Sleep(forward.IdleTimeout)
		synctest.Wait()
		if open.Load() != 0 {
			t.Errorf("%d connections after the idle timeout", open.Load())
		}
		begin := time.Now()
		var x forward.Exchange
		x.Begin(t.Context(), client, call("slow", "body"))
		if x.Wait(begin.Add(8 * time.Second)) {
			t.Error("over before its time")
		}
		x.Wait(time.Time{})
		if r := x.Result(); r.Outcome != event.OutcomeUnknown || r.ErrKind != forward.KindTimeout || time.Since(begin) != 10*time.Second {
			t.Errorf("after %s: %+v", time.Since(begin), r)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestCompose(t *testing.T) {
	in := event.Head("host: evil\r\nX-A:  1 \r\nCoNtEnT-TyPe: a/b\r\nConnection: close, X-Hop, content-type , X-Signature\r\nx-hop: 1\r\nKeep-Alive: 1\r\n" +
		"Proxy-Connection: x\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\nTE: trailers\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n" +
		"Expect: 100-continue\r\nContent-Length: 99\r\nRange: bytes=0-\r\nhooktender-id: evil\r\nHOOKTENDER_ID: evil\r\nForwarded: x\r\nX-Forwarded-For: x\r\nx_forwarded_proto: x\r\n" +
		"X-Real-IP: x\r\nX-Signature: s\r\nidempotency-key: theirs\r\nX-A: 2\r\nVia: 1.1 a\r\n")
	extra := event.Head("Hooktender-Id: 1\r\nIdempotency-Key: ours\r\n")
	call := &forward.Call{Method: "POST", Path: []byte("/hook?a=1"), Head: in, Extra: extra, Body: []byte("hi")}
	got := string(forward.Compose(nil, call, "/base", "app:3000"))
	want := "POST /base/hook?a=1 HTTP/1.1\r\nHost: app:3000\r\nX-A:  1 \r\nCoNtEnT-TyPe: a/b\r\nX-Signature: s\r\nX-A: 2\r\nVia: 1.1 a\r\n" +
		"Hooktender-Id: 1\r\nIdempotency-Key: ours\r\nContent-Length: 2\r\n\r\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	hops := event.Head("X_B: 1\r\nX-C: 1\r\nTraceparent: x\r\ntracestate: a=1\r\nIdempotency_Key: theirs\r\n" + strings.Repeat("Connection: close\r\n", 4) + "Connection: x-b\r\nConnection: x_c, traceparent\r\nX-D: 1\r\n")
	for extra, want := range map[string]string{
		"": "Traceparent: x\r\ntracestate: a=1\r\nIdempotency_Key: theirs\r\nX-D: 1\r\n",
		"Idempotency-Key: ours\r\nTraceparent: y\r\n": "X-D: 1\r\nIdempotency-Key: ours\r\nTraceparent: y\r\n",
	} {
		if got := string(forward.Compose(nil, &forward.Call{Method: "GET", Path: []byte("/"), Head: hops, Extra: event.Head(extra)}, "", "h")); got != "GET / HTTP/1.1\r\nHost: h\r\n"+want+"\r\n" {
			t.Errorf("nominated and replaced names: %q", got)
		}
	}
	for method, n := range map[string]int{"POST": 1, "PUT": 1, "PATCH": 1, "GET": 0, "DELETE": 0} {
		b := forward.Compose(nil, &forward.Call{Method: method, Path: []byte("/")}, "", "h")
		if bytes.Count(b, []byte("Content-Length: 0\r\n")) != n {
			t.Errorf("%q", b)
		}
	}
}

// The zone of a link-local address is for the dial only: strict servers refuse a Host that has one.
func TestHostHasNoZone(t *testing.T) {
	for url, want := range map[string][2]string{
		"http://[fe80::1%25eth0]:3000": {"[fe80::1%eth0]:3000", "[fe80::1]:3000"},
		"http://[fe80::1%25eth0]/x":    {"[fe80::1%eth0]:80", "[fe80::1]"},
		"http://[fe80::1]:3000":        {"[fe80::1]:3000", "[fe80::1]:3000"},
		"http://app.test:3000":         {"app.test:3000", "app.test:3000"},
	} {
		var dialled, host string
		dial := func(_ context.Context, _, addr string) (net.Conn, error) {
			dialled = addr
			a, b := hooktest.Pipe()
			go func() {
				defer b.Close()
				if req, err := http.ReadRequest(bufio.NewReader(b)); err == nil {
					host = req.Host
					_, _ = io.WriteString(b, okAnswer("ok"))
				}
			}()
			return a, nil
		}
		client, err := forward.New("app", forward.Config{URL: url, Timeout: 20 * time.Second, MaxInFlight: 4}, forward.Options{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		if r := client.Do(t.Context(), call("1", "body")); r.Outcome != event.OutcomeDelivered || dialled != want[0] || host != want[1] {
			t.Errorf("%s: %s, dialled %s with Host %s; want %s, %s", url, r.Outcome, dialled, host, want[0], want[1])
		}
		client.Close()
	}
}

func TestAnswerHead(t *testing.T) {
	url := newUpstream(t, func(v *visitor, _ int) {
		v.read()
		v.say("HTTP/1.1 200 OK\r\nX-b:  1\r\nDate: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nSet-Cookie: a\r\nHooktender-Outcome: evil\r\nset-cookie: b\r\nContent-Length: 2\r\n\r\nok")
	})
	r := newClient(t, url, 5*time.Second).Do(t.Context(), call("1", ""))
	if want := "X-b:  1\r\nSet-Cookie: a\r\nset-cookie: b\r\n"; string(r.Head) != want || string(r.Body) != "ok" {
		t.Errorf("got %q %q, want %q", r.Head, r.Body, want)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(1994, 11, 6, 8, 49, 7, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, "120": 2 * time.Minute, "0007": 7 * time.Second, "-1": -time.Second, "-120": -2 * time.Minute, "-0": -time.Second,
		"Sun, 06 Nov 1994 08:49:37 GMT": 30 * time.Second, "Sunday, 06-Nov-94 08:49:37 GMT": 30 * time.Second, "Sun Nov  6 08:49:37 1994": 30 * time.Second,
		"Sun, 06 Nov 1994 08:00:00 GMT": 0, "9223372036": 100 * 365 * 24 * time.Hour, "9223372037": 100 * 365 * 24 * time.Hour,
		"18446744073709551617": 100 * 365 * 24 * time.Hour, "-99999999999999999999": -100 * 365 * 24 * time.Hour, "Fri, 31 Dec 9999 23:59:59 GMT": 100 * 365 * 24 * time.Hour,
	} {
		if d, ok := forward.RetryAfter([]byte(v), now); !ok || d != want {
			t.Errorf("%q: %s %v, want %s", v, d, ok, want)
		}
	}
	for _, v := range []string{"", "soon", "1e9", "1.5", "+1", "- 1", "-", "--1", "1 ", "Sun, 06 Nov 1994", "0x10", "\xb2"} {
		if d, ok := forward.RetryAfter([]byte(v), now); ok {
			t.Errorf("%q is taken for %s", v, d)
		}
	}
}

func TestNewRefusesURLs(t *testing.T) {
	for _, url := range []string{"", "app:3000", "ftp://app", "http://", "http://a b"} {
		if _, err := forward.New("app", forward.Config{URL: url}, forward.Options{}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}

// BenchmarkDo is one exchange of 1 KiB on kept connections, the upstream in the same process.
func BenchmarkDo(b *testing.B) {
	answer := []byte(okAnswer("ok"))
	client := newClient(b, newUpstream(b, func(v *visitor, _ int) {
		buf := make([]byte, 4096)
		for {
			n, err := v.Conn.Read(buf)
			if err != nil || n == 0 {
				return
			}
			if _, err := v.Write(answer); err != nil {
				return
			}
		}
	}), 10*time.Second)
	c := call("1", strings.Repeat("x", 1024))
	c.Head = append(c.Head, "Content-Type: application/json\r\nUser-Agent: Stripe/1.0\r\nStripe-Signature: t=1,v1=00\r\nConnection: keep-alive\r\nAccept: */*\r\n"...)
	c.Extra = event.Head("Hooktender-Id: 1\r\nHooktender-Source: stripe\r\nIdempotency-Key: stripe:1\r\nX-Forwarded-For: 10.0.0.1\r\n")
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if r := client.Do(ctx, c); r.Outcome != event.OutcomeDelivered {
			b.Fatalf("%+v", r)
		}
	}
}

func BenchmarkCompose(b *testing.B) {
	c := call("1", "body")
	c.Head = append(c.Head, "Content-Type: application/json\r\nUser-Agent: Stripe/1.0\r\nStripe-Signature: t=1,v1=00\r\nConnection: keep-alive\r\nAccept: */*\r\n"...)
	c.Extra = event.Head("Hooktender-Id: 1\r\nHooktender-Source: stripe\r\nIdempotency-Key: stripe:1\r\nX-Forwarded-For: 10.0.0.1\r\n")
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = forward.Compose(buf[:0], c, "/base", "app:3000")
	}
}
