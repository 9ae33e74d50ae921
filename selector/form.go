package selector

import (
	"bytes"
	"io"
	"iter"
	"mime"
	"mime/multipart"

	"github.com/hooktender/hooktender/event"
)

// Pairs yields the name=value pairs of a query or an application/x-www-form-urlencoded body as received, still
// encoded, in order. Empty pairs are skipped; a pair without '=' has an empty value.
func Pairs(encoded []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for len(encoded) > 0 {
			var pair []byte
			pair, encoded, _ = bytes.Cut(encoded, []byte{'&'})
			if len(pair) == 0 {
				continue
			}
			name, value, _ := bytes.Cut(pair, []byte{'='})
			if !yield(name, value) {
				return
			}
		}
	}
}

// Unescape decodes '+' and percent-encoding. It reports false for a '%' that two hex digits do not follow. The result
// aliases b where nothing had to be decoded.
func Unescape(b []byte) ([]byte, bool) {
	if bytes.IndexByte(b, '%') < 0 && bytes.IndexByte(b, '+') < 0 {
		return b, true
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(b) || unhex(b[i+1]) < 0 || unhex(b[i+2]) < 0 {
				return nil, false
			}
			out = append(out, byte(unhex(b[i+1])<<4|unhex(b[i+2])))
			i += 2
		default:
			out = append(out, b[i])
		}
	}
	return out, true
}

// Lookup finds the pairs called name (compared decoded) in a query or form. It gives the first one's decoded value and
// how many there are. A value or name with broken percent-encoding counts, with ok false.
func Lookup(encoded []byte, name string) (value []byte, n int, ok bool) {
	ok = true
	for k, v := range Pairs(encoded) {
		key, good := Unescape(k)
		if !good || string(key) != name {
			continue
		}
		if n++; n == 1 {
			value, ok = Unescape(v)
		}
	}
	return value, n, ok
}

// IsForm says whether the request's body is application/x-www-form-urlencoded by its one Content-Type line.
func IsForm(req *event.Request) bool {
	ct, n := req.Head.Get("Content-Type")
	if n != 1 {
		return false
	}
	ct, _, _ = bytes.Cut(ct, []byte{';'})
	return event.EqualFold(event.TrimSpace(ct), "application/x-www-form-urlencoded")
}

// maxParts bounds the parts of a multipart form that are looked through.
const maxParts = 256

// Field finds the fields called name of a form, urlencoded or multipart/form-data. It gives the first one's value and how many
// there are; ok is false where it cannot be decoded, or where the whole form cannot. A file counts as a field that cannot.
func Field(req *event.Request, name string) (value []byte, n int, ok bool) {
	if IsForm(req) {
		return Lookup(req.Body, name)
	}
	ct, lines := req.Head.Get("Content-Type")
	if lines != 1 || len(ct) < len("multipart/") || !event.EqualFold(ct[:len("multipart/")], "multipart/") {
		return nil, 0, true
	}
	kind, params, err := mime.ParseMediaType(string(ct))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return nil, 0, true
	}
	ok = true
	r := multipart.NewReader(bytes.NewReader(req.Body), params["boundary"])
	for range maxParts {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return value, n, ok
		}
		if err != nil {
			return nil, 1, false
		}
		if p.FormName() != name {
			continue
		}
		if n++; n > 1 {
			continue
		}
		if value, err = io.ReadAll(p); err != nil || p.FileName() != "" || p.Header.Get("Content-Transfer-Encoding") != "" {
			ok = false
		}
	}
	return nil, 1, false
}
