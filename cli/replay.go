package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// maxRate is the most that the admin port takes, in events a second.
const maxRate = 1e6

// replayFlags are the flags of everything that replays.
type replayFlags struct {
	force  bool
	why    string
	dryRun bool
	rate   float64
	yes    bool
}

func (f *replayFlags) force1(cmd *cobra.Command, reasonFlag string) {
	fs := cmd.Flags()
	fs.BoolVar(&f.force, "force", false, "also what was delivered, is superseded or waits for a decision; needs a reason")
	fs.StringVar(&f.why, reasonFlag, "", "why (kept in the audit log)")
	fs.BoolVar(&f.dryRun, "dry-run", false, "only say what would happen")
}

func (f *replayFlags) check(reasonFlag string) error {
	if f.force && f.why == "" {
		return usage("--force needs --%s", reasonFlag)
	}
	if !(f.rate >= 0 && f.rate <= maxRate) { // NaN is neither
		return usage("--rate must be between 0 and %d events a second", int(maxRate))
	}
	return nil
}

func replayCommand(e *env) *cobra.Command {
	var source string
	var f replayFlags
	cmd := &cobra.Command{Use: "replay <id>…", Short: "Deliver events again: by id, or many with plan and run", Args: cobra.ArbitraryArgs,
		Long: "Deliver events again and wait for the result. An event that was delivered is skipped unless forced.\n" +
			"'replay plan' and 'replay run' replay many.",
		Example: "  hooktender replay evt_1\n  hooktender replay run --source stripe --state failed --yes"}
	e.sourceFlag(cmd, &source)
	f.force1(cmd, "reason")
	cmd.Flags().Float64Var(&f.rate, "rate", 0, "with several ids: events a second")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return e.group(cmd, args)
		}
		if err := f.check("reason"); err != nil {
			return err
		}
		if f.dryRun {
			return e.plan(cmd.Context(), idsSpec(source, args, &f))
		}
		return e.replayEach(cmd.Context(), source, args, &f)
	}
	cmd.AddCommand(replayPlanCommand(e), replayRunCommand(e), replayStatusCommand(e), replayCancelCommand(e), replayListCommand(e))
	return cmd
}

func idsSpec(source string, ids []string, f *replayFlags) api.ReplaySpec {
	spec := api.ReplaySpec{IDs: ids, Force: f.force, Reason: f.why, Rate: f.rate, DryRun: true}
	if source != "" {
		spec.Filter = &api.Filter{Source: source}
	}
	return spec
}

// replayEach replays one event after the other, so that their order is kept, and waits for each.
func (e *env) replayEach(ctx context.Context, source string, ids []string, f *replayFlags) error {
	failed := 0
	var last error
	bar := e.progress("replaying", int64(len(ids)))
	began := e.now()
	for i, id := range ids {
		if f.rate > 0 {
			due := began.Add(time.Duration(min(float64(i)/f.rate*float64(time.Second), 1<<62)))
			if err := pause(ctx, due.Sub(e.now())); err != nil {
				return err
			}
		}
		if err := e.replayOne(ctx, source, id, f); err != nil {
			last = err
			failed++
			if len(ids) > 1 {
				bar.clear()
				e.note("%s: %s", clean(id), explain(err))
			}
		}
		bar.set(int64(i+1), "")
	}
	bar.clear()
	switch {
	case failed == 0:
		return nil
	case len(ids) == 1 || failed == len(ids):
		return last
	}
	return fail(exitPartly, "%d of %d replays failed", failed, len(ids))
}

func (e *env) replayOne(ctx context.Context, source, id string, f *replayFlags) error {
	var res api.ReplayResult
	raw, err := e.call(ctx, func(ctx context.Context, c *client.Client) error {
		var err error
		res, err = c.Replay(ctx, source, id, api.ReplayRequest{Force: f.force, Reason: f.why})
		return err
	})
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict && len(p.Sources) == 0 {
		return &exitError{code: exitUnsafe, err: err}
	}
	if err != nil {
		return err
	}
	if res.Result == api.Skipped {
		return e.print(raw, func(w io.Writer) { fmt.Fprintf(w, "%s  skipped: %s\n", clean(id), res.Why) })
	}
	if e.output != "table" {
		if err := e.print(raw, nil); err != nil {
			return err
		}
	}
	ev, _, err := e.wait(ctx, source, id, false, res.ReplayID)
	if err != nil {
		return err
	}
	if e.output == "table" {
		t := &table{colour: coloured(e.stdout)}
		t.row(id, stateCell(ev), fmt.Sprintf("attempt %d", ev.AttemptCount))
		if err := e.print(nil, t.writeTo); err != nil {
			return err
		}
	}
	if ev.State != "replayed" || ev.LastError != nil { // a forced replay that failed leaves what was
		why := ""
		if ev.LastError != nil {
			why = ": " + ev.LastError.Kind + ": " + clean(ev.LastError.Message)
		}
		return fail(exitFailed, "the replay of %s ended as %s%s", clean(id), stateCell(ev).text, why)
	}
	return nil
}
