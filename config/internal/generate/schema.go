package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

const (
	schemaURL       = "https://raw.githubusercontent.com/hooktender/hooktender/main/docs/hooktender.schema.json"
	namePattern     = `^[a-z0-9][a-z0-9_-]{0,62}$`
	envPattern      = `\$\{env:`
	durationPattern = `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
	sizePattern     = `^[0-9]+ ?(B|[kK]B|[MGT]B|[KMGT]iB)?$`
)

// node is a JSON Schema. Its keys are written sorted, so that the file is the same each time.
type node = map[string]any

// schemaFile is docs/hooktender.schema.json.
func schemaFile(c *config.Config, src *sources) []byte {
	root := block(reflect.ValueOf(c).Elem(), src)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = schemaURL
	root["title"] = "hooktender.yaml"
	root["patternProperties"] = node{"^x-": true}
	root["type"] = "object"
	root["required"] = []string{"version", "sources"}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil && src.err == nil {
		src.err = err
	}
	return b.Bytes()
}

// block is the schema of a struct; v holds its defaults.
func block(v reflect.Value, src *sources) node {
	properties := node{}
	for _, f := range shape.Fields(v.Type()) {
		p := value(f, v.Field(f.Index), src)
		p["description"] = src.text(v.Type(), f.Go)
		if d, ok := defaultOf(v.Type(), f, v.Field(f.Index)); ok {
			p["default"] = d
		}
		properties[f.Name] = p
	}
	n := node{"type": []string{"object", "null"}, "additionalProperties": false, "properties": properties}
	switch v.Type() {
	case reflect.TypeFor[config.Source]():
		n["type"], n["required"] = "object", []string{"path", "provider"}
	case reflect.TypeFor[config.Token]():
		n["type"], n["required"] = "object", []string{"name", "token", "scopes"}
	case reflect.TypeFor[forward.Config]():
		n["type"], n["required"] = "object", []string{"url"}
	}
	return n
}

// value is the schema of one field; v holds its default.
func value(f shape.Field, v reflect.Value, src *sources) node {
	switch {
	case f.Form == "handshake":
		one := secret()
		return node{"type": []string{"object", "null"}, "additionalProperties": node{"anyOf": []any{one, list(one)}}}
	case f.Form == "secret" && f.Type.Kind() == reflect.Slice, f.Type == reflect.TypeFor[[]verify.Secret]():
		return list(secret())
	case f.Type == reflect.TypeFor[verify.Secret]():
		return secret()
	case f.Type == reflect.TypeFor[[]verify.Spec](): // parts of verify, written like verify itself
		return list(node{"type": "object"})
	case f.One:
		return node{"anyOf": []any{text(nil), list(text(nil))}}
	}
	switch f.Type.Kind() {
	case reflect.Struct:
		return block(v, src)
	case reflect.Slice:
		return list(element(f, v.Type().Elem(), src))
	case reflect.Map:
		n := node{"type": []string{"object", "null"}, "additionalProperties": element(f, v.Type().Elem(), src)}
		if k := f.Type.Elem().Kind(); k == reflect.Struct || k == reflect.Pointer {
			n["propertyNames"] = node{"pattern": namePattern}
			for _, key := range v.MapKeys() { // the example, which holds the defaults
				n["additionalProperties"] = block(reflect.Indirect(v.MapIndex(key)), src)
			}
		}
		return n
	}
	return scalar(f)
}

// element is the schema of what a list or a map of f holds.
func element(f shape.Field, t reflect.Type, src *sources) node {
	f.Type = t
	return value(f, reflect.New(t).Elem(), src)
}

func list(items node) node { return node{"type": []string{"array", "null"}, "items": items} }

func secret() node {
	form := func(key string) node {
		return node{"type": "object", "additionalProperties": false, "required": []string{key}, "properties": node{key: node{"type": []string{"string", "number"}}}}
	}
	return node{"anyOf": []any{form("env"), form("file"), form("value"), node{"type": []string{"string", "number"}}}}
}

func text(enum []string) node {
	if enum == nil {
		return node{"type": []string{"string", "number"}}
	}
	return node{"anyOf": []any{node{"enum": enum}, expandable()}}
}

// expandable is a text that stands for a value of another type.
func expandable() node { return node{"type": "string", "pattern": envPattern} }

func scalar(f shape.Field) node {
	switch {
	case f.Type == shape.Duration:
		return node{"anyOf": []any{node{"type": "string", "pattern": durationPattern}, node{"const": 0}, expandable()}}
	case f.Bytes:
		return node{"anyOf": []any{node{"type": "integer"}, node{"type": "string", "pattern": sizePattern}, expandable()}}
	}
	switch f.Type.Kind() {
	case reflect.Bool:
		return node{"anyOf": []any{node{"type": "boolean"}, expandable()}}
	case reflect.Int, reflect.Int64:
		return node{"anyOf": []any{node{"type": "integer"}, expandable()}}
	case reflect.Float64:
		return node{"anyOf": []any{node{"type": "number"}, expandable()}}
	}
	return text(f.Enum)
}

// defaultOf is the default of a field, as the file would write it. What every source or upstream must say for itself has none.
func defaultOf(owner reflect.Type, f shape.Field, v reflect.Value) (any, bool) {
	switch owner {
	case reflect.TypeFor[verify.Spec](), reflect.TypeFor[selector.IdentitySpec](), reflect.TypeFor[config.Token]():
		return nil, false
	}
	if f.Example || f.Short {
		return nil, false
	}
	switch {
	case v.Type() == shape.Duration:
		return shape.FormatDuration(time.Duration(v.Int())), true
	case f.Bytes:
		return shape.FormatSize(v.Int()), true
	case v.CanInt() || v.CanFloat() || v.Kind() == reflect.Bool || v.Kind() == reflect.String:
		return v.Interface(), true
	case v.Type() == reflect.TypeFor[[]string]() && v.Len() > 0:
		return v.Interface(), true
	}
	return nil, false
}
