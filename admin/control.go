package admin

import (
	"context"
	_ "embed" // the API's description
	"net/http"
	"time"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/metrics"
	"github.com/hooktender/hooktender/packed"
)

func (s *Server) whoami(c *call) error {
	if _, err := c.query(); err != nil {
		return err
	}
	return c.answer(http.StatusOK, api.Whoami{Name: c.who.name, Scopes: append([]string{}, c.who.scopes...)})
}

func (s *Server) reload(c *call) error {
	if err := c.because(); err != nil {
		return err
	}
	changed, err := s.Control.Reload(context.WithoutCancel(c.r.Context()))
	if err != nil {
		p := fail(http.StatusUnprocessableEntity, "the configuration is invalid; the old one stays")
		p.Errors = messages(err)
		return p
	}
	return c.answer(http.StatusOK, api.Reloaded{Result: "reloaded", Changed: append([]string{}, changed...)})
}

// messages takes joined errors apart.
func messages(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, messages(e)...)
	}
	return out
}

func (s *Server) drain(c *call) error {
	if err := c.because(); err != nil {
		return err
	}
	s.Control.Drain()
	return c.answer(http.StatusAccepted, api.Draining{Result: "draining"})
}

func (s *Server) livez(c *call) error {
	return c.answer(http.StatusOK, api.Health{Status: "ok"})
}

func (s *Server) startupz(c *call) error {
	if !s.Health.Started() {
		return fail(http.StatusServiceUnavailable, "starting").retry(time.Second)
	}
	return c.answer(http.StatusOK, api.Health{Status: "started"})
}

func (s *Server) readyz(c *call) error {
	if ok, why := s.Health.Ready(); !ok {
		return fail(http.StatusServiceUnavailable, why).retry(time.Second)
	}
	return c.answer(http.StatusOK, api.Health{Status: "ready"})
}

// openAPI is openapi.json, packed.
//
//go:generate go run ../packed/internal/pack openapi.json
//go:embed openapi.json.gz
var openAPI []byte

func (s *Server) openAPI(c *call) error {
	send(c.w, http.StatusOK, "application/json", packed.Embedded(openAPI))
	return nil
}

func (s *Server) metrics(c *call) error {
	send(c.w, http.StatusOK, metrics.ContentType, s.Metrics(nil))
	return nil
}
