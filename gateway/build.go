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
	if err := g.recovery.Apply(rc); err != nil {
		return err
	}
	for _, s := range sources {
		s.Delivery = g.recovery.Source(s.Name)
	}
	g.pipeline.SetSources(sources)
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
		v, err := verify.Compile(c.Verify, c.Secrets, verify.Options{PublicURL: cfg.PublicURL, PublicKeys: c.PublicKeys, Keys: c.Preset.KeySource(c.Params()), Params: c.Params()})
		if err != nil {
			return nil, sc, fmt.Errorf("verify: %w", err)
		}
		s.Verifier, s.MACKey = v, c.Preset.NeedsReplayKey(v, identity.ID())
		sc.Binds, sc.Tolerance = string(v.Binds()), v.Tolerance()
		sc.Resign = resigner(v)
	}
	presetAnswers(s, &c.Preset)
	if err := g.challenges(s, cfg, c); err != nil {
		return nil, sc, err
	}
	g.watch(s)
	return s, sc, s.Ready()
}

// challenges lets the source answer its sender's challenge, where the preset knows one.
func (g *Gateway) challenges(s *proxy.Source, cfg *config.Config, c *config.Source) error {
	h, err := provider.NewHandshake(c.Preset, provider.HandshakeOptions{Verifier: s.Verifier, Secrets: c.Secrets, Config: c.Handshake, PublicURL: cfg.PublicURL})
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
	s.Own = proxy.OwnAnswers{Accepted: own(r.Success), Duplicate: own(r.Duplicate), Stale: own(r.Stale), Held: own(r.Success), Rejected: own(r.Rejected), Forbid410: p.Forbid410}
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

// Reload reads the configuration again and brings it into effect, whole or not at all. It says what changed; what needs a restart is
// logged. An invalid file keeps the old configuration.
func (g *Gateway) Reload(context.Context) ([]string, error) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	if g.opts.Load == nil {
		return nil, errors.New("this gateway has no configuration file to read again")
	}
	next, err := g.opts.Load()
	if err != nil {
		g.metrics.Reloaded(false)
		g.log.Error("configuration not reloaded: the old one stays", "error", err)
		return nil, faults(err)
	}
	g.mu.Lock()
	old := g.cfg
	g.mu.Unlock()
	changed, restart := config.Changed(old, next)
	if err := g.apply(next); err != nil {
		g.metrics.Reloaded(false)
		return nil, errors.Join(err, g.apply(old))
	}
	if err := g.admin.SetTokens(tokens(next)); err != nil {
		g.metrics.Reloaded(false)
		return nil, errors.Join(err, g.apply(old))
	}
	g.engine.SetRetention(next.Retention)
	g.index.Reconfigure(next.Dedup, next.Retention.Dedup)
	g.admin.SetDebug(next.Admin.Debug)
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
