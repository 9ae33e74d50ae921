package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/event"
)

// reconnect is the pause before a stream that broke is taken up again.
const reconnect = time.Second

func eventsTailCommand(e *env) *cobra.Command {
	var f filter
	var cursor string
	var limit int
	cmd := &cobra.Command{Use: "tail", Short: "Follow every change of state as it happens", Args: cobra.NoArgs,
		Long: "Follow every change of state as it happens, until interrupted or --timeout has passed. A connection that breaks is taken up\nagain where it was."}
	e.sourceFlag(cmd, &f.source)
	fs := cmd.Flags()
	fs.StringSliceVar(&f.states, "state", nil, "only changes to these `states`")
	fs.StringSliceVar(&f.reasons, "reason", nil, "only changes to these `reasons`")
	fs.StringVar(&f.typ, "type", "", "only this event `type`")
	fs.StringVar(&f.resource, "resource", "", "only this `resource`")
	fs.StringVar(&cursor, "cursor", "", "begin after this `cursor` of an earlier stream (default: now)")
	fs.IntVar(&limit, "limit", 0, "end after so many changes; 0 = never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 0 {
			return usage("--limit must not be negative")
		}
		if err := f.known(); err != nil {
			return err
		}
		return e.tail(cmd.Context(), &f, cursor, limit)
	}
	return cmd
}

var errEnough = errors.New("enough")

func (e *env) tail(ctx context.Context, f *filter, cursor string, limit int) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	ctx, cancel := e.limited(ctx, 0)
	defer cancel()
	shown := 0
	began := false // it was told something, and can go on from there
	for {
		err := c.Stream(ctx, f.source, cursor, func(ch client.Change) error {
			began, cursor = true, ch.Cursor
			if !f.matches(&ch.Event) {
				return nil
			}
			if err := e.printChange(&ch); err != nil {
				return err
			}
			if shown++; limit > 0 && shown >= limit {
				return errEnough
			}
			return nil
		})
		if u, broken := errors.AsType[*client.Unreachable](err); broken && u.Cursor != "" {
			began, cursor = true, u.Cursor
		}
		switch {
		case !began && away(err): // also where the time was up before
			return err
		case ctx.Err() != nil, errors.Is(err, errEnough):
			return nil
		case !away(err):
			return err
		}
		e.note("the connection broke (%v); going on", err)
		if pause(ctx, reconnect) != nil {
			return nil
		}
	}
}

func (f *filter) matches(ev *api.Event) bool {
	return (len(f.states) == 0 || slices.Contains(f.states, ev.State)) && (len(f.reasons) == 0 || slices.Contains(f.reasons, string(ev.Reason))) &&
		(f.typ == "" || f.typ == string(ev.Type)) && (f.resource == "" || f.resource == string(ev.Resource))
}

// known refuses states and reasons that no event ever has.
func (f *filter) known() error {
	for _, s := range f.states {
		if _, ok := event.ParseState(s); !ok {
			return usage("no such state: %q", s)
		}
	}
	for _, r := range f.reasons {
		if _, ok := event.ParseReason(r); !ok {
			return usage("no such reason: %q", r)
		}
	}
	return nil
}

// printChange writes one line.
func (e *env) printChange(ch *client.Change) error {
	if e.output != "table" {
		return e.write(ch.Raw, '\n')
	}
	t := &table{colour: coloured(e.stdout)}
	ev := &ch.Event
	t.row(cell{e.now().UTC().Format("15:04:05.000"), grey}, fmt.Sprintf("%-30s", stateCell(ev).text), ev.Source, string(ev.EventID), string(ev.Type))
	t.rows[0][1].paint = stateCell(ev).paint
	return e.print(nil, t.writeTo)
}
