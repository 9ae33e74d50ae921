// Package config reads the configuration file: YAML, strict, every fault at once with its place. It composes the Config structs
// of the rooms, in which each field is declared, documented and checked; what concerns several rooms at once is checked here.
//
// config.example.yaml and docs/hooktender.schema.json are generated from those structs.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// Config is a whole file, resolved: secrets are read, ${env:…} is expanded, every upstream has a name, presets are merged. It is
// not changed after Load and may be read from many goroutines.
type Config struct {
	// Version of this format: 1.
	Version int `yaml:"version" example:"1"`
	// Address of the public port.
	Listen string `yaml:"listen"`
	// TLS on the public port, where no proxy in front speaks it.
	TLS proxy.TLSConfig `yaml:"tls"`
	// Addresses and networks of the proxies in front. What they say about clients in X-Forwarded-For, -Proto and -Host is believed;
	// from everyone else it is dropped.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Connections of trusted proxies begin with a PROXY header, version 1 or 2.
	ProxyProtocol bool `yaml:"proxy_protocol"`
	// What all senders together may ask of the gateway.
	Limits proxy.GlobalLimits `yaml:"limits"`
	// The address under which senders reach this gateway, such as https://hooks.example.com. Needed by schemes that sign the URL.
	PublicURL string `yaml:"public_url"`
	// Directory of the embedded journal. A relative path starts at the working directory. Changing it needs a restart.
	DataDir string `yaml:"data_dir"`
	// The admin port: events, replays, metrics, health.
	Admin Admin `yaml:"admin"`
	// The embedded journal. Changing it needs a restart.
	Journal journal.Config `yaml:"journal"`
	// The cache in front of the journal.
	Dedup dedup.Config `yaml:"dedup"`
	// How long what is remembered.
	Retention journal.Retention `yaml:"retention"`
	// Consumers by name. A source may also give a URL in place of a name.
	Upstreams map[string]forward.Config `yaml:"upstreams"`
	// Senders by name: lower-case letters, digits, - and _.
	Sources map[string]*Source `yaml:"sources"`

	origins map[string]origin // where secrets came from, for Print

	// Warnings are about what is allowed but deserves attention; sorted by line.
	Warnings []Problem `yaml:"-"`
}

// Credential says whether a header, or a parameter of the query (asked for as "?name"), carries credentials, or a secret of a source as it is: where a payload is shown,
// its value is not.
func (c *Config) Credential(name string) bool {
	if event.Credential(name) {
		return true
	}
	for _, s := range c.Sources {
		if s.Verify.ShowsSecret(name, s.Params()) {
			return true
		}
	}
	return false
}

// Admin is the admin port.
type Admin struct {
	// Address of the admin port. Without tokens only a loopback address is allowed. Changing it needs a restart.
	Listen string `yaml:"listen"`
	// Serve /debug/pprof.
	Debug bool `yaml:"debug"`
	// Show the values of headers that carry credentials (Authorization, Cookie …) where payloads are read; otherwise [redacted] stands in their place.
	ShowCredentials bool `yaml:"show_credentials"`
	// Who may call it. None: everyone on this host.
	Tokens []Token `yaml:"tokens"`
}

// Token is one bearer token of the admin port.
type Token struct {
	// Name of the holder, as it appears in the audit log.
	Name string `yaml:"name"`
	// The token, at least 16 bytes: {env: NAME} or {file: path}.
	Token verify.Secret `yaml:"token"`
	// What it allows.
	Scopes []string `yaml:"scopes" enum:"events:read,payloads:read,replay:write,replay:force,admin"`
}

// Source is one sender at its path.
type Source struct {
	// The path that the sender calls, exactly; {name} stands for one segment that path:name selects (never . or ..). Unique. Where several
	// fit, the one that writes a segment out comes before the one that names it.
	Path string `yaml:"path" example:"/webhooks/orders"`
	// Methods allowed; others get 405.
	Methods []string `yaml:"methods"`
	// A preset (see: hooktender providers), custom, or none (needs insecure: true).
	Provider string `yaml:"provider" example:"custom"`
	// Secrets shared with the sender: {env: NAME} or {file: path}. All are tried (rotation); the first signs. A relative path starts
	// at the directory of this file.
	Secrets []verify.Secret `yaml:"secrets"`
	// Public keys of asymmetric schemes, in the same forms.
	PublicKeys []string `yaml:"public_keys" form:"secret"`
	// What the preset's challenge needs: verify_token, verification_token, public_key_id, allowed_origins, topics … A text, a list of
	// texts, {env: NAME} or {file: path}.
	Handshake map[string][]string `yaml:"handshake" form:"handshake"`
	// Take requests that nothing verifies. Must be true for provider: none, and only there.
	Insecure bool `yaml:"insecure"`
	// How requests are verified: all of it for custom, else what differs from the preset.
	Verify verify.Spec `yaml:"verify"`
	// Where the event's identity is in a request: all of it for custom, else what differs from the preset. Each is a selector
	// (header:Name, query:name, form:name, json:a.b.0.c or json:/a/b, path:name, body:sha256) or a list of selectors.
	Identity selector.IdentitySpec `yaml:"identity"`
	// What a known event id means.
	Dedup dedup.SourceConfig `yaml:"dedup"`
	// In which order the events of one resource reach the upstream.
	Ordering ordering.Config `yaml:"ordering"`
	// How events reach the upstream.
	Delivery recovery.DeliveryConfig `yaml:"delivery"`
	// What the sender may ask of the gateway.
	Limits proxy.LimitsConfig `yaml:"limits"`
	// Status of the gateway's own answers; the preset's where this gives none.
	Respond proxy.RespondConfig `yaml:"respond"`
	// Short for delivery: {upstream: …}. Empty after Load, which moves it there.
	Short string `yaml:"upstream" short:"delivery.upstream"`

	// Name is the key under sources.
	Name string `yaml:"-"`
	// Preset is the row of the provider, custom and none included, before the file's changes to it.
	Preset provider.Preset `yaml:"-"`
}

// Default is what a file that gives only its version means.
func Default() *Config {
	return &Config{
		Listen: ":8080", DataDir: "./data",
		TLS: proxy.DefaultTLS(), Limits: proxy.DefaultGlobalLimits(),
		Admin:     Admin{Listen: "127.0.0.1:9090"},
		Journal:   journal.Default(),
		Dedup:     dedup.Default(),
		Retention: journal.DefaultRetention(),
	}
}

// Load reads the file at path. env looks up environment variables (os.LookupEnv). The error is *Errors.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, &Errors{Problems: []Problem{{File: path, Message: err.Error()}}, cause: err}
	}
	return Parse(path, data, env)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, fmt.Errorf("cannot be read: %w", pe.Err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if errors.As(err, &pe) {
		return nil, fmt.Errorf("cannot be read: %w", pe.Err)
	}
	return data, err
}

// Parse reads a file's bytes; name is its path, for messages and for files named relative to it. The error is *Errors.
func Parse(name string, data []byte, env func(string) (string, bool)) (*Config, error) {
	d := &decoder{file: name, env: env, doc: newDocument(data), places: map[string]place{}, faulty: map[string]bool{}, origins: map[string]origin{}, left: maxNodes}
	c := Default()
	if len(data) > maxFile {
		d.failAt("", nil, "", "is larger than 1MiB")
	} else if root := parseYAML(data, d.doc, d.syntax); root != nil {
		d.block("", root, reflect.ValueOf(c).Elem())
		if root.Kind == yaml.MappingNode {
			d.resolve(c)
			d.check(c)
		}
	}
	if len(d.problems) > 0 {
		return nil, &Errors{Problems: d.finish(d.problems)}
	}
	c.Warnings, c.origins = d.finish(d.warnings), d.origins
	return c, nil
}

func (d *decoder) syntax(line, column int, message string) {
	p := Problem{File: d.file, Line: line, Column: column, Message: message}
	if line > 0 && line <= len(d.doc.lines) && strings.Contains(d.doc.lines[line-1], "${") && strings.Contains(message, "did not find expected ','") {
		p.Hint = "inside of { } and [ ] put ${env:NAME} in quotes"
	}
	d.problems = append(d.problems, p)
}

// finish sorts problems, adds the offending lines and blots out every secret.
func (d *decoder) finish(ps []Problem) []Problem {
	pairs := make([]string, 0, 2*len(d.hidden))
	slices.SortFunc(d.hidden, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // a secret may be part of another
	for _, s := range d.hidden {
		pairs = append(pairs, s, "[secret]")
	}
	blot := strings.NewReplacer(pairs...).Replace
	for i := range ps {
		p := &ps[i]
		p.Source = blot(d.doc.show(p.Line))
		p.Key, p.Message, p.Hint = blot(p.Key), blot(p.Message), blot(p.Hint)
	}
	sortProblems(ps)
	return ps
}
