package verify

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/selector"
)

// jwtHeader are the members of a JOSE header (RFC 7515 §4) that matter.
var jwtHeader = selector.NewJSONSet("alg", "kid", "crit", "b64", "/x5c/0", "/x5c/1", "/x5c/2", "/x5c/3")

// judgeJWT judges a JWT in compact form (RFC 7519): the signature, then times, then claims.
func (v *Verifier) judgeJWT(st *state) Verdict {
	if c := v.locate(st); c != CheckNone {
		return fail(c)
	}
	token, ok := bytes.CutPrefix(st.raws[0], []byte(v.spec.Prefix))
	parts := bytes.SplitN(token, []byte{'.'}, 4) // of a body full of dots no more
	if !ok || len(parts) != 3 {
		return fail(CheckMalformed)
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], ok = decode(nil, p, "base64url"); !ok || bytes.IndexByte(p, '=') >= 0 {
			return fail(CheckMalformed)
		}
	}
	out := v.jwtSignature(st, raw[0], token[:len(parts[0])+1+len(parts[1])], raw[2])
	if !out.OK {
		return out
	}
	v.buildURL(st, 0)
	at, c := v.jwtClaims(st, raw[1])
	out.SignedAt = at
	if c != CheckNone {
		out.OK, out.Check = false, c
	}
	return out
}

func (v *Verifier) jwtSignature(st *state, head, msg, sig []byte) Verdict {
	var h [8]selector.JSONValue
	if jwtHeader.Extract(head, h[:]) != nil || h[0].Kind != selector.String || h[1].Kind == selector.Ambiguous {
		return fail(CheckMalformed)
	}
	alg := h[0].Text()
	if !slices.Contains(v.spec.Algorithms, alg) || h[2].Kind != selector.Absent || h[3].Kind != selector.Absent {
		return fail(CheckRequired)
	}
	out := Verdict{Check: CheckMismatch, SecretIndex: -1}
	if !isAsymmetric(alg) {
		for i, secret := range v.secrets {
			mac := hmac.New(hashOf("sha"+alg[2:]), secret)
			mac.Write(msg)
			if subtle.ConstantTimeCompare(mac.Sum(nil), sig) == 1 && !out.OK {
				out = Verdict{OK: true, SecretIndex: i, MAC: sig}
			}
		}
		return out
	}
	keys, c := v.jwtKeys(st, h[1].Text(), h[4:])
	if c != CheckNone {
		return fail(c)
	}
	for i, key := range keys {
		if fits(alg, key, msg, sig) && !out.OK {
			out = Verdict{OK: true, SecretIndex: i, MAC: signedKey(msg)}
		}
	}
	return out
}

// jwtKeys gives the keys that may have signed: the one that the token names, or that its chain of certificates ends in.
func (v *Verifier) jwtKeys(st *state, kid string, chain []selector.JSONValue) ([]crypto.PublicKey, Check) {
	if v.spec.Key == "x5c" {
		return v.chained(chain, st.now)
	}
	return v.fetch(kid, st.now)
}

// maxChainKey bounds the RSA keys of a chain, in bits, as crypto/tls does: each is used before it is known where the chain ends, for a time that grows
// with its square.
const maxChainKey = 8192

// chained verifies the chain of a token (RFC 7515 §4.1.6), the signer's certificate first: at most three, which end below or in a certificate
// that is trusted, are valid now, and carry the extensions that they must.
func (v *Verifier) chained(chain []selector.JSONValue, now time.Time) ([]crypto.PublicKey, Check) {
	var certs []*x509.Certificate
	for i, text := range chain {
		if text.Kind == selector.Absent {
			break
		}
		der, ok := decode(nil, text.Bytes(), "base64")
		if len(der) > MaxHeader {
			return nil, CheckTooLarge
		}
		cert, err := x509.ParseCertificate(der)
		if i == len(chain)-1 || text.Kind != selector.String || !ok || err != nil {
			return nil, CheckMalformed
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxChainKey {
			return nil, CheckTooLarge
		}
		certs = append(certs, cert)
	}
	if len(certs) < 2 {
		return nil, CheckMissing
	}
	roots, between := v.roots, x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if last := certs[len(certs)-1]; slices.Contains(v.spec.KeyRoots, hexSum(last.Raw)) && len(v.pinned) == 0 {
		roots = x509.NewCertPool()
		roots.AddCert(last)
	}
	for i, oid := range v.spec.KeyOIDs {
		if i >= len(certs) || !slices.ContainsFunc(certs[i].Extensions, func(e pkix.Extension) bool { return e.Id.String() == oid }) {
			return nil, CheckSender
		}
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, CheckSender
	}
	key, err := checkKey(certs[0].PublicKey)
	if err != nil {
		return nil, CheckSender
	}
	return []crypto.PublicKey{key}, CheckNone
}

// jwtClaims judges the payload. at is iat, or else nbf, or now where only exp is there; zero for a token without times.
func (v *Verifier) jwtClaims(st *state, payload []byte) (at time.Time, c Check) {
	names := []string{"/exp", "/nbf", "/iat", "/iss", "/aud", pointer(v.spec.BodyClaim), pointer(v.spec.URLClaim), pointer(v.spec.RequestClaim)}
	claims := v.claims
	for _, c := range claims {
		names = append(names, c.paths...)
	}
	got := make([]selector.JSONValue, len(names))
	if selector.NewJSONSet(names...).Extract(payload, got) != nil {
		return at, CheckMalformed
	}
	for _, g := range got {
		if g.Kind == selector.Ambiguous {
			return at, CheckDuplicate
		}
	}
	if at, c = v.jwtTimes(st.now, got); c != CheckNone {
		return at, c
	}
	if v.spec.Issuer != "" && !isString(got[3], v.spec.Issuer) {
		return at, CheckClaim
	}
	if v.spec.Audience != "" && !hasAudience(got[4], strings.ReplaceAll(v.spec.Audience, "{url}", string(st.url))) {
		return at, CheckClaim
	}
	rest := got[8:]
	for _, c := range claims {
		if !c.holds(rest[:len(c.paths)]) {
			return at, CheckClaim
		}
		rest = rest[len(c.paths):]
	}
	if v.spec.URLClaim != "" && !isString(got[6], hexSum(st.url)) {
		return at, CheckClaim
	}
	if v.spec.RequestClaim != "" && !isString(got[7], hexSum(canonicalRequest(st.req.Method, st.req.Path(), st.req.Query()))) {
		return at, CheckClaim
	}
	return at, v.jwtBody(st.req.Body, got[5])
}

// claim is a claim that a token must have: the one of these places that is there has this value, and one is.
type claim struct {
	paths []string
	value string
}

// compileClaims reads the names of claims: a member of the payload, or places in it (JSON Pointers) with | between.
func (v *Verifier) compileClaims() {
	for _, k := range sortedKeys(v.spec.Claims) {
		c := claim{[]string{pointer(k)}, v.spec.Claims[k]}
		if strings.HasPrefix(k, "/") {
			c.paths = strings.Split(strings.ReplaceAll(k, " ", ""), "|")
		}
		if c.value != "" { // {config:name?} that is not set
			v.claims = append(v.claims, c)
		}
	}
}

func (c *claim) holds(got []selector.JSONValue) bool {
	found := false
	for _, g := range got {
		switch {
		case g.Kind == selector.Absent:
		case g.Kind != selector.String && g.Kind != selector.Bool && g.Kind != selector.Number || g.Text() != c.value:
			return false
		default:
			found = true
		}
	}
	return found
}

func pointer(claim string) string {
	return "/" + strings.ReplaceAll(strings.ReplaceAll(claim, "~", "~0"), "/", "~1")
}

func isString(v selector.JSONValue, want string) bool {
	return v.Kind == selector.String && v.Text() == want
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func hasAudience(v selector.JSONValue, want string) bool {
	if v.Kind != selector.Composite {
		return isString(v, want)
	}
	found, whole := false, selector.NewJSONSet("/0")
	selector.EachElement(v.Raw(), func(elem []byte) bool {
		var one [1]selector.JSONValue
		list := slices.Concat([]byte{'['}, elem, []byte{']'})
		found = found || whole.Extract(list, one[:]) == nil && isString(one[0], want)
		return true
	})
	return found
}

// jwtTimes judges exp, nbf and iat (RFC 7519 §4.1.4 to §4.1.6).
func (v *Verifier) jwtTimes(now time.Time, got []selector.JSONValue) (made time.Time, c Check) {
	var at [3]time.Time
	for i := range at {
		switch got[i].Kind {
		case selector.Absent:
		case selector.Number:
			sec, err := strconv.ParseFloat(string(got[i].Raw()), 64)
			if err != nil || sec < 0 || sec > 1e11 {
				return made, CheckMalformed
			}
			at[i] = time.UnixMilli(int64(sec * 1000))
		default:
			return made, CheckMalformed
		}
	}
	exp, nbf, iat := at[0], at[1], at[2]
	switch made = iat; {
	case made.IsZero() && !nbf.IsZero():
		made = nbf
	case made.IsZero() && !exp.IsZero():
		made = now
	}
	switch {
	case !exp.IsZero() && !now.Before(exp.Add(v.spec.Leeway)):
		return made, CheckStale
	case !nbf.IsZero() && now.Before(nbf.Add(-v.spec.Leeway)):
		return made, CheckFuture
	case v.spec.MaxAge == 0:
		return made, CheckNone
	case iat.IsZero():
		return made, CheckClaim
	case now.Sub(iat) > v.spec.MaxAge:
		return made, CheckStale
	case iat.Sub(now) > v.spec.Leeway:
		return made, CheckFuture
	}
	return made, CheckNone
}

func (v *Verifier) jwtBody(body []byte, claim selector.JSONValue) Check {
	if v.spec.BodyClaim == "" {
		return CheckNone
	}
	if v.spec.BodyClaimOptional && len(body) == 0 && claim.Kind == selector.Absent {
		return CheckNone
	}
	if claim.Kind != selector.String || v.spec.BodyClaimOptional && len(body) == 0 {
		return CheckBody
	}
	want, ok := decode(nil, claim.Bytes(), orElse(v.spec.BodyClaimEncoding, "hex"))
	sum := sha256.Sum256(body)
	if !ok || subtle.ConstantTimeCompare(sum[:], want) != 1 {
		return CheckBody
	}
	return CheckNone
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// canonicalRequest is METHOD&path&query with the query sorted, encoded and without a parameter called jwt: what a
// query string hash (claim qsh) is the SHA-256 of.
func canonicalRequest(method string, path, query []byte) []byte {
	type param struct{ name, value string }
	var params []param
	for k, val := range selector.Pairs(query) {
		name, ok := selector.Unescape(k)
		if !ok {
			name = k
		}
		value, ok := selector.Unescape(val)
		if !ok {
			value = val
		}
		if string(name) != "jwt" {
			params = append(params, param{percent(name), percent(value)})
		}
	}
	sort.Slice(params, func(i, j int) bool {
		a, b := &params[i], &params[j]
		return a.name < b.name || a.name == b.name && a.value < b.value
	})
	p := strings.TrimSuffix(strings.ReplaceAll(string(path), "&", "%26"), "/")
	out := []byte(strings.ToUpper(method) + "&" + orElse(p, "/") + "&")
	for i, x := range params {
		switch {
		case i > 0 && params[i-1].name == x.name:
			out = append(out, ',')
		case i > 0:
			out = append(out, '&')
			fallthrough
		default:
			out = append(out, x.name+"="...)
		}
		out = append(out, x.value...)
	}
	return out
}

func percent(b []byte) string {
	return strings.NewReplacer("+", "%20", "%7E", "~").Replace(url.QueryEscape(string(b)))
}

// makeJWT writes a token for st.req with the first secret.
func (v *Verifier) makeJWT(st *state) ([]byte, error) {
	claims := map[string]any{"iat": st.now.Unix(), "exp": st.now.Add(5 * time.Minute).Unix()}
	for k, val := range v.spec.Claims {
		claims[k] = val
		if val == "true" || val == "false" {
			claims[k] = val == "true"
		}
	}
	if v.spec.Issuer != "" {
		claims["iss"] = v.spec.Issuer
	}
	if v.spec.Audience != "" {
		claims["aud"] = strings.ReplaceAll(v.spec.Audience, "{url}", string(st.url))
	}
	if v.spec.URLClaim != "" {
		claims[v.spec.URLClaim] = hexSum(st.url)
	}
	if v.spec.RequestClaim != "" {
		claims[v.spec.RequestClaim] = hexSum(canonicalRequest(st.req.Method, st.req.Path(), st.req.Query()))
	}
	if v.spec.BodyClaim != "" && !(v.spec.BodyClaimOptional && len(st.req.Body) == 0) {
		sum := sha256.Sum256(st.req.Body)
		claims[v.spec.BodyClaim] = string(appendEncoded(nil, sum[:], orElse(v.spec.BodyClaimEncoding, "hex")))
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	alg := v.spec.Algorithms[0]
	b64 := base64.RawURLEncoding
	msg := b64.EncodeToString([]byte(`{"alg":"`+alg+`","typ":"JWT"}`)) + "." + b64.EncodeToString(payload)
	mac := hmac.New(hashOf("sha"+alg[2:]), v.secrets[0])
	mac.Write([]byte(msg))
	return []byte(v.spec.Prefix + msg + "." + b64.EncodeToString(mac.Sum(nil))), nil
}
