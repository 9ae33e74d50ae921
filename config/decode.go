package config

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/config/internal/shape"
)

// Bounds of a file. An alias costs what it stands for.
const (
	maxFile  = 1 << 20
	maxNodes = 1 << 19
	maxMerge = 16
)

// nameRule is for the names of sources and upstreams.
var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// decoder reads a YAML tree into the structs of the rooms and remembers where each key stood. It goes on after a fault, so that
// one run reports all of them.
type decoder struct {
	file     string
	env      func(string) (string, bool)
	doc      *document
	places   map[string]place  // by dotted key
	faulty   map[string]bool   // keys that have a fault already
	origins  map[string]origin // of secrets, by dotted key
	hidden   []string          // secrets, to be blotted out of every message
	left     int               // nodes that may still be visited
	problems []Problem
	warnings []Problem
}

// place is where a key stands; the key is nil for an element of a list.
type place struct{ key, value *yaml.Node }

// node is the one to point at: a value that stands in one piece, else the key.
func (p place) node() *yaml.Node {
	if p.value != nil && (p.key == nil || p.value.Kind == yaml.ScalarNode && p.value.Line == p.key.Line && p.value.Value != "") {
		return p.value
	}
	return p.key
}

// entry is one key of a mapping.
type entry struct {
	name       string
	key, value *yaml.Node
}

func (d *decoder) problem(key string, n *yaml.Node, hint, message string) Problem {
	p := Problem{File: d.file, Key: key, Message: message, Hint: hint}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	return p
}

// failAt reports a fault of key at n.
func (d *decoder) failAt(key string, n *yaml.Node, hint, format string, args ...any) {
	d.faulty[key] = true
	d.problems = append(d.problems, d.problem(key, n, hint, fmt.Sprintf(format, args...)))
}

// top is where a key is missing that no block lacks but the file itself.
var top = &yaml.Node{Line: 1, Column: 1}

// fail reports a fault of key where it stands or, where the file does not have it, at the block that lacks it. A key with a fault
// already is not reported again.
//
//go:noinline // many callers, none in a hurry
func (d *decoder) fail(key, hint, format string, args ...any) {
	if !d.faulty[key] {
		d.failAt(key, cmp.Or(d.find(key), top), hint, format, args...)
	}
}

func (d *decoder) warn(key, format string, args ...any) {
	d.warnings = append(d.warnings, d.problem(key, d.find(key), "", fmt.Sprintf(format, args...)))
}

// find gives the node of key or of the nearest block around it.
func (d *decoder) find(key string) *yaml.Node {
	for key != "" {
		if p, ok := d.places[key]; ok {
			return p.node()
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return nil
}

func (d *decoder) has(key string) bool { _, ok := d.places[key]; return ok }

// hide keeps a text out of everything that is shown. Texts shorter than four bytes would blot out ordinary words.
func (d *decoder) hide(s string) {
	if s = strings.TrimSpace(s); len(s) >= 4 {
		d.hidden = append(d.hidden, s)
	}
}

// follow gives the node that n stands for; nil when the file has used up its nodes.
func (d *decoder) follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil && d.left > 0 {
		d.doc.plain[n] = true
		d.left--
		n = n.Alias
	}
	if d.left--; d.left == 0 {
		d.failAt("", n, "", "too many values, aliases included")
	}
	if d.left < 0 || n.Kind == yaml.AliasNode {
		return nil
	}
	return n
}

// null says whether a key stands there without a value.
func null(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// entries are the keys of a mapping; those that it merges (<<) come last, and not where it has its own.
func (d *decoder) entries(key string, n *yaml.Node, depth int) []entry {
	var own, merged []entry
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k = d.follow(k); k == nil {
			return own
		}
		if k.Kind != yaml.ScalarNode {
			d.failAt(key, k, "", "a key must be text")
			continue
		}
		d.doc.plain[k] = true
		if k.Tag == "!!merge" {
			merged = append(merged, d.merge(key, v, depth)...)
			continue
		}
		if before, twice := first[k.Value]; twice {
			d.failAt(join(key, k.Value), k, "", "is given twice, first on line %d", before.Line)
			continue
		}
		first[k.Value] = k
		own = append(own, entry{k.Value, k, v})
	}
	for _, e := range merged {
		if _, taken := first[e.name]; !taken {
			first[e.name] = e.key
			own = append(own, e)
		}
	}
	return own
}

// merge gives the entries that a << brings in: those of one mapping, or of a list of them.
func (d *decoder) merge(key string, n *yaml.Node, depth int) []entry {
	at := n
	n = d.follow(n)
	switch {
	case n == nil:
		return nil
	case depth >= maxMerge:
		d.failAt(key, at, "", "<< is nested too deeply")
		return nil
	case n.Kind == yaml.MappingNode:
		return d.entries(key, n, depth+1)
	case n.Kind == yaml.SequenceNode:
		var out []entry
		for _, c := range n.Content {
			out = append(out, d.merge(key, c, depth+1)...)
		}
		return out
	}
	d.failAt(key, at, "", "<< must name a mapping: <<: *name")
	return nil
}

func join(block, key string) string {
	if block == "" {
		return key
	}
	return block + "." + key
}

// block reads a mapping into the struct v. Keys the file lacks keep what v holds.
func (d *decoder) block(key string, n *yaml.Node, v reflect.Value) {
	if n = d.follow(n); n == nil || null(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.failAt(key, n, "", "must be a mapping (key: value)")
		return
	}
	d.fill(key, d.entries(key, n, 0), v)
}

// fill reads the entries of a block into the struct v.
func (d *decoder) fill(key string, entries []entry, v reflect.Value) {
	fields := shape.Fields(v.Type())
	for _, e := range entries {
		full := join(key, e.name)
		f, ok := fieldNamed(fields, e.name)
		if !ok {
			if key != "" || !strings.HasPrefix(e.name, "x-") {
				d.doc.showHarmless(e)
				d.failAt(full, e.key, suggestKey(e.name, fields), "unknown key")
			}
			continue
		}
		d.places[full] = place{e.key, e.value}
		d.value(full, e.value, v.Field(f.Index), f)
	}
}

func fieldNamed(fields []shape.Field, key string) (shape.Field, bool) {
	for _, f := range fields {
		if f.Name == key {
			return f, true
		}
	}
	return shape.Field{}, false
}

// suggestKey is the hint for a key that a block does not have: a key of it with a like name, or the blocks inside of it that have this one.
func suggestKey(key string, fields []shape.Field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	if hint := didYouMean(key, names); hint != "" {
		return hint
	}
	if blocks := blocksWith(key, "", fields); len(blocks) > 0 {
		return fmt.Sprintf("did you mean %q inside of %s?", key, strings.Join(blocks, " or "))
	}
	return "the keys here are " + strings.Join(names, ", ")
}

// blocksWith lists the blocks among fields, and inside of those, that have a key of this name.
func blocksWith(key, prefix string, fields []shape.Field) (blocks []string) {
	for _, f := range fields {
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		inner := shape.Fields(f.Type)
		if _, ok := fieldNamed(inner, key); ok {
			blocks = append(blocks, prefix+f.Name)
		}
		blocks = append(blocks, blocksWith(key, prefix+f.Name+".", inner)...)
	}
	return blocks
}

// value reads one value of any type.
func (d *decoder) value(key string, n *yaml.Node, v reflect.Value, f shape.Field) {
	if d.special(key, n, v, f) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.block(key, n, v)
	case reflect.Slice:
		d.list(key, n, v, f)
	case reflect.Map:
		d.table(key, n, v, f)
	default:
		d.scalar(key, n, v, f)
	}
}

// list reads a sequence, which replaces what v holds.
func (d *decoder) list(key string, n *yaml.Node, v reflect.Value, f shape.Field) {
	if n = d.follow(n); n == nil || null(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.failAt(key, n, "", "must be a list: [a, b]")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for i, c := range n.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		d.places[at] = place{nil, c}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(at, c, e, f)
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

// table reads a mapping whose keys are names that the user chose.
func (d *decoder) table(key string, n *yaml.Node, v reflect.Value, f shape.Field) {
	if n = d.follow(n); n == nil || null(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.failAt(key, n, "", "must be a mapping (name: …)")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range d.entries(key, n, 0) {
		full := join(key, e.name)
		d.places[full] = place{e.key, e.value}
		if t := v.Type().Elem(); (t.Kind() == reflect.Struct || t.Kind() == reflect.Pointer) && !nameRule.MatchString(e.name) {
			d.failAt(full, e.key, "", "a name is made of lower-case letters, digits, - and _ (1 to 63, a letter or digit first)")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(full, e.value, elem, f)
		v.SetMapIndex(reflect.ValueOf(e.name), elem)
	}
}

// text gives the expanded text of a scalar, and whether it came to be by expansion.
func (d *decoder) text(key string, n *yaml.Node) (s string, expanded, ok bool) {
	s, missing, err := expand(n.Value, d.env)
	switch {
	case missing != "":
		d.failAt(key, n, "set it, or give a default: ${env:"+missing+":-value}", "the environment variable %s is not set", missing)
	case err != nil:
		d.failAt(key, n, "", "%s", err)
	}
	if s != n.Value && len(s) >= 8 {
		d.hide(s)
	}
	return s, s != n.Value, missing == "" && err == nil
}

// login finds URLs that may have a password or a token in them, which are refused and not shown.
var login = regexp.MustCompile(`://.*[@?]|:.*@`)

// scalar reads a text, number, truth value, duration or size.
func (d *decoder) scalar(key string, n *yaml.Node, v reflect.Value, f shape.Field) {
	if n = d.follow(n); n == nil {
		return
	}
	if n.Kind != yaml.ScalarNode {
		d.failAt(key, n, "", "must be %s, not a list or mapping", kindName(v, f))
		return
	}
	d.doc.plain[n] = !login.MatchString(n.Value)
	if null(n) {
		d.failAt(key, n, "leave the key out for its default", "has no value")
		return
	}
	s, expanded, ok := d.text(key, n)
	if login.MatchString(s) {
		d.hide(s)
	}
	if !ok {
		return
	}
	tag := n.Tag
	if expanded {
		tag = "" // its type is what its text says
	}
	if !setScalar(v, f, s, tag) {
		d.failAt(key, n, scalarHint(v, n, s), "must be %s", kindName(v, f))
		return
	}
	if v.Kind() == reflect.String && f.Enum != nil && !slices.Contains(f.Enum, s) {
		d.failAt(key, n, didYouMean(s, f.Enum), "must be one of %s", strings.Join(f.Enum, ", "))
	}
}

// setScalar reads s into v; tag is the YAML type as written, "" = any.
func setScalar(v reflect.Value, f shape.Field, s, tag string) bool {
	is := func(tags ...string) bool { return tag == "" || slices.Contains(tags, tag) }
	switch {
	case v.Type() == shape.Duration:
		x, err := time.ParseDuration(s)
		if err != nil || !is("!!str", "!!int") {
			return false
		}
		v.SetInt(int64(x))
	case f.Bytes:
		x, err := shape.ParseSize(s)
		if err != nil || !is("!!str", "!!int") {
			return false
		}
		v.SetInt(x)
	case v.CanInt():
		x, err := shape.ParseInt(s)
		if err != nil || !is("!!int") || v.OverflowInt(x) {
			return false
		}
		v.SetInt(x)
	case v.CanFloat():
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || !is("!!int", "!!float") || math.IsInf(x, 0) || math.IsNaN(x) {
			return false
		}
		v.SetFloat(x)
	case v.Kind() == reflect.Bool:
		if s != "true" && s != "false" || !is("!!bool") {
			return false
		}
		v.SetBool(s == "true")
	case v.Kind() == reflect.String:
		if !is("!!str", "!!int", "!!float", "!!timestamp") {
			return false
		}
		v.SetString(s)
	default:
		return false
	}
	return true
}

// kindName says what a value must be.
func kindName(v reflect.Value, f shape.Field) string {
	switch {
	case v.Type() == shape.Duration:
		return "a duration such as 500ms, 5m or 168h"
	case f.Bytes:
		return "a size such as 64KiB, 5MiB or a number of bytes"
	case v.CanInt():
		return "a whole number"
	case v.CanFloat():
		return "a number"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case f.Enum != nil:
		return "one of " + strings.Join(f.Enum, ", ")
	}
	return "text"
}

// scalarHint helps with the mistakes that people make: days, a duration without unit, yes and no, quotes around a number.
func scalarHint(v reflect.Value, n *yaml.Node, s string) string {
	switch {
	case v.Type() == shape.Duration:
		if days, ok := strings.CutSuffix(s, "d"); ok {
			if n, err := shape.ParseInt(days); err == nil && n > 0 && n < 100_000 {
				return fmt.Sprintf("did you mean %dh?", n*24)
			}
		}
		if n, err := shape.ParseInt(s); err == nil && n >= 0 {
			return fmt.Sprintf("did you mean %ds?", n)
		}
	case v.Kind() == reflect.Bool && slices.Contains([]string{"yes", "on", "True", "TRUE", "1"}, s):
		return "did you mean true?"
	case v.Kind() == reflect.Bool && slices.Contains([]string{"no", "off", "False", "FALSE", "0"}, s):
		return "did you mean false?"
	case (v.CanInt() || v.CanFloat()) && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		if _, err := strconv.ParseFloat(s, 64); err == nil && !strings.ContainsAny(s, ".eE_xX") {
			return "write it without quotes"
		}
	case v.Kind() == reflect.String && (s == "true" || s == "false"):
		return "put it in quotes if it is meant as text"
	}
	return ""
}
