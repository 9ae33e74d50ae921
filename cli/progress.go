package cli

import (
	"fmt"
	"strings"
)

// progress is a bar on stderr while bulk work runs; nothing unless stderr is a terminal.
type progress struct {
	e     *env
	what  string
	total int64
	shown bool
}

const barWidth = 30

// progress makes a bar. Bars of a single item show nothing.
func (e *env) progress(what string, total int64) *progress {
	return &progress{e: e, what: what, total: total}
}

func (p *progress) set(done int64, more string) {
	if p.total <= 1 || !isTerminal(p.e.stderr) {
		return
	}
	done = min(done, p.total)
	full := int(done * barWidth / p.total)
	fmt.Fprintf(p.e.stderr, "\r\x1b[K%s [%s%s] %d/%d %s", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, p.total, more)
	p.shown = true
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.e.stderr, "\r\x1b[K")
		p.shown = false
	}
}
