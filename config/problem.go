package config

import (
	"cmp"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// A Problem is one fault of a configuration file, or one warning about it. No text in it holds a secret.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0 = the file as a whole
	Column  int    `json:"column"` // from 1, in characters
	Key     string `json:"key"`    // dotted: sources.stripe.path; empty = the file as a whole
	Message string `json:"message"`
	Source  string `json:"source"` // the offending line; what may be a secret is cut off
	Hint    string `json:"hint"`   // did you mean …; may be empty
}

// String is the first line of a report: file:line:col: key: message.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Report is String, the offending line with a mark under the place, and the hint; no newline at the end.
func (p Problem) Report() string {
	var b strings.Builder
	b.WriteString(p.String())
	if p.Source != "" {
		fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", p.Line, p.Source, margin(p.Source, p.Column-1))
	}
	if p.Hint != "" {
		b.WriteString("\n        " + p.Hint)
	}
	return b.String()
}

// margin is as wide as the first n characters of line; tabs stay tabs.
func margin(line string, n int) string {
	var b strings.Builder
	for _, r := range line {
		if n--; n < 0 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Errors are all faults of a file, sorted by line. It is the error of Load and Parse.
type Errors struct {
	Problems []Problem
	cause    error // of a file that cannot be read
}

// Error reports every problem, one after the other.
func (e *Errors) Error() string {
	parts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		parts[i] = p.Report()
	}
	return strings.Join(parts, "\n")
}

// Unwrap gives the error of a file that could not be read, so that errors.Is(err, fs.ErrNotExist) holds.
func (e *Errors) Unwrap() error { return e.cause }

func sortProblems(ps []Problem) {
	sort.SliceStable(ps, func(i, j int) bool {
		return cmp.Or(cmp.Compare(ps[i].Line, ps[j].Line), cmp.Compare(ps[i].Column, ps[j].Column)) < 0
	})
}

// closest is the name most like s, if one is like it at all: less than half of it may differ ("on" is not like "off").
func closest(s string, names []string) (string, bool) {
	best, at := "", max(2, utf8.RuneCountInString(s)/3)+1
	for _, n := range names {
		if d := distance(strings.ToLower(s), strings.ToLower(n)); d < at && 2*d < max(utf8.RuneCountInString(s), utf8.RuneCountInString(n)) {
			best, at = n, d
		}
	}
	return best, best != ""
}

// didYouMean is the hint for s, empty where no name is like it.
func didYouMean(s string, names []string) string {
	if best, ok := closest(s, names); ok {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return ""
}

// distance counts the edits from a to b: insert, delete, replace, swap neighbours. Texts too long for a name are far from everything.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return 1 << 20
	}
	rows := [3][]int{make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(x); i++ {
		before, last, row := rows[(i-1)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(x)+1)%3][len(y)]
}
