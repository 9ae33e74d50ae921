package admin

import (
	"encoding/hex"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/recovery"
)

// show is a record as people and programs see it (SPEC §7).
func (s *Server) show(rec *event.Record) api.Event {
	s.Core.View(rec)
	e := api.Event{
		ID: rec.ID.String(), EventID: api.Text(rec.EventID), Source: rec.Source, Type: api.Text(rec.Type), Resource: api.Text(rec.Resource),
		Version: api.Text(rec.Version), State: rec.State.String(), Reason: api.Text(rec.Reason.String()),
		ReceivedAt: api.Time{Time: rec.ReceivedAt}, OccurredAt: api.Time{Time: rec.OccurredAt}, DeliveredAt: api.Time{Time: rec.DeliveredAt},
		AttemptCount: rec.Attempts, LastAttemptAt: api.Time{Time: rec.LastAttemptAt}, LastStatusCode: api.Number(rec.LastStatus),
		LastError: showError(rec.LastErrKind, rec.LastErrText), Duplicates: rec.Duplicates, Conflicts: rec.Conflicts, BodyBytes: rec.BodyBytes,
		BodySHA256: hex.EncodeToString(rec.BodySHA256[:]), ReplayID: api.Text(rec.ReplayID), SafeToRetry: showSafe(s.Core.SafeToRetry(rec)),
	}
	if rec.State == event.Pending && rec.Reason != event.Held {
		e.NextRetryAt = api.Time{Time: rec.NextAt}
	}
	if r := rec.Resolution; r != nil {
		e.Resolution = &api.Resolution{By: r.By, At: api.Time{Time: r.At}, Reason: r.Reason}
	}
	return e
}

func showError(kind, text string) *api.Error {
	if kind == "" {
		return nil
	}
	return &api.Error{Kind: kind, Message: text}
}

func showSafe(v recovery.SafeToRetry) api.SafeToRetry {
	return api.SafeToRetry{Verdict: v.Verdict, Reason: v.Reason, Needs: api.Text(v.Needs)}
}

func showAttempt(a *event.Attempt) api.Attempt {
	out := api.Attempt{N: a.N, Trigger: a.Trigger.String(), StartedAt: api.Time{Time: a.StartedAt}, Outcome: api.Text(a.Outcome.String()),
		StatusCode: api.Number(a.Status), Error: showError(a.ErrKind, a.ErrText), Upstream: a.Upstream}
	if a.Outcome != event.OutcomeNone {
		ms := a.Duration.Milliseconds()
		out.DurationMS = &ms
	}
	if a.Status != 0 || len(a.Excerpt) > 0 {
		text := excerpt(a.Excerpt)
		out.ResponseExcerpt = &text
	}
	return out
}

// excerpt replaces what is no UTF-8. A character that the bound of the excerpt has cut in two is left out.
func excerpt(b []byte) string {
	if len(b) >= event.MaxExcerpt {
		for i := len(b) - 1; i >= len(b)-utf8.UTFMax; i-- {
			if utf8.RuneStart(b[i]) {
				if !utf8.FullRune(b[i:]) {
					b = b[:i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

// ShowPayload is a payload as people see it: without the values of headers, and of parameters of the query, that hide names; it is asked for those as "?name".
func ShowPayload(p *event.Payload, hide func(name string) bool) api.Payload {
	out := api.Payload{Method: p.Method, Path: event.RedactQuery(string(p.Target), hide), Headers: [][2]string{}, BodyBase64: append([]byte{}, p.Body...)}
	for name, value := range p.Head.All() {
		if hide(string(name)) {
			value = []byte(event.Redacted)
		}
		out.Headers = append(out.Headers, [2]string{string(name), string(value)})
	}
	kind, _ := p.Head.Get("Content-Type")
	out.ContentType = api.Text(kind)
	return out
}

func showReplay(r *recovery.Replay) api.Replay {
	out := api.Replay{ID: r.ID, Name: api.Text(r.Name), State: r.State, DryRun: r.DryRun, CreatedAt: api.Time{Time: r.CreatedAt},
		FinishedAt: api.Time{Time: r.FinishedAt}, Actor: r.Actor, Reason: api.Text(r.Reason), Total: r.Total, Sent: r.Sent, Replayed: r.Replayed,
		Failed: r.Failed, Skipped: api.SkippedCount{Total: r.Skipped}, Skips: []api.Skip{}}
	for _, s := range r.Skips {
		out.Skips = append(out.Skips, api.Skip{ID: api.Text(s.ID), EventID: api.Text(s.EventID), Why: s.Why})
	}
	if r.DryRun {
		n := r.WouldReplay
		out.WouldReplay = &n
		out.Skipped.By = map[string]int64{}
		maps.Copy(out.Skipped.By, r.SkippedBy)
	}
	return out
}

func showSource(s *recovery.SourceStatus) api.Source {
	out := api.Source{Name: s.Name, Path: s.Path, Provider: s.Provider, Mode: s.Mode, Paused: s.Paused, Counts: map[string]int64{},
		OldestPendingAt: api.Time{Time: s.OldestPendingAt}}
	for _, state := range event.States {
		out.Counts[state.String()] = s.Counts[state]
	}
	return out
}

func showUpstream(u *recovery.UpstreamStatus) api.Upstream {
	return api.Upstream{Name: u.Name, URL: u.URL, Breaker: u.Breaker, InFlight: u.InFlight, ConsecutiveFailures: u.ConsecutiveFailures,
		NextProbeAt: api.Time{Time: u.NextProbeAt}}
}

func showResource(r *recovery.ResourceStatus) api.Resource {
	out := api.Resource{Source: r.State.Source, Resource: r.State.Resource, Version: api.Text(r.State.Version), EventID: api.Text(r.State.EventID),
		UpdatedAt: api.Time{Time: r.State.UpdatedAt}, Held: []api.Held{}, Missing: append([]string{}, r.Missing...), Pending: []string{}}
	for _, h := range r.Held {
		out.Held = append(out.Held, api.Held{ID: h.ID.String(), EventID: api.Text(h.EventID), Version: api.Text(h.Version), ReleaseAt: api.Time{Time: h.ReleaseAt}})
	}
	for _, id := range r.Pending {
		out.Pending = append(out.Pending, id.String())
	}
	return out
}
