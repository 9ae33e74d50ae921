package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ReplayRequest asks for the replay of one event. Force needs the scope replay:force and a reason.
type ReplayRequest struct {
	Force  bool   `json:"force"`
	Reason string `json:"reason,omitempty"`
}

// Settle is the body of resolve and discard; the reason is required and kept.
type Settle struct {
	Reason string `json:"reason"`
}

// Results of a ReplayResult.
const (
	Started = "started"
	Skipped = "skipped"
)

// ReplayResult answers the replay of one event.
type ReplayResult struct {
	Result   string `json:"result"`              // started | skipped
	ReplayID string `json:"replay_id,omitempty"` // if started
	Why      string `json:"why,omitempty"`       // if skipped
}

// Filter selects events for a replay, as the query of a list does.
type Filter struct {
	Source   string `json:"source,omitempty"`
	State    Names  `json:"state,omitempty"`
	Reason   Names  `json:"reason,omitempty"`
	Type     string `json:"type,omitempty"`
	Resource string `json:"resource,omitempty"`
	Since    *Time  `json:"since,omitempty"` // inclusive, on received_at
	Until    *Time  `json:"until,omitempty"` // exclusive
}

// Names is a list of names; in JSON an array, or one string with commas.
type Names []string

// UnmarshalJSON reads an array of strings, a string, or null.
func (n *Names) UnmarshalJSON(b []byte) error {
	*n = nil
	if isNull(b) {
		return nil
	}
	var list []string
	if json.Unmarshal(b, &list) == nil {
		*n = list
		return nil
	}
	var one string
	if json.Unmarshal(b, &one) != nil {
		return errors.New("want a name or a list of names")
	}
	if one != "" {
		*n = strings.Split(one, ",")
	}
	return nil
}

// ReplaySpec asks for a replay of many: of ids, or of what a filter, a checkpoint or a cursor selects.
type ReplaySpec struct {
	Name           string   `json:"name,omitempty"`
	IDs            []string `json:"ids,omitzero"` // an empty list is refused
	Filter         *Filter  `json:"filter,omitempty"`
	FromCheckpoint bool     `json:"from_checkpoint,omitempty"` // needs filter.source
	FromCursor     string   `json:"from_cursor,omitempty"`     // a cursor of a list or of a checkpoint
	DryRun         bool     `json:"dry_run,omitempty"`
	Rate           float64  `json:"rate,omitempty"` // events a second; 0 = as fast as the upstream takes them
	Force          bool     `json:"force,omitempty"`
	Reason         string   `json:"reason,omitempty"` // required with force
}

// States of a Replay.
const (
	ReplayRunning   = "running"
	ReplayDone      = "done"
	ReplayCancelled = "cancelled"
	ReplayFailed    = "failed"
)

// Replay is a job and how far it is.
type Replay struct {
	ID          string       `json:"id"`
	Name        Text         `json:"name"`
	State       string       `json:"state"` // running | done | cancelled | failed
	DryRun      bool         `json:"dry_run"`
	CreatedAt   Time         `json:"created_at"`
	FinishedAt  Time         `json:"finished_at"`
	Actor       string       `json:"actor"`
	Reason      Text         `json:"reason"`
	Total       int64        `json:"total"`
	Sent        int64        `json:"sent"`
	Replayed    int64        `json:"replayed"`
	Failed      int64        `json:"failed"`
	WouldReplay *int64       `json:"would_replay,omitempty"` // dry run only
	Skipped     SkippedCount `json:"skipped"`
	Skips       []Skip       `json:"skips"` // the first 1,000
}

// SkippedCount is how many events were left out: in JSON a number, or, of a dry run, an object of numbers by why.
type SkippedCount struct {
	Total int64
	By    map[string]int64 // nil unless it is a dry run
}

// MarshalJSON writes the number or the object.
func (s SkippedCount) MarshalJSON() ([]byte, error) {
	if s.By != nil {
		return json.Marshal(s.By)
	}
	return json.Marshal(s.Total)
}

// UnmarshalJSON reads either.
func (s *SkippedCount) UnmarshalJSON(b []byte) error {
	*s = SkippedCount{}
	if json.Unmarshal(b, &s.Total) == nil {
		return nil
	}
	if err := json.Unmarshal(b, &s.By); err != nil {
		return fmt.Errorf("skipped: %w", err)
	}
	for _, n := range s.By {
		s.Total += n
	}
	return nil
}

// Skip is an event that a replay left out.
type Skip struct {
	ID      Text   `json:"id"`
	EventID Text   `json:"event_id"`
	Why     string `json:"why"`
}

// Reloaded answers a reload of the configuration.
type Reloaded struct {
	Result  string   `json:"result"` // reloaded
	Changed []string `json:"changed"`
}

// Draining answers a drain.
type Draining struct {
	Result string `json:"result"` // draining
}
