package selector

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestSortJSON(t *testing.T) {
	for _, tt := range []struct {
		doc, want string
		err       error
	}{
		{`{"b":1,"a":{"d":[1, {"z":0,"y":-1.50e3}],"c":"x y"}}`, `{"a":{"c":"x y","d":[1,{"y":-1.50e3,"z":0}]},"b":1}`, nil},
		{" {\n} ", "{}", nil},
		{`[ ]`, "[]", nil},
		{`{"é":1,"\u0065":2,"z":"\/"}`, `{"\u0065":2,"z":"\/","é":1}`, nil},
		{`"x"`, `"x"`, nil},
		{`{"a":1,"a":2}`, "", ErrTwice},
		{`[{"b":{"a":1,"\u0061":2}}]`, "", ErrTwice},
		{`{"a":1,"a":2,"b":3}`, "", ErrTwice},
		{`{"a":1,}`, "", ErrJSON},
		{`[1,]`, "", ErrJSON},
		{`[1 2]`, "", ErrJSON},
		{`{"a" 1}`, "", ErrJSON},
		{`{"a":1}x`, "", ErrJSON},
		{`{,}`, "", ErrJSON},
		{`{"":0,"":0}0`, "", ErrJSON},
		{``, "", ErrJSON},
		{"[" + strings.Repeat(`{"":0},`, maxMembers+1) + "0]", "", ErrJSON},
		{strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 64) + strings.Repeat("]", 64), nil},
		{strings.Repeat("[", 65) + strings.Repeat("]", 65), "", ErrJSON},
		{strings.Repeat(`{"a":`, 60) + `"` + strings.Repeat("x", 1<<20) + `"` + strings.Repeat("}", 60), "", ErrJSON},
	} {
		got, err := SortJSON([]byte(tt.doc))
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%.80s: %.80s, %v", tt.doc, got, err)
		}
	}
}

// What is sorted is JSON exactly if Extract says so, means the same, and sorted again stays as it is.
func FuzzSortJSON(f *testing.F) {
	addValues(f)
	for _, s := range []string{`{"b":1,"a":{"d":[1, {"z":0}],"c":"x y"}}`, `{"\u0061":1,"a":2}`, "[ ]", `"x"`, `{"a":tru}`} {
		f.Add([]byte(s))
	}
	none := NewJSONSet()
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := SortJSON(doc)
		if valid := none.Extract(doc, nil) == nil; valid != (err == nil || errors.Is(err, ErrTwice)) {
			t.Fatalf("%q: %v, Extract says %v", doc, err, valid)
		}
		if err != nil {
			return
		}
		again, err := SortJSON(got)
		if err != nil || !bytes.Equal(got, again) {
			t.Fatalf("%q became %q, then %q (%v)", doc, got, again, err)
		}
		meaning := func(b []byte) (v any) {
			dec := json.NewDecoder(bytes.NewReader(b))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				t.Fatalf("%q: %v", b, err)
			}
			return v
		}
		if !reflect.DeepEqual(meaning(doc), meaning(got)) {
			t.Fatalf("%q became %q", doc, got)
		}
	})
}
