package selector

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// MaxDepth bounds the nesting of JSON documents that are read.
const MaxDepth = 64

// ErrJSON says that bytes are not exactly one JSON value (RFC 8259) in valid UTF-8 nested at most MaxDepth deep.
var ErrJSON = errors.New("not one JSON value")

// JSONKind is what was found at a path.
type JSONKind uint8

const (
	Absent    JSONKind = iota // no such member
	Null                      // null
	String                    // a string
	Number                    // a number; its text is kept digit by digit
	Bool                      // true or false
	Composite                 // an object or an array
	Ambiguous                 // a member on the way is there twice: parsers would disagree
)

// JSONValue is what a path led to. Its bytes alias the document.
type JSONValue struct {
	Kind    JSONKind
	raw     []byte // a string without its quotes, everything else as written; nil if absent or ambiguous
	escaped bool   // raw holds backslashes
}

// Raw is the value as written; of a string, what is between the quotes, escapes included. It aliases the document.
func (v JSONValue) Raw() []byte { return v.raw }

// Append appends the value's text to dst: a string decoded, everything else as written, nothing for null.
func (v JSONValue) Append(dst []byte) []byte {
	switch {
	case v.Kind == Null:
		return dst
	case !v.escaped:
		return append(dst, v.raw...)
	}
	for i := 0; i < len(v.raw); {
		if v.raw[i] != '\\' {
			dst = append(dst, v.raw[i])
			i++
			continue
		}
		r, n := decodeEscape(v.raw[i:])
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}

// Bytes is the value's text without copying it where it holds no escapes; it may alias the document.
func (v JSONValue) Bytes() []byte {
	if !v.escaped && v.Kind != Null {
		return v.raw
	}
	return v.Append(nil)
}

// Text is the value's text as a string of its own.
func (v JSONValue) Text() string { return string(v.Bytes()) }

// JSONSet is a compiled set of paths that one pass over a document answers. It is immutable and may be used from
// many goroutines.
type JSONSet struct {
	nodes []jsonNode // nodes[0] is the document
	paths int
}

// jsonNode is one member name on the way to a wanted path.
type jsonNode struct {
	key      string
	index    int // the key as an array index, -1 if it is none
	leaves   []int
	children []int
}

// NewJSONSet compiles paths as in json: selectors (a.b.0.c, or /a/b). A path that splitPath refuses is never found;
// Parse refuses it earlier. The same path may be wanted twice.
func NewJSONSet(paths ...string) *JSONSet {
	s := &JSONSet{nodes: []jsonNode{{index: -1}}, paths: len(paths)}
	for i, p := range paths {
		keys, err := splitPath(p)
		if err != nil {
			continue
		}
		at := 0
		for _, k := range keys {
			at = s.child(at, k)
		}
		s.nodes[at].leaves = append(s.nodes[at].leaves, i)
	}
	return s
}

// Len is the number of paths.
func (s *JSONSet) Len() int { return s.paths }

func (s *JSONSet) child(at int, key string) int {
	for _, c := range s.nodes[at].children {
		if s.nodes[c].key == key {
			return c
		}
	}
	index := -1
	if n, err := strconv.Atoi(key); err == nil && n >= 0 && strconv.Itoa(n) == key {
		index = n
	}
	s.nodes = append(s.nodes, jsonNode{key: key, index: index})
	s.nodes[at].children = append(s.nodes[at].children, len(s.nodes)-1)
	return len(s.nodes) - 1
}

// Extract reads doc once and writes what each path led to into out, which must have room for Len values and is
// overwritten. On ErrJSON every value is Absent. A member that is on the way to a path and occurs twice in its object
// (names compared decoded) makes that path Ambiguous; duplicates elsewhere do not matter. It allocates nothing.
func (s *JSONSet) Extract(doc []byte, out []JSONValue) error {
	out = out[:s.paths]
	clear(out)
	sc := jsonScanner{set: s, doc: doc, out: out}
	if len(s.nodes) > 64 {
		sc.more = make([]bool, len(s.nodes))
	}
	sc.space()
	ok := sc.value(0, 1)
	sc.space()
	if !ok || sc.at != len(doc) {
		clear(out)
		return ErrJSON
	}
	return nil
}

// EachElement calls fn with the raw bytes of every element of a JSON array that Extract returned as Composite, in
// order, until fn returns false. It reports whether raw is an array.
func EachElement(raw []byte, fn func(elem []byte) bool) bool {
	if len(raw) == 0 || raw[0] != '[' {
		return false
	}
	sc := jsonScanner{set: &JSONSet{nodes: []jsonNode{{index: -1}}}, doc: raw, at: 1}
	sc.space()
	if sc.peek() == ']' {
		return true
	}
	for {
		start := sc.at
		if !sc.value(-1, 2) {
			return false
		}
		if !fn(raw[start:sc.at:sc.at]) {
			return true
		}
		sc.space()
		if sc.peek() != ',' {
			return sc.peek() == ']'
		}
		sc.at++
		sc.space()
	}
}

// jsonScanner is one pass over a document. A node of -1 means that nothing of a value is wanted.
type jsonScanner struct {
	set  *JSONSet
	doc  []byte
	at   int
	out  []JSONValue
	seen uint64 // nodes entered, of the first 64
	more []bool // nodes entered, all of them, if there are more than 64
}

// first says whether node is entered for the first time, and notes it.
func (sc *jsonScanner) first(node int) bool {
	if sc.more != nil {
		was := sc.more[node]
		sc.more[node] = true
		return !was
	}
	was := sc.seen>>node&1 != 0
	sc.seen |= 1 << node
	return !was
}

// space passes over white space; mostly there is none, and that is seen without a call.
func (sc *jsonScanner) space() {
	if sc.at < len(sc.doc) && sc.doc[sc.at] <= ' ' {
		sc.at = skipSpaces(sc.doc, sc.at)
	}
}

// to goes on to where something ends; false, and no step, if it was none.
func (sc *jsonScanner) to(end int) bool {
	if end == 0 {
		return false
	}
	sc.at = end
	return true
}

// peek is the next byte, 0 at the end (a NUL byte is no JSON anywhere a peek decides).
func (sc *jsonScanner) peek() byte {
	if sc.at < len(sc.doc) {
		return sc.doc[sc.at]
	}
	return 0
}

// value reads one value and records it for the leaves of node.
func (sc *jsonScanner) value(node, depth int) bool {
	start := sc.at
	if node < 0 {
		return sc.to(skipValue(sc.doc, start, depth))
	}
	v := JSONValue{}
	ok := false
	switch c := sc.peek(); c {
	case '{':
		v.Kind, ok = Composite, depth <= MaxDepth && sc.object(node, depth)
	case '[':
		v.Kind, ok = Composite, depth <= MaxDepth && sc.array(node, depth)
	case '"':
		v.Kind = String
		v.raw, v.escaped, ok = sc.str()
	default:
		switch c {
		case 't', 'f':
			v.Kind = Bool
		case 'n':
			v.Kind = Null
		default:
			v.Kind = Number
		}
		ok = sc.to(skipScalar(sc.doc, start))
	}
	if !ok {
		return false
	}
	if v.Kind != String {
		v.raw = sc.doc[start:sc.at:sc.at]
	}
	for _, leaf := range sc.set.nodes[node].leaves {
		sc.out[leaf] = v
	}
	return true
}

func (sc *jsonScanner) object(node, depth int) bool {
	sc.at++
	sc.space()
	if sc.peek() == '}' {
		sc.at++
		return true
	}
	for {
		if sc.peek() != '"' {
			return false
		}
		key, escaped, ok := sc.str()
		if !ok {
			return false
		}
		sc.space()
		if sc.peek() != ':' {
			return false
		}
		sc.at++
		sc.space()
		child := sc.enter(node, key, escaped)
		if !sc.value(child, depth+1) {
			return false
		}
		sc.space()
		switch sc.peek() {
		case ',':
			sc.at++
			sc.space()
		case '}':
			sc.at++
			return true
		default:
			return false
		}
	}
}

// enter finds the wanted child that a member's name leads to. A second member of that name makes all below it ambiguous.
func (sc *jsonScanner) enter(node int, key []byte, escaped bool) int {
	for _, c := range sc.set.nodes[node].children {
		if !equalKey(key, escaped, sc.set.nodes[c].key) {
			continue
		}
		if !sc.first(c) {
			sc.spoil(c)
			return -1
		}
		return c
	}
	return -1
}

func (sc *jsonScanner) spoil(node int) {
	for _, leaf := range sc.set.nodes[node].leaves {
		sc.out[leaf] = JSONValue{Kind: Ambiguous}
	}
	for _, c := range sc.set.nodes[node].children {
		sc.spoil(c)
	}
}

func (sc *jsonScanner) array(node, depth int) bool {
	sc.at++
	sc.space()
	if sc.peek() == ']' {
		sc.at++
		return true
	}
	for i := 0; ; i++ {
		child := -1
		for _, c := range sc.set.nodes[node].children {
			if sc.set.nodes[c].index == i {
				child = c
			}
		}
		if !sc.value(child, depth+1) {
			return false
		}
		sc.space()
		switch sc.peek() {
		case ',':
			sc.at++
			sc.space()
		case ']':
			sc.at++
			return true
		default:
			return false
		}
	}
}

// plain are the bytes that stand for themselves in a string: printable ASCII but the quote and the backslash, and DEL.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str reads a string; raw is what is between the quotes.
func (sc *jsonScanner) str() (raw []byte, escaped, ok bool) {
	start := sc.at + 1
	end, escaped := skipString(sc.doc, start)
	if !sc.to(end) {
		return nil, false, false
	}
	return sc.doc[start : sc.at-1 : sc.at-1], escaped, true
}

// The functions below pass over a piece of doc that begins at at, and say where it ends; 0 means that it is none. They keep what they know in
// registers: most of a document goes by here.

func skipSpaces(doc []byte, at int) int {
	for at < len(doc) && (doc[at] == ' ' || doc[at] == '\t' || doc[at] == '\n' || doc[at] == '\r') {
		at++
	}
	return at
}

// skipValue passes over one value of which nothing is wanted. It judges as value does, without its calls.
func skipValue(doc []byte, at, depth int) int {
	var objects uint64 // a bit for each container that is open here, the innermost lowest: is it an object?
	open := 0
	for at < len(doc) {
		switch c := doc[at]; c {
		case '"':
			at, _ = skipString(doc, at+1)
		case '{', '[':
			if depth+open > MaxDepth {
				return 0
			}
			open++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			if at = skipSpaces(doc, at+1); at == len(doc) {
				return 0
			}
			if doc[at] == c+2 { // the closing one: it is empty
				break
			}
			if c == '{' {
				at = skipKey(doc, at)
			}
			if at == 0 {
				return 0
			}
			continue
		default:
			at = skipScalar(doc, at)
		}
		if at == 0 {
			return 0
		}
		for { // behind a value, or at the end of an empty container
			if open == 0 {
				return at
			}
			if at < len(doc) && doc[at] <= ' ' {
				at = skipSpaces(doc, at)
			}
			if at == len(doc) {
				return 0
			}
			c := doc[at]
			at++
			if c == ',' {
				break
			}
			if c != ']' && c != '}' || (c == '}') != (objects&1 == 1) {
				return 0
			}
			open--
			objects >>= 1
		}
		if at < len(doc) && doc[at] <= ' ' {
			at = skipSpaces(doc, at)
		}
		if objects&1 == 1 {
			if at = skipKey(doc, at); at == 0 {
				return 0
			}
		}
	}
	return 0
}

// skipKey passes over a member's name and the colon, and white space behind it.
func skipKey(doc []byte, at int) int {
	if at == len(doc) || doc[at] != '"' {
		return 0
	}
	if at, _ = skipString(doc, at+1); at == 0 {
		return 0
	}
	if at < len(doc) && doc[at] <= ' ' {
		at = skipSpaces(doc, at)
	}
	if at == len(doc) || doc[at] != ':' {
		return 0
	}
	if at++; at < len(doc) && doc[at] <= ' ' {
		at = skipSpaces(doc, at)
	}
	return at
}

// skipScalar passes over a number, true, false or null.
func skipScalar(doc []byte, at int) int {
	if at == len(doc) {
		return 0
	}
	word := ""
	switch doc[at] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
		word = "null"
	default:
		return skipNumber(doc, at)
	}
	if len(doc)-at < len(word) || string(doc[at:at+len(word)]) != word {
		return 0
	}
	return at + len(word)
}

func skipNumber(doc []byte, at int) int {
	if doc[at] == '-' {
		at++
	}
	from := at
	if at = skipDigits(doc, at); at == from || at > from+1 && doc[from] == '0' {
		return 0
	}
	if at < len(doc) && doc[at] == '.' {
		from = at + 1
		if at = skipDigits(doc, from); at == from {
			return 0
		}
	}
	if at < len(doc) && doc[at]|0x20 == 'e' {
		if at++; at < len(doc) && (doc[at] == '+' || doc[at] == '-') {
			at++
		}
		from = at
		if at = skipDigits(doc, from); at == from {
			return 0
		}
	}
	return at
}

// skipDigits passes over digits, perhaps none.
func skipDigits(doc []byte, at int) int {
	for at < len(doc) && doc[at]-'0' <= 9 {
		at++
	}
	return at
}

// skipString passes over a string from behind its first quote, and says whether it holds escapes. Control characters, invalid UTF-8, unknown escapes
// and lone surrogates are refused. Plain bytes are looked at eight at a time (a carry can only mark a byte behind one that is marked rightly).
func skipString(doc []byte, at int) (end int, escaped bool) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for {
		if len(doc)-at >= 8 {
			w := binary.LittleEndian.Uint64(doc[at:])
			quote, slash := w^('"'*ones), w^('\\'*ones)
			odd := (w | (w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs
			if odd == 0 {
				at += 8
				continue
			}
			at += bits.TrailingZeros64(odd) >> 3
		} else {
			for at < len(doc) && plain[doc[at]] {
				at++
			}
			if at == len(doc) {
				return 0, false
			}
		}
		n := 0
		switch c := doc[at]; {
		case c == '"':
			return at + 1, escaped
		case c == '\\':
			escaped = true
			_, n = decodeEscape(doc[at:])
		case c >= utf8.RuneSelf:
			if _, n = utf8.DecodeRune(doc[at:]); n == 1 { // none of more bytes than one
				return 0, false
			}
		}
		if n == 0 { // a control character, or an escape that is none
			return 0, false
		}
		at += n
	}
}

// decodeEscape reads the escape at the start of b and says how many bytes it takes; 0 means that it is none.
func decodeEscape(b []byte) (r rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return 0, 0
	}
	hi := hex4(b[2:])
	switch {
	case hi < 0 || hi >= 0xdc00 && hi <= 0xdfff:
		return 0, 0
	case hi < 0xd800 || hi > 0xdbff:
		return hi, 6
	case len(b) < 12 || b[6] != '\\' || b[7] != 'u':
		return 0, 0
	}
	lo := hex4(b[8:])
	if lo < 0xdc00 || lo > 0xdfff {
		return 0, 0
	}
	return (hi-0xd800)<<10 | (lo - 0xdc00) + 0x10000, 12
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		d := unhex(c)
		if d < 0 {
			return -1
		}
		r = r<<4 | rune(d)
	}
	return r
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// equalKey compares a member's name, decoded, with key.
func equalKey(raw []byte, escaped bool, key string) bool {
	if !escaped {
		return string(raw) == key
	}
	var enc [utf8.UTFMax]byte
	for len(raw) > 0 {
		part, n := raw[:1], 1
		if raw[0] == '\\' {
			var r rune
			r, n = decodeEscape(raw)
			part = utf8.AppendRune(enc[:0], r)
		}
		if len(key) < len(part) || key[:len(part)] != string(part) {
			return false
		}
		raw, key = raw[n:], key[len(part):]
	}
	return key == ""
}
