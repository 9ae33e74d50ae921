package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// location is where the signature or token is.
type location struct {
	kind string // header, numbered, query, form, json, body, authorization, connection
	name string
	json int
}

func parseLocation(s *Spec) (location, error) {
	if s.Header != "" {
		if _, err := selector.Parse("header:" + s.Header); err != nil {
			return location{}, err
		}
		return location{kind: "header", name: s.Header}, nil
	}
	kind, name, _ := strings.Cut(s.Location, ":")
	switch kind {
	case "body":
		return location{kind: kind}, nil
	case "connection":
		if s.Scheme == "client_certificate" && name == "" {
			return location{kind: kind}, nil
		}
	case "bearer":
		return location{kind: "authorization", name: "Bearer"}, nil
	case "basic":
		return location{kind: "authorization", name: "Basic"}, nil
	case "authorization", "headers", "query", "form", "json":
		if name == "" {
			return location{}, fmt.Errorf("%q has no name", s.Location)
		}
		if kind == "headers" {
			kind = "numbered"
		}
		if kind == "json" {
			_, err := selector.Parse(s.Location)
			return location{kind: kind, name: name}, err
		}
		return location{kind: kind, name: name}, nil
	}
	return location{}, fmt.Errorf("unknown location %q (query:, form:, json:, body, bearer, basic, authorization:, headers:)", s.Location)
}

// stampPlace is where the timestamp is.
type stampPlace struct {
	kind string // "", header, json, field
	name string
	json int
}

func parseStamp(text string) (stampPlace, error) {
	kind, name, _ := strings.Cut(text, ":")
	if name == "" || kind != "header" && kind != "json" && kind != "field" {
		return stampPlace{}, fmt.Errorf("%q: header:Name, json:path or field:name", text)
	}
	if kind != "field" {
		if _, err := selector.Parse(text); err != nil {
			return stampPlace{}, err
		}
	}
	return stampPlace{kind: kind, name: name}, nil
}

// locate finds the texts that carry signatures or tokens, into st.raws: one, unless headers are numbered or several
// are configured.
func (v *Verifier) locate(st *state) Check {
	st.raws = st.raws[:0]
	var c Check
	switch v.loc.kind {
	case "header":
		c = st.header(v.loc.name, len(v.spec.Also) > 0)
		for _, name := range v.spec.Also {
			if c == CheckNone {
				c = st.header(name, true)
			}
		}
	case "numbered":
		c = st.numbered(v.loc.name)
	case "authorization":
		c = st.authorization(v.loc.name)
	case "body":
		st.raws = append(st.raws, st.req.Body)
		return CheckNone
	default:
		raw, present, bad := st.at(place{v.loc.kind, v.loc.name, v.loc.json})
		if c = bad; present {
			st.raws = append(st.raws, raw)
		}
	}
	if c != CheckNone {
		return c
	}
	if len(st.raws) == 0 {
		return CheckMissing
	}
	for _, r := range st.raws {
		if len(r) > MaxHeader && v.loc.kind != "json" { // bounded by the body's limit
			return CheckTooLarge
		}
	}
	return CheckNone
}

func (st *state) header(name string, optional bool) Check {
	raw, n := st.req.Head.Get(name)
	switch {
	case n > 1:
		return CheckDuplicate
	case n == 1:
		st.raws = append(st.raws, raw)
	case !optional:
		return CheckMissing
	}
	return CheckNone
}

// numbered collects Prefix1, Prefix2 … in any order, each at most once.
func (st *state) numbered(prefix string) Check {
	var seen [maxNumbered + 1]bool
	for name, value := range st.req.Head.All() {
		if len(name) <= len(prefix) || !event.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		n := 0
		for _, c := range name[len(prefix):] {
			if c < '0' || c > '9' || n > maxNumbered {
				n = -1
				break
			}
			n = n*10 + int(c-'0')
		}
		switch {
		case n < 1:
			continue
		case n > maxNumbered:
			return CheckTooLarge
		case seen[n]:
			return CheckDuplicate
		}
		seen[n] = true
		st.raws = append(st.raws, value)
	}
	return CheckNone
}

func (st *state) authorization(scheme string) Check {
	if c := st.header("Authorization", false); c != CheckNone {
		return c
	}
	got, rest, found := bytes.Cut(st.raws[0], []byte{' '})
	if !found || !event.EqualFold(got, scheme) {
		return CheckMalformed
	}
	st.raws[0] = event.TrimSpace(rest)
	return CheckNone
}

// collect parses the located texts into candidates: decoded signatures, each with its own timestamp where the format
// has one. A candidate that cannot be decoded is passed over; none at all is malformed.
func (v *Verifier) collect(st *state) Check {
	if c := v.locate(st); c != CheckNone {
		return c
	}
	for _, raw := range st.raws {
		if c := v.parse(st, raw); c != CheckNone {
			return c
		}
	}
	limit := MaxCandidates
	if v.loc.kind == "numbered" {
		limit = maxNumbered
	}
	switch {
	case len(st.cands) == 0:
		return CheckMalformed
	case len(st.cands) > limit:
		return CheckTooLarge
	}
	return CheckNone
}

func (v *Verifier) parse(st *state, raw []byte) Check {
	switch v.spec.Format {
	case "list":
		for rest, more := raw, true; more; {
			var part []byte
			part, rest, more = cut(rest, v.sep)
			v.offer(st, event.TrimSpace(part), nil)
			if len(st.cands) > MaxCandidates {
				return CheckTooLarge
			}
		}
	case "fields", "parameters":
		return v.parseFields(st, raw)
	case "tagged":
		return v.parseTagged(st, raw)
	case "positional":
		stamp, rest, found := cut(raw, v.sep)
		if _, ok := parseTime(stamp, v.spec.Unit); !ok || !found {
			return CheckMalformed
		}
		for more := true; more; {
			var part []byte
			part, rest, more = cut(rest, v.sep)
			v.offer(st, event.TrimSpace(part), stamp)
			if len(st.cands) > MaxCandidates {
				return CheckTooLarge
			}
		}
	case "pairs":
		for pair := range bytes.SplitSeq(raw, []byte{'&'}) {
			key, sig, found := bytes.Cut(pair, []byte{'|'})
			if found && contains(v.spec.Fields, key) {
				v.offer(st, sig, nil)
			}
			if len(st.cands) > MaxCandidates {
				return CheckTooLarge
			}
		}
	case "wrapped":
		return v.parseWrapped(st, raw)
	default:
		v.offer(st, raw, nil)
	}
	return CheckNone
}

var equals = []byte{'='}

// cut is bytes.Cut, faster where sep is one byte.
func cut(b, sep []byte) (before, after []byte, found bool) {
	i := -1
	if len(sep) == 1 {
		i = bytes.IndexByte(b, sep[0])
	} else {
		i = bytes.Index(b, sep)
	}
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+len(sep):], true
}

func contains(list []string, b []byte) bool {
	return slices.Contains(list, string(b))
}

func (v *Verifier) separator() string {
	if v.spec.Separator == "" {
		return ","
	}
	return v.spec.Separator
}

// parseFields reads k=v pairs, in groups if the scheme has groups. A group has at most one timestamp.
func (v *Verifier) parseFields(st *state, raw []byte) Check {
	groups := 1
	if v.spec.Group != "" {
		for group := range bytes.SplitSeq(raw, []byte(v.spec.Group)) {
			if len(group) == 0 {
				continue
			}
			if groups++; groups > maxGroups {
				return CheckTooLarge
			}
			if c := v.parseGroup(st, group); c != CheckNone {
				return c
			}
		}
		return CheckNone
	}
	return v.parseGroup(st, raw)
}

func (v *Verifier) parseGroup(st *state, group []byte) Check {
	first := len(st.cands)
	var stamp []byte
	pairs := 0
	for rest, more := group, true; more; {
		var pair []byte
		pair, rest, more = cut(rest, v.sep)
		if pairs++; pairs > 4*MaxCandidates {
			return CheckTooLarge
		}
		key, value, found := cut(event.TrimSpace(pair), equals)
		if found && v.spec.Format == "parameters" {
			if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
				return CheckMalformed
			}
			value = value[1 : len(value)-1]
		}
		switch {
		case !found:
		case v.stamp.kind == "field" && string(key) == v.stamp.name:
			if stamp != nil {
				return CheckDuplicate
			}
			if _, ok := parseTime(value, v.spec.Unit); !ok {
				return CheckMalformed
			}
			stamp = value
		case contains(v.spec.Fields, key):
			v.offer(st, value, nil)
		}
		if len(st.cands) > MaxCandidates {
			return CheckTooLarge
		}
	}
	if v.stamp.kind == "field" && stamp == nil {
		return CheckMissing
	}
	for i := first; i < len(st.cands); i++ {
		st.cands[i].stamp = stamp
	}
	return CheckNone
}

func (v *Verifier) parseTagged(st *state, raw []byte) Check {
	entries := 0
	for entry := range bytes.SplitSeq(raw, []byte{' '}) {
		if len(entry) == 0 {
			continue
		}
		if entries++; entries > MaxCandidates {
			return CheckTooLarge
		}
		tag, sig, found := bytes.Cut(entry, []byte{','})
		if found && contains(v.spec.Fields, tag) {
			v.offer(st, sig, nil)
		}
	}
	return CheckNone
}

// parseWrapped reads base64 of {"signature": …, "kid": …}; Fields names the two members.
func (v *Verifier) parseWrapped(st *state, raw []byte) Check {
	doc, ok := decode(nil, raw, "base64")
	if !ok || len(v.spec.Fields) != 2 {
		return CheckMalformed
	}
	var got [2]selector.JSONValue
	if selector.NewJSONSet(v.spec.Fields...).Extract(doc, got[:]) != nil || got[0].Kind != selector.String || got[1].Kind != selector.String {
		return CheckMalformed
	}
	v.offer(st, got[0].Bytes(), nil)
	st.kid = got[1].Bytes()
	return CheckNone
}

// offer decodes one signature and makes it a candidate, if it has the prefix and can be decoded.
func (v *Verifier) offer(st *state, text, stamp []byte) {
	rest, ok := bytes.CutPrefix(text, v.prefix)
	if !ok || len(rest) == 0 {
		return
	}
	start := len(st.dec)
	dec, ok := decode(st.dec, rest, v.spec.Encoding)
	if !ok {
		return
	}
	st.dec = dec
	st.cands = append(st.cands, candidate{sig: dec[start:len(dec):len(dec)], stamp: stamp})
}

// decode appends the decoded text to dst: hex in either case, base64 canonical and without line breaks, base64url
// canonical with or without padding.
func decode(dst, text []byte, encoding string) ([]byte, bool) {
	if encoding == "hex" {
		out, err := hex.AppendDecode(dst, text)
		return out, err == nil
	}
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 { // encoding/base64 would skip them
		return dst, false
	}
	var out []byte
	var err error
	switch encoding {
	case "base64":
		out, err = strictBase64.AppendDecode(dst, text)
	case "base64url":
		if bytes.IndexByte(text, '=') >= 0 {
			out, err = strictBase64URLPadded.AppendDecode(dst, text)
		} else {
			out, err = strictBase64URL.AppendDecode(dst, text)
		}
	default:
		return append(dst, text...), true
	}
	return out, err == nil
}

var (
	strictBase64          = base64.StdEncoding.Strict()
	strictBase64URL       = base64.RawURLEncoding.Strict()
	strictBase64URLPadded = base64.URLEncoding.Strict()
)

// appendEncoded is the inverse of decode.
func appendEncoded(dst, sig []byte, encoding string) []byte {
	switch encoding {
	case "hex":
		return hex.AppendEncode(dst, sig)
	case "base64url":
		return strictBase64URL.AppendEncode(dst, sig)
	}
	return strictBase64.AppendEncode(dst, sig)
}
