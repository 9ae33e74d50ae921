package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/recovery"
)

// reply is what a sender is told, before it is bytes.
type reply struct {
	status     int
	outcome    string
	id         event.ID
	head       event.Head // the upstream's, or a handshake's
	body       []byte
	own        *OwnAnswer // what the preset wants as body
	upstream   bool       // head and body are the upstream's answer
	conflict   bool
	allow      string
	retryAfter time.Duration
	handshake  *HandshakeAnswer
}

// kept is a reply that outlives its request, for the duplicates that waited for it.
type kept struct {
	reply reply
	sum   [32]byte
}

func (r reply) as(outcome string) reply {
	r.outcome = outcome
	return r
}

// differs says that the reply is to a body that is not the known event's: it tells nothing to whoever came with it, whose body may be that.
func (r *reply) differs() bool {
	return r.outcome == "conflict" || r.outcome == "duplicate" && r.conflict
}

// keep copies what the reply borrows.
func (r reply) keep(rec *event.Record) *kept {
	k := &kept{reply: r, sum: rec.BodySHA256}
	k.reply.head = append(event.Head(nil), r.head...)
	k.reply.body = append([]byte(nil), r.body...)
	return k
}

// unavailable is our own fault, or a bound reached: 503, and when to come again (0 = 5 s).
func unavailable(after time.Duration) reply {
	if after <= 0 {
		after = 5 * time.Second
	}
	return reply{status: http.StatusServiceUnavailable, outcome: "unavailable", retryAfter: after}
}

// reply is what the sender is told of an event that went through.
func (s *Source) reply(h *recovery.Handled) reply {
	r := reply{outcome: string(h.Outcome), id: h.Fate.ID}
	switch h.Outcome {
	case recovery.Accepted:
		r.status, r.own = s.statuses.Accepted, &s.Own.Accepted
	case recovery.Held, recovery.Quarantined:
		r.status, r.own = s.statuses.Held, &s.Own.Held
	case recovery.Stale:
		r.status, r.own = s.statuses.Stale, &s.Own.Stale
	default:
		s.fromUpstream(&r, h)
	}
	return r
}

// fromUpstream passes the upstream's answer on; without a complete one it is a 502 or 504.
func (s *Source) fromUpstream(r *reply, h *recovery.Handled) {
	switch res := h.Result; {
	case res == nil:
		r.status = http.StatusBadGateway
	case res.Status == 0 || res.Outcome == event.OutcomeUnknown || res.Outcome == event.OutcomeNotSent:
		r.status = http.StatusBadGateway
		if res.ErrKind == "timeout" {
			r.status = http.StatusGatewayTimeout
		}
	default:
		r.status, r.head, r.body, r.upstream = res.Status, res.Head, res.Body, true
		if r.status == http.StatusGone && s.Own.Forbid410 {
			r.status = http.StatusBadRequest
		}
	}
}

// titles are what errors of the pipeline say (RFC 9457): the same for every request, with nothing that helps a forger.
var titles = map[int]string{
	400: "bad request", 401: "signature verification failed", 403: "address not allowed", 404: "no such path", 405: "method not allowed", 409: "same id, other body",
	422: "event id, resource or version is missing or ambiguous", 429: "too many requests", 500: "internal error", 502: "the upstream gave no complete answer",
	503: "temporarily unavailable", 504: "the upstream did not answer in time",
}

// problem is the body of an error.
func problem(status int) []byte {
	title, ok := titles[status]
	if !ok {
		title = "refused"
	}
	return []byte(`{"type":"about:blank","title":"` + title + `","status":` + strconv.Itoa(status) + "}\n")
}

// answer turns the reply into what the server writes.
func (p *Pipeline) answer(v *visit, r reply, a *Answer) {
	if r.handshake != nil {
		a.Status, a.Head, a.Body = r.handshake.Status, append(a.Head[:0], r.handshake.Head...), r.handshake.Body
		r.outcome = "handshake"
	} else {
		p.write(v, &r, a)
	}
	switch {
	case v.src == nil && p.nowhere != nil:
		p.nowhere()
	case v.src != nil && v.src.OnAnswer != nil:
		v.src.OnAnswer(counted(&r), time.Since(v.began))
	}
}

// counted is the outcome as metrics show it: answers without a Hooktender-Outcome are named after their status.
func counted(r *reply) string {
	switch {
	case r.outcome != "":
		return r.outcome
	case r.status == http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case r.status == http.StatusTooManyRequests:
		return "rate_limited"
	}
	return "other"
}

func (p *Pipeline) write(v *visit, r *reply, a *Answer) {
	a.Status = r.status
	h := append(a.Head[:0], r.head...)
	if !r.id.IsZero() {
		h = append(r.id.AppendText(append(h, "Hooktender-Id: "...)), "\r\n"...)
	}
	if id := v.sub.Record.EventID; id != "" {
		if !v.src.JoinedID {
			id = event.EscapeID(id)
		}
		h = h.AppendString("Hooktender-Event-Id", id)
	}
	if v.src != nil && v.src.Own.Echo != "" && v.sub.Record.Verified {
		if value, n := v.req.Head.Get(v.src.Own.Echo); n == 1 {
			if _, there := h.Get(v.src.Own.Echo); there == 0 {
				h = h.Append(v.src.Own.Echo, value)
			}
		}
	}
	if r.outcome != "" {
		h = h.AppendString("Hooktender-Outcome", r.outcome)
	}
	if r.conflict {
		h = h.AppendString("Hooktender-Conflict", "body")
	}
	if r.allow != "" {
		h = h.AppendString("Allow", r.allow)
	}
	if r.retryAfter > 0 {
		h = h.AppendString("Retry-After", strconv.FormatInt(int64((r.retryAfter+time.Second-1)/time.Second), 10))
	}
	switch {
	case r.upstream:
		a.Body = r.body
	case r.status >= 400:
		h = h.AppendString("Content-Type", "application/problem+json")
		a.Body = problem(r.status)
	case r.own != nil && r.own.Body != "":
		h = h.AppendString("Content-Type", r.own.ContentType)
		a.Body = []byte(r.own.Body)
	default:
		a.Body = nil
	}
	a.Head = h
}
