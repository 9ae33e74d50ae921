// Package forward makes one attempt at the upstream and says what its outcome means. One attempt is one wire request: no hidden
// retries, no redirects, and no answer is ever credited to a request that it does not belong to.
package forward

import (
	"time"

	"github.com/hooktender/hooktender/event"
)

// Kinds of errors, for records, logs and metrics (event.Attempt.ErrKind). A closed list.
const (
	KindStatus    = "status"    // a complete answer that was no success
	KindRefused   = "refused"   // the dial was refused or the host is unreachable
	KindDNS       = "dns"       // the upstream's name does not resolve
	KindDial      = "dial"      // any other failure to connect in time
	KindTLS       = "tls"       // the TLS handshake failed
	KindTimeout   = "timeout"   // no complete answer within the timeout, after bytes were sent
	KindReset     = "reset"     // the connection broke after bytes were sent
	KindMalformed = "malformed" // the answer is not a complete, unambiguous HTTP answer
	KindTooLarge  = "too_large" // the answer is larger than MaxAnswer
	KindSwitched  = "switched"  // 101 Switching Protocols
	KindCrash     = "crash"     // the gateway ended while the attempt ran; written by recovery
	KindCorrupt   = "corrupt"   // the stored payload is damaged; nothing was sent
)

// MaxAnswer bounds the body of an upstream's answer, in bytes (SPEC §12: 8 MiB).
const MaxAnswer = 8 << 20

// Call is one request to be made. The slices must stay untouched until the exchange is over.
type Call struct {
	Method string
	Path   []byte     // path and query as they go on the wire, after any prefix of the upstream's URL has been put in front by the Client
	Head   event.Head // header block as received; Compose removes what must not travel (see Compose)
	Extra  event.Head // header lines of ours, already well-formed; they replace lines of the same name in Head
	Body   []byte
}

// Result is what came of one attempt.
type Result struct {
	Outcome    event.Outcome
	Status     int        // 0 = no complete answer
	Head       event.Head // end-to-end header lines of the answer, as received; hop-by-hop, framing and Hooktender-* lines removed
	Body       []byte     // complete body, owned by the caller
	ErrKind    string     // "" on success
	ErrText    string     // for people; never a secret, never more than 256 bytes
	RetryAfter time.Duration
	HasRetry   bool // the answer had a valid Retry-After; negative = do not retry (SPEC §6)
	StartedAt  time.Time
	Duration   time.Duration
}

// Excerpt is the first event.MaxExcerpt bytes of the answer's body.
func (r *Result) Excerpt() []byte {
	if len(r.Body) > event.MaxExcerpt {
		return r.Body[:event.MaxExcerpt]
	}
	return r.Body
}

// Classify says what a complete answer with this status means (SPEC §6): 2xx delivered; 408, 425, 429 and 5xx except 501 and 505
// transient; everything else permanent. 1xx never gets here.
func Classify(status int) event.Outcome {
	switch {
	case status >= 200 && status <= 299:
		return event.OutcomeDelivered
	case status == 408 || status == 425 || status == 429:
		return event.OutcomeTransient
	case status >= 500 && status <= 599 && status != 501 && status != 505:
		return event.OutcomeTransient
	}
	return event.OutcomePermanent
}
