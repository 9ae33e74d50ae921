package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/config/internal/shape"
	"github.com/hooktender/hooktender/proxy"
)

// fault is one error of a room's Check: a key, relative to its block, and what is wrong with it.
type fault struct{ key, message string }

var keyPrefix = regexp.MustCompile(`^([a-z_]+(?:\[[0-9]+\])?(?:\.[a-z_]+)*): `)

// faults takes a joined error apart.
func faults(err error) []fault {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []fault
		for _, e := range many.Unwrap() {
			out = append(out, faults(e)...)
		}
		return out
	}
	text := err.Error()
	if m := keyPrefix.FindStringSubmatch(text); m != nil {
		return []fault{{m[1], text[len(m[0]):]}}
	}
	return []fault{{"", text}}
}

// room reports what a room's Check says about the block at key.
func (d *decoder) room(key string, err error) {
	for _, f := range faults(err) {
		at := key
		if f.key != "" {
			at = join(key, f.key)
		}
		d.fail(at, "", "%s", f.message)
	}
}

// check reports what is wrong with a file whose values are well-formed one by one.
func (d *decoder) check(c *Config) {
	d.checkTop(c)
	d.checkDoor(c)
	d.checkAdmin(c)
	d.room("journal", c.Journal.Check())
	d.room("dedup", c.Dedup.Check())
	d.room("retention", c.Retention.Check())
	if c.Journal.Sync == "none" {
		d.warn("journal.sync", "a power cut may lose events that were answered 2xx")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Upstreams)) {
		if u := c.Upstreams[name]; d.has("upstreams." + name) {
			d.room("upstreams."+name, u.Check())
		}
	}
	d.checkPaths(c)
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		d.checkSource(c, c.Sources[name])
	}
}

func (d *decoder) checkTop(c *Config) {
	switch {
	case !d.has("version"):
		d.fail("version", "begin the file with version: 1", "is missing")
	case c.Version != 1:
		d.fail("version", "", "must be 1")
	}
	if _, err := hostOf(c.Listen); err != nil {
		d.fail("listen", "", "%s", err)
	}
	if c.DataDir == "" {
		d.fail("data_dir", "", "must not be empty")
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
			strings.ContainsAny(c.PublicURL, "?#") {
			d.fail("public_url", "", "must be a URL such as https://hooks.example.com, without query or fragment")
		}
	}
	if len(c.Sources) == 0 && !d.anyFault("sources") {
		d.fail("sources", "", "is missing: there is nothing to receive")
	}
}

// checkDoor is about the public port.
func (d *decoder) checkDoor(c *Config) {
	d.room("tls", c.TLS.Check())
	d.room("limits", c.Limits.Check())
	prefixes, err := proxy.ParsePrefixes(c.TrustedProxies)
	if err != nil {
		d.fail("trusted_proxies", "", "%s", err)
	}
	for _, p := range prefixes {
		if p.Bits() == 0 {
			d.warn("trusted_proxies", "everyone is a trusted proxy: any client may claim any address")
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		d.fail("proxy_protocol", "name the proxies under trusted_proxies", "is on, but no proxy is trusted")
	}
}

// hostOf gives the host of host:port.
func hostOf(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("must be host:port or :port")
	}
	if n, err := shape.ParseInt(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("the port must be a number from 0 to 65535")
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !hostName.MatchString(host) {
		return "", fmt.Errorf("the host is no address and no name")
	}
	return host, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$`)

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

const minToken = 16

func (d *decoder) checkAdmin(c *Config) {
	a := &c.Admin
	host, err := hostOf(a.Listen)
	switch {
	case err != nil:
		d.fail("admin.listen", "", "%s", err)
	case a.Listen == c.Listen && !strings.HasSuffix(a.Listen, ":0"):
		d.fail("admin.listen", "", "is the address of the public port")
	case len(a.Tokens) > 0 || d.faulty["admin.tokens"]:
	case loopback(host):
		d.warn("admin", "the admin port has no tokens: everyone on this host may use it")
	default:
		d.fail("admin.listen", "add admin.tokens, or listen on 127.0.0.1", "is no loopback address, and there are no tokens")
	}
	first := map[string]int{}
	for i, t := range a.Tokens {
		key := fmt.Sprintf("admin.tokens[%d]", i)
		switch before, twice := first[t.Name]; {
		case !tokenName.MatchString(t.Name):
			d.fail(key+".name", "", "must be 1 to 64 letters, digits, dots, - or _")
		case twice:
			d.fail(key+".name", "", "is the name of admin.tokens[%d], too", before)
		default:
			first[t.Name] = i
		}
		if !d.has(key + ".token") {
			d.fail(key+".token", "", "is missing")
		} else if n := len(t.Token.Bytes()); n < minToken && n > 0 {
			d.fail(key+".token", "", "must be at least %d bytes", minToken)
		}
		if len(t.Scopes) == 0 {
			d.fail(key+".scopes", "", "is missing: the token would allow nothing")
		}
	}
	d.checkSameToken(a.Tokens)
}

// checkSameToken refuses one token under two names: the audit log could not tell who called.
func (d *decoder) checkSameToken(tokens []Token) {
	first := map[string]int{}
	for i, t := range tokens {
		text := string(t.Token.Bytes())
		if before, twice := first[text]; twice && text != "" {
			d.fail(fmt.Sprintf("admin.tokens[%d].token", i), "", "is the same as that of admin.tokens[%d]", before)
		} else {
			first[text] = i
		}
	}
}

var tokenName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
