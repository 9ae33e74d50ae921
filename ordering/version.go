package ordering

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
)

// ErrVersion says that a text is no version under the configured comparison.
var ErrVersion = errors.New("not a version")

// Version is a parsed version. The zero Version is "none" and sorts before every other. Versions of different comparisons
// must not be mixed.
type Version struct {
	kind  versionKind
	small int64    // integer and timestamp, unless large is set
	large *big.Int // integer outside int64
	text  string   // lexicographic
}

type versionKind uint8

const (
	noVersion versionKind = iota
	number
	words
)

// Known says whether there is a version.
func (v Version) Known() bool { return v.kind != noVersion }

// Parse reads a version. compare is integer (an optional minus and any number of digits), timestamp (see event.ParseTime, or a
// decimal number of seconds, or of milliseconds from 10^11 on, since 1970) or lexicographic (bytes). It returns ErrVersion for anything else.
func Parse(compare, text string) (Version, error) {
	switch compare {
	case "integer":
		return parseInteger(text)
	case "timestamp":
		return parseTimestamp(text)
	case "lexicographic":
		if text == "" {
			return Version{}, ErrVersion
		}
		return Version{kind: words, text: text}, nil
	}
	return Version{}, fmt.Errorf("%w: unknown comparison %q", ErrVersion, compare)
}

func parseInteger(text string) (Version, error) {
	if !integer.MatchString(text) {
		return Version{}, ErrVersion
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return Version{kind: number, small: n}, nil
	}
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return Version{}, ErrVersion
	}
	return fromBig(n), nil
}

func fromBig(n *big.Int) Version {
	if n.IsInt64() {
		return Version{kind: number, small: n.Int64()}
	}
	return Version{kind: number, large: n}
}

var decimal = regexp.MustCompile(`^[0-9]{1,16}(\.[0-9]{1,18})?$`)

func parseTimestamp(text string) (Version, error) {
	if decimal.MatchString(text) {
		whole, fraction, _ := strings.Cut(text, ".")
		unit := int64(time.Second)
		n, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return Version{}, ErrVersion
		}
		if n >= 1e11 {
			unit = int64(time.Millisecond)
		}
		if n > math.MaxInt64/unit-1 {
			return Version{}, ErrVersion
		}
		digits := len(strconv.FormatInt(unit, 10)) - 1 // a second has nine digits of nanoseconds, a millisecond six
		f, err := strconv.ParseInt((fraction + "000000000")[:digits], 10, 64)
		if err != nil {
			return Version{}, ErrVersion
		}
		return Version{kind: number, small: n*unit + f}, nil
	}
	t, err := event.ParseTime(text)
	if err != nil || t.Year() < 1678 || t.Year() > 2261 {
		return Version{}, ErrVersion
	}
	return Version{kind: number, small: t.UnixNano()}, nil
}

// Compare is -1, 0 or +1.
func (v Version) Compare(w Version) int {
	switch {
	case v.kind != w.kind:
		if v.kind < w.kind {
			return -1
		}
		return 1
	case v.kind == words:
		return strings.Compare(v.text, w.text)
	case v.large == nil && w.large == nil:
		switch {
		case v.small < w.small:
			return -1
		case v.small > w.small:
			return 1
		}
		return 0
	}
	return v.big().Cmp(w.big())
}

// Less says whether v sorts before w.
func (v Version) Less(w Version) bool { return v.Compare(w) < 0 }

func (v Version) big() *big.Int {
	if v.large != nil {
		return v.large
	}
	return big.NewInt(v.small)
}

// plus is v + n; for integers only.
func (v Version) plus(n int64) Version {
	if v.large == nil {
		if sum := v.small + n; (sum > v.small) == (n > 0) {
			return Version{kind: number, small: sum}
		}
	}
	return fromBig(new(big.Int).Add(v.big(), big.NewInt(n)))
}

// beyond says whether v is more than n ahead of w; for integers only.
func (v Version) beyond(w Version, n int64) bool { return w.plus(n).Less(v) }

func (v Version) digits() string {
	if v.large != nil {
		return v.large.String()
	}
	return strconv.FormatInt(v.small, 10)
}

// span writes the integers from a to b, both inclusive: "5" or "5-7"; "" if there are none.
func span(a, b Version) string {
	switch c := a.Compare(b); {
	case c > 0:
		return ""
	case c == 0:
		return a.digits()
	}
	return a.digits() + "-" + b.digits()
}

func maxVersion(a, b Version) Version {
	if a.Less(b) {
		return b
	}
	return a
}
