package selector

import (
	"errors"
	"sort"
)

// ErrTwice says that an object has two members of one name.
var ErrTwice = errors.New("a member is there twice")

// maxMembers bounds the members of a document that is written anew: it is before anybody knows who sent it, and each takes many times the memory
// of its bytes.
const maxMembers = 50_000

// mayCopy bounds the bytes that are moved about in writing a document of so many: each member is, with all that is in it.
func mayCopy(bytes int) int { return 1<<20 + 8*bytes }

// SortJSON gives doc without white space between its tokens, and the members of every object in the order of their names (compared decoded,
// byte by byte). Strings and numbers stay as written. It fails with ErrJSON, also for more than 50,000 members in all or much text that is deep inside, or with ErrTwice.
func SortJSON(doc []byte) ([]byte, error) {
	s := jsonSorter{jsonScanner: jsonScanner{set: &JSONSet{}, doc: doc}}
	s.space()
	out, ok := s.sorted(make([]byte, 0, len(doc)), 1)
	s.space()
	switch {
	case !ok || s.at != len(doc):
		return nil, ErrJSON
	case s.twice:
		return nil, ErrTwice
	}
	return out, nil
}

// jsonSorter is one pass over a document that is written anew.
type jsonSorter struct {
	jsonScanner
	twice bool
	count int // of members so far
	moved int // bytes, see mayCopy
}

// sortedMember is a member of an object: its name decoded, and name and value as they are written out.
type sortedMember struct {
	name string
	text []byte
}

// sorted appends the value that begins here to dst.
func (s *jsonSorter) sorted(dst []byte, depth int) ([]byte, bool) {
	c := s.peek()
	if c != '{' && c != '[' {
		start := s.at
		ok := s.value(-1, depth)
		return append(dst, s.doc[start:s.at]...), ok
	}
	if depth > MaxDepth {
		return dst, false
	}
	s.at++
	s.space()
	if c == '[' {
		return s.elements(append(dst, '['), depth)
	}
	return s.members(append(dst, '{'), depth)
}

func (s *jsonSorter) elements(dst []byte, depth int) ([]byte, bool) {
	for first := true; s.peek() != ']'; first = false {
		if !first {
			if s.peek() != ',' {
				return dst, false
			}
			s.at++
			s.space()
			dst = append(dst, ',')
		}
		var ok bool
		if dst, ok = s.sorted(dst, depth+1); !ok {
			return dst, false
		}
		s.space()
	}
	s.at++
	return append(dst, ']'), true
}

func (s *jsonSorter) members(dst []byte, depth int) ([]byte, bool) {
	var all []sortedMember
	for first := true; s.peek() != '}'; first = false {
		if !first {
			if s.peek() != ',' {
				return dst, false
			}
			s.at++
			s.space()
		}
		m, ok := s.member(depth)
		if !ok {
			return dst, false
		}
		all = append(all, m)
		s.space()
	}
	s.at++
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name }) // a generic sort weighs more
	for i, m := range all {
		if i > 0 {
			s.twice = s.twice || m.name == all[i-1].name
			dst = append(dst, ',')
		}
		dst = append(dst, m.text...)
	}
	return append(dst, '}'), true
}

func (s *jsonSorter) member(depth int) (m sortedMember, ok bool) {
	if s.count++; s.count > maxMembers || s.peek() != '"' {
		return m, false
	}
	start := s.at
	raw, escaped, ok := s.str()
	if !ok {
		return m, false
	}
	m.name = JSONValue{Kind: String, raw: raw, escaped: escaped}.Text()
	m.text = append(append(m.text, s.doc[start:s.at]...), ':')
	s.space()
	if s.peek() != ':' {
		return m, false
	}
	s.at++
	s.space()
	m.text, ok = s.sorted(m.text, depth+1)
	s.moved += len(m.text)
	return m, ok && s.moved <= mayCopy(len(s.doc))
}
