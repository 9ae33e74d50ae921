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
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/proxy"
)

// fuzzBody is the limit of a body under fuzzing: above what is staged, so that both ways are taken, and small enough to be passed.
const fuzzBody = 20 << 10

// FuzzServer sends raw bytes through the real server and the real upstream client. Upstream stands net/http's reader: it must see as
// many requests as the grammar of RFC 9112 finds in the bytes, and each with the same method, target, fields and body; the sender must
// get an answer to each, and a refusal to the rest. It does not matter where the bytes are cut on their way.
func FuzzServer(f *testing.F) {
	files, err := filepath.Glob("testdata/rawhttp/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no corpus")
	}
	for i, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, uint16(i))
	}
	for _, n := range []int{16 << 10, 16<<10 + 1, fuzzBody, fuzzBody + 1} {
		f.Add(fmt.Appendf(nil, "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, bytes.Repeat([]byte("x"), n)), uint16(4100))
		f.Add(fmt.Appendf(nil, "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n", n, bytes.Repeat([]byte("x"), n)), uint16(70))
	}
	g := newFuzzGate(f)
	f.Fuzz(func(t *testing.T, raw []byte, cut uint16) {
		if len(raw) > 128<<10 {
			return // the sockets between hold no more
		}
		g.took() // nothing of one that failed
		want, rest := grammar(raw)
		answers := g.send(t, raw, int(cut))
		seen := g.took()
		if len(answers) < len(want) && (len(answers) == 0 || !answers[len(answers)-1].closes) {
			t.Fatalf("%d answers to %d requests", len(answers), len(want))
		}
		forwarded := min(len(answers), len(want))
		for i, a := range answers {
			switch {
			case i >= len(want) && (!rest || i > len(want) || a.status/100 != 4 && a.status != 505 || !a.closes):
				t.Fatalf("%d requests, and then a %d (a refusal is due: %t; closes: %t)", len(want), a.status, rest, a.closes)
			case i >= len(want):
			case i >= len(seen) && a.status == 400 && a.closes && i == len(answers)-1 && want[i].doubtful():
				forwarded--
			case i >= len(seen):
				t.Fatalf("request %d was answered %d and never came to the upstream", i, a.status)
			case want[i].closes && !a.closes:
				t.Fatalf("request %d ends the connection, its answer does not", i)
			case a.status != seen[i].status || a.closes && i < len(answers)-1:
				t.Fatalf("answer %d of %d: %d, closes %t; the upstream said %d", i, len(answers), a.status, a.closes, seen[i].status)
			}
		}
		if len(seen) != forwarded {
			t.Fatalf("%d requests, %d answers, and the upstream sees %d", len(want), len(answers), len(seen))
		}
		if rest && len(answers) == len(want) && (len(want) == 0 || !answers[len(answers)-1].closes) {
			t.Fatal("what is no request was not answered")
		}
		for i := range seen {
			if why := want[i].unlike(&seen[i]); why != "" {
				t.Fatalf("request %d: %s", i, why)
			}
		}
	})
}

// wanted is a request as the grammar has it.
type wanted struct {
	method, target string
	fields         [][2]string
	body           []byte
	closes         bool // the sender wants the connection to end with it
	raw            []byte
}

// doubtful says that fasthttp does not take the request, or not to the same end: such a one is refused, for it can be read in two ways.
func (w *wanted) doubtful() bool {
	var r fasthttp.Request
	r.Header.DisableNormalizing()
	src := bytes.NewReader(w.raw)
	br := bufio.NewReaderSize(src, len(w.raw)+16)
	err := r.ReadLimitBody(br, proxy.MaxBody)
	return err != nil || src.Len()+br.Buffered() > 0 || !bytes.Equal(r.Body(), w.body)
}

// sawn is a request as net/http has it behind the gateway.
type sawn struct {
	head   []byte // as it came
	req    *http.Request
	body   []byte
	status int
}

const fuzzExtra = "Hooktender-Id: 01K\r\nIdempotency-Key: s:1\r\nX-Forwarded-For: 192.0.2.1\r\n"

// unlike says in what the upstream's request differs from the one that was sent.
func (w *wanted) unlike(s *sawn) string {
	kept := w.travels()
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: upstream\r\n", w.method, w.target)
	seen := http.Header{}
	for _, f := range kept {
		seen.Add(f[0], strings.Trim(f[1], " \t"))
		fmt.Fprintf(&head, "%s:%s\r\n", f[0], f[1])
	}
	for line := range strings.Lines(fuzzExtra) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		seen.Add(name, value)
	}
	head.WriteString(fuzzExtra)
	if len(w.body) > 0 || w.method == "POST" || w.method == "PUT" || w.method == "PATCH" {
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(w.body))
		seen.Set("Content-Length", strconv.Itoa(len(w.body)))
	}
	head.WriteString("\r\n")
	got := bytes.Replace(s.head, []byte("Connection: close\r\n\r\n"), []byte("\r\n"), 1) // the client's own, while it distrusts the upstream
	switch {
	case string(got) != head.String():
		return fmt.Sprintf("the upstream got\n%q, want\n%q", got, head.String())
	case !bytes.Equal(s.body, w.body):
		return fmt.Sprintf("the upstream got the body %q, want %q", s.body, w.body)
	case s.req == nil: // net/http refused it, see took
		return ""
	case s.req.Method != w.method || s.req.RequestURI != w.target || s.req.Host != "upstream" || len(s.req.Trailer) > 0 || len(s.req.TransferEncoding) > 0:
		return fmt.Sprintf("net/http reads %q %q at %q, trailers %v, coding %v", s.req.Method, s.req.RequestURI, s.req.Host, s.req.Trailer, s.req.TransferEncoding)
	}
	s.req.Header.Del("Connection")
	for name, values := range s.req.Header {
		if !slices.Equal(values, seen[name]) {
			return fmt.Sprintf("net/http reads %s: %q, want %q", name, values, seen[name])
		}
	}
	if len(s.req.Header) != len(seen) {
		return fmt.Sprintf("net/http reads %v, want %v", s.req.Header, seen)
	}
	return ""
}

// travels are the fields that go on to the upstream (SPEC §3), in the plainest way that this can be said.
func (w *wanted) travels() (out [][2]string) {
	plain := func(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }
	gone := map[string]bool{
		"connection": true, "keep-alive": true, "proxy-connection": true, "proxy-authenticate": true, "proxy-authorization": true, "te": true, "trailer": true, "transfer-encoding": true,
		"upgrade": true, "http2-settings": true, "expect": true, "range": true, "host": true, "content-length": true, "forwarded": true, "x-real-ip": true, "idempotency-key": true,
	}
	for _, f := range w.fields {
		if strings.EqualFold(f[0], "connection") {
			for item := range strings.SplitSeq(f[1], ",") {
				if item = plain(strings.Trim(item, " \t")); !holds.MatchString(item) {
					gone[item] = true
				}
			}
		}
	}
	for _, f := range w.fields {
		if n := plain(f[0]); !gone[n] && !strings.HasPrefix(n, "hooktender-") && !strings.HasPrefix(n, "x-forwarded-") {
			out = append(out, f)
		}
	}
	return out
}

// holds are the fields that no Connection line takes out: they frame, describe or authenticate the message.
var holds = regexp.MustCompile(`^(content-|webhook-)|^(authorization|date|digest|idempotency-key|user-agent|traceparent)$|signature|hmac|timestamp|token|event|delivery`)

// The grammar of RFC 9112, narrowed as SPEC §11 has it: one request of it each.
var (
	requestLine = regexp.MustCompile(`^([!#$%&'*+.^_\x60|~0-9A-Za-z-]+) (/[!$%&'()*+,./0-9:;=@A-Z\[\]_a-z~-]*(?:\?[!-"$-~]*)?) HTTP/1\.([01])$`)
	fieldLine   = regexp.MustCompile(`^([!#$%&'*+.^_\x60|~0-9A-Za-z-]+):([\t\x20-\x7e\x{80}-\x{ff}]*)$`)
	chunkLine   = regexp.MustCompile(`^([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x{80}-\x{ff}]*)?$`)
	hostValue   = regexp.MustCompile(`^(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,253}\])(?::[0-9]{0,5})?$`)
)

// latin1 makes a string whose characters are b's bytes, because regexp takes bytes for UTF-8.
func latin1(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func bytesOf(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// grammar finds the requests in raw, up to one that ends the connection. rest says that something follows which is no whole request.
func grammar(raw []byte) (all []wanted, rest bool) {
	for {
		raw = bytes.TrimPrefix(raw, []byte("\r\n")) // one empty line
		if len(raw) == 0 {
			return all, false
		}
		w, size := one(raw)
		if size == 0 {
			return all, true
		}
		w.raw = raw[:size]
		if all = append(all, w); w.closes {
			return all, false
		}
		raw = raw[size:]
	}
}

// line cuts the first line off b; false: there is none that ends in CRLF.
func line(b []byte) (text string, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return "", nil, false
	}
	return latin1(b[:i-1]), b[i+1:], true
}

// lines reads field lines up to the empty one, as many and as long as may be.
func lines(b []byte) (fields [][2]string, rest []byte, ok bool) {
	for {
		text, rest, ok := line(b)
		if !ok {
			return nil, nil, false
		}
		if b = rest; text == "" {
			return fields, b, true
		}
		m := fieldLine.FindStringSubmatch(text)
		if m == nil || len(fields) == proxy.MaxFields {
			return nil, nil, false
		}
		fields = append(fields, [2]string{m[1], bytesOf(m[2])})
	}
}

// one reads one request from the beginning of raw; 0 = there is none.
func one(raw []byte) (w wanted, size int) {
	text, rest, ok := line(raw)
	m := requestLine.FindStringSubmatch(text)
	if !ok || m == nil {
		return w, 0
	}
	w.method, w.target = m[1], m[2]
	old := m[3] == "0"
	if w.fields, rest, ok = lines(rest); !ok || len(raw)-len(rest) > proxy.MaxHead {
		return w, 0
	}
	length, chunked, keep := 0, false, !old
	count := map[string]int{}
	for _, f := range w.fields {
		name, value := strings.ToLower(f[0]), strings.Trim(f[1], " \t")
		count[name]++
		switch name {
		case "host":
			ok = ok && hostValue.MatchString(latin1([]byte(value)))
			if literal, _, _ := strings.Cut(value, "]"); strings.HasPrefix(value, "[") {
				a, err := netip.ParseAddr(literal[1:])
				ok = ok && err == nil && a.Is6()
			}
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 64)
			ok = ok && value != "" && strings.Trim(value, "0123456789") == "" && err == nil && n <= fuzzBody
			length = int(n)
		case "transfer-encoding":
			ok = ok && strings.EqualFold(value, "chunked") && !old
			chunked = true
		case "expect":
			ok = ok && (old || strings.EqualFold(value, "100-continue"))
		case "connection":
			for item := range strings.SplitSeq(value, ",") {
				item = strings.Trim(item, " \t")
				w.closes = w.closes || strings.EqualFold(item, "close")
				keep = keep || strings.EqualFold(item, "keep-alive")
			}
		}
	}
	w.closes = w.closes || !keep
	for _, name := range []string{"host", "content-length", "transfer-encoding", "content-type", "authorization", "expect"} {
		ok = ok && count[name] <= 1
	}
	if !ok || count["host"] == 0 && !old || chunked && count["content-length"] > 0 {
		return w, 0
	}
	if chunked {
		if rest, ok = w.chunks(rest); !ok {
			return w, 0
		}
		return w, len(raw) - len(rest)
	}
	if len(rest) < length {
		return w, 0
	}
	w.body = rest[:length]
	return w, len(raw) - len(rest) + length
}

// chunks reads a chunked body and its trailers, which are dropped.
func (w *wanted) chunks(b []byte) (rest []byte, ok bool) {
	extensions := 0
	for {
		text, rest, ok := line(b)
		m := chunkLine.FindStringSubmatch(text)
		if !ok || m == nil {
			return nil, false
		}
		if _, ext, is := strings.Cut(bytesOf(text), ";"); is {
			if extensions += len(ext) + 1; extensions > proxy.MaxHead {
				return nil, false
			}
		}
		n, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil || n > fuzzBody || len(w.body)+int(n) > fuzzBody {
			return nil, false
		}
		if n == 0 {
			_, after, ok := lines(rest)
			return after, ok && len(rest)-len(after) <= proxy.MaxHead
		}
		if len(rest) < int(n)+2 || string(rest[n:n+2]) != "\r\n" {
			return nil, false
		}
		w.body = append(w.body, rest[:n]...)
		b = rest[n+2:]
	}
}

// A fuzzGate is a server, a client and an upstream that live as long as the fuzzing.
type fuzzGate struct {
	dir  string
	mu   sync.Mutex
	seen []sawn
}

func newFuzzGate(f *testing.F) *fuzzGate {
	dir, err := os.MkdirTemp("", "fuzz") // a short path: it becomes the name of a socket
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	g := &fuzzGate{dir: dir}
	up, err := net.Listen("unix", g.socket("up"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { up.Close() })
	go func() {
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			go g.upstream(c)
		}
	}()
	client, err := forward.New("up", forward.Config{URL: "http://upstream", MaxInFlight: 8}, forward.Options{
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.socket("up"))
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(client.Close)
	ln, err := net.Listen("unix", g.socket("in"))
	if err != nil {
		f.Fatal(err)
	}
	s := proxy.NewServer(proxy.ServerConfig{}, fuzzHandler{client}, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	f.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		<-done
	})
	return g
}

func (g *fuzzGate) socket(name string) string { return filepath.Join(g.dir, name) }

type fuzzHandler struct{ client *forward.Client }

func (fuzzHandler) Route([]byte) proxy.Limits { return proxy.Limits{Body: fuzzBody} }

// Handle sends everything on.
func (h fuzzHandler) Handle(ctx context.Context, req *event.Request, a *proxy.Answer) {
	r := h.client.Do(ctx, &forward.Call{Method: req.Method, Path: req.Target, Head: req.Head, Extra: event.Head(fuzzExtra), Body: req.Body})
	a.Status, a.Head, a.Body = r.Status, r.Head, r.Body
	if r.Status == 0 {
		a.Status, a.Body = 502, []byte(r.ErrKind+": "+r.ErrText)
	}
}

// upstream is what net/http makes of the bytes that come.
func (g *fuzzGate) upstream(c net.Conn) {
	defer c.Close()
	var read bytes.Buffer
	br := bufio.NewReader(io.TeeReader(c, &read))
	for {
		if _, err := br.Peek(1); err != nil {
			return
		}
		s := sawn{status: 200}
		req, err := http.ReadRequest(br)
		if err == nil {
			s.req = req
			s.body, err = io.ReadAll(req.Body)
		}
		if err != nil && escapes(&read, br) {
			// What the escapes of a target mean is nothing that the gateway judges; net/http refuses some. Nothing else may make it stop.
			s.req, s.status, err = nil, 599, nil
		}
		if err != nil {
			s.req = &http.Request{Method: err.Error()}
		}
		used := read.Next(read.Len() - br.Buffered())
		i := bytes.Index(used, []byte("\r\n\r\n")) + 4
		s.head = bytes.Clone(used[:i])
		if s.req == nil {
			s.body = bytes.Clone(used[i:])
		}
		answer := fmt.Sprintf("HTTP/1.1 %d Judged\r\nContent-Length: 0\r\n\r\n", s.status)
		g.mu.Lock()
		g.seen = append(g.seen, s)
		g.mu.Unlock()
		if _, werr := io.WriteString(c, answer); err != nil || werr != nil {
			return
		}
	}
}

// escapes says whether net/http stopped at the escapes of a target; then the rest of that request is read.
func escapes(read *bytes.Buffer, br *bufio.Reader) bool {
	target := bytes.Split(read.Bytes(), []byte(" "))[1]
	if _, err := url.ParseRequestURI(string(target)); err == nil {
		return false
	}
	length := int64(0)
	for {
		l, err := br.ReadString('\n')
		if err != nil {
			return false
		}
		if l == "\r\n" {
			_, err = io.CopyN(io.Discard, br, length)
			return err == nil
		}
		if v, ok := strings.CutPrefix(l, "Content-Length: "); ok {
			length, _ = strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
}

// took gives what the upstream has seen since the last call.
func (g *fuzzGate) took() []sawn {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen
	g.seen = nil
	return seen
}

type fuzzAnswer struct {
	status int
	closes bool
}

// send sends raw on a new connection, in two pieces, says that no more will come, and reads all answers.
func (g *fuzzGate) send(t *testing.T, raw []byte, cut int) (out []fuzzAnswer) {
	c, err := net.Dial("unix", g.socket("in"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cut = min(cut, len(raw))
	_, err = c.Write(raw[:cut])
	if err == nil && cut < len(raw) {
		_, err = c.Write(raw[cut:])
	}
	if err == nil {
		_ = c.(*net.UnixConn).CloseWrite()
	} // else it has been answered already
	all, err := io.ReadAll(c)
	if err != nil && !(len(all) > 0 && errors.Is(err, syscall.ECONNRESET)) { // what comes after an answer that ends the connection meets nobody
		t.Fatalf("after %q: %v", all, err)
	}
	br := bufio.NewReader(bytes.NewReader(all))
	for {
		if _, err := br.Peek(1); errors.Is(err, io.EOF) {
			return out
		}
		begin, _ := br.Peek(br.Buffered())
		resp, err := http.ReadResponse(br, &http.Request{Method: "HEAD"}) // answers here have no body, or are the last
		if err != nil {
			t.Fatalf("no answer: %q: %v", begin, err)
		}
		if resp.StatusCode < 200 {
			continue
		}
		a := fuzzAnswer{status: resp.StatusCode, closes: resp.Close}
		out = append(out, a)
		if n, _ := strconv.Atoi(resp.Header.Get("Content-Length")); n > 0 {
			rest, _ := io.ReadAll(br)
			if !a.closes || len(rest) > n {
				t.Fatalf("%q", rest)
			}
			if a.status == 502 {
				t.Fatalf("not forwarded: %s", rest)
			}
			return out
		}
	}
}
