// Package api holds the wire types of the admin port (SPEC §7, §8): what its routes take and answer, as JSON. The admin port writes them,
// the client reads them. Absent values are null, never missing; a list is never null.
package api

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Time is a point in time in event.TimeFormat; the zero time is null.
type Time struct{ time.Time }

// MarshalJSON writes nine fractional digits in UTC, or null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(event.FormatTime(t.Time))
}

// UnmarshalJSON reads RFC 3339 or null.
func (t *Time) UnmarshalJSON(b []byte) error {
	*t = Time{}
	if isNull(b) {
		return nil
	}
	return t.Time.UnmarshalJSON(b)
}

// Text is a string that is null when empty.
type Text string

// MarshalJSON writes the string, or null.
func (s Text) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return marshalString(string(s))
}

// UnmarshalJSON reads a string or null.
func (s *Text) UnmarshalJSON(b []byte) error {
	*s = ""
	if isNull(b) {
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

// Number is an integer that is null when zero.
type Number int

// MarshalJSON writes the number, or null.
func (n Number) MarshalJSON() ([]byte, error) {
	if n == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(int(n))
}

// UnmarshalJSON reads an integer or null.
func (n *Number) UnmarshalJSON(b []byte) error {
	*n = 0
	if isNull(b) {
		return nil
	}
	return json.Unmarshal(b, (*int)(n))
}

// Page is one answer with a list. NextCursor is empty on the last page.
type Page[T any] struct {
	Data       []T  `json:"data"`
	NextCursor Text `json:"next_cursor"`
}

// Encode is how every answer is written: no HTML escapes, one line, a newline at the end.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func marshalString(s string) ([]byte, error) {
	b, err := Encode(s)
	return bytes.TrimSuffix(b, []byte("\n")), err
}

func isNull(b []byte) bool { return string(bytes.TrimSpace(b)) == "null" }
