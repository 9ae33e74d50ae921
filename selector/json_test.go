package selector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestJSONSetFindsWhatIsWanted(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	tests := []struct {
		name, doc, path string
		kind            JSONKind
		text            string
		err             error
	}{
		{"a member", `{"id":"evt_1"}`, "id", String, "evt_1", nil},
		{"nested", `{"a":{"b":[{"c":1},{"c":2}]}}`, "a.b.1.c", Number, "2", nil},
		{"by pointer", `{"a.b":{"c/d":"x"}}`, "/a.b/c~1d", String, "x", nil},
		{"a tilde by pointer", `{"~1":"x"}`, "/~01", String, "x", nil},
		{"an empty name by pointer", `{"":"x"}`, "/", String, "x", nil},
		{"an index is also a name", `{"0":"x"}`, "0", String, "x", nil},
		{"a leading zero is a name only", `["x"]`, "00", Absent, "", nil},
		{"digits are kept", `{"id":9007199254740993}`, "id", Number, "9007199254740993", nil},
		{"an exponent is kept", `{"id":1e5}`, "id", Number, "1e5", nil},
		{"null", `{"id":null}`, "id", Null, "", nil},
		{"true", `{"id":true}`, "id", Bool, "true", nil},
		{"an object", `{"id":{"a":1}}`, "id", Composite, `{"a":1}`, nil},
		{"absent", `{"x":1}`, "id", Absent, "", nil},
		{"escapes", `{"id":"\u0041\n\"\ud83d\ude00"}`, "id", String, "A\n\"😀", nil},
		{"an escaped name", `{"\u0069d":"x"}`, "id", String, "x", nil},
		{"escaped names, which are others", `{"\u0069":1,"\u0069x":2,"\u0069d2":3,"\u0069\u0064\u0064":4}`, "id", Absent, "", nil},
		{"twice", `{"id":1,"id":2}`, "id", Ambiguous, "", nil},
		{"twice, once escaped", `{"id":1,"\u0069\u0064":2}`, "id", Ambiguous, "", nil},
		{"twice on the way", `{"a":{"id":1},"a":{}}`, "a.id", Ambiguous, "", nil},
		{"twice on the way, absent in the first", `{"a":{},"a":{"id":1}}`, "a.id", Ambiguous, "", nil},
		{"twice off the way", `{"x":1,"x":2,"id":"y"}`, "id", String, "y", nil},
		{"twice below", `{"id":{"x":1,"x":2}}`, "id", Composite, `{"x":1,"x":2}`, nil},
		{"names differ in case", `{"ID":1,"id":2}`, "id", Number, "2", nil},
		{"deep as allowed", deep, "id", Absent, "", nil},
		{"too deep", "[" + deep + "]", "id", Absent, "", ErrJSON},
		{"deep as allowed, and wanted so deep", nested(MaxDepth), strings.Repeat("a.", MaxDepth-1) + "a", Number, "1", nil},
		{"too deep, arrays that are wanted", "[" + deep + "]", strings.Repeat("0.", MaxDepth) + "0", Absent, "", ErrJSON},
		{"an array as deep as allowed", deep, strings.Repeat("0.", MaxDepth-2) + "0", Composite, "[]", nil},
		{"too deep, and wanted so deep", nested(MaxDepth + 1), strings.Repeat("a.", MaxDepth) + "a", Absent, "", ErrJSON},
		{"two values", `{"id":1}{}`, "id", Absent, "", ErrJSON},
		{"nothing", ``, "id", Absent, "", ErrJSON},
		{"a trailing comma", `{"id":1,}`, "id", Absent, "", ErrJSON},
		{"cut", `{"id":"x`, "id", Absent, "", ErrJSON},
		{"invalid UTF-8 elsewhere", "{\"x\":\"\xff\",\"id\":1}", "id", Absent, "", ErrJSON},
		{"a lone surrogate elsewhere", `{"x":"\ud800","id":1}`, "id", Absent, "", ErrJSON},
		{"surrogates in the wrong order", `{"id":"\udc00\ud800"}`, "id", Absent, "", ErrJSON},
		{"a control character", "{\"id\":\"\n\"}", "id", Absent, "", ErrJSON},
		{"a leading zero", `{"id":01}`, "id", Absent, "", ErrJSON},
		{"a plus sign", `{"id":+1}`, "id", Absent, "", ErrJSON},
		{"a byte order mark", "\ufeff{}", "id", Absent, "", ErrJSON},
		{"not a number", `{"id":NaN}`, "id", Absent, "", ErrJSON},
	}
	var out [1]JSONValue // with what the one before has found
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := NewJSONSet(tt.path).Extract([]byte(tt.doc), out[:])
			if !errors.Is(err, tt.err) || out[0].Kind != tt.kind || out[0].Text() != tt.text {
				t.Errorf("%v %q, %v; want %v %q, %v", out[0].Kind, out[0].Text(), err, tt.kind, tt.text, tt.err)
			}
		})
	}
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
}

// A set of more paths than a word has bits finds members that are there twice all the same.
func TestManyPaths(t *testing.T) {
	var paths []string
	for i := range 80 {
		paths = append(paths, fmt.Sprint("m", i))
	}
	out := make([]JSONValue, len(paths))
	if err := NewJSONSet(paths...).Extract([]byte(`{"m1":1,"m78":2,"m79":3,"m79":4}`), out); err != nil {
		t.Fatal(err)
	}
	if out[1].Text() != "1" || out[78].Text() != "2" || out[79].Kind != Ambiguous || out[14].Kind != Absent {
		t.Errorf("%v", out)
	}
}

func TestExtractAllocatesNothing(t *testing.T) {
	set := NewJSONSet("id", "type", "data.object.id", "created")
	doc := []byte(`{"id":"evt_1","\u0074ype":"a","pad":"` + strings.Repeat("x", 900) + `","created":17,"data":{"object":{"id":"in_1"}}}`)
	out := make([]JSONValue, set.Len())
	if n := testing.AllocsPerRun(100, func() { _ = set.Extract(doc, out) }); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

func TestEachElementYieldsRawElements(t *testing.T) {
	var got []string
	ok := EachElement([]byte(`[ {"a":[1,2]} ,"x", 3]`), func(e []byte) bool { got = append(got, string(e)); return true })
	if !ok || strings.Join(got, "|") != `{"a":[1,2]}|"x"|3` {
		t.Errorf("%v %q", ok, got)
	}
	for doc, want := range map[string]bool{`[]`: true, `[1,2]`: true, `{}`: false, ``: false, `[1 2]`: false, `[1,]`: false} {
		if ok := EachElement([]byte(doc), func([]byte) bool { return true }); ok != want {
			t.Errorf("%q: %t", doc, ok)
		}
	}
	n := 0
	if ok := EachElement([]byte(`[1,2]`), func([]byte) bool { n++; return false }); !ok || n != 1 {
		t.Errorf("%t, and it goes on after the first of them: %d", ok, n)
	}
}

func BenchmarkExtractKiB(b *testing.B) {
	set := NewJSONSet("id", "type", "data.object.id", "created")
	doc := []byte(`{"id":"evt_1","type":"a","pad":"` + strings.Repeat("x", 900) + `","created":17,"data":{"object":{"id":"in_1"}}}`)
	out := make([]JSONValue, set.Len())
	b.ReportAllocs()
	for b.Loop() {
		_ = set.Extract(doc, out)
	}
}

// oracle reads doc with jsontext: whether it is one valid value, how deep it is, and what is at the top-level member a
// and its member b.
func oracle(doc []byte) (ok bool, depth int, values map[string][]string) {
	dec := jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(true))
	values = map[string][]string{}
	level := 0
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return false, depth, values
		}
		switch tok.Kind() {
		case '{', '[':
			level++
			depth = max(depth, level)
		case '}', ']':
			level--
		case '"', '0':
			ptr := string(dec.StackPointer())
			if kind, n := dec.StackIndex(dec.StackDepth()); kind != '{' || n%2 == 0 {
				values[ptr] = append(values[ptr], tok.String())
			}
		}
		if level == 0 { // one value only
			if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
				return false, depth, values
			}
			return true, depth, values
		}
	}
}

// values are what a document may hold, and what it may not.
var values = []string{
	"[ 1\t,\r2\n]", "{ \"x\"\t:\r1\n, \"y\" : 2 }", `{"a":1 ,"b":[] ,"c":{}}`, `true`, `false`, `null`, `-0`, `0.50`, `1E+5`, `1e-5`, `12e34`,
	`"\"\\\/\b\f\n\r\t"`, `"\u00eF\u00Aa\uffff\ud7ff\ue000"`, `"\ud800\udc00\udbff\udfff"`, "\"é€😀\ufffd\x7f\"", `"seven\u0020 and more than eight"`, `""`,

	"", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1 22]", "[1}", "[1\f]", "[}", "{", "{]", `{"x`, `{"x"`, `{"x":`, `{"x":1`, `{"x":1,`, `{"x":1,}`, `{"x":1]`, `{,}`, `{"x" 1}`, `{"x"x1}`,
	`{"x"1:2}`, `{x":1}`, `{"x":}`, `{"x":1 "y":2}`, `{"x":1 , y":2}`, `{"x":1 x"y":2}`, `{"x":1,,"y":2}`, `{1:2}`, `{"\x":1}`,
	`t`, `tru`, `trux`, `fals`, `falsy`, `nul`, `nulL`, `-`, `+1`, `.5`, `1.`, `1.e5`, `-.5`, `1e`, `1e+`, `1e-x`, `01`, `-01`, `00`, `x`,
	`"`, `"x`, `"\`, `"\"`, `"\x"`, `"\u12"`, `"\u12`, `"\u12g4"`, `"\u/041"`, `"\u:041"`, `"\u@041"`, "\"\\u`041\"", `"\ud800"`, `"\udc00"`, `"\udfff"`, `"\ud800`, `"\ud800\u0041"`, `"\ud800xudc00"`,
	`"\ud800\ndc00"`, `"\ud800\udbff"`, `"\ud800\ue000"`, `"\ud800\udcxx"`, "\"\x00\"", "\"a tab\there\"", "\"\x1f\"", "\"\x80\"", "\"\xc3\"", "\"\xed\xa0\x80\"",
}

// addValues seeds f with each of values: as a document, as a member that a fuzz test wants, as others, and at the end of one that is cut short.
func addValues(f *testing.F) {
	for _, v := range values {
		for _, doc := range []string{v, " " + v + " ", `{"a":` + v + `}`, `{"x":` + v + ` , "a":{"b":0}}`, `[` + v + `]`, `[0,{"a":[` + v + `]} , 1]`, `{"x":[` + v} {
			f.Add([]byte(doc))
		}
	}
}

func FuzzJSONAgainstJSONText(f *testing.F) {
	addValues(f)
	for _, s := range []string{`{"a":"x"}`, `{"a":{"b":12}}`, `{"\u0061":1,"a":2}`, `{"a":{"b":1},"a":{"b":2}}`, `[1,{"a":"\ud83d\ude00"}]`, `{"a":"\ud800"}`, `{"a":1e-5}`, `{"a":-0.0}`, "{\"a\":\"\xff\"}", strings.Repeat("[", 70) + strings.Repeat("]", 70), ` "x" `, `{"a":tru}`, `[1,[2,{"b":"c"}]]`} {
		f.Add([]byte(s))
	}
	paths := []string{"/a", "/a/b", "/0", "/1/a"}
	set := NewJSONSet(paths...)
	f.Fuzz(func(t *testing.T, doc []byte) {
		out := make([]JSONValue, set.Len())
		err := set.Extract(slices.Clip(doc), out)
		ok, depth, values := oracle(doc)
		if ok = ok && depth <= MaxDepth; ok != (err == nil) {
			t.Fatalf("%q: %v, but jsontext says valid=%v, depth %d", doc, err, ok, depth)
		}
		if !ok {
			return
		}
		for i, p := range paths {
			switch out[i].Kind {
			case String, Number:
				if len(values[p]) != 1 || values[p][0] != out[i].Text() {
					t.Fatalf("%q at %s: %q, but jsontext says %q", doc, p, out[i].Text(), values[p])
				}
			case Absent:
				if len(values[p]) != 0 {
					t.Fatalf("%q at %s: absent, but jsontext says %q", doc, p, values[p])
				}
			}
		}
	})
}
