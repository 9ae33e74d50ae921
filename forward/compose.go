package forward

import (
	"bytes"
	"strconv"

	"github.com/hooktender/hooktender/event"
)

// Compose appends the head of the request for call as it goes on the wire: request line with prefix in front of the call's path,
// Host, the end-to-end lines of call.Head byte for byte in their order, call.Extra, Content-Length. Left out of call.Head are:
// hop-by-hop lines (RFC 9110 §7.6.1: Connection and what it nominates, Keep-Alive, Proxy-*, TE, Trailer, Transfer-Encoding, Upgrade),
// Host, Content-Length, Expect and Range, whatever tells of the request's way (Forwarded, X-Forwarded-*, X-Real-IP), Hooktender-*,
// and names that call.Extra has. An underscore in a name counts as a hyphen here, because some servers cannot tell them apart.
func Compose(dst []byte, call *Call, prefix, host string) []byte {
	dst = append(dst, call.Method...)
	dst = append(dst, ' ')
	dst = append(dst, prefix...)
	dst = append(dst, call.Path...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	dst = append(dst, "\r\n"...)
	dst = appendTravelling(dst, call.Head, call.Extra)
	dst = append(dst, call.Extra...)
	if len(call.Body) > 0 || call.Method == "POST" || call.Method == "PUT" || call.Method == "PATCH" {
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, int64(len(call.Body)), 10)
		dst = append(dst, "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendTravelling(dst []byte, head, extra event.Head) []byte {
	var replaced replacementSet
	replaced.fill(extra)
	var nominated nominationList
	begin := len(dst)
	for rest := []byte(head); len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			continue
		}
		name := line[:colon]
		switch {
		case nominated.n == 0 && isConnection(name): // seldom: begin again, what it nominates may have passed
			nominated, rest, dst = nominations(head), head, dst[:begin]
		case staysHere(name) || nominated.n > 0 && nominated.has(name) || replaced.has(name):
		default:
			dst = append(dst, line...)
		}
	}
	return dst
}

func isConnection(name []byte) bool {
	return len(name) == len("Connection") && event.EqualFold(name, "Connection")
}

// staysHere says whether a line of a request must not travel on, whatever its Connection line says.
func staysHere(name []byte) bool {
	if len(name) == 0 {
		return false
	}
	switch name[0] | 0x20 {
	case 'h':
		return hasPrefix(name, "hooktender-") || is(name, "host") || is(name, "http2-settings")
	case 'x':
		return hasPrefix(name, "x-forwarded-") || is(name, "x-real-ip")
	case 'c':
		return is(name, "content-length") || is(name, "connection")
	case 't':
		return is(name, "te") || is(name, "trailer") || is(name, "transfer-encoding")
	case 'p':
		return is(name, "proxy-connection") || is(name, "proxy-authenticate") || is(name, "proxy-authorization")
	case 'k':
		return is(name, "keep-alive")
	case 'u':
		return is(name, "upgrade")
	case 'e':
		return is(name, "expect")
	case 'r':
		return is(name, "range")
	case 'f':
		return is(name, "forwarded")
	}
	return false
}

// is compares like lower; text is in lower case.
func is(name []byte, text string) bool { return len(name) == len(text) && hasPrefix(name, text) }

// answerStaysHere is staysHere for an answer; Date is written by the server that answers.
func answerStaysHere(name []byte) bool {
	if len(name) == 0 {
		return false
	}
	switch name[0] | 0x20 {
	case 'c', 'k', 'p', 't', 'u':
		return staysHere(name)
	case 'd':
		return is(name, "date")
	case 'h':
		return hasPrefix(name, "hooktender-")
	}
	return false
}

// lower appends name in lower case, with hyphens for underscores.
func lower(dst, name []byte) []byte {
	for _, c := range name {
		dst = append(dst, fold(c))
	}
	return dst
}

// hasPrefix compares like lower; prefix is in lower case.
func hasPrefix(name []byte, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if c := name[i]; c != prefix[i] && fold(c) != prefix[i] {
			return false
		}
	}
	return true
}

// A nomination list holds the values of all Connection lines.
type nominationList struct {
	lines [4][]byte
	n     int
	more  event.Head // the whole block, where there are more lines than that
}

func nominations(head event.Head) (l nominationList) {
	for name, value := range head.All() {
		switch {
		case !isConnection(name):
		case l.n < len(l.lines):
			l.lines[l.n] = value
			l.n++
		default:
			l.more = head
		}
	}
	return l
}

// Nominates says whether a Connection line of head takes the lines called name out of it.
func Nominates(head event.Head, name string) bool {
	l := nominations(head)
	return l.has([]byte(name))
}

// has says whether name was nominated and may be taken out. What frames, describes or authenticates the message never is: a
// stranger could otherwise strip a captured request of the headers that make it what it is.
func (l *nominationList) has(name []byte) bool {
	for _, list := range l.lines[:l.n] {
		if names(list, name) {
			return !protected(name)
		}
	}
	for n, list := range l.more.All() {
		if event.EqualFold(n, "Connection") && names(list, name) {
			return !protected(name)
		}
	}
	return false
}

// names says whether a list of field names holds name.
func names(list, name []byte) bool {
	for item := range bytes.SplitSeq(list, comma) {
		if same(event.TrimSpace(item), name) {
			return true
		}
	}
	return false
}

// same compares names; an underscore counts as a hyphen.
func same(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, x := range a {
		if y := b[i]; x != y && fold(x) != fold(y) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c | 0x20
	case c == '_':
		return '-'
	}
	return c
}

func protected(name []byte) bool {
	if hasPrefix(name, "content-") || hasPrefix(name, "webhook-") {
		return true
	}
	low := lower(make([]byte, 0, 64), name)
	switch string(low) {
	case "authorization", "date", "digest", "idempotency-key", "user-agent", "traceparent":
		return true
	}
	for _, part := range protectedParts {
		if bytes.Contains(low, part) {
			return true
		}
	}
	return false
}

var (
	comma          = []byte(",")
	protectedParts = [][]byte{[]byte("signature"), []byte("hmac"), []byte("timestamp"), []byte("token"), []byte("event"), []byte("delivery")}
)

// A replacement set holds the names of extra's lines that take the place of lines of the same name. Those that no received line
// passes with (staysHere) need not be in it.
type replacementSet struct {
	names   [8][]byte
	n       int
	lengths uint64 // of all of them, to pass most lines without comparing
	more    event.Head
}

func (s *replacementSet) fill(extra event.Head) {
	for rest := []byte(extra); len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		name := line[:max(0, bytes.IndexByte(line, ':'))]
		switch {
		case len(name) == 0 || staysHere(name):
		case s.n < len(s.names)-1:
			s.add(name)
			if event.EqualFold(name, "Traceparent") {
				s.add(tracestate) // goes with the traceparent it came with (W3C Trace Context §3.3)
			}
		default:
			s.more, s.lengths = extra, ^uint64(0)
		}
	}
}

func (s *replacementSet) add(name []byte) {
	s.names[s.n] = name
	s.n++
	s.lengths |= 1 << (len(name) & 63)
}

var tracestate = []byte("Tracestate")

func (s *replacementSet) has(name []byte) bool {
	if s.lengths&(1<<(len(name)&63)) == 0 {
		return false
	}
	for _, n := range s.names[:s.n] {
		if same(n, name) {
			return true
		}
	}
	for n := range s.more.All() {
		if same(n, name) {
			return true
		}
	}
	return false
}
