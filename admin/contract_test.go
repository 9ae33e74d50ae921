package admin_test

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// contract is the API's own description, against which every answer in these tests is held.
type contract struct{ doc map[string]any }

func readContract(t *testing.T, raw []byte) *contract {
	t.Helper()
	c := &contract{}
	if err := json.Unmarshal(raw, &c.doc); err != nil {
		t.Fatal(err)
	}
	return c
}

// resolve follows $ref.
func (c *contract) resolve(v any) map[string]any {
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

// operation gives what is written of a path and a method, nil if nothing is.
func (c *contract) operation(method, path string) map[string]any {
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
			return op
		}
	}
	return nil
}

// check says what is wrong with an answer; "" if nothing is.
func (c *contract) check(method, path string, status int, contentType string, body []byte) string {
	op := c.operation(method, path)
	if op == nil {
		if status == 404 || status == 405 || status == 403 {
			return ""
		}
		return "is not described"
	}
	responses := op["responses"].(map[string]any)
	r, ok := responses[strconv.Itoa(status)]
	if !ok {
		if status < 400 {
			return fmt.Sprintf("status %d is not described", status)
		}
		r = responses["default"]
	}
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
func (c *contract) validate(schema, v any, at string) string {
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
	switch v := v.(type) {
	case string:
		return validText(s, v, at)
	case float64:
		if low, ok := s["minimum"].(float64); ok && v < low {
			return fmt.Sprintf("%s: %v is below %v", at, v, low)
		}
	case []any:
		if n, ok := s["maxItems"].(float64); ok && float64(len(v)) > n {
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
	if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
		return fmt.Sprintf("%s: %q does not match %s", at, v, p)
	}
	return ""
}

func (c *contract) validObject(s, v map[string]any, at string) string {
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
