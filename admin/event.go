package admin

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

func (s *Server) getEvent(c *call) error {
	v, err := c.query("source", "wait", "until")
	if err != nil {
		return err
	}
	wait, until, err := waitParams(v)
	if err != nil {
		return err
	}
	source, id := v.Get("source"), c.args[0]
	if wait > 0 {
		return s.await(c, source, id, wait, until)
	}
	rec, err := s.Core.Find(c.r.Context(), source, id)
	return s.found(c.w, &rec, err)
}

// notFound adds to a 404 of an event what a sender needs to know.
func (s *Server) notFound(err error) error {
	if !errors.Is(err, journal.ErrNotFound) {
		return err
	}
	p := fail(http.StatusNotFound, journal.ErrNotFound.Error())
	since := api.Time{Time: s.Journal.Stats().CoversSince}
	safe := showSafe(s.Core.SafeToRetry(nil))
	p.WasReceived, p.LogCoversSince, p.SafeToRetry = "no", &since, &safe
	return p
}

// event finds the record that a call names by its path and source=.
func (s *Server) event(c *call) (event.Record, error) {
	v, err := c.query("source")
	if err != nil {
		return event.Record{}, err
	}
	rec, err := s.Core.Find(c.r.Context(), v.Get("source"), c.args[0])
	if err != nil {
		return rec, s.notFound(err)
	}
	return rec, nil
}

func (s *Server) getAttempts(c *call) error {
	rec, err := s.event(c)
	if err != nil {
		return err
	}
	attempts, err := s.Journal.Attempts(c.r.Context(), rec.ID)
	if err != nil && !errors.Is(err, journal.ErrNotFound) { // they go with the record
		return err
	}
	page := api.Page[api.Attempt]{Data: []api.Attempt{}}
	for i := range attempts {
		if attempts[i].Upstream == "" { // the first, under way since the event was accepted
			attempts[i].Upstream = s.Core.UpstreamOf(rec.Source)
		}
		page.Data = append(page.Data, showAttempt(&attempts[i]))
	}
	return c.answer(http.StatusOK, page)
}

func (s *Server) getPayload(c *call) error {
	rec, err := s.event(c)
	if err != nil {
		return err
	}
	_, p, err := s.Journal.Get(c.r.Context(), rec.ID, true)
	if errors.Is(err, journal.ErrNotFound) || err == nil && p == nil {
		return journal.ErrNoPayload
	}
	if err != nil {
		return err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "application/octet-stream") {
		c.w.Header().Set("Content-Disposition", "attachment")
		send(c.w, http.StatusOK, "application/octet-stream", p.Body)
		return nil
	}
	return c.answer(http.StatusOK, ShowPayload(p, *s.hide.Load()))
}

func (s *Server) replayEvent(c *call) error {
	var in api.ReplayRequest
	if err := c.decode(&in, false); err != nil {
		return err
	}
	if err := s.mayForce(c, in.Force); err != nil {
		return err
	}
	if err := c.checkReason(in.Reason, in.Force); err != nil {
		return err
	}
	rec, err := s.event(c)
	if err != nil {
		return err
	}
	c.target(&rec)
	as, err := c.replayID()
	if err != nil {
		return err
	}
	res, err := s.Core.ReplayOne(c.r.Context(), rec.ID, as, c.who.name, in.Force, in.Reason)
	switch {
	case err != nil:
		return s.notFound(err)
	case res.Why == recovery.SkipUnknownEvent:
		return s.notFound(journal.ErrNotFound)
	case res.Started:
		c.audit.outcome = api.Started
		return c.answer(http.StatusAccepted, api.ReplayResult{Result: api.Started, ReplayID: res.ReplayID})
	}
	c.audit.outcome = "skipped: " + res.Why
	return c.answer(http.StatusOK, api.ReplayResult{Result: api.Skipped, Why: res.Why})
}

// mayForce refuses force without its scope.
func (s *Server) mayForce(c *call, force bool) error {
	if force && !c.who.may(api.ScopeReplayForce) {
		return fail(http.StatusForbidden, "the token lacks the scope "+api.ScopeReplayForce)
	}
	return nil
}

// target names the event in the audit line, by our id, whatever id was asked for.
func (c *call) target(rec *event.Record) { c.audit.target = rec.Source + "/" + rec.ID.String() }

func (s *Server) resolveEvent(c *call) error { return s.settle(c, s.Core.Resolve) }
func (s *Server) discardEvent(c *call) error { return s.settle(c, s.Core.Discard) }

func (s *Server) settle(c *call, how func(context.Context, event.ID, string, string) (event.Record, error)) error {
	var in api.Settle
	if err := c.decode(&in, false); err != nil {
		return err
	}
	if err := c.checkReason(in.Reason, true); err != nil {
		return err
	}
	rec, err := s.event(c)
	if err != nil {
		return err
	}
	c.target(&rec)
	if rec, err = how(c.r.Context(), rec.ID, c.who.name, in.Reason); err != nil {
		return s.notFound(err)
	}
	return c.answer(http.StatusOK, s.show(&rec))
}
