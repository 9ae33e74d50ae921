package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Seq is an event's place in the order in which the journal accepted events: 1, 2, 3 … It is never reused. Zero means none.
type Seq uint64

// ID is hooktender's own id of an event: 48 bits of Unix milliseconds, the 64 bits of its Seq, 16 random bits.
// Its text is 26 characters of Crockford's base 32 (the form of a ULID), which sorts like the bytes. Zero means none.
type ID [16]byte

// MakeID builds an id.
func MakeID(at time.Time, seq Seq, salt uint16) ID {
	var id ID
	ms := uint64(max(at.UnixMilli(), 0))
	id[0], id[1], id[2], id[3], id[4], id[5] = byte(ms>>40), byte(ms>>32), byte(ms>>24), byte(ms>>16), byte(ms>>8), byte(ms)
	binary.BigEndian.PutUint64(id[6:14], uint64(seq))
	binary.BigEndian.PutUint16(id[14:16], salt)
	return id
}

// Seq is the sequence number inside the id.
func (id ID) Seq() Seq { return Seq(binary.BigEndian.Uint64(id[6:14])) }

// IsZero says whether there is no id.
func (id ID) IsZero() bool { return id == ID{} }

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// String is the 26-character text; "" for the zero id.
func (id ID) String() string { return string(id.AppendText(make([]byte, 0, 26))) }

// AppendText appends what String gives.
func (id ID) AppendText(b []byte) []byte {
	if id.IsZero() {
		return b
	}
	// 128 bits, two zero bits in front: 26 characters of five bits, from the right.
	var text [26]byte
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for i := 25; i >= 0; i-- {
		text[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return append(b, text[:]...)
}

// ErrBadID says that a text is no ID.
var ErrBadID = errors.New("not an event id")

// ParseID reads what String wrote (upper case only). It returns ErrBadID for anything else.
func ParseID(s string) (ID, error) {
	if len(s) != 26 || s[0] > '7' {
		return ID{}, ErrBadID
	}
	var hi, lo uint64
	for i := range len(s) {
		d := crockfordDigit(s[i])
		if d < 0 {
			return ID{}, ErrBadID
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(d)
	}
	var id ID
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	if id.IsZero() {
		return ID{}, ErrBadID
	}
	return id, nil
}

func crockfordDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'H':
		return int(c-'A') + 10
	case c == 'J' || c == 'K':
		return int(c-'J') + 18
	case c == 'M' || c == 'N':
		return int(c-'M') + 20
	case c >= 'P' && c <= 'T':
		return int(c-'P') + 22
	case c >= 'V' && c <= 'Z':
		return int(c-'V') + 27
	}
	return -1
}

// Key is what dedup compares: the first 16 bytes of a SHA-256 over length-prefixed parts.
type Key [16]byte

// KeyKind separates key spaces, so that no sender can choose an id that collides with a key of another kind.
type KeyKind byte

const (
	KeyEvent    KeyKind = 'e' // source, account, event id
	KeyAlias    KeyKind = 'a' // source, event id: finds an event whose account is not known; never used for dedup
	KeyMAC      KeyKind = 'm' // source, verified MAC: second replay key of an unsigned id (SPEC §4)
	KeyObserved KeyKind = 'o' // source, account, event id of a request that failed verification in observe mode (SPEC §12); of two parts: its alias
)

// MakeKey hashes the parts, each preceded by its length, so that no two different lists of parts collide.
func MakeKey(kind KeyKind, parts ...string) Key {
	var stack [512]byte
	b := append(stack[:0], byte(kind))
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}

// ResourceKey names what is ordered: a resource of a source.
type ResourceKey struct {
	Source, Resource string
}

// ResourceState is what the journal remembers of a resource: how far its consumer has come.
type ResourceState struct {
	ResourceKey
	Version   string    // cursor: the highest version delivered; "" if none
	Floor     string    // highest version that was given up (dead letter) above the cursor; "" if none
	EventID   string    // the sender's id of the event that moved the cursor
	UpdatedAt time.Time // when the cursor moved
}

// State of an event (SPEC §7).
type State uint8

const (
	Pending State = iota + 1
	Delivered
	Failed
	Replayed
	Rejected
)

// States lists all of them, in order.
var States = [...]State{Pending, Delivered, Failed, Replayed, Rejected}

func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Delivered:
		return "delivered"
	case Failed:
		return "failed"
	case Replayed:
		return "replayed"
	case Rejected:
		return "rejected"
	}
	return ""
}

// ParseState is the inverse of String.
func ParseState(s string) (State, bool) {
	for _, x := range States {
		if x.String() == s {
			return x, true
		}
	}
	return 0, false
}

// Reason says more about a state. The list is closed; it serves records, logs, metrics, the API and the docs alike.
type Reason uint8

const (
	NoReason           Reason = iota
	Queued                    // pending: waits for a worker or for its turn
	Delivering                // pending: an attempt is under way
	Retrying                  // pending: a retry is scheduled
	Held                      // pending: early; waits for a gap to fill or its window to pass
	WaitingForDecision        // pending: an attempt's outcome is unknown and the source says hold
	BreakerOpen               // pending: due, but the upstream's breaker is open. Never stored: derived when a record is read.
	Permanent                 // failed: the upstream refused for good
	Returned                  // failed: proxy mode, the sender was told and retries itself
	Exhausted                 // failed: attempts or time ran out
	Gap                       // failed: a version before it never came
	Expired                   // failed: a dead letter whose retention has passed; its payload is gone
	Corrupt                   // failed: the stored payload is damaged
	Resolved                  // failed, settled by an operator: it happened by other means
	Discarded                 // failed, settled by an operator: not wanted
	Stale                     // rejected: a newer version was delivered
	VersionJump               // rejected: further ahead than max_jump
)

var reasonNames = [...]string{"", "queued", "delivering", "retrying", "held", "waiting_for_decision", "breaker_open",
	"permanent", "returned", "exhausted", "gap", "expired", "corrupt", "resolved", "discarded", "stale", "version_jump"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return ""
}

// ParseReason is the inverse of String; "" is no reason.
func ParseReason(s string) (Reason, bool) {
	for i, n := range reasonNames {
		if n == s && i > 0 {
			return Reason(i), true
		}
	}
	return 0, false
}

// Outcome of one attempt (SPEC §7).
type Outcome uint8

const (
	OutcomeNone      Outcome = iota // still running
	OutcomeDelivered                // 2xx
	OutcomeTransient                // a complete answer that asks for a retry
	OutcomePermanent                // a complete answer that refuses for good
	OutcomeUnknown                  // bytes were sent and no complete answer came back
	OutcomeNotSent                  // no byte of the request left this machine (refused dial, TLS error)
)

var outcomeNames = [...]string{"", "delivered", "transient", "permanent", "unknown", "not_sent"}

func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return ""
}

// Trigger says why an attempt was made.
type Trigger uint8

const (
	TriggerInitial    Trigger = iota + 1
	TriggerRetry              // the schedule
	TriggerRedelivery         // the sender sent a failed event again
	TriggerReplay             // an operator
)

var triggerNames = [...]string{"", "initial", "retry", "redelivery", "replay"}

func (t Trigger) String() string {
	if int(t) < len(triggerNames) {
		return triggerNames[t]
	}
	return ""
}

// MaxExcerpt bounds Attempt.Excerpt, in bytes (SPEC §7: the first 4 KiB).
const MaxExcerpt = 4096

// Attempt is one request to the upstream and what came of it.
type Attempt struct {
	N         int // 1, 2, 3 … over retries, redeliveries and replays
	Trigger   Trigger
	StartedAt time.Time
	Duration  time.Duration // zero while running
	Outcome   Outcome
	Status    int    // 0 = no complete answer
	ErrKind   string // "" = none; else one of the kinds in package forward, or "crash"
	ErrText   string
	Excerpt   []byte // first MaxExcerpt bytes of the answer's body, as received
	Upstream  string // name of the upstream
}

// Resolution is how a person or an agent settled a dead letter.
type Resolution struct {
	By     string
	At     time.Time
	Reason string
}

// Payload is what is sent to the upstream again on every attempt: the request as received, without what is derived.
type Payload struct {
	Method string
	Target []byte
	Host   []byte
	Head   Head
	Body   []byte
	Peer   string // textual address of the sender
	TLS    bool
}

// Size is the number of bytes that a payload weighs against the bounds on bytes in flight.
func (p *Payload) Size() int {
	return len(p.Target) + len(p.Host) + len(p.Head) + len(p.Body)
}

// Record is everything that is known about one event. A zero time means absent.
type Record struct {
	ID  ID
	Seq Seq    // assigned by the journal
	Rev uint64 // grows with every commit, over all events; compared by the next one

	Source   string
	Provider string // preset that verified it
	Account  string
	EventID  string // the sender's idempotency key, joined ids as their parts joined with ':' each percent-encoded
	Type     string
	Resource string
	Version  string

	// What takes one byte stands together: a record is copied many times on its way.
	State       State
	Reason      Reason
	PriorState  State // state before a forced replay of a terminal event, to fall back to if the replay fails
	PriorReason Reason
	LastTrigger Trigger
	NextTrigger Trigger // why the next attempt will be made
	Forced      bool    // the latest run of attempts is a forced replay: it passes gates that would reject it
	Unknown     bool    // the outcome of some attempt is unknown: later ones are marked as possible redeliveries
	Verified    bool    // false only in observe mode
	Origin      bool    // the signature authenticates the origin, not the body
	HasPayload  bool    // false once retention has dropped it

	ReceivedAt time.Time
	OccurredAt time.Time
	SignedAt   time.Time // the signature's own timestamp, for re-signing

	DeliveredAt time.Time // first success, or that of the last replay
	SettledAt   time.Time // when the present terminal or failed state began; retention counts from here

	Attempts      int // wire requests, incl. the one that runs
	LastAttemptAt time.Time
	LastStatus    int
	LastErrKind   string
	LastErrText   string
	NextAt        time.Time // next retry, or release of a held event

	Charged     int           // attempts that count towards max_attempts in the current run of deliveries
	FirstTryAt  time.Time     // begin of the current run, for max_elapsed
	OutageAtTry time.Duration // the upstream's accumulated outage time when the run began; it does not count towards max_elapsed
	Gap         string        // missing versions given up when it was released ("5", "5-7", comma-separated)
	OrderNote   string        // observe mode: what ordering would have done
	ReplayID    string        // replay that (last) started it; "" if none
	HeldSince   time.Time
	Duplicates  uint32
	Conflicts   uint32
	BodyBytes   int
	BodySHA256  [32]byte
	Resolution  *Resolution
}

// Unproven says that the request failed verification and passed all the same (observe mode): what it says of itself may hold up or outdate nothing
// genuine. Of a source that verifies nothing (provider: none) everything counts as it comes.
func (r *Record) Unproven() bool { return !r.Verified && r.Provider != "none" }

// SendersID is the event id without the hash of the body, where that is one of its parts: what the sender itself calls the event. "" = the id is that already.
func (r *Record) SendersID() string {
	if len(r.EventID) <= 2*len(r.BodySHA256) {
		return ""
	}
	hash := hex.EncodeToString(r.BodySHA256[:])
	if id, ok := strings.CutSuffix(r.EventID, ":"+hash); ok {
		return id
	}
	id, ok := strings.CutPrefix(r.EventID, hash+":")
	if !ok {
		return ""
	}
	return id
}

// Terminal says whether nothing more happens to the event by itself and no operator is waited for (SPEC §7).
func (r *Record) Terminal() bool { return r.State != Pending }

// Settled says whether a checkpoint may pass the event: delivered, replayed, rejected, resolved, discarded or returned (SPEC §8).
func (r *Record) Settled() bool {
	switch r.State {
	case Delivered, Replayed, Rejected:
		return true
	case Failed:
		return r.Reason == Resolved || r.Reason == Discarded || r.Reason == Returned
	}
	return false
}

// DeadLetter says whether the event failed and waits for an operator.
func (r *Record) DeadLetter() bool { return r.State == Failed && !r.Settled() }

// Fate is what the journal remembers under a Key: enough to answer a duplicate.
type Fate struct {
	ID         ID
	State      State
	Reason     Reason
	BodySHA256 [32]byte
	ReceivedAt time.Time
}

// Fate is the record's, as the journal remembers it.
func (r *Record) Fate() Fate {
	return Fate{ID: r.ID, State: r.State, Reason: r.Reason, BodySHA256: r.BodySHA256, ReceivedAt: r.ReceivedAt}
}

// Final says whether the fate can no longer change by itself or by its sender.
func (f *Fate) Final() bool {
	return f.State == Delivered || f.State == Replayed || f.State == Rejected
}

// Known says whether there is anything under the key.
func (f Fate) Known() bool { return !f.ID.IsZero() }

// ParseTime reads a time that a sender wrote: RFC 3339 (§5.6: T and Z may be small letters), its offset also without a colon (2026-01-02T15:04:05+0100),
// and the same with spaces, the offset then being one without a colon, or UTC (2026-01-02 15:04:05 UTC).
func ParseTime(text string) (time.Time, error) {
	layout := time.RFC3339Nano
	switch zone := len(text) - len("+0100"); {
	case len(text) > 10 && text[10] == ' ' && strings.HasSuffix(text, " UTC"):
		layout = "2006-01-02 15:04:05 UTC"
	case len(text) > 10 && text[10] == ' ':
		layout = "2006-01-02 15:04:05 -0700"
	case zone > 10 && (text[zone] == '+' || text[zone] == '-'):
		layout = "2006-01-02T15:04:05-0700"
	}
	return time.Parse(layout, strings.ToUpper(text))
}

// TimeFormat is the one text form of a time: RFC 3339, UTC, nine fractional digits (SPEC §7).
const TimeFormat = "2006-01-02T15:04:05.000000000Z"

// FormatTime writes t in TimeFormat; "" for the zero time.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return string(AppendTime(make([]byte, 0, len(TimeFormat)), t))
}

// AppendTime appends t in TimeFormat, the zero time too. The year must have four digits, as it has in all that a journal keeps.
func AppendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, TimeFormat)
	}
	hour, minute, second := t.Clock()
	text := []byte(TimeFormat)[:len(TimeFormat)]
	put := func(at, digits, v int) {
		for i := at + digits - 1; i >= at; i-- {
			text[i] = byte('0' + v%10)
			v /= 10
		}
	}
	put(0, 4, year)
	put(5, 2, int(month))
	put(8, 2, day)
	put(11, 2, hour)
	put(14, 2, minute)
	put(17, 2, second)
	put(20, 9, t.Nanosecond())
	return append(b, text...)
}

// EscapeID percent-encodes an id for use in a header: everything that is not printable ASCII, and '%' and space (SPEC §12).
func EscapeID(id string) string {
	clean := true
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '%' {
			clean = false
			break
		}
	}
	if clean {
		return id
	}
	out := make([]byte, 0, len(id)+16)
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '%' {
			out = fmt.Appendf(out, "%%%02X", c)
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}
