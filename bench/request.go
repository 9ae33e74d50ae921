//go:build linux

package main

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"
)

const secret = "bench-secret-0123456789abcdef"

// idDigits is the length of an event's number in its id; the id is the last member of the body, so that signing a request hashes only its tail.
const idDigits = 12

// A requestForm is a request with everything filled in but the event's number and the signature.
type requestForm struct {
	text             []byte
	signature        int // where its 64 hex digits go
	resource, number int // where the numbers of the resource and of the event go
	resources        uint64
	tail             int // the signed bytes from here on differ
	signer           *signer
}

// newRequestForm writes a request of about this many bytes of body, signed as of now. Ids begin with run, so that runs do not meet.
func newRequestForm(path string, run uint32, body int, now time.Time) *requestForm {
	tail := fmt.Sprintf(`"resource":"in_%0*d","id":"evt_%08x_%0*d"}`, idDigits, 0, run, idDigits, 0)
	payload := filling(body-len(tail)) + tail
	ts := strconv.FormatInt(now.Unix(), 10)
	zeros := strings.Repeat("0", 64)
	head := "POST " + path + " HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: Sender/1.0 (+https://sender.example/docs/webhooks)\r\nAccept: */*\r\n" +
		"Content-Type: application/json; charset=utf-8\r\nContent-Length: " + strconv.Itoa(len(payload)) + "\r\nX-Timestamp: " + ts + "\r\nX-Signature: sha256="
	f := &requestForm{text: []byte(head + zeros + "\r\n\r\n" + payload), signature: len(head)}
	f.tail = len(f.text) - len(tail)
	f.resource = f.tail + len(`"resource":"in_`)
	f.number = len(f.text) - len(`"}`) - idDigits
	f.signer = newSigner(ts + "." + payload[:len(payload)-len(tail)])
	return f
}

// filling is the beginning of an object as senders write it: numbers, strings and lists, n bytes long and with a comma at the end.
func filling(n int) string {
	var b strings.Builder
	b.WriteString(`{"object":"event","api_version":"2026-01-28","created":1769000000,"livemode":true,"type":"invoice.paid","data":{"lines":[`)
	const last = `{}],"note":""}},`
	for i := 0; b.Len()+170+len(last) < n; i++ {
		fmt.Fprintf(&b, `{"n":%d,"object":"line_item","amount":%d,"currency":"eur","description":"1 × Plan \"Basic\" (at 9.00 / month)","period":{"end":1771592000,"start":1769000000}},`, i, 900+i)
	}
	const end = `{}],"note":"`
	pad := max(n-b.Len()-len(end)-len(`"},`), 0)
	return b.String() + end + strings.Repeat("x", pad) + `"},`
}

// write gives request number n, in the form's own memory or in buf, which must be a copy of the form's text.
func (f *requestForm) write(buf []byte, n uint64) []byte {
	r := n
	if f.resources > 0 {
		r = n % f.resources
	}
	putDecimal(buf[f.resource:f.resource+idDigits], r)
	putDecimal(buf[f.number:f.number+idDigits], n)
	f.signer.sign(buf[f.signature:f.signature+64], buf[f.tail:])
	return buf
}

func putDecimal(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

func decimal(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// A signer makes HMAC-SHA256 of texts with one beginning; that beginning is hashed once.
type signer struct {
	h            hash.Hash
	inner, outer []byte
	sum          [sha256.Size]byte
}

func newSigner(prefix string) *signer {
	var inner, outer [sha256.BlockSize]byte
	copy(inner[:], secret)
	copy(outer[:], secret)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return &signer{h: sha256.New(), inner: stateAfter(append(inner[:], prefix...)), outer: stateAfter(outer[:])}
}

func stateAfter(b []byte) []byte {
	h := sha256.New()
	_, _ = h.Write(b)
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic(err) // the standard library's SHA-256 always can
	}
	return state
}

func (s *signer) sign(dst, tail []byte) {
	u := s.h.(encoding.BinaryUnmarshaler)
	_ = u.UnmarshalBinary(s.inner)
	_, _ = s.h.Write(tail)
	sum := s.h.Sum(s.sum[:0])
	_ = u.UnmarshalBinary(s.outer)
	_, _ = s.h.Write(sum)
	hex.Encode(dst, s.h.Sum(s.sum[:0]))
}
