package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// raw1 sends bytes on a connection of its own and gives the status and the head of the first answer.
func raw1(t *testing.T, addr, bytes string) (status int, head http.Header) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(c, bytes)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// posted is a signed request in full.
func posted(path, id, lines string) string {
	r := custom(id, "", "")
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: hooks.example\r\nX-Signature: %s\r\nX-Timestamp: %s\r\n%sContent-Length: %d\r\n\r\n%s",
		path, r.Header.Get("X-Signature"), r.Header.Get("X-Timestamp"), lines, len(r.Body), r.Body)
}

// Behind proxies: only those that are trusted say who the client is, by X-Forwarded-* or the PROXY protocol; addresses that are allowed are
// judged by that.
func TestBehindProxies(t *testing.T) {
	t.Parallel()
	const v2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\x12\x67\x00\x50" // 203.0.113.9
	forwarded := "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: other.example\r\n"
	cases := []struct {
		name, settings, before, lines string
		status                        int
		peer, proto, host             string
	}{
		{"nobody is trusted", "", "", forwarded, 403, "", "", ""},
		{"nobody is trusted, PROXY header", "", "PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", "", 400, "", "", ""},
		{"another proxy is trusted", "trusted_proxies: [192.0.2.0/24]\n", "", forwarded, 403, "", "", ""},
		{"a trusted proxy", "trusted_proxies: [127.0.0.1/32]\n", "", forwarded, 200, "203.0.113.9", "https", "other.example"},
		{"a trusted proxy, the client invents more", "trusted_proxies: [127.0.0.1/32]\n", "", "X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n", 403, "", "", ""},
		{"version 1", "trusted_proxies: [127.0.0.1/32]\nproxy_protocol: true\n", "PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", forwarded, 200, "203.0.113.9", "http", "hooks.example"},
		{"version 2", "trusted_proxies: [127.0.0.1/32]\nproxy_protocol: true\n", v2, "", 200, "203.0.113.9", "http", "hooks.example"},
		{"the header is missing", "trusted_proxies: [127.0.0.1/32]\nproxy_protocol: true\n", "", "", 400, "", "", ""},
		{"not from a trusted proxy", "trusted_proxies: [192.0.2.1]\nproxy_protocol: true\n", "PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n", "", 400, "", "", ""},
	}
	c, addr := consumer(t)
	var gateways []*gatewayProcess
	for _, tt := range cases {
		g := prepareGateway(t, tt.settings+sources(addr, source("s", "limits: {allow_ips: [203.0.113.0/24]}\n    delivery: {mode: hybrid, upstream: app}")), "warn")
		g.begin()
		gateways = append(gateways, g)
	}
	for i, tt := range cases {
		g, before := gateways[i], len(c.Seen())
		g.ready()
		status, _ := raw1(t, g.public, tt.before+posted("/s", "evt_1", tt.lines))
		if status != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, status, tt.status)
		}
		var peer, proto, host string
		for _, s := range c.Seen()[before:] {
			peer, proto, host = s.Header.Get("X-Forwarded-For"), s.Header.Get("X-Forwarded-Proto"), s.Header.Get("X-Forwarded-Host")
		}
		if peer != tt.peer || proto != tt.proto || host != tt.host {
			t.Errorf("%s: the consumer is told %q %q %q, want %q %q %q", tt.name, peer, proto, host, tt.peer, tt.proto, tt.host)
		}
		g.kill()
	}
}

// A pod goes: `hooktender drain` as preStop makes it not ready, refuses what is new, pushes the queue to the app that still lives, and ends when
// nothing is pending; SIGTERM then ends the process with 0. An app that is gone already costs no attempts.
func TestDrainBeforeStop(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	p := planned(c)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app, retry: {base: 1m, factor: 1, jitter: none, max_attempts: 2}}")))
	probe := func(path string) int { return g.call("GET", path, "").status }
	for _, path := range []string{"/livez", "/readyz", "/startupz"} {
		if status := probe(path); status != 200 {
			t.Errorf("%s before: %d", path, status)
		}
	}
	for i := range 5 { // their next attempts would be in a minute
		id := fmt.Sprintf("evt_%d", i)
		p.on(id, hooktest.Answer{Status: 503}, hooktest.Answer{})
		g.want(id, g.ask("/s", custom(id, "", "")), 202, "accepted")
	}
	drain := func(timeout string) int {
		cmd := exec.CommandContext(t.Context(), binary, "drain", "--timeout", timeout, "--admin", "http://"+g.admin)
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode()
	}
	begin := time.Now()
	if code := drain("30s"); code != 0 || time.Since(begin) > 30*time.Second {
		t.Errorf("drain: exit %d after %s", code, time.Since(begin))
	}
	for i := range 5 {
		if n := len(c.Of("s", fmt.Sprintf("evt_%d", i))); n != 2 {
			t.Errorf("evt_%d arrived %d times, want 2", i, n)
		}
	}
	if live, ready := probe("/livez"), probe("/readyz"); live != 200 || ready != 503 {
		t.Errorf("draining: livez %d, readyz %d", live, ready)
	}
	a := g.ask("/s", custom("evt_new", "", ""))
	if g.want("draining", a, 503, "unavailable"); a.head.Get("Retry-After") == "" {
		t.Error("a 503 without Retry-After")
	}
	g.signal(syscall.SIGTERM)
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	g.cmd = nil

	c.Close() // the app is gone first
	g.launch()
	g.want("the app is gone", g.ask("/s", custom("evt_gone", "", "")), 202, "accepted")
	if code := drain("2s"); code != 7 { // it is tried at once, and refused
		t.Errorf("drain without the app: exit %d, want 7", code)
	}
	var r map[string]any
	g.await("it is tried", 20*time.Second, func() bool { r = g.record("s", "evt_gone"); return r != nil && r["attempt_count"] != 1.0 })
	if r["state"] != "pending" || r["attempt_count"] != 2.0 {
		t.Errorf("an app that is gone used up an attempt: %v", r)
	}
	g.signal(syscall.SIGTERM)
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("SIGTERM without the app: %v", err)
	}
	g.cmd = nil
	if _, err := c.Listen(addr); err != nil {
		t.Fatal(err)
	}
	g.launch()
	if code := drain("30s"); code != 0 { // the minute need not be waited for
		t.Errorf("drain with the app back: exit %d", code)
	}
	g.becomes("s", "evt_gone", "delivered/")
}

// Beyond a bound requests are shed at once, and told when to come again; those within it are served as before.
func TestShedding(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	at := gated(c)
	g := startGateway(t, "limits: {in_flight: 8, connections_per_ip: 80}\n"+strings.Replace(sources(addr, source("s", "delivery: {mode: proxy, upstream: app}")+
		source("rated", "delivery: {mode: hybrid, upstream: app}\n    limits: {rate: 0.2}")), "timeout: 3s", "timeout: 1m", 1))
	var wg sync.WaitGroup
	var served, shed atomic.Int64
	for i := range 40 {
		wg.Go(func() {
			status, head := raw1(t, g.public, posted("/s", fmt.Sprintf("slow_%d", i), ""))
			switch {
			case status == 200:
				served.Add(1)
			case status == 503 && head.Get("Retry-After") != "" && head.Get("Hooktender-Outcome") == "unavailable":
				shed.Add(1)
			default:
				t.Errorf("%d %v", status, head)
			}
		})
	}
	g.await("those beyond the bound are shed while the others are under way", 20*time.Second, func() bool { return shed.Load() == 32 && len(c.Seen()) == 8 })
	close(at.open)
	wg.Wait()
	if served.Load() != 8 || shed.Load() != 32 {
		t.Errorf("%d served, %d shed, want 8 and 32", served.Load(), shed.Load())
	}
	limited := 0
	for i := range 6 {
		a := g.ask("/rated", custom(fmt.Sprintf("r_%d", i), "", ""))
		if a.status == 429 && a.head.Get("Retry-After") != "" {
			limited++
		} else if a.status != 200 {
			t.Errorf("rate: %d", a.status)
		}
	}
	if limited < 3 {
		t.Errorf("%d of 6 at once were limited to 0.2 a second", limited)
	}
	var held []net.Conn
	for range 100 {
		if c, err := net.Dial("tcp", g.public); err == nil {
			held = append(held, c)
		}
	}
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	g.await("one connection of an address is too many", 20*time.Second, func() bool {
		status, _ := raw1(t, g.public, posted("/s", "one_more", ""))
		return status == 429
	})
}

// An upstream that closes after each answer, without saying so, causes no failed POST. Answer and end leave it together: one that is interrupted between the two for longer
// than a connection rests cannot be told from one that keeps it, until the first time.
func TestUpstreamClosesAfterEachAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wire atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				wire.Add(1)
				if err := cork(c); err != nil {
					t.Error(err)
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}()
		}
	}()
	g := startGateway(t, sources(l.Addr().String(), source("s", "delivery: {mode: proxy, upstream: app}")))
	tr := load(g, "/s", "c", 16)
	time.Sleep(time.Second)
	tr.end()
	if tr.failed.Load() > 0 || tr.answered.Load() == 0 || wire.Load() != tr.sent.Load() {
		t.Errorf("%d sent, %d on the wire, %d answered, %d failed: %q", tr.sent.Load(), wire.Load(), tr.answered.Load(), tr.failed.Load(), tr.why[:min(3, len(tr.why))])
	}
	t.Logf("%d requests", tr.answered.Load())
}

// cork has what is written to c leave together with its end, at Close: so that nothing can come between the two. Only Linux can.
func cork(c net.Conn) error {
	const option = 3 // TCP_CORK, tcp(7)
	if runtime.GOOS != "linux" {
		return nil
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, option, 1) }); err != nil {
		return err
	}
	return set
}
