package cli

import (
	"context"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func sourcesCommand(e *env) *cobra.Command {
	list := e.listSources
	cmd := &cobra.Command{Use: "sources", Short: "List, pause and resume sources", RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return e.group(cmd, args)
		}
		return list(cmd, args)
	}}
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List sources with what waits in them", Args: cobra.NoArgs, RunE: list},
		e.pauseCommand("pause <source>", "Stop the deliveries of a source; events keep being accepted", (*client.Client).Pause),
		e.pauseCommand("resume <source>", "Go on with the deliveries of a source", (*client.Client).Resume))
	return cmd
}

func (e *env) listSources(cmd *cobra.Command, _ []string) error {
	var sources []api.Source
	raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
		var err error
		sources, err = c.Sources(ctx)
		return err
	})
	if err != nil {
		return err
	}
	return e.print(raw, func(w io.Writer) { e.showSources(w, sources) })
}

func (e *env) showSources(w io.Writer, sources []api.Source) {
	t := e.table("SOURCE", "PATH", "PROVIDER", "MODE", "PENDING", "DELIVERED", "FAILED", "REPLAYED", "REJECTED", "OLDEST PENDING", "PAUSED")
	for _, s := range sources {
		paused := cell{}
		if s.Paused {
			paused = cell{"paused", yellow}
		}
		t.row(s.Name, s.Path, s.Provider, s.Mode, s.Counts["pending"], s.Counts["delivered"], s.Counts["failed"], s.Counts["replayed"], s.Counts["rejected"],
			e.ago(s.OldestPendingAt), paused)
	}
	t.writeTo(w)
}

func (e *env) pauseCommand(use, short string, do func(*client.Client, context.Context, string) (api.Source, error)) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeSources}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s api.Source
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			s, err = do(c, ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { e.showSources(w, []api.Source{s}) })
	}
	return cmd
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
