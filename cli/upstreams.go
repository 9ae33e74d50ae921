package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func upstreamsCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "upstreams", Short: "List upstreams with their breakers", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []api.Upstream
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			list, err = c.Upstreams(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) {
			t := e.table("UPSTREAM", "URL", "BREAKER", "IN FLIGHT", "FAILURES", "NEXT PROBE")
			for _, u := range list {
				breaker := cell{u.Breaker, green}
				if u.Breaker != "closed" {
					breaker.paint = red
				}
				t.row(u.Name, u.URL, breaker, u.InFlight, u.ConsecutiveFailures, e.ago(u.NextProbeAt))
			}
			t.writeTo(w)
		})
	}
	return cmd
}
