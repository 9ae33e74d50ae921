package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func resourcesCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "resources", Short: "Show how far the consumer has come with one resource, or put its cursor elsewhere", RunE: e.group}
	get := &cobra.Command{Use: "get <source> <resource>", Short: "Show a resource: its version, what is held, what is missing", Args: cobra.ExactArgs(2),
		ValidArgsFunction: e.completeSources}
	get.RunE = func(cmd *cobra.Command, args []string) error {
		return e.resource(cmd.Context(), func(ctx context.Context, c *client.Client) (api.Resource, error) {
			return c.Resource(ctx, args[0], args[1])
		})
	}
	cmd.AddCommand(get, setCursorCommand(e))
	return cmd
}

func setCursorCommand(e *env) *cobra.Command {
	var reason string
	var forget bool
	cmd := &cobra.Command{Use: "set-cursor <source> <resource> <version>", Short: "Put a resource's cursor at a version, up or down: after a version that was sent by mistake",
		Args: cobra.RangeArgs(2, 3), ValidArgsFunction: e.completeSources}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it stands in the audit line")
	cmd.Flags().BoolVar(&forget, "forget", false, "instead of a version: as if nothing had been delivered yet")
	cmd.Flags().Bool("yes", false, "for scripts; nothing is asked anyway")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		version := ""
		switch {
		case forget && len(args) == 3:
			return usage("a version or --forget, not both")
		case !forget && (len(args) == 2 || args[2] == ""):
			return usage("the version is missing; --forget removes the cursor")
		case !forget:
			version = args[2]
		}
		return e.resource(cmd.Context(), func(ctx context.Context, c *client.Client) (api.Resource, error) {
			return c.SetCursor(ctx, args[0], args[1], version, reason)
		})
	}
	return cmd
}

func (e *env) resource(ctx context.Context, do func(context.Context, *client.Client) (api.Resource, error)) error {
	var r api.Resource
	raw, err := e.call(ctx, func(ctx context.Context, c *client.Client) error {
		var err error
		r, err = do(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	return e.print(raw, func(w io.Writer) {
		t := e.table("SOURCE", "RESOURCE", "VERSION", "EVENT", "UPDATED", "HELD", "MISSING", "PENDING")
		t.row(r.Source, clean(r.Resource), string(r.Version), string(r.EventID), e.ago(r.UpdatedAt), len(r.Held), strings.Join(r.Missing, ", "), len(r.Pending))
		t.writeTo(w)
		if len(r.Held) == 0 {
			return
		}
		t = e.table("HELD", "EVENT", "VERSION", "RELEASE")
		for _, h := range r.Held {
			t.row(h.ID, string(h.EventID), string(h.Version), e.ago(h.ReleaseAt))
		}
		t.writeTo(w)
	})
}
