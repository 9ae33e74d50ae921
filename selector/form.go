package selector

import (
	"bytes"
	"iter"

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
