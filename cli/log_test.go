package cli

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"
)

// Whoever read the log stood still (a terminal after Ctrl-S, a collector that hangs): once the pipe was full no request was answered any more, and SIGTERM did not end the process.
func TestALogThatNobodyReadsHoldsNobodyUp(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := logTo(w, time.Now).(*logWriter)
	l.patience = 10 * time.Millisecond
	for _, line := range []string{"short " + strings.Repeat("s", 90), "long " + strings.Repeat("l", 3*atOnce)} {
		for l.leftOut < 20 { // it would stand still here
			if n, err := l.Write([]byte(line + "\n")); n != len(line)+1 || err != nil {
				t.Fatal(n, err)
			}
		}
		cut := l.cut
		lines := make(chan []string)
		go func() {
			var all []string
			for in := bufio.NewScanner(r); in.Scan() && in.Text() != "after"; {
				all = append(all, in.Text())
			}
			lines <- all
		}()
		for lost := true; lost; lost = l.leftOut > 0 { // until the reader has made room
			if _, err := l.Write([]byte("after\n")); err != nil {
				t.Fatal(err)
			}
		}
		whole, part, told := 0, 0, 0
		for _, text := range <-lines {
			switch {
			case text == line:
				whole++
			case strings.HasPrefix(line, text):
				part++
			case strings.Contains(text, `"level":"WARN","msg":"lines of the log are left out: nobody read it","left_out":`):
				told++
			default:
				t.Errorf("between the lines stands %q", text)
			}
		}
		if whole == 0 || part > 0 && !cut || part > 1 || told == 0 {
			t.Errorf("%d lines are there, %d in part, and what is left out is told %d times", whole, part, told)
		}
	}
}
