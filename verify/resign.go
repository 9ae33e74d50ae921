package verify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// inHead are the kinds of places that a new signature can be put into without touching the body or the target.
var inHead = []string{"header", "numbered", "authorization"}

// ResignAfter is the age of a signature from which on Resign may have something to do; 0 = it never has. A token that says itself how long it is good
// has it from the beginning: Resign looks.
func (v *Verifier) ResignAfter() time.Duration {
	switch {
	case len(v.parts) > 0: // the first of them that is too old
		first := time.Duration(0)
		for _, p := range v.parts {
			if after := p.ResignAfter(); after > 0 && (first == 0 || after < first) {
				first = after
			}
		}
		return first
	case v.spec.Scheme != "jwt" || v.spec.MaxAge > 0:
		return v.Tolerance()
	case v.Symmetric():
		return time.Second
	}
	return 0
}

// Resign gives req's header block signed again at the time now with the first secret, so that a receiver who checks the
// signature's age accepts an old request. It does so for symmetric schemes whose signature and signed timestamp are in
// headers; the lines are replaced in place, one line each, everything else stays as it is. ok is false otherwise. The
// body is not touched.
func (v *Verifier) Resign(req *event.Request, now time.Time) (head event.Head, ok bool) {
	if len(v.parts) > 0 {
		return v.resignParts(req, now)
	}
	if !v.Symmetric() || len(v.secrets) == 0 {
		return nil, false
	}
	out := *req
	out.Head = bytes.Clone(req.Head)
	st := v.pool.Get().(*state)
	defer func() { st.reset(); v.pool.Put(st) }()
	st.req, st.now = &out, now
	switch v.spec.Scheme {
	case "hmac", "digest":
		ok = v.resignMAC(st)
	case "jwt":
		ok = v.resignJWT(st)
	case "http_signature":
		ok = v.resignHTTP(st)
	}
	return out.Head, ok
}

func (v *Verifier) resignMAC(st *state) bool {
	if !v.HasTimestamp() || !slices.Contains(inHead, v.loc.kind) || v.stamp.kind == "json" || v.items != nil {
		return false
	}
	if v.loc.kind == "header" && len(v.spec.Also) == 0 {
		if _, n := st.req.Head.Get(v.loc.name); n == 0 {
			return false
		}
	}
	return v.signMAC(st, st.req) == nil
}

// resignJWT moves the times of a token (RFC 7519 §4.1.4 to §4.1.6) by its age and signs it anew by the algorithm that it names; all else that it says stays as
// it is. A token that is still good by its own word, where the scheme sets no age, is left alone.
func (v *Verifier) resignJWT(st *state) bool {
	if !slices.Contains(inHead, v.loc.kind) || v.locate(st) != CheckNone {
		return false
	}
	token, ok := bytes.CutPrefix(st.raws[0], []byte(v.spec.Prefix))
	parts := bytes.Split(token, []byte{'.'})
	if !ok || len(parts) != 3 {
		return false
	}
	head, okHead := decode(nil, parts[0], "base64url")
	payload, okPayload := decode(nil, parts[1], "base64url")
	var h [8]selector.JSONValue
	if !okHead || !okPayload || jwtHeader.Extract(head, h[:]) != nil {
		return false
	}
	alg := h[0].Text()
	if isAsymmetric(alg) || !slices.Contains(v.spec.Algorithms, alg) {
		return false
	}
	if payload, ok = v.later(payload, st.now); !ok {
		return false
	}
	b64 := base64.RawURLEncoding
	msg := append(append(bytes.Clone(parts[0]), '.'), b64.EncodeToString(payload)...)
	mac := hmac.New(hashOf("sha"+alg[2:]), v.secrets[0])
	mac.Write(msg)
	msg = append(append(msg, '.'), b64.EncodeToString(mac.Sum(nil))...)
	return v.place(st.req, append([]byte(v.spec.Prefix), msg...)) == nil
}

// later gives the claims as if the token had been made now: iat is now, and nbf and exp are as far from it as they were. Without iat, nbf is now, and
// without both exp is five minutes ahead. False: there is nothing to do, or no time in it.
func (v *Verifier) later(payload []byte, now time.Time) ([]byte, bool) {
	var got [3]selector.JSONValue
	if selector.NewJSONSet("/iat", "/nbf", "/exp").Extract(payload, got[:]) != nil {
		return nil, false
	}
	var at [3]int64
	made := int64(-1)
	for i, g := range got {
		if g.Kind == selector.Absent {
			continue
		}
		sec, err := strconv.ParseFloat(string(g.Raw()), 64)
		if g.Kind != selector.Number || err != nil || sec < 0 || sec > 1e11 {
			return nil, false
		}
		if at[i] = int64(sec); i < 2 && made < 0 {
			made = at[i]
		}
	}
	expires := got[2].Kind != selector.Absent
	if v.spec.MaxAge == 0 && (!expires || at[2] > now.Unix()) {
		return nil, false
	}
	if made < 0 {
		made = at[2] - 300
	}
	var edits []edit
	for i, g := range got {
		if g.Kind == selector.Absent {
			continue
		}
		from := within(payload, g.Raw())
		edits = append(edits, edit{from, from + len(g.Raw()), now.Unix() + at[i] - made})
	}
	return apply(payload, edits), len(edits) > 0
}

// resignHTTP gives the signature (RFC 9421) that is ours a new time: created is now, expires as far from it as it was. Covered components and the other
// parameters stay, and so do other signatures.
func (v *Verifier) resignHTTP(st *state) bool {
	head := st.req.Head
	input, n := head.Get("Signature-Input")
	sigs, m := head.Get("Signature")
	if n != 1 || m != 1 {
		return false
	}
	inputs, err := parseSignatureInput(input)
	values, bad := parseByteDictionary(sigs)
	if err != nil || bad != nil {
		return false
	}
	v.buildURL(st, 0)
	for _, in := range inputs {
		then := *st
		then.now = time.Unix(in.created, 0)
		if in.created < 0 || !v.judgeInput(&then, &in, values).OK {
			continue
		}
		fresh := in
		fresh.raw = retimed(in, st.now)
		st.msg = st.msg[:0]
		if v.signatureBase(st, &fresh) != CheckNone {
			return false
		}
		mac := hmac.New(sha256.New, v.secrets[0])
		mac.Write(st.msg)
		from := within(input, in.raw)
		input = slices.Concat(input[:from], fresh.raw, input[from+len(in.raw):])
		was, found := member(sigs, in.label)
		if !found {
			return false
		}
		sigs = bytes.Replace(sigs, was, []byte(in.label+"=:"+base64.StdEncoding.EncodeToString(mac.Sum(nil))+":"), 1)
		st.req.Head = setLine(setLine(head, "Signature-Input", input), "Signature", sigs)
		return true
	}
	return false
}

// retimed is a signature's input with its times moved to now.
func retimed(in signatureInput, now time.Time) []byte {
	edits := []edit{{in.createdAt[0], in.createdAt[1], now.Unix()}}
	if in.expires >= 0 {
		edits = append(edits, edit{in.expiresAt[0], in.expiresAt[1], now.Unix() + in.expires - in.created})
	}
	return apply(in.raw, edits)
}

// edit puts a number in place of the bytes from from up to to.
type edit struct {
	from, to int
	value    int64
}

func apply(b []byte, edits []edit) []byte {
	sort.Slice(edits, func(i, j int) bool { return edits[i].from > edits[j].from }) // a generic sort weighs more
	for _, e := range edits {                                                       // the last first, so that the others stay where they are
		b = slices.Concat(b[:e.from], strconv.AppendInt(nil, e.value, 10), b[e.to:])
	}
	return b
}

// within says where part, which aliases doc and is not empty, begins in it.
func within(doc, part []byte) int {
	i := 0
	for &doc[i] != &part[0] {
		i++
	}
	return i
}

// member finds label=:value: in a dictionary of byte sequences that has been read before.
func member(b []byte, label string) ([]byte, bool) {
	for rest := b; ; {
		i := bytes.Index(rest, []byte(label+"=:"))
		if i < 0 {
			return nil, false
		}
		end := bytes.IndexByte(rest[i+len(label)+2:], ':')
		if end < 0 {
			return nil, false
		}
		if at := len(b) - len(rest) + i; at == 0 || b[at-1] == ',' || b[at-1] == ' ' || b[at-1] == '\t' {
			return rest[i : i+len(label)+2+end+1], true
		}
		rest = rest[i+1:]
	}
}
