package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/selector"
)

// Spec is how a sender signs: the fields of `verify:` in the configuration and of a preset's row. A preset's Spec is the
// base, a source's fields replace it one by one.
type Spec struct {
	// What a failed check means: enforce refuses the request, observe logs and counts it and lets it pass, without
	// Hooktender-Verified.
	Mode string `yaml:"mode"`
	// Several ways to verify, each written like verify itself: a request must pass all of them. Everything but mode stands in the parts then.
	All []Spec `yaml:"all"`
	// Several ways to verify: a request must pass one of them. See all.
	Any []Spec `yaml:"any"`
	// Inside of all and any: the numbers of the secrets that this part uses, counted from 1; empty = every one.
	Use []int `yaml:"use"`
	// Inside of all and any: the numbers of the public_keys that this part uses; empty = every one.
	UseKeys []int `yaml:"use_keys"`
	// How requests are signed. hmac: a keyed hash of `signed`. digest: a plain hash of `signed`, which has {secret} in
	// it. token: the secret itself is in the request. public_key: a signature checked with public_keys. jwt: a signed
	// JSON Web Token (RFC 7519). http_signature: HTTP Message Signatures (RFC 9421). client_certificate: the sender
	// showed a TLS client certificate, to us (location: connection; tls.client_ca names its issuers) or to a proxy in front that passes it on in a header
	// (RFC 9440, or percent-encoded PEM; issuers are in public_keys). none: nothing is checked; needs
	// insecure: true.
	Scheme string `yaml:"scheme"`
	// The algorithm. hmac and digest: sha1, sha256, sha384, sha512 (and md5, of which only the keyed form is safe). public_key: ed25519, ecdsa-sha1, ecdsa-sha256,
	// rsa-sha1, rsa-sha256. http_signature: hmac-sha256, ed25519, ecdsa-p256-sha256, ecdsa-p384-sha384, rsa-v1_5-sha256, rsa-pss-sha512.
	Algorithm string `yaml:"algorithm"`
	// jwt: the algorithms a token may name: HS256, HS384, HS512, RS256, RS384, RS512, PS256, ES256, ES384, EdDSA. Never none.
	Algorithms []string `yaml:"algorithms"`
	// public_key: a selector whose value chooses the algorithm from algorithm_choices.
	AlgorithmFrom string `yaml:"algorithm_from"`
	// public_key: which algorithm each value of algorithm_from means.
	AlgorithmChoices map[string]string `yaml:"algorithm_choices"`
	// How the signature is written: hex (either case), base64 (strict, padded), base64url (with or without padding).
	Encoding string `yaml:"encoding"`
	// The header that has the signature, or the token.
	Header string `yaml:"header"`
	// Where the signature or token is, if it is not in a header of its own: query:name, form:name, json:path, body,
	// bearer (Authorization: Bearer), basic (Authorization: Basic), authorization:Scheme, or headers:Prefix- for headers
	// numbered Prefix-1, Prefix-2 and so on. client_certificate: connection.
	Location string `yaml:"location"`
	// Further headers with a signature in the same form. They may be absent.
	Also []string `yaml:"also"`
	// What stands before the signature. It must be there.
	Prefix string `yaml:"prefix"`
	// The form of the header. plain: one signature. list: several, with separator between. fields: k=v pairs with
	// separator between, signatures under `fields`. parameters: the same as k="v". tagged: "tag,signature" with spaces between, tags in `fields`.
	// positional: timestamp, then signatures. pairs: "key|signature" with & between, keys in `fields`. wrapped: base64
	// of a JSON object, whose members `fields` names (signature, key id).
	Format string `yaml:"format"`
	// The names in the header that carry a signature this scheme accepts; see format.
	Fields []string `yaml:"fields"`
	// What stands between signatures or pairs; a comma if empty.
	Separator string `yaml:"separator"`
	// fields: what stands between whole groups of pairs, each with its own timestamp; empty if there is one group.
	Group string `yaml:"group"`
	// How the key is made of the secret or public key. Secrets: utf8 (as it is), base64, hex, whsec (base64 after an
	// optional whsec_), sha1 or sha256 (the hash of it). Public keys: pem (a key or certificate), spki (base64 DER),
	// base64, hex (raw Ed25519), whpk, x5c (jwt: the chain of certificates in its header), certificate_url (at key_from; see key_hosts), key_id (at key_from; see jwks).
	Key string `yaml:"key"`
	// What is signed: literal text and {body}, {timestamp}, {id}, {url} (public_url and the request's target), {method},
	// {secret}, {header:Name}, {query:name}, {form:name}, {json:path}, {form_sorted}, {url_sorted}, {crc32:body}; {target} (path and query of {url}), {host} (of public_url),
	// {sha256:body} (base64), {json_sorted} (the body's JSON without white space, members sorted by name), {headers:Name} (name:value of the headers that Name lists, with ; between;
	// Name itself and the timestamp's have to be among them). A name may end in ? (may be absent) and in |lower. Text in [ ] falls away if a value in it is absent. {{ and [[ are literal.
	Signed string `yaml:"signed"`
	// public_key: the canonical lines that are signed instead of `signed`, per value of lines_by: for each name, in
	// order, the name and the member's value on lines of their own. A name that ends in ? may be absent.
	Lines map[string][]string `yaml:"lines"`
	// The selector whose value chooses from lines.
	LinesBy string `yaml:"lines_by"`
	// Where the signature's timestamp is: header:Name, json:path, or field:name in the signature's header (positional:
	// field:0). Empty if there is none.
	Timestamp string `yaml:"timestamp"`
	// How the timestamp is written: s, ms (Unix time), rfc3339, or http (as in the header Date).
	Unit string `yaml:"unit"`
	// How old or how far in the future a timestamp may be. 0 = any age, as its sender documents no window.
	Tolerance time.Duration `yaml:"tolerance"`
	// The header of {id}. It must not hold a dot where the scheme puts dots between its parts.
	ID string `yaml:"id"`
	// Headers that must be there once with exactly this value.
	Require map[string]string `yaml:"require"`
	// How {url} is written: exact; port_variants (also with and without the port); decoded (the characters :/?@!$'()*,;
	// of the query are percent-decoded).
	URL string `yaml:"url"`
	// A selector of a hash: where it is present, it must be the hex SHA-256 of the body, and {form_sorted} is empty.
	BodyHash string `yaml:"body_hash"`
	// A pattern that what is signed must not match: answers to a challenge signed with the same key, for example.
	Refuse string `yaml:"refuse"`
	// Where the JSON document is that json: means, if it is not the body: form:name.
	Document string `yaml:"document"`
	// A JSON path to an array: each element is judged by itself, all must be good, and there must be one.
	Items string `yaml:"items"`
	// The member of each element that holds the item, if it is not the element itself.
	Item string `yaml:"item"`
	// A selector whose value must be one of the secrets: a list of allowed senders.
	Allow string `yaml:"allow"`
	// Where the key's name is: a selector of a certificate's URL or a key id.
	KeyFrom string `yaml:"key_from"`
	// key: x5c: the SHA-256 (hex) of certificates in which a chain may end. What is under public_keys is used in their place.
	KeyRoots []string `yaml:"key_roots"`
	// key: x5c: the extensions (OIDs) that the certificates of a chain must carry, the signer's first.
	KeyOIDs []string `yaml:"key_oids"`
	// The https URL of the JWK set (RFC 7517) in which the sender publishes its keys: for jwt, http_signature, and public_key with key: key_id. The request
	// names the key. What is pinned under public_keys is used in its place.
	JWKS string `yaml:"jwks"`
	// Hosts a certificate may come from (exact names).
	KeyHosts []string `yaml:"key_hosts"`
	// A pattern for hosts a certificate may come from. It must fit the whole name.
	KeyHostPattern string `yaml:"key_host_pattern"`
	// A pattern for the path of a certificate's URL. It must fit the whole path, and certificate_url needs one.
	KeyPathPattern string `yaml:"key_path_pattern"`
	// jwt: the issuer (iss) the token must name.
	Issuer string `yaml:"issuer"`
	// jwt: the audience (aud) the token must name; {url} is the request's public URL.
	Audience string `yaml:"audience"`
	// jwt: further claims and the values they must have. A name that begins with / is a JSON Pointer into the payload, or several with | between: those
	// that are there must have the value, and one must be.
	Claims map[string]string `yaml:"claims"`
	// jwt: the claim that has the SHA-256 of the body.
	BodyClaim string `yaml:"body_claim"`
	// jwt: how that hash is written: hex or base64.
	BodyClaimEncoding string `yaml:"body_claim_encoding"`
	// jwt: the body's claim is absent where the body is empty, and only there.
	BodyClaimOptional bool `yaml:"body_claim_optional"`
	// jwt: the claim that has the hex SHA-256 of the public URL.
	URLClaim string `yaml:"url_claim"`
	// jwt: the claim that has the hash of the canonical request line.
	RequestClaim string `yaml:"request_claim"`
	// jwt: how old a token may be by its iat; 0 = any. A token without iat is refused then.
	MaxAge time.Duration `yaml:"max_age"`
	// jwt: how far clocks may differ for exp, nbf and iat.
	Leeway time.Duration `yaml:"leeway"`
	// http_signature: components that the signature must cover. content-digest is compared with the body.
	Components []string `yaml:"components"`
	// http_signature: the key id that signatures must name; empty = any.
	KeyID string `yaml:"key_id"`
	// client_certificate: names of which the certificate must carry one (DNS name, URI, e-mail address or common name); empty = any.
	Names []string `yaml:"names"`
	// What the signature authenticates: body, crc32 (of the body only) or origin (not the body). Empty: derived from
	// what is signed. {json:path} and {form:name} are not the body: say body where they are all that it says.
	Binds string `yaml:"binds"`
}

// Clone is a deep copy.
func (s Spec) Clone() Spec {
	s.Algorithms, s.Also, s.Fields = slices.Clone(s.Algorithms), slices.Clone(s.Also), slices.Clone(s.Fields)
	s.All, s.Any, s.Use, s.UseKeys, s.Names = cloneAll(s.All), cloneAll(s.Any), slices.Clone(s.Use), slices.Clone(s.UseKeys), slices.Clone(s.Names)
	s.KeyHosts, s.Components, s.KeyRoots, s.KeyOIDs = slices.Clone(s.KeyHosts), slices.Clone(s.Components), slices.Clone(s.KeyRoots), slices.Clone(s.KeyOIDs)
	s.AlgorithmChoices, s.Require, s.Claims = maps.Clone(s.AlgorithmChoices), maps.Clone(s.Require), maps.Clone(s.Claims)
	s.Lines = maps.Clone(s.Lines)
	for k, v := range s.Lines {
		s.Lines[k] = slices.Clone(v)
	}
	return s
}

func cloneAll(parts []Spec) []Spec {
	out := slices.Clone(parts)
	for i := range out {
		out[i] = out[i].Clone()
	}
	return out
}

// choices of the fields that have a closed list.
var choices = map[string][]string{
	"mode":      {"", "enforce", "observe"},
	"scheme":    {"hmac", "digest", "token", "public_key", "jwt", "http_signature", "client_certificate", "none"},
	"encoding":  {"", "hex", "base64", "base64url"},
	"format":    {"", "plain", "list", "fields", "parameters", "tagged", "positional", "pairs", "wrapped"},
	"unit":      {"", "s", "ms", "rfc3339", "http"},
	"url":       {"", "exact", "port_variants", "decoded"},
	"binds":     {"", string(BindsBody), string(BindsCRC32), string(BindsOrigin)},
	"body_enc":  {"", "hex", "base64"},
	"secretKey": {"", "utf8", "base64", "hex", "whsec", "sha1", "sha256"},
	"publicKey": {"", "pem", "spki", "base64", "hex", "whpk", "certificate_url", "key_id"},
	"hmac":      {"md5", "sha1", "sha256", "sha384", "sha512"},
	"public":    {"ed25519", "ecdsa-sha1", "ecdsa-sha256", "rsa-sha1", "rsa-sha256"},
	"http":      {"hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-v1_5-sha256", "rsa-pss-sha512"},
	"jwt":       {"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"},
}

// faults collects what is wrong with a Spec.
type faults struct{ errs []error }

//go:noinline // many callers, none in a hurry
func (f *faults) add(field, format string, args ...any) {
	f.errs = append(f.errs, &SpecError{Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (f *faults) oneOf(field, value, list string) {
	if !slices.Contains(choices[list], value) {
		f.add(field, "%q is not one of %s", value, strings.Trim(strings.Join(choices[list], ", "), ", "))
	}
}

// SpecError is one fault of a Spec: the YAML name of the field and what is wrong with it.
type SpecError struct{ Field, Problem string }

func (e *SpecError) Error() string { return e.Field + ": " + e.Problem }

// Check joins every fault (each a *SpecError) that can be seen without secrets. {config:name} is taken as given.
func (s *Spec) Check() error {
	if len(s.All)+len(s.Any) > 0 {
		return s.checkParts()
	}
	f := &faults{}
	f.oneOf("mode", s.Mode, "mode")
	f.oneOf("scheme", s.Scheme, "scheme")
	f.oneOf("encoding", s.Encoding, "encoding")
	f.oneOf("format", s.Format, "format")
	f.oneOf("unit", s.Unit, "unit")
	f.oneOf("url", s.URL, "url")
	f.oneOf("binds", s.Binds, "binds")
	f.oneOf("body_claim_encoding", s.BodyClaimEncoding, "body_enc")
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"tolerance", s.Tolerance}, {"max_age", s.MaxAge}, {"leeway", s.Leeway}} {
		if d.value < 0 {
			f.add(d.field, "%s is negative", d.value)
		}
	}
	for field, p := range map[string]string{"refuse": s.Refuse, "key_host_pattern": s.KeyHostPattern, "key_path_pattern": s.KeyPathPattern} {
		if _, err := regexp.Compile(p); err != nil {
			f.add(field, "not a pattern: %v", err)
		}
	}
	for name := range s.Require {
		if _, err := selector.Parse("header:" + name); err != nil {
			f.add("require", "%v", err)
		}
	}
	if len(s.Fields) == 0 && slices.Contains([]string{"fields", "parameters", "tagged", "pairs", "wrapped"}, s.Format) {
		f.add("fields", "say under which names format %s has signatures", s.Format)
	}
	if s.Header != "" && s.Location != "" {
		f.add("location", "header and location exclude each other")
	}
	s.checkScheme(f)
	s.checkRemote(f)
	return errors.Join(f.errs...)
}

func (s *Spec) checkScheme(f *faults) {
	switch s.Scheme {
	case "hmac", "digest":
		f.oneOf("algorithm", s.Algorithm, "hmac")
		f.oneOf("key", s.Key, "secretKey")
		s.checkSigned(f)
	case "public_key":
		if s.AlgorithmFrom == "" {
			f.oneOf("algorithm", s.Algorithm, "public")
		}
		for _, a := range s.AlgorithmChoices {
			f.oneOf("algorithm_choices", a, "public")
		}
		f.oneOf("key", s.Key, "publicKey")
		s.checkSigned(f)
	case "jwt":
		if len(s.Algorithms) == 0 {
			f.add("algorithms", "name the algorithms a token may use")
		}
		for _, a := range s.Algorithms {
			f.oneOf("algorithms", a, "jwt")
		}
		s.checkLocation(f)
	case "http_signature":
		f.oneOf("algorithm", s.Algorithm, "http")
	case "client_certificate":
		if s.Location != "" && s.Location != "connection" {
			f.add("location", "a certificate is in a header, or of the connection")
		}
		fallthrough
	case "token":
		s.checkLocation(f)
	}
}

// checkRemote checks what says where keys come from.
func (s *Spec) checkRemote(f *faults) {
	if s.JWKS != "" && !strings.Contains(s.JWKS, "{config:") {
		if u, err := url.Parse(s.JWKS); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			f.add("jwks", "%q is not an https URL", s.JWKS)
		}
	}
	if s.Scheme == "jwt" && s.Key == "x5c" && slices.ContainsFunc(s.Algorithms, func(a string) bool { return !isAsymmetric(a) }) {
		f.add("algorithms", "a token under a chain of certificates is not signed with a secret")
	}
	for i, r := range s.KeyRoots {
		if _, err := hex.DecodeString(r); err != nil || len(r) != 2*sha256.Size || r != strings.ToLower(r) {
			f.add("key_roots", "number %d is not a SHA-256 in lower-case hexadecimal", i+1)
		}
	}
	switch {
	case s.Scheme != "public_key":
	case s.Key == "certificate_url" && s.KeyFrom == "", s.Key == "key_id" && s.KeyFrom == "":
		f.add("key_from", "say where the key's name is, for example header:X-Key-Id")
	case s.Key == "certificate_url" && (len(s.KeyHosts) == 0 && s.KeyHostPattern == "" || s.KeyPathPattern == ""):
		f.add("key_hosts", "say which hosts (key_hosts or key_host_pattern) and which paths (key_path_pattern) a certificate may come from")
	}
}

func (s *Spec) checkLocation(f *faults) {
	if s.Header == "" && s.Location == "" {
		f.add("header", "say which header has the signature (or location)")
	} else if _, err := parseLocation(s); err != nil {
		field := "location"
		if s.Header != "" {
			field = "header"
		}
		f.add(field, "%v", err)
	}
}

func (s *Spec) checkSigned(f *faults) {
	s.checkLocation(f)
	if s.Encoding == "" {
		f.add("encoding", "say how the signature is written: hex, base64 or base64url")
	}
	if len(s.Lines) > 0 {
		return
	}
	t, err := parseTemplate(s.Signed)
	if err != nil {
		f.add("signed", "%v", err)
		return
	}
	if t.needs("timestamp") && s.Timestamp == "" {
		f.add("timestamp", "signed has {timestamp}, but nothing says where it is")
	}
	if s.ID != "" {
		if _, err := selector.Parse("header:" + s.ID); err != nil {
			f.add("id", "%v", err)
		}
	} else if t.uses("id", "") {
		f.add("id", "signed has {id}, but nothing says which header it is")
	}
	if s.Timestamp != "" && !strings.Contains(s.Timestamp, "{config:") {
		if _, err := parseStamp(s.Timestamp); err != nil {
			f.add("timestamp", "%v", err)
		}
	}
	if s.Scheme == "digest" && s.Algorithm == "md5" {
		f.add("algorithm", "a plain MD5 proves nothing")
	}
	if s.Scheme == "digest" && !t.uses("secret", "") {
		f.add("signed", "a digest without {secret} proves nothing")
	}
	if s.Scheme != "digest" && s.Scheme != "public_key" && t.uses("secret", "") {
		f.add("signed", "{secret} is for scheme digest")
	}
}

// ReadsConnection says whether the client certificate of the connection is judged.
func (s *Spec) ReadsConnection() bool {
	return s.Location == "connection" || slices.ContainsFunc(s.parts(), func(p Spec) bool { return p.ReadsConnection() })
}

// ShowsSecret says whether the value of a header, or of a parameter of the query (asked for as "?name"), is one of the secrets as it is, not something made with it.
// params are the source's, which names may refer to.
func (s *Spec) ShowsSecret(name string, params map[string]string) bool {
	is := func(own string) bool {
		for k, v := range params {
			own = strings.ReplaceAll(own, "{config:"+k+"}", v)
		}
		return strings.EqualFold(own, name)
	}
	prefix, numbered := strings.CutPrefix(s.Location, "headers:")
	numbered = numbered && len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
	param, inQuery := strings.CutPrefix(s.Location, "query:")
	return s.Scheme == "token" && (is(s.Header) || numbered || inQuery && is("?"+param) || slices.ContainsFunc(s.Also, is)) || is(strings.TrimPrefix(s.Allow, "header:")) ||
		slices.ContainsFunc(s.parts(), func(p Spec) bool { return p.ShowsSecret(name, params) })
}

// SignsURL says whether verification needs the public URL of the request.
func (s *Spec) SignsURL() bool {
	if parts := s.parts(); len(parts) > 0 {
		return slices.ContainsFunc(parts, func(p Spec) bool { return p.SignsURL() })
	}
	if s.URLClaim != "" || strings.Contains(s.Audience, "{url}") || s.Scheme == "http_signature" {
		return s.Scheme != "http_signature" || slices.ContainsFunc(s.Components, func(c string) bool {
			return c == "@target-uri" || c == "@authority" || c == "@scheme"
		})
	}
	t, err := parseTemplate(s.Signed)
	return err == nil && (t.uses("url", "") || t.uses("url_sorted", "") || t.uses("host", ""))
}
