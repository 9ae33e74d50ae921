package admin

import (
	"strconv"
	"testing"
	"time"
)

// What is kept per key and per address is bounded: the old goes first, then the oldest.
func TestAnswersAndFailedLoginsAreForgotten(t *testing.T) {
	at := time.Now()
	a := answers{known: map[string]time.Time{"old": at.Add(-answerAge), "young": at.Add(time.Nanosecond - answerAge)}}
	if drop := a.surplus(at); len(drop) != 1 || drop[0] != "old" || len(a.known) != 1 {
		t.Errorf("forgotten: %q, %d kept", drop, len(a.known))
	}
	for i := range answerCount - 1 {
		a.known[strconv.Itoa(i)] = at.Add(time.Duration(i))
	}
	if drop := a.surplus(at); len(drop) != 0 {
		t.Errorf("%d forgotten of as many as may be kept", len(drop))
	}
	a.known["new"] = at.Add(time.Hour)
	drop := a.surplus(at)
	_, oldest := a.known["young"]
	if _, ok := a.known["new"]; !ok || oldest || len(drop) != answerCount/10+1 || len(a.known) != answerCount*9/10 {
		t.Errorf("one too many: %d forgotten, %d kept", len(drop), len(a.known))
	}

	var l loginLimit
	for i := range loginPeers - 1 {
		l.failed(strconv.Itoa(i), at)
	}
	at = at.Add(loginEvery)
	for range loginBurst {
		l.failed("guesser", at)
	}
	l.failed("other", at) // the table is full: those that have paid go
	if wait := l.failed("guesser", at); wait != loginEvery || len(l.peers) != 2 {
		t.Errorf("the guesser waits %v, %d addresses", wait, len(l.peers))
	}
}
