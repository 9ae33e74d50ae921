package verify

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/selector"
)

// keyWait bounds how long a verification waits for a KeySource.
const keyWait = 3 * time.Second

// keyring is where a scheme's public keys come from.
type keyring struct {
	static   []crypto.PublicKey
	source   KeySource
	hosts    []string
	hostRule *regexp.Regexp
	pathRule *regexp.Regexp
}

func (v *Verifier) compileKeys(opts Options, f *faults) {
	s := &v.spec
	v.keys.hosts, v.keys.hostRule, v.keys.pathRule = s.KeyHosts, whole(s.KeyHostPattern), whole(s.KeyPathPattern)
	if opts.Keys != nil {
		v.keys.source = opts.Keys(s)
	}
	for i, text := range opts.PublicKeys {
		key, err := ParsePublicKey(text, s.Key)
		if err != nil {
			f.add("public_keys", "number %d %v", i+1, err)
			continue
		}
		v.keys.static = append(v.keys.static, key)
	}
	remote := s.Key == "certificate_url" || s.Key == "key_id"
	asymmetric := s.Scheme == "public_key" || s.Scheme == "http_signature" && !strings.HasPrefix(s.Algorithm, "hmac")
	jwt := s.Scheme == "jwt" && len(v.secrets) == 0
	switch {
	case s.Scheme == "jwt" && len(opts.PublicKeys) > 0 && len(v.secrets) == 0 && !slices.ContainsFunc(s.Algorithms, isAsymmetric):
		f.add("secrets", "the scheme needs a secret")
	case remote && v.keys.source == nil && len(opts.PublicKeys) == 0:
		f.add("public_keys", "the sender's keys come from elsewhere: no source of keys, and none pinned")
	case !remote && asymmetric && len(opts.PublicKeys) == 0 && (s.JWKS == "" || v.keys.source == nil):
		f.add("public_keys", "the scheme needs at least one")
	case !remote && jwt && len(opts.PublicKeys) == 0 && v.keys.source == nil:
		f.add("secrets", "the scheme needs a secret or a public key")
	case len(v.keys.static) > 0 && (asymmetric || jwt || remote):
		v.checkKinds(f)
	}
}

// checkKinds refuses public keys of which none is of a kind that the algorithms take: no signature would ever fit.
func (v *Verifier) checkKinds(f *faults) {
	s := &v.spec
	algorithms := slices.Concat([]string{s.Algorithm}, s.Algorithms, slices.Sorted(maps.Values(s.AlgorithmChoices)))
	algorithms = slices.DeleteFunc(algorithms, func(a string) bool { return a == "" || !isAsymmetric(a) })
	for _, key := range v.keys.static {
		if slices.ContainsFunc(algorithms, func(a string) bool { return takes(a, key) }) {
			return
		}
	}
	f.add("public_keys", "number 1 is %s, not one for %s", kindOf(v.keys.static[0]), strings.Join(algorithms, ", "))
}

// takes says whether signatures by that algorithm may fit the key: whether it is of the algorithm's kind.
func takes(algorithm string, key crypto.PublicKey) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return algorithm == "ed25519" || algorithm == "EdDSA"
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "rsa-") || strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		switch algorithm {
		case "ecdsa-sha1", "ecdsa-sha256":
			return true
		case "ecdsa-p256-sha256", "ES256":
			return k.Curve == elliptic.P256()
		case "ecdsa-p384-sha384", "ES384":
			return k.Curve == elliptic.P384()
		}
	}
	return false
}

func kindOf(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return "an RSA key"
	case *ecdsa.PublicKey:
		return "a key on " + k.Params().Name
	}
	return "an Ed25519 key"
}

// whole compiles a pattern that has to fit all of a text; nil if there is none.
func whole(pattern string) *regexp.Regexp {
	if pattern == "" {
		return nil
	}
	return regexp.MustCompile("^(?:" + pattern + ")$")
}

func isAsymmetric(alg string) bool { return !strings.HasPrefix(alg, "HS") }

// ParsePublicKey reads a public key: a PEM block (PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE), a JWK, whpk_ and base64, or
// what form says: hex (raw Ed25519), else
// base64 of a SubjectPublicKeyInfo or of a raw Ed25519 key (32 bytes). Private keys, RSA keys under 2048 bits and
// Ed25519 keys of small order are refused; errors do not repeat the text.
func ParsePublicKey(text, form string) (crypto.PublicKey, error) {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return nil, errors.New("is empty")
	case strings.HasPrefix(trimmed, "-----BEGIN"):
		return parsePEM([]byte(trimmed), time.Time{})
	case strings.HasPrefix(trimmed, "{"):
		return parseJWK([]byte(trimmed), time.Time{})
	case trimmed != text:
		return nil, errors.New("has white space around it")
	case strings.HasPrefix(text, "whsk_") || strings.HasPrefix(text, "whsec_"):
		return nil, errors.New("is a secret, not a public key")
	case strings.HasPrefix(text, "whpk_"):
		return rawEd25519(text[len("whpk_"):], "base64")
	}
	switch form {
	case "hex":
		return rawEd25519(text, form)
	case "whpk":
		return rawEd25519(text, "base64")
	}
	der, ok := decode(nil, []byte(text), "base64")
	if !ok {
		return nil, errors.New("is neither PEM nor base64")
	}
	if len(der) == ed25519.PublicKeySize {
		return rawEd25519(text, "base64")
	}
	return parseSPKI(der)
}

func rawEd25519(text, encoding string) (crypto.PublicKey, error) {
	raw, ok := decode(nil, []byte(text), encoding)
	if !ok || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("is not %s of %d bytes", encoding, ed25519.PublicKeySize)
	}
	return checkKey(ed25519.PublicKey(raw))
}

func parseSPKI(der []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("is not a public key (SubjectPublicKeyInfo)")
	}
	return checkKey(key)
}

// certificateBlock gives the DER of the first block, which must be a certificate.
func certificateBlock(b []byte) ([]byte, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("is not a certificate")
	}
	return block.Bytes, nil
}

// parsePEM reads the first block. A certificate must be valid at the time now, unless now is zero.
func parsePEM(b []byte, now time.Time) (crypto.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return parseSPKI(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("is not an RSA public key")
		}
		return checkKey(key)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("is not a certificate")
		}
		if !now.IsZero() && (now.Before(cert.NotBefore) || now.After(cert.NotAfter)) {
			return nil, errors.New("is a certificate that is not valid now")
		}
		return checkKey(cert.PublicKey)
	}
	return nil, fmt.Errorf("is PEM of type %q, not a public key", block.Type)
}

// smallOrder are the y-coordinates of Ed25519 points of small order, canonical or not, without the sign bit (the list
// of libsodium, ed25519_ref10.c). Under such a key, signatures can be made that fit any message.
var smallOrder = [...]string{
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
	"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
	"\xed\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
	"\xee\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
}

// checkKey refuses keys that prove nothing.
func checkKey(key crypto.PublicKey) (crypto.PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		y := [ed25519.PublicKeySize]byte(k)
		y[31] &= 0x7f
		if slices.Contains(smallOrder[:], string(y[:])) {
			return nil, errors.New("is an Ed25519 key of small order: it would accept forged signatures")
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, errors.New("is an RSA key under 2048 bits")
		}
	case *ecdsa.PublicKey:
	default:
		return nil, errors.New("is of a kind that is not used for signatures here")
	}
	return key, nil
}

var jwkMembers = selector.NewJSONSet("kty", "crv", "x", "y", "n", "e", "expired_at", "d", "use")

// parseJWK reads a JSON Web Key (RFC 7517, RFC 7518 §6): EC on P-256 or P-384, RSA, OKP with Ed25519. A key whose member
// expired_at (Unix seconds) is not after now is refused, unless now is zero.
func parseJWK(b []byte, now time.Time) (crypto.PublicKey, error) {
	var m [9]selector.JSONValue
	if err := jwkMembers.Extract(b, m[:]); err != nil {
		return nil, errors.New("is not a JWK")
	}
	for _, v := range m {
		if v.Kind == selector.Ambiguous {
			return nil, errors.New("is a JWK with a duplicate member")
		}
	}
	if m[7].Kind != selector.Absent || m[8].Kind == selector.String && m[8].Text() != "sig" {
		return nil, errors.New("is a JWK that is not a public signature key")
	}
	if m[6].Kind == selector.Number && !now.IsZero() {
		at, err := strconv.ParseInt(m[6].Text(), 10, 64)
		if err != nil || !time.Unix(at, 0).After(now) {
			return nil, errors.New("is a key that has expired")
		}
	}
	bytesOf := func(i int) []byte {
		raw, ok := decode(nil, m[i].Bytes(), "base64url")
		if !ok || m[i].Kind != selector.String {
			return nil
		}
		return raw
	}
	switch kty := m[0].Text(); {
	case kty == "RSA":
		n, e := new(big.Int).SetBytes(bytesOf(4)), new(big.Int).SetBytes(bytesOf(5))
		if n.Sign() == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return nil, errors.New("is not an RSA key")
		}
		return checkKey(&rsa.PublicKey{N: n, E: int(e.Int64())})
	case kty == "EC" && (m[1].Text() == "P-256" || m[1].Text() == "P-384"):
		curve := elliptic.P256()
		if m[1].Text() == "P-384" {
			curve = elliptic.P384()
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, bytesOf(2), bytesOf(3)))
		if err != nil {
			return nil, fmt.Errorf("is not a point on %s", m[1].Text())
		}
		return checkKey(key)
	case kty == "OKP" && m[1].Text() == "Ed25519":
		if x := bytesOf(2); len(x) == ed25519.PublicKeySize {
			return checkKey(ed25519.PublicKey(x))
		}
	}
	return nil, errors.New("is a JWK of a kind that is not used here")
}

// find gives the keys that may have signed: the configured ones, or the one that the request names.
func (v *Verifier) find(st *state) ([]crypto.PublicKey, Check) {
	switch v.spec.Key {
	case "certificate_url":
		name, present, c := st.at(v.places["key_from"])
		if c != CheckNone {
			return nil, c
		}
		if !present || !v.trusted(string(name)) {
			return nil, CheckSender
		}
		return v.fetch(string(name), st.now)
	case "key_id":
		name := st.kid
		if p, ok := v.places["key_from"]; ok && p.kind != "wrapped" {
			var c Check
			if name, _, c = st.at(p); c != CheckNone {
				return nil, c
			}
		}
		return v.fetch(string(name), st.now)
	}
	return v.keys.static, CheckNone
}

// trusted says whether a certificate may be fetched from there. No fetch happens otherwise.
func (v *Verifier) trusted(name string) bool {
	u, err := url.Parse(name)
	if err != nil || len(name) > 1024 || u.Scheme != "https" || u.User != nil || u.Port() != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.RawPath != "" {
		return false
	}
	host := slices.Contains(v.keys.hosts, u.Host) || v.keys.hostRule != nil && v.keys.hostRule.MatchString(u.Host)
	return host && v.keys.pathRule != nil && v.keys.pathRule.MatchString(u.Path)
}

func (v *Verifier) fetch(name string, now time.Time) ([]crypto.PublicKey, Check) {
	if len(v.keys.static) > 0 { // pinned: the name does not choose
		return v.keys.static, CheckNone
	}
	if v.keys.source == nil || name == "" || len(name) > 1024 {
		return nil, CheckSender
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyWait)
	defer cancel()
	b, err := v.keys.source.Key(ctx, name)
	if errors.Is(err, ErrKeyLater) {
		return nil, CheckKeys
	}
	if err != nil {
		return nil, CheckSender
	}
	var key crypto.PublicKey
	if len(b) > 0 && b[0] == '{' {
		key, err = parseJWK(b, now)
	} else {
		key, err = parsePEM(b, now)
	}
	if err != nil {
		return nil, CheckSender
	}
	return []crypto.PublicKey{key}, CheckNone
}

// fits checks one signature. The key's kind must be the algorithm's.
func fits(algorithm string, key crypto.PublicKey, msg, sig []byte) bool {
	if !takes(algorithm, key) {
		return false
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		sum := digest(algorithm, msg)
		if algorithm == "ecdsa-sha1" || algorithm == "ecdsa-sha256" {
			return ecdsa.VerifyASN1(k, sum, sig)
		}
		return fitsRaw(k, sum, sig)
	case *rsa.PublicKey:
		return fitsRSA(algorithm, k, msg, sig)
	}
	return false
}

func fitsRSA(algorithm string, k *rsa.PublicKey, msg, sig []byte) bool {
	switch algorithm {
	case "rsa-sha1":
		return rsa.VerifyPKCS1v15(k, crypto.SHA1, digest(algorithm, msg), sig) == nil
	case "rsa-sha256", "rsa-v1_5-sha256", "RS256":
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest(algorithm, msg), sig) == nil
	case "RS384":
		return rsa.VerifyPKCS1v15(k, crypto.SHA384, digest(algorithm, msg), sig) == nil
	case "RS512":
		return rsa.VerifyPKCS1v15(k, crypto.SHA512, digest(algorithm, msg), sig) == nil
	case "PS256": // salt as long as the hash (RFC 7518 §3.5)
		return rsa.VerifyPSS(k, crypto.SHA256, digest(algorithm, msg), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case "rsa-pss-sha512": // RFC 9421 §3.3.1: salt of 64 bytes
		sum := sha512.Sum512(msg)
		return rsa.VerifyPSS(k, crypto.SHA512, sum[:], sig, &rsa.PSSOptions{SaltLength: 64}) == nil
	}
	return false
}

// fitsRaw checks an ECDSA signature that is r and s, each as long as the curve's order (RFC 7518 §3.4, RFC 9421 §3.3.4).
func fitsRaw(k *ecdsa.PublicKey, sum, sig []byte) bool {
	half := (k.Params().BitSize + 7) / 8
	if len(sig) != 2*half {
		return false
	}
	return ecdsa.Verify(k, sum, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
}

func digest(algorithm string, msg []byte) []byte {
	switch algorithm[max(0, len(algorithm)-3):] {
	case "ha1":
		sum := sha1.Sum(msg)
		return sum[:]
	case "384":
		sum := sha512.Sum384(msg)
		return sum[:]
	case "512":
		sum := sha512.Sum512(msg)
		return sum[:]
	}
	sum := sha256.Sum256(msg)
	return sum[:]
}

// judgeSignature judges a public-key signature. Every key is tried on every candidate.
func (v *Verifier) judgeSignature(st *state) Verdict {
	if c := v.prepare(st); c != CheckNone {
		return fail(c)
	}
	if c := v.collect(st); c != CheckNone {
		return fail(c)
	}
	algorithm, c := v.algorithm(st)
	if c != CheckNone {
		return fail(c)
	}
	keys, c := v.find(st)
	if c != CheckNone {
		return fail(c)
	}
	v.buildURL(st, 0)
	out := Verdict{Check: CheckMismatch, SecretIndex: -1}
	rounds := 1
	if v.tmpl != nil && v.tmpl.uses("secret", "") {
		rounds = len(v.tokens)
	}
	for round := range rounds {
		if rounds > 1 || len(v.tokens) > 0 {
			st.secret = v.tokens[round]
		}
		if c := v.message(st); c != CheckNone {
			return fail(c)
		}
		for i, key := range keys {
			for _, cand := range st.cands {
				if fits(algorithm, key, st.msg, cand.sig) && !out.OK {
					out = Verdict{OK: true, SecretIndex: i, MAC: signedKey(st.msg)}
				}
			}
		}
	}
	if !out.OK {
		return out
	}
	return v.judgeAge(st, out, st.stamp)
}

// signedKey is the replay key of what was signed with a private key. The signature is none: of one by ECDSA whoever sees it can make another.
func signedKey(msg []byte) []byte {
	sum := sha256.Sum256(msg)
	return sum[:]
}

func (v *Verifier) algorithm(st *state) (string, Check) {
	p, ok := v.places["algorithm_from"]
	if !ok {
		return v.spec.Algorithm, CheckNone
	}
	name, _, c := st.at(p)
	if c != CheckNone {
		return "", c
	}
	algorithm, known := v.spec.AlgorithmChoices[string(name)]
	if !known {
		return "", CheckRequired
	}
	return algorithm, CheckNone
}

// message writes what is signed into st.msg: the template, or the canonical lines.
func (v *Verifier) message(st *state) Check {
	st.msg = st.msg[:0]
	if len(v.lines) == 0 {
		return v.tmpl.write(st, st)
	}
	kind, _, c := st.at(v.places["lines_by"])
	if c != CheckNone {
		return c
	}
	items, known := v.lines[string(kind)]
	if !known {
		return CheckRequired
	}
	for _, it := range items {
		text, present, c := jsonBytes(st.json[it.json])
		switch {
		case c != CheckNone:
			return c
		case !present && !it.optional:
			return CheckMissing
		case present:
			st.msg = append(append(st.msg, it.name...), '\n')
			st.msg = append(append(st.msg, text...), '\n')
		}
	}
	return CheckNone
}
