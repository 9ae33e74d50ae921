package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
)

// providerNone is the provider of sources that nothing verifies.
const providerNone = "none"

// source reads one source over the defaults and the preset of its provider.
func (d *decoder) source(key string, n *yaml.Node) *Source {
	s := defaultSource()
	s.Name = strings.TrimPrefix(key, "sources.")
	if n = d.follow(n); n == nil || null(n) {
		return s
	}
	if n.Kind != yaml.MappingNode {
		d.failAt(key, n, "", "must be a mapping (key: value)")
		return s
	}
	entries := d.entries(key, n, 0)
	for _, e := range entries {
		if e.name == "provider" {
			d.preset(s, key, e.value)
		}
	}
	d.fill(key, entries, reflect.ValueOf(s).Elem())
	if d.has(key+".identity.version") && !d.has(key+".ordering.compare") {
		s.Ordering.Compare = ordering.Default().Compare // the preset's was for its own versions
	}
	return s
}

// defaultSource is what a source that gives only its path, provider and upstream means.
func defaultSource() *Source {
	s := &Source{
		Methods: []string{"POST"}, Dedup: dedup.DefaultSource(), Ordering: ordering.Default(),
		Delivery: recovery.DefaultDelivery(), Limits: proxy.DefaultLimits(),
	}
	s.Verify.Mode = "enforce"
	return s
}

// preset puts what the source's provider says under what the file says.
func (d *decoder) preset(s *Source, key string, n *yaml.Node) {
	if n = d.follow(n); n == nil || n.Kind != yaml.ScalarNode || null(n) {
		return // reported where the key is read
	}
	name, missing, err := expand(n.Value, d.env)
	if missing != "" || err != nil || name == "" {
		return
	}
	p, ok := provider.Get(name)
	if !ok {
		hint := "hooktender providers lists them; custom takes any scheme"
		if like := provider.Suggest(name); like != "" {
			hint = fmt.Sprintf("did you mean %q?", like)
		}
		d.doc.plain[n] = true
		d.failAt(key+".provider", n, hint, "unknown provider")
		return
	}
	s.Preset = p
	s.Verify, s.Identity = p.Verify.Clone(), p.Identity.Clone()
	if s.Verify.Mode == "" {
		s.Verify.Mode = "enforce"
	}
	if p.Dedup != "" {
		s.Dedup.Mode = p.Dedup
	}
	if p.Compare != "" {
		s.Ordering.Compare = p.Compare
	}
	s.Delivery.Deadline = deadline(p.Deadline)
	s.Respond = respond(p.Responses)
}

// respond is the usual status of every answer for which the preset has no wish.
func respond(wish provider.Responses) proxy.RespondConfig {
	usual := func(a provider.Answer, status int) int {
		if a.Status != 0 {
			return 0
		}
		return status
	}
	return proxy.RespondConfig{
		Accepted: usual(wish.Success, 202), Duplicate: usual(wish.Duplicate, 200), Stale: usual(wish.Stale, 200),
		Held: usual(wish.Success, 202), Rejected: usual(wish.Rejected, 401),
	}
}

// deadline is how long a sender may wait that gives up after limit: one second less, and never more than the default. Zero = unknown.
func deadline(limit time.Duration) time.Duration {
	usual := recovery.DefaultDelivery().Deadline
	switch {
	case limit <= 0:
		return usual
	case limit <= time.Second:
		return limit / 2
	}
	return min(usual, limit-time.Second)
}

// resolve gives every source the name of its upstream; URLs become upstreams of that name.
func (d *decoder) resolve(c *Config) {
	if c.Upstreams == nil {
		c.Upstreams = map[string]forward.Config{}
	}
	named := slices.Sorted(maps.Keys(c.Upstreams))
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		s := c.Sources[name]
		key := "sources." + name
		at := key + ".delivery.upstream"
		switch short := d.has(key + ".upstream"); {
		case short && d.has(at):
			d.fail(key+".upstream", "upstream is short for delivery.upstream: keep one", "is given beside delivery.upstream")
		case short:
			at = key + ".upstream"
			s.Delivery.Upstream = s.Short
		}
		s.Short = ""
		d.upstream(c, key, at, s.Delivery.Upstream, named)
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	for _, p := range []*string{&c.TLS.Cert, &c.TLS.Key, &c.TLS.ClientCA} {
		d.besideFile(p)
	}
	for name, u := range c.Upstreams {
		d.besideFile(&u.CAFile)
		c.Upstreams[name] = u
	}
}

// besideFile makes a relative path begin at the directory of the configuration file.
func (d *decoder) besideFile(path *string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(filepath.Dir(d.file), *path)
	}
}

// upstream looks up what stands at key in a source, or adds the upstream that its URL means.
func (d *decoder) upstream(c *Config, source, key, text string, named []string) {
	if _, ok := c.Upstreams[text]; ok || d.faulty[key] {
		return
	}
	switch {
	case text == "" && d.faulty[source+".delivery"], text != "" && d.faulty["upstreams"] && !strings.Contains(text, "://"):
		// What could not be read may have said it.
	case text == "":
		d.fail(source+".upstream", "give a URL or a name under upstreams", "is missing")
	case strings.Contains(text, "://"):
		u := forward.Default()
		u.URL = text
		for _, f := range faults(u.Check()) {
			d.fail(key, "", "%s", f.message)
		}
		c.Upstreams[text] = u
	default:
		hint := didYouMean(text, named)
		if hint == "" {
			hint = "give a URL that begins with http:// or https://, or a name under upstreams"
		}
		d.fail(key, hint, "is neither a URL nor a name under upstreams")
	}
}
