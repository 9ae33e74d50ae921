// Package selector says where in a request a value is, and reads it there: a header, a query parameter, a form field,
// a JSON member, a part of the path, or the hash of the body. It reads raw bytes, guesses nothing, and reports a
// value that is there twice as ambiguous instead of choosing one.
package selector

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Kind is the part of a request that a Selector looks at.
type Kind uint8

const (
	None       Kind = iota // the zero Selector: nothing
	Header                 // header:Name, one header line
	Query                  // query:name, one parameter of the query
	Form                   // form:name, one field of an application/x-www-form-urlencoded or multipart/form-data body
	JSON                   // json:a.b.0.c or json:/a/b, one member of a JSON body
	Path                   // path:name, one {name} of the source's path
	BodySHA256             // body:sha256, the SHA-256 of the raw body in lower-case hex
)

// ErrSyntax says that a text is no selector.
var ErrSyntax = errors.New("not a selector")

// Selector is one place in a request, and perhaps others to look at where that one has nothing. The zero value selects nothing. It is
// immutable.
type Selector struct {
	kind Kind
	name string
	or   *Selector
}

// Parse reads one selector: header:Name, query:name, form:name, json:a.b.0.c, json:/a/b (a JSON Pointer, RFC 6901),
// path:name or body:sha256. Errors wrap ErrSyntax.
func Parse(text string) (Selector, error) {
	prefix, name, found := strings.Cut(text, ":")
	if !found {
		return Selector{}, fmt.Errorf("%w: %q has no kind (header:, query:, form:, json:, path:, body:sha256)", ErrSyntax, text)
	}
	if name == "" || strings.TrimSpace(name) != name {
		return Selector{}, fmt.Errorf("%w: %q has no name, or spaces around it", ErrSyntax, text)
	}
	s := Selector{name: name}
	switch prefix {
	case "header":
		if !isToken(name) {
			return Selector{}, fmt.Errorf("%w: %q is not a header name", ErrSyntax, name)
		}
		s.kind = Header
	case "query":
		s.kind = Query
	case "form":
		s.kind = Form
	case "json":
		if _, err := splitPath(name); err != nil {
			return Selector{}, err
		}
		s.kind = JSON
	case "path":
		s.kind = Path
	case "body":
		if name != "sha256" {
			return Selector{}, fmt.Errorf("%w: %q, of the body there is body:sha256 only", ErrSyntax, text)
		}
		s.kind = BodySHA256
	default:
		return Selector{}, fmt.Errorf("%w: unknown kind %q (header, query, form, json, path, body)", ErrSyntax, prefix)
	}
	return s, nil
}

// Kind is the part of the request looked at.
func (s Selector) Kind() Kind { return s.kind }

// Name is what follows the colon: a header's or parameter's name, a JSON path.
func (s Selector) Name() string { return s.name }

// Or is where to look next if there is nothing at s; false if nowhere.
func (s Selector) Or() (Selector, bool) {
	if s.or == nil {
		return Selector{}, false
	}
	return *s.or, true
}

// String is the text that ParseList reads; "" for the zero value.
func (s Selector) String() string {
	names := [...]string{"", "header:", "query:", "form:", "json:", "path:", "body:"}
	if s.or != nil {
		return names[s.kind] + s.name + between + s.or.String()
	}
	return names[s.kind] + s.name
}

// between stands between alternatives.
const between = " | "

// parseAny reads alternatives: "header:A | json:b" is the header, or where there is none the member.
func parseAny(text string) (Selector, error) {
	first, rest, more := strings.Cut(text, between)
	s, err := Parse(first)
	if err != nil || !more {
		return s, err
	}
	if s.kind == BodySHA256 {
		return s, fmt.Errorf("%w: nothing can stand after body:sha256, which is always there", ErrSyntax)
	}
	next, err := parseAny(rest)
	s.or = &next
	return s, err
}

// List is several selectors whose values together are one value. The parts are never merely concatenated: a key
// takes each with its length, a display percent-encodes them (Value.Text).
type List []Selector

// All gives every selector of the list, each followed by where to look instead.
func (l List) All() iter.Seq[Selector] {
	return func(yield func(Selector) bool) {
		for _, s := range l {
			for again := true; again; s, again = s.Or() {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// ParseList reads every text, in which " | " may stand between alternatives; it joins all errors. No text gives an empty List.
func ParseList(texts ...string) (List, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	list := make(List, 0, len(texts))
	var errs []error
	for _, t := range texts {
		s, err := parseAny(t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, s)
	}
	return list, errors.Join(errs...)
}

// isToken is RFC 9110 §5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// splitPath cuts a JSON path into member names: dots between them, or a JSON Pointer if it begins with a slash.
func splitPath(path string) ([]string, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: empty JSON path", ErrSyntax)
	}
	if path[0] != '/' {
		keys := strings.Split(path, ".")
		if slices.Contains(keys, "") {
			return nil, fmt.Errorf("%w: JSON path %q has an empty member; write it as a JSON Pointer (json:/a/b)", ErrSyntax, path)
		}
		return keys, nil
	}
	keys := strings.Split(path[1:], "/")
	for i, k := range keys {
		for j := range len(k) {
			if k[j] == '~' && (j+1 == len(k) || k[j+1] != '0' && k[j+1] != '1') {
				return nil, fmt.Errorf("%w: JSON Pointer %q has a bare '~' (write ~0)", ErrSyntax, path)
			}
		}
		keys[i] = strings.ReplaceAll(strings.ReplaceAll(k, "~1", "/"), "~0", "~")
	}
	return keys, nil
}
