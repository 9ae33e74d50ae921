package verify

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
)

// secretKey makes key material of a secret as configured. Errors say nothing of the secret.
func secretKey(s *Spec, b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, errors.New("is empty")
	case len(bytes.TrimSpace(b)) != len(b):
		return nil, errors.New("has white space around it")
	}
	var key []byte
	ok := true
	switch s.Key {
	case "base64":
		key, ok = decode(nil, b, "base64")
	case "hex":
		key, ok = decode(nil, b, "hex")
	case "whsec":
		text := strings.TrimPrefix(string(b), "whsec_")
		if strings.HasPrefix(text, "whpk_") || strings.HasPrefix(text, "whsk_") {
			return nil, errors.New("is a key of the asymmetric scheme")
		}
		key, ok = decode(nil, []byte(text), "base64")
	case "sha1":
		sum := sha1.Sum(b)
		key = sum[:]
	case "sha256":
		sum := sha256.Sum256(b)
		key = sum[:]
	default:
		key = b
	}
	switch {
	case !ok:
		return nil, fmt.Errorf("is not %s", map[string]string{"hex": "hex", "base64": "base64", "whsec": "whsec_ and base64"}[s.Key])
	case len(key) == 0:
		return nil, errors.New("holds no key")
	}
	return key, nil
}

// prepare reads what the message needs besides the signature.
func (v *Verifier) prepare(st *state) Check {
	if v.id != "" {
		id, n := st.req.Head.Get(v.id)
		switch {
		case n == 0 || len(id) == 0:
			return CheckMissing
		case n > 1:
			return CheckDuplicate
		case v.noDot && bytes.IndexByte(id, '.') >= 0:
			return CheckMalformed
		}
		st.id = id
	}
	if v.stamp.kind == "header" || v.stamp.kind == "json" {
		stamp, present, c := st.at(place{v.stamp.kind, v.stamp.name, v.stamp.json})
		if c != CheckNone {
			return c
		}
		if !present {
			return CheckMissing
		}
		if _, ok := parseTime(stamp, v.spec.Unit); !ok {
			return CheckMalformed
		}
		st.stamp = stamp
	}
	if v.has.allow {
		who, _, c := st.at(v.places["allow"])
		if c != CheckNone {
			return c
		}
		if fit(v.tokens, who) < 0 {
			return CheckSender
		}
	}
	return CheckNone
}

// bodyHash compares the body with the hash that the request carries, where it carries one.
func (v *Verifier) bodyHash(st *state) Check {
	if !v.has.bodyHash {
		return CheckNone
	}
	text, present, c := st.at(v.places["body_hash"])
	if c != CheckNone || !present {
		return c
	}
	st.hashed = true
	var want [sha256.Size]byte
	if len(text) != hex.EncodedLen(len(want)) {
		return CheckMalformed
	}
	if _, err := hex.Decode(want[:], text); err != nil {
		return CheckMalformed
	}
	if sum := sha256.Sum256(st.req.Body); subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
		return CheckBody
	}
	return CheckNone
}

// judgeMAC judges a keyed or plain hash. Every secret is tried on every candidate.
func (v *Verifier) judgeMAC(st *state) Verdict {
	if c := v.prepare(st); c != CheckNone {
		return fail(c)
	}
	if c := v.collect(st); c != CheckNone {
		return fail(c)
	}
	onBody := v.bodyHash(st)
	if onBody != CheckNone && onBody != CheckBody {
		return fail(onBody)
	}
	out := Verdict{Check: CheckMismatch, SecretIndex: -1}
	var stamp []byte
	for u := range max(1, len(v.bases)) {
		if v.has.url {
			v.buildURL(st, u)
		}
		for i := range st.cands {
			if !firstOfStamp(st.cands, i) {
				continue
			}
			if st.cands[i].stamp != nil {
				st.stamp = st.cands[i].stamp
			}
			for key := range v.secrets {
				sum, c := v.mac(st, key)
				if c != CheckNone {
					return fail(c)
				}
				switch hit := v.compare(st, i, sum); {
				case hit < 0:
				case out.OK:
					out.also(sum)
				default:
					out.OK, out.Check, out.SecretIndex = true, CheckNone, key
					out.MAC = append([]byte(nil), sum...)
					stamp = st.stamp
				}
			}
		}
	}
	if !out.OK {
		return out
	}
	if onBody != CheckNone {
		return fail(onBody)
	}
	return v.judgeAge(st, out, stamp)
}

// judgeAge ends a good verdict: refused patterns, then time.
func (v *Verifier) judgeAge(st *state, out Verdict, stamp []byte) Verdict {
	if v.refuse != nil {
		st.msg = st.msg[:0]
		if c := v.tmpl.write(st, st); c != CheckNone || v.refuse.Match(st.msg) {
			return fail(CheckRefused)
		}
	}
	if stamp == nil {
		return out
	}
	at, _ := parseTime(stamp, v.spec.Unit)
	out.SignedAt = at
	if c := age(at, st.now, v.spec.Tolerance); c != CheckNone {
		out.OK, out.Check = false, c
	}
	return out
}

// firstOfStamp says whether candidate i is the first with its timestamp: the MAC is computed once for all of them.
func firstOfStamp(cands []candidate, i int) bool {
	for j := range i {
		if bytes.Equal(cands[j].stamp, cands[i].stamp) {
			return false
		}
	}
	return true
}

// compare looks for sum among the candidates of one timestamp, in constant time and without an early exit.
func (v *Verifier) compare(st *state, from int, sum []byte) int {
	hit := -1
	for j := from; j < len(st.cands); j++ {
		if bytes.Equal(st.cands[j].stamp, st.cands[from].stamp) && subtle.ConstantTimeCompare(st.cands[j].sig, sum) == 1 && hit < 0 {
			hit = j
		}
	}
	return hit
}

// mac computes the hash of the message under one secret, into the state.
func (v *Verifier) mac(st *state, key int) ([]byte, Check) {
	h := st.macs[min(key, len(st.macs)-1)]
	h.Reset()
	st.secret = v.tokens[key]
	if c := v.tmpl.write(h, st); c != CheckNone {
		return nil, c
	}
	return h.Sum(st.sum[:0]), CheckNone
}

// judgeToken compares the token with every secret.
func (v *Verifier) judgeToken(st *state) Verdict {
	if c := v.locate(st); c != CheckNone {
		return fail(c)
	}
	token := st.raws[0]
	if v.loc.name == "Basic" && v.loc.kind == "authorization" {
		dec, ok := decode(st.dec[:0], token, "base64")
		if !ok {
			return fail(CheckMalformed)
		}
		st.dec, token = dec, dec
	}
	rest, ok := bytes.CutPrefix(token, []byte(v.spec.Prefix))
	if !ok || len(rest) == 0 {
		return fail(CheckMalformed)
	}
	i := fit(v.tokens, rest)
	if i < 0 {
		return fail(CheckMismatch)
	}
	return Verdict{OK: true, SecretIndex: i}
}

// fit gives the index of the secret that equals token, -1 if none; all are compared, and lengths do not show.
func fit(secrets [][]byte, token []byte) int {
	sum, hit := sha256.Sum256(token), -1
	for i, s := range secrets {
		want := sha256.Sum256(s)
		if subtle.ConstantTimeCompare(sum[:], want[:]) == 1 && hit < 0 {
			hit = i
		}
	}
	return hit
}

// ErrCannotSign says that a scheme's requests cannot be made here: it is asymmetric, or the signature's place in the
// body or URL is not there.
var ErrCannotSign = errors.New("requests of this scheme cannot be signed here")

// Symmetric says whether the secrets suffice to sign.
func (v *Verifier) Symmetric() bool {
	if len(v.parts) > 0 {
		return v.any && v.parts[0].Symmetric() || !v.any && v.every((*Verifier).Symmetric)
	}
	switch v.spec.Scheme {
	case "hmac", "digest", "token", "none":
		return true
	case "jwt":
		return len(v.secrets) > 0 && strings.HasPrefix(v.spec.Algorithms[0], "HS")
	case "http_signature":
		return strings.HasPrefix(v.spec.Algorithm, "hmac")
	}
	return false
}

// Sign gives a copy of req that Verify accepts at the time now, signed with the first secret: for tests and for senders
// of test events. Header lines of the signature and timestamp are set in place or added, query parameters and form
// fields likewise; a signature inside a JSON body is written over the string that is there. It fails with ErrCannotSign.
func (v *Verifier) Sign(req *event.Request, now time.Time) (*event.Request, error) {
	if len(v.parts) > 0 {
		return v.signParts(req, now)
	}
	out := req.Clone()
	if !v.Symmetric() {
		return nil, fmt.Errorf("%w: %s", ErrCannotSign, v.spec.Scheme)
	}
	for _, r := range v.require {
		out.Head = setLine(out.Head, r.name, []byte(r.value))
	}
	st := v.pool.Get().(*state)
	defer func() { st.reset(); v.pool.Put(st) }()
	st.req, st.now = out, now
	switch v.spec.Scheme {
	case "none":
		return out, nil
	case "token":
		return out, v.place(out, v.tokenText())
	case "jwt":
		v.buildURL(st, 0)
		token, err := v.makeJWT(st)
		if err != nil {
			return nil, err
		}
		return out, v.place(out, token)
	case "http_signature":
		return out, v.signHTTP(st)
	}
	return out, v.signMAC(st, out)
}

func (v *Verifier) tokenText() []byte {
	token := append([]byte(v.spec.Prefix), v.tokens[0]...)
	if v.loc.kind == "authorization" && v.loc.name == "Basic" {
		return []byte(base64.StdEncoding.EncodeToString(token))
	}
	return token
}
