package config

import (
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

var (
	pathText  = regexp.MustCompile(`^/[!-~]*$`)
	pathParam = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\}$`)
	method    = regexp.MustCompile("^[A-Z0-9!#$%&'*+.^_`|~-]+$")
)

// checkPaths checks the path of each source, and that no two are the same. Parameters count as the same whatever their names.
func (d *decoder) checkPaths(c *Config) {
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		key, path := "sources."+name+".path", c.Sources[name].Path
		if !d.has(key) {
			d.fail(key, "", "is missing")
			continue
		}
		if fault := pathFault(path); fault != "" {
			d.fail(key, "", "%s", fault)
			continue
		}
		segments := strings.Split(path, "/")
		for i, s := range segments {
			if pathParam.MatchString(s) {
				segments[i] = "{}"
			}
		}
		same := strings.Join(segments, "/")
		if first, taken := owner[same]; taken {
			a, b := "sources."+first+".path", key
			if n, m := d.find(a), d.find(b); n != nil && m != nil && n.Line > m.Line {
				a, b = b, a // the later one in the file is at fault
			}
			d.fail(b, "", "is the path of %s, too", strings.TrimSuffix(a, ".path"))
			continue
		}
		owner[same] = name
	}
}

// pathFault says what is wrong with a source's path.
func pathFault(path string) string {
	switch {
	case !strings.HasPrefix(path, "/"):
		return "must begin with /"
	case !pathText.MatchString(path) || strings.ContainsAny(path, "?#\\\"<>^`|"): // the public port takes none of them in a path (RFC 3986 §3.3)
		return "must hold no space, query, fragment, character outside of ASCII or one of \\\"<>^`|: senders percent-encode them"
	}
	seen := map[string]bool{}
	for s := range strings.SplitSeq(path, "/") {
		switch {
		case s == "." || s == "..":
			return "must hold no segment . or .."
		case pathParam.MatchString(s) && seen[s]:
			return "has the parameter " + s + " twice"
		case pathParam.MatchString(s):
			seen[s] = true
		case strings.ContainsAny(s, "{}"):
			return "a parameter is a whole segment: /{name}/"
		}
	}
	return ""
}

func (d *decoder) checkSource(c *Config, s *Source) {
	key := "sources." + s.Name
	d.checkProvider(key, s)
	d.checkMethods(key, s.Methods)
	d.room(key+".ordering", s.Ordering.Check())
	d.room(key+".delivery", s.Delivery.Check())
	d.room(key+".delivery.retry", s.Delivery.Retry.Check())
	d.room(key+".limits", s.Limits.Check())
	d.room(key+".respond", s.Respond.Check())
	if !d.faulty[key+".provider"] && s.Provider != "" {
		d.checkHandshake(key, s)
		d.checkVerify(c, key, s)
		d.checkIdentity(key, s)
		d.checkWindow(c, key, s)
	}
}

func (d *decoder) checkProvider(key string, s *Source) {
	at := key + ".provider"
	switch {
	case s.Provider == "":
		d.fail(at, "name a preset (hooktender providers lists them), or custom", "is missing")
	case s.Provider == providerNone && !s.Insecure:
		d.fail(at, "say insecure: true beside it if that is meant", "none verifies nothing")
	case s.Provider != providerNone && s.Insecure:
		d.fail(key+".insecure", "", "stands only beside provider: none")
	case s.Provider == providerNone && d.has(key+".verify"):
		d.fail(key+".verify", "use provider: custom", "provider: none verifies nothing")
	case s.Provider == providerNone:
		d.warn(at, "requests are not verified: anyone who knows the path can send")
	}
}

// checkHandshake refuses keys that nothing asks for: behind a misspelled one is a check that is not made. A verify of one's own may ask for any.
func (d *decoder) checkHandshake(key string, s *Source) {
	own := fmt.Sprintf("%+v", s.Verify)
	for _, name := range slices.Sorted(maps.Keys(s.Handshake)) {
		if !slices.Contains(provider.HandshakeKeys, name) && !strings.Contains(own, "{config:"+name+"}") && !strings.Contains(own, "{config:"+name+"?}") {
			d.fail(key+".handshake."+name, didYouMean(name, provider.HandshakeKeys), "unknown key")
		}
	}
}

func (d *decoder) checkMethods(key string, methods []string) {
	if len(methods) == 0 {
		d.fail(key+".methods", "", "must not be empty")
	}
	for i, m := range methods {
		at := fmt.Sprintf("%s.methods[%d]", key, i)
		switch {
		case m != strings.ToUpper(m):
			d.fail(at, fmt.Sprintf("did you mean %q?", strings.ToUpper(m)), "methods are written in capitals")
		case !method.MatchString(m) || m == "CONNECT":
			d.fail(at, "", "is no method")
		case slices.Index(methods, m) < i:
			d.fail(at, "", "is given twice")
		}
	}
}

// checkVerify compiles the source's verification once, so that what is wrong with its secrets shows at load.
func (d *decoder) checkVerify(c *Config, key string, s *Source) {
	if d.anyFault(key+".handshake", key+".verify") {
		return
	}
	if d.has(key+".verify.signed") && !d.has(key+".verify.binds") {
		s.Verify.Binds = "" // the preset's is of what the preset signs
	}
	if s.Verify.Mode == "observe" {
		d.warn(key+".verify.mode", "requests that fail verification are let through")
	}
	if parts := append(s.Verify.All[:len(s.Verify.All):len(s.Verify.All)], s.Verify.Any...); len(parts) > 0 {
		for _, f := range shape.Fields(reflect.TypeFor[verify.Spec]()) {
			if at := key + ".verify." + f.Name; f.Name != "mode" && f.Name != "all" && f.Name != "any" && d.has(at) {
				d.fail(at, "write it in the parts that need it", "stands beside all or any")
			}
		}
		s.Verify = verify.Spec{Mode: s.Verify.Mode, All: s.Verify.All, Any: s.Verify.Any}
		for i := range parts {
			if parts[i].Scheme == "" {
				d.fail(key+".verify", "", "a part of all or any has no scheme")
				return
			}
		}
	}
	if s.Verify.Scheme == "none" && s.Provider != providerNone {
		d.fail(key+".verify.scheme", "use provider: none with insecure: true", "none verifies nothing")
		return
	}
	if s.Verify.Scheme == "" && len(s.Verify.All)+len(s.Verify.Any) == 0 {
		d.warn(key+".provider", "%s is known for its challenge only: every event is refused until verify says how its requests are signed", s.Provider)
		return
	}
	secrets := s.Secrets
	if s.Preset.Enrolls() && len(secrets) == 0 {
		d.warn(key+".provider", "%s delivers its secret in its first request: run hooktender sources enroll %s before it is registered there, unless that is done", s.Provider, s.Name)
		secrets = []verify.Secret{verify.NewSecret([]byte("not-yet-enrolled"))}
	}
	if s.Verify.SignsURL() && c.PublicURL == "" {
		d.fail(key+".provider", "set public_url at the top of the file, such as https://hooks.example.com", "this sender signs the URL: public_url is needed")
	}
	if s.Verify.ReadsConnection() && c.TLS.ClientCA == "" {
		d.fail(key+".verify", "set tls.client_ca at the top of the file, or take the certificate from a header", "nobody asks senders for a certificate: tls.client_ca is needed")
	}
	// What the sender publishes the gateway fetches when it is needed: nothing is fetched here.
	o := verify.Options{PublicURL: c.PublicURL, PublicKeys: s.PublicKeys, Params: s.Params(), Keys: s.Preset.KeySources(s.Params())}
	if params := s.Params(); s.Verify.Key == "key_id" && s.Verify.JWKS == "" && len(s.PublicKeys) == 0 && (params["client_id"] == "" || params["client_secret"] == "") {
		d.warn(key+".provider", "there is no key to verify with, so every event is refused: pin keys under public_keys%s",
			map[bool]string{true: ", or give handshake.client_id and handshake.client_secret"}[s.Preset.KeyService != ""])
	}
	v, err := verify.Compile(s.Verify, secrets, o)
	for _, f := range faults(err) {
		if root, _, _ := strings.Cut(f.key, "["); (root == "secrets" || root == "public_keys") && d.anyFault(key+"."+root) {
			continue // what is wrong with them is told already
		}
		d.verifyFault(key, s, f)
	}
	if account, _ := selector.ParseList(s.Identity.Account...); err == nil && len(account) > 0 && v.Binds() == verify.BindsBody && !v.SignsID(account) && v.Tolerance() == 0 {
		d.warn(key+".identity.account", "the signature does not cover it: whoever has seen a request can send it again as an event of another account")
	}
}

var (
	numbered = regexp.MustCompile(`^number ([0-9]{1,6}) (.*)$`)
	oneOf    = regexp.MustCompile(`^"(.*)" is not one of (.*)$`)
)

// verifyFault puts a fault of verify.Compile where the user can mend it.
func (d *decoder) verifyFault(key string, s *Source, f fault) {
	hint := ""
	if strings.HasPrefix(f.message, "needs the parameter") {
		hint = "give it under handshake"
	}
	if m := oneOf.FindStringSubmatch(f.message); m != nil {
		hint = didYouMean(m[1], strings.Split(m[2], ", "))
	}
	if f.key == "secrets" && len(s.Secrets) == 0 {
		hint = "for example secrets: [{env: " + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) + "_SECRET}]"
		if s.Preset.Secret != "" {
			hint += "; it is " + s.Preset.Secret
		}
	}
	if m := numbered.FindStringSubmatch(f.message); m != nil { // secrets and keys are counted from 1
		if n, err := strconv.Atoi(m[1]); err == nil {
			f = fault{fmt.Sprintf("%s[%d]", f.key, n-1), m[2]}
		}
	}
	switch root, _, _ := strings.Cut(f.key, "["); root {
	case "public_url":
		if !d.faulty[key+".provider"] && !d.faulty["public_url"] {
			d.fail(key+".provider", "", "public_url %s", f.message)
		}
	case "secrets", "public_keys":
		d.fail(key+"."+f.key, hint, "%s", f.message)
	case "":
		d.fail(key+".verify", hint, "%s", f.message)
	default:
		d.fail(key+".verify."+f.key, hint, "%s", f.message)
	}
}

// anyFault says whether one of the keys, or one below it, has a fault already.
func (d *decoder) anyFault(keys ...string) bool {
	for bad := range d.faulty {
		for _, k := range keys {
			if rest, ok := strings.CutPrefix(bad, k); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				return true
			}
		}
	}
	return false
}

func (d *decoder) checkIdentity(key string, s *Source) {
	at := key + ".identity"
	if d.anyFault(at) {
		return
	}
	if len(s.Identity.ID) == 0 {
		d.fail(at+".id", "for example id: header:X-Event-Id, or body:sha256 where the sender gives none", "is missing")
	} else if _, err := selector.CompileIdentity(s.Identity); err != nil {
		d.room(at, err)
	}
	o := key + ".ordering.policy"
	resource, version := s.Ordering.Policy != "none" && len(s.Identity.Resource) == 0, s.Ordering.NeedsVersion() && len(s.Identity.Version) == 0
	switch {
	case resource && version:
		d.fail(o, "say where they are: identity: {resource: json:data.id, version: json:data.version}", "%s needs identity.resource and identity.version", s.Ordering.Policy)
	case resource:
		d.fail(o, "say where it is: identity: {resource: json:data.id}", "%s needs identity.resource", s.Ordering.Policy)
	case version:
		d.fail(o, "say where it is: identity: {version: json:data.version}", "%s needs identity.version", s.Ordering.Policy)
	case s.Ordering.NeedsVersion() && s.Ordering.Compare != "lexicographic" && len(s.Identity.Version) > 1:
		d.fail(at+".version", "alternatives are written json:a | json:b", "several selectors together are a text: no %s, and every event would be refused", s.Ordering.Compare)
	}
	untyped := func(glob string) bool { ok, _ := path.Match(glob, ""); return ok }
	if s.Ordering.Policy != "none" && len(s.Identity.Type) == 0 && !slices.ContainsFunc(s.Ordering.Types, untyped) {
		d.warn(key+".ordering.types", "identity.type does not say where an event's type is, so no event is ordered")
	}
	d.checkPathSelectors(at, s)
	d.checkBodiless(key, s)
}

// checkBodiless looks for methods without a body where the id is the body's hash.
func (d *decoder) checkBodiless(key string, s *Source) {
	list, _ := selector.ParseList(s.Identity.ID...)
	hash := false
	for sel := range list.All() {
		switch sel.Kind() {
		case selector.BodySHA256:
			hash = true
		case selector.Header, selector.Query, selector.Path:
			return
		}
	}
	for i, m := range s.Methods {
		if hash && (m == "GET" || m == "HEAD") && s.Dedup.Mode != "observe" {
			d.warn(fmt.Sprintf("%s.methods[%d]", key, i), "a %s has no body, and identity.id is its hash: all of them are one event, which is delivered once; a challenge needs no method here", m)
		}
	}
}

// checkPathSelectors looks for path:name without a {name} in the path.
func (d *decoder) checkPathSelectors(key string, s *Source) {
	id := s.Identity
	for _, f := range []struct {
		name  string
		texts selector.Texts
	}{{"id", id.ID}, {"account", id.Account}, {"type", id.Type}, {"resource", id.Resource}, {"version", id.Version}, {"occurred_at", id.OccurredAt}} {
		list, _ := selector.ParseList(f.texts...) // its faults are told already
		for sel := range list.All() {
			if sel.Kind() == selector.Path && !slices.Contains(strings.Split(s.Path, "/"), "{"+sel.Name()+"}") {
				d.fail(key+"."+f.name, "", "path:%s: the path has no segment {%[1]s}", sel.Name())
			}
		}
	}
}

// checkWindow compares how long ids are remembered with how long the sender repeats them.
func (d *decoder) checkWindow(c *Config, key string, s *Source) {
	if w := s.Preset.RetryWindow; w > c.Retention.Dedup {
		d.warn(key+".provider", "%s repeats an event for up to %s, but retention.dedup forgets it after %s: a late repeat is delivered again",
			s.Provider, shape.FormatDuration(w), shape.FormatDuration(c.Retention.Dedup))
	}
}

// Params are the handshake's values by name, the first of each: what {config:name} in a verify.Spec means.
func (s *Source) Params() map[string]string {
	out := make(map[string]string, len(s.Handshake))
	for k, v := range s.Handshake {
		if len(v) > 0 {
			out[k] = v[0]
		}
	}
	return out
}
