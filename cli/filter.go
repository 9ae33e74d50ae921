package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// filter holds the flags that select events.
type filter struct {
	source, typ, resource string
	states, reasons       []string
	since, until          string
}

// sourceFlag adds --source, completed with the names of the running gateway.
func (e *env) sourceFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "source", "", "`name` of the source")
	_ = cmd.RegisterFlagCompletionFunc("source", e.completeSources) // the flag is there
}

func (e *env) completeSources(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := e.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	sources, _ := c.Sources(ctx) // no gateway, no suggestions
	var names []string
	for _, s := range sources {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// filterFlags adds all flags of a filter.
func (e *env) filterFlags(cmd *cobra.Command, f *filter) {
	e.sourceFlag(cmd, &f.source)
	fs := cmd.Flags()
	fs.StringSliceVar(&f.states, "state", nil, "only these `states`: pending, delivered, failed, replayed, rejected")
	fs.StringSliceVar(&f.reasons, "reason", nil, "only these `reasons`, as in retrying, held, exhausted")
	e.plainFilterFlags(cmd, f)
}

// plainFilterFlags adds the flags of a filter without state and reason.
func (e *env) plainFilterFlags(cmd *cobra.Command, f *filter) {
	fs := cmd.Flags()
	fs.StringVar(&f.typ, "type", "", "only this event `type`")
	fs.StringVar(&f.resource, "resource", "", "only this `resource`")
	fs.StringVar(&f.since, "since", "", "received since: a `time` (RFC 3339) or how long ago, as in 2h")
	fs.StringVar(&f.until, "until", "", "received before: a `time` (RFC 3339) or how long ago")
}

// parseTime reads a time, or how long ago.
func (e *env) parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, usage("--%s: %q is no time (2006-01-02T15:04:05Z) and no duration (2h)", flag, text)
	}
	return e.now().Add(-d), nil
}

func (f *filter) query(e *env) (client.Query, error) {
	q := client.Query{Source: f.source, States: f.states, Reasons: f.reasons, Type: f.typ, Resource: f.resource}
	var err error
	if q.Since, err = e.parseTime("since", f.since); err != nil {
		return q, err
	}
	q.Until, err = e.parseTime("until", f.until)
	return q, err
}

// selection is the filter of a replay.
func (f *filter) selection(e *env) (*api.Filter, error) {
	q, err := f.query(e)
	if err != nil {
		return nil, err
	}
	out := &api.Filter{Source: q.Source, State: q.States, Reason: q.Reasons, Type: q.Type, Resource: q.Resource}
	if !q.Since.IsZero() {
		out.Since = &api.Time{Time: q.Since}
	}
	if !q.Until.IsZero() {
		out.Until = &api.Time{Time: q.Until}
	}
	return out, nil
}
