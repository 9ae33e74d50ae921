package recovery

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// Sentinels of what an operator asks for.
var (
	ErrUnknownSource = errors.New("no such source")
	ErrUnknownReplay = errors.New("no such replay")
	ErrResource      = errors.New("no event can have this resource")
	ErrNoVersions    = errors.New("the source's ordering policy keeps no versions")
	ErrNotDeadLetter = errors.New("the event is no dead letter")
	ErrNeedsForce    = errors.New("the event waits for a decision: an attempt's outcome is unknown; replay it with force, or resolve it")
	ErrBusy          = errors.New("the event changed meanwhile; ask again")
)

// AmbiguousError says that a sender's id is known in more than one source.
type AmbiguousError struct{ Sources []string }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("the id is known in several sources: %s", strings.Join(e.Sources, ", "))
}

// Why an event is left out of a replay. A closed list (SPEC §8).
const (
	SkipDelivered    = "already_delivered"
	SkipPending      = "still_pending"
	SkipSuperseded   = "superseded"
	SkipPayloadGone  = "payload_gone"
	SkipQuarantined  = "quarantined"
	SkipResolved     = "resolved"
	SkipDiscarded    = "discarded"
	SkipNeedsForce   = "needs_force" // waits for a decision and the replay is not forced
	SkipUnknownEvent = "not_found"
	SkipFiltered     = "not_selected" // settled by its sender (returned) and not named by reason
)

// ReplayResult answers the replay of one event.
type ReplayResult struct {
	Started  bool
	ReplayID string // set if started
	Why      string // one of the Skip constants if not
}

// ReplaySpec asks for a replay of many.
type ReplaySpec struct {
	ID             string // "" = a fresh one
	Name           string
	IDs            []string       // our ids or the sender's
	Filter         *journal.Query // nil = none; Limit and Cursor are ignored
	FromCheckpoint bool           // needs Filter.Source
	FromCursor     string         // a cursor of a list or of a checkpoint
	DryRun         bool
	Rate           float64 // events a second; 0 = as fast as the upstream takes them
	Force          bool
	Reason         string
	Actor          string
}

// Replay is a job and how far it is. Times are zero where absent.
type Replay struct {
	ID          string
	Name        string
	State       string // running | done | cancelled | failed
	DryRun      bool
	CreatedAt   time.Time
	FinishedAt  time.Time
	Actor       string
	Reason      string
	Total       int64
	Sent        int64
	Replayed    int64
	Failed      int64
	Skipped     int64
	Skips       []Skip           // the first 1,000
	WouldReplay int64            // dry run
	SkippedBy   map[string]int64 // dry run: by why
}

// Skip is an event that a replay left out.
type Skip struct {
	ID, EventID, Why string
}

// SourceStatus is a source and its queue.
type SourceStatus struct {
	Name, Path, Provider, Mode string
	Upstream                   string
	Paused                     bool
	Counts                     map[event.State]int64
	Reasons                    []journal.Count // finer: by state and reason
	OldestPendingAt            time.Time
	Held                       int64
}

// UpstreamStatus is an upstream and its breaker.
type UpstreamStatus struct {
	Name, URL           string
	Breaker             string // closed | open | half_open
	InFlight            int
	ConsecutiveFailures int
	NextProbeAt         time.Time // zero unless open
}

// HeldEvent is an event that waits in a resource's lane for a version before it or for its window.
type HeldEvent struct {
	ID        event.ID
	EventID   string
	Version   string
	ReleaseAt time.Time // zero: it waits for its turn alone
}

// ResourceStatus is how far the consumer has come with one resource.
type ResourceStatus struct {
	State   event.ResourceState
	Known   bool // its cursor is kept, or some event of it is remembered
	Held    []HeldEvent
	Missing []string // "5", "7-9": versions between the cursor and the newest held one; at most 1,000 entries
	Pending []event.ID
}

// SafeToRetry says whether an event can be sent again without harm (SPEC §7).
type SafeToRetry struct {
	Verdict string // yes | no_need | wait | unsafe | superseded
	Reason  string
	Needs   string // "" = nothing
}
