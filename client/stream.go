package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
// It returns ctx's error, do's, or *Unreachable; go on with the cursor of the last change. source may be empty: all.
func (c *Client) Stream(ctx context.Context, source, cursor string, do func(Change) error) error {
	q := inSource(source)
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/stream", q, nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxChange)
	var ch Change
	for lines.Scan() {
		line := lines.Bytes()
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0 && ch.Raw != nil:
			if err := json.Unmarshal(ch.Raw, &ch.Event); err != nil {
				return err
			}
			if err := do(ch); err != nil {
				return err
			}
			ch = Change{}
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
	return c.transport(ctx, err)
}

type endedError struct{}

func (endedError) Error() string { return "the stream ended" }

var errEnded error = endedError{}
