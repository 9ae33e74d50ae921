package verify

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/selector"
)

// signMAC signs out in place. st.req is out.
func (v *Verifier) signMAC(st *state, out *event.Request) error {
	if v.items != nil {
		return fmt.Errorf("%w: every item of the batch carries its own", ErrCannotSign)
	}
	stamp := appendTime(nil, st.now, v.spec.Unit)
	switch v.stamp.kind {
	case "header":
		out.Head = setLine(out.Head, v.stamp.name, stamp)
	case "json":
		if err := v.placeJSON(out, v.stamp.name, stamp); err != nil {
			return err
		}
	}
	v.nameHeaders(out)
	for _, name := range v.spec.Also {
		out.Head = dropLines(out.Head, name)
	}
	if err := v.document(st); err != nil {
		return err
	}
	if c := v.prepare(st); c != CheckNone {
		return fmt.Errorf("%w: what is signed is %s", ErrCannotSign, c)
	}
	if c := v.bodyHash(st); c != CheckNone {
		return fmt.Errorf("%w: the body's hash is %s", ErrCannotSign, c)
	}
	if v.stamp.kind == "field" {
		st.stamp = stamp
	}
	v.buildURL(st, 0)
	sum, c := v.mac(st, 0)
	if c != CheckNone {
		return fmt.Errorf("%w: what is signed is %s", ErrCannotSign, c)
	}
	return v.place(out, v.signatureText(sum, stamp))
}

// nameHeaders adds the list of signed headers where the scheme has one and the request does not: itself and the timestamp.
func (v *Verifier) nameHeaders(out *event.Request) {
	for _, o := range v.tmpl.ops {
		if _, n := out.Head.Get(o.name); o.kind == "headers" && n == 0 {
			list := []string{strings.ToLower(o.name)}
			if v.stamp.kind == "header" {
				list = append(list, strings.ToLower(v.stamp.name))
			}
			slices.Sort(list)
			out.Head = setLine(out.Head, o.name, []byte(strings.Join(list, ",")))
		}
	}
}

// document reads the JSON that the message needs.
func (v *Verifier) document(st *state) error {
	st.doc = st.req.Body
	if p, ok := v.places["document"]; ok {
		doc, present, _ := st.at(p)
		if !present {
			return fmt.Errorf("%w: no %s", ErrCannotSign, v.spec.Document)
		}
		st.doc = doc
	}
	if v.set != nil && v.set.Extract(st.doc, st.json) != nil {
		return fmt.Errorf("%w: the document is not JSON", ErrCannotSign)
	}
	return nil
}

// signatureText is the header's value for one signature.
func (v *Verifier) signatureText(sum, stamp []byte) []byte {
	sig := appendEncoded([]byte(v.spec.Prefix), sum, v.spec.Encoding)
	first := func() string {
		if len(v.spec.Fields) == 0 {
			return ""
		}
		return v.spec.Fields[0]
	}
	switch v.spec.Format {
	case "parameters":
		return fmt.Appendf(nil, "%s=%q", first(), sig)
	case "fields":
		text := []byte{}
		if v.stamp.kind == "field" {
			text = fmt.Appendf(text, "%s=%s%s", v.stamp.name, stamp, v.separator())
		}
		return fmt.Appendf(text, "%s=%s", first(), sig)
	case "tagged":
		return fmt.Appendf(nil, "%s,%s", first(), sig)
	case "positional":
		return fmt.Appendf(nil, "%s%s%s", stamp, v.separator(), sig)
	case "pairs":
		return fmt.Appendf(nil, "%s|%s", first(), sig)
	}
	return sig
}

// place puts a signature or token where the scheme has it.
func (v *Verifier) place(out *event.Request, text []byte) error {
	switch v.loc.kind {
	case "header":
		out.Head = setLine(out.Head, v.loc.name, text)
	case "numbered":
		out.Head = setLine(out.Head, v.loc.name+"1", text)
	case "authorization":
		out.Head = setLine(out.Head, "Authorization", append([]byte(v.loc.name+" "), text...))
	case "body":
		out.Body = text
	case "query":
		out.Target = setQuery(out.Target, v.loc.name, text)
	case "form":
		out.Body = setPair(out.Body, v.loc.name, text)
	case "json":
		return v.placeJSON(out, v.loc.name, text)
	}
	return nil
}

// placeJSON overwrites the string or number that is at path.
func (v *Verifier) placeJSON(out *event.Request, path string, text []byte) error {
	doc := out.Body
	form, inForm := v.places["document"]
	if inForm {
		doc, _, _ = selector.Lookup(out.Body, form.name)
	}
	var at [1]selector.JSONValue
	if selector.NewJSONSet(path).Extract(doc, at[:]) != nil || at[0].Kind != selector.String && at[0].Kind != selector.Number {
		return fmt.Errorf("%w: the body has no text at %s", ErrCannotSign, path)
	}
	raw := at[0].Raw()
	if len(raw) == 0 {
		return fmt.Errorf("%w: put any text at %s first", ErrCannotSign, path)
	}
	i := within(doc, raw)
	doc = bytes.Join([][]byte{doc[:i], text, doc[i+len(raw):]}, nil)
	if inForm {
		doc = setPair(out.Body, form.name, doc)
	}
	out.Body = doc
	return nil
}

func setQuery(target []byte, name string, value []byte) []byte {
	path, query, _ := bytes.Cut(target, []byte{'?'})
	return bytes.Join([][]byte{path, setPair(query, name, value)}, []byte{'?'})
}

// setPair replaces a pair of a query or form, or adds it.
func setPair(encoded []byte, name string, value []byte) []byte {
	var out []byte
	pair := []byte(url.QueryEscape(name) + "=" + url.QueryEscape(string(value)))
	done := false
	for k, val := range selector.Pairs(encoded) {
		one := bytes.Join([][]byte{k, val}, []byte{'='})
		if key, ok := selector.Unescape(k); ok && string(key) == name {
			if done {
				continue
			}
			one, done = pair, true
		}
		if len(out) > 0 {
			out = append(out, '&')
		}
		out = append(out, one...)
	}
	if !done {
		if len(out) > 0 {
			out = append(out, '&')
		}
		out = append(out, pair...)
	}
	return out
}

// setLine gives the first line of that name a new value, removes further ones, and adds a line if there was none.
func setLine(head event.Head, name string, value []byte) event.Head {
	out := make(event.Head, 0, len(head)+len(name)+len(value)+4)
	done := false
	for k, v := range head.All() {
		if !event.EqualFold(k, name) {
			out = appendLine(out, k, v)
			continue
		}
		if !done {
			out = appendLine(out, k, value)
			done = true
		}
	}
	if !done {
		out = appendLine(out, []byte(name), value)
	}
	return out
}

func dropLines(head event.Head, name string) event.Head {
	out := make(event.Head, 0, len(head))
	for k, v := range head.All() {
		if !event.EqualFold(k, name) {
			out = appendLine(out, k, v)
		}
	}
	return out
}

func appendLine(head event.Head, name, value []byte) event.Head {
	head = append(head, name...)
	head = append(head, ": "...)
	head = append(head, value...)
	return append(head, "\r\n"...)
}
