package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/client"
)

func drainCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "drain", Short: "Make the gateway refuse new events from now on; it is final", Args: cobra.NoArgs}
	cmd.Flags().Bool("yes", false, "for scripts; nothing is asked anyway")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			_, err := c.Drain(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { fmt.Fprintln(w, "draining: new events are refused, what is pending is delivered") })
	}
	return cmd
}
