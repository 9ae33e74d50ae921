// Negatives writes verify/testdata/negatives.json: requests that must be refused, for the rows of which the corpus has fewer than three. Each is
// a genuine request of the corpus with one thing changed, and by the definition of its scheme alone no signature is good any more; nothing here
// asks the engine. Run it with go generate ./provider.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

const dir = "../verify/testdata/" // go generate runs in provider

func main() {
	text, err := negatives(dir+"vectors.json", dir+"more.json")
	if err == nil {
		err = os.WriteFile(dir+"negatives.json", text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "negatives:", err)
		os.Exit(1)
	}
}

// enough is how many negatives every row has.
const enough = 3

// vector is a provider.Vector with all its members, as the corpus writes it.
type vector map[string]any

func (v vector) text(name string) string { s, _ := v[name].(string); return s }
func (v vector) head() map[string]any    { h, _ := v["headers"].(map[string]any); return h }
func (v vector) clone() vector {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was JSON
	}
	return decode(b)
}

func decode(b []byte) (v vector) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		panic(err)
	}
	return v
}

func negatives(files ...string) ([]byte, error) {
	genuine, known := map[string]vector{}, map[string][]string{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var list []json.RawMessage
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, raw := range list {
			v := decode(raw)
			if id := v.text("provider"); v.text("expect") != "valid" {
				known[id] = append(known[id], v.text("name"))
			} else if genuine[id] == nil {
				genuine[id] = v
			}
		}
	}
	var out []vector
	for _, p := range provider.All() {
		if v := genuine[p.ID]; v != nil && len(known[p.ID]) < enough {
			out = append(out, spoil(&p.Verify, v, known[p.ID])...)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(out)
	return b.Bytes(), err
}

// same are names of the corpus that mean what a name here means.
var same = map[string][]string{
	"wrong-secret":      {"wrong-token", "wrong", "wrong-user", "wrong-password", "wrong-key", "official-sdk-bad-key", "prefix-of-token"},
	"missing-signature": {"missing", "missing-token", "no-signature"},
	"altered-signature": {"wrong-token", "wrong", "official-sdk-mismatch"},
	"tampered-body":     {"field-changed", "amount-changed", "tampered-payload"},
	"stale-timestamp":   {"expired"},
	"duplicate-header":  {"duplicate"},
}

// spoil gives every way to spoil a genuine request that its scheme defines, and the corpus does not have for this row.
func spoil(s *verify.Spec, genuine vector, known []string) []vector {
	var out []vector
	add := func(name, why string, change func(vector) bool) {
		if slices.Contains(known, name) || slices.ContainsFunc(same[name], func(n string) bool { return slices.Contains(known, n) }) {
			return
		}
		v := genuine.clone()
		if !change(v) {
			return
		}
		for _, gone := range []string{"sdk_agrees", "sdk_disagrees", "note", "policy"} {
			delete(v, gone)
		}
		v["name"], v["expect"], v["why"], v["source"] = name, "invalid", why, "a genuine vector ("+genuine.text("name")+") with one thing changed"
		out = append(out, v)
	}
	add("wrong-secret", "the receiver holds another secret", func(v vector) bool { return otherSecret(s, v) })
	add("missing-signature", "what has the signature is absent", func(v vector) bool { return onSignature(s, v, nil) })
	add("altered-signature", "one character of every signature is another", func(v vector) bool { return onSignature(s, v, alter) })
	add("truncated-signature", "half of the signature's text is gone", func(v vector) bool { return onSignature(s, v, func(t string) string { return t[:len(t)/2] }) })
	add("duplicate-header", "the header is there on two lines, though both are genuine", func(v vector) bool { return duplicate(s, v) })
	add("tampered-body", "one byte of the signed body is another", func(v vector) bool {
		if !strings.Contains(s.Signed, "{body}") && s.BodyClaim == "" && !strings.Contains(s.Signed, "{form_sorted}") {
			return false
		}
		return changeBody(v)
	})
	add("other-url", "the request came in on another path than the one that was signed", func(v vector) bool {
		if !s.SignsURL() {
			return false
		}
		base, query, has := strings.Cut(v.text("url"), "?")
		v["url"] = base + "-other"
		if has {
			v["url"] = base + "-other?" + query
		}
		return true
	})
	add("stale-timestamp", "older than its tolerance or its end allows, by a minute or more", func(v vector) bool { return shift(s, v, time.Minute) })
	add("future-timestamp", "further ahead than its tolerance allows, by a minute or more", func(v vector) bool { return shift(s, v, -time.Minute) })
	add("timestamp-replaced", "the signed timestamp is another", func(v vector) bool {
		name, ok := strings.CutPrefix(s.Timestamp, "header:")
		return ok && !strings.HasPrefix(name, "{") && strings.Contains(s.Signed, "{timestamp}") && onHeader(v, name, func(t string) string {
			last := t[len(t)-1]
			return t[:len(t)-1] + string('0'+(last-'0'+1)%10)
		})
	})
	add("id-replaced", "the signed id is another", func(v vector) bool {
		return s.ID != "" && onHeader(v, s.ID, func(t string) string { return t + "0" })
	})
	return out
}

// otherSecret gives the receiver another secret, in the form that the scheme wants.
func otherSecret(s *verify.Spec, v vector) bool {
	if _, has := v["secrets"].([]any); !has || v.text("public_key") != "" || v["remote_keys"] != nil || s.Scheme == "public_key" {
		return false
	}
	other := "another-secret"
	switch s.Key {
	case "hex":
		other = "00112233445566778899aabbccddeeff"
	case "base64", "whsec":
		other = "AAECAwQFBgcICQoLDA0ODw=="
	}
	v["secrets"] = []any{other}
	return true
}

// header finds a header of the vector in any case.
func header(v vector, name string) string {
	for k := range v.head() {
		if strings.EqualFold(k, name) {
			return k
		}
	}
	return ""
}

// onHeader changes the one line of a header; without a change the header goes.
func onHeader(v vector, name string, change func(string) string) bool {
	k := header(v, name)
	value, one := v.head()[k].(string)
	switch {
	case k == "" || !one:
		return false
	case change == nil:
		delete(v.head(), k)
	default:
		v.head()[k] = change(value)
	}
	return true
}

// signatureHeaders are the headers of the vector that hold signatures or tokens.
func signatureHeaders(s *verify.Spec, v vector) []string {
	var out []string
	for k := range v.head() {
		numbered, ok := strings.CutPrefix(s.Location, "headers:")
		switch {
		case strings.EqualFold(k, s.Header), ok && strings.HasPrefix(strings.ToLower(k), strings.ToLower(numbered)),
			strings.EqualFold(k, "Authorization") && (s.Location == "bearer" || s.Location == "basic" || strings.HasPrefix(s.Location, "authorization:")),
			slices.ContainsFunc(s.Also, func(a string) bool { return strings.EqualFold(a, k) }):
			out = append(out, k)
		}
	}
	return out
}

// onSignature changes the text of every signature where the scheme has it; without a change it goes.
func onSignature(s *verify.Spec, v vector, change func(string) string) bool {
	if heads := signatureHeaders(s, v); len(heads) > 0 {
		for _, k := range heads {
			if !onHeader(v, k, change) {
				return false
			}
		}
		return true
	}
	kind, name, _ := strings.Cut(s.Location, ":")
	if param, ok := strings.CutPrefix(name, "{config:"); ok {
		config, _ := v["config"].(map[string]any)
		name, _ = config[strings.TrimSuffix(param, "}")].(string)
	}
	switch kind {
	case "query":
		base, query, _ := strings.Cut(v.text("url"), "?")
		query, ok := onPair(query, name, change)
		v["url"] = base + "?" + query
		return ok
	case "form":
		body, ok := onPair(v.text("body"), name, change)
		v["body"] = body
		return ok
	case "json":
		return onMember(v, name[strings.LastIndexByte(name, '.')+1:], change)
	case "body":
		if change == nil {
			change = func(string) string { return "" }
		}
		v["body"] = change(v.text("body"))
		return true
	}
	return false
}

// onPair changes the value of a parameter, or gives it another name.
func onPair(pairs, name string, change func(string) string) (string, bool) {
	list := strings.Split(pairs, "&")
	for i, p := range list {
		if value, ok := strings.CutPrefix(p, name+"="); ok {
			if list[i] = "not-" + p; change != nil {
				list[i] = name + "=" + change(value)
			}
			return strings.Join(list, "&"), true
		}
	}
	return pairs, false
}

// onMember changes the strings of a member of the body's JSON, or gives it another name.
func onMember(v vector, name string, change func(string) string) bool {
	body, begin := v.text("body"), `"`+name+`":`
	if change == nil {
		v["body"] = strings.ReplaceAll(body, begin, `"not-`+name+`":`)
		return v.text("body") != body
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(body, begin)
		out.WriteString(before)
		if !found {
			break
		}
		space := after[:len(after)-len(strings.TrimLeft(after, " "))]
		value, rest, ok := strings.Cut(strings.TrimPrefix(after[len(space):], `"`), `"`)
		if !ok {
			return false
		}
		out.WriteString(begin + space + `"` + change(value) + `"`)
		body = rest
	}
	changed := out.String() != v.text("body")
	v["body"] = out.String()
	return changed
}

// alter puts another character into every run of at least sixteen letters and digits, or, where there is none, into the longest.
func alter(text string) string {
	b := []byte(text)
	longest, at := 0, 0
	for i := 0; i < len(b); {
		j := i
		for j < len(b) && isAlnum(b[j]) {
			j++
		}
		if j-i > longest {
			longest, at = j-i, i+(j-i)/2
		}
		if j-i >= 16 {
			b[i+(j-i)/2] = other(b[i+(j-i)/2])
		}
		i = j + 1
	}
	if longest < 16 && longest > 0 {
		b[at] = other(b[at])
	}
	return string(b)
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// other is another hexadecimal digit, which is also one of base64.
func other(c byte) byte {
	if c == '0' {
		return '1'
	}
	return '0'
}

func duplicate(s *verify.Spec, v vector) bool {
	if strings.HasPrefix(s.Location, "headers:") {
		return false
	}
	heads := signatureHeaders(s, v)
	for _, k := range heads {
		value, one := v.head()[k].(string)
		if !one {
			return false
		}
		v.head()[k] = []any{value, value}
	}
	return len(heads) > 0
}

// changeBody changes a letter or digit in the middle of the body: of a value, where the body is a form.
func changeBody(v vector) bool {
	b := []byte(v.text("body"))
	for i := len(b) / 2; i < len(b); i++ {
		if isAlnum(b[i]) && (i < 2 || b[i-1] != '%' && b[i-2] != '%' && b[i-1] != '\\' && b[i-1] != 'u') {
			b[i] = other(b[i])
			v["body"] = string(b)
			return true
		}
	}
	return false
}

// shift moves the receiver's clock beyond what the signature's time allows, or, of a token, beyond its end.
func shift(s *verify.Spec, v vector, by time.Duration) bool {
	now, err := strconv.ParseInt(fmt.Sprint(v["now"]), 10, 64)
	if err != nil {
		return false
	}
	tolerance := s.Tolerance
	if s.Scheme == "jwt" {
		exp, has := expiry(s, v)
		if by < 0 || !has {
			return false
		}
		v["now"] = exp + int64((s.Leeway + by).Seconds())
		return true
	}
	if s.Timestamp == "" || strings.Contains(s.Timestamp, "{config:") || tolerance == 0 {
		return false
	}
	if by < 0 {
		tolerance = -tolerance
	}
	v["now"] = now + int64((tolerance + 2*by).Seconds()) // the genuine one may be a little off itself
	return true
}

// expiry is exp of the vector's token (RFC 7519 §4.1.4).
func expiry(s *verify.Spec, v vector) (int64, bool) {
	token := v.text("body")
	for _, k := range signatureHeaders(s, v) {
		value, _ := v.head()[k].(string)
		token = value[strings.LastIndexByte(value, ' ')+1:]
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var exp [1]selector.JSONValue
	if selector.NewJSONSet("exp").Extract(payload, exp[:]) != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(exp[0].Text(), 10, 64)
	return n, err == nil
}
