package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

const maxSecretFile = 64 << 10

const secretRule = "must be {env: NAME} or {file: path}"

// origin says where a secret came from, in the words of the file; it never holds the secret itself.
type origin string

const inFile origin = `"[secret]"`

func fromEnv(name string) origin  { return origin("{env: " + name + "}") }
func fromFile(path string) origin { return origin("{file: " + shape.Quote(path) + "}") }

// secret reads {env: X}, {file: path}, {value: x} or a bare text. What it reads is never shown. A public value may stand in the
// file itself, and white space around it is cut.
func (d *decoder) secret(key string, n *yaml.Node, public bool) (string, bool) {
	at := n
	if n = d.follow(n); n == nil {
		return "", false
	}
	switch {
	case n.Kind == yaml.ScalarNode && !null(n):
		return d.literal(key, at, n, public)
	case n.Kind != yaml.MappingNode:
		d.failAt(key, at, "", secretRule)
		return "", false
	}
	forms := []string{"env", "file", "value"}
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains(forms, k.Value) {
			d.hide(k.Value)
		}
	}
	es := d.entries(key, n, 0)
	for _, e := range es {
		d.doc.plain[e.key] = slices.Contains(forms, e.name)
	}
	if len(es) != 1 || !d.doc.plain[es[0].key] {
		hint := ""
		if len(es) == 1 {
			hint = didYouMean(es[0].name, forms)
		}
		d.failAt(key, at, hint, secretRule)
		return "", false
	}
	v := d.follow(es[0].value)
	switch {
	case v == nil:
		return "", false
	case v.Kind != yaml.ScalarNode || null(v):
		d.failAt(key, es[0].key, "", secretRule)
		return "", false
	case es[0].name == "value":
		return d.literal(key, es[0].value, v, public)
	case es[0].name == "env":
		return d.secretFromEnv(key, v, public)
	}
	return d.secretFromFile(key, v, public)
}

// literal takes a secret that stands in the file itself, and warns about it.
func (d *decoder) literal(key string, at, n *yaml.Node, public bool) (string, bool) {
	d.hide(n.Value)
	text, _, ok := d.text(key, n)
	if !ok {
		return "", false
	}
	if !public {
		d.warnings = append(d.warnings, d.problem(key, at, "use {env: NAME} or {file: path}", "a secret stands in the file itself"))
	}
	return d.keep(key, at, text, inFile, "the text", public)
}

var usualEnvName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,63}$`)

func (d *decoder) secretFromEnv(key string, n *yaml.Node, public bool) (string, bool) {
	name, expanded, ok := d.text(key, n)
	if !ok {
		return "", false
	}
	if !envName.MatchString(name) {
		d.failAt(key, n, "", "env must be the name of an environment variable")
		return "", false
	}
	what := "the environment variable"
	if !expanded && usualEnvName.MatchString(name) { // any other name is not shown: it may be the secret itself, in the wrong place
		d.doc.plain[n] = true
		what += " " + name
	}
	text, set := d.env(name)
	if !set {
		d.failAt(key, n, "", "%s is not set", what)
		return "", false
	}
	return d.keep(key, n, text, fromEnv(name), what, public)
}

func (d *decoder) secretFromFile(key string, n *yaml.Node, public bool) (string, bool) {
	name, _, ok := d.text(key, n)
	if !ok {
		return "", false
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(d.file), path)
	}
	text, err := readSecret(path)
	if err != nil { // the path is not shown: it may be the secret itself
		d.failAt(key, n, "", "the file of {file: …} %s", err)
		return "", false
	}
	d.doc.plain[n] = true
	return d.keep(key, n, text, fromFile(name), "the file", public)
}

// readSecret reads a whole regular file and cuts one newline off its end. Its errors name no path and read on from it.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("does not exist")
	case err != nil:
		return "", errors.New("cannot be read")
	case !info.Mode().IsRegular():
		return "", errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", errors.New("cannot be read")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", errors.New("cannot be read")
	case len(data) > maxSecretFile:
		return "", errors.New("is larger than 64KiB")
	}
	text := strings.TrimSuffix(string(data), "\n")
	return strings.TrimSuffix(text, "\r"), nil
}

// keep checks a secret and remembers where it came from. what names its origin, not its value.
func (d *decoder) keep(key string, n *yaml.Node, text string, from origin, what string, public bool) (string, bool) {
	if public {
		text = strings.TrimSpace(text)
	} else {
		d.hide(text)
	}
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	switch {
	case text == "":
		d.failAt(key, n, "", "%s is empty", what)
	case unicode.IsSpace(first) || unicode.IsSpace(last):
		d.failAt(key, n, "", "%s begins or ends with white space", what)
	case first == '\ufeff': // an editor's, as a newline is; nobody sees that it would be part of the secret
		d.failAt(key, n, "save it as UTF-8 without BOM", "%s begins with a byte order mark", what)
	case strings.ContainsRune(text, 0):
		d.failAt(key, n, "", "%s holds a zero byte", what)
	default:
		d.origins[key] = from
		return text, true
	}
	return "", false
}

// handshake reads what a challenge needs: each value is one text or secret, or a list of them.
func (d *decoder) handshake(key string, n *yaml.Node) map[string][]string {
	out := map[string][]string{}
	if n = d.follow(n); n == nil || null(n) {
		return out
	}
	if n.Kind != yaml.MappingNode {
		d.failAt(key, n, "", "must be a mapping (key: value)")
		return out
	}
	for _, e := range d.entries(key, n, 0) {
		full := join(key, e.name)
		d.places[full] = place{e.key, e.value}
		v := d.follow(e.value)
		if v == nil {
			continue
		}
		list := []*yaml.Node{e.value}
		if v.Kind == yaml.SequenceNode {
			list = v.Content
		}
		for i, c := range list {
			if text, ok := d.secret(fmt.Sprintf("%s[%d]", full, i), c, !isToken(e.name)); ok {
				out[e.name] = append(out[e.name], text)
			}
		}
	}
	return out
}

// isToken says whether a key of a handshake holds a secret.
func isToken(key string) bool {
	return strings.Contains(key, "token") || strings.Contains(key, "secret")
}

// special reads the types that are no plain block, list or scalar.
func (d *decoder) special(key string, n *yaml.Node, v reflect.Value, f shape.Field) bool {
	switch p := v.Addr().Interface().(type) {
	case *verify.Secret:
		if text, ok := d.secret(key, n, false); ok {
			*p = verify.NewSecret([]byte(text))
		}
	case *string:
		if f.Form != "secret" {
			return false
		}
		*p, _ = d.secret(key, n, true)
	case *map[string][]string:
		if f.Form != "handshake" {
			return false
		}
		*p = d.handshake(key, n)
	case **Source:
		*p = d.source(key, n)
	case *forward.Config:
		*p = forward.Default()
		return false
	case *selector.Texts:
		return d.oneText(key, n, v, p)
	default:
		return false
	}
	return true
}

// oneText reads a selector that stands alone; false = it is a list.
func (d *decoder) oneText(key string, n *yaml.Node, v reflect.Value, p *selector.Texts) bool {
	if n.Kind != yaml.ScalarNode || null(n) {
		return false
	}
	var one string
	d.scalar(key, n, reflect.ValueOf(&one).Elem(), shape.Field{})
	*p = nil
	if one != "" {
		*p = selector.Texts{one}
	}
	return true
}
