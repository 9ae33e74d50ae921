package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/proxy"
)

// handlerFunc is a Handler with generous limits.
type handlerFunc func(ctx context.Context, req *event.Request, a *proxy.Answer)

func (handlerFunc) Route(path []byte) proxy.Limits {
	if string(path) == "/hasty" {
		return proxy.Limits{Body: 64 << 10, ReadTimeout: 300 * time.Millisecond}
	}
	return proxy.Limits{Body: 64 << 10, ReadTimeout: 5 * time.Second}
}

func (f handlerFunc) Handle(ctx context.Context, req *event.Request, a *proxy.Answer) { f(ctx, req, a) }

// echo answers with what it got.
func echo(_ context.Context, req *event.Request, a *proxy.Answer) {
	a.Status, a.Body = 200, fmt.Appendf(nil, "%s %s %d", req.Method, req.Target, len(req.Body))
}

type client struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{c, t, bufio.NewReader(c)}
}

func (c *client) send(s string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// want reads one answer and compares status and body ("*" = any).
func (c *client) want(status int, body string) *http.Response {
	c.t.Helper()
	return c.wantFor("POST", status, body)
}

func (c *client) wantFor(method string, status int, body string) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("want %d, got no answer: %v", status, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || body != "*" && string(b) != body {
		c.t.Fatalf("got %d %q (%v), want %d %q", resp.StatusCode, b, err, status, body)
	}
	if resp.StatusCode >= 400 && body == "*" && resp.Header.Get("Content-Type") != "application/problem+json" {
		c.t.Errorf("a refusal without problem+json: %v", resp.Header)
	}
	return resp
}

// wantEnd says that the connection has ended, with nothing more on it.
func (c *client) wantEnd() {
	c.t.Helper()
	if b, err := io.ReadAll(c.br); err != nil || len(b) > 0 {
		c.t.Fatalf("want the end of the connection, got %q, %v", b, err)
	}
}

// What a refused request has taken is there for the next one: a stranger cannot make the garbage collector work.
func TestMemoryOfRefusedRequestsIsUsedAgain(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(echo))
	chunk := "4000\r\n" + strings.Repeat("x", 0x4000) + "\r\n"
	for _, tt := range []struct {
		name, request, status string
		most                  uint64 // bytes a request may take, the client's included
	}{
		{"a body without an end", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 5), "413", 128 << 10},
		{"a head without an end", "POST /a HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", proxy.MaxHead), "431", 56 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request, answer := []byte(tt.request), make([]byte, 1<<10)
			var before, after runtime.MemStats
			const times = 200
			runtime.ReadMemStats(&before)
			for range times {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = c.Write(request)
				if n, _ := c.Read(answer); n < 12 || string(answer[9:12]) != tt.status {
					t.Fatalf("answered %q, want %s", answer[:n], tt.status)
				}
				c.Close()
			}
			runtime.ReadMemStats(&after)
			if took := (after.TotalAlloc - before.TotalAlloc) / times; took > tt.most {
				t.Errorf("a request takes %d bytes, want at most %d", took, tt.most)
			}
		})
	}
}

const post = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"

func TestAnswers(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(func(_ context.Context, req *event.Request, a *proxy.Answer) {
		switch string(req.Path()) {
		case "/204":
			a.Status, a.Body = 204, []byte("dropped")
		case "/close":
			a.Status, a.Close = 200, true
		case "/big":
			a.Status, a.Body = 200, bytes.Repeat([]byte("x"), 3<<20)
		case "/panic":
			panic("secret " + string(req.Body))
		case "/0":
		default:
			echo(nil, req, a)
			a.Head = event.Head("x-Lower: 1\r\nSet-Cookie: a\r\ncontent-TYPE: text/plain\r\nSet-Cookie: b\r\n")
		}
	}))
	t.Run("lines go out as given", func(t *testing.T) {
		c := dial(t, addr).send(post)
		var head []string
		for {
			line, err := c.br.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
			if !strings.HasPrefix(line, "Date: ") {
				head = append(head, strings.TrimSpace(line))
			}
		}
		want := "HTTP/1.1 200 OK|x-Lower: 1|Set-Cookie: a|content-TYPE: text/plain|Set-Cookie: b|Content-Length: 9"
		if got := strings.Join(head, "|"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
	t.Run("keep-alive and pipelining", func(t *testing.T) {
		c := dial(t, addr).send(post + post + "GET /b HTTP/1.1\r\nHost: h\r\n\r\n" + post)
		for _, want := range []string{"POST /a 2", "POST /a 2", "GET /b 0", "POST /a 2"} {
			c.want(200, want)
		}
		c.send(post).want(200, "POST /a 2")
	})
	t.Run("a request in single bytes", func(t *testing.T) {
		c := dial(t, addr)
		for _, b := range []byte("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n" + post) {
			c.send(string(b))
		}
		c.want(200, "POST /a 3")
		c.want(200, "POST /a 2")
	})
	t.Run("HEAD has a length and no body", func(t *testing.T) {
		c := dial(t, addr).send("HEAD /h HTTP/1.1\r\nHost: h\r\n\r\n" + post)
		if resp := c.wantFor("HEAD", 200, ""); resp.ContentLength != int64(len("HEAD /h 0")) {
			t.Errorf("Content-Length %d", resp.ContentLength)
		}
		c.want(200, "POST /a 2")
	})
	t.Run("HEAD without a body has no length", func(t *testing.T) { // it is the upstream's, and GET would be answered with one
		c := dial(t, addr).send("HEAD /close HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp := c.wantFor("HEAD", 200, ""); resp.Header.Get("Content-Length") != "" {
			t.Errorf("Content-Length %q", resp.Header.Get("Content-Length"))
		}
		c.wantEnd()
	})
	t.Run("204 has neither", func(t *testing.T) {
		c := dial(t, addr).send("POST /204 HTTP/1.1\r\nHost: h\r\n\r\n" + post)
		if resp := c.want(204, ""); resp.Header.Get("Content-Length") != "" {
			t.Error("204 with a Content-Length")
		}
		c.want(200, "POST /a 2")
	})
	t.Run("the handler closes", func(t *testing.T) {
		c := dial(t, addr).send("POST /close HTTP/1.1\r\nHost: h\r\n\r\n")
		if !c.want(200, "").Close {
			t.Error("no Connection: close")
		}
		c.wantEnd()
	})
	t.Run("a large answer", func(t *testing.T) {
		dial(t, addr).send("POST /big HTTP/1.1\r\nHost: h\r\n\r\n").want(200, strings.Repeat("x", 3<<20))
	})
	t.Run("a panic and an answer without a status are 500", func(t *testing.T) {
		dial(t, addr).send("POST /panic HTTP/1.1\r\nHost: h\r\n\r\n").want(500, "*")
		dial(t, addr).send("POST /0 HTTP/1.1\r\nHost: h\r\n\r\n").want(500, "*")
	})
	t.Run("HTTP/1.0", func(t *testing.T) {
		c := dial(t, addr).send("POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
		if resp := c.want(200, "POST /a 2"); resp.Header.Get("Connection") != "keep-alive" {
			t.Errorf("HTTP/1.0 keep-alive not confirmed: %v", resp.Header)
		}
		c.send("POST /a HTTP/1.0\r\nConnection: keep-alive\r\nConnection: x\r\nExpect: x\r\nContent-Length: 2\r\n\r\nhi").want(200, "POST /a 2")
		c.send("POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi").want(200, "POST /a 2")
		c.wantEnd()
	})
	t.Run("the client closes", func(t *testing.T) {
		c := dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nConnection: x\r\nContent-Length: 2\r\n\r\nhi")
		c.want(200, "POST /a 2")
		c.wantEnd()
	})
	t.Run("100 Continue only where the body is not there yet", func(t *testing.T) {
		head := "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
		c := dial(t, addr).send(head)
		if line, _ := c.br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q", line)
		}
		_, _ = c.br.ReadString('\n')
		c.send("hi").want(200, "POST /a 2")
		c.send(head+"hi").want(200, "POST /a 2")
		c.send("POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 60000\r\n\r\n")
		if line, _ := c.br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q", line)
		}
		_, _ = c.br.ReadString('\n')
		c.send(strings.Repeat("x", 60000)).want(200, "POST /a 60000") // once, in however many parts the body comes
		c.send("POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n").want(413, "*")
	})
}

// The request given to the handler is what was on the wire, byte for byte.
func TestRequestAsReceived(t *testing.T) {
	got := make(chan *event.Request, 1)
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(func(_ context.Context, req *event.Request, a *proxy.Answer) {
		got <- req.Clone()
		a.Status = 200
	}))
	head := "hOST:  h:1 \r\nX-A:\t1 \r\nx-a: 2\r\nContent-Length: 2\r\n"
	dial(t, addr).send("PUT /a//b?x=%2f HTTP/1.1\r\n"+head+"\r\nhi").want(200, "")
	r := <-got
	if r.Method != "PUT" || string(r.Target) != "/a//b?x=%2f" || string(r.Host) != "h:1" || string(r.Head) != head || string(r.Body) != "hi" || r.Peer.String() != "127.0.0.1" || r.TLS {
		t.Errorf("%+v head %q", r, r.Head)
	}
}

// On real sockets; TestBubble is exact about the times.
func TestTimeouts(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{HeadTimeout: time.Second, IdleTimeout: time.Second}, handlerFunc(echo))
	within := func(t *testing.T, begin time.Time, least time.Duration) {
		t.Helper()
		if d := time.Since(begin); d < least || d > 4*time.Second { // a busy machine takes its time, the defaults would take longer
			t.Errorf("after %s, want %s or not much more", d, least)
		}
	}
	t.Run("a slow head is a 408", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		c := dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\n")
		c.want(408, "*")
		within(t, begin, 900*time.Millisecond)
		_ = c.CloseWrite()
		c.wantEnd()
	})
	t.Run("a slow body is a 408", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		dial(t, addr).send("POST /hasty HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhi").want(408, "*")
		within(t, begin, 250*time.Millisecond)
	})
	t.Run("a dripping chunked body too", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		c := dial(t, addr).send("POST /hasty HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 5 {
			_, _ = io.WriteString(c, "1\r\nx\r\n") // a busy machine may be late
			time.Sleep(50 * time.Millisecond)
		}
		c.want(408, "*")
		within(t, begin, 250*time.Millisecond)
	})
	t.Run("idle connections end silently", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		fresh := dial(t, addr)
		used := dial(t, addr).send(post)
		used.want(200, "*")
		used.wantEnd()
		fresh.wantEnd()
		within(t, begin, 900*time.Millisecond)
	})
}

// Answers to a client that does not read fill the socket: what has no room waits, arrives whole once the client reads, and a client that never does
// is let go.
func TestAnswersWaitForTheirReader(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcde\n"), 1000)
	h := handlerFunc(func(_ context.Context, req *event.Request, a *proxy.Answer) { a.Status, a.Body = 200, body })
	const n = 1000
	ask := func(t *testing.T, addr string) (c *client, sent chan error) {
		c, sent = dial(t, addr), make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, strings.Repeat(post, n))
			sent <- err
		}()
		return c, sent
	}
	t.Run("and go on", func(t *testing.T) {
		t.Parallel()
		c, sent := ask(t, newServer(t, proxy.ServerConfig{}, h))
		time.Sleep(200 * time.Millisecond)
		for range n {
			c.want(200, string(body))
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		t.Parallel()
		c, sent := ask(t, newServer(t, proxy.ServerConfig{WriteTimeout: 200 * time.Millisecond}, h))
		defer func() { c.Close(); <-sent }()
		time.Sleep(2 * time.Second)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if got, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) || got >= int64(n*len(body)) {
			t.Errorf("%d bytes, %v", got, err)
		}
	})
}

func (c *client) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// The sender reads the 413 although it never stops writing: the server lingers (SPEC §12).
func TestTooLargeIsReadable(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(echo))
	body := bytes.Repeat([]byte("x"), 700<<10)
	for name, head := range map[string]string{
		"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)),
		"chunked": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(body)),
	} {
		for range 20 {
			c := dial(t, addr)
			c.send("POST /a HTTP/1.1\r\nHost: h\r\n" + head)
			if _, err := c.Write(body); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !c.want(413, "*").Close {
				t.Error("no Connection: close")
			}
			c.wantEnd()
		}
	}
	c := dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("x", 65536))
	c.want(200, "POST /a 65536") // exactly the limit
}

func TestLingerIsBounded(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(echo))
	c := dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n")
	begin := time.Now()
	chunk := make([]byte, 32<<10)
	total := 0
	for {
		n, err := c.Write(chunk)
		if total += n; err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if d := time.Since(begin); d > 10*time.Second || total > 16<<20 {
		t.Errorf("a sender that never stops was listened to for %s and %d bytes", d, total)
	}
}

// A sender that writes on behind a request that ends its connection still reads the answer, and no reset.
func TestSurplusIsNoReset(t *testing.T) {
	in, surplus := make(chan struct{}), make(chan struct{})
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(func(ctx context.Context, req *event.Request, a *proxy.Answer) {
		close(in)
		<-surplus
		echo(ctx, req, a)
	}))
	c := dial(t, addr).send("POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
	<-in
	c.send("\r\n")
	close(surplus)
	c.want(200, "POST /a 2")
	c.wantEnd()
}

// An empty line behind a body is no request that fails to come: the connection is idle.
func TestEmptyLineIsIdle(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{HeadTimeout: 500 * time.Millisecond}, handlerFunc(echo))
	c := dial(t, addr).send(post + "\r\n")
	c.want(200, "POST /a 2")
	time.Sleep(time.Second)
	c.send(post).want(200, "POST /a 2")
}

func TestConnectionBounds(t *testing.T) {
	t.Run("idle ones make room", func(t *testing.T) {
		addr := newServer(t, proxy.ServerConfig{MaxConns: 2}, handlerFunc(echo))
		a, b := dial(t, addr), dial(t, addr)
		a.send(post).want(200, "*")
		b.send(post).want(200, "*")
		dial(t, addr).send(post).want(200, "*")
	})
	t.Run("busy ones make new ones wait", func(t *testing.T) {
		release := make(chan struct{})
		addr := newServer(t, proxy.ServerConfig{MaxConns: 1}, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) { <-release; echo(ctx, r, a) }))
		a := dial(t, addr).send(post)
		b := dial(t, addr).send(post)
		_ = b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := b.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the second connection was served: %v", err)
		}
		close(release)
		_ = b.SetReadDeadline(time.Now().Add(5 * time.Second))
		b.br.Reset(b.Conn)
		a.want(200, "*")
		b.want(200, "*")
	})
	t.Run("per address", func(t *testing.T) {
		addr := newServer(t, proxy.ServerConfig{MaxPerIP: 1}, handlerFunc(echo))
		a := dial(t, addr).send(post)
		a.want(200, "*")
		if head := dial(t, addr).want(429, "*").Header; head.Get("Retry-After") == "" {
			t.Errorf("it is not told when to come again: %v", head)
		}
		a.Close()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until the server has noticed
			c := dial(t, addr)
			_, _ = io.WriteString(c, post)
			if resp, err := http.ReadResponse(c.br, nil); err == nil && resp.StatusCode == 200 {
				break
			}
			if c.Close(); time.Now().After(end) {
				t.Fatal("the connection that is gone is still counted")
			}
		}
	})
	t.Run("bytes in flight", func(t *testing.T) {
		release, in := make(chan struct{}), make(chan struct{}, 9)
		var refused atomic.Int32
		cfg := proxy.ServerConfig{MaxBytes: 3, OnRefused: func(target []byte, status int) {
			if string(target) == "/a" && status == 503 {
				refused.Add(1)
			}
		}}
		addr := newServer(t, cfg, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
			in <- struct{}{}
			<-release
			echo(ctx, r, a)
		}))
		a := dial(t, addr).send(post)
		<-in
		resp := dial(t, addr).send(post).want(503, "*")
		if resp.Header.Get("Retry-After") == "" || refused.Load() != 1 {
			t.Errorf("503 without Retry-After, or not counted (%d)", refused.Load())
		}
		close(release)
		a.want(200, "*")
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until the server has given its bytes back
			if resp, err := http.ReadResponse(dial(t, addr).send(post).br, nil); err == nil && resp.StatusCode == 200 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the bytes of a request that was answered are still counted")
			}
		}
	})
}

// flakyListener fails with what happens when descriptors run out.
type flakyListener struct {
	net.Listener
	errs []error
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

func TestOutOfDescriptors(t *testing.T) {
	ln, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.NewServer(proxy.ServerConfig{}, handlerFunc(echo), slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() {
		done <- s.Serve(context.Background(), &flakyListener{ln, []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED}})
	}()
	dial(t, ln.Addr().String()).send(post).want(200, "POST /a 2")
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	for addr, hosts := range map[string][]string{":0": {"127.0.0.1", "::1"}, "[::]:0": {"127.0.0.1", "::1"}, "0.0.0.0:0": {"127.0.0.1"}, "127.0.0.1:0": {"127.0.0.1"}} {
		ln, err := proxy.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, h := range hosts {
			c, err := net.Dial("tcp", net.JoinHostPort(h, port))
			if err != nil {
				t.Errorf("%s: %v", addr, err)
				continue
			}
			c.Close()
		}
		if addr == "0.0.0.0:0" {
			if c, err := net.Dial("tcp", net.JoinHostPort("::1", port)); err == nil {
				c.Close()
				t.Error("0.0.0.0 takes IPv6")
			}
		}
		ln.Close()
	}
	if _, err := proxy.Listen("nonsense"); err == nil {
		t.Error("no port, no error")
	}
}

func TestShutdown(t *testing.T) {
	release, in := make(chan struct{}), make(chan struct{}, 9)
	addr, s := startServer(t, proxy.ServerConfig{}, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
		if string(r.Path()) == "/slow" {
			in <- struct{}{}
			<-release
		}
		echo(ctx, r, a)
	}))
	idle, late := dial(t, addr).send(post), dial(t, addr).send(post)
	idle.want(200, "*")
	late.want(200, "*")
	busy := dial(t, addr).send("POST /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-in
	silent := dial(t, addr)
	time.Sleep(20 * time.Millisecond)
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	time.Sleep(100 * time.Millisecond)
	if !late.send(post).want(200, "POST /a 2").Close { // its sender could not know
		t.Error("the answer keeps the connection open")
	}
	idle.wantEnd()
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("an idle connection closed after %s", d)
	}
	silent.wantEnd()
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("a silent connection closed after %s", d)
	}
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the listener still serves")
		}
		c.Close()
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait for the request in flight: %v", err)
	default:
	}
	close(release)
	if !busy.want(200, "POST /slow 0").Close {
		t.Error("the last answer keeps the connection open")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	in := make(chan struct{})
	addr, s := startServer(t, proxy.ServerConfig{}, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
		close(in)
		<-ctx.Done()
		a.Status = 503
	}))
	c := dial(t, addr).send(post)
	<-in
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := io.ReadAll(c.br); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

// Connections that the kernel had accepted when the shutdown began are answered (SPEC §12), whatever the server was doing.
func TestShutdownServesTheBacklog(t *testing.T) {
	release, in := make(chan struct{}), make(chan struct{}, 1)
	addr, s := startServer(t, proxy.ServerConfig{MaxConns: 1}, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
		if string(r.Path()) == "/slow" {
			in <- struct{}{}
			<-release
		}
		echo(ctx, r, a)
	}))
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	busy := dial(t, addr).send("POST /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-in
	var waiting []*client
	for range 50 {
		waiting = append(waiting, dial(t, addr).send(post))
	}
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	for _, c := range waiting {
		c.want(200, "POST /a 2")
	}
	letGo()
	busy.want(200, "*")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Requests that cross a shutdown are answered, or never taken: no answer is cut off.
func TestShutdownUnderLoad(t *testing.T) {
	addr, s := startServer(t, proxy.ServerConfig{}, handlerFunc(echo))
	var wg sync.WaitGroup
	var answered, cut atomic.Int64
	for range 16 {
		wg.Go(func() {
			for {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				br := bufio.NewReader(c)
				for {
					if _, err := io.WriteString(c, post); err != nil {
						break
					}
					first, err := br.Peek(1)
					if err != nil || len(first) == 0 {
						break
					}
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						cut.Add(1)
						break
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						cut.Add(1)
						break
					}
					answered.Add(1)
					if resp.Close {
						break
					}
				}
				c.Close()
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); answered.Load() < 1000 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if cut.Load() > 0 || answered.Load() == 0 {
		t.Errorf("%d answers, %d cut off", answered.Load(), cut.Load())
	}
}

// bubbled starts a Server in a bubble. end stops it, before the bubble ends.
func bubbled(t *testing.T, cfg proxy.ServerConfig) (dial func() *client, end func()) {
	t.Helper()
	network := &hooktest.Network{}
	ln, err := network.Listen("127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.NewServer(cfg, handlerFunc(echo), slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	dial = func() *client {
		c, err := network.Dial(t.Context(), "tcp", "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		return &client{c, t, bufio.NewReader(c)}
	}
	return dial, func() {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute) // fasthttp's worker pool ends with its next round
	}
}

// The whole server runs in a bubble, where minutes pass at once.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := bubbled(t, proxy.ServerConfig{})
		defer end()
		begin := time.Now()
		c := dial()
		for range 3 { // each request has its own time
			c.send(post).want(200, "POST /a 2")
			time.Sleep(59 * time.Second)
		}
		c.send(post).want(200, "POST /a 2")
		c.wantEnd()
		if d := time.Since(begin); d < 236*time.Second || d > 238*time.Second {
			t.Errorf("idle for %s", d)
		}
		begin = time.Now()
		c = dial()
		c.send("POST /a HTTP/1.1\r\n").want(408, "*")
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("408 for a slow head after %s", d)
		}
		for target, want := range map[string]time.Duration{"/a": 5 * time.Second, "/hasty?x=1": 300 * time.Millisecond} {
			for _, size := range []string{"3", "60000"} {
				begin = time.Now()
				c = dial()
				c.send("POST "+target+" HTTP/1.1\r\nHost: h\r\nContent-Length: "+size+"\r\n\r\nhi").want(408, "*")
				if d := time.Since(begin); d != want {
					t.Errorf("408 for a slow body of %s bytes to %s after %s", size, target, d)
				}
			}
		}
	})
}

// A body whose connection ends in the middle of it gives its room back.
func TestABodyThatIsCutOffTakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := bubbled(t, proxy.ServerConfig{MaxBytes: 100 << 10})
		defer end()
		for _, n := range []int{50000, 50000, 50000, 60000} {
			c := dial().send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", n))
			if n == 60000 {
				c.want(200, "POST /a 60000")
			}
			synctest.Wait()
			_ = c.Close()
			time.Sleep(time.Minute)
		}
	})
}

// A server that ends, or needs room, wakes who waits for a request by a deadline. Where the request begins at that moment it is met by the deadline, and is in time
// all the same.
func TestWokenAsARequestBegins(t *testing.T) {
	for name, parts := range map[string][2]string{
		"head":           {"POST /a HTTP/1.1\r\n", "Host: h\r\nContent-Length: 2\r\n\r\nhi"},
		"body":           {"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nh", "i"},
		"large body":     {"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\nh", strings.Repeat("i", 59999)},
		"body of chunks": {"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nh", "i\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := &hooktest.Network{}
				ln, err := network.Listen("127.0.0.1:80")
				if err != nil {
					t.Fatal(err)
				}
				s := proxy.NewServer(proxy.ServerConfig{}, handlerFunc(echo), slog.New(slog.DiscardHandler))
				accepted := make(chan net.Conn, 1)
				go func() { _ = s.Serve(context.Background(), &tellingListener{ln, accepted}) }()
				defer func() {
					if err := s.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Minute) // fasthttp's worker pool ends with its next round
				}()
				nc, err := network.Dial(t.Context(), "tcp", "127.0.0.1:80")
				if err != nil {
					t.Fatal(err)
				}
				c := &client{nc, t, bufio.NewReader(nc)}
				c.send(parts[0])
				synctest.Wait()
				_ = (<-accepted).SetReadDeadline(time.Now())
				synctest.Wait()
				c.send(parts[1]).want(200, "*")
				begun := time.Now()
				c.send("POST /a HTTP/1.1\r\n").want(408, "*")
				if d := time.Since(begun); d != 5*time.Second {
					t.Errorf("408 for a slow head after %s", d)
				}
			})
		})
	}
}

// tellingListener tells of the connections that it accepts.
type tellingListener struct {
	net.Listener
	accepted chan net.Conn
}

func (l *tellingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- c
	}
	return c, err
}

func TestServeEndsWithItsContext(t *testing.T) {
	ln, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := proxy.NewServer(proxy.ServerConfig{}, handlerFunc(echo), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	dial(t, ln.Addr().String()).send(post).want(200, "*")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
