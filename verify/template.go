package verify

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/hooktender/hooktender/selector"
)

// op is one step of a compiled message: literal bytes or a value. Ops of one [segment] have the same number; 0 is none.
type op struct {
	literal  []byte
	kind     string // "" for a literal; else body, timestamp, id, url, header …
	name     string
	optional bool
	lower    bool
	segment  int
	json     int // index in the verifier's JSON set, for kind json
}

// template is `signed`, compiled: a flat list of operations.
type template struct{ ops []op }

var templateKinds = map[string]bool{ // value: takes a name
	"body": false, "timestamp": false, "id": false, "url": false, "method": false, "secret": false, "form_sorted": false,
	"url_sorted": false, "json_sorted": false, "target": false, "host": false, "headers": true, "sha256": true, "header": true, "query": true, "form": true, "json": true, "crc32": true,
}

// parseTemplate reads the language described at Spec.Signed.
func parseTemplate(text string) (*template, error) {
	if text == "" {
		return nil, fmt.Errorf("empty: say what is signed, for example {timestamp}.{body}")
	}
	t := &template{}
	segment, segments := 0, 0
	for text != "" {
		i := strings.IndexAny(text, "{[]")
		if i != 0 {
			if i < 0 {
				i = len(text)
			}
			t.lit(text[:i], segment)
			text = text[i:]
			continue
		}
		switch {
		case strings.HasPrefix(text, "{{") || strings.HasPrefix(text, "[["):
			t.lit(text[:1], segment)
			text = text[2:]
		case text[0] == '[':
			if segment != 0 {
				return nil, fmt.Errorf("[ inside [ ]")
			}
			segments++
			segment, text = segments, text[1:]
		case text[0] == ']':
			if segment == 0 { // a literal
				t.lit("]", 0)
			}
			segment, text = 0, text[1:]
		default:
			end := strings.IndexByte(text, '}')
			if end < 0 {
				return nil, fmt.Errorf("{ without }")
			}
			o, err := parseOp(text[1:end])
			if err != nil {
				return nil, err
			}
			o.segment = segment
			t.ops = append(t.ops, o)
			text = text[end+1:]
		}
	}
	if segment != 0 {
		return nil, fmt.Errorf("[ without ]")
	}
	return t, nil
}

func (t *template) lit(s string, segment int) {
	if n := len(t.ops); n > 0 && t.ops[n-1].kind == "" && t.ops[n-1].segment == segment {
		t.ops[n-1].literal = append(t.ops[n-1].literal, s...)
		return
	}
	t.ops = append(t.ops, op{literal: []byte(s), segment: segment})
}

func parseOp(text string) (op, error) {
	o := op{json: -1}
	body, lower := strings.CutSuffix(text, "|lower")
	body, optional := strings.CutSuffix(body, "?")
	o.lower, o.optional = lower, optional
	kind, name, has := strings.Cut(body, ":")
	wants, known := templateKinds[kind]
	switch {
	case !known:
		return o, fmt.Errorf("unknown {%s} (body, timestamp, id, url, target, host, method, secret, header:, headers:, query:, form:, json:, form_sorted, json_sorted, url_sorted, crc32:body, sha256:body)", text)
	case wants != has || wants && name == "":
		return o, fmt.Errorf("{%s} is not complete", text)
	case (kind == "crc32" || kind == "sha256") && name != "body":
		return o, fmt.Errorf("{%s}: only %s:body", text, kind)
	case kind == "headers":
		if _, err := selector.Parse("header:" + name); err != nil {
			return o, err
		}
	case kind == "json" || kind == "header" || kind == "query" || kind == "form":
		if _, err := selector.Parse(kind + ":" + name); err != nil {
			return o, err
		}
	}
	o.kind, o.name = kind, name
	return o, nil
}

// uses says whether a value of this kind (and name, unless "") is in the message, header names in any case.
func (t *template) uses(kind, name string) bool {
	for _, o := range t.ops {
		if o.kind == kind && (name == "" || o.name == name || kind == "header" && strings.EqualFold(o.name, name)) {
			return true
		}
	}
	return false
}

// needs says whether a value of this kind is in the message outside of [ ].
func (t *template) needs(kind string) bool {
	for _, o := range t.ops {
		if o.kind == kind && o.segment == 0 {
			return true
		}
	}
	return false
}

// dropTimestamp removes every segment that has {timestamp} in it: the sender does not send one.
func (t *template) dropTimestamp() {
	gone := map[int]bool{}
	for _, o := range t.ops {
		if o.kind == "timestamp" && o.segment > 0 {
			gone[o.segment] = true
		}
	}
	var kept []op
	for _, o := range t.ops {
		if !gone[o.segment] {
			kept = append(kept, o)
		}
	}
	t.ops = kept
}

// small pieces of a message are written together with their neighbours: each write to a hash costs as much as hashing some of them.
const smallPiece = 64

// write streams the message to w. It fails (with what was missing) if a value that is not optional is absent or ambiguous.
func (t *template) write(w io.Writer, st *state) Check {
	skip := 0
	st.small = st.small[:0]
	for i := range t.ops {
		o := &t.ops[i]
		if o.segment > 0 && (i == 0 || t.ops[i-1].segment != o.segment) {
			skip = 0
			whole, c := t.present(o.segment, st)
			if c != CheckNone {
				return c
			}
			if !whole {
				skip = o.segment
			}
		}
		if o.segment > 0 && o.segment == skip {
			continue
		}
		v, present, c := st.value(o)
		switch {
		case c != CheckNone:
			return c
		case !present && !o.optional:
			return CheckMissing
		}
		if st.small = append(st.small, v[:min(len(v), smallPiece)]...); len(v) > smallPiece {
			_, _ = w.Write(st.small) // a hash, or a buffer: never fails
			_, _ = w.Write(v[smallPiece:])
			st.small = st.small[:0]
		}
	}
	if len(st.small) > 0 {
		_, _ = w.Write(st.small)
	}
	return CheckNone
}

func (t *template) present(segment int, st *state) (bool, Check) {
	for i := range t.ops {
		if t.ops[i].segment != segment || t.ops[i].kind == "" {
			continue
		}
		v, present, c := st.value(&t.ops[i])
		if c != CheckNone {
			return false, c
		}
		if !present || len(v) == 0 {
			return false, CheckNone
		}
	}
	return true, CheckNone
}

// value is what an op contributes.
func (st *state) value(o *op) (v []byte, present bool, c Check) {
	present = true
	switch o.kind {
	case "":
		return o.literal, true, CheckNone
	case "body":
		v = st.req.Body
	case "timestamp":
		v, present = st.stamp, st.stamp != nil
	case "id":
		v = st.id
	case "url":
		v = st.url
	case "host":
		v, present = append(st.buf[:0], st.host...), st.host != ""
		st.buf = v
	case "target":
		v = append(append(st.buf[:0], st.prefix...), st.req.Target...)
		st.buf = v
	case "method":
		v = append(st.buf[:0], st.req.Method...)
		st.buf = v
	case "secret":
		v = st.secret
	case "crc32":
		v = strconv.AppendUint(st.buf[:0], uint64(crc32.ChecksumIEEE(st.req.Body)), 10)
		st.buf = v
	case "sha256":
		sum := sha256.Sum256(st.req.Body)
		v = appendEncoded(st.buf[:0], sum[:], "base64")
		st.buf = v
	case "json_sorted":
		var err error
		if v, err = selector.SortJSON(st.doc); errors.Is(err, selector.ErrTwice) {
			c = CheckDuplicate
		} else if err != nil {
			c = CheckMalformed
		}
	case "headers":
		v, c = st.listed(o.name)
	case "form_sorted":
		v, present = st.formSorted(true)
	case "url_sorted":
		v, present = st.urlSorted()
	case "header":
		var n int
		if v, n = st.req.Head.Get(o.name); n > 1 {
			return nil, false, CheckDuplicate
		} else if n == 0 {
			present = false
		}
	case "query", "form":
		v, present, c = st.param(o.kind, o.name)
	case "json":
		v, present, c = jsonBytes(st.json[o.json])
	}
	if o.lower {
		v = []byte(strings.ToLower(string(v)))
	}
	return v, present, c
}

// listed are the headers that the header called list names, in its order: lower-case name:value, with ; between. The list and the header of
// the timestamp have to be among them.
func (st *state) listed(list string) ([]byte, Check) {
	names, n := st.req.Head.Get(list)
	switch {
	case n == 0:
		return nil, CheckMissing
	case n > 1:
		return nil, CheckDuplicate
	case bytes.Count(names, []byte{','}) >= MaxCandidates || len(names) > MaxHeader:
		return nil, CheckTooLarge
	}
	out := st.buf[:0]
	itself, stamped := false, st.stampHeader == ""
	for name := range strings.SplitSeq(strings.ToLower(string(names)), ",") {
		value, n := st.req.Head.Get(name)
		if n != 1 {
			return nil, CheckClaim
		}
		if len(out) > 0 {
			out = append(out, ';')
		}
		out = append(append(append(out, name...), ':'), value...)
		itself, stamped = itself || strings.EqualFold(name, list), stamped || strings.EqualFold(name, st.stampHeader)
	}
	if st.buf = out; !itself || !stamped {
		return nil, CheckClaim
	}
	return out, CheckNone
}

func (st *state) param(kind, name string) ([]byte, bool, Check) {
	var v []byte
	var n int
	var ok bool
	if kind == "form" {
		v, n, ok = selector.Field(st.req, name)
	} else {
		v, n, ok = selector.Lookup(st.req.Query(), name)
	}
	switch {
	case n == 0:
		return nil, false, CheckNone
	case n > 1:
		return nil, false, CheckDuplicate
	case !ok:
		return nil, false, CheckMalformed
	}
	return v, true, CheckNone
}

func jsonBytes(v selector.JSONValue) ([]byte, bool, Check) {
	switch v.Kind {
	case selector.Absent, selector.Null:
		return nil, false, CheckNone
	case selector.Ambiguous:
		return nil, false, CheckDuplicate
	case selector.Composite:
		return nil, false, CheckMalformed
	}
	return v.Bytes(), true, CheckNone
}
