package selector

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hooktender/hooktender/event"
)

// MaxText bounds each part of an identity value, in bytes.
const MaxText = 255

// What can be wrong with a value. Errors of this package name the field, too: see FieldError.
var (
	ErrAbsent    = errors.New("absent")
	ErrMalformed = errors.New("malformed")
	ErrAmbiguous = errors.New("ambiguous")
)

// FieldError says which field of the identity could not be read, where it was looked for and why not. It wraps
// ErrAbsent, ErrMalformed or ErrAmbiguous.
type FieldError struct {
	Field string // id, account, type, resource, version, occurred_at
	At    string // the selector
	Err   error
}

func (e *FieldError) Error() string { return e.Field + " (" + e.At + "): " + e.Err.Error() }

// Unwrap gives the sentinel.
func (e *FieldError) Unwrap() error { return e.Err }

// Texts is one selector or a list of them; in YAML a string or a sequence of strings.
type Texts []string

// UnmarshalYAML takes a string or a sequence of strings. An empty string is no selector.
func (t *Texts) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*t = nil
		if one != "" {
			*t = Texts{one}
		}
		return nil
	}
	var many []string
	if err := decode(&many); err != nil {
		return err
	}
	*t = many
	return nil
}

// MarshalYAML writes one selector as a string.
func (t Texts) MarshalYAML() (any, error) {
	switch len(t) {
	case 0:
		return "", nil
	case 1:
		return t[0], nil
	}
	return []string(t), nil
}

// IdentitySpec is where a source's events carry their identity. Each field is a selector or a list of selectors that
// together are the value. In each, " | " may stand between alternatives: the first that is there counts.
type IdentitySpec struct {
	// The sender's id of the event, the idempotency key. A string or an integer of 1 to 255 bytes.
	ID Texts `yaml:"id"`
	// The account, where one endpoint serves several: part of the dedup key. Absent is allowed.
	Account Texts `yaml:"account"`
	// The event type, compared with ordering.types. Absent is allowed.
	Type Texts `yaml:"type"`
	// What is ordered. Needed by every ordering policy.
	Resource Texts `yaml:"resource"`
	// The resource's version. Needed by every ordering policy but serial.
	Version Texts `yaml:"version"`
	// When the event happened: a timestamp as ordering.compare reads them. For records only.
	OccurredAt Texts `yaml:"occurred_at"`
}

// Check parses every selector and joins all faults.
func (s *IdentitySpec) Check() error {
	var errs []error
	for i, texts := range s.fields() {
		if _, err := ParseList(texts...); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", fieldNames[i], err))
		}
	}
	return errors.Join(errs...)
}

// Clone is a deep copy.
func (s IdentitySpec) Clone() IdentitySpec {
	c := func(t Texts) Texts { return append(Texts(nil), t...) }
	return IdentitySpec{c(s.ID), c(s.Account), c(s.Type), c(s.Resource), c(s.Version), c(s.OccurredAt)}
}

func (s *IdentitySpec) fields() [fieldCount]Texts {
	return [...]Texts{s.ID, s.Account, s.Type, s.Resource, s.Version, s.OccurredAt}
}

const (
	fieldID = iota
	fieldAccount
	fieldType
	fieldResource
	fieldVersion
	fieldOccurredAt
	fieldCount
)

var fieldNames = [fieldCount]string{"id", "account", "type", "resource", "version", "occurred_at"}

// Identity is a compiled IdentitySpec. It is immutable and may be used from many goroutines.
type Identity struct {
	fields [fieldCount]field
	set    *JSONSet  // nil: no field is in JSON
	rooms  sync.Pool // of []JSONValue for what set finds
}

type field struct {
	list  List
	parts []part
}

// part is one selector of a field, and where to look where it finds nothing.
type part struct {
	sel  Selector
	json int // index in the set, -1 if it is none
	or   *part
}

// CompileIdentity compiles spec. The id must be given; errors of all fields are joined.
func CompileIdentity(spec IdentitySpec) (*Identity, error) {
	id := &Identity{}
	var errs []error
	var paths []string
	for i, texts := range spec.fields() {
		list, err := ParseList(texts...)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", fieldNames[i], err))
			continue
		}
		f := field{list: list, parts: make([]part, len(list))}
		for j, s := range list {
			f.parts[j] = compilePart(s, &paths)
		}
		id.fields[i] = f
	}
	if len(spec.ID) == 0 {
		errs = append(errs, errors.New("id: a source needs the selector of its event id, or body:sha256"))
	}
	if len(paths) > 0 {
		id.set = NewJSONSet(paths...)
	}
	return id, errors.Join(errs...)
}

func compilePart(s Selector, paths *[]string) part {
	p := part{sel: s, json: -1}
	if s.Kind() == JSON {
		p.json = len(*paths)
		*paths = append(*paths, s.Name())
	}
	if next, ok := s.Or(); ok {
		or := compilePart(next, paths)
		p.or = &or
	}
	return p
}

// ID is the list of selectors of the event id.
func (id *Identity) ID() List { return id.fields[fieldID].list }

// Has says whether a field ("id", "account", "type", "resource", "version", "occurred_at") is configured.
func (id *Identity) Has(name string) bool {
	for i, n := range fieldNames {
		if n == name {
			return len(id.fields[i].list) > 0
		}
	}
	return false
}

// Value is one field of an identity.
type Value struct {
	one  string
	many []string // nil for a single selector
	err  error    // then it has neither
}

// Present says whether the value is there and well-formed.
func (v Value) Present() bool { return v.one != "" || v.many != nil }

// Err is nil, or a *FieldError that wraps ErrAbsent, ErrMalformed or ErrAmbiguous. A field that is not configured has
// neither a value nor an error.
func (v Value) Err() error { return v.err }

// Text is the value as it is shown: the text of a single selector as received; the parts of a list percent-encoded
// (everything that is not printable ASCII, '%', space and ':') with ':' between. "" without a value.
func (v Value) Text() string {
	if v.many == nil {
		return v.one
	}
	var b strings.Builder
	for i, p := range v.many {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strings.ReplaceAll(event.EscapeID(p), ":", "%3A"))
	}
	return b.String()
}

// AppendParts appends the parts as received, for length-prefixed keys (event.MakeKey); nothing without a value.
func (v Value) AppendParts(dst []string) []string {
	switch {
	case v.many != nil:
		return append(dst, v.many...)
	case v.one != "":
		return append(dst, v.one)
	}
	return dst
}

// Values is the identity of one request.
type Values struct {
	ID, Account, Type, Resource, Version Value
	OccurredAt                           time.Time // zero: not configured, absent or not a time
}

// Param is a named part of the path.
type Param struct{ Name, Value string }

// Extract reads the identity of req. The error is that of the id, or that of an account which is there but malformed
// or ambiguous; for resource and version ask their Values where a policy needs them. Values copy what they keep: they
// outlive the request.
func (id *Identity) Extract(req *event.Request, params []Param) (Values, error) {
	var js []JSONValue
	if id.set != nil {
		room, _ := id.rooms.Get().(*[]JSONValue)
		if room == nil {
			found := make([]JSONValue, id.set.Len())
			room = &found
		}
		js = *room
		_ = id.set.Extract(req.Body, js) // a body that is no JSON yields nothing: SPEC §12
		defer func() {
			clear(js) // the values alias the body
			id.rooms.Put(room)
		}()
	}
	var got [fieldCount]Value
	for i := range id.fields {
		got[i] = id.fields[i].read(i, req, params, js)
	}
	v := Values{ID: got[fieldID], Account: got[fieldAccount], Type: got[fieldType], Resource: got[fieldResource], Version: got[fieldVersion]}
	if at := &got[fieldOccurredAt]; at.one != "" {
		if t, ok := ParseTime(at.one); ok {
			v.OccurredAt = t
		}
	}
	if v.ID.err != nil {
		return v, v.ID.err
	}
	if v.Account.err != nil && !errors.Is(v.Account.err, ErrAbsent) {
		return v, v.Account.err
	}
	return v, nil
}

func (f *field) read(which int, req *event.Request, params []Param, js []JSONValue) Value {
	if len(f.list) == 0 {
		return Value{}
	}
	var parts []string
	if len(f.list) > 1 {
		parts = make([]string, len(f.list))
	}
	for i := range f.parts {
		text, err := "", ErrAbsent
		for p := &f.parts[i]; p != nil && err == ErrAbsent; p = p.or {
			text, err = p.read(which, req, params, js)
		}
		if err != nil {
			return Value{err: &FieldError{Field: fieldNames[which], At: f.list[i].String(), Err: err}}
		}
		if parts == nil {
			return Value{one: text}
		}
		parts[i] = text
	}
	return Value{many: parts}
}

// read reads one selector. ErrAbsent comes as it is.
func (p *part) read(which int, req *event.Request, params []Param, js []JSONValue) (string, error) {
	s := p.sel
	switch s.Kind() {
	case Header:
		v, n := req.Head.Get(s.Name())
		return single(v, n, true)
	case Query:
		return single(Lookup(req.Query(), s.Name()))
	case Form:
		return single(Field(req, s.Name()))
	case JSON:
		return jsonText(js[p.json], which == fieldVersion || which == fieldOccurredAt)
	case Path:
		for _, named := range params {
			if named.Name == s.Name() {
				return checkText(named.Value)
			}
		}
	case BodySHA256:
		sum := sha256.Sum256(req.Body)
		return hex.EncodeToString(sum[:]), nil
	}
	return "", ErrAbsent
}

func single(v []byte, n int, ok bool) (string, error) {
	switch {
	case n == 0:
		return "", ErrAbsent
	case n > 1:
		return "", ErrAmbiguous
	case !ok || len(v) > MaxText:
		return "", ErrMalformed
	}
	return checkText(string(v))
}

// jsonText takes strings and integers; with fractions also other numbers, as text.
func jsonText(v JSONValue, fractions bool) (string, error) {
	switch v.Kind {
	case Absent, Null:
		return "", ErrAbsent
	case Ambiguous:
		return "", ErrAmbiguous
	case String:
		if len(v.raw) > 6*MaxText {
			return "", ErrMalformed
		}
		return checkText(v.Text())
	case Number:
		if len(v.raw) > MaxText || !fractions && !isInteger(v.raw) {
			return "", ErrMalformed
		}
		return string(v.raw), nil
	}
	return "", ErrMalformed
}

func isInteger(raw []byte) bool {
	for _, c := range raw { // of a number, whose exponent begins with e
		if (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// checkText bounds a value: 1 to 255 bytes of valid UTF-8 without control characters.
func checkText(s string) (string, error) {
	if s == "" || len(s) > MaxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", ErrMalformed
	}
	return s, nil
}

// ParseTime reads a sender's time: see event.ParseTime, or a decimal number of Unix seconds, or of milliseconds from 1e11 on.
func ParseTime(text string) (time.Time, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && text[0] != '-' && text[0] != '+' { // the usual ones, without big numbers
		switch {
		case n < 9e9:
			return time.Unix(n, 0).UTC(), true
		case n >= 1e11 && n < 9e12:
			return time.UnixMilli(n).UTC(), true
		}
	}
	if t, err := event.ParseTime(text); err == nil {
		t = t.UTC()
		return t, t.Year() >= 0 && t.Year() <= 9999 // in UTC it must be a time that RFC 3339 can write, too
	}
	if text == "" || len(text) > 32 || strings.Trim(text, "0123456789.") != "" {
		return time.Time{}, false
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return time.Time{}, false
	}
	if r.Cmp(big.NewRat(1e11, 1)) >= 0 {
		r.Quo(r, big.NewRat(1000, 1))
	}
	r.Mul(r, big.NewRat(1e9, 1))
	ns := new(big.Int).Quo(r.Num(), r.Denom())
	if !ns.IsInt64() {
		return time.Time{}, false
	}
	return time.Unix(0, ns.Int64()).UTC(), true
}
