package verify

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// Bounds on what a sender may put before the verifier.
const (
	MaxHeader     = 16 << 10 // bytes of one header or value that carries signatures
	MaxCandidates = 32       // signatures in it
	maxNumbered   = 100      // headers Prefix-1, Prefix-2 …
	maxGroups     = 8        // different timestamps in one header, each costs a MAC over the body
)

// Binding is what a good signature authenticates.
type Binding string

const (
	BindsBody   Binding = "body"   // the body, byte for byte or in all that it says
	BindsCRC32  Binding = "crc32"  // a checksum of the body, which can be forged
	BindsOrigin Binding = "origin" // only that the sender holds the secret: anybody who has seen a request can change the body
	BindsNone   Binding = "none"   // nothing: scheme none
)

// Check is what failed. The list is closed.
type Check uint8

const (
	CheckNone      Check = iota // nothing failed
	CheckMissing                // the signature, the token or a signed value is absent
	CheckDuplicate              // one of them is there twice
	CheckMalformed              // one of them cannot be read
	CheckTooLarge               // over MaxHeader or MaxCandidates
	CheckRequired               // a header that must have a certain value has another
	CheckSender                 // the sender or its key is unknown, expired or from a place that is not trusted
	CheckMismatch               // no secret or key fits
	CheckBody                   // the signature is good, but the body is not the one it speaks of
	CheckClaim                  // a claim or component of the token or signature is absent or not as configured
	CheckRefused                // what is signed is the answer to a challenge, no event
	CheckStale                  // signed too long ago
	CheckFuture                 // signed in the future
	CheckKeys                   // the sender's key cannot be had now: whether the request is genuine is not known
	checkCount
)

var checkNames = [checkCount]string{"", "missing", "duplicate", "malformed", "too_large", "required", "sender", "mismatch", "body", "claim", "refused", "stale", "future", "keys"}

// String is the check's name in logs and answers of the command line; "" if nothing failed.
func (c Check) String() string {
	if c < checkCount {
		return checkNames[c]
	}
	return "unknown"
}

// Verdict is the outcome of one verification.
type Verdict struct {
	OK          bool
	Check       Check     // what failed first; CheckNone if OK
	SignedAt    time.Time // the signature's own time; zero if it has none
	MAC         []byte    // the verified signature, decoded (under public keys the hash of what it signs); nil for tokens and where none was verified
	Others      [][]byte  // MACs of further signatures, each of which would have done alone; at most maxOthers
	SecretIndex int       // which secret or public key fitted; -1 if none
	Binds       Binding
}

// KeySource finds the keys of senders that publish them. Key returns a PEM certificate or public key, or a JWK
// (RFC 7517) for name: an https URL, or a key id. It fails if there is none, and with an error that wraps ErrKeyLater if that cannot be
// known now. It must honour ctx and be safe for concurrent use.
type KeySource interface {
	Key(ctx context.Context, name string) ([]byte, error)
}

// KeySources gives the KeySource of a Spec whose parameters are filled in; nil if its keys come from nowhere.
type KeySources func(*Spec) KeySource

// StaticKeys is a KeySource that knows its keys from the start, by name.
type StaticKeys map[string][]byte

// ErrKeyLater says that a KeySource could not ask for a key: later it may have it.
var ErrKeyLater = errors.New("the key cannot be had now")

// ErrUnknownKey says that a KeySource has no key of that name.
var ErrUnknownKey = errors.New("unknown key")

// Key gives the key called name, else ErrUnknownKey.
func (k StaticKeys) Key(_ context.Context, name string) ([]byte, error) {
	if b, ok := k[name]; ok {
		return b, nil
	}
	return nil, ErrUnknownKey
}

// Any is the KeySources that gives these keys to every Spec.
func (k StaticKeys) Any(*Spec) KeySource { return k }

// Options are what Compile needs besides a Spec and secrets.
type Options struct {
	PublicURL  string            // scheme://host[:port][/prefix], as senders know it; needed where the URL is signed
	PublicKeys []string          // keys of asymmetric schemes, in the form Spec.Key names
	Keys       KeySources        // where keys come from that are named in the request; nil = nowhere
	Params     map[string]string // values of {config:name} in the Spec
}

// Verifier judges requests of one source. It is immutable and may be used from many goroutines.
type Verifier struct {
	spec    Spec
	opts    Options
	loc     location
	tmpl    *template
	stamp   stampPlace
	id      string // header of {id}
	noDot   bool
	prefix  []byte // of a signature
	sep     []byte // between signatures or pairs
	require []requirement
	refuse  *regexp.Regexp
	binds   Binding

	secrets [][]byte // key material, in the order of configuration
	tokens  [][]byte // secrets as configured, for {secret}, tokens and allow lists
	bases   []string // public URL and its variants
	keys    keyring

	set     *selector.JSONSet // nil: no JSON is read
	paths   []string
	items   *selector.JSONSet
	places  map[string]place                              // compiled selectors by field name
	has     struct{ document, allow, bodyHash, url bool } // what of it every request has to ask for
	lines   map[string][]lineItem
	claims  []claim
	parts   []*Verifier // of all and any
	any     bool
	roots   *x509.CertPool // of client certificates, and of chains in tokens
	pinned  []*x509.Certificate
	pool    sync.Pool
	judge   func(*Verifier, *state) Verdict
	authURL publicURL
}

type requirement struct{ name, value string }

type lineItem struct {
	name     string
	json     int
	optional bool
}

// Compile turns a Spec and its secrets into a Verifier. All faults are joined: those of Spec.Check, missing, empty,
// space-padded or undecodable secrets and keys, and a missing public URL. No error shows a secret.
func Compile(spec Spec, secrets []Secret, opts Options) (*Verifier, error) {
	spec = spec.Clone()
	if len(spec.All)+len(spec.Any) > 0 {
		return compileParts(spec, secrets, opts)
	}
	f := &faults{}
	spec.expand(opts.Params, f)
	if spec.needsSecret() && len(secrets) == 0 {
		f.add("secrets", "the scheme needs at least one")
	}
	if err := spec.Check(); err != nil {
		return nil, errors.Join(err, errors.Join(f.errs...))
	}
	v := &Verifier{spec: spec, opts: opts, places: map[string]place{}, id: spec.ID, prefix: []byte(spec.Prefix)}
	v.sep = []byte(v.separator())
	v.compileSecrets(secrets, f)
	v.compileURL(opts, f)
	v.compileShape(f)
	switch {
	case spec.Scheme == "client_certificate", spec.Scheme == "jwt" && spec.Key == "x5c":
		v.compileCertificate(opts, f)
	default:
		v.compileKeys(opts, f)
	}
	v.binds = spec.Binding()
	_, v.has.document = v.places["document"]
	_, v.has.allow = v.places["allow"]
	_, v.has.bodyHash = v.places["body_hash"]
	v.has.url = spec.SignsURL()
	if len(v.paths) > 0 {
		v.set = selector.NewJSONSet(v.paths...)
	}
	switch spec.Scheme {
	case "none":
		v.judge = (*Verifier).judgeNone
	case "hmac", "digest":
		v.judge = (*Verifier).judgeMAC
	case "token":
		v.judge = (*Verifier).judgeToken
	case "public_key":
		v.judge = (*Verifier).judgeSignature
	case "jwt":
		v.judge = (*Verifier).judgeJWT
	case "http_signature":
		v.judge = (*Verifier).judgeHTTP
	case "client_certificate":
		v.judge = (*Verifier).judgeCertificate
	}
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	v.pool.New = func() any { return v.newState() }
	return v, nil
}

// expand replaces {config:name} by parameters. {config:name?} empties its field where the parameter is not set.
func (s *Spec) expand(params map[string]string, f *faults) {
	sub := func(field string, p *string) {
		for {
			i := strings.Index(*p, "{config:")
			if i < 0 {
				return
			}
			n := strings.IndexByte((*p)[i:], '}')
			if n < 0 {
				f.add(field, "{config: without }")
				*p = ""
				return
			}
			name, optional := strings.CutSuffix((*p)[i+len("{config:"):i+n], "?")
			value, ok := params[name]
			if !ok || value == "" {
				if !optional {
					f.add(field, "needs the parameter %q", name)
				}
				*p = ""
				return
			}
			if strings.Contains(value, "{config:") {
				f.add(field, "the parameter %q refers to a parameter", name)
				*p = ""
				return
			}
			*p = (*p)[:i] + value + (*p)[i+n+1:]
		}
	}
	sub("header", &s.Header)
	sub("location", &s.Location)
	sub("timestamp", &s.Timestamp)
	sub("issuer", &s.Issuer)
	sub("audience", &s.Audience)
	sub("key_id", &s.KeyID)
	sub("jwks", &s.JWKS)
	for i := range s.Fields {
		sub("fields", &s.Fields[i])
	}
	for k, v := range s.Claims {
		sub("claims", &v)
		s.Claims[k] = v
	}
}

func (s *Spec) needsSecret() bool {
	return s.Scheme == "hmac" || s.Scheme == "digest" || s.Scheme == "token" || s.Allow != "" ||
		s.Scheme == "http_signature" && strings.HasPrefix(s.Algorithm, "hmac")
}

func (v *Verifier) compileSecrets(secrets []Secret, f *faults) {
	s := &v.spec
	for i, sec := range secrets {
		key, err := secretKey(s, sec.Bytes())
		if err != nil {
			f.add("secrets", "number %d %v", i+1, err)
			continue
		}
		v.secrets = append(v.secrets, key)
		v.tokens = append(v.tokens, sec.Bytes())
	}
}

func (v *Verifier) compileShape(f *faults) {
	s := &v.spec
	v.loc, _ = parseLocation(s)
	if v.loc.kind == "json" {
		v.loc.json = v.path(v.loc.name)
	}
	if s.Timestamp != "" {
		v.stamp, _ = parseStamp(s.Timestamp)
		if v.stamp.kind == "json" {
			v.stamp.json = v.path(v.stamp.name)
		}
	}
	if s.Signed != "" {
		t, err := parseTemplate(s.Signed)
		if err != nil {
			f.add("signed", "%v", err)
			return
		}
		if s.Timestamp == "" {
			t.dropTimestamp()
		}
		for i := range t.ops {
			if t.ops[i].kind == "json" {
				t.ops[i].json = v.path(t.ops[i].name)
			}
		}
		v.tmpl = t
		v.noDot = s.ID != "" && strings.Contains(s.Signed, "{id}.")
	}
	for _, name := range sortedKeys(s.Require) {
		v.require = append(v.require, requirement{name, s.Require[name]})
	}
	if s.Refuse != "" {
		v.refuse = regexp.MustCompile(s.Refuse)
	}
	for field, text := range map[string]string{"body_hash": s.BodyHash, "algorithm_from": s.AlgorithmFrom, "lines_by": s.LinesBy, "allow": s.Allow, "key_from": s.KeyFrom, "document": s.Document} {
		v.compilePlace(field, text, f)
	}
	if s.Items != "" {
		v.items = selector.NewJSONSet(s.Items)
	}
	v.compileClaims()
	v.lines = map[string][]lineItem{}
	for typ, names := range s.Lines {
		for _, n := range names {
			name, optional := strings.CutSuffix(n, "?")
			v.lines[typ] = append(v.lines[typ], lineItem{name, v.path(name), optional})
		}
	}
}

// place is a compiled selector of one value.
type place struct {
	kind, name string
	json       int
}

func (v *Verifier) compilePlace(field, text string, f *faults) {
	if text == "" {
		return
	}
	if field == "key_from" && text == "wrapped" {
		v.places[field] = place{kind: text}
		return
	}
	sel, err := selector.Parse(text)
	if err != nil {
		f.add(field, "%v", err)
		return
	}
	p := place{name: sel.Name(), json: -1}
	switch sel.Kind() {
	case selector.Header:
		p.kind = "header"
	case selector.Query:
		p.kind = "query"
	case selector.Form:
		p.kind = "form"
	case selector.JSON:
		p.kind, p.json = "json", v.path(sel.Name())
	default:
		f.add(field, "%q: header:, query:, form: or json:", text)
		return
	}
	v.places[field] = p
}

// path registers a JSON path that verification reads and gives its index.
func (v *Verifier) path(p string) int {
	if v.spec.Item != "" {
		p = v.spec.Item + "." + p
	}
	if i := slices.Index(v.paths, p); i >= 0 {
		return i
	}
	v.paths = append(v.paths, p)
	return len(v.paths) - 1
}

// Verify judges req at the time now. It keeps nothing of req, and allocates nothing but the verdict's MAC for the common
// symmetric schemes. Schemes with keys named in the request may wait for a KeySource, at most 3 s.
func (v *Verifier) Verify(req *event.Request, now time.Time) Verdict {
	st := v.pool.Get().(*state)
	st.req, st.now, st.doc = req, now, req.Body
	out := v.run(st)
	st.reset()
	v.pool.Put(st)
	out.Binds = v.binds
	if !out.OK {
		out.MAC, out.Others, out.SecretIndex = nil, nil, -1
	}
	return out
}

// maxOthers is how many more replay keys an event may have (SPEC §4).
const maxOthers = 2

// also notes the MAC of one more good signature: whoever leaves out the first could make a new event of the request with it.
//
//go:noinline
func (v *Verdict) also(macs ...[]byte) {
	for _, mac := range macs {
		known := len(mac) == 0 || len(v.Others) == maxOthers || bytes.Equal(mac, v.MAC)
		for _, m := range v.Others {
			known = known || bytes.Equal(mac, m)
		}
		switch {
		case known:
		case len(v.MAC) == 0:
			v.MAC = bytes.Clone(mac)
		default:
			v.Others = append(v.Others, bytes.Clone(mac))
		}
	}
}

// and makes the verdict on two signatures that are both needed: each MAC of the one goes with each of the other.
func (v *Verdict) and(one *Verdict) {
	mine, theirs := append([][]byte{v.MAC}, v.Others...), append([][]byte{one.MAC}, one.Others...)
	v.MAC, v.Others = append(v.MAC, one.MAC...), nil
	for i, a := range mine {
		for j, b := range theirs {
			if i+j > 0 {
				v.also(slices.Concat(a, b))
			}
		}
	}
}

func fail(c Check) Verdict { return Verdict{Check: c} }

func (v *Verifier) run(st *state) Verdict {
	for _, r := range v.require {
		val, n := st.req.Head.Get(r.name)
		if n != 1 || string(val) != r.value {
			return fail(CheckRequired)
		}
	}
	if v.has.document {
		doc, present, c := st.at(v.places["document"])
		if c != CheckNone {
			return fail(c)
		}
		if !present {
			return fail(CheckMissing)
		}
		st.doc = doc
	}
	if v.items == nil {
		return v.one(st)
	}
	return v.each(st)
}

// one judges one document.
func (v *Verifier) one(st *state) Verdict {
	if v.set != nil && v.set.Extract(st.doc, st.json) != nil {
		return fail(CheckMalformed)
	}
	return v.judge(v, st)
}

// each judges every element of the batch. The verdict's MAC is the MACs of all of them.
func (v *Verifier) each(st *state) Verdict {
	var list [1]selector.JSONValue
	if v.items.Extract(st.doc, list[:]) != nil || list[0].Kind == selector.Ambiguous {
		return fail(CheckMalformed)
	}
	all := Verdict{Check: CheckMissing}
	isArray := selector.EachElement(list[0].Raw(), func(elem []byte) bool {
		st.doc = elem
		st.cands, st.dec = st.cands[:0], st.dec[:0]
		one := v.one(st)
		all.OK, all.Check = one.OK, one.Check
		all.SignedAt, all.SecretIndex = one.SignedAt, one.SecretIndex
		all.and(&one)
		return one.OK
	})
	if !isArray {
		return fail(CheckMalformed)
	}
	return all
}

// Closed is a Verifier that refuses every request: of a source whose secret has not come yet, or of which nobody has said how it signs.
func Closed() *Verifier {
	v := &Verifier{spec: Spec{Scheme: "token"}, judge: (*Verifier).judgeClosed, binds: BindsOrigin}
	v.pool.New = func() any { return v.newState() }
	return v
}

func (v *Verifier) judgeClosed(*state) Verdict { return fail(CheckSender) }

func (v *Verifier) judgeNone(*state) Verdict { return Verdict{OK: true, SecretIndex: -1} }

// Binding is what a good signature authenticates: Spec.Binds, or what follows from what is signed.
func (s *Spec) Binding() Binding {
	switch {
	case s.Scheme == "none":
		return BindsNone
	case s.Binds != "":
		return Binding(s.Binds)
	case s.Scheme == "token", s.Scheme == "client_certificate":
		return BindsOrigin
	case s.Scheme == "jwt":
		if s.BodyClaim != "" || s.Location == "body" {
			return BindsBody
		}
		return BindsOrigin
	case s.Scheme == "http_signature":
		if slices.Contains(s.Components, "content-digest") {
			return BindsBody
		}
		return BindsOrigin
	case len(s.Lines) > 0:
		return BindsBody
	}
	t, err := parseTemplate(s.Signed)
	if err != nil {
		return BindsNone
	}
	for _, kind := range []string{"body", "sha256", "form_sorted", "json_sorted", "url_sorted"} { // a member or a field is not the body: Spec.Binds, where it says all
		if t.uses(kind, "") {
			return BindsBody
		}
	}
	if t.uses("crc32", "") {
		return BindsCRC32
	}
	return BindsOrigin
}

// Binds is what a good signature authenticates.
func (v *Verifier) Binds() Binding { return v.binds }

// Spec is what the verifier was made of, with {config:name} replaced. It must not be changed.
func (v *Verifier) Spec() *Spec { return &v.spec }

// HasTimestamp says whether the signature covers a timestamp of its own.
func (v *Verifier) HasTimestamp() bool {
	if len(v.parts) > 0 {
		return v.joined((*Verifier).HasTimestamp)
	}
	switch v.spec.Scheme {
	case "jwt":
		return v.spec.MaxAge > 0
	case "http_signature":
		return true
	}
	return v.tmpl != nil && v.spec.Timestamp != "" && (v.tmpl.uses("timestamp", "") || v.tmpl.uses("headers", "")) // a list of headers has to name the timestamp's
}

// Tolerance is how old a signature may be; 0 = any age.
func (v *Verifier) Tolerance() time.Duration {
	if len(v.parts) > 0 {
		return v.joinedTolerance()
	}
	if v.spec.Scheme == "jwt" {
		return v.spec.MaxAge
	}
	if !v.HasTimestamp() {
		return 0
	}
	return v.spec.Tolerance
}

// Observe says whether a failed check only counts (mode: observe).
func (v *Verifier) Observe() bool { return v.spec.Mode == "observe" }

// SignsID says whether the signature covers every part of the event id, so that nobody can give a captured request
// another id. Members of the body are covered where the body is.
func (v *Verifier) SignsID(id selector.List) bool {
	if len(v.parts) > 0 {
		return v.joined(func(p *Verifier) bool { return p.SignsID(id) })
	}
	for s := range id.All() { // whoever can leave out the first can choose the second
		if !v.signs(s) {
			return false
		}
	}
	return len(id) > 0
}

// SignsID is Verifier.SignsID before secrets are known; {config:name} counts as what it stands for.
func (s *Spec) SignsID(id selector.List) bool {
	v := &Verifier{spec: *s, id: s.ID, binds: s.Binding()}
	if s.Signed != "" {
		v.tmpl, _ = parseTemplate(s.Signed) // Check reports what is wrong with it
	}
	return s.Scheme != "" && s.Scheme != "none" && v.SignsID(id)
}

func (v *Verifier) signs(s selector.Selector) bool {
	if v.tmpl == nil {
		switch s.Kind() {
		case selector.Header:
			return slices.Contains(v.spec.Components, strings.ToLower(s.Name()))
		case selector.Query:
			return slices.ContainsFunc(v.spec.Components, func(c string) bool {
				return c == "@query" || c == "@target-uri" || c == "@request-target"
			}) || v.spec.URLClaim != ""
		case selector.Path:
			return slices.Contains(v.spec.Components, "@path") || slices.Contains(v.spec.Components, "@target-uri") || v.spec.URLClaim != ""
		case selector.JSON:
			return v.binds == BindsBody
		case selector.Form:
			return v.binds == BindsBody && slices.Contains(v.spec.Components, "content-type")
		case selector.BodySHA256:
			return v.coversBytes()
		}
		return false
	}
	switch s.Kind() {
	case selector.Header:
		return v.tmpl.uses("header", s.Name()) || strings.EqualFold(s.Name(), v.id) && v.tmpl.uses("id", "")
	case selector.Query:
		return v.tmpl.uses("query", s.Name()) || v.tmpl.uses("url", "") || v.tmpl.uses("target", "") || v.tmpl.uses("url_sorted", "")
	case selector.Path:
		return v.tmpl.uses("url", "") || v.tmpl.uses("target", "") || v.tmpl.uses("url_sorted", "")
	case selector.JSON:
		return v.binds == BindsBody || v.tmpl.uses("json", s.Name())
	case selector.Form: // whether the body is a form, and which, says a header
		return v.binds == BindsBody && v.tmpl.uses("header", "Content-Type") || v.tmpl.uses("form", s.Name())
	case selector.BodySHA256:
		return v.coversBytes()
	}
	return false
}

// coversBytes says whether the signature covers every byte of the body. What covers only what the body says lets it be written in another
// way: another order of form fields, white space between the members of JSON, a member more.
func (v *Verifier) coversBytes() bool {
	switch {
	case v.tmpl != nil:
		return v.tmpl.uses("body", "") || v.tmpl.uses("sha256", "")
	case v.spec.Scheme == "jwt":
		return v.spec.BodyClaim != "" || v.spec.Location == "body"
	}
	return v.spec.Scheme == "http_signature" && v.binds == BindsBody
}

// NeedsReplayKey says whether the verified MAC has to serve as a second replay key (SPEC §4): somebody who captured a
// request could send it again under another id, and no timestamp would stop it. Schemes without a MAC have none to offer.
func (v *Verifier) NeedsReplayKey(id selector.List) bool {
	if len(v.parts) > 0 {
		needed := v.some(func(p *Verifier) bool { return p.NeedsReplayKey(id) })
		if v.any || !needed {
			return needed
		}
		timed := func(p *Verifier) bool { return p.binds != BindsOrigin && p.HasTimestamp() && p.Tolerance() > 0 } // a time that is of no body may be put beside an old one
		return !v.SignsID(id) && (!v.some(timed) || inForm(id))
	}
	switch v.spec.Scheme {
	case "none", "token", "client_certificate":
		return false
	}
	if v.binds == BindsOrigin { // the sender itself repeats the signature for other bodies
		return false
	}
	return !v.SignsID(id) && (!v.HasTimestamp() || v.Tolerance() == 0 || inForm(id))
}

// inForm says whether a part of the id may be a field of a form: with another Content-Type the same body has none, and what stands in its place
// is the id.
func inForm(id selector.List) bool {
	for s := range id.All() {
		if s.Kind() == selector.Form {
			return true
		}
	}
	return false
}

// String describes the verifier without its secrets.
func (v *Verifier) String() string {
	return fmt.Sprintf("%s %s (%d secrets, %d keys)", v.spec.Scheme, v.spec.Algorithm, len(v.secrets), len(v.keys.static))
}
