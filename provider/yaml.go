package provider

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hooktender/hooktender/selector"
)

// YAML writes the row as the blocks verify and identity of a source, ready to be pasted under a source with provider:
// custom, with what else is known as comments in front.
func (p Preset) YAML() []byte {
	var b yamlWriter
	fmt.Fprintf(&b, "# %s (%s)", p.ID, p.Confidence)
	if p.Secret != "" {
		fmt.Fprintf(&b, "\n# secret: %s", p.Secret)
	}
	if p.Deadline > 0 {
		fmt.Fprintf(&b, "\n# the sender waits %s", ShortDuration(p.Deadline))
	}
	if p.RetryWindow > 0 {
		fmt.Fprintf(&b, "\n# the sender retries for %s", ShortDuration(p.RetryWindow))
	}
	if p.Verify.Scheme != "" && p.Verify.Scheme != "none" {
		fmt.Fprintf(&b, "\n# the signature binds: %s; it covers the event id: %s", p.Binds(), map[bool]string{true: "yes", false: "no"}[p.SignsID()])
	}
	if p.Compare != "" {
		fmt.Fprintf(&b, "\n# versions are no integers: ordering: {compare: %s}", p.Compare)
	}
	if p.Handshake != "" {
		fmt.Fprintf(&b, "\n# its challenge is answered (%s)", p.Handshake)
	}
	if p.Note != "" {
		fmt.Fprintf(&b, "\n# %s", p.Note)
	}
	b.block("verify", reflect.ValueOf(p.Verify))
	b.block("identity", reflect.ValueOf(p.Identity))
	b.WriteByte('\n')
	return b.Bytes()
}

// yamlWriter writes the kinds of values that rows have; the encoder of the YAML library weighs 100 KiB.
type yamlWriter struct{ bytes.Buffer }

// block writes the fields of a struct that are not zero.
func (w *yamlWriter) block(name string, fields reflect.Value) {
	if fields.IsZero() {
		return
	}
	w.line(0, name+":")
	for i := range fields.NumField() {
		if v := fields.Field(i); !v.IsZero() {
			w.line(2, fields.Type().Field(i).Tag.Get("yaml")+":")
			w.value(v, 4)
		}
	}
}

func (w *yamlWriter) line(indent int, text string) {
	w.WriteByte('\n')
	w.WriteString(strings.Repeat(" ", indent))
	w.WriteString(text)
}

// value writes what belongs to a key: a single value behind it, more on lines of their own.
func (w *yamlWriter) value(v reflect.Value, indent int) {
	switch {
	case v.Type() == reflect.TypeFor[selector.Texts]() && v.Len() == 1:
		w.value(v.Index(0), indent)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			w.line(indent, "-")
			w.value(v.Index(i), indent+2)
		}
	case v.Kind() == reflect.Map:
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
		for _, k := range keys {
			w.line(indent, scalar(k.String())+":")
			w.value(v.MapIndex(k), indent+2)
		}
	case v.Kind() == reflect.String:
		w.text(v.String(), indent)
	case v.Type() == reflect.TypeFor[time.Duration]():
		w.WriteString(" " + ShortDuration(time.Duration(v.Int())))
	default:
		fmt.Fprint(w, " ", v)
	}
}

// text writes a text in as many lines as it has; a long one is broken between words after 80 columns.
func (w *yamlWriter) text(s string, indent int) {
	if strings.Contains(s, "\n") && strings.TrimSpace(s) == s {
		w.WriteString(" |-")
		for line := range strings.SplitSeq(s, "\n") {
			w.line(indent, line)
		}
		return
	}
	quoted := scalar(s)
	if quoted != s {
		w.WriteString(" " + quoted)
		return
	}
	for word := range strings.SplitSeq(s, " ") {
		if w.Len()-bytes.LastIndexByte(w.Bytes(), '\n') > 81 {
			w.line(indent, word)
		} else {
			w.WriteString(" " + word)
		}
	}
}

// scalar is a text on one line, in quotes if YAML would take it for something else.
func scalar(s string) string {
	_, err := strconv.ParseFloat(s, 64)
	switch {
	case err == nil, slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off"}, strings.ToLower(s)), strings.ContainsFunc(s, unicode.IsControl):
		return strconv.Quote(s)
	case s == "", strings.ContainsAny(s[:1], "#,[]{}&*!|<>'\"%@`?:-~ "), strings.ContainsAny(s[len(s)-1:], " :"), strings.Contains(s, ": "), strings.Contains(s, " #"), strings.Contains(s, "  "):
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return s
}
