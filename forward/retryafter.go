package forward

import (
	"net/http"
	"time"
)

// longestRetry is what longer waits are cut to: added to a time of today, the largest Duration is beyond what nanoseconds since 1970 hold.
const longestRetry = 100 * 365 * 24 * time.Hour

// RetryAfter reads the value of a Retry-After header (RFC 9110 §10.2.3): seconds, or one of the three forms of an HTTP date, of which
// one in the past is 0; more than 100 years are 100 years. A negative number of seconds asks for no retry at all and comes back negative. ok is false for everything
// else.
func RetryAfter(v []byte, now time.Time) (d time.Duration, ok bool) {
	digits, negative := v, false
	if len(v) > 1 && v[0] == '-' {
		digits, negative = v[1:], true
	}
	if n, ok := seconds(digits); ok {
		if negative {
			return -max(time.Second, n), true
		}
		return n, true
	}
	if len(v) < len("Sun Nov  6 08:49:37 1994") || len(v) > 64 {
		return 0, false
	}
	t, err := http.ParseTime(string(v))
	if err != nil {
		return 0, false
	}
	return min(max(0, t.Sub(now)), longestRetry), true
}

// seconds reads a number of any length; beyond longestRetry it is that.
func seconds(digits []byte) (time.Duration, bool) {
	if len(digits) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int64(c-'0'), int64(longestRetry/time.Second))
	}
	return time.Duration(n) * time.Second, true
}
