package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/client"
)

func healthcheckCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "healthcheck", Short: "Exit 0 if the gateway takes events, 1 if not", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error { return c.Ready(ctx) })
		if p, ok := errors.AsType[*client.Problem](err); ok {
			return fail(exitFailed, "not ready: %s", p.Error())
		}
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { fmt.Fprintln(w, "ready") })
	}
	return cmd
}
