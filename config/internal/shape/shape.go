// Package shape reads from a Config struct what its block of the file looks like: the names of the keys, and how their values are
// written. The decoder, the printer, the example and the JSON Schema all go by it.
package shape

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Field is one key of a block.
type Field struct {
	Name    string // the key in the file
	Type    reflect.Type
	Index   int      // of the struct field
	Go      string   // name of the struct field
	Bytes   bool     // a number of bytes, written as a size
	Enum    []string // the values allowed; nil = all of the type. For a list, those of its elements
	Form    string   // secret: a text that may also be {env: …} or {file: …}; handshake: lists of such texts by name
	One     bool     // a list that may be written as its only element
	Example bool     // the value that the example shows is no default
	Short   bool     // shorthand for another key: read, but never printed
}

// Duration is the type of the durations of a block.
var Duration = reflect.TypeFor[time.Duration]()

// Fields are the keys of the block that t, a struct, describes, in the order of the struct. Fields without a yaml name are no keys.
func Fields(t reflect.Type) []Field {
	var out []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if !sf.IsExported() || name == "" || name == "-" {
			continue
		}
		f := Field{Name: name, Type: sf.Type, Index: i, Go: sf.Name, Bytes: sf.Tag.Get("unit") == "bytes",
			Form: sf.Tag.Get("form"), One: sf.Type.Kind() == reflect.Slice && sf.Type.Name() != "", Example: sf.Tag.Get("example") != "", Short: sf.Tag.Get("short") != ""}
		if e := sf.Tag.Get("enum"); e != "" {
			f.Enum = strings.Split(e, ",")
		}
		out = append(out, f)
	}
	return out
}

// Units of sizes, the binary ones first and the largest first, so that the first that divides a size is the one to show.
var units = []struct {
	name string
	n    int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// ErrSize says that a text is no size.
var ErrSize = errors.New("no size")

// ParseSize reads a number of bytes: a whole number, alone or with a unit (5MiB, 64KiB, 5MB). The error is ErrSize.
func ParseSize(s string) (int64, error) {
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSuffix(rest, " "), u.n
			break
		}
	}
	n, err := ParseInt(s)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, ErrSize
	}
	return n * factor, nil
}

// FormatSize writes a number of bytes with the largest binary unit that divides it.
func FormatSize(n int64) string {
	for _, u := range units[:4] {
		if n != 0 && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// ErrInt says that a text is no whole number.
var ErrInt = errors.New("no whole number")

// ParseInt reads a decimal number without leading zeros, plus signs or separators. The error is ErrInt.
func ParseInt(s string) (int64, error) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || digits[0] < '0' || digits[0] > '9' || len(digits) > 1 && digits[0] == '0' {
		return 0, ErrInt
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, ErrInt
	}
	return n, nil
}

// FormatDuration writes a duration without the zero parts at its end: 5m, not 5m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Quote writes a text as a YAML scalar, in quotes where it needs them.
func Quote(s string) string {
	if plain.MatchString(s) && !reserved.MatchString(s) {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b) // a JSON text is a YAML text
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string and a Builder never fail
	return strings.TrimSuffix(b.String(), "\n")
}

var (
	plain    = regexp.MustCompile(`^[A-Za-z./][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*$`)
	reserved = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|y|n|null|\.inf|\.nan|[0-9.e+-]+)$`)
)
