package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// poll is how often a replay is asked how far it is.
const poll = 250 * time.Millisecond

// bulk holds the flags of plan and run.
type bulk struct {
	filter
	replayFlags
	name       string
	ids        []string
	checkpoint bool
	cursor     string
	detach     bool
}

func (b *bulk) flags(e *env, cmd *cobra.Command) {
	e.sourceFlag(cmd, &b.source)
	fs := cmd.Flags()
	fs.StringSliceVar(&b.states, "state", nil, "only these `states`, as in failed")
	fs.StringSliceVar(&b.reasons, "event-reason", nil, "only events with these `reasons`, as in exhausted")
	e.plainFilterFlags(cmd, &b.filter)
	fs.StringSliceVar(&b.ids, "ids", nil, "these `ids` and nothing else")
	fs.BoolVar(&b.checkpoint, "from-checkpoint", false, "everything after the checkpoint of --source")
	fs.StringVar(&b.cursor, "from-cursor", "", "everything after this `cursor` of a list or a checkpoint")
	fs.StringVar(&b.name, "name", "", "a `name` for people")
	fs.Float64Var(&b.rate, "rate", 0, "events a second; 0 = as fast as the upstream takes them")
	b.force1(cmd, "reason")
}

// selects refuses what would replay everything by mistake: no selection at all, or one that a script has left empty.
func (b *bulk) selects(cmd *cobra.Command) error {
	given := b.checkpoint || cmd.Flags().Changed("ids")
	for _, name := range []string{"source", "state", "event-reason", "type", "resource", "since", "until", "from-cursor"} {
		f := cmd.Flags().Lookup(name)
		if v := f.Value.String(); f.Changed && (v == "" || v == "[]") {
			return usage("--%s is empty", name)
		}
		given = given || f.Changed
	}
	if !given {
		return usage("say what to replay: --state failed is everything that failed; --source, --since, --ids and so on select less")
	}
	return nil
}

func (b *bulk) spec(e *env, cmd *cobra.Command) (api.ReplaySpec, error) {
	spec := api.ReplaySpec{Name: b.name, IDs: b.ids, FromCheckpoint: b.checkpoint, FromCursor: b.cursor, DryRun: b.dryRun, Rate: b.rate,
		Force: b.force, Reason: b.why}
	if err := b.check("reason"); err != nil {
		return spec, err
	}
	if b.checkpoint && b.source == "" {
		return spec, usage("--from-checkpoint needs --source")
	}
	if err := b.selects(cmd); err != nil {
		return spec, err
	}
	f, err := b.selection(e)
	spec.Filter = f
	return spec, err
}

func replayPlanCommand(e *env) *cobra.Command {
	var b bulk
	cmd := &cobra.Command{Use: "plan", Short: "Count what a replay would do, and change nothing", Args: cobra.NoArgs}
	b.flags(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		spec, err := b.spec(e, cmd)
		if err != nil {
			return err
		}
		spec.DryRun = true
		return e.plan(cmd.Context(), spec)
	}
	return cmd
}

func (e *env) plan(ctx context.Context, spec api.ReplaySpec) error {
	raw, job, err := e.startReplay(ctx, spec)
	if err != nil {
		return err
	}
	return e.print(raw, func(w io.Writer) { e.showPlan(w, &job) })
}

func (e *env) startReplay(ctx context.Context, spec api.ReplaySpec) ([]byte, api.Replay, error) {
	var job api.Replay
	raw, err := e.callFor(ctx, selectTimeout, func(ctx context.Context, c *client.Client) error {
		var err error
		job, err = c.StartReplay(ctx, spec)
		return err
	})
	return raw, job, err
}

func (e *env) showPlan(w io.Writer, job *api.Replay) {
	t := e.table("WHAT", "EVENTS")
	would := int64(0)
	if job.WouldReplay != nil {
		would = *job.WouldReplay
	}
	t.row(cell{"would be replayed", green}, would)
	for _, why := range slices.Sorted(maps.Keys(job.Skipped.By)) {
		t.row("skipped: "+why, job.Skipped.By[why])
	}
	t.writeTo(w)
}

func replayRunCommand(e *env) *cobra.Command {
	var b bulk
	cmd := &cobra.Command{Use: "run", Short: "Replay what is missing, and wait for the end", Args: cobra.NoArgs,
		Example: "  hooktender replay run --source stripe --state failed --since 24h\n  hooktender replay run --source stripe --from-checkpoint --rate 50"}
	b.flags(e, cmd)
	cmd.Flags().BoolVar(&b.yes, "yes", false, "do not ask (only a terminal is asked)")
	cmd.Flags().BoolVar(&b.detach, "detach", false, "do not wait for the end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		spec, err := b.spec(e, cmd)
		if err != nil {
			return err
		}
		if spec.DryRun {
			return e.plan(cmd.Context(), spec)
		}
		return e.runReplay(cmd.Context(), spec, &b)
	}
	return cmd
}

func (e *env) runReplay(ctx context.Context, spec api.ReplaySpec, b *bulk) error {
	if !b.yes && isTerminal(e.stdin) {
		dry := spec
		dry.DryRun = true
		_, job, err := e.startReplay(ctx, dry)
		if err != nil {
			return err
		}
		e.showPlan(e.stderr, &job)
		if !e.confirm("Replay them?") {
			return fail(exitFailed, "nothing was done")
		}
	}
	raw, job, err := e.startReplay(ctx, spec)
	if err != nil {
		return err
	}
	if !b.detach {
		if raw, job, err = e.follow(ctx, raw, job); err != nil {
			return err
		}
	}
	err = e.print(raw, func(w io.Writer) {
		e.showReplays(w, []api.Replay{job})
		if job.Skipped.Total > 0 {
			e.note("'hooktender replay status %s' says what was skipped and why", job.ID)
		}
	})
	if err != nil {
		return err
	}
	if b.detach {
		return nil
	}
	return e.verdict(&job)
}

// confirm asks a person.
func (e *env) confirm(question string) bool {
	fmt.Fprintf(e.stderr, "%s [y/N] ", question)
	line, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer is no
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes"
}

// follow waits until a replay has ended, also over a restart of the gateway.
func (e *env) follow(ctx context.Context, raw []byte, job api.Replay) ([]byte, api.Replay, error) {
	end, cancel := e.limited(ctx, 0)
	defer cancel()
	bar := e.progress("replaying", job.Total)
	defer bar.clear()
	heard := e.now()
	for job.State == api.ReplayRunning {
		bar.total = job.Total
		bar.set(job.Replayed+job.Failed+job.Skipped.Total, fmt.Sprintf("%d replayed, %d failed, %d skipped", job.Replayed, job.Failed, job.Skipped.Total))
		if pause(end, poll) != nil {
			bar.clear()
			e.note("the replay goes on; see 'hooktender replay status %s'", job.ID)
			if ctx.Err() != nil {
				return raw, job, ctx.Err()
			}
			return raw, job, fail(exitTimeout, "replay %s is still running after %s", job.ID, e.timeout)
		}
		var now api.Replay
		answer, err := e.callFresh(ctx, func(ctx context.Context, c *client.Client) error {
			var err error
			now, err = c.ReplayStatus(ctx, job.ID)
			return err
		})
		switch {
		case err == nil:
			raw, job, heard = answer, now, e.now()
		case !away(err) || e.now().Sub(heard) > callTimeout:
			bar.clear()
			e.note("the replay goes on; see 'hooktender replay status %s'", job.ID)
			return raw, job, err
		}
	}
	return raw, job, nil
}

// callFresh is call with the time of one call, whatever --timeout says about the whole.
func (e *env) callFresh(ctx context.Context, do func(context.Context, *client.Client) error) ([]byte, error) {
	once := *e
	once.timeout = callTimeout
	return once.call(ctx, do)
}

// verdict is how the end of a replay becomes the exit code.
func (e *env) verdict(job *api.Replay) error {
	switch {
	case job.State == api.ReplayCancelled:
		return fail(exitFailed, "replay %s was cancelled", job.ID)
	case job.State == api.ReplayFailed:
		return fail(exitFailed, "replay %s could not go on; the gateway's log says why", job.ID)
	case job.Failed > 0 && job.Replayed+job.Skipped.Total > 0:
		return fail(exitPartly, "%d of %d events failed again", job.Failed, job.Total)
	case job.Failed > 0:
		return fail(exitFailed, "all %d events failed again", job.Failed)
	}
	return nil
}
