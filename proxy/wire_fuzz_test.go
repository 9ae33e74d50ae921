package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// readWire runs the wire check over one request, step bytes at a time, and gives how many bytes it takes.
func readWire(raw []byte, step int) (h wireHead, size int, done bool, f *wireFault) {
	headDone := false
	k := chunker{max: 1 << 20}
	for end := min(step, len(raw)); ; end = min(end+step, len(raw)) {
		if !headDone {
			if headDone, f = h.parse(raw[:end]); f != nil {
				return h, 0, false, f
			}
			size = h.pos
		}
		switch {
		case !headDone:
		case h.chunked:
			n, over, f := k.feed(raw[size:end])
			size += n
			if f != nil || over {
				return h, size, over, f
			}
		case int64(end-size) >= h.length:
			return h, size + int(h.length), true, nil
		}
		if end == len(raw) {
			return h, size, false, nil
		}
	}
}

// FuzzWire: the verdict does not depend on how the bytes arrive, and what passes is read alike by net/http: same method, target, Host
// and body, and it ends at the same byte.
func FuzzWire(f *testing.F) {
	files, err := filepath.Glob("testdata/rawhttp/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no corpus")
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(raw) < 20<<10 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, size, done, fault := readWire(raw, len(raw)+1)
		_, size1, done1, fault1 := readWire(raw, 1+len(raw)/2048)
		if done != done1 || (fault == nil) != (fault1 == nil) || done && size != size1 {
			t.Fatalf("at once: %d %v %v; in small pieces: %d %v %v", size, done, fault, size1, done1, fault1)
		}
		if !done {
			return
		}
		src := bytes.NewReader(raw)
		br := bufio.NewReaderSize(src, len(raw)+16)
		req, err := http.ReadRequest(br)
		if err != nil {
			return // net/http is stricter in places, for instance about the target's escapes
		}
		if req.Method != string(h.method.of(raw)) || req.RequestURI != string(h.target.of(raw)) {
			t.Fatalf("net/http reads %q %q", req.Method, req.RequestURI)
		}
		if host := string(h.host.of(raw)); req.Host != host {
			t.Fatalf("Host %q, net/http reads %q", host, req.Host)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("net/http cannot read the body: %v", err)
		}
		if rest := src.Len() + br.Buffered(); len(raw)-rest != size {
			t.Fatalf("the request ends at %d, for net/http at %d; body %q", size, len(raw)-rest, body)
		}
	})
}

// Of a chunked body every byte of a line end is looked at, and what stands in its place is not taken for one.
func TestLineEndsOfChunks(t *testing.T) {
	const message = "5;a=b\r\nhello\r\n0\r\nC: d\r\n\r\n"
	for i, c := range []byte(message) {
		raw := []byte(message)
		if c == '\r' || c == '\n' {
			raw[i] = 0x80
		}
		k := chunker{max: 5}
		n, done, f := k.feed(raw)
		switch sound := raw[i] == c; {
		case sound && (n != len(message) || !done || f != nil):
			t.Fatalf("%q: %d %v %v", raw, n, done, f)
		case !sound && (done || f == nil && c == '\n'): // in place of a CR it may belong to the text before, until the LF comes
			t.Errorf("%q: done %v, %v", raw, done, f)
		}
	}
}

func BenchmarkHead(b *testing.B) {
	raw := []byte("POST /webhooks/stripe HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n" +
		"Content-Type: application/json; charset=utf-8\r\nAccept: */*; q=0.5, application/xml\r\nCache-Control: no-cache\r\nContent-Length: 1024\r\n" +
		"Stripe-Signature: t=1700000000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39\r\n" +
		"X-Request-Id: 0123456789abcdef\r\nAccept-Encoding: gzip\r\n\r\n")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		var h wireHead
		if done, f := h.parse(raw); !done || f != nil {
			b.Fatal(f)
		}
	}
}
