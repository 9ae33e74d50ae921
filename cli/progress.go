package cli

import (
	"fmt"
	"strings"
	"time"
)

// progress is a bar with rate and remaining time on stderr while bulk work runs; nothing unless stderr is a terminal.
type progress struct {
	e     *env
	what  string
	total int64
	began time.Time
	shown bool
}

const barWidth = 30

// progress makes a bar. Bars of a single item show nothing.
func (e *env) progress(what string, total int64) *progress {
	return &progress{e: e, what: what, total: total, began: e.now()}
}

func (p *progress) set(done int64, more string) {
	if p.total <= 1 || !isTerminal(p.e.stderr) {
		return
	}
	fmt.Fprintf(p.e.stderr, "\r\x1b[K%s", p.line(done, more, p.e.now().Sub(p.began)))
	p.shown = true
}

// line is the bar as text: how much is done, how fast it went so far, and how long the rest takes at that.
func (p *progress) line(done int64, more string, took time.Duration) string {
	done = min(done, p.total)
	full := int(done * barWidth / p.total)
	line := fmt.Sprintf("%s [%s%s] %d/%d", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, p.total)
	if rate := float64(done) / took.Seconds(); done > 0 && took > 0 {
		line += fmt.Sprintf(" %s/s", significant(rate))
		if left := p.total - done; left > 0 {
			line += ", " + remaining(time.Duration(float64(left)/rate*float64(time.Second))) + " left"
		}
	}
	if more != "" {
		line += " (" + more + ")"
	}
	return line
}

func significant(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// remaining is a duration to the second, as people read it.
func remaining(d time.Duration) string {
	if d < time.Second {
		return "1s"
	}
	return d.Round(time.Second).String()
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.e.stderr, "\r\x1b[K")
		p.shown = false
	}
}
