package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hooktender/hooktender/admin/api"
)

// print writes an answer of the API as --output says: as it is, a line per object, or by show for people.
func (e *env) print(raw []byte, show func(w io.Writer)) error {
	switch e.output {
	case "json":
		return e.write(bytes.TrimRight(raw, "\n"), '\n')
	case "ndjson":
		return e.printLines(raw)
	}
	var b bytes.Buffer
	show(&b)
	return e.write(b.Bytes())
}

// printLines writes the objects of a list, or the one object, a line each.
func (e *env) printLines(raw []byte) error {
	var list struct {
		Data []json.RawMessage `json:"data"`
	}
	if json.Unmarshal(raw, &list) != nil || list.Data == nil {
		if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`{"data":`)) {
			list.Data = []json.RawMessage{raw}
		}
	}
	var b bytes.Buffer
	for _, one := range list.Data {
		if err := json.Compact(&b, one); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	return e.write(b.Bytes())
}

// printValue is print for what does not come from the API.
func (e *env) printValue(v any, show func(w io.Writer)) error {
	raw, err := api.Encode(v)
	if err != nil {
		return err
	}
	return e.print(raw, show)
}

func (e *env) write(b []byte, more ...byte) error {
	_, err := e.stdout.Write(append(b[:len(b):len(b)], more...))
	return err
}

// note tells people on stderr what is going on.
//
//go:noinline // many callers, none in a hurry
func (e *env) note(format string, args ...any) { fmt.Fprintf(e.stderr, format+"\n", args...) }

// Colours of a terminal.
type colour string

const (
	plain  colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	grey   colour = "90"
)

// isTerminal says whether people look at f.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	st, err := file.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(st, null)
}

func coloured(f any) bool {
	return isTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// paint colours text for stderr.
func (e *env) paint(c colour, text string) string {
	if c == plain || !coloured(e.stderr) {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text  string
	paint colour
}

// table lines up columns.
type table struct {
	rows   [][]cell
	colour bool
}

// table makes a table for stdout, with a header unless it has no columns.
func (e *env) table(columns ...string) *table {
	t := &table{colour: coloured(e.stdout)}
	if len(columns) > 0 {
		head := make([]cell, len(columns))
		for i, c := range columns {
			head[i] = cell{c, grey}
		}
		t.rows = append(t.rows, head)
	}
	return t
}

// row adds a line: strings, numbers, or cells with a colour.
func (t *table) row(fields ...any) {
	row := make([]cell, len(fields))
	for i, f := range fields {
		c, ok := f.(cell)
		if !ok {
			c = cell{text: fmt.Sprint(f)}
		}
		if c.text = clean(c.text); c.text == "" {
			c.text = "-"
		}
		row[i] = c
	}
	t.rows = append(t.rows, row)
}

// fact adds a line with a name in grey, unless the value is empty.
func (t *table) fact(name string, value any) {
	if fmt.Sprint(value) != "" {
		t.row(cell{name, grey}, value)
	}
}

func (t *table) writeTo(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			text := c.text
			if t.colour && c.paint != plain {
				text = "\x1b[" + string(c.paint) + "m" + text + "\x1b[0m"
			}
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		fmt.Fprintln(w, line.String())
	}
}

// clean takes out what could move a terminal's cursor: text of senders is shown, never obeyed.
//
//go:noinline // many callers, none in a hurry
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// ago is a time as people say it; "" for the zero time.
func (e *env) ago(t api.Time) string {
	if t.IsZero() {
		return ""
	}
	d := e.now().Sub(t.Time)
	if d < 0 {
		return "in " + short(-d)
	}
	return short(d) + " ago"
}

// short is a duration in its largest unit.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// stamp is a time in full.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// stateCell is a state and its reason, in the colour of its meaning.
func stateCell(e *api.Event) cell {
	text := e.State
	if e.Reason != "" {
		text += "/" + string(e.Reason)
	}
	c := cell{text: text}
	switch e.State {
	case "delivered", "replayed":
		c.paint = green
	case "failed":
		c.paint = red
		if e.Reason == "resolved" || e.Reason == "discarded" || e.Reason == "returned" {
			c.paint = grey
		}
	case "pending":
		c.paint = yellow
	default:
		c.paint = grey
	}
	return c
}

// cleanText is clean that keeps lines and tabs.
func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
