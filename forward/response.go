package forward

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/hooktender/hooktender/event"
)

// Bounds of an answer.
const (
	maxAnswerHead = 64 << 10 // bytes of a head, of a trailer section, of a chunk's line
	maxInterim    = 16       // 1xx answers before the final one
	maxLines      = 500      // header lines
)

var (
	errMalformed = errors.New("malformed answer")
	errTooLarge  = errors.New("answer above the limit")
	errSwitched  = errors.New("101 Switching Protocols")
	errTruncated = errors.New("connection closed before the answer was complete")
)

// malformed says what is wrong with an answer, without quoting it.
func malformed(why string) error { return &malformedError{why} }

type malformedError struct{ why string }

func (e *malformedError) Error() string        { return "malformed answer: " + e.why }
func (e *malformedError) Is(target error) bool { return target == errMalformed }

// A parser reads one answer (RFC 9112), and no byte beyond it, from a buffer that grows between calls. It is strict where two
// readers could disagree about where an answer ends. Reset it with begin.
type parser struct {
	head    bool // the request was HEAD
	phase   phase
	pos     int // in the head: begin of the line that is not complete yet
	interim int
	lines   int

	status   int
	http10   bool
	length   int64 // Content-Length; -1 = none
	chunked  bool
	close    bool
	keep     bool
	anyTE    bool
	lists    bool // there is a Connection line
	headFrom int  // begin of the header lines in the buffer

	fields int   // bytes of out that are Head
	left   int64 // of the body or the chunk
	out    []byte
	tail   int
}

type phase uint8

const (
	phaseStatus phase = iota // at the status line
	phaseFields              // in the header lines
	phaseLength              // left bytes of body
	phaseClose               // body until the end of the connection
	phaseSize                // at a chunk's size line
	phaseData                // left bytes of a chunk
	phaseCRLF                // after a chunk's data
	phaseTail                // in the trailer section
	phaseDone
)

func (p *parser) begin(head bool) { *p = parser{head: head, length: -1} }

// feed takes what it can from b and says how much. After an error the answer cannot be complete any more.
func (p *parser) feed(b []byte) (used int, err error) {
	for {
		n, more, err := p.step(b[used:])
		used += n
		if err != nil || more || p.phase == phaseDone {
			return used, err
		}
	}
}

// step takes one piece; more says that it needs bytes which are not there yet.
func (p *parser) step(b []byte) (n int, more bool, err error) {
	switch p.phase {
	case phaseStatus, phaseFields:
		return p.headLine(b)
	case phaseLength, phaseClose, phaseData:
		return p.data(b)
	case phaseDone:
		return 0, true, nil
	}
	line, n, err := cutLine(b)
	if err != nil || n == 0 {
		return 0, true, err
	}
	switch p.phase {
	case phaseCRLF:
		if len(line) != 0 {
			return 0, false, malformed("chunk longer than its size")
		}
		p.phase = phaseSize
	case phaseSize:
		err = p.sizeLine(line)
	case phaseTail:
		err = p.trailer(line)
	}
	return n, false, err
}

// cutLine gives the first line of b without its CRLF, and its length with it; 0 if it is not complete yet.
func cutLine(b []byte) (line []byte, n int, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		if len(b) > maxAnswerHead {
			return nil, 0, malformed("line too long")
		}
		return nil, 0, nil
	}
	if i == 0 || b[i-1] != '\r' {
		return nil, 0, malformed("line does not end in CRLF")
	}
	return b[:i-1], i + 1, nil
}

// headLine takes one line of the head. The head stays in the buffer until it is complete, so nothing is used before that.
func (p *parser) headLine(b []byte) (n int, more bool, err error) {
	line, n, err := cutLine(b[p.pos:])
	if err == nil && p.pos+n > maxAnswerHead {
		err = malformed("head too long")
	}
	if err != nil || n == 0 {
		return 0, true, err
	}
	from := p.pos
	p.pos += n
	switch {
	case p.phase == phaseStatus:
		p.phase, p.headFrom = phaseFields, p.pos
		return 0, false, p.statusLine(line)
	case len(line) > 0:
		return 0, false, p.field(line)
	}
	size := p.pos
	return size, false, p.headDone(event.Head(b[p.headFrom:from]))
}

func (p *parser) statusLine(line []byte) error {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return malformed("status line")
	}
	switch line[7] {
	case '1':
	case '0':
		p.http10 = true
	default:
		return malformed("protocol version")
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return malformed("status code")
		}
		p.status = p.status*10 + int(c-'0')
	}
	if p.status < 100 {
		return malformed("status code")
	}
	return checkText(line[12:])
}

func (p *parser) field(line []byte) error {
	if p.lines++; p.lines > maxLines {
		return malformed("too many header lines")
	}
	name, value, err := splitField(line)
	if err != nil {
		return err
	}
	switch len(name) {
	case len("Content-Length"):
		if event.EqualFold(name, "Content-Length") {
			return p.contentLength(value)
		}
	case len("Transfer-Encoding"):
		if event.EqualFold(name, "Transfer-Encoding") {
			if p.anyTE || !event.EqualFold(value, "chunked") {
				return malformed("transfer coding")
			}
			p.anyTE, p.chunked = true, true
		}
	case len("Connection"):
		if event.EqualFold(name, "Connection") {
			p.lists = true
			for item := range bytes.SplitSeq(value, comma) {
				item = event.TrimSpace(item)
				p.close = p.close || event.EqualFold(item, "close")
				p.keep = p.keep || event.EqualFold(item, "keep-alive")
			}
		}
	}
	return nil
}

// splitField checks one field line: token, colon, text (RFC 9112 §5).
func splitField(line []byte) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, malformed("header line without a name")
	}
	for _, c := range line[:colon] {
		if !isTokenByte[c] {
			return nil, nil, malformed("header name")
		}
	}
	return line[:colon], event.TrimSpace(line[colon+1:]), checkText(line[colon+1:])
}

func checkText(b []byte) error {
	if !event.IsText(b) {
		return malformed("control character")
	}
	return nil
}

func (p *parser) contentLength(v []byte) error {
	if len(v) == 0 || len(v) > 18 || p.length >= 0 {
		return malformed("Content-Length")
	}
	p.length = 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return malformed("Content-Length")
		}
		p.length = p.length*10 + int64(c-'0')
	}
	return nil
}

// headDone decides how the body is framed (RFC 9112 §6.3).
func (p *parser) headDone(lines event.Head) error {
	if p.chunked && (p.length >= 0 || p.http10) {
		return malformed("two framings")
	}
	if p.status == 101 {
		return errSwitched
	}
	if p.status < 200 {
		if p.interim++; p.interim > maxInterim {
			return malformed("too many interim answers")
		}
		*p = parser{head: p.head, length: -1, interim: p.interim}
		return nil
	}
	p.pos = 0
	p.out = make([]byte, 0, len(lines)+p.roomFor())
	p.out = p.appendHead(p.out, lines)
	p.fields = len(p.out)
	switch {
	case p.bodyless():
		p.phase = phaseDone
	case p.chunked:
		p.phase = phaseSize
	case p.length > MaxAnswer:
		return errTooLarge
	case p.length > 0:
		p.phase, p.left = phaseLength, p.length
	case p.length == 0:
		p.phase = phaseDone
	default:
		p.phase, p.close = phaseClose, true
	}
	return nil
}

func (p *parser) bodyless() bool { return p.head || p.status == 204 || p.status == 304 }

// strayBody says whether an answer that has no body announced one all the same: bytes after it are then no surprise, and may come at any time, so the
// connection is not used again.
func (p *parser) strayBody() bool { return p.bodyless() && (p.chunked || p.length > 0) }

// roomFor guesses the body's size; a large one is allocated only as it comes in.
func (p *parser) roomFor() int {
	if p.bodyless() {
		return 0
	}
	if p.length >= 0 {
		return int(min(p.length, 64<<10))
	}
	return 512
}

// appendHead appends the lines that travel on.
func (p *parser) appendHead(dst []byte, lines event.Head) []byte {
	var nominated nominationList
	if p.lists {
		nominated = nominations(lines)
	}
	for rest := []byte(lines); len(rest) > 0; {
		line := rest[:bytes.IndexByte(rest, '\n')+1]
		rest = rest[len(line):]
		name := line[:bytes.IndexByte(line, ':')]
		if !answerStaysHere(name) && (nominated.n == 0 || !nominated.has(name)) {
			dst = append(dst, line...)
		}
	}
	return dst
}

// data takes body bytes.
func (p *parser) data(b []byte) (n int, more bool, err error) {
	if len(b) == 0 {
		return 0, true, nil
	}
	if p.phase != phaseClose {
		b = b[:min(int64(len(b)), p.left)]
		p.left -= int64(len(b))
	}
	if len(p.out)-p.fields+len(b) > MaxAnswer {
		return 0, false, errTooLarge
	}
	p.out = append(p.out, b...)
	if p.left == 0 {
		switch p.phase {
		case phaseLength:
			p.phase = phaseDone
		case phaseData:
			p.phase = phaseCRLF
		}
	}
	return len(b), false, nil
}

// sizeLine takes a chunk's size and drops its extensions (RFC 9112 §7.1).
func (p *parser) sizeLine(line []byte) error {
	size, digits := int64(0), 0
	for digits < len(line) {
		v := hexValue(line[digits])
		if v < 0 {
			break
		}
		if digits++; digits > 15 {
			return malformed("chunk size")
		}
		size = size<<4 | v
	}
	ext := event.TrimSpace(line[digits:])
	if digits == 0 || len(ext) > 0 && ext[0] != ';' {
		return malformed("chunk size")
	}
	if err := checkText(ext); err != nil {
		return err
	}
	if size > MaxAnswer-int64(len(p.out)-p.fields) {
		return errTooLarge
	}
	p.left, p.phase = size, phaseData
	if size == 0 {
		p.phase = phaseTail
	}
	return nil
}

// trailer checks one line of the trailer section and drops it.
func (p *parser) trailer(line []byte) error {
	if len(line) == 0 {
		p.phase = phaseDone
		return nil
	}
	if p.tail += len(line); p.tail > maxAnswerHead {
		return malformed("trailers too long")
	}
	_, _, err := splitField(line)
	return err
}

// end is told that the connection has ended in good order.
func (p *parser) end() error {
	if p.phase == phaseClose {
		p.phase = phaseDone
		return nil
	}
	return errTruncated
}

// reusable says whether another request may follow on the connection (RFC 9112 §9.3).
func (p *parser) reusable() bool {
	return !p.close && (!p.http10 || p.keep)
}

// begun says whether anything of an answer has come.
func (p *parser) begun() bool { return p.pos > 0 || p.interim > 0 || p.phase != phaseStatus }

// grow doubles the room for the body, up to what is still to come.
func (p *parser) grow() {
	more := min(int64(max(512, len(p.out))), p.left)
	out := make([]byte, len(p.out), int64(len(p.out))+more)
	copy(out, p.out)
	p.out = out
}

// statusText is the error text of a complete answer that was no success.
func statusText(status int) string { return "the upstream answered " + strconv.Itoa(status) }

func hexValue(c byte) int64 {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10
	}
	return -1
}

var isTokenByte = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] = true
	}
	return t
}()
