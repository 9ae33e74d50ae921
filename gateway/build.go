package gateway

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// apply brings a configuration into effect: deliveries first, then the table of sources, swapped whole.
func (g *Gateway) apply(cfg *config.Config) error {
	names := make([]string, 0, len(cfg.Sources))
	for name := range cfg.Sources {
		names = append(names, name)
	}
	sort.Strings(names)
	rc := recovery.Config{Upstreams: cfg.Upstreams}
	sources := make([]*proxy.Source, 0, len(names))
	for _, name := range names {
		s, sc, err := g.source(cfg, cfg.Sources[name])
		if err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
		sources, rc.Sources = append(sources, s), append(rc.Sources, sc)
	}
	door, err := g.door(cfg)
	if err != nil {
		return err
	}
	if err := g.recovery.Apply(rc); err != nil {
		return err
	}
	g.server.Configure(door)
	for _, s := range sources {
		s.Delivery = g.recovery.Source(s.Name)
	}
	g.pipeline.SetSources(sources)
	g.keys.Settle()
	return nil
}

// source compiles one source for the pipeline and for recovery.
func (g *Gateway) source(cfg *config.Config, c *config.Source) (*proxy.Source, recovery.SourceConfig, error) {
	identity, err := selector.CompileIdentity(c.Identity)
	if err != nil {
		return nil, recovery.SourceConfig{}, fmt.Errorf("identity: %w", err)
	}
	policy, err := ordering.NewPolicy(c.Ordering)
	if err != nil {
		return nil, recovery.SourceConfig{}, err
	}
	s := &proxy.Source{Name: c.Name, Path: c.Path, Provider: c.Provider, Methods: c.Methods, Identity: identity, Policy: policy, Limits: c.Limits,
		Dedup: c.Dedup, Respond: c.Respond, DeliveryConfig: c.Delivery, Observe: c.Verify.Mode == "observe", JoinedID: len(c.Identity.ID) > 1}
	sc := recovery.SourceConfig{Name: c.Name, Path: c.Path, Provider: c.Provider, Delivery: c.Delivery, Ordering: c.Ordering,
		Pending: c.Limits.Pending, Held: c.Limits.Held, Resources: c.Limits.Resources, JoinedID: s.JoinedID}
	if c.Provider != "none" {
		v, err := g.verifier(cfg, c)
		if err != nil {
			return nil, sc, fmt.Errorf("verify: %w", err)
		}
		s.Verifier, s.MACKey, s.TypedMAC = v, c.Preset.NeedsReplayKey(v, identity.ID()), c.Preset.TypedReplayKey
		sc.Binds, sc.Tolerance = string(v.Binds()), v.ResignAfter()
		sc.Resign = resigner(v)
	}
	presetAnswers(s, &c.Preset)
	if err := g.challenges(s, cfg, c); err != nil {
		return nil, sc, err
	}
	g.watch(s)
	return s, sc, s.Ready()
}

// verifier compiles how a source's requests are judged: with its secrets, or with the one that its sender delivered. Without any, and
// where nobody has said how the sender signs, every request is refused.
func (g *Gateway) verifier(cfg *config.Config, c *config.Source) (*verify.Verifier, error) {
	secrets := c.Secrets
	if c.Preset.Enrolls() && len(secrets) == 0 {
		secret, has, err := g.enrolled.Secret(c.Name)
		if err != nil {
			return nil, err
		}
		if !has {
			return verify.Closed(), nil
		}
		secrets = []verify.Secret{secret}
	}
	if c.Verify.Scheme == "" && len(c.Verify.All)+len(c.Verify.Any) == 0 {
		return verify.Closed(), nil
	}
	return verify.Compile(c.Verify, secrets, verify.Options{PublicURL: cfg.PublicURL, PublicKeys: c.PublicKeys, Keys: g.keys.Sources(c.Name, c.Preset, c.Params()), Params: c.Params()})
}

// Enroll opens the window in which a source takes the secret that its sender delivers.
func (g *Gateway) Enroll(source string, d time.Duration) (until time.Time, err error) {
	g.mu.Lock()
	c := g.cfg.Sources[source]
	g.mu.Unlock()
	switch {
	case c == nil:
		return time.Time{}, recovery.ErrUnknownSource
	case !c.Preset.Enrolls():
		return time.Time{}, provider.ErrNoEnrolment
	case len(c.Secrets) > 0:
		return time.Time{}, provider.ErrEnrolled
	}
	if until, err = g.enrolled.Open(source, d, time.Now()); err == nil {
		g.log.Warn("enrolment window opened", "source", source, "until", until.UTC().Format(time.RFC3339))
	}
	return until, err
}

// take keeps a secret that came with a request, if it was waited for, and lets the source verify with it from the next request on.
// Of those that nobody waited for, which anybody can send, it writes few lines to the log.
func (g *Gateway) take(c *config.Source, secret verify.Secret, untaken *event.Lines) bool {
	if len(c.Secrets) > 0 {
		return false
	}
	if err := g.enrolled.Take(c.Name, secret, time.Now()); err != nil {
		if left, ok := untaken.Take(time.Now()); ok {
			g.log.Warn("a secret was delivered and not taken", "source", c.Name, "why", err, "left_out", left)
		}
		return false
	}
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.mu.Lock()
	cfg := g.cfg
	g.mu.Unlock()
	if err := g.apply(cfg); err != nil {
		g.log.Error("the secret is kept, but takes effect with the next start only", "source", c.Name, "error", err)
	}
	g.log.Warn("a sender delivered its secret", "source", c.Name, "file", g.enrolled.Path(c.Name))
	return true
}

// challenges lets the source answer its sender's challenge, where the preset knows one.
func (g *Gateway) challenges(s *proxy.Source, cfg *config.Config, c *config.Source) error {
	var untaken event.Lines
	h, err := provider.NewHandshake(c.Preset, provider.HandshakeOptions{Verifier: s.Verifier, Secrets: c.Secrets, Config: c.Handshake, PublicURL: cfg.PublicURL,
		Enroll: func(secret verify.Secret) bool { return g.take(c, secret, &untaken) }, Visit: g.opts.Visit})
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if h == nil {
		return nil
	}
	s.HandshakeMethods = h.Methods()
	s.Handshake = func(req *event.Request, now time.Time) (*proxy.HandshakeAnswer, bool) {
		a, ok := h.Answer(req, now)
		if !ok {
			return nil, false
		}
		if a.Notice != "" {
			g.log.Warn("handshake", "source", s.Name, "notice", a.Notice)
		}
		return &proxy.HandshakeAnswer{Status: a.Status, Head: a.Head, Body: a.Body}, true
	}
	return nil
}

// presetAnswers is what the sender's preset wants to be answered, in place of the usual.
func presetAnswers(s *proxy.Source, p *provider.Preset) {
	own := func(a provider.Answer) proxy.OwnAnswer {
		return proxy.OwnAnswer{Status: a.Status, ContentType: a.ContentType, Body: a.Body}
	}
	r := &p.Responses
	s.Own = proxy.OwnAnswers{Accepted: own(r.Success), Duplicate: own(r.Duplicate), Stale: own(r.Stale), Held: own(r.Success), Rejected: own(r.Rejected), Forbid410: p.Forbid410, Echo: p.Echo}
}

// resigner signs a stored request anew.
func resigner(v *verify.Verifier) func(event.Head, *event.Payload, time.Time) (event.Head, bool) {
	return func(head event.Head, p *event.Payload, now time.Time) (event.Head, bool) {
		return v.Resign(&event.Request{Method: p.Method, Target: p.Target, Host: p.Host, Head: head, Body: p.Body, TLS: p.TLS}, now)
	}
}

// faults takes a configuration's error apart, so that the API can tell its faults one by one.
func faults(err error) error {
	var list *config.Errors
	if !errors.As(err, &list) {
		return err
	}
	each := make([]error, len(list.Problems))
	for i, p := range list.Problems {
		each[i] = errors.New(p.String())
	}
	return errors.Join(each...)
}

// Reload reads the configuration again and brings it into effect, whole or not at all. It says what changed; what waits for a
// restart, from this reload or an earlier one, is logged. An invalid file keeps the old configuration.
func (g *Gateway) Reload(context.Context) ([]string, error) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	if g.opts.Load == nil {
		return nil, errors.New("this gateway has no configuration file to read again")
	}
	refuse := func(err error) ([]string, error) {
		g.metrics.Reloaded(false)
		g.log.Error("configuration not reloaded: the old one stays", "error", err)
		return nil, faults(err)
	}
	next, err := g.opts.Load()
	if err != nil {
		return refuse(err)
	}
	g.mu.Lock()
	old := g.cfg
	g.mu.Unlock()
	changed, _ := config.Changed(old, next)
	_, restart := config.Changed(g.started, next)
	if err := g.apply(next); err != nil {
		return refuse(errors.Join(err, g.apply(old)))
	}
	if err := g.admin.SetTokens(tokens(next)); err != nil {
		return refuse(errors.Join(fmt.Errorf("%w, and it is one until the restart", err), g.apply(old)))
	}
	g.engine.SetRetention(next.Retention)
	g.index.Reconfigure(next.Dedup, next.Retention.Dedup)
	g.admin.SetDebug(next.Admin.Debug)
	g.admin.SetHide(hidden(next))
	g.mu.Lock()
	g.cfg = next
	g.mu.Unlock()
	g.metrics.Reloaded(true)
	if len(restart) > 0 {
		g.log.Warn("these changes need a restart", "keys", restart)
	}
	for _, w := range next.Warnings {
		g.log.Warn("configuration", "warning", w.String())
	}
	g.log.Info("configuration reloaded", "changed", changed)
	return changed, nil
}
