package forward

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Config is one upstream: the service that consumes the webhooks.
type Config struct {
	// Base URL of the consumer: http or https, host and port; a path is put in front of every request's path.
	URL string `yaml:"url" example:"http://127.0.0.1:3000"`
	// File with the authorities, in PEM form, that vouch for an https upstream; empty = those of the system. A relative path starts at
	// the directory of the configuration file. Read again on each reload.
	CAFile string `yaml:"ca_file"`
	// Time that one attempt may take, from the dial to the last byte of the answer.
	Timeout time.Duration `yaml:"timeout"`
	// Attempts that may be under way at once.
	MaxInFlight int `yaml:"max_in_flight"`
	// Attempts a second, with a burst of max(1, rate); 0 = no limit.
	Rate float64 `yaml:"rate"`
	// When to stop trying, and how to find out that the consumer is back.
	Breaker BreakerConfig `yaml:"breaker"`
}

// BreakerConfig says when an upstream counts as down.
type BreakerConfig struct {
	// Consecutive transient or unknown outcomes that open the breaker (408, 425 and 429 do not count; refused dials do).
	Failures int `yaml:"failures"`
	// Time from opening to the first probe; doubled after each probe that fails.
	Probe time.Duration `yaml:"probe"`
	// Upper bound of the time between probes.
	MaxProbe time.Duration `yaml:"max_probe"`
}

// Default is the configuration of an upstream of which only the URL is given.
func Default() Config {
	return Config{
		Timeout: 10 * time.Second, MaxInFlight: 64,
		Breaker: BreakerConfig{Failures: 10, Probe: time.Second, MaxProbe: 30 * time.Second},
	}
}

// Check joins all faults; the text of each begins with the name of the key.
func (c *Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		bad("url: is missing")
	case err != nil:
		bad("url: is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		bad("url: must begin with http:// or https://")
	case u.Host == "":
		bad("url: has no host")
	case !dialable(u.Port()):
		bad("url: the port must be a number from 1 to 65535")
	case u.User != nil:
		bad("url: must not hold a user name or password")
	case u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(c.URL, "?#"):
		bad("url: must not hold a query or fragment")
	}
	if c.CAFile != "" {
		if _, err := c.authorities(); err != nil {
			errs = append(errs, err)
		} else if u != nil && u.Scheme == "http" {
			bad("ca_file: is of no use with an http:// URL")
		}
	}
	if c.Timeout < time.Millisecond || c.Timeout > time.Hour {
		bad("timeout: must be between 1ms and 1h")
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 65536 {
		bad("max_in_flight: must be between 1 and 65536")
	}
	if !(c.Rate >= 0 && c.Rate <= 1e6) {
		bad("rate: must be between 0 and 1000000")
	}
	if c.Breaker.Failures < 1 {
		bad("breaker.failures: must be at least 1")
	}
	if c.Breaker.Probe < time.Millisecond {
		bad("breaker.probe: must be at least 1ms")
	}
	if c.Breaker.MaxProbe < c.Breaker.Probe {
		bad("breaker.max_probe: must not be below breaker.probe")
	}
	return errors.Join(errs...)
}

// dialable says whether something can listen at a port; "" = the scheme's.
func dialable(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// authorities reads CAFile.
func (c *Config) authorities() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("ca_file: holds no certificate")
	}
	return pool, nil
}
