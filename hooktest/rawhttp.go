package hooktest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A RawCase is one raw request of a corpus, sent verbatim on a connection of its own, to a gateway that forwards POST /hook, with bodies up
// to 1 MiB, and answers everything else 404 or 405.
type RawCase struct {
	File     string   `json:"file"`
	Verdict  string   `json:"verdict"` // reject | accept | either
	RFC      string   `json:"rfc"`
	Why      string   `json:"why"`
	Status   []int    `json:"status"` // of which the first final one is; 0 = closed without an answer
	Requests *int     `json:"upstream_requests"`
	BodyHex  *string  `json:"upstream_body_hex"`
	Forbid   []string `json:"upstream_forbid"` // bytes, as characters of Latin-1; ASCII letters in either case
	Require  []string `json:"upstream_require"`
	Close    bool     `json:"close"`
	Half     bool     `json:"half_close_after_send"`

	Raw []byte `json:"-"`
}

// ReadRawCases reads the corpus in dir: index.json and a file for each case.
func ReadRawCases(dir string) ([]RawCase, error) {
	var index struct{ Cases []RawCase }
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	for i := range index.Cases {
		if index.Cases[i].Raw, err = os.ReadFile(filepath.Join(dir, index.Cases[i].File)); err != nil {
			return nil, err
		}
	}
	return index.Cases, nil
}

// Run sends the case to addr, behind which up stands alone, and gives what is not as its verdict says.
func (c *RawCase) Run(addr string, up *Recorder) (wrong []string) {
	up.Take()
	status, closed, err := sendRaw(addr, c.Raw, c.Half || !c.Close)
	if err != nil {
		return []string{err.Error()}
	}
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("RFC %s (%s): ", c.RFC, c.Why)+fmt.Sprintf(format, args...))
	}
	if !slices.Contains(c.Status, status) {
		say("status %d, want one of %v", status, c.Status)
	}
	if c.Close && !closed {
		say("the connection stays open after the answer")
	}
	seen := up.Take()
	if c.Requests != nil && len(seen) != *c.Requests {
		say("the upstream saw %d requests, want %d", len(seen), *c.Requests)
	}
	for _, r := range seen {
		if c.BodyHex != nil && hex.EncodeToString(r.Body) != *c.BodyHex {
			say("the upstream got body %q, want %s in hex", r.Body, *c.BodyHex)
		}
		all := lowerLatin1(string(r.Head) + string(r.Body))
		for _, f := range c.Forbid {
			if strings.Contains(all, lowerLatin1(fromLatin1(f))) {
				say("%q must not reach the upstream:\n%s", f, r.Head)
			}
		}
		for _, f := range c.Require {
			if !strings.Contains(all, lowerLatin1(fromLatin1(f))) {
				say("%q must reach the upstream:\n%s", f, r.Head)
			}
		}
	}
	return wrong
}

// lowerLatin1 is strings.ToLower for ASCII in bytes of any kind.
func lowerLatin1(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

// fromLatin1 makes bytes of characters.
func fromLatin1(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

// sendRaw writes raw on a new connection and reads what comes back until the connection ends. half says that nothing more will come, so
// that it ends in any case; else the server has to end it. status is that of the first final answer.
func sendRaw(addr string, raw []byte, half bool) (status int, closed bool, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(raw) // fails where the server has seen enough
		if half {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	all, err := io.ReadAll(c)
	closed = !errors.Is(err, os.ErrDeadlineExceeded)
	br := bufio.NewReader(bytes.NewReader(all))
	for status < 200 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return 0, closed, nil
		}
		status = resp.StatusCode
	}
	return status, closed, nil
}

// A Recorder is an upstream that keeps the bytes it gets and answers 200, or 599 where net/http cannot read a head. Safe for concurrent
// use.
type Recorder struct {
	Addr string
	ln   net.Listener
	mu   sync.Mutex
	got  []Recorded
}

// Recorded is one request as it came: Head ends with the empty line.
type Recorded struct{ Head, Body []byte }

// NewRecorder listens on loopback until Close.
func NewRecorder() (*Recorder, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Recorder{Addr: ln.Addr().String(), ln: ln}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r, nil
}

// Close ends the listener; open connections end with their clients.
func (r *Recorder) Close() { _ = r.ln.Close() }

func (r *Recorder) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		var head []byte
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			line, err := br.ReadBytes('\n')
			if err != nil {
				return
			}
			head = append(head, line...)
		}
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), br)))
		if err != nil {
			_, _ = io.WriteString(c, "HTTP/1.1 599 Bad Upstream Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		body := make([]byte, req.ContentLength)
		if _, err := io.ReadFull(br, body); err != nil {
			return
		}
		r.mu.Lock()
		r.got = append(r.got, Recorded{head, body})
		r.mu.Unlock()
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// Take gives what came since the last call.
func (r *Recorder) Take() []Recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}
