package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// maxIDs bounds the ids of one replay; maxText each of them, and the type and resource of a filter, in bytes, since the journal keeps them with
// the job; maxRate its rate, in events a second.
const (
	maxIDs  = 100_000
	maxText = 3000
	maxRate = 1e6
)

func (s *Server) startReplay(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	var in api.ReplaySpec
	if err := c.decode(&in, false); err != nil {
		return err
	}
	if err := s.mayForce(c, in.Force); err != nil {
		return err
	}
	if err := c.checkReason(in.Reason, in.Force); err != nil {
		return err
	}
	c.audit.target = in.Name
	spec, err := replaySpec(&in)
	if err != nil {
		return err
	}
	spec.Actor = c.who.name
	ctx := c.r.Context()
	if spec.Filter != nil {
		if err := s.checkSource(ctx, spec.Filter.Source); err != nil {
			return err
		}
	}
	if spec.ID, err = c.replayID(); err != nil {
		return err
	}
	job, err := s.Core.StartReplay(ctx, spec)
	if errors.Is(err, journal.ErrBadCursor) {
		return unprocessable("from_cursor is no cursor of a list or a checkpoint")
	}
	if err != nil {
		return err
	}
	c.audit.target = job.ID
	if job.DryRun {
		c.audit.outcome = "dry_run"
		return c.answer(http.StatusOK, showReplay(&job))
	}
	c.audit.outcome = api.Started
	c.w.Header().Set("Location", "/v1/replays/"+url.PathEscape(job.ID))
	return c.answer(http.StatusCreated, showReplay(&job))
}

func unprocessable(format string, args ...any) error {
	return fail(http.StatusUnprocessableEntity, fmt.Sprintf(format, args...))
}

// replaySpec checks what was asked for. A filter combines with a checkpoint or a cursor; ids stand alone.
func replaySpec(in *api.ReplaySpec) (recovery.ReplaySpec, error) {
	spec := recovery.ReplaySpec{Name: in.Name, IDs: in.IDs, FromCheckpoint: in.FromCheckpoint, FromCursor: in.FromCursor, DryRun: in.DryRun,
		Rate: in.Rate, Force: in.Force, Reason: in.Reason}
	switch {
	case len(in.Name) > maxReason:
		return spec, unprocessable("the name is longer than %d bytes", maxReason)
	case !(in.Rate >= 0 && in.Rate <= maxRate):
		return spec, unprocessable("rate must be between 0 and %d events a second", int(maxRate))
	case len(in.IDs) > maxIDs:
		return spec, unprocessable("at most %d ids", maxIDs)
	case in.IDs != nil && len(in.IDs) == 0:
		return spec, unprocessable("ids is empty")
	case len(in.IDs) > 0 && (in.FromCheckpoint || in.FromCursor != "" || !sourceOnly(in.Filter)):
		return spec, unprocessable("ids stand alone, or with filter.source")
	case in.FromCheckpoint && in.FromCursor != "":
		return spec, unprocessable("from_checkpoint and from_cursor exclude each other")
	case in.FromCheckpoint && (in.Filter == nil || in.Filter.Source == ""):
		return spec, unprocessable("from_checkpoint needs filter.source")
	case len(in.IDs) == 0 && in.Filter == nil && !in.FromCheckpoint && in.FromCursor == "":
		return spec, unprocessable("say what to replay: ids, filter, from_checkpoint or from_cursor")
	}
	if slices.Contains(in.IDs, "") {
		return spec, unprocessable("an id is empty")
	}
	if slices.ContainsFunc(in.IDs, func(id string) bool { return len(id) > maxText }) {
		return spec, unprocessable("an id is longer than %d bytes", maxText)
	}
	if in.Filter == nil {
		return spec, nil
	}
	q, err := filterQuery(in.Filter)
	spec.Filter = q
	return spec, err
}

func sourceOnly(f *api.Filter) bool {
	return f == nil || len(f.State) == 0 && len(f.Reason) == 0 && f.Type == "" && f.Resource == "" && f.Since == nil && f.Until == nil
}

func filterQuery(f *api.Filter) (*journal.Query, error) {
	if len(f.Type) > maxText || len(f.Resource) > maxText {
		return nil, unprocessable("filter: a type or resource is longer than %d bytes", maxText)
	}
	q := &journal.Query{Source: f.Source, Type: f.Type, Resource: f.Resource}
	var err error
	if q.States, err = states(f.State); err == nil {
		q.Reasons, err = reasons(f.Reason)
	}
	var p *problem
	if errors.As(err, &p) {
		return nil, unprocessable("filter: %s", p.Detail)
	}
	if f.Since != nil {
		q.Since = bound(f.Since.Time)
	}
	if f.Until != nil {
		q.Until = bound(f.Until.Time)
	}
	return q, err
}

func (s *Server) listReplays(c *call) error {
	v, err := c.query("limit", "cursor")
	if err != nil {
		return err
	}
	limit, err := limitParam(v)
	if err != nil {
		return err
	}
	jobs, next, err := s.Core.Replays(c.r.Context(), v.Get("cursor"), limit)
	if err != nil {
		return err
	}
	page := api.Page[api.Replay]{Data: []api.Replay{}, NextCursor: api.Text(next)}
	for i := range jobs {
		page.Data = append(page.Data, showReplay(&jobs[i]))
	}
	return c.answer(http.StatusOK, page)
}

func (s *Server) getReplay(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	job, err := s.Core.Replay(c.r.Context(), c.args[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, showReplay(&job))
}

func (s *Server) cancelReplay(c *call) error {
	if err := c.because(); err != nil {
		return err
	}
	job, err := s.Core.CancelReplay(c.r.Context(), c.args[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, showReplay(&job))
}
