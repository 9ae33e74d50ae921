package verify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// signatureInput is one member of Signature-Input (RFC 9421 §4.1): covered components and parameters.
type signatureInput struct {
	label      string
	raw        []byte // the inner list and its parameters as received: the value of @signature-params
	components []component
	created    int64
	expires    int64
	createdAt  [2]int // where these numbers are in raw
	expiresAt  [2]int
	keyID      string
	alg        string
	foreign    bool // covers components in a form that is not known here, so it cannot be judged
}

type component struct {
	name  string
	param string // of @query-param: its name parameter
}

// judgeHTTP judges HTTP Message Signatures (RFC 9421). A request may carry several; one has to cover the configured
// components, name the configured key and be good.
func (v *Verifier) judgeHTTP(st *state) Verdict {
	input, n := st.req.Head.Get("Signature-Input")
	sigs, m := st.req.Head.Get("Signature")
	switch {
	case n == 0 || m == 0:
		return fail(CheckMissing)
	case n > 1 || m > 1:
		return fail(CheckDuplicate)
	case len(input) > MaxHeader || len(sigs) > MaxHeader:
		return fail(CheckTooLarge)
	}
	inputs, err := parseSignatureInput(input)
	if err != nil || len(inputs) > MaxCandidates {
		return fail(CheckMalformed)
	}
	values, err := parseByteDictionary(sigs)
	if err != nil {
		return fail(CheckMalformed)
	}
	v.buildURL(st, 0)
	out := fail(CheckClaim)
	for _, in := range inputs {
		one := v.judgeInput(st, &in, values)
		switch {
		case one.OK && out.OK:
			out.also(one.MAC)
		case one.OK, out.Check == CheckClaim, one.Check == CheckKeys && !out.OK: // the others were foreign, or leave it open
			out = one
		}
	}
	return out
}

func (v *Verifier) judgeInput(st *state, in *signatureInput, values map[string][]byte) Verdict {
	sig, found := values[in.label]
	if !found {
		return fail(CheckMissing)
	}
	if in.foreign || v.spec.KeyID != "" && in.keyID != v.spec.KeyID || in.alg != "" && in.alg != v.spec.Algorithm {
		return fail(CheckClaim)
	}
	for _, want := range v.spec.Components {
		if !slices.ContainsFunc(in.components, func(c component) bool { return c.name == want }) {
			return fail(CheckClaim)
		}
	}
	st.msg = st.msg[:0]
	if c := v.signatureBase(st, in); c != CheckNone {
		return fail(c)
	}
	i, c := v.matchHTTP(st, in.keyID, sig)
	if c != CheckNone {
		return fail(c)
	}
	covered := slices.ContainsFunc(in.components, func(c component) bool { return c.name == "content-digest" })
	if covered {
		if c := contentDigest(st.req); c != CheckNone {
			return fail(c)
		}
	}
	if v.spec.Algorithm != "hmac-sha256" {
		sig = signedKey(st.msg)
	}
	out := Verdict{OK: true, SecretIndex: i, MAC: sig, SignedAt: time.Unix(in.created, 0)}
	c = age(out.SignedAt, st.now, v.spec.Tolerance)
	switch {
	case in.created < 0:
		c = CheckClaim
	case c == CheckNone && in.expires >= 0 && !st.now.Before(time.Unix(in.expires, 0)):
		c = CheckStale
	}
	out.OK, out.Check = c == CheckNone, c
	return out
}

// matchHTTP looks for the secret or key that made sig; the key is the one that keyID names where keys come from elsewhere.
func (v *Verifier) matchHTTP(st *state, keyID string, sig []byte) (hit int, c Check) {
	hit, c = -1, CheckMismatch
	if v.spec.Algorithm == "hmac-sha256" {
		for i, secret := range v.secrets {
			mac := hmac.New(sha256.New, secret)
			mac.Write(st.msg)
			if subtle.ConstantTimeCompare(mac.Sum(nil), sig) == 1 && hit < 0 {
				hit, c = i, CheckNone
			}
		}
		return hit, c
	}
	keys, found := v.fetch(keyID, st.now)
	if found != CheckNone {
		return hit, found
	}
	for i, key := range keys {
		if fits(v.spec.Algorithm, key, st.msg, sig) && hit < 0 {
			hit, c = i, CheckNone
		}
	}
	return hit, c
}

// signatureBase writes RFC 9421 §2.5.
func (v *Verifier) signatureBase(st *state, in *signatureInput) Check {
	seen := map[component]bool{}
	for _, c := range in.components {
		if seen[c] {
			return CheckMalformed
		}
		seen[c] = true
		value, ok := v.componentValue(st, c)
		if !ok {
			return CheckMissing
		}
		st.msg = append(st.msg, '"')
		st.msg = append(st.msg, c.name...)
		st.msg = append(st.msg, '"')
		if c.param != "" {
			st.msg = append(st.msg, `;name="`+c.param+`"`...)
		}
		st.msg = append(st.msg, ": "...)
		st.msg = append(st.msg, value...)
		st.msg = append(st.msg, '\n')
	}
	st.msg = append(st.msg, `"@signature-params": `...)
	st.msg = append(st.msg, in.raw...)
	return CheckNone
}

// componentValue is RFC 9421 §2.1 and §2.2. Scheme, authority and what stands before the target come from the public URL, never from the request.
func (v *Verifier) componentValue(st *state, c component) ([]byte, bool) {
	req := st.req
	known := v.authURL.authority != ""
	switch c.name {
	case "@method":
		return []byte(req.Method), true
	case "@target-uri":
		return st.url, known
	case "@authority":
		return []byte(v.authURL.authority), known
	case "@scheme":
		return []byte(v.authURL.scheme), known
	case "@request-target":
		return append([]byte(st.prefix), req.Target...), true
	case "@path":
		return append([]byte(st.prefix), req.Path()...), true
	case "@query":
		return append([]byte{'?'}, req.Query()...), true
	case "@query-param":
		name, err := url.PathUnescape(c.param)
		value, n, ok := selector.Lookup(req.Query(), name)
		return []byte(strings.NewReplacer("%2A", "*", "~", "%7E").Replace(percent(value))), n == 1 && ok && err == nil
	}
	if c.name == "" || c.name[0] == '@' {
		return nil, false
	}
	var value []byte
	n := 0
	for name, val := range req.Head.All() {
		if event.EqualFold(name, c.name) {
			if n++; n > 1 {
				value = append(value, ", "...)
			}
			value = append(value, val...)
		}
	}
	return value, n > 0
}

// contentDigest compares the body with Content-Digest (RFC 9530): every digest of a known algorithm must fit, and
// there must be one.
func contentDigest(req *event.Request) Check {
	text, n := req.Head.Get("Content-Digest")
	switch {
	case n == 0:
		return CheckMissing
	case n > 1:
		return CheckDuplicate
	}
	digests, err := parseByteDictionary(text)
	if err != nil {
		return CheckMalformed
	}
	known := 0
	for name, got := range digests {
		var want []byte
		switch name {
		case "sha-256":
			sum := sha256.Sum256(req.Body)
			want = sum[:]
		case "sha-512":
			sum := sha512.Sum512(req.Body)
			want = sum[:]
		default:
			continue
		}
		if known++; subtle.ConstantTimeCompare(want, got) != 1 {
			return CheckBody
		}
	}
	if known == 0 {
		return CheckBody
	}
	return CheckNone
}

var errStructured = errors.New("not a structured field of the expected kind")

// fieldScanner reads structured fields (RFC 9651), as far as signatures need them.
type fieldScanner struct {
	b  []byte
	at int
}

func (s *fieldScanner) peek() byte {
	if s.at < len(s.b) {
		return s.b[s.at]
	}
	return 0
}

func (s *fieldScanner) eat(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *fieldScanner) spaces() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.at++
	}
}

func (s *fieldScanner) key() string {
	start := s.at
	for c := s.peek(); c >= 'a' && c <= 'z' || c == '*' || s.at > start && (c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'); c = s.peek() {
		s.at++
	}
	return string(s.b[start:s.at])
}

// str reads a quoted string.
func (s *fieldScanner) str() (string, bool) {
	if !s.eat('"') {
		return "", false
	}
	var out []byte
	for s.at < len(s.b) {
		c := s.b[s.at]
		s.at++
		switch {
		case c == '"':
			return string(out), true
		case c == '\\':
			if c = s.peek(); c != '"' && c != '\\' {
				return "", false
			}
			s.at++
		case c < ' ' || c >= 0x7f:
			return "", false
		}
		out = append(out, c)
	}
	return "", false
}

// next moves to the next member of a dictionary; false at the end.
func (s *fieldScanner) next() (bool, error) {
	s.spaces()
	if s.at == len(s.b) {
		return false, nil
	}
	if !s.eat(',') {
		return false, errStructured
	}
	s.spaces()
	if s.at == len(s.b) {
		return false, errStructured
	}
	return true, nil
}

// parseByteDictionary reads label=:base64:, … . A label that occurs twice is refused.
func parseByteDictionary(b []byte) (map[string][]byte, error) {
	s := fieldScanner{b: event.TrimSpace(b)}
	out := map[string][]byte{}
	for more := true; more; {
		label := s.key()
		if label == "" || !s.eat('=') || !s.eat(':') || out[label] != nil {
			return nil, errStructured
		}
		end := bytes.IndexByte(s.b[s.at:], ':')
		if end < 0 {
			return nil, errStructured
		}
		value, ok := decode([]byte{}, s.b[s.at:s.at+end], "base64")
		if !ok {
			return nil, errStructured
		}
		out[label] = value
		s.at += end + 1
		var err error
		if more, err = s.next(); err != nil || len(out) > MaxCandidates {
			return nil, errStructured
		}
	}
	return out, nil
}

// parseSignatureInput reads label=("component" …);created=…;keyid="…", … .
func parseSignatureInput(b []byte) ([]signatureInput, error) {
	s := fieldScanner{b: event.TrimSpace(b)}
	var out []signatureInput
	for more := true; more; {
		in := signatureInput{label: s.key(), created: -1, expires: -1}
		if in.label == "" || !s.eat('=') || slices.ContainsFunc(out, func(x signatureInput) bool { return x.label == in.label }) {
			return nil, errStructured
		}
		start := s.at
		if err := s.innerList(&in); err != nil {
			return nil, err
		}
		if err := s.parameters(&in); err != nil {
			return nil, err
		}
		in.raw = s.b[start:s.at]
		for _, at := range []*[2]int{&in.createdAt, &in.expiresAt} {
			at[0], at[1] = at[0]-start, at[1]-start
		}
		out = append(out, in)
		var err error
		if more, err = s.next(); err != nil || len(out) > MaxCandidates {
			return nil, errStructured
		}
	}
	return out, nil
}

func (s *fieldScanner) innerList(in *signatureInput) error {
	if !s.eat('(') {
		return errStructured
	}
	for !s.eat(')') {
		name, ok := s.str()
		if !ok || name != strings.ToLower(name) || len(in.components) >= 4*MaxCandidates {
			return errStructured
		}
		c := component{name: name}
		for s.eat(';') { // of all component parameters, only the name of a query parameter is known here
			switch key := s.key(); {
			case key == "":
				return errStructured
			case key == "name" && name == "@query-param" && c.param == "" && s.peek() == '=':
				s.at++
				if c.param, ok = s.str(); !ok || c.param == "" {
					return errStructured
				}
			default:
				if in.foreign = true; !s.parameterValue() {
					return errStructured
				}
			}
		}
		if in.foreign = in.foreign || (name == "@query-param") != (c.param != ""); in.foreign {
			c.param = ""
		}
		in.components = append(in.components, c)
		if s.peek() != ')' && !s.eat(' ') {
			return errStructured
		}
	}
	return nil
}

func (s *fieldScanner) parameters(in *signatureInput) error {
	seen := map[string]bool{}
	for s.eat(';') {
		name := s.key()
		if name == "" || seen[name] {
			return errStructured
		}
		seen[name] = true
		ok := false
		switch name {
		case "created", "expires", "keyid", "alg", "nonce", "tag":
			ok = s.eat('=') && s.known(name, in)
		default: // it is covered by the signature, whatever it says
			ok = s.parameterValue()
		}
		if !ok {
			return errStructured
		}
	}
	return nil
}

// known reads the value of a parameter that RFC 9421 §2.3 defines.
func (s *fieldScanner) known(name string, in *signatureInput) (ok bool) {
	from := s.at
	switch name {
	case "created":
		in.created, ok = s.integer()
		in.createdAt = [2]int{from, s.at}
	case "expires":
		in.expires, ok = s.integer()
		in.expiresAt = [2]int{from, s.at}
	case "keyid":
		in.keyID, ok = s.str()
	case "alg":
		in.alg, ok = s.str()
	default:
		_, ok = s.str()
	}
	return ok
}

// parameterValue passes over the value of a parameter, if it has one: a string, byte sequence, token, number or truth value.
func (s *fieldScanner) parameterValue() bool {
	if !s.eat('=') {
		return true
	}
	switch s.peek() {
	case '"':
		_, ok := s.str()
		return ok
	case ':':
		n := bytes.IndexByte(s.b[s.at+1:], ':')
		s.at += n + 2
		return n >= 0
	}
	start := s.at
	for strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~:/?", s.peek()) >= 0 {
		s.at++
	}
	return s.at > start
}

func (s *fieldScanner) integer() (int64, bool) {
	start := s.at
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.at++
	}
	n, err := strconv.ParseInt(string(s.b[start:s.at]), 10, 64)
	return n, err == nil && s.at-start <= 15 && n < 1<<40
}

// signHTTP signs st.req in place: the configured components, or the method, the path and the digest of the body.
func (v *Verifier) signHTTP(st *state) error {
	v.buildURL(st, 0)
	names := v.spec.Components
	if len(names) == 0 {
		names = []string{"@method", "@path", "content-digest"}
	}
	sum := sha256.Sum256(st.req.Body)
	st.req.Head = setLine(st.req.Head, "Content-Digest", fmt.Appendf(nil, "sha-256=:%s:", appendEncoded(nil, sum[:], "base64")))
	in := signatureInput{label: "sig1"}
	quoted := make([]string, len(names))
	for i, n := range names {
		in.components = append(in.components, component{name: n})
		quoted[i] = strconv.Quote(n)
	}
	in.raw = fmt.Appendf(nil, "(%s);created=%d", strings.Join(quoted, " "), st.now.Unix())
	if v.spec.KeyID != "" {
		in.raw = fmt.Appendf(in.raw, ";keyid=%q", v.spec.KeyID)
	}
	st.msg = st.msg[:0]
	if c := v.signatureBase(st, &in); c != CheckNone {
		return fmt.Errorf("%w: a component is %s", ErrCannotSign, c)
	}
	mac := hmac.New(sha256.New, v.secrets[0])
	mac.Write(st.msg)
	st.req.Head = setLine(st.req.Head, "Signature-Input", append([]byte("sig1="), in.raw...))
	st.req.Head = setLine(st.req.Head, "Signature", fmt.Appendf(nil, "sig1=:%s:", appendEncoded(nil, mac.Sum(nil), "base64")))
	return nil
}
