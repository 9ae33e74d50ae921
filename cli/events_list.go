package cli

import (
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// pageSize is the most that one call of the API gives.
const pageSize = 500

// listing is a list that may take several calls.
type listing struct {
	limit  int
	cursor string
	asc    bool
}

func (l *listing) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&l.limit, "limit", 100, "at most so many; 0 = all")
	fs.StringVar(&l.cursor, "cursor", "", "go on after the page with this next_`cursor`")
	fs.BoolVar(&l.asc, "oldest-first", false, "oldest first (default: newest first)")
}

func eventsListCommand(e *env) *cobra.Command {
	var f filter
	var l listing
	cmd := &cobra.Command{Use: "list", Short: "List events, newest first", Args: cobra.NoArgs,
		Example: "  hooktender events list --state failed --since 2h\n  hooktender events list --source stripe --limit 0 -o ndjson"}
	e.filterFlags(cmd, &f)
	l.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.query(e)
		if err != nil {
			return err
		}
		return e.list(cmd.Context(), q, l, e.printEvents)
	}
	return cmd
}

// list prints events: one answer of the API as it is, or several joined into one list.
func (e *env) list(ctx context.Context, q client.Query, l listing, print func([]byte) error) error {
	if l.limit < 0 {
		return usage("--limit must not be negative")
	}
	q.Asc, q.Cursor = l.asc, l.cursor
	var all api.Page[json.RawMessage]
	var raw []byte
	for pages := 0; ; pages++ {
		q.Limit = pageSize
		if l.limit > 0 {
			q.Limit = min(l.limit-len(all.Data), pageSize)
		}
		var err error
		raw, err = e.call(ctx, func(ctx context.Context, c *client.Client) error {
			_, err := c.Events(ctx, q)
			return err
		})
		if err != nil {
			return err
		}
		var page api.Page[json.RawMessage]
		if err := json.Unmarshal(raw, &page); err != nil {
			return err
		}
		all.Data, all.NextCursor = append(all.Data, page.Data...), page.NextCursor
		q.Cursor = string(page.NextCursor)
		if q.Cursor == "" || l.limit > 0 && len(all.Data) >= l.limit {
			if pages > 0 {
				if raw, err = api.Encode(all); err != nil {
					return err
				}
			}
			return print(raw)
		}
	}
}

func (e *env) printEvents(raw []byte) error {
	return e.print(raw, func(w io.Writer) {
		var page api.Page[api.Event]
		if json.Unmarshal(raw, &page) != nil {
			return
		}
		t := e.table("ID", "EVENT", "SOURCE", "TYPE", "RESOURCE", "STATE", "ATTEMPTS", "RECEIVED")
		for i := range page.Data {
			ev := &page.Data[i]
			t.row(ev.ID, string(ev.EventID), ev.Source, string(ev.Type), versioned(ev), stateCell(ev), ev.AttemptCount, e.ago(ev.ReceivedAt))
		}
		t.writeTo(w)
		if len(page.Data) == 0 {
			e.note("no events")
		}
		e.more(&page)
	})
}

// more says how to see the rest of a list.
func (e *env) more(page *api.Page[api.Event]) {
	if page.NextCursor != "" {
		e.note("more with --limit 0, or --cursor %s", page.NextCursor)
	}
}

// versioned is a resource with the version that the event brings.
func versioned(ev *api.Event) string {
	if ev.Version == "" {
		return string(ev.Resource)
	}
	return string(ev.Resource) + "@" + string(ev.Version)
}
