package verify

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Finding is one line of an explanation. It never shows a secret or a MAC.
type Finding struct {
	OK    bool   // the thing held
	Check Check  // what failed; CheckNone for what held and for hints
	Text  string // for people
}

// Explain says how Verify judges req and, where it refuses, what is wrong and which small change would make the
// signature fit: a trailing newline, another form of the key, another algorithm, another URL. It costs several
// verifications: for the command line, not for the public port.
func (v *Verifier) Explain(req *event.Request, now time.Time) []Finding {
	if len(v.parts) > 0 {
		return v.explainParts(req, now)
	}
	verdict := v.Verify(req, now)
	if verdict.OK {
		return v.explainGood(verdict, now)
	}
	out := []Finding{{Check: verdict.Check, Text: v.describe(verdict, req, now)}}
	switch verdict.Check {
	case CheckMissing:
		out = append(out, v.explainMissing(req)...)
	case CheckMalformed:
		out = append(out, v.explainMalformed(req)...)
	case CheckMismatch:
		out = append(out, v.explainMismatch(req, now)...)
	}
	return out
}

func (v *Verifier) explainGood(verdict Verdict, now time.Time) []Finding {
	out := []Finding{{OK: true, Text: "the signature fits"}}
	if v.spec.Scheme == "none" {
		return []Finding{{OK: true, Text: "nothing is verified: scheme none"}}
	}
	if verdict.SecretIndex >= 0 && len(v.secrets)+len(v.keys.static) > 1 {
		out[0].Text = fmt.Sprintf("the signature fits secret or key number %d", verdict.SecretIndex+1)
	}
	if !verdict.SignedAt.IsZero() {
		text := fmt.Sprintf("signed %s", distance(now.Sub(verdict.SignedAt)))
		if t := v.Tolerance(); t > 0 {
			text += fmt.Sprintf(", tolerance %s", t)
		} else {
			text += ", any age is accepted"
		}
		out = append(out, Finding{OK: true, Text: text})
	}
	return append(out, Finding{OK: true, Text: "the signature binds: " + string(v.binds)})
}

// distance says how far away a time is.
func distance(d time.Duration) string {
	switch {
	case endless(d):
		return "in another century"
	case d < 0:
		return fmt.Sprintf("%d s in the future", int64(-d/time.Second))
	}
	return fmt.Sprintf("%d s ago", int64(d/time.Second))
}

// endless says whether a duration is as long as one can be: times further apart have that distance, too.
func endless(d time.Duration) bool { return d == math.MinInt64 || d == math.MaxInt64 }

func (v *Verifier) describe(verdict Verdict, req *event.Request, now time.Time) string {
	d := now.Sub(verdict.SignedAt)
	if endless(d) && (verdict.Check == CheckStale || verdict.Check == CheckFuture) && !verdict.SignedAt.IsZero() {
		return fmt.Sprintf("the signature fits, but it was signed in the year %d: its time is not in the unit %s, perhaps", verdict.SignedAt.UTC().Year(), orElse(v.spec.Unit, "s"))
	}
	switch verdict.Check {
	case CheckMissing:
		return "something that must be there is absent"
	case CheckDuplicate:
		return "a header, parameter or JSON member that matters is there twice: " + strings.Join(v.duplicates(req), ", ")
	case CheckMalformed:
		return "the signature or the timestamp cannot be read"
	case CheckTooLarge:
		return fmt.Sprintf("the signature's header is over %d bytes or holds over %d signatures", MaxHeader, MaxCandidates)
	case CheckRequired:
		return "a header or algorithm that must have a certain value has another"
	case CheckSender:
		return "the sender or its key is not known here, has expired, or is published at a place that is not trusted"
	case CheckMismatch:
		return "no secret or key fits the signature"
	case CheckBody:
		return "the signature fits, but the body is not the one whose hash it covers"
	case CheckClaim:
		return "a claim or covered component is absent or not as configured"
	case CheckRefused:
		return "the signature fits, but what is signed has the form of a challenge"
	case CheckStale:
		if verdict.SignedAt.IsZero() || v.Tolerance() == 0 || d <= v.Tolerance() {
			return "the signature fits, but it has expired"
		}
		return fmt.Sprintf("the signature fits, but it is %d s too old: signed %s, tolerance %s", int64((d-v.Tolerance()+time.Second-1)/time.Second), distance(d), v.Tolerance())
	case CheckKeys:
		return "the sender's key cannot be had now: whoever publishes it cannot be asked, or does not answer"
	case CheckFuture:
		if verdict.SignedAt.IsZero() || v.Tolerance() == 0 || -d <= v.Tolerance() {
			return "the signature fits, but it is not valid yet"
		}
		return fmt.Sprintf("the signature fits, but it is %d s too far in the future: signed %s, tolerance %s", int64((-d-v.Tolerance()+time.Second-1)/time.Second), distance(d), v.Tolerance())
	}
	return verdict.Check.String()
}

// headers are the names of the headers that this scheme reads.
func (v *Verifier) headers() []string {
	var names []string
	add := func(n string) {
		if n != "" && !slices.ContainsFunc(names, func(x string) bool { return strings.EqualFold(x, n) }) {
			names = append(names, n)
		}
	}
	switch v.loc.kind {
	case "header":
		add(v.loc.name)
	case "numbered":
		add(v.loc.name + "1")
	case "authorization":
		add("Authorization")
	}
	if v.stamp.kind == "header" {
		add(v.stamp.name)
	}
	add(v.id)
	for _, r := range v.require {
		add(r.name)
	}
	if v.spec.Scheme == "http_signature" {
		add("Signature-Input")
		add("Signature")
	}
	if v.tmpl != nil {
		for _, o := range v.tmpl.ops {
			if o.kind == "header" && !o.optional && o.segment == 0 {
				add(o.name)
			}
		}
	}
	return names
}

func (v *Verifier) duplicates(req *event.Request) []string {
	var out []string
	for _, name := range v.headers() {
		if _, n := req.Head.Get(name); n > 1 {
			out = append(out, fmt.Sprintf("%s (%d lines)", name, n))
		}
	}
	if len(out) == 0 {
		out = append(out, "not a header line, but inside of one, the query or the body")
	}
	return out
}

func (v *Verifier) explainMissing(req *event.Request) []Finding {
	var out []Finding
	for _, name := range v.headers() {
		if _, n := req.Head.Get(name); n == 0 {
			out = append(out, Finding{Check: CheckMissing, Text: "there is no header " + name})
		}
	}
	if v.loc.kind == "query" || v.loc.kind == "form" || v.loc.kind == "json" {
		out = append(out, Finding{Text: fmt.Sprintf("the signature is looked for at %s:%s", v.loc.kind, v.loc.name)})
	}
	if v.loc.kind == "connection" {
		out = append(out, Finding{Check: CheckMissing, Text: "the sender showed no client certificate on its connection"})
	}
	if len(out) == 0 {
		return []Finding{{Text: "a value that is signed is absent"}}
	}
	for name := range req.Head.All() {
		if low := strings.ToLower(string(name)); (strings.Contains(low, "signature") || strings.Contains(low, "hmac")) && !slices.ContainsFunc(v.headers(), func(h string) bool { return event.EqualFold(name, h) }) {
			out = append(out, Finding{Text: "there is a header " + string(name) + ": another provider's?"})
		}
	}
	return out
}

func (v *Verifier) explainMalformed(req *event.Request) []Finding {
	var out []Finding
	if v.stamp.kind == "header" {
		if stamp, n := req.Head.Get(v.stamp.name); n == 1 {
			if _, ok := parseTime(stamp, v.spec.Unit); !ok {
				out = append(out, Finding{Check: CheckMalformed, Text: fmt.Sprintf("the timestamp in %s is not written as %s", v.stamp.name, orElse(v.spec.Unit, "s"))})
			}
		}
	}
	if v.noDot {
		if id, n := req.Head.Get(v.id); n == 1 && bytes.IndexByte(id, '.') >= 0 {
			out = append(out, Finding{Check: CheckMalformed, Text: "the id in " + v.id + " has a dot in it"})
		}
	}
	if v.loc.kind != "header" || v.spec.Scheme == "jwt" || len(out) > 0 {
		return out
	}
	raw, n := req.Head.Get(v.loc.name)
	if n != 1 {
		return out
	}
	switch v.spec.Format {
	case "", "plain":
		rest, ok := bytes.CutPrefix(raw, []byte(v.spec.Prefix))
		if !ok {
			return append(out, Finding{Check: CheckMalformed, Text: fmt.Sprintf("%s does not begin with %q", v.loc.name, v.spec.Prefix)})
		}
		if _, ok := decode(nil, rest, v.spec.Encoding); !ok {
			return append(out, Finding{Check: CheckMalformed, Text: fmt.Sprintf("the signature in %s is not %s (%d characters)%s", v.loc.name, v.spec.Encoding, len(rest), otherEncoding(rest, v.spec.Encoding))})
		}
	default:
		what := "signature"
		if v.stamp.kind == "field" {
			what += " or timestamp"
		}
		out = append(out, Finding{Check: CheckMalformed, Text: fmt.Sprintf("%s has no %s that can be read in the form %s under %s", v.loc.name, what, v.spec.Format, strings.Join(v.spec.Fields, ", "))})
	}
	return out
}

func otherEncoding(text []byte, not string) string {
	for _, e := range []string{"hex", "base64", "base64url"} {
		if _, ok := decode(nil, text, e); ok && e != not {
			return "; it could be " + e
		}
	}
	return ""
}

// explainMismatch tries small changes to body, key, algorithm and URL.
func (v *Verifier) explainMismatch(req *event.Request, now time.Time) []Finding {
	var out []Finding
	try := func(v *Verifier, req *event.Request, text string) {
		if c := v.Verify(req, now).Check; c == CheckNone || c == CheckStale || c == CheckFuture {
			out = append(out, Finding{Text: "the signature would fit " + text})
		}
	}
	for _, b := range bodies(req.Body) {
		changed := *req
		changed.Body = b.body
		try(v, &changed, b.text)
	}
	for _, alt := range v.alternatives(req) {
		other, err := Compile(alt.spec, alt.secrets, alt.opts)
		if err == nil {
			try(other, req, alt.text)
		}
	}
	if len(out) == 0 {
		hint := "wrong secret, or the body was changed on the way (a parser that writes JSON again, a framework that decodes it)"
		if v.spec.SignsURL() {
			hint += ", or public_url is not what the sender calls"
		}
		out = append(out, Finding{Text: hint})
	}
	return out
}

type variant struct {
	text string
	body []byte
}

func bodies(b []byte) []variant {
	var out []variant
	add := func(text string, body []byte) {
		if !bytes.Equal(body, b) {
			out = append(out, variant{text, body})
		}
	}
	add("without the trailing newline", bytes.TrimRight(b, "\r\n"))
	add("with a newline at the end of the body", append(bytes.Clone(b), '\n'))
	add("with CRLF in place of LF", bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n")))
	add("with LF in place of CRLF", bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
	add("without the byte order mark", bytes.TrimPrefix(b, []byte("\ufeff")))
	add("with an empty body", nil)
	return out
}

type alternative struct {
	text    string
	spec    Spec
	secrets []Secret
	opts    Options
}

func (v *Verifier) alternatives(req *event.Request) []alternative {
	var secrets []Secret
	for _, t := range v.tokens {
		secrets = append(secrets, NewSecret(t))
	}
	var out []alternative
	add := func(text string, change func(*alternative)) {
		a := alternative{text, v.spec.Clone(), secrets, v.opts}
		change(&a)
		out = append(out, a)
	}
	if v.spec.Scheme == "hmac" {
		for _, key := range []string{"utf8", "base64", "hex", "whsec"} {
			if key != orElse(v.spec.Key, "utf8") {
				add("with the secret taken as "+key, func(a *alternative) { a.spec.Key = key })
			}
		}
	}
	if v.spec.Scheme == "hmac" || v.spec.Scheme == "digest" {
		for _, encoding := range choices["encoding"][1:] {
			if encoding != v.spec.Encoding {
				add("read as "+encoding, func(a *alternative) { a.spec.Encoding = encoding })
			}
		}
		for _, alg := range choices["hmac"] {
			if alg != v.spec.Algorithm {
				add("with algorithm "+alg, func(a *alternative) { a.spec.Algorithm = alg })
			}
		}
	}
	if v.spec.SignsURL() {
		for _, scheme := range []string{"https", "http"} {
			base := scheme + "://" + string(req.Host)
			if len(req.Host) > 0 && base != strings.TrimSuffix(v.opts.PublicURL, "/") {
				add("with public_url "+base, func(a *alternative) { a.opts.PublicURL = base })
			}
		}
	}
	return out
}
