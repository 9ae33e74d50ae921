package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hooktender/hooktender/admin/api"
)

// audit is what the audit line of a mutation says besides actor and action.
type audit struct {
	target  string
	reason  string
	outcome string // "" = by status
}

// mutate answers a POST: admission, content type, body, idempotency key, handler, and one audit line whatever came of it. Of calls that
// nobody is known to have made, which anybody can send, there are few lines.
func (s *Server) mutate(t *route, c *call) {
	c.audit.target = strings.Join(c.args, "/")
	rec := &recorder{ResponseWriter: c.w}
	c.w = rec
	err := s.perform(t, c)
	if err != nil {
		s.asProblem(err).write(rec)
	}
	actor, more := c.who.name, []any(nil)
	if actor == "" {
		left, ok := s.strangers.Take(now())
		if !ok {
			return
		}
		actor, more = "unknown", []any{"left_out", left}
	}
	s.Log.Info("audit", append([]any{"actor", actor, "action", t.action, "target", c.audit.target, "reason", c.audit.reason,
		"outcome", outcome(c.audit.outcome, rec.status), "status", rec.status, "peer", peer(c.r)}, more...)...)
}

func outcome(said string, status int) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusTooManyRequests:
		return "denied"
	case status >= 500:
		return "failed"
	case status >= 400:
		return "refused"
	case said != "":
		return said
	}
	return "done"
}

func (s *Server) perform(t *route, c *call) error {
	if err := s.admit(t, c); err != nil {
		return err
	}
	if !s.Health.Started() { // what waits is being read from the journal: what is changed meanwhile would be in the schedule twice, or not at all
		return fail(http.StatusServiceUnavailable, "starting").retry(time.Second)
	}
	if !isJSON(c.r) {
		return fail(http.StatusUnsupportedMediaType, "send Content-Type: application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return fail(http.StatusRequestEntityTooLarge, "the body is longer than 4 MiB")
	}
	if err != nil {
		return fail(http.StatusBadRequest, "the body could not be read")
	}
	c.body = body
	// All of the request is here; what it asks for may take its time (a replay first walks over all that it selects).
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(now().Add(mutationTimeout))
	return s.idem.once(t, c)
}

// decode reads the body of a mutation into v: exactly one JSON object without unknown members, each once. optional allows no body at all.
func (c *call) decode(v any, optional bool) error {
	body := bytes.TrimSpace(c.body)
	if len(body) == 0 && optional {
		return nil
	}
	if len(body) == 0 {
		return fail(http.StatusUnprocessableEntity, "a JSON object is needed as body")
	}
	if body[0] != '{' || !utf8.Valid(body) {
		return fail(http.StatusUnprocessableEntity, "the body is no JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fail(http.StatusUnprocessableEntity, "the body is malformed: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return fail(http.StatusUnprocessableEntity, "the body is more than one JSON object")
	}
	d = json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if name, ok := twice(d); ok {
		return fail(http.StatusUnprocessableEntity, fmt.Sprintf("the body has the member %q twice", name))
	}
	return nil
}

// twice finds a member that its object has twice, in any case, as decode takes them. d is before a value of valid JSON.
func twice(d *json.Decoder) (string, bool) {
	open, _ := d.Token()
	if open != json.Delim('{') && open != json.Delim('[') {
		return "", false
	}
	seen := map[string]bool{}
	for d.More() {
		if open == json.Delim('{') {
			t, _ := d.Token()
			name, _ := t.(string)
			folded := strings.ToLower(strings.ToUpper(name))
			if seen[folded] {
				return name, true
			}
			seen[folded] = true
		}
		if name, ok := twice(d); ok {
			return name, true
		}
	}
	_, _ = d.Token() // its end
	return "", false
}

// maxReason bounds a reason or a name, in bytes.
const maxReason = 1000

// checkReason checks what a person gave as a reason and notes it for the audit line.
func (c *call) checkReason(reason string, required bool) error {
	if required && strings.TrimSpace(reason) == "" {
		return fail(http.StatusUnprocessableEntity, "a reason is needed")
	}
	if len(reason) > maxReason {
		return fail(http.StatusUnprocessableEntity, "the reason is longer than 1000 bytes")
	}
	c.audit.reason = reason
	return nil
}

// because reads the body of a mutation that needs none: nothing, or why, for the audit line.
func (c *call) because() error {
	if _, err := c.query(); err != nil {
		return err
	}
	var in api.Because
	if err := c.decode(&in, true); err != nil {
		return err
	}
	return c.checkReason(in.Reason, false)
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
