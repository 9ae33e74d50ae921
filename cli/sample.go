package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// sample is a test event. Its request is made backwards: a value is put wherever the source's selectors will look for it.
type sample struct {
	id, typ, resource, version, account string
	at                                  time.Time
}

// draft is a request under construction. The first value that is put into a place stays.
type draft struct {
	target []byte
	query  url.Values
	form   url.Values
	doc    map[string]any
	heads  []string // name, value, …
	isForm bool
}

// placeholder names in `signed` that need a value: {header:Name}, {json:path} …
var placeholder = regexp.MustCompile(`\{(header|query|form|json):([^}|?]+)[^}]*\}`)

// request writes the sample as a sender with this scheme and this identity would, without its signature.
func (s *sample) request(method string, target []byte, host string, spec *verify.Spec, identity *selector.IdentitySpec, secret string) *event.Request {
	d := &draft{target: target, query: url.Values{}, form: url.Values{}, doc: map[string]any{}}
	d.isForm = strings.Contains(spec.Signed, "{form_sorted}") || strings.Contains(spec.Signed, "{url_sorted}")
	unix := json.Number(strconv.FormatInt(s.at.Unix(), 10))
	d.put(identity.ID, s.id, s.id)
	d.put(identity.Account, s.account, s.account)
	d.put(identity.Resource, s.resource, s.resource)
	d.put(identity.Version, s.version, json.Number(s.version))
	d.put(identity.Type, s.typ, s.typ)
	d.put(identity.OccurredAt, s.at.UTC().Format(time.RFC3339), unix)
	if spec.ID != "" {
		d.put(selector.Texts{"header:" + spec.ID}, s.id, s.id)
	}
	stamp := stampIn(spec.Unit, s.at)
	d.put(selector.Texts{spec.Timestamp}, stamp, json.Number(stamp))
	d.put(selector.Texts{spec.Allow}, secret, secret)
	for _, m := range placeholder.FindAllStringSubmatch(spec.Signed, -1) {
		value := "test"
		if m[1] == "form" { // it is the event
			value = s.id
		}
		d.put(selector.Texts{m[1] + ":" + m[2]}, value, value)
	}
	if strings.HasPrefix(spec.Location, "json:") || strings.HasPrefix(spec.Location, "form:") {
		d.put(selector.Texts{spec.Location}, "test", "test") // the signature is written over it
	}
	return d.finish(method, host, spec, s.id)
}

func stampIn(unit string, at time.Time) string {
	switch unit {
	case "ms":
		return strconv.FormatInt(at.UnixMilli(), 10)
	case "rfc3339":
		return at.UTC().Format(time.RFC3339)
	}
	return strconv.FormatInt(at.Unix(), 10)
}

// put writes a value where every selector of a list looks; further parts of a joined value get a value of their own.
func (d *draft) put(where selector.Texts, text string, value any) {
	for i, w := range where {
		w, _, _ = strings.Cut(w, " | ") // the first alternative
		kind, name, _ := strings.Cut(w, ":")
		if text == "" && i == 0 {
			return
		}
		if i > 0 {
			text, value = "part-"+strconv.Itoa(i), "part-"+strconv.Itoa(i)
		}
		switch kind {
		case "header":
			if !d.hasHead(name) {
				d.heads = append(d.heads, name, text)
			}
		case "query":
			if !d.query.Has(name) {
				d.query.Set(name, text)
			}
		case "form":
			d.isForm = true
			if !d.form.Has(name) {
				d.form.Set(name, text)
			}
		case "json":
			set(d.doc, pathOf(name), value)
		}
	}
}

func (d *draft) hasHead(name string) bool {
	for i := 0; i < len(d.heads); i += 2 {
		if strings.EqualFold(d.heads[i], name) {
			return true
		}
	}
	return false
}

// finish writes the parts. Every body is its own, so that its hash and its MAC are too.
func (d *draft) finish(method, host string, spec *verify.Spec, nonce string) *event.Request {
	req := &event.Request{Method: method, Target: d.target, Host: []byte(host)}
	if len(d.query) > 0 {
		sep := "?"
		if strings.Contains(string(d.target), "?") {
			sep = "&"
		}
		req.Target = []byte(string(d.target) + sep + d.query.Encode())
	}
	contentType := "application/json"
	if name, ok := strings.CutPrefix(spec.Document, "form:"); ok {
		d.isForm = true
		d.form.Set(name, string(encode(d.doc)))
	}
	if d.isForm {
		contentType = "application/x-www-form-urlencoded"
		d.form.Set("hooktender_test", nonce)
		req.Body = []byte(d.form.Encode())
	} else {
		if _, taken := d.doc["hooktender_test"]; !taken {
			d.doc["hooktender_test"] = nonce
		}
		req.Body = encode(d.doc)
	}
	req.Head = req.Head.AppendString("Content-Type", contentType)
	for i := 0; i < len(d.heads); i += 2 {
		req.Head = req.Head.AppendString(d.heads[i], d.heads[i+1])
	}
	return req
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte("{}") // strings, numbers, maps and lists can be written
	}
	return b
}

// pathOf cuts a JSON path (a.b.0.c) or pointer (/a/b) into its members.
func pathOf(name string) []string {
	if rest, ok := strings.CutPrefix(name, "/"); ok {
		parts := strings.Split(rest, "/")
		for i := range parts {
			parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i])
		}
		return parts
	}
	return strings.Split(name, ".")
}

// set puts a value at a path, unless something is there. A number as a member is an index: the list is filled up with nulls.
func set(doc map[string]any, path []string, value any) {
	key, rest := path[0], path[1:]
	if len(rest) == 0 {
		if doc[key] == nil {
			doc[key] = value
		}
		return
	}
	if i, err := strconv.Atoi(rest[0]); err == nil && i < 16 {
		list, _ := doc[key].([]any)
		for len(list) <= i {
			list = append(list, nil)
		}
		doc[key] = list
		if len(rest) == 1 {
			if list[i] == nil {
				list[i] = value
			}
			return
		}
		inner, _ := list[i].(map[string]any)
		if inner == nil {
			inner = map[string]any{}
			list[i] = inner
		}
		set(inner, rest[1:], value)
		return
	}
	inner, ok := doc[key].(map[string]any)
	if !ok {
		inner = map[string]any{}
		doc[key] = inner
	}
	set(inner, rest, value)
}

// signer signs samples as one source's sender does.
type signer struct {
	identity selector.IdentitySpec
	secret   string
	verifier *verify.Verifier
}

func newSigner(spec verify.Spec, identity selector.IdentitySpec, secrets []verify.Secret, opts verify.Options) (*signer, error) {
	v, err := verify.Compile(spec, secrets, opts)
	if err != nil {
		return nil, err
	}
	s := &signer{identity: identity, verifier: v}
	if len(secrets) > 0 {
		s.secret = string(secrets[0].Bytes())
	}
	return s, nil
}

// sign makes a request that the gateway will accept; the error says why that cannot be done here.
func (s *signer) sign(e *sample, method string, target []byte, host string) (*event.Request, error) {
	req, err := s.verifier.Sign(e.request(method, target, host, s.verifier.Spec(), &s.identity, s.secret), e.at)
	if err != nil {
		return nil, err
	}
	if v := s.verifier.Verify(req, e.at); !v.OK {
		return nil, fmt.Errorf("a test event of this sender cannot be made here (%s)", v.Check)
	}
	return req, nil
}
