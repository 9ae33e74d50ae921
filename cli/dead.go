package cli

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// deadReasons are the reasons of failed events that wait for an operator.
var deadReasons = []string{"permanent", "exhausted", "gap", "expired", "corrupt"}

func deadCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "dead", Short: "List and settle dead letters: events that failed and wait for you", RunE: e.group}
	cmd.AddCommand(deadListCommand(e),
		e.settleCommand("resolve <id>…", "Settle dead letters that happened by other means", (*client.Client).Resolve),
		e.settleCommand("discard <id>…", "Settle dead letters that are not wanted", (*client.Client).Discard))
	return cmd
}

func deadListCommand(e *env) *cobra.Command {
	var f filter
	var l listing
	cmd := &cobra.Command{Use: "list", Short: "List dead letters by source and error", Args: cobra.NoArgs}
	e.sourceFlag(cmd, &f.source)
	cmd.Flags().StringSliceVar(&f.reasons, "reason", deadReasons, "only these `reasons`")
	e.plainFilterFlags(cmd, &f)
	l.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f.states = []string{"failed"}
		q, err := f.query(e)
		if err != nil {
			return err
		}
		return e.list(cmd.Context(), q, l, e.printDead)
	}
	return cmd
}

func (e *env) settleCommand(use, short string, do func(c *client.Client, ctx context.Context, source, id, reason string) (api.Event, error)) *cobra.Command {
	var source, reason string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.MinimumNArgs(1)}
	e.sourceFlag(cmd, &source)
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is kept with the event (required)")
	cmd.Flags().Bool("yes", false, "for scripts; nothing is asked anyway")
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		if reason == "" {
			return usage("--reason is required: it is kept with the event")
		}
		failed := 0
		var last error
		for _, id := range ids {
			err := e.settle(cmd.Context(), id, func(ctx context.Context, c *client.Client) (api.Event, error) { return do(c, ctx, source, id, reason) })
			if err == nil {
				continue
			}
			failed, last = failed+1, err
			if len(ids) > 1 {
				e.note("%s: %s", clean(id), explain(err))
			}
		}
		if failed == 0 || failed == len(ids) {
			return last
		}
		return fail(exitPartly, "%d of %d could not be settled", failed, len(ids))
	}
	return cmd
}

func (e *env) settle(ctx context.Context, id string, do func(context.Context, *client.Client) (api.Event, error)) error {
	var ev api.Event
	raw, err := e.call(ctx, func(ctx context.Context, c *client.Client) error {
		var err error
		ev, err = do(ctx, c)
		return err
	})
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict && len(p.Sources) == 0 {
		return &exitError{code: exitUnsafe, err: err}
	}
	if err != nil {
		return err
	}
	return e.print(raw, func(w io.Writer) {
		t := &table{colour: coloured(e.stdout)}
		t.row(id, stateCell(&ev))
		t.writeTo(w)
	})
}
