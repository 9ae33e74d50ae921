// Package event holds the nouns of hooktender: a received request, the event made from it, its record, its
// attempts and what a journal remembers of it. It has no I/O, starts nothing and imports only the standard library.
package event

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"iter"
	"net/netip"
)

// Request is one HTTP request as it came in: bytes as received, nothing decoded. The public port builds it only after the
// strict wire check, so every line of Head is well-formed. The slices may alias a reused buffer: a Request is valid
// until the handler that received it returns; Clone to keep it.
type Request struct {
	Method string     // a token, upper case as received
	Target []byte     // origin form: path and, after '?', the query; never empty
	Host   []byte     // value of the Host header, may be empty in HTTP/1.0
	Head   Head       // header block
	Body   []byte     // decoded from the transfer coding, never from a content coding
	Peer   netip.Addr // address of the client, after trusted proxies have been taken into account
	TLS    bool       // the client spoke TLS to us

	// Cert is the certificate that the client showed us, verified by the TLS handshake against tls.client_ca; nil if it showed none, or if a proxy
	// in front speaks TLS. It is shared by all requests of the connection and must not be changed.
	Cert *x509.Certificate
}

// Path is the part of Target before '?', as received.
func (r *Request) Path() []byte {
	if i := bytes.IndexByte(r.Target, '?'); i >= 0 {
		return r.Target[:i]
	}
	return r.Target
}

// Query is the part of Target after the first '?', as received; empty if there is none.
func (r *Request) Query() []byte {
	if i := bytes.IndexByte(r.Target, '?'); i >= 0 {
		return r.Target[i+1:]
	}
	return nil
}

// Clone is a deep copy in one allocation for all bytes.
func (r *Request) Clone() *Request {
	n := len(r.Target) + len(r.Host) + len(r.Head) + len(r.Body)
	buf := make([]byte, 0, n)
	cut := func(b []byte) []byte {
		i := len(buf)
		buf = append(buf, b...)
		return buf[i:len(buf):len(buf)]
	}
	c := *r
	c.Target, c.Host, c.Head, c.Body = cut(r.Target), cut(r.Host), Head(cut(r.Head)), cut(r.Body)
	return &c
}

// Head is a header block as on the wire: lines "Name: value\r\n" in the order received, names in the case received,
// without the empty line that ends it. Every line ends in CRLF and holds a colon; optional white space around
// values may still be there.
type Head []byte

// Field is one header line: name as written, value without surrounding white space.
type Field struct {
	Name, Value []byte
}

// FirstLine is the length in bytes of the first line, its end included; 0 of an empty block.
func (h Head) FirstLine() (n int) {
	if n = bytes.IndexByte(h, '\n') + 1; n == 0 {
		n = len(h)
	}
	return n
}

// ValueOf gives the trimmed value of a line, with or without its end, if name is the line's (ASCII case-insensitive).
func ValueOf(line []byte, name string) (value []byte, ok bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !EqualFold(line[:len(name)], name) { // few lines have their colon where this one has it
		return nil, false
	}
	return trimmed(line[len(name)+1:]), true
}

// trimmed takes the line's end and white space off a value.
func trimmed(value []byte) []byte {
	return TrimSpace(bytes.TrimSuffix(bytes.TrimSuffix(value, []byte{'\n'}), []byte{'\r'}))
}

// All yields name and trimmed value of each line, in order. The slices alias the block.
func (h Head) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for rest := h; len(rest) > 0; {
			line := rest[:rest.FirstLine()]
			rest = rest[len(line):]
			if before, after, ok := bytes.Cut(line, []byte{':'}); ok && !yield(before, trimmed(after)) {
				return
			}
		}
	}
}

// Get gives the value of the first line called name (ASCII case-insensitive) and how many lines have that name.
func (h Head) Get(name string) (value []byte, n int) {
	for rest := h; len(rest) > 0; {
		line := rest[:rest.FirstLine()]
		rest = rest[len(line):]
		if v, ok := ValueOf(line, name); ok {
			if n++; n == 1 {
				value = v
			}
		}
	}
	return value, n
}

// Append adds one line. The caller vouches for name and value: a token, and no CR, LF or NUL.
func (h Head) Append(name string, value []byte) Head {
	h = append(h, name...)
	h = append(h, ": "...)
	h = append(h, value...)
	return append(h, "\r\n"...)
}

// AppendString is Append for a string.
func (h Head) AppendString(name, value string) Head {
	h = append(h, name...)
	h = append(h, ": "...)
	h = append(h, value...)
	return append(h, "\r\n"...)
}

// TrimSpace cuts optional white space (space and tab, RFC 9110 §5.6.3) from both ends.
func TrimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// EqualFold compares a header name with s, ASCII case-insensitively (header names are ASCII tokens).
func EqualFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		x, y := b[i], s[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}

// IsText says whether b may be a field's value: no control character but tabs (RFC 9110 §5.5). It looks at eight bytes at a time; a borrow can only mark a
// byte above one that is marked rightly.
func IsText(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		del := w ^ 0x7f*ones
		if ((w-' '*ones)&^w|(del-ones)&^del)&highs != 0 && !areText(b[:8]) {
			return false
		}
	}
	return areText(b)
}

func areText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
