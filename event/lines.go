package event

import (
	"sync"
	"time"
)

// Lines bounds what anybody can write to the log by requests that are refused, on either port: 20 lines a minute. The zero value is ready; safe for concurrent use.
type Lines struct {
	mu    sync.Mutex
	began time.Time
	n     int
	left  int
}

const linesAMinute = 20

// Take says whether there may be a line now, and how many were left out since the last.
func (l *Lines) Take(now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := now.Sub(l.began); d < 0 || d >= time.Minute {
		l.began, l.n = now, 0
	}
	if l.n == linesAMinute {
		l.left++
		return 0, false
	}
	l.n++
	left, l.left = l.left, 0
	return left, true
}
