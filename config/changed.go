package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/verify"
)

// Changed compares two configurations. changed are the dotted keys that differ, sorted; a source or upstream that came or went is
// one key. needRestart are those of them that only a restart applies. A secret that changed shows as its key alone.
func Changed(old, new *Config) (changed, needRestart []string) {
	a, b := flatten(old), flatten(new)
	seen := map[string]bool{}
	note := func(key string, other map[string]string) {
		if parts := strings.SplitN(key, ".", 3); len(parts) == 3 && (parts[0] == "sources" || parts[0] == "upstreams") {
			if _, there := other[parts[0]+"."+parts[1]]; !there {
				key = parts[0] + "." + parts[1]
			}
		}
		seen[key] = true
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			note(k, b)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			note(k, a)
		}
	}
	changed = slices.Sorted(maps.Keys(seen))
	for _, k := range changed {
		if k == "listen" || k == "admin.listen" || k == "data_dir" || strings.HasPrefix(k, "journal.") {
			needRestart = append(needRestart, k)
		}
	}
	return changed, needRestart
}

// flatten gives every value by its dotted key, secrets in the clear: it is for comparing only.
func flatten(c *Config) map[string]string {
	out := map[string]string{}
	flattenBlock(out, "", reflect.ValueOf(c).Elem())
	return out
}

func flattenBlock(out map[string]string, key string, v reflect.Value) {
	for _, f := range shape.Fields(v.Type()) {
		full, fv := join(key, f.Name), v.Field(f.Index)
		switch {
		case fv.Kind() == reflect.Struct && !isLeaf(fv.Type()):
			flattenBlock(out, full, fv)
		case fv.Kind() == reflect.Map && isBlock(fv.Type().Elem()):
			for _, k := range fv.MapKeys() {
				if strings.Contains(k.String(), "://") {
					continue // an upstream without a name: what changed is the source that has its URL
				}
				at := join(full, k.String())
				out[at] = ""
				flattenBlock(out, at, reflect.Indirect(reflectCopy(fv.MapIndex(k))))
			}
		default:
			out[full] = flatText(fv)
		}
	}
}

// flatText writes a value so that equal values give equal texts.
func flatText(v reflect.Value) string {
	if s, ok := v.Interface().(verify.Secret); ok {
		return fmt.Sprintf("%q", s.Bytes())
	}
	switch v.Kind() {
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = flatText(v.Index(i))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Struct:
		var parts []string
		for _, f := range shape.Fields(v.Type()) {
			parts = append(parts, flatText(v.Field(f.Index)))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case reflect.Map:
		if v.Len() == 0 {
			return "map[]"
		}
	}
	return fmt.Sprintf("%#v", v.Interface()) // maps are written in the order of their keys
}
