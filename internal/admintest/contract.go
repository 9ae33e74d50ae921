package admintest

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Contract is the API's own description, against which answers are held. Safe for concurrent use.
type Contract struct {
	doc map[string]any

	mu   sync.Mutex
	seen map[string]bool // "GET /v1/events/{id} 200"
}

// ReadContract reads an OpenAPI document and fails the test on a part of JSON Schema that Check does not know.
func ReadContract(tb testing.TB, raw []byte) *Contract {
	tb.Helper()
	c := &Contract{seen: map[string]bool{}}
	if err := json.Unmarshal(raw, &c.doc); err != nil {
		tb.Fatal(err)
	}
	c.references(tb, c.doc, "#")
	schemas := c.doc["components"].(map[string]any)["schemas"].(map[string]any)
	for name, s := range schemas {
		known(tb, s, name)
	}
	return c
}

// references fails the test on a reference to nothing, and on a "default" answer, behind which anything could hide.
func (c *Contract) references(tb testing.TB, v any, at string) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok && !c.there(ref) {
			tb.Errorf("%s: %s is not there", at, ref)
		}
		if responses, ok := v["responses"].(map[string]any); ok && responses["default"] != nil {
			tb.Errorf("%s: a default answer says nothing: name the statuses", at)
		}
		for k, one := range v {
			c.references(tb, one, at+"/"+k)
		}
	case []any:
		for i, one := range v {
			c.references(tb, one, fmt.Sprintf("%s/%d", at, i))
		}
	}
}

func (c *Contract) there(ref string) bool {
	var at any = c.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		at = m[part]
	}
	return at != nil
}

// keywords are what validate knows; the last few say nothing that can be broken by an answer.
var keywords = []string{"$ref", "anyOf", "type", "minimum", "maximum", "items", "prefixItems", "minItems", "maxItems", "minLength", "enum", "const", "pattern",
	"required", "properties", "additionalProperties", "description", "format", "contentEncoding", "examples"}

func known(tb testing.TB, schema any, at string) {
	switch s := schema.(type) {
	case map[string]any:
		for k, v := range s {
			if !slices.Contains(keywords, k) {
				tb.Errorf("%s: the keyword %s is not checked", at, k)
			}
			switch k {
			case "properties":
				for name, p := range v.(map[string]any) {
					known(tb, p, at+"."+name)
				}
			case "items", "additionalProperties":
				known(tb, v, at+"."+k)
			case "anyOf":
				for _, one := range v.([]any) {
					known(tb, one, at+".anyOf")
				}
			}
		}
	case bool:
	default:
		tb.Errorf("%s: %v is no schema", at, schema)
	}
}

// Operations lists "METHOD /path" of everything that is described.
func (c *Contract) Operations() []string {
	var out []string
	for path, ops := range c.doc["paths"].(map[string]any) {
		for method := range ops.(map[string]any) {
			out = append(out, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(out)
	return out
}

// Scope is the scope that an operation is said to need, "" if none.
func (c *Contract) Scope(method, path string) string {
	op, _ := c.operation(method, path)
	scope, _ := op["x-scope"].(string)
	return scope
}

// Open says whether an operation is said to need no token.
func (c *Contract) Open(method, path string) bool {
	op, _ := c.operation(method, path)
	security, said := op["security"].([]any)
	return said && len(security) == 0
}

// Unseen lists "METHOD /path status" of every described answer that Check has not met.
func (c *Contract) Unseen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, op := range c.Operations() {
		method, path, _ := strings.Cut(op, " ")
		responses := c.doc["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)["responses"].(map[string]any)
		for status := range responses {
			if status != "default" && !c.seen[op+" "+status] {
				out = append(out, op+" "+status)
			}
		}
	}
	slices.Sort(out)
	return out
}

// resolve follows $ref.
func (c *Contract) resolve(v any) map[string]any {
	m, _ := v.(map[string]any)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	var at any = c.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(map[string]any)[part]
	}
	return c.resolve(at)
}

// operation gives what is written of a path and a method, and the path's pattern; nil if nothing is.
func (c *Contract) operation(method, path string) (map[string]any, string) {
	segments := strings.Split(path, "/")
	for pattern, ops := range c.doc["paths"].(map[string]any) {
		parts := strings.Split(pattern, "/")
		if len(parts) != len(segments) {
			continue
		}
		fits := true
		for i, p := range parts {
			if !strings.HasPrefix(p, "{") && p != segments[i] {
				fits = false
			}
		}
		if fits {
			op, _ := ops.(map[string]any)[strings.ToLower(method)].(map[string]any)
			return op, pattern
		}
	}
	return nil, ""
}

// Check says what is wrong with an answer to a request with this method and escaped path; "" if nothing is.
func (c *Contract) Check(method, path string, status int, contentType string, body []byte) string {
	op, pattern := c.operation(method, path)
	if op == nil {
		if status == 404 || status == 405 || status == 403 {
			return ""
		}
		return "is not described"
	}
	responses := op["responses"].(map[string]any)
	r, ok := responses[strconv.Itoa(status)]
	if !ok {
		return fmt.Sprintf("status %d is not described", status)
	}
	c.mu.Lock()
	c.seen[method+" "+pattern+" "+strconv.Itoa(status)] = true
	c.mu.Unlock()
	content, _ := c.resolve(r)["content"].(map[string]any)
	kind, _, _ := strings.Cut(contentType, ";")
	media, ok := content[kind].(map[string]any)
	if !ok {
		return fmt.Sprintf("content type %q is not described", contentType)
	}
	if media["schema"] == nil {
		return ""
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err.Error()
	}
	return c.validate(media["schema"], v, "body")
}

// validate knows the part of JSON Schema that the description uses.
func (c *Contract) validate(schema, v any, at string) string {
	s := c.resolve(schema)
	if any, ok := s["anyOf"].([]any); ok {
		var why string
		for _, one := range any {
			if why = c.validate(one, v, at); why == "" {
				return ""
			}
		}
		return why
	}
	if t, ok := s["type"]; ok && !isType(t, v) {
		return fmt.Sprintf("%s: %v is no %v", at, v, t)
	}
	if want, ok := s["const"]; ok && want != v {
		return fmt.Sprintf("%s: %v is not %v", at, v, want)
	}
	switch v := v.(type) {
	case string:
		return validText(s, v, at)
	case float64:
		if low, ok := s["minimum"].(float64); ok && v < low {
			return fmt.Sprintf("%s: %v is below %v", at, v, low)
		}
		if high, ok := s["maximum"].(float64); ok && v > high {
			return fmt.Sprintf("%s: %v is above %v", at, v, high)
		}
	case []any:
		if n, ok := s["maxItems"].(float64); ok && float64(len(v)) > n {
			return fmt.Sprintf("%s: %d items", at, len(v))
		}
		if n, ok := s["minItems"].(float64); ok && float64(len(v)) < n {
			return fmt.Sprintf("%s: %d items", at, len(v))
		}
		for i, one := range v {
			if why := c.validate(s["items"], one, fmt.Sprintf("%s[%d]", at, i)); why != "" {
				return why
			}
		}
	case map[string]any:
		return c.validObject(s, v, at)
	}
	return ""
}

func validText(s map[string]any, v, at string) string {
	if values, ok := s["enum"].([]any); ok && !slices.Contains(values, any(v)) {
		return fmt.Sprintf("%s: %q is not in %v", at, v, values)
	}
	if n, ok := s["minLength"].(float64); ok && float64(len(v)) < n {
		return fmt.Sprintf("%s: %q is too short", at, v)
	}
	if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
		return fmt.Sprintf("%s: %q does not match %s", at, v, p)
	}
	return ""
}

func (c *Contract) validObject(s, v map[string]any, at string) string {
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, ok := v[k.(string)]; !ok {
			return fmt.Sprintf("%s: %v is missing", at, k)
		}
	}
	props, _ := s["properties"].(map[string]any)
	for k, one := range v {
		schema, known := props[k]
		if !known {
			more, ok := s["additionalProperties"].(map[string]any)
			if !ok {
				return fmt.Sprintf("%s: %s is not described", at, k)
			}
			schema = more
		}
		if why := c.validate(schema, one, at+"."+k); why != "" {
			return why
		}
	}
	return ""
}

func isType(t, v any) bool {
	if list, ok := t.([]any); ok {
		return slices.ContainsFunc(list, func(one any) bool { return isType(one, v) })
	}
	switch v := v.(type) {
	case nil:
		return t == "null"
	case string:
		return t == "string"
	case bool:
		return t == "boolean"
	case float64:
		return t == "number" || t == "integer" && v == math.Trunc(v)
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	}
	return false
}
