package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func replayStatusCommand(e *env) *cobra.Command {
	return e.replayJob(&cobra.Command{Use: "status <replay-id>", Short: "Show how far a replay is"}, (*client.Client).ReplayStatus)
}

func replayCancelCommand(e *env) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: "cancel <replay-id>", Short: "Stop a replay; what it has started runs on"}
	mutationFlags(cmd, &reason)
	return e.replayJob(cmd, func(c *client.Client, ctx context.Context, id string) (api.Replay, error) {
		return c.CancelReplay(ctx, id, reason)
	})
}

// replayJob is a command on one replay.
func (e *env) replayJob(cmd *cobra.Command, do func(*client.Client, context.Context, string) (api.Replay, error)) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var job api.Replay
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			job, err = do(c, ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) {
			e.showReplays(w, []api.Replay{job})
			e.showSkips(w, job.Skips)
		})
	}
	return cmd
}

func replayListCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List replays", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var jobs []api.Replay
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			jobs, err = c.Replays(ctx)
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) { e.showReplays(w, jobs) })
	}
	return cmd
}

func (e *env) showReplays(w io.Writer, jobs []api.Replay) {
	t := e.table("REPLAY", "NAME", "STATE", "TOTAL", "SENT", "REPLAYED", "FAILED", "SKIPPED", "BY", "CREATED")
	for i := range jobs {
		j := &jobs[i]
		paint := green
		switch {
		case j.State == api.ReplayRunning:
			paint = yellow
		case j.State != api.ReplayDone || j.Failed > 0:
			paint = red
		}
		state := j.State
		if j.DryRun {
			state = "dry run"
		}
		t.row(j.ID, string(j.Name), cell{state, paint}, j.Total, j.Sent, j.Replayed, j.Failed, j.Skipped.Total, j.Actor, e.ago(j.CreatedAt))
	}
	t.writeTo(w)
}

func (e *env) showSkips(w io.Writer, skips []api.Skip) {
	if len(skips) == 0 {
		return
	}
	t := e.table("SKIPPED", "EVENT", "WHY")
	for _, s := range skips {
		t.row(string(s.ID), string(s.EventID), s.Why)
	}
	t.writeTo(w)
}
