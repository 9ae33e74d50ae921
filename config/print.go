package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/verify"
)

// Print writes the effective configuration, defaults and presets included, in the form of the file. A secret shows as where it comes
// from: {env: X}, {file: path}, or "[secret]" where it stands in the file itself; without the last kind Load reads what Print writes,
// and it means the same.
func Print(w io.Writer, c *Config) error {
	_, err := io.WriteString(w, Text(c, nil))
	return err
}

// JSON is what Print writes, as one JSON object.
func JSON(c *Config) ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(Text(c, nil)), &doc); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// Text is what Print writes. Where comment is given it says what stands above a key, by the struct and the field of the key, one
// line an element. Zero values of verify, of which each scheme uses a few, are then written as comments, else left out.
func Text(c *Config, comment func(reflect.Type, string) []string) string {
	p := &printer{c: c, comment: comment}
	p.block("", reflect.ValueOf(c).Elem(), 0)
	return p.b.String()
}

type printer struct {
	c       *Config
	comment func(reflect.Type, string) []string
	b       strings.Builder
}

func (p *printer) line(indent int, format string, args ...any) {
	p.b.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(&p.b, format+"\n", args...)
}

// block writes the keys of a struct, each on its own line.
func (p *printer) block(key string, v reflect.Value, indent int) {
	for _, f := range shape.Fields(v.Type()) {
		if f.Short {
			continue
		}
		p.field(join(key, f.Name), f, v, indent)
	}
}

var (
	specType    = reflect.TypeFor[verify.Spec]()
	respondType = reflect.TypeFor[proxy.RespondConfig]() // zero = what the preset says
)

func (p *printer) field(key string, f shape.Field, owner reflect.Value, indent int) {
	v := owner.Field(f.Index)
	unused := (owner.Type() == specType || owner.Type() == respondType) && v.IsZero()
	if unused && p.comment == nil {
		return
	}
	if p.comment != nil {
		if indent == 0 {
			p.b.WriteByte('\n')
		}
		for _, l := range p.comment(owner.Type(), f.Go) {
			p.line(indent, "# %s", l)
		}
	}
	mark := ""
	if unused {
		mark = "# "
	}
	switch {
	case v.Kind() == reflect.Struct && !isLeaf(v.Type()):
		p.line(indent, "%s:", f.Name)
		p.block(key, v, indent+1)
	case v.Kind() == reflect.Map && isBlock(v.Type().Elem()):
		p.table(key, f.Name, v, indent)
	case v.Kind() == reflect.Slice && isBlock(v.Type().Elem()) && v.Len() > 0:
		p.line(indent, "%s:", f.Name)
		for i := range v.Len() {
			p.line(indent+1, "- %s", p.flow(fmt.Sprintf("%s[%d]", key, i), f, v.Index(i)))
		}
	default:
		p.line(indent, "%s%s: %s", mark, f.Name, p.flow(key, f, v))
	}
}

// isLeaf is a struct that is written as one value.
func isLeaf(t reflect.Type) bool { return t == reflect.TypeFor[verify.Secret]() }

// isBlock is a struct with keys of its own, or a pointer to one.
func isBlock(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.Struct && !isLeaf(t)
}

// table writes blocks by name, sorted. An upstream that a bare URL stands for is written at its sources only.
func (p *printer) table(key, name string, v reflect.Value, indent int) {
	var names []reflect.Value
	for _, k := range v.MapKeys() {
		if !strings.Contains(k.String(), "://") {
			names = append(names, k)
		}
	}
	if len(names) == 0 {
		p.line(indent, "%s: {}", name)
		return
	}
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	p.line(indent, "%s:", name)
	for _, k := range names {
		p.line(indent+1, "%s:", shape.Quote(k.String())) // 2024 is a name here, and a number elsewhere
		p.block(join(key, k.String()), reflect.Indirect(reflectCopy(v.MapIndex(k))), indent+2)
	}
}

// reflectCopy makes an element of a map addressable.
func reflectCopy(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

// flow writes a value on one line.
func (p *printer) flow(key string, f shape.Field, v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return shape.FormatDuration(x)
	case verify.Secret:
		return string(p.origin(key))
	case map[string][]string:
		return p.texts(key, f, x)
	}
	switch {
	case f.Form == "secret" && v.Kind() == reflect.String && p.origin(key) != inFile:
		return string(p.origin(key))
	case f.Bytes:
		return shape.FormatSize(v.Int())
	case v.CanInt():
		return strconv.FormatInt(v.Int(), 10)
	case v.CanFloat():
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case v.Kind() == reflect.String:
		return shape.Quote(v.String())
	case v.Kind() == reflect.Slice:
		return p.flowList(key, f, v)
	case v.Kind() == reflect.Map:
		return p.flowMap(v)
	}
	return p.flowBlock(key, v)
}

func (p *printer) flowList(key string, f shape.Field, v reflect.Value) string {
	if f.One && v.Len() == 0 {
		return `""`
	}
	if f.One && v.Len() == 1 {
		return shape.Quote(v.Index(0).String())
	}
	parts := make([]string, v.Len())
	for i := range parts {
		parts[i] = p.flow(fmt.Sprintf("%s[%d]", key, i), f, v.Index(i))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (p *printer) flowMap(v reflect.Value) string {
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = shape.Quote(k.String()) + ": " + p.flow("", shape.Field{}, v.MapIndex(k))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (p *printer) flowBlock(key string, v reflect.Value) string {
	var parts []string
	for _, f := range shape.Fields(v.Type()) {
		if v.Type() == specType && v.Field(f.Index).IsZero() {
			continue
		}
		parts = append(parts, f.Name+": "+p.flow(join(key, f.Name), f, v.Field(f.Index)))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// texts writes lists of texts by name. Of a handshake, what came from elsewhere, and what is a token, shows as its origin.
func (p *printer) texts(key string, f shape.Field, m map[string][]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list := make([]string, len(m[k]))
		for i, text := range m[k] {
			list[i] = shape.Quote(text)
			if from := p.origin(fmt.Sprintf("%s.%s[%d]", key, k, i)); f.Form == "handshake" && (from != inFile || isToken(k)) {
				list[i] = string(from)
			}
		}
		text := "[" + strings.Join(list, ", ") + "]"
		if f.Form == "handshake" && len(list) == 1 {
			text = list[0]
		}
		parts = append(parts, shape.Quote(k)+": "+text)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (p *printer) origin(key string) origin {
	return cmp.Or(p.c.origins[key], inFile)
}
