package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func eventsGetCommand(e *env) *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "get <id>", Short: "Show what is known of one event, by our id or the sender's", Args: cobra.ExactArgs(1)}
	e.sourceFlag(cmd, &source)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var ev api.Event
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			ev, err = c.Event(ctx, source, args[0], client.Wait{})
			return err
		})
		if problem := never(err); problem != nil {
			return errors.Join(e.print(problem, func(io.Writer) {}), err)
		}
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { e.showEvent(w, &ev) })
	}
	return cmd
}

// never is what the API says of an event that was not received: programs find the verdict in it as in a record. Nil for other errors.
func never(err error) []byte {
	if n, ok := errors.AsType[*client.NotFound](err); ok && n.Problem.WasReceived != "" {
		return n.Problem.Raw
	}
	return nil
}

// showEvent is a record for people: what happened, what happens next, and whether sending it again can do harm.
func (e *env) showEvent(w io.Writer, ev *api.Event) {
	t := e.table()
	when := func(at api.Time) string {
		if at.IsZero() {
			return ""
		}
		return stamp(at.Time) + " (" + e.ago(at) + ")"
	}
	t.fact("id", ev.ID)
	t.fact("event id", ev.EventID)
	t.fact("source", ev.Source)
	t.fact("type", ev.Type)
	t.fact("resource", ev.Resource)
	t.fact("version", ev.Version)
	t.row(cell{"state", grey}, stateCell(ev))
	t.fact("received", when(ev.ReceivedAt))
	t.fact("occurred", when(ev.OccurredAt))
	t.fact("delivered", when(ev.DeliveredAt))
	t.fact("attempts", ev.AttemptCount)
	t.fact("last attempt", when(ev.LastAttemptAt))
	if ev.LastStatusCode != 0 {
		t.fact("last status", int(ev.LastStatusCode))
	}
	if ev.LastError != nil {
		t.fact("last error", ev.LastError.Kind+": "+ev.LastError.Message)
	}
	t.fact("next retry", when(ev.NextRetryAt))
	t.fact("replay", ev.ReplayID)
	t.fact("duplicates", ev.Duplicates)
	t.fact("conflicts", ev.Conflicts)
	t.fact("body", fmt.Sprintf("%d bytes, sha256 %s", ev.BodyBytes, ev.BodySHA256))
	if r := ev.Resolution; r != nil {
		t.fact("settled", fmt.Sprintf("by %s, %s: %s", r.By, when(r.At), r.Reason))
	}
	safe := ev.SafeToRetry.Verdict + ": " + ev.SafeToRetry.Reason
	if ev.SafeToRetry.Needs != "" {
		safe += " (needs " + string(ev.SafeToRetry.Needs) + ")"
	}
	t.fact("safe to retry", safe)
	t.writeTo(w)
}
