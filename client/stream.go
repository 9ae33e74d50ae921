package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"

	"github.com/hooktender/hooktender/admin/api"
)

// Change is one change of state or reason.
type Change struct {
	Cursor string // resumes the stream after this change
	Event  api.Event
	Raw    []byte // the record, as it came
}

// maxChange bounds one line of the stream, in bytes.
const maxChange = 1 << 20

// Stream calls do for every change of state or reason after cursor ("" = from now on) until ctx ends, do fails, or the connection breaks.
// It returns ctx's error, do's, or *Unreachable, whose Cursor says where to go on, also before the first change, and without one if ctx's time was up before any answer. source may be empty: all.
func (c *Client) Stream(ctx context.Context, source, cursor string, do func(Change) error) error {
	q := inSource(source)
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/stream", q, nil, "text/event-stream")
	if err != nil {
		if err == context.DeadlineExceeded {
			err = &Unreachable{Address: c.base, Err: err}
		}
		return err
	}
	defer resp.Body.Close()
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "text/event-stream" {
		return fmt.Errorf("GET /v1/stream: the answer is not what hooktender says: %q is no stream of events", t)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxChange)
	ch, whole := Change{Cursor: cursor}, cursor // whole: of what was read to its end
	for lines.Scan() {
		line := lines.Bytes()
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0 && ch.Raw == nil:
			whole = ch.Cursor
		case len(line) == 0:
			if err := json.Unmarshal(ch.Raw, &ch.Event); err != nil {
				return err
			}
			if err := do(ch); err != nil {
				return err
			}
			whole = ch.Cursor
			ch = Change{Cursor: whole}
		case string(name) == "id":
			ch.Cursor = string(value)
		case string(name) == "data":
			ch.Raw = append([]byte{}, value...)
		}
	}
	err = lines.Err()
	if err == nil {
		err = errEnded
	}
	err = c.transport(ctx, err)
	if u, ok := err.(*Unreachable); ok {
		u.Cursor = whole
	}
	return err
}

type endedError struct{}

func (endedError) Error() string { return "the stream ended" }

var errEnded error = endedError{}
