// Package ledger keeps the books of a run that is interrupted on purpose: what the senders were told, and what the consumer saw. Judge, the one
// function of that kind, compares them with what the journal says at the end and with the promise (SPEC §1): acknowledged means in the journal and delivered once,
// or more than once and marked; nothing forged, nothing altered, nothing out of order.
package ledger

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Cut is an interruption.
type Cut int

// The two kinds of interruption.
const (
	Kill  Cut = iota // the process is gone, what it had written is not
	Power            // what was not fsynced is gone, too
)

// Settle is how long before a cut an attempt may have been answered by the consumer and still count as in flight, if nobody was told of it: its outcome may not
// have been written, or not be on disk yet. On a busy disk a write waits for the fsync before it.
var Settle = map[Cut]time.Duration{Kill: 250 * time.Millisecond, Power: time.Second}

// Book is the ledger of one run. The zero Book is ready to use; safe for concurrent use.
type Book struct {
	mu       sync.Mutex
	events   map[string]*entry
	cuts     []cut
	strange  []string // what arrived and nobody had sent
	untold   []string // answers that must not be
	inOrder  map[string]*progress
	Tolerant bool // acknowledged events may end as failed (the consumer refused them)
	// Late is how long the disk, as measured beside the load since the last cut, made somebody wait for an fsync: so much longer than Settle an outcome may have waited.
	Late time.Duration
}

type cut struct {
	at       time.Time
	kind     Cut
	inFlight int
}

type entry struct {
	sum      [32]byte
	forged   bool
	acked    bool
	ackEpoch int
	told     int // 1 + the epoch in which its sender was told that it is delivered; 0 = not yet
	outcome  string
	arrivals []*Arrival
}

// Arrival is one request that the consumer saw.
type Arrival struct {
	epoch  int
	begin  time.Time
	end    time.Time
	status int // 0 = not answered
	marked bool
	key    string
	sum    [32]byte

	Resource string
	Version  int
}

// progress is how far a resource has come.
type progress struct {
	epoch, version int // highest version answered 2xx in this epoch
	settled        int // highest version whose sender was told "delivered"
}

func (b *Book) entry(id string) *entry {
	if b.events == nil {
		b.events, b.inOrder = map[string]*entry{}, map[string]*progress{}
	}
	e := b.events[id]
	if e == nil {
		e = &entry{}
		b.events[id] = e
	}
	return e
}

// Send notes that a sender is about to send an event. Call it before the first byte. forged = the signature is wrong.
func (b *Book) Send(id string, body []byte, forged bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(id)
	e.sum, e.forged = sha256.Sum256(body), forged
}

// Answer notes what the sender was told; status 0 = no answer came.
func (b *Book) Answer(id string, status int, outcome, resource string, version int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(id)
	ok := status >= 200 && status <= 299
	switch {
	case e.forged && status != 0 && status != 401 && status != 503:
		b.untold = append(b.untold, fmt.Sprintf("%s was forged and answered %d", id, status))
	case ok && !e.forged:
		if !e.acked {
			e.acked, e.ackEpoch, e.outcome = true, len(b.cuts), outcome
		}
		if outcome == "delivered" && e.told == 0 {
			e.told = 1 + len(b.cuts)
		}
		if outcome == "delivered" && resource != "" {
			p := b.progress(resource)
			p.settled = max(p.settled, version)
		}
	}
}

func (b *Book) progress(resource string) *progress {
	p := b.inOrder[resource]
	if p == nil {
		p = &progress{}
		b.inOrder[resource] = p
	}
	return p
}

// Arrive notes a request at the consumer, before it is answered.
func (b *Book) Arrive(id string, body []byte, key string, marked bool, resource string, version int) *Arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := &Arrival{epoch: len(b.cuts), begin: time.Now(), marked: marked, key: key, sum: sha256.Sum256(body), Resource: resource, Version: version}
	e := b.entry(id)
	if e.sum == ([32]byte{}) {
		b.strange = append(b.strange, fmt.Sprintf("%q arrived, and nobody sent it", id))
	}
	if resource != "" {
		p := b.progress(resource)
		if p.epoch != a.epoch {
			p.epoch, p.version = a.epoch, 0
		}
		if floor := max(p.version, p.settled); version < floor {
			b.strange = append(b.strange, fmt.Sprintf("%s: version %d of %s came after %d", id, version, resource, floor))
		}
	}
	e.arrivals = append(e.arrivals, a)
	return a
}

// Done notes what the consumer answered. Call it before the answer's first byte.
func (b *Book) Done(a *Arrival, status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.status, a.end = status, time.Now()
	if a.Resource != "" && status >= 200 && status <= 299 {
		p := b.progress(a.Resource)
		if p.epoch == a.epoch {
			p.version = max(p.version, a.Version)
		}
	}
}

// Begin of an interruption: what is under way now is in flight. End it with Cut, when nothing of the old process can arrive any more.
func (b *Book) Begin() time.Time { return time.Now() }

// Cut ends an interruption that began at a time.
func (b *Book) Cut(kind Cut, began time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := cut{at: began, kind: kind}
	for _, e := range b.events {
		for _, a := range e.arrivals {
			if e.told == 0 && a.epoch == len(b.cuts) && (a.end.IsZero() || a.end.After(began.Add(-Settle[kind]-b.Late))) {
				c.inFlight++
			}
		}
	}
	b.cuts = append(b.cuts, c)
}

// Acked gives the ids that were acknowledged since a number of cuts.
func (b *Book) Acked(sinceCut int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for id, e := range b.events {
		if e.acked && e.ackEpoch >= sinceCut {
			out = append(out, id)
		}
	}
	return out
}

// Cuts so far.
func (b *Book) Cuts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.cuts)
}

// Report is the result of Judge.
type Report struct {
	Cuts, Sent, Acked, Arrivals int
	Lost                        int // acknowledged, and not in the journal or never delivered
	Repeats, Unmarked, Excess   int // deliveries of what had been delivered; without a mark; beyond what was in flight at the cut
	InFlight                    int // at all cuts together
	Altered, Strange            int // other bytes than were sent; forged, unknown or out of order
	Violations                  []string
}

// Add counts another run in.
func (r *Report) Add(o Report) {
	r.Cuts += o.Cuts
	r.Sent += o.Sent
	r.Acked += o.Acked
	r.Arrivals += o.Arrivals
	r.Lost += o.Lost
	r.Repeats += o.Repeats
	r.Unmarked += o.Unmarked
	r.Excess += o.Excess
	r.InFlight += o.InFlight
	r.Altered += o.Altered
	r.Strange += o.Strange
	r.Violations = append(r.Violations, o.Violations...)
}

// Err is nil if nothing was violated.
func (r *Report) Err() error {
	if len(r.Violations) == 0 {
		return nil
	}
	show := r.Violations[:min(12, len(r.Violations))]
	return fmt.Errorf("%d violations of the promise:\n  %s", len(r.Violations), strings.Join(show, "\n  "))
}

// String is one line.
func (r *Report) String() string {
	return fmt.Sprintf("%d cuts, %d sent, %d acknowledged, %d lost, %d repeats (%d in flight at the cuts, %d unmarked), %d altered, %d strange",
		r.Cuts, r.Sent, r.Acked, r.Lost, r.Repeats, r.InFlight, r.Unmarked, r.Altered, r.Strange)
}

// Judge compares the books with the journal: states is "state/reason" by the sender's id of every event in it. Call it after everything has come to its end.
func (b *Book) Judge(states map[string]string) Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := Report{Cuts: len(b.cuts), Strange: len(b.strange)}
	bad := func(format string, args ...any) { r.Violations = append(r.Violations, fmt.Sprintf(format, args...)) }
	for _, s := range append(slices.Clone(b.strange), b.untold...) {
		bad("%s", s)
	}
	perCut := make([][]string, len(b.cuts)) // ids that came again because of it
	ids := make([]string, 0, len(b.events))
	for id := range b.events {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		e := b.events[id]
		r.Sent++
		r.Arrivals += len(e.arrivals)
		if e.forged && len(e.arrivals) > 0 {
			r.Strange++
			bad("%s was forged and forwarded", id)
		}
		if e.forged && states[id] != "" {
			bad("%s was forged and is in the journal as %s", id, states[id])
		}
		b.judgeArrivals(id, e, &r, perCut, bad)
		if e.acked {
			r.Acked++
			b.judgeAcked(id, e, states[id], &r, bad)
		}
	}
	for i, c := range b.cuts {
		r.InFlight += c.inFlight
		if over := len(perCut[i]) - c.inFlight; over > 0 {
			r.Excess += over
			bad("cut %d: %d repeats, and only %d in flight: %s", i+1, len(perCut[i]), c.inFlight, b.history(perCut[i][:min(5, len(perCut[i]))]))
		}
	}
	return r
}

// history is what the consumer saw of some events, for a message.
func (b *Book) history(ids []string) string {
	var out strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&out, "\n    %s:", id)
		for _, a := range b.events[id].arrivals {
			fmt.Fprintf(&out, " [after cut %d, status %d, marked %t", a.epoch, a.status, a.marked)
			if a.epoch < len(b.cuts) {
				fmt.Fprintf(&out, ", %s before the next", b.cuts[a.epoch].at.Sub(a.end).Round(time.Millisecond))
			}
			out.WriteString("]")
		}
	}
	return out.String()
}

func (b *Book) judgeArrivals(id string, e *entry, r *Report, perCut [][]string, bad func(string, ...any)) {
	slices.SortStableFunc(e.arrivals, func(x, y *Arrival) int { return cmp.Compare(x.begin.UnixNano(), y.begin.UnixNano()) })
	var before *Arrival // one that may have been delivered
	blamed := false     // its repeat is counted already
	for _, a := range e.arrivals {
		if a.sum != e.sum && !e.forged {
			r.Altered++
			bad("%s arrived with other bytes than were sent", id)
		}
		if a.key != e.arrivals[0].key {
			bad("%s has the idempotency keys %q and %q", id, e.arrivals[0].key, a.key)
		}
		if before != nil {
			at := before.epoch
			if at == a.epoch {
				at-- // it may have left the old process and come in after the cut
			}
			switch {
			case at < 0 || at >= len(b.cuts):
				bad("%s came twice without an interruption", id)
			case e.told > 0 && e.told <= at+1:
				bad("%s came again after its sender had been told that it was delivered", id)
			case !blamed: // further tries of the same repeat are no further repeats
				perCut[at] = append(perCut[at], id)
			}
			blamed = true
			// After a power cut an event that was never acknowledged may come again unmarked (SPEC §12).
			unknown := at >= 0 && at < len(b.cuts) && b.cuts[at].kind == Power && !(e.acked && e.ackEpoch <= at)
			if !a.marked && !unknown {
				r.Unmarked++
				bad("%s came again without a mark", id)
			}
		}
		if a.status == 0 || a.status >= 200 && a.status <= 299 {
			if before != nil {
				r.Repeats++
			}
			before, blamed = a, false
		}
	}
}

func (b *Book) powerLost() bool {
	return slices.ContainsFunc(b.cuts, func(c cut) bool { return c.kind == Power })
}

func (b *Book) judgeAcked(id string, e *entry, state string, r *Report, bad func(string, ...any)) {
	delivered := slices.ContainsFunc(e.arrivals, func(a *Arrival) bool { return a.status >= 200 && a.status <= 299 })
	head, reason, _ := strings.Cut(state, "/")
	switch {
	case state == "":
		r.Lost++
		bad("%s was acknowledged (%s) and is not in the journal", id, e.outcome)
	case head == "delivered" && delivered, head == "rejected" && reason == "stale" && (!delivered || b.powerLost()):
		// A power cut may take the record of an event that was taken and never acknowledged; when its sender sends it again, a newer version may have come.
	case head == "delivered":
		r.Lost++
		bad("%s is delivered by the journal, and the consumer never took it", id)
	case head == "failed" && b.Tolerant:
	case delivered && head != "pending":
		bad("%s was delivered and ends as %s", id, state)
	default:
		r.Lost++
		bad("%s was acknowledged (%s) and ends as %s, delivered: %t", id, e.outcome, state, delivered)
	}
}
