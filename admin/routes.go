package admin

import (
	"context"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/admin/api"
)

// route is one row of the API. A segment "{name}" of its path matches any one segment, unescaped, which becomes an argument.
type route struct {
	method string
	path   []string
	scope  string // "" = any caller
	open   bool   // needs no token
	debug  bool   // there only while debugging is switched on
	action string // of the audit line; "" = no mutation
	handle func(*call) error
}

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	who   caller
	args  []string
	body  []byte                 // of a mutation
	as    func() (string, error) // the id of the replay that it starts; nil = any
	audit audit
}

// replayID is the id of the replay that the call starts; "" = any.
func (c *call) replayID() (string, error) {
	if c.as == nil {
		return "", nil
	}
	return c.as()
}

// table lists every route.
func (s *Server) table() []route {
	get := func(path, scope string, h func(*call) error) route {
		return route{method: http.MethodGet, path: split(path), scope: scope, handle: h}
	}
	post := func(path, scope, action string, h func(*call) error) route {
		return route{method: http.MethodPost, path: split(path), scope: scope, action: action, handle: h}
	}
	open := func(path string, h func(*call) error) route {
		return route{method: http.MethodGet, path: split(path), open: true, handle: h}
	}
	rows := []route{
		get("/v1/events", api.ScopeEventsRead, s.listEvents),
		get("/v1/events/{id}", api.ScopeEventsRead, s.getEvent),
		get("/v1/events/{id}/attempts", api.ScopeEventsRead, s.getAttempts),
		get("/v1/events/{id}/payload", api.ScopePayloadsRead, s.getPayload),
		post("/v1/events/{id}/replay", api.ScopeReplayWrite, "replay", s.replayEvent),
		post("/v1/events/{id}/resolve", api.ScopeReplayWrite, "resolve", s.resolveEvent),
		post("/v1/events/{id}/discard", api.ScopeReplayWrite, "discard", s.discardEvent),
		post("/v1/replays", api.ScopeReplayWrite, "start_replay", s.startReplay),
		get("/v1/replays", api.ScopeEventsRead, s.listReplays),
		get("/v1/replays/{id}", api.ScopeEventsRead, s.getReplay),
		post("/v1/replays/{id}/cancel", api.ScopeReplayWrite, "cancel_replay", s.cancelReplay),
		get("/v1/checkpoints", api.ScopeEventsRead, s.listCheckpoints),
		get("/v1/resources/{source}/{resource}", api.ScopeEventsRead, s.getResource),
		post("/v1/resources/{source}/{resource}/cursor", api.ScopeAdmin, "set_cursor", s.setCursor),
		get("/v1/sources", api.ScopeEventsRead, s.listSources),
		post("/v1/sources/{name}/pause", api.ScopeAdmin, "pause", s.pauseSource),
		post("/v1/sources/{name}/resume", api.ScopeAdmin, "resume", s.resumeSource),
		post("/v1/sources/{name}/enroll", api.ScopeAdmin, "enroll", s.enrollSource),
		get("/v1/upstreams", api.ScopeEventsRead, s.listUpstreams),
		get("/v1/stream", api.ScopeEventsRead, s.stream),
		get("/v1/whoami", "", s.whoami),
		post("/v1/config/reload", api.ScopeAdmin, "reload", s.reload),
		post("/v1/drain", api.ScopeAdmin, "drain", s.drain),
		open("/v1/openapi.json", s.openAPI),
		open("/livez", s.livez),
		open("/startupz", s.startupz),
		open("/readyz", s.readyz),
	}
	if s.Metrics != nil {
		rows = append(rows, open("/metrics", s.metrics))
	}
	return append(rows, debugRoutes()...)
}

// split cuts a path into its segments; a trailing slash is an empty last segment.
func split(path string) []string { return strings.Split(strings.TrimPrefix(path, "/"), "/") }

// match gives the unescaped arguments of a path.
func (t *route) match(segments []string) (args []string, ok bool) {
	if len(segments) != len(t.path) {
		return nil, false
	}
	for i, want := range t.path {
		if !strings.HasPrefix(want, "{") {
			if segments[i] != want {
				return nil, false
			}
			continue
		}
		arg, err := url.PathUnescape(segments[i])
		if err != nil || arg == "" {
			return nil, false
		}
		args = append(args, arg)
	}
	return args, true
}

// find gives the route of a request, or a 404 or 405.
func (s *Server) find(r *http.Request) (*route, []string, *problem) {
	segments := split(r.URL.EscapedPath())
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allow []string
	for i := range s.routes {
		args, ok := s.routes[i].match(segments)
		if !ok || s.routes[i].debug && !s.debug.Load() {
			continue
		}
		if s.routes[i].method == method {
			return &s.routes[i], args, nil
		}
		if allow = append(allow, s.routes[i].method); s.routes[i].method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if allow == nil {
		return nil, nil, fail(http.StatusNotFound, api.NoPath+"; the API is described at /v1/openapi.json")
	}
	slices.Sort(allow)
	p := fail(http.StatusMethodNotAllowed, "")
	p.allow = strings.Join(allow, ", ")
	return nil, nil, p
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.Log.Error("admin call panicked", "panic", v, "stack", string(debug.Stack()))
			fail(http.StatusInternalServerError, "").write(w)
		}
	}()
	if !s.hostAllowed(r) {
		fail(http.StatusForbidden, "this host name is not served here: call it by its address, as localhost, or as admin.listen names it").write(w)
		return
	}
	if crossOrigin(r) {
		fail(http.StatusForbidden, "cross-origin requests are not served").write(w)
		return
	}
	t, args, p := s.find(r)
	if p != nil {
		p.write(w)
		return
	}
	c := &call{w: w, r: r, args: args}
	if t.action != "" {
		s.mutate(t, c)
		return
	}
	if err := s.admit(t, c); err != nil {
		s.asProblem(err).write(w)
		return
	}
	if err := t.handle(c); err != nil {
		s.asProblem(err).write(w)
	}
}

// admit finds out who calls and whether they may.
func (s *Server) admit(t *route, c *call) error {
	if t.open {
		return nil
	}
	who, p := s.authenticate(c.r)
	if p != nil {
		return p
	}
	c.who = who
	if t.scope != "" && !who.may(t.scope) {
		return fail(http.StatusForbidden, "the token lacks the scope "+t.scope)
	}
	return nil
}

// listing is the context of a call that walks over the index.
func (c *call) listing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.r.Context(), listTimeout)
}

// answer writes v as JSON.
//
//go:noinline // many callers, none in a hurry
func (c *call) answer(status int, v any) error { return answer(c.w, status, v) }

func answer(w http.ResponseWriter, status int, v any) error {
	body, err := api.Encode(v)
	if err != nil {
		return err
	}
	send(w, status, "application/json", body)
	return nil
}

// Routes lists what is served, as "METHOD /path"; a segment that varies is {name}.
func (s *Server) Routes() []string {
	var out []string
	for i := range s.routes {
		out = append(out, s.routes[i].method+" /"+strings.Join(s.routes[i].path, "/"))
	}
	return out
}
