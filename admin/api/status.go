package api

// Checkpoint says how far a source has come: everything before Cursor is settled.
type Checkpoint struct {
	Source               string `json:"source"`
	Cursor               Text   `json:"cursor"`
	ReceivedAt           Time   `json:"received_at"` // of the last settled event before the first hole
	EventID              Text   `json:"event_id"`    // of the same
	Holes                int64  `json:"holes"`
	Pending              int64  `json:"pending"`
	Failed               int64  `json:"failed"`
	LastDeliveredAt      Time   `json:"last_delivered_at"`
	LastDeliveredEventID Text   `json:"last_delivered_event_id"`
}

// Resource says how far the consumer has come with one resource.
type Resource struct {
	Source    string   `json:"source"`
	Resource  string   `json:"resource"`
	Version   Text     `json:"version"`
	EventID   Text     `json:"event_id"`
	UpdatedAt Time     `json:"updated_at"`
	Held      []Held   `json:"held"`
	Missing   []string `json:"missing"` // "5", "7-9"; at most 1,000 entries
	Pending   []string `json:"pending"` // our ids
}

// SetCursor asks for a resource's cursor to be put elsewhere.
type SetCursor struct {
	Version Text   `json:"version"` // null = as if nothing had been delivered yet
	Reason  string `json:"reason,omitempty"`
}

// Held is an event that waits in its lane.
type Held struct {
	ID        string `json:"id"`
	EventID   Text   `json:"event_id"`
	Version   Text   `json:"version"`
	ReleaseAt Time   `json:"release_at"`
}

// Source is a configured sender and its queue.
type Source struct {
	Name            string           `json:"name"`
	Path            string           `json:"path"`
	Provider        string           `json:"provider"`
	Mode            string           `json:"mode"`
	Paused          bool             `json:"paused"`
	Counts          map[string]int64 `json:"counts"` // by state; all states are there
	OldestPendingAt Time             `json:"oldest_pending_at"`
}

// Because is the body of mutations that need none: an operator may say why, for the audit log.
type Because struct {
	Reason string `json:"reason,omitempty"`
}

// EnrollRequest opens an enrolment window.
type EnrollRequest struct {
	For    string `json:"for,omitempty"` // how long, between 1s and 24h; 10m if empty
	Reason string `json:"reason,omitempty"`
}

// Enrolment is an open window: until then the source takes the secret that its sender delivers.
type Enrolment struct {
	Source string `json:"source"`
	Until  Time   `json:"until"`
}

// Upstream is a consumer and its breaker.
type Upstream struct {
	Name                string `json:"name"`
	URL                 string `json:"url"`
	Breaker             string `json:"breaker"` // closed | open | half_open
	InFlight            int    `json:"in_flight"`
	ConsecutiveFailures int    `json:"consecutive_failures"`
	NextProbeAt         Time   `json:"next_probe_at"`
}

// Whoami is who the caller is to the gateway.
type Whoami struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
}

// Health answers /livez, /startupz and /readyz.
type Health struct {
	Status string `json:"status"` // ok | ready
}

// Scopes of tokens.
const (
	ScopeEventsRead   = "events:read"
	ScopePayloadsRead = "payloads:read"
	ScopeReplayWrite  = "replay:write"
	ScopeReplayForce  = "replay:force"
	ScopeAdmin        = "admin"
)

// Scopes lists all of them.
var Scopes = []string{ScopeEventsRead, ScopePayloadsRead, ScopeReplayWrite, ScopeReplayForce, ScopeAdmin}

// NoPath begins what a 404 says of a path that is not there, on both ports: nobody was asked for an event or a source.
const NoPath = "no such path"

// Problem is the body of every error (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	WasReceived    string       `json:"was_received,omitempty"`     // 404 of an event: no
	LogCoversSince *Time        `json:"log_covers_since,omitempty"` // 404 of an event: the log remembers everything received since
	SafeToRetry    *SafeToRetry `json:"safe_to_retry,omitempty"`    // 404 of an event
	Sources        []string     `json:"sources,omitempty"`          // 409: the sources that know the id
	Errors         []string     `json:"errors,omitempty"`           // 422 of a reload
}
