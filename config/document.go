package config

import (
	"errors"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/config/internal/shape"
)

// document is the text of a file, for showing its lines without what may be secret in them.
type document struct {
	lines []string
	// Scalars of every line in the order of the text, keys too; aliases count where they stand.
	scalars map[int][]*yaml.Node
	// Scalars known to be no secret. Every other one is cut off where a line is shown, so that a secret under a misspelt key stays hidden.
	plain map[*yaml.Node]bool
	// The first column of every line at which an anchor or a tag stands, which nothing else shows.
	marks map[int]int
}

func newDocument(data []byte) *document {
	doc := &document{scalars: map[int][]*yaml.Node{}, plain: map[*yaml.Node]bool{}, marks: map[int]int{}}
	text := strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	// Where YAML counts lines by other breaks than ours, no line is shown rather than a wrong one.
	if utf8.ValidString(text) && !strings.ContainsAny(text, "\r\u0085\u2028\u2029") {
		doc.lines = strings.Split(text, "\n")
	}
	return doc
}

func (doc *document) index(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode || n.Kind == yaml.AliasNode {
		doc.scalars[n.Line] = append(doc.scalars[n.Line], n)
	}
	if _, known := doc.marks[n.Line]; !known && (n.Anchor != "" || n.Style&yaml.TaggedStyle != 0) {
		doc.marks[n.Line] = n.Column
	}
	for _, c := range n.Content {
		doc.index(c)
	}
}

const cut = "…"

// show gives a line of the file up to its comment or to the first scalar that is not known to be plain.
func (doc *document) show(line int) string {
	if line < 1 || line > len(doc.lines) {
		return ""
	}
	text := []rune(doc.lines[line-1])
	nodes := doc.scalars[line]
	if column := doc.marks[line]; column > 0 && column <= len(text) {
		text = append(text[:column-1], []rune(cut)...)
	}
	if len(nodes) == 0 {
		return keyOnly(string(text))
	}
	if first := nodes[0].Column - 1; first > len(text) || strings.Trim(string(text[:first]), " \t-?[{]},:\"'|>") != "" {
		return cut // the line begins inside of a value, or with an anchor or a tag
	}
	for _, n := range nodes {
		if !doc.plain[n] {
			return string(text[:min(n.Column-1, len(text))]) + cut
		}
	}
	last := min(nodes[len(nodes)-1].Column-1, len(text))
	tail := string(text[last:])
	if i := strings.Index(tail, " #"); i >= 0 {
		tail = strings.TrimRight(tail[:i], " ")
	}
	return string(text[:last]) + tail
}

// harmless are values that are no secret wherever they stand: truth values, small numbers with or without a unit, paths and addresses of words.
var harmless = regexp.MustCompile(`^(true|false|null|~|GET|POST|PUT|PATCH|DELETE|-?[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h|d|[kKMGT]i?B)?|[0-9.]*:[0-9]{1,5}|(https?://[a-z0-9.-]{1,40}(:[0-9]{1,5})?)?(/[a-z][a-z-]{0,20}){0,4})$`)

// delicate are keys, also misspelt ones, of which nothing is shown.
var delicate = regexp.MustCompile(`(?i)sec|tok|key|pas|pw|cred|auth|hand|val|env|file`)

// showHarmless lets the value of an unknown key be shown where it cannot be a secret, so that the offending line is there as it stands.
func (doc *document) showHarmless(e entry) {
	if delicate.MatchString(e.name) {
		return
	}
	switch n := e.value; n.Kind {
	case yaml.ScalarNode:
		doc.plain[n] = harmless.MatchString(n.Value) || words()[n.Value]
	case yaml.SequenceNode:
		for _, c := range n.Content {
			doc.showHarmless(entry{e.name, e.key, c})
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i]; words()[k.Value] {
				doc.plain[k] = true
				doc.showHarmless(entry{k.Value, k, n.Content[i+1]})
			}
		}
	}
}

// words are the keys of a configuration and the words that are values of it.
var words = sync.OnceValue(func() map[string]bool {
	all, seen := map[string]bool{}, map[reflect.Type]bool{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			add(t.Elem())
		case reflect.Struct:
			if seen[t] {
				return
			}
			seen[t] = true
			for _, f := range shape.Fields(t) {
				all[f.Name] = true
				for _, v := range f.Enum {
					all[v] = true
				}
				add(f.Type)
			}
		}
	}
	add(reflect.TypeFor[Config]())
	return all
})

// keyOnly gives a line, of which nothing is known, up to its first colon, and nothing at all where there is none.
func keyOnly(line string) string {
	body := strings.TrimLeft(line, " \t")
	space := line[:len(line)-len(body)]
	key, _, found := strings.Cut(body, ":")
	if !found || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_-") != "" {
		return space + cut
	}
	return space + key + ":" + cut
}

// parseYAML reads the one document of a file. A fault is reported through fail.
func parseYAML(data []byte, doc *document, fail func(line, column int, message string)) *yaml.Node {
	root := &yaml.Node{}
	err := yaml.Load(data, root)
	var le *yaml.LoadError
	switch {
	case err == nil && len(root.Content) == 1 && !null(root.Content[0]):
		doc.index(root)
		return root.Content[0]
	case errors.As(err, &le) && le.Mark.Line > 0:
		fail(le.Mark.Line, max(le.Mark.Column, 1), "is no YAML: "+syntaxMessage(le.Message))
	case err != nil && root.Content != nil:
		fail(doc.next(root.Content[0].Line), 1, "must hold one YAML document, not several")
	case errors.As(err, &le) && !strings.Contains(le.Message, "no documents"):
		fail(0, 0, "is no YAML: "+syntaxMessage(le.Message))
	default:
		fail(0, 0, "is empty: it holds no YAML document")
	}
	return nil
}

// next is the line of the marker that ends the document which begins at a line.
func (d *document) next(from int) int {
	for i, l := range d.lines[from:] {
		if strings.HasPrefix(l, "---") || strings.HasPrefix(l, "...") {
			return from + i + 1
		}
	}
	return from
}

// syntaxMessage is the parser's message, unless it quotes the file, which may hold a secret.
func syntaxMessage(s string) string {
	switch {
	case strings.HasPrefix(s, "unknown anchor"):
		return "an alias (*name) without its anchor (&name); put text that begins with * in quotes"
	case strings.Contains(s, "not allowed in a YAML tag"):
		return "a character that is not allowed in a tag"
	case strings.Contains(s, "cannot start any token"):
		return s + " (a tab? indent with spaces, and put text with special characters in quotes)"
	}
	return s
}
