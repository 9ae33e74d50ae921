package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// drainPoll is how often drain looks whether something is still pending.
const drainPoll = 200 * time.Millisecond

func drainCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "drain", Short: "Make the gateway refuse new events from now on; it is final", Args: cobra.NoArgs,
		Long: "Make the gateway refuse new events from now on, and try at once what waits for a retry; it is final. With --timeout it waits until\nnothing is pending any more, at most that long, and exits 7 if something still is: as a preStop hook it keeps the pod until the queue is empty."}
	var reason string
	mutationFlags(cmd, &reason)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			_, err := c.Drain(ctx, reason)
			return err
		})
		if err != nil {
			return err
		}
		if err := e.print(raw, func(w io.Writer) { fmt.Fprintln(w, "draining: new events are refused, what is pending is delivered") }); err != nil || e.timeout == 0 {
			return err
		}
		return e.drained(cmd.Context())
	}
	return cmd
}

// drained waits until nothing is pending, for at most --timeout.
func (e *env) drained(ctx context.Context) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	var last int64
	for {
		sources, err := c.Sources(ctx)
		if err == nil {
			if last = pendingOf(sources); last == 0 {
				return nil
			}
		} else if ctx.Err() == nil {
			return err
		}
		if pause(ctx, drainPoll) != nil {
			return fail(exitTimeout, "%d events are still pending; they stay in the journal and are delivered after the next start", last)
		}
	}
}

func pendingOf(sources []api.Source) (n int64) {
	for i := range sources {
		n += sources[i].Counts["pending"]
	}
	return n
}
