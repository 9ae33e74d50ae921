package admin

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// maxLimit bounds the records of one page; defaultLimit is that of a list that gives none.
const (
	maxLimit     = 500
	defaultLimit = 100
)

// query reads the query of a request: only the names that are allowed, each once. Anything else is a 400.
func (c *call) query(allowed ...string) (url.Values, error) {
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "the query is malformed")
	}
	for name, v := range values {
		if !slices.Contains(allowed, name) {
			return nil, fail(http.StatusBadRequest, fmt.Sprintf("no such parameter: %q", name))
		}
		if len(v) > 1 {
			return nil, fail(http.StatusBadRequest, fmt.Sprintf("the parameter %q was given twice", name))
		}
	}
	return values, nil
}

// listParams are the parameters of a list of events.
var listParams = []string{"source", "state", "reason", "type", "resource", "since", "until", "order", "limit", "cursor"}

// listQuery makes a journal query of the parameters of a list.
func listQuery(v url.Values) (journal.Query, error) {
	q := journal.Query{Source: v.Get("source"), Type: v.Get("type"), Resource: v.Get("resource"), Cursor: v.Get("cursor")}
	var err error
	if q.States, err = states(commas(v.Get("state"))); err != nil {
		return q, err
	}
	if q.Reasons, err = reasons(commas(v.Get("reason"))); err != nil {
		return q, err
	}
	if q.Since, err = timeParam(v, "since"); err != nil {
		return q, err
	}
	if q.Until, err = timeParam(v, "until"); err != nil {
		return q, err
	}
	switch order := v.Get("order"); order {
	case "", "desc":
	case "asc":
		q.Asc = true
	default:
		return q, fail(http.StatusBadRequest, fmt.Sprintf("order must be asc or desc, not %q", order))
	}
	q.Limit, err = limitParam(v)
	return q, err
}

func limitParam(v url.Values) (int, error) {
	if !v.Has("limit") {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(v.Get("limit"))
	if err != nil || n < 1 || n > maxLimit {
		return 0, fail(http.StatusBadRequest, fmt.Sprintf("limit must be a number from 1 to %d", maxLimit))
	}
	return n, nil
}

func commas(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func states(names []string) ([]event.State, error) {
	var out []event.State
	for _, n := range names {
		s, ok := event.ParseState(n)
		if !ok {
			return nil, fail(http.StatusBadRequest, fmt.Sprintf("no such state: %q", n))
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

func reasons(names []string) ([]event.Reason, error) {
	var out []event.Reason
	for _, n := range names {
		r, ok := event.ParseReason(n)
		if !ok {
			return nil, fail(http.StatusBadRequest, fmt.Sprintf("no such reason: %q", n))
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, nil
}

func timeParam(v url.Values, name string) (time.Time, error) {
	text := v.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fail(http.StatusBadRequest, fmt.Sprintf("%s must be a time as in RFC 3339 (2006-01-02T15:04:05Z), not %q", name, text))
	}
	return bound(t), nil
}

// bound is a time as a bound of a journal.Query, to which the zero time is none.
func bound(t time.Time) time.Time {
	if t.IsZero() {
		return t.Add(1)
	}
	return t
}
