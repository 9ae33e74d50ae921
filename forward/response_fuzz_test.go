package forward

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// readAnswer runs the parser over raw, step bytes at a time, and then ends the connection.
func readAnswer(raw []byte, step int, head bool) (p parser, used int, err error) {
	p.begin(head)
	for end := min(step, len(raw)); ; end = min(end+step, len(raw)) {
		n, err := p.feed(raw[used:end])
		used += n
		if err != nil || p.phase == phaseDone {
			return p, used, err
		}
		if end == len(raw) {
			return p, used, p.end()
		}
	}
}

// FuzzResponse: the result does not depend on how the bytes arrive, and what is accepted is read alike by net/http: same status and
// body, and it ends at the same byte.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\no\r\n01\r\nk\r\n0\r\nX-T: 1\r\n\r\nrest",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
		"HTTP/1.0 999\r\n\r\nuntil close", "HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", "HTTP/1.1 200 OK\n\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close, X\r\nX: 1\r\nContent-Length: 0\r\n\r\n",
	} {
		f.Add([]byte(s), false)
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), true)
	f.Fuzz(func(t *testing.T, raw []byte, head bool) {
		p, used, err := readAnswer(raw, len(raw)+1, head)
		p1, used1, err1 := readAnswer(raw, 1, head)
		if (err == nil) != (err1 == nil) || err == nil && (used != used1 || !bytes.Equal(p.out, p1.out)) {
			t.Fatalf("at once: %d %v; byte by byte: %d %v", used, err, used1, err1)
		}
		if err != nil {
			return
		}
		method := http.MethodPost
		if head {
			method = http.MethodHead
		}
		src := bytes.NewReader(raw)
		br := bufio.NewReaderSize(src, len(raw)+16)
		for {
			resp, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				return // net/http is stricter in places
			}
			if resp.StatusCode < 200 {
				continue
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatalf("net/http cannot read the body: %v", err)
			}
			if resp.StatusCode != p.status || !bytes.Equal(body, p.out[p.fields:]) {
				t.Fatalf("%d %q, net/http reads %d %q", p.status, p.out[p.fields:], resp.StatusCode, body)
			}
			if at := len(raw) - src.Len() - br.Buffered(); at != used {
				t.Fatalf("the answer ends at %d, for net/http at %d", used, at)
			}
			return
		}
	})
}
