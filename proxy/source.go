package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/recovery"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// Source is one configured sender as the pipeline sees it: immutable but for its rate.
type Source struct {
	Name, Path, Provider string
	Methods              []string
	Verifier             *verify.Verifier // nil = nothing is verified (provider: none)
	Observe              bool             // let pass what fails verification
	MACKey               bool             // the verified MAC is a second replay key
	TypedMAC             bool             // … together with the event's type: events of several types may have one body
	JoinedID             bool             // event ids are joined from parts, which are percent-encoded already
	Identity             *selector.Identity
	Policy               *ordering.Policy
	Limits               LimitsConfig
	Dedup                dedup.SourceConfig
	Respond              RespondConfig
	Own                  OwnAnswers // what the preset wants to be answered
	Delivery             *recovery.Source
	DeliveryConfig       recovery.DeliveryConfig
	// Handshake answers a challenge; false if the request is none. Nil = the sender has no challenge.
	Handshake        func(req *event.Request, now time.Time) (*HandshakeAnswer, bool)
	HandshakeMethods []string
	// What happens, for metrics; nil = nobody listens.
	OnAnswer   func(outcome string, d time.Duration)
	OnVerify   func(d time.Duration)
	OnConflict func()

	allow      string
	segments   []string // of a path with {name} in it; nil = the path is exact
	prefixes   []netip.Prefix
	rate       bucket
	lines      [verify.CheckKeys + 1]event.Lines // by what failed; CheckNone: the id
	statuses   RespondConfig
	binds      string
	onVerify   func(d time.Duration)
	onConflict func()
}

// HandshakeAnswer is the answer to a challenge.
type HandshakeAnswer struct {
	Status int
	Head   event.Head
	Body   []byte
}

// OwnAnswer is what a sender wants as an answer of ours.
type OwnAnswer struct {
	Status      int // 0 = the default
	ContentType string
	Body        string
}

// OwnAnswers are a preset's, by outcome.
type OwnAnswers struct {
	Accepted, Duplicate, Stale, Held, Rejected OwnAnswer
	Forbid410                                  bool   // an upstream's 410 becomes a 400
	Echo                                       string // a header of a verified request that the answer repeats; "" = none
}

// Ready checks the source and prepares what requests need. Call it once before the source is used.
func (s *Source) Ready() error {
	var err error
	if s.prefixes, err = s.Limits.Prefixes(); err != nil {
		return fmt.Errorf("source %s: %w", s.Name, err)
	}
	s.allow = strings.Join(s.Methods, ", ")
	if strings.Contains(s.Path, "{") {
		s.segments = strings.Split(s.Path, "/")
	}
	s.rate.set(s.Limits.Rate)
	pick := func(configured, preset, fallback int) int {
		switch {
		case configured != 0:
			return configured
		case preset != 0:
			return preset
		}
		return fallback
	}
	s.statuses = RespondConfig{
		Accepted:  pick(s.Respond.Accepted, s.Own.Accepted.Status, 202),
		Duplicate: pick(s.Respond.Duplicate, s.Own.Duplicate.Status, 200),
		Stale:     pick(s.Respond.Stale, s.Own.Stale.Status, 200),
		Held:      pick(s.Respond.Held, s.Own.Held.Status, 202),
		Rejected:  pick(s.Respond.Rejected, s.Own.Rejected.Status, 401),
	}
	if s.Verifier != nil {
		s.binds = string(s.Verifier.Binds())
	}
	s.onVerify, s.onConflict = s.OnVerify, s.OnConflict
	return nil
}

func (s *Source) allows(a netip.Addr) bool {
	if len(s.prefixes) == 0 {
		return true
	}
	a = a.Unmap()
	for _, p := range s.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// match compares a raw path with one that has {name} in it: a name stands for one segment, which is not empty and does not climb.
func (s *Source) match(path []byte) ([]selector.Param, bool) {
	parts := strings.Split(string(path), "/")
	if len(parts) != len(s.segments) {
		return nil, false
	}
	var params []selector.Param
	for i, seg := range s.segments {
		switch {
		case isNamed(seg) && parts[i] != "" && !climbs(parts[i]):
			params = append(params, selector.Param{Name: seg[1 : len(seg)-1], Value: parts[i]})
		case seg != parts[i]:
			return nil, false
		}
	}
	return params, true
}

// climbs says whether a segment is "." or "..", or holds one, in any writing: consumers resolve these (RFC 3986 §5.2.4), many of them after they have
// decoded slashes or taken parameters off, so the request would reach another path there than the source's.
func climbs(segment string) bool {
	for part := range strings.SplitSeq(plain.Replace(segment), "/") {
		if part, _, _ = strings.Cut(part, ";"); part == "." || part == ".." {
			return true
		}
	}
	return false
}

var plain = strings.NewReplacer("%2e", ".", "%2E", ".", "%2f", "/", "%2F", "/", "%5c", "/", "%5C", "/", "%3b", ";", "%3B", ";")

// macKey is the replay key of a verified MAC. Of a type only letters and digits count: the type is not signed, and senders' own libraries take
// orders/create, Orders/Create and ORDERS_CREATE for one.
func (s *Source) macKey(mac []byte, kind string) event.Key {
	if s.TypedMAC {
		return event.MakeKey(event.KeyMAC, s.Name, string(mac), strings.Map(folded, kind))
	}
	return event.MakeKey(event.KeyMAC, s.Name, string(mac))
}

func folded(c rune) rune {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return -1
}

func isNamed(segment string) bool {
	return strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}")
}

// before says whose path is looked at first: of two that may both fit, the one that has a segment written out where the other has a name.
func (s *Source) before(o *Source) bool {
	if len(s.segments) != len(o.segments) {
		return len(s.segments) < len(o.segments)
	}
	for i, seg := range s.segments {
		if a, b := isNamed(seg), isNamed(o.segments[i]); a != b {
			return b
		}
	}
	return s.Name < o.Name
}

func (s *Source) takes(method string) bool { return slices.Contains(s.Methods, method) }

func (s *Source) challenged(method string) bool {
	return s.Handshake != nil && slices.Contains(s.HandshakeMethods, method)
}

// claimFirst says that nothing about the event has to be decided before the journal claims it: ids are enforced and no order is kept.
func (s *Source) claimFirst(rec *event.Record) bool {
	return s.Dedup.Mode != "observe" && (!s.Policy.Applies(rec) || s.Policy.Observing())
}

// answerTime is what the answer to one that has come to its deadline may take, the commit included: half of what a deadline leaves of the
// time that its sender gives.
const answerTime = 500 * time.Millisecond

// patience is how long a duplicate waits for the one that is under way. That one is answered at its own deadline at the latest, so who came with it
// waits a moment longer, and reads the same.
func (s *Source) patience() time.Duration {
	if s.DeliveryConfig.Mode == "hybrid" {
		return s.DeliveryConfig.Deadline + answerTime
	}
	return 30 * time.Second
}

// fill writes what was found in the request into the record, and says what is missing: resource and version are needed where the
// policy looks at the event's type and uses them.
func (s *Source) fill(rec *event.Record, ids *selector.Values) error {
	rec.EventID, rec.Account, rec.Type = ids.ID.Text(), ids.Account.Text(), ids.Type.Text()
	rec.Resource, rec.Version, rec.OccurredAt = ids.Resource.Text(), ids.Version.Text(), ids.OccurredAt
	switch {
	case !s.Policy.Applies(rec) || s.Policy.Observing():
		return nil
	case ids.Resource.Err() != nil:
		return ids.Resource.Err()
	case !s.Policy.Versions():
		return nil
	case ids.Version.Err() != nil:
		return ids.Version.Err()
	}
	_, err := s.Policy.Version(rec.Version)
	return err
}

// bucket is a token bucket: rate a second, burst max(1, rate).
type bucket struct {
	mu     sync.Mutex
	rate   float64
	tokens float64
	filled time.Time
}

func (b *bucket) set(rate float64) {
	b.mu.Lock()
	b.rate, b.tokens, b.filled = rate, max(1, rate), time.Time{}
	b.mu.Unlock()
}

// take takes a token, or says how long to wait for one.
func (b *bucket) take(now time.Time) (time.Duration, bool) {
	if b.rate <= 0 {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.filled.IsZero() {
		b.tokens = min(max(1, b.rate), b.tokens+max(0, now.Sub(b.filled).Seconds())*b.rate)
	}
	b.filled = now
	if b.tokens < 1 {
		return time.Duration(min((1-b.tokens)/b.rate*float64(time.Second), 1<<62)), false
	}
	b.tokens--
	return 0, true
}
