package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func checkpointCommand(e *env) *cobra.Command {
	var source, resource string
	cmd := &cobra.Command{Use: "checkpoint", Short: "Show how far each source has come: what came before is settled", Args: cobra.NoArgs,
		Long: "Show how far each source has come: everything before its cursor is settled, holes are what is open after it. With --resource, how\n" +
			"far the consumer has come with one resource."}
	e.sourceFlag(cmd, &source)
	cmd.Flags().StringVar(&resource, "resource", "", "this `resource` of --source")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if resource != "" {
			if source == "" {
				return usage("--resource needs --source")
			}
			return e.resource(cmd.Context(), func(ctx context.Context, c *client.Client) (api.Resource, error) {
				return c.Resource(ctx, source, resource)
			})
		}
		var list []api.Checkpoint
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			list, err = c.Checkpoints(ctx, source)
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) {
			t := e.table("SOURCE", "CURSOR", "EVENT", "RECEIVED", "HOLES", "PENDING", "FAILED", "LAST DELIVERED")
			for _, c := range list {
				failed := cell{text: itoa(c.Failed)}
				if c.Failed > 0 {
					failed.paint = red
				}
				t.row(c.Source, string(c.Cursor), string(c.EventID), e.ago(c.ReceivedAt), c.Holes, c.Pending, failed, e.ago(c.LastDeliveredAt))
			}
			t.writeTo(w)
		})
	}
	return cmd
}
