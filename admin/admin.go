// Package admin is the admin port: a JSON API over what the gateway remembers and does (SPEC §8), health, metrics and the stream of
// changes. Every route, its scope and its handler stand in one table (routes.go); every error becomes problem+json in one place
// (problem.go). A call passes, in this order: host and origin, route, token, scope, content type, idempotency key, handler, audit.
package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// Finder finds records. *recovery.Recovery is one; all methods are safe for concurrent use.
type Finder interface {
	// Find gives the record of an id, ours or the sender's. Errors: journal.ErrNotFound, recovery.ErrUnknownSource, *recovery.AmbiguousError.
	Find(ctx context.Context, source, id string) (event.Record, error)
	// Watch tells of changes of an event, also of one that has not been received yet: woken gets a value after each that until says yes to.
	// stop must be called once.
	Watch(source, id string, until func(*event.Record) bool) (woken <-chan struct{}, stop func())
	// Changes calls emit, from one goroutine, for every change of state or reason after cursor until ctx ends or emit fails. With the cursor ""
	// it begins now, and a first call without a record says where that is. journal.ErrBadCursor comes before the first emit.
	Changes(ctx context.Context, cursor string, emit func(cursor string, rec *event.Record) error) error
}

// Viewer completes records before they are shown.
type Viewer interface {
	// View sets what is derived when a record is read (breaker_open).
	View(rec *event.Record)
	// SafeToRetry says whether sending the event again can do harm; nil = never received.
	SafeToRetry(rec *event.Record) recovery.SafeToRetry
}

// Operator does what people ask of single events.
type Operator interface {
	// ReplayOne starts the replay of one event under an id, unless it has been; "" = a fresh id. recovery.ErrNeedsForce if it waits for a decision and force is not set.
	ReplayOne(ctx context.Context, id event.ID, as, actor string, force bool, reason string) (recovery.ReplayResult, error)
	// Resolve and Discard settle a dead letter; recovery.ErrNotDeadLetter for anything else.
	Resolve(ctx context.Context, id event.ID, actor, reason string) (event.Record, error)
	Discard(ctx context.Context, id event.ID, actor, reason string) (event.Record, error)
}

// Replayer runs replays of many events.
type Replayer interface {
	// StartReplay begins a job, unless there is one of its id, and returns at once; a dry run is complete when it returns.
	StartReplay(ctx context.Context, spec recovery.ReplaySpec) (recovery.Replay, error)
	// Replays lists the newest first, at most limit after the one with the id after; journal.ErrBadCursor if there is none of that id.
	Replays(ctx context.Context, after string, limit int) (list []recovery.Replay, next string, err error)
	// Replay and CancelReplay return recovery.ErrUnknownReplay for an id that is none.
	Replay(ctx context.Context, id string) (recovery.Replay, error)
	CancelReplay(ctx context.Context, id string) (recovery.Replay, error)
}

// Overseer tells of sources and upstreams.
type Overseer interface {
	Names() []string // of the sources that are configured, or have something pending
	Sources(ctx context.Context) ([]recovery.SourceStatus, error)
	Upstreams() []recovery.UpstreamStatus
	UpstreamOf(source string) string // "" for a source that is none
	// SetPaused and Resource return recovery.ErrUnknownSource for a source that is none.
	SetPaused(ctx context.Context, source string, paused bool) (recovery.SourceStatus, error)
	Resource(ctx context.Context, source, resource string) (recovery.ResourceStatus, error)
	// SetCursor puts a resource's cursor at version ("" = as if nothing had been delivered). recovery.ErrUnknownSource, recovery.ErrNoVersions,
	// recovery.ErrResource, ordering.ErrVersion.
	SetCursor(ctx context.Context, source, resource, version string) (recovery.ResourceStatus, error)
}

// Core is what the admin port asks of the gateway's core; *recovery.Recovery satisfies it.
type Core interface {
	Finder
	Viewer
	Operator
	Replayer
	Overseer
}

// Control steers the process.
type Control interface {
	// Reload reads the configuration again and says what changed. On an error the old one stays; an error with Unwrap() []error (as of
	// errors.Join) is told one by one.
	Reload(ctx context.Context) (changed []string, err error)
	// Drain refuses new events from now on. It is final and does not wait.
	Drain()
	// Enroll opens a window of that length in which a source takes the secret that its sender delivers, and says when it closes.
	// recovery.ErrUnknownSource, provider.ErrNoEnrolment or provider.ErrEnrolled if there is nothing to open.
	Enroll(source string, d time.Duration) (until time.Time, err error)
}

// Health says whether the gateway takes events; if not, why.
type Health interface {
	Ready() (ok bool, why string)
	// Started says whether it has ever been ready since the process began.
	Started() bool
}

// Token is a bearer token that may call the API. Only its hash is kept.
type Token struct {
	Name   string
	Hash   [sha256.Size]byte // HashToken of the secret
	Scopes []string          // of api.Scopes
}

// HashToken is how a token is kept in memory and compared.
func HashToken(secret []byte) [sha256.Size]byte { return sha256.Sum256(secret) }

// Options of New. Journal, Core, Control and Health are required.
type Options struct {
	Journal journal.Journal
	Core    Core
	Control Control
	Health  Health
	Metrics func([]byte) []byte // appends what /metrics shows (metrics.ContentType); nil = no such route
	Log     *slog.Logger        // nil = nowhere
	// Tokens that may call. None: everyone who reaches the listener is "local" with all scopes, which is only right on loopback; Serve
	// refuses any other listener.
	Tokens []Token
	// Debug serves /debug/pprof to callers with the scope admin.
	Debug bool
	// Hide says which headers' values a payload does not show, and which parameters' of its query, asked for as "?name"; nil = event.Credential.
	Hide func(header string) bool
	// AllowedHosts are names that a Host header may hold besides localhost and loopback addresses, without port. See guard.go.
	AllowedHosts []string
}

// ErrOpen refuses to serve a listener that others can reach without tokens.
var ErrOpen = errors.New("admin: a listener beyond loopback needs tokens")

// New makes a Server; it starts nothing.
func New(o Options) (*Server, error) {
	for name, missing := range map[string]bool{"Journal": o.Journal == nil, "Core": o.Core == nil, "Control": o.Control == nil, "Health": o.Health == nil} {
		if missing {
			return nil, fmt.Errorf("admin: Options.%s is required", name)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o, started: now(), stopping: make(chan struct{}), life: context.Background()}
	s.hosts = hostSet(o.AllowedHosts)
	s.routes = s.table()
	s.SetDebug(o.Debug)
	s.SetHide(o.Hide)
	s.idem.journal = o.Journal
	return s, s.SetTokens(o.Tokens)
}
