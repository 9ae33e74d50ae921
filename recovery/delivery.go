package recovery

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// DeliveryConfig says how the events of one source reach their upstream (SPEC §2, §6).
type DeliveryConfig struct {
	// proxy: the upstream's answer goes back, and a transient failure too (the sender retries); hybrid: the upstream's answer goes back,
	// a transient failure or the deadline becomes 202 and hooktender retries; store: 202 at once.
	Mode string `yaml:"mode" enum:"proxy,hybrid,store"`
	// Name of an upstream under upstreams, or a URL.
	Upstream string `yaml:"upstream" example:"app"`
	// Path at the upstream; empty = the path it came in on. The query is kept.
	Path string `yaml:"path"`
	// hybrid: how long the sender may wait for the upstream; then it is answered 202 and the attempt goes on. Default: 8s, or one second
	// less than the sender's own time-out where the preset knows a shorter one.
	Deadline time.Duration `yaml:"deadline"`
	// An attempt with unknown outcome: redeliver (marked), or hold (at most once; waits for an operator's decision).
	OnUnknown string `yaml:"on_unknown" enum:"redeliver,hold"`
	// The schedule of retries.
	Retry RetryConfig `yaml:"retry"`
	// auto: a retry or replay older than the sender's tolerance is signed anew in the sender's scheme; off: never.
	Resign string `yaml:"resign" enum:"auto,off"`
}

// DefaultDelivery is the configuration of a source that gives none.
func DefaultDelivery() DeliveryConfig {
	return DeliveryConfig{Mode: "hybrid", Deadline: 8 * time.Second, OnUnknown: "redeliver", Retry: DefaultRetry(), Resign: "auto"}
}

// Check joins all faults; the text of each begins with the name of the key.
func (c *DeliveryConfig) Check() error {
	var errs []error
	if c.Deadline < time.Millisecond || c.Deadline > time.Hour {
		errs = append(errs, fmt.Errorf("deadline: must be between 1ms and 1h"))
	}
	if c.Path != "" && (!strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, "?# \r\n\t")) {
		errs = append(errs, fmt.Errorf("path: must begin with / and hold no query, fragment or space"))
	}
	return errors.Join(errs...)
}
