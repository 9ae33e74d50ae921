package recovery

import (
	"math"
	"time"
)

// delay is the time before retry n (0 = the first retry): U(0, base·factor^n), capped by max_delay, with full jitter; the bound itself with none.
// random gives numbers in [0, 1).
func (c *RetryConfig) delay(n int, random func() float64) time.Duration {
	bound := float64(c.Base) * math.Pow(c.Factor, float64(n))
	if c.MaxDelay > 0 {
		bound = min(bound, float64(c.MaxDelay))
	}
	bound = min(bound, float64(365*24*time.Hour))
	if c.Jitter == "full" {
		bound *= random()
	}
	return time.Duration(bound)
}
