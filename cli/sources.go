package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func sourcesCommand(e *env) *cobra.Command {
	list := e.listSources
	cmd := &cobra.Command{Use: "sources", Short: "List, pause, resume and enroll sources", RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return e.group(cmd, args)
		}
		return list(cmd, args)
	}}
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List sources with what waits in them", Args: cobra.NoArgs, RunE: list},
		e.pauseCommand("pause <source>", "Stop the deliveries of a source; events keep being accepted", (*client.Client).Pause),
		e.enrollCommand(),
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

func (e *env) pauseCommand(use, short string, do func(c *client.Client, ctx context.Context, source, reason string) (api.Source, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeSources}
	mutationFlags(cmd, &reason)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s api.Source
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			s, err = do(c, ctx, args[0], reason)
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { e.showSources(w, []api.Source{s}) })
	}
	return cmd
}

func (e *env) enrollCommand() *cobra.Command {
	var r api.EnrollRequest
	cmd := &cobra.Command{Use: "enroll <source>", Short: "Take the secret that a sender delivers in its first request", Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeSources,
		Long: "Open a window in which a source takes the secret that its sender (Asana, Notion) delivers in its first request.\n" +
			"Then register the endpoint there. The first secret that comes closes the window; one that is there is never overwritten."}
	cmd.Flags().StringVar(&r.For, "for", "10m", "how long the window stays open, at most 24h")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var w api.Enrolment
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			w, err = c.Enroll(ctx, args[0], r)
			return err
		})
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict { // a secret is never overwritten
			return &exitError{code: exitUnsafe, err: err}
		}
		if err != nil {
			return err
		}
		return e.print(raw, func(out io.Writer) {
			fmt.Fprintf(out, "%s takes the secret that its sender delivers until %s: register the endpoint there now\n", w.Source, w.Until.Format(time.RFC3339))
		})
	}
	return cmd
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
