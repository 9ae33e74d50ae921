package recovery

import (
	"errors"
	"fmt"
	"time"
)

// RetryConfig is the schedule of retries of one source (SPEC §6): before retry n (0, 1, 2 …) a random time between 0 and base·factor^n
// passes, at most max_delay.
type RetryConfig struct {
	// Upper bound of the random delay before the first retry.
	Base time.Duration `yaml:"base"`
	// Growth of that bound from one retry to the next.
	Factor float64 `yaml:"factor"`
	// Cap of the delay; 0s = none.
	MaxDelay time.Duration `yaml:"max_delay"`
	// Attempts after which the event is a dead letter, the first included.
	MaxAttempts int `yaml:"max_attempts"`
	// Time since the first attempt after which the event is a dead letter; it stands still while the breaker is open.
	MaxElapsed time.Duration `yaml:"max_elapsed"`
	// full: uniform between 0 and the bound; none: the bound itself.
	Jitter string `yaml:"jitter" enum:"full,none"`
}

// DefaultRetry is the schedule of a source that gives none.
func DefaultRetry() RetryConfig {
	return RetryConfig{Base: time.Second, Factor: 2, MaxAttempts: 8, MaxElapsed: 5 * time.Minute, Jitter: "full"}
}

// Check joins all faults; the text of each begins with the name of the key.
func (c *RetryConfig) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Base < time.Millisecond || c.Base > 24*time.Hour {
		bad("base: must be between 1ms and 24h")
	}
	if !(c.Factor >= 1 && c.Factor <= 100) {
		bad("factor: must be between 1 and 100")
	}
	if c.MaxDelay < 0 {
		bad("max_delay: must not be negative")
	}
	if c.MaxAttempts < 1 {
		bad("max_attempts: must be at least 1")
	}
	if c.MaxElapsed < time.Millisecond {
		bad("max_elapsed: must be at least 1ms")
	}
	if c.Jitter != "full" && c.Jitter != "none" {
		bad("jitter: must be full or none")
	}
	return errors.Join(errs...)
}
