package proxy

import (
	"bytes"
	"net/netip"

	"github.com/hooktender/hooktender/event"
)

// MaxHead bounds the head of a request in bytes, from the request line to the empty line, both included (SPEC §11). The same
// bound holds for a trailer section and for all chunk extensions of a request together.
const MaxHead = 16 << 10

// MaxFields bounds the number of header lines, and of trailer lines.
const MaxFields = 100

// A wireFault is a request that the server answers itself: it never reaches the Handler, and the connection ends with it.
type wireFault struct {
	status int
	why    string // for tests and debug logs; never sent
}

func (f *wireFault) Error() string { return f.why }

var (
	faultRequestLine = &wireFault{400, "malformed request line"}
	faultMethod      = &wireFault{400, "malformed method"}
	faultTarget      = &wireFault{400, "target is not in origin form"}
	faultVersion     = &wireFault{400, "malformed protocol version"}
	faultOldVersion  = &wireFault{505, "neither HTTP/1.0 nor HTTP/1.1"}
	faultLineEnd     = &wireFault{400, "line does not end in CRLF"}
	faultFieldName   = &wireFault{400, "field name is no token"}
	faultFieldValue  = &wireFault{400, "control character in a field value"}
	faultFolded      = &wireFault{400, "folded line"}
	faultTwice       = &wireFault{400, "singleton field given twice"}
	faultHost        = &wireFault{400, "Host missing or malformed"}
	faultLength      = &wireFault{400, "malformed Content-Length"}
	faultCoding      = &wireFault{400, "Transfer-Encoding is not exactly chunked"}
	faultFraming     = &wireFault{400, "two framings"}
	faultChunk       = &wireFault{400, "malformed chunk"}
	faultTruncated   = &wireFault{400, "connection ended inside a request"}
	faultExpect      = &wireFault{417, "unknown expectation"}
	faultTooLarge    = &wireFault{413, "body above the limit"}
	faultHeadSize    = &wireFault{431, "head above the limit"}
	faultHeadTime    = &wireFault{408, "head not complete in time"}
	faultBodyTime    = &wireFault{408, "request not complete in time"}
	faultPerIP       = &wireFault{429, "too many connections from this address"}
	faultBusy        = &wireFault{503, "too many bytes in flight"}
)

// A span is a piece of the connection's buffer; the buffer may move, offsets stay.
type span struct{ from, to int }

func (s span) of(b []byte) []byte { return b[s.from:s.to:s.to] }

// seen notes which fields that must stand alone have been met.
type seen uint8

const (
	seenHost seen = 1 << iota
	seenLength
	seenCoding
	seenType
	seenAuthorization
	seenExpect
)

// A wireHead is the head of one request, checked while it comes in (RFC 9112 §2–6, RFC 9110 §5 and §7.2). Feed it with parse until
// it is done; reset it for the next request. The zero value is ready.
type wireHead struct {
	pos    int // begin of the line that is not complete yet; the head's size once done
	looked int // so far no line end was found in it
	fields int
	seen   seen

	method, target, lines, host span
	length                      int64 // Content-Length; 0 if there is none
	chunked                     bool
	http10                      bool
	wantsClose                  bool // Connection: close
	keepAlive                   bool // Connection: keep-alive
	expect                      bool // Expect: 100-continue, in HTTP/1.1
	expectOther                 bool
	inTarget                    bool // of the request line the method has come
	inFields                    bool
}

// parse goes on where the last call stopped; b is the whole head so far, perhaps with bytes beyond it. done says that the head
// is complete and sound; its size is then h.pos.
func (h *wireHead) parse(b []byte) (done bool, f *wireFault) {
	for {
		from := max(h.pos, h.looked)
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			f = h.partial(b, from)
			h.looked = len(b)
			return false, f
		}
		end := from + i - 1 // of the line, without CRLF
		if end < h.pos || b[end] != '\r' {
			return false, faultLineEnd
		}
		if end+2 > MaxHead {
			return false, faultHeadSize
		}
		switch {
		case !h.inFields:
			f = h.requestLine(b, h.pos, end)
			h.inFields, h.lines = true, span{end + 2, end + 2}
		case end == h.pos:
			h.lines.to, h.pos = end, end+2
			return true, h.finish()
		default:
			f = h.field(b, h.pos, end)
		}
		if f != nil {
			return false, f
		}
		h.pos = end + 2
	}
}

// partial judges a line whose end has not come yet, so that rubbish is answered at once and not after a timeout. From from on it is new.
func (h *wireHead) partial(b []byte, from int) *wireFault {
	if len(b) > MaxHead {
		return faultHeadSize
	}
	if h.inFields || h.inTarget {
		return nil
	}
	for i, c := range b[from:] {
		if c == ' ' && from+i > h.pos {
			h.inTarget = true
			return nil
		}
		if class[c]&isToken == 0 {
			return faultMethod
		}
	}
	return nil
}

// requestLine checks "method SP origin-form SP HTTP/1.x" (RFC 9112 §3): one space each, nothing else.
func (h *wireHead) requestLine(b []byte, from, to int) *wireFault {
	line := b[from:to]
	sp := bytes.IndexByte(line, ' ')
	if sp < 0 {
		return faultRequestLine
	}
	if sp == 0 || !allOf(line[:sp], isToken) {
		return faultMethod
	}
	last := bytes.LastIndexByte(line, ' ')
	if last == sp {
		return faultRequestLine
	}
	h.method = span{from, from + sp}
	h.target = span{from + sp + 1, from + last}
	if f := h.version(line[last+1:]); f != nil {
		return f
	}
	return checkTarget(line[sp+1 : last])
}

func (h *wireHead) version(v []byte) *wireFault {
	switch string(v) {
	case "HTTP/1.1":
		return nil
	case "HTTP/1.0":
		h.http10 = true
		return nil
	}
	if len(v) == 8 && string(v[:5]) == "HTTP/" && isDigit(v[5]) && v[6] == '.' && isDigit(v[7]) {
		return faultOldVersion
	}
	return faultVersion
}

// checkTarget accepts origin form only (RFC 9112 §3.2.1): a slash, then visible ASCII without what RFC 3986 never allows in a
// path; the query is more liberal, because senders are.
func checkTarget(t []byte) *wireFault {
	if len(t) == 0 || t[0] != '/' {
		return faultTarget
	}
	path, query := t, []byte(nil)
	if before, after, ok := bytes.Cut(t, []byte{'?'}); ok {
		path, query = before, after
	}
	if !allOf(path, isPath) || !allOf(query, isQuery) {
		return faultTarget
	}
	return nil
}

// field checks one header line and takes note of those that concern the connection or the framing.
func (h *wireHead) field(b []byte, from, to int) *wireFault {
	if h.fields++; h.fields > MaxFields {
		return faultHeadSize
	}
	line := b[from:to]
	if line[0] == ' ' || line[0] == '\t' {
		return faultFolded
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || !allOf(line[:colon], isToken) {
		return faultFieldName
	}
	if !event.IsText(line[colon+1:]) {
		return faultFieldValue
	}
	at := from + colon + 1
	for at < to && (b[at] == ' ' || b[at] == '\t') {
		at++
	}
	return h.note(line[:colon], event.TrimSpace(b[at:to]), at)
}

// note takes a field whose value begins at offset at. It dispatches on the length of the name: few headers have the length of
// one of these.
func (h *wireHead) note(name, value []byte, at int) *wireFault {
	switch len(name) {
	case len("Host"):
		if event.EqualFold(name, "Host") {
			h.host = span{at, at + len(value)}
			return h.once(seenHost, checkHost(value))
		}
	case len("Expect"):
		if event.EqualFold(name, "Expect") {
			h.expect = event.EqualFold(value, "100-continue")
			h.expectOther = !h.expect
			return h.once(seenExpect, nil)
		}
	case len("Connection"):
		if event.EqualFold(name, "Connection") {
			h.connection(value)
		}
	case len("Content-Type"):
		if event.EqualFold(name, "Content-Type") {
			return h.once(seenType, nil)
		}
	case len("Authorization"):
		if event.EqualFold(name, "Authorization") {
			return h.once(seenAuthorization, nil)
		}
	case len("Content-Length"):
		if event.EqualFold(name, "Content-Length") {
			return h.once(seenLength, h.contentLength(value))
		}
	case len("Transfer-Encoding"):
		if event.EqualFold(name, "Transfer-Encoding") {
			if h.chunked = event.EqualFold(value, "chunked"); !h.chunked {
				return faultCoding
			}
			return h.once(seenCoding, nil)
		}
	}
	return nil
}

func (h *wireHead) once(bit seen, f *wireFault) *wireFault {
	if h.seen&bit != 0 {
		return faultTwice
	}
	h.seen |= bit
	return f
}

func (h *wireHead) connection(list []byte) {
	for item := range bytes.SplitSeq(list, comma) {
		item = event.TrimSpace(item)
		h.wantsClose = h.wantsClose || event.EqualFold(item, "close")
		h.keepAlive = h.keepAlive || event.EqualFold(item, "keep-alive")
	}
}

// contentLength takes digits only (RFC 9110 §8.6). A number too long for any limit becomes one that is.
func (h *wireHead) contentLength(v []byte) *wireFault {
	if len(v) == 0 {
		return faultLength
	}
	for _, c := range v {
		if !isDigit(c) {
			return faultLength
		}
		if h.length < 1<<55 {
			h.length = h.length*10 + int64(c-'0')
		}
	}
	return nil
}

// finish checks what only the whole head shows.
func (h *wireHead) finish() *wireFault {
	switch {
	case h.seen&seenHost == 0 && !h.http10:
		return faultHost
	case h.seen&seenLength != 0 && h.chunked:
		return faultFraming
	case h.chunked && h.http10:
		return faultFraming
	}
	if h.http10 { // RFC 9110 §10.1.1: ignored
		h.expect, h.expectOther = false, false
	}
	return nil
}

// closes says whether the client wants the connection to end after this request (RFC 9112 §9.3).
func (h *wireHead) closes() bool { return h.wantsClose || h.http10 && !h.keepAlive }

// checkHost accepts a registered name or IPv4 address of letters, digits, "-._~", or an IPv6 address in brackets, and perhaps a
// port (RFC 9110 §7.2, narrower than RFC 3986: no user information, no percent-encoding, no sub-delimiters).
func checkHost(v []byte) *wireFault {
	name, rest := v, []byte(nil)
	if len(v) > 0 && v[0] == '[' {
		i := bytes.IndexByte(v, ']')
		if i < 3 || i > 46 || !allOf(v[1:i], isIPv6) {
			return faultHost
		}
		if a, err := netip.ParseAddr(string(v[1:i])); err != nil || a.Is4() {
			return faultHost
		}
		name, rest = v[:i+1], v[i+1:]
	} else {
		if i := bytes.IndexByte(v, ':'); i >= 0 {
			name, rest = v[:i], v[i:]
		}
		if !allOf(name, isHost) {
			return faultHost
		}
	}
	if len(name) == 0 || len(name) > 255 || len(rest) > 6 {
		return faultHost
	}
	for i, c := range rest {
		if i == 0 && c != ':' || i > 0 && !isDigit(c) {
			return faultHost
		}
	}
	return nil
}

// Classes of bytes.
const (
	isToken uint8 = 1 << iota // RFC 9110 §5.6.2
	isValue                   // field value: HTAB, SP, visible, obs-text
	isPath                    // path of a target
	isQuery                   // query of a target
	isHost
	isIPv6
)

var comma = []byte(",")

var class = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		alnum := isDigit(b) || b|0x20 >= 'a' && b|0x20 <= 'z'
		visible := b > ' ' && b < 0x7f
		set := func(bit uint8, ok bool) {
			if ok {
				t[c] |= bit
			}
		}
		set(isToken, alnum || visible && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0)
		set(isValue, visible || b == ' ' || b == '\t' || b >= 0x80)
		set(isPath, visible && bytes.IndexByte([]byte("\"#<>?\\^`{|}"), b) < 0)
		set(isQuery, visible && b != '#')
		set(isHost, alnum || bytes.IndexByte([]byte("-._~"), b) >= 0)
		set(isIPv6, isDigit(b) || b|0x20 >= 'a' && b|0x20 <= 'f' || b == ':' || b == '.')
	}
	return t
}()

func allOf(b []byte, bit uint8) bool {
	for _, c := range b {
		if class[c]&bit == 0 {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
