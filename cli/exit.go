package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hooktender/hooktender/client"
)

// Exit codes (SPEC §9).
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitConfig       = 3
	exitNotFound     = 4
	exitUnauthorized = 5
	exitUnsafe       = 6
	exitTimeout      = 7
	exitPartly       = 8
	exitUnreachable  = 9
)

// exitError gives an error its exit code where its kind does not.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// fail makes an error with an exit code.
//
//go:noinline // many callers, none in a hurry
func fail(code int, format string, args ...any) error {
	return &exitError{code: code, err: fmt.Errorf(format, args...)}
}

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{err: fmt.Errorf(format, args...)} }

// errShown ends a command whose output has said everything.
var errShown = errors.New("failed")

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	if x, ok := errors.AsType[*exitError](err); ok {
		return x.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*client.Unreachable](err); ok {
		return exitUnreachable
	}
	if _, ok := errors.AsType[*client.Unauthorized](err); ok {
		return exitUnauthorized
	}
	if _, ok := errors.AsType[*client.NotFound](err); ok {
		return exitNotFound
	}
	if p, ok := errors.AsType[*client.Problem](err); ok && (p.Status == http.StatusBadRequest || p.Status == http.StatusUnprocessableEntity) {
		return exitUsage
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitUnreachable
	}
	return exitFailed
}

// explain is an error as people need it.
func explain(err error) string {
	if u, ok := errors.AsType[*client.Unreachable](err); ok {
		return fmt.Sprintf("admin not reachable at %s: is the gateway running? (%v)\n  --admin or HOOKTENDER_ADMIN says where its admin port is", u.Address, u.Err)
	}
	if u, ok := errors.AsType[*client.Unauthorized](err); ok {
		return u.Error() + "\n  --token or HOOKTENDER_TOKEN gives the token; 'hooktender sources' needs the scope events:read, and so on"
	}
	if n, ok := errors.AsType[*client.NotFound](err); ok && n.Problem.WasReceived != "" {
		text := n.Error() + ": it was not received"
		if since := n.Problem.LogCoversSince; since != nil && !since.IsZero() {
			text += ", as far as the log goes back (" + stamp(since.Time) + ")"
		}
		if safe := n.Problem.SafeToRetry; safe != nil {
			text += "\n  safe to retry: " + safe.Verdict + ": " + safe.Reason
		}
		return text
	}
	if p, ok := errors.AsType[*client.Problem](err); ok && len(p.Sources) > 0 {
		return "this id is known in several sources: " + strings.Join(p.Sources, ", ") + "\n  --source says which one is meant"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time\n  --timeout says how long to wait"
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return err.Error()
}
