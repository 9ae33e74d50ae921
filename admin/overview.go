package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/provider"
)

func (s *Server) listCheckpoints(c *call) error {
	v, err := c.query("source")
	if err != nil {
		return err
	}
	source := v.Get("source") // empty is none, as elsewhere
	ctx, cancel := c.listing()
	defer cancel()
	if err := s.checkSource(ctx, source); err != nil {
		return err
	}
	names := []string{source}
	if source == "" {
		names = s.Core.Names()
	}
	page := api.Page[api.Checkpoint]{Data: []api.Checkpoint{}}
	for _, name := range names {
		cp, err := s.Journal.Checkpoint(ctx, name)
		if err != nil {
			return err
		}
		page.Data = append(page.Data, showCheckpoint(name, &cp))
	}
	return c.answer(http.StatusOK, page)
}

func showCheckpoint(source string, cp *journal.Checkpoint) api.Checkpoint {
	cursor := "" // nothing is settled yet
	if cp.Seq > 0 {
		cursor = journal.CursorAfter(cp.Seq)
	}
	return api.Checkpoint{Source: source, Cursor: api.Text(cursor), ReceivedAt: api.Time{Time: cp.Record.ReceivedAt},
		EventID: api.Text(cp.Record.EventID), Holes: cp.Holes, Pending: cp.Pending, Failed: cp.Failed,
		LastDeliveredAt: api.Time{Time: cp.LastDelivered.DeliveredAt}, LastDeliveredEventID: api.Text(cp.LastDelivered.EventID)}
}

func (s *Server) getResource(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	ctx, cancel := c.listing()
	defer cancel()
	res, err := s.Core.Resource(ctx, c.args[0], c.args[1])
	if err != nil {
		return err
	}
	if !res.Known && len(res.Pending) == 0 && len(res.Held) == 0 {
		return fail(http.StatusNotFound, "nothing is known of this resource")
	}
	return c.answer(http.StatusOK, showResource(&res))
}

// setCursor takes a version as a string or, as senders write them, as a number; null forgets the cursor. It must be there: a call without it is a mistake.
func (s *Server) setCursor(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	var in struct {
		Version json.RawMessage `json:"version"`
		Reason  string          `json:"reason"`
	}
	if err := c.decode(&in, false); err != nil {
		return err
	}
	if err := c.checkReason(in.Reason, false); err != nil {
		return err
	}
	version, ok := versionText(in.Version)
	if !ok {
		return fail(http.StatusUnprocessableEntity, "version: a string, a number, or null to forget the cursor")
	}
	c.audit.target += " version " + cmp.Or(version, "none")
	res, err := s.Core.SetCursor(context.WithoutCancel(c.r.Context()), c.args[0], c.args[1], version)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, showResource(&res))
}

func versionText(raw json.RawMessage) (string, bool) {
	var text string
	switch {
	case len(raw) == 0, len(raw) > 1024:
		return "", false
	case raw[0] == '"':
		err := json.Unmarshal(raw, &text)
		return text, err == nil && text != ""
	case string(raw) == "null":
		return "", true
	}
	return string(raw), raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'
}

func (s *Server) listSources(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	ctx, cancel := c.listing()
	defer cancel()
	sources, err := s.Core.Sources(ctx)
	if err != nil {
		return err
	}
	page := api.Page[api.Source]{Data: []api.Source{}}
	for i := range sources {
		page.Data = append(page.Data, showSource(&sources[i]))
	}
	return c.answer(http.StatusOK, page)
}

func (s *Server) pauseSource(c *call) error  { return s.setPaused(c, true) }
func (s *Server) resumeSource(c *call) error { return s.setPaused(c, false) }

func (s *Server) setPaused(c *call, paused bool) error {
	if err := c.because(); err != nil {
		return err
	}
	st, err := s.Core.SetPaused(context.WithoutCancel(c.r.Context()), c.args[0], paused)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, showSource(&st))
}

// defaultWindow is how long an enrolment window stays open if the call does not say.
const defaultWindow = 10 * time.Minute

func (s *Server) enrollSource(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	var in api.EnrollRequest
	if err := c.decode(&in, true); err != nil {
		return err
	}
	d := defaultWindow
	if in.For != "" {
		var err error
		if d, err = time.ParseDuration(in.For); err != nil || d < time.Second || d > provider.MaxWindow {
			return fail(http.StatusUnprocessableEntity, "for: a duration between 1s and 24h, such as 10m")
		}
	}
	if err := c.checkReason(in.Reason, false); err != nil {
		return err
	}
	until, err := s.Control.Enroll(c.args[0], d)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, api.Enrolment{Source: c.args[0], Until: api.Time{Time: until}})
}

func (s *Server) listUpstreams(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	upstreams := s.Core.Upstreams()
	page := api.Page[api.Upstream]{Data: []api.Upstream{}}
	for i := range upstreams {
		page.Data = append(page.Data, showUpstream(&upstreams[i]))
	}
	return c.answer(http.StatusOK, page)
}
