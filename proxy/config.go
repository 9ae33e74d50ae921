package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// LimitsConfig bounds what one source may ask of the gateway (SPEC §2, §11).
type LimitsConfig struct {
	// Largest body; a larger one is a 413.
	Body int64 `yaml:"body" unit:"bytes"`
	// Requests a second, with a burst of max(1, rate); beyond it 429. 0 = no limit.
	Rate float64 `yaml:"rate"`
	// Time within which a whole request must have come in; else 408.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// Addresses and networks that may send; empty = everyone. Others get 403.
	AllowIPs []string `yaml:"allow_ips"`
	// Events that may wait for delivery; beyond it 503.
	Pending int `yaml:"pending"`
	// Events that may be held by ordering; beyond it 503.
	Held int `yaml:"held"`
	// Resources with something waiting or under way; beyond it 503 for others.
	Resources int `yaml:"resources"`
}

// DefaultLimits are the limits of a source that gives none.
func DefaultLimits() LimitsConfig {
	return LimitsConfig{Body: 5 << 20, ReadTimeout: 10 * time.Second, Pending: 100_000, Held: 10_000, Resources: 1_000_000}
}

// MaxBody bounds limits.body, in bytes.
const MaxBody = 64 << 20

// Check joins all faults; the text of each begins with the name of the key.
func (c *LimitsConfig) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Body < 1 || c.Body > MaxBody {
		bad("body: must be between 1 byte and 64MiB")
	}
	if !(c.Rate >= 0 && c.Rate <= 1e6) {
		bad("rate: must be between 0 and 1000000")
	}
	if c.ReadTimeout < time.Millisecond || c.ReadTimeout > time.Hour {
		bad("read_timeout: must be between 1ms and 1h")
	}
	for _, f := range []struct {
		name string
		n    int
	}{{"pending", c.Pending}, {"held", c.Held}, {"resources", c.Resources}} {
		if f.n < 1 {
			bad("%s: must be at least 1", f.name)
		}
	}
	if _, err := c.Prefixes(); err != nil {
		bad("allow_ips: %w", err)
	}
	return errors.Join(errs...)
}

// Prefixes are AllowIPs, parsed.
func (c *LimitsConfig) Prefixes() ([]netip.Prefix, error) {
	return ParsePrefixes(c.AllowIPs)
}

// GlobalLimits bound what all senders together may ask of the gateway.
type GlobalLimits struct {
	// Connections at once. Beyond it waiting ones are closed, the longest waiting first, and new ones wait. Fewer where the process may
	// have few descriptors: a quarter of those is kept for the journal and the upstreams.
	Connections int `yaml:"connections"`
	// Connections of one address at once; beyond it 429. 0 = no limit. Trusted proxies are not counted.
	ConnectionsPerIP int `yaml:"connections_per_ip"`
	// Requests that are handled at once; beyond it 503. 0 = no limit.
	InFlight int `yaml:"in_flight"`
	// Bytes of request bodies in memory at once; beyond it 503. 0 = no limit.
	InFlightBytes int64 `yaml:"in_flight_bytes" unit:"bytes"`
}

// DefaultGlobalLimits are those of a configuration that gives none.
func DefaultGlobalLimits() GlobalLimits {
	return GlobalLimits{Connections: 16_384, InFlight: 2048, InFlightBytes: 256 << 20}
}

// Check joins all faults; the text of each begins with the name of the key.
func (c *GlobalLimits) Check() error {
	var errs []error
	if c.Connections < 1 || c.Connections > 1<<20 {
		errs = append(errs, errors.New("connections: must be between 1 and 1048576"))
	}
	if c.ConnectionsPerIP < 0 {
		errs = append(errs, errors.New("connections_per_ip: must not be negative"))
	}
	if c.InFlight < 0 {
		errs = append(errs, errors.New("in_flight: must not be negative"))
	}
	if c.InFlightBytes < 0 {
		errs = append(errs, errors.New("in_flight_bytes: must not be negative"))
	}
	return errors.Join(errs...)
}

// TLSConfig makes the public port speak TLS. All values are files in PEM form; a relative path starts at the directory of the
// configuration file. The files are looked at every few seconds: a renewed certificate serves new connections, and no connection is
// dropped for it.
type TLSConfig struct {
	// Certificate, and the intermediate ones after it. Empty = no TLS.
	Cert string `yaml:"cert"`
	// The certificate's private key.
	Key string `yaml:"key"`
	// Authorities of client certificates. With it, a client without a certificate of one of them is refused.
	ClientCA string `yaml:"client_ca"`
	// Oldest version spoken.
	MinVersion string `yaml:"min_version" enum:"1.2,1.3"`
}

// DefaultTLS speaks none.
func DefaultTLS() TLSConfig { return TLSConfig{MinVersion: "1.2"} }

// On says whether TLS is spoken.
func (c *TLSConfig) On() bool { return c.Cert != "" || c.Key != "" || c.ClientCA != "" }

// Check joins all faults; the text of each begins with the name of the key. It reads the files.
func (c *TLSConfig) Check() error {
	if c.MinVersion != "1.2" && c.MinVersion != "1.3" {
		return errors.New("min_version: must be 1.2 or 1.3")
	}
	if !c.On() {
		return nil
	}
	_, err := LoadTLS(c)
	return err
}

// ParsePrefixes reads addresses and networks; a zone is an error. IPv4 written as IPv6 (::ffff:192.0.2.1) is IPv4, as clients' addresses are.
func ParsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
				p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
			}
			out = append(out, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%q is no address and no network", s)
		}
		a = a.Unmap()
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}

// RespondConfig is the status that the gateway's own answers carry. Zero = what the preset says, else the default of SPEC §3.
type RespondConfig struct {
	// Stored; delivery follows. Default 202.
	Accepted int `yaml:"accepted"`
	// Known id. Default 200.
	Duplicate int `yaml:"duplicate"`
	// A newer version was delivered. Default 200.
	Stale int `yaml:"stale"`
	// Early; waits for its turn. Default 202.
	Held int `yaml:"held"`
	// Forged, unsigned or outside the tolerance. Default 401.
	Rejected int `yaml:"rejected"`
}

// Check joins all faults; the text of each begins with the name of the key.
func (c *RespondConfig) Check() error {
	var errs []error
	for _, f := range []struct {
		name string
		n    int
		ok   bool // must be a success
	}{{"accepted", c.Accepted, true}, {"duplicate", c.Duplicate, true}, {"stale", c.Stale, true}, {"held", c.Held, true}, {"rejected", c.Rejected, false}} {
		switch {
		case f.n == 0:
		case f.ok && (f.n < 200 || f.n > 299):
			errs = append(errs, fmt.Errorf("%s: must be a status from 200 to 299: anything else makes the sender retry", f.name))
		case !f.ok && (f.n < 400 || f.n > 499):
			errs = append(errs, fmt.Errorf("%s: must be a status from 400 to 499", f.name))
		}
	}
	return errors.Join(errs...)
}
