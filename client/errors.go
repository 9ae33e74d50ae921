package client

import (
	"fmt"

	"github.com/hooktender/hooktender/admin/api"
)

// Unreachable says that no answer came: nothing listens there, the connection broke, or what is there knows no such path (404) and so is no
// admin port. A mutation may have happened all the same.
type Unreachable struct {
	Address string
	Err     error
	Cursor  string // of a stream that broke: where it goes on
}

func (e *Unreachable) Error() string { return fmt.Sprintf("no answer from %s: %v", e.Address, e.Err) }

// Unwrap gives the cause.
func (e *Unreachable) Unwrap() error { return e.Err }

// Problem is a refusal as the gateway told it (RFC 9457).
type Problem struct {
	api.Problem
	Raw []byte // the answer's body, as it came
}

func (e *Problem) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	if e.Title != "" {
		return fmt.Sprintf("%s (%d)", e.Title, e.Status)
	}
	return fmt.Sprintf("status %d", e.Status)
}

// Unauthorized says that the token is missing or unknown (401, or 429 after very many of them), or lacks a scope (403). It unwraps to its *Problem.
type Unauthorized struct{ Problem *Problem }

func (e *Unauthorized) Error() string { return e.Problem.Error() }

// Unwrap gives the *Problem.
func (e *Unauthorized) Unwrap() error { return e.Problem }

// NotFound says that an admin port knows no such thing (404). Of an event, its Problem also says since when the log would know of it. It unwraps to
// its *Problem.
type NotFound struct{ Problem *Problem }

func (e *NotFound) Error() string { return e.Problem.Error() }

// Unwrap gives the *Problem.
func (e *NotFound) Unwrap() error { return e.Problem }
