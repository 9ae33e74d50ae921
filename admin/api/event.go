package api

// Event is the record of one event (SPEC §7).
type Event struct {
	ID             string      `json:"id"`
	EventID        Text        `json:"event_id"`
	Source         string      `json:"source"`
	Type           Text        `json:"type"`
	Resource       Text        `json:"resource"`
	Version        Text        `json:"version"`
	State          string      `json:"state"`
	Reason         Text        `json:"reason"`
	ReceivedAt     Time        `json:"received_at"`
	OccurredAt     Time        `json:"occurred_at"`
	DeliveredAt    Time        `json:"delivered_at"`
	AttemptCount   int         `json:"attempt_count"`
	LastAttemptAt  Time        `json:"last_attempt_at"`
	LastStatusCode Number      `json:"last_status_code"`
	LastError      *Error      `json:"last_error"`
	NextRetryAt    Time        `json:"next_retry_at"`
	Duplicates     uint32      `json:"duplicates"`
	Conflicts      uint32      `json:"conflicts"`
	BodyBytes      int         `json:"body_bytes"`
	BodySHA256     string      `json:"body_sha256"` // lower-case hex
	ReplayID       Text        `json:"replay_id"`
	SafeToRetry    SafeToRetry `json:"safe_to_retry"`
	Resolution     *Resolution `json:"resolution,omitempty"` // only once there is one
}

// Error is why an attempt failed. Kind is one of a closed list.
type Error struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// Verdicts of SafeToRetry.
const (
	RetryYes        = "yes"        // never received, or failed with no side effect
	RetryNoNeed     = "no_need"    // delivered, replayed or resolved
	RetryWait       = "wait"       // pending
	RetryUnsafe     = "unsafe"     // an attempt's outcome is unknown
	RetrySuperseded = "superseded" // a newer version was delivered
)

// SafeToRetry answers whether sending the event once more can do harm.
type SafeToRetry struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Needs   Text   `json:"needs"`
}

// Resolution is how a person or an agent settled a dead letter.
type Resolution struct {
	By     string `json:"by"`
	At     Time   `json:"at"`
	Reason string `json:"reason"`
}

// Attempt is one request to the upstream. Outcome and DurationMS are null while it runs.
type Attempt struct {
	N               int     `json:"n"`
	Trigger         string  `json:"trigger"` // initial | retry | redelivery | replay
	StartedAt       Time    `json:"started_at"`
	DurationMS      *int64  `json:"duration_ms"`
	Outcome         Text    `json:"outcome"` // delivered | transient | permanent | unknown | not_sent
	StatusCode      Number  `json:"status_code"`
	Error           *Error  `json:"error"`
	ResponseExcerpt *string `json:"response_excerpt"` // first 4 KiB, invalid UTF-8 replaced; null if there was no answer
	Upstream        string  `json:"upstream"`
}

// Payload is the request as it was received.
type Payload struct {
	Method      string      `json:"method"`
	Path        string      `json:"path"` // with the query
	Headers     [][2]string `json:"headers"`
	ContentType Text        `json:"content_type"`
	BodyBase64  []byte      `json:"body_base64"`
}
