package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/admin/api"
)

// Query selects events. Zero fields select everything.
type Query struct {
	Source   string
	States   []string
	Reasons  []string
	Type     string
	Resource string
	Since    time.Time // received_at, inclusive
	Until    time.Time // received_at, exclusive
	Asc      bool      // oldest first; default newest first
	Limit    int       // of a page: 1 … 500; 0 = 100
	Cursor   string    // NextCursor of the page before; "" = the first page
}

func (q *Query) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("source", q.Source)
	set("state", strings.Join(q.States, ","))
	set("reason", strings.Join(q.Reasons, ","))
	set("type", q.Type)
	set("resource", q.Resource)
	set("cursor", q.Cursor)
	if !q.Since.IsZero() {
		set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	if q.Asc {
		set("order", "asc")
	}
	if q.Limit > 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Events reads one page of records.
func (c *Client) Events(ctx context.Context, q Query) (api.Page[api.Event], error) {
	var out api.Page[api.Event]
	err := c.get(ctx, "/v1/events", q.values(), &out)
	return out, err
}

// AllEvents reads page after page. It ends after the first error.
func (c *Client) AllEvents(ctx context.Context, q Query) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for {
			page, err := c.Events(ctx, q)
			if err != nil {
				yield(api.Event{}, err)
				return
			}
			for _, e := range page.Data {
				if !yield(e, nil) {
					return
				}
			}
			if q.Cursor = string(page.NextCursor); q.Cursor == "" {
				return
			}
		}
	}
}

// Wait says how long a call may wait, and for what.
type Wait struct {
	For       time.Duration // at most 60 s; 0 = do not wait
	Delivered bool          // until it is delivered; else until it is terminal
}

// eventPath is the path of an event, by our id or the sender's, and what stands below it.
func eventPath(id string, below ...string) string {
	var p strings.Builder
	p.WriteString("/v1/events/" + escape(id))
	for _, b := range below {
		p.WriteString("/" + b)
	}
	return p.String()
}

// escape makes one path segment of any text. A segment of dots alone would be taken for a step in the path.
func escape(segment string) string {
	e := url.PathEscape(segment)
	if strings.Trim(e, ".") == "" {
		return strings.ReplaceAll(e, ".", "%2E")
	}
	return e
}

func inSource(source string) url.Values {
	if source == "" {
		return url.Values{}
	}
	return url.Values{"source": {source}}
}

// Event reads one record, by our id or the sender's. source may be empty unless several sources know the sender's id. With a wait it
// also waits for an id that has not been received yet.
func (c *Client) Event(ctx context.Context, source, id string, wait Wait) (api.Event, error) {
	q := inSource(source)
	if wait.For > 0 {
		q.Set("wait", waitText(wait.For))
	}
	if wait.Delivered {
		q.Set("until", "delivered")
	}
	var out api.Event
	err := c.get(ctx, eventPath(id), q, &out)
	return out, err
}

// Attempts reads the attempts of an event, oldest first.
func (c *Client) Attempts(ctx context.Context, source, id string) ([]api.Attempt, error) {
	var out api.Page[api.Attempt]
	err := c.get(ctx, eventPath(id, "attempts"), inSource(source), &out)
	return out.Data, err
}

// Payload reads the request as it was received.
func (c *Client) Payload(ctx context.Context, source, id string) (api.Payload, error) {
	var out api.Payload
	err := c.get(ctx, eventPath(id, "payload"), inSource(source), &out)
	return out, err
}

// Body writes the raw body of the request to w, all of it or nothing; an error of w is returned as it is.
func (c *Client) Body(ctx context.Context, source, id string, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, eventPath(id, "payload"), inSource(source), nil, "application/octet-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.transport(ctx, err)
	}
	_, err = w.Write(raw)
	return err
}

// Replay starts the replay of one event. An event that needs none is skipped, without an error.
func (c *Client) Replay(ctx context.Context, source, id string, in api.ReplayRequest) (api.ReplayResult, error) {
	var out api.ReplayResult
	err := c.post(ctx, eventPath(id, "replay"), inSource(source), in, &out)
	return out, err
}

// Resolve settles a dead letter: it happened by other means.
func (c *Client) Resolve(ctx context.Context, source, id, reason string) (api.Event, error) {
	var out api.Event
	err := c.post(ctx, eventPath(id, "resolve"), inSource(source), api.Settle{Reason: reason}, &out)
	return out, err
}

// Discard settles a dead letter: it is not wanted.
func (c *Client) Discard(ctx context.Context, source, id, reason string) (api.Event, error) {
	var out api.Event
	err := c.post(ctx, eventPath(id, "discard"), inSource(source), api.Settle{Reason: reason}, &out)
	return out, err
}
