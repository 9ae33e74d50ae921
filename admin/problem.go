package admin

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/recovery"
)

// problem is an error as it is answered.
type problem struct {
	api.Problem
	wait  time.Duration // Retry-After, if positive
	allow string        // Allow, of a 405
}

func (p *problem) Error() string { return p.Detail }

// fail makes a problem. The detail is for people and never holds a secret.
//
//go:noinline // many callers, none in a hurry
func fail(status int, detail string) *problem {
	return &problem{Problem: api.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}}
}

func (p *problem) retry(d time.Duration) *problem {
	p.wait = d
	return p
}

// statuses is the one table from errors to answers.
var statuses = []struct {
	err    error
	status int
}{
	{recovery.ErrUnknownSource, http.StatusNotFound},
	{recovery.ErrUnknownReplay, http.StatusNotFound},
	{journal.ErrNotFound, http.StatusNotFound},
	{journal.ErrNoPayload, http.StatusGone},
	{recovery.ErrNotDeadLetter, http.StatusConflict},
	{recovery.ErrNoVersions, http.StatusConflict},
	{recovery.ErrResource, http.StatusUnprocessableEntity},
	{ordering.ErrVersion, http.StatusUnprocessableEntity},
	{recovery.ErrNeedsForce, http.StatusConflict},
	{recovery.ErrBusy, http.StatusConflict},
	{provider.ErrNoEnrolment, http.StatusConflict},
	{provider.ErrEnrolled, http.StatusConflict},
	{recovery.ErrManyReplays, http.StatusServiceUnavailable},
	{journal.ErrBadCursor, http.StatusBadRequest},
	{journal.ErrFull, http.StatusServiceUnavailable},
	{journal.ErrFailed, http.StatusServiceUnavailable},
	{journal.ErrClosed, http.StatusServiceUnavailable},
	{context.Canceled, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
	{journal.ErrCorrupt, http.StatusInternalServerError},
}

// asProblem says how an error is answered. Errors that are in no table are 500 and told to the log only.
func (s *Server) asProblem(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var several *recovery.AmbiguousError
	if errors.As(err, &several) {
		p := fail(http.StatusConflict, several.Error()+"; say which with source=")
		p.Sources = several.Sources
		return p
	}
	for _, row := range statuses {
		if errors.Is(err, row.err) {
			p := fail(row.status, row.err.Error())
			if row.status == http.StatusServiceUnavailable {
				p.wait = 5 * time.Second
			}
			return p
		}
	}
	s.Log.Error("admin call failed", "error", err)
	return fail(http.StatusInternalServerError, "")
}

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	if p.wait > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.wait.Seconds()))))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="hooktender"`)
	}
	body, err := api.Encode(p.Problem)
	if err != nil {
		body = []byte("{}\n")
	}
	send(w, p.Status, "application/problem+json", body)
}

func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the peer may be gone
}
