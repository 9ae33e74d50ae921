package simulation

import (
	"fmt"

	"github.com/hooktender/hooktender/event"
)

// reference is what the promise (SPEC §1) says about each event, and nothing else: no journal, no queue, no lanes. It is told what the senders and the consumer
// see, and after each crash what the journal still has; everything else it derives, and it answers with what must not be.
type reference struct {
	events map[string]*fate
	hold   bool // what is in doubt waits for a decision
}

// fate is what may still happen to one event.
type fate struct {
	told      bool // its sender was told a success: it must not be lost
	delivered bool // … or that it is delivered, or the journal said so after a crash: it must not come again
	replay    bool // … except by a replay
	doubt     bool // the outcome of an attempt is unknown: whatever comes must be marked
	taken     int  // how often the consumer took it
	now       bool // it took it since the last crash
	refused   bool // it refused it for good
	returned  bool // the sender was told of a failure and may send it again
	held      bool // it waits for a decision: it must not come
	settled   bool // an operator has settled it: it must not come any more
}

func (m *reference) of(id string) *fate {
	if m.events[id] == nil {
		m.events[id] = &fate{}
	}
	return m.events[id]
}

// arrive: a request comes in at the consumer.
func (m *reference) arrive(id string, marked bool) error {
	e := m.of(id)
	switch {
	case e.settled:
		return fmt.Errorf("%s comes after it was settled", id)
	case e.held:
		return fmt.Errorf("%s comes again, and its unknown outcome waits for a decision", id)
	case e.delivered && !e.replay:
		return fmt.Errorf("%s comes again after it was delivered for good", id)
	case e.now && !e.doubt && !e.replay:
		return fmt.Errorf("%s comes twice without an interruption", id)
	case e.doubt && !marked:
		return fmt.Errorf("%s comes without a mark after an attempt whose outcome is unknown", id)
	case marked && !e.doubt:
		return fmt.Errorf("%s comes marked, and no outcome is unknown", id)
	}
	return nil
}

// answer: the consumer answered it; whole = the gateway can have read the answer in time.
func (m *reference) answer(id string, status int, whole bool) {
	e := m.of(id)
	if status >= 200 && status <= 299 {
		e.taken++
		e.now = true
	}
	e.refused = e.refused || status == 400
	e.doubt = e.doubt || !whole
	e.held = e.held || !whole && m.hold
}

// tell: a sender gets an answer.
func (m *reference) tell(id string, status int, outcome string) {
	e := m.of(id)
	e.told = e.told || status >= 200 && status <= 299
	e.delivered = e.delivered || outcome == "delivered" && status <= 299
	e.returned = e.returned || outcome == "returned"
}

// crash: what the journal still has of an event; ok = it has a record.
func (m *reference) crash(id string, power bool, r event.Record, ok bool) error {
	e := m.of(id)
	defer func() { e.now = false }()
	e.held = m.hold && ok && r.State == event.Pending && (r.Reason == event.WaitingForDecision || r.Reason == event.Delivering)
	if settled := r.Reason == event.Resolved || r.Reason == event.Discarded; e.settled && !settled {
		return fmt.Errorf("%s was settled, and the journal says %s/%s", id, r.State, r.Reason)
	} else if settled {
		e.settled = true
	}
	switch {
	case !ok && e.told:
		return fmt.Errorf("%s was acknowledged and is lost", id)
	case e.delivered && (r.State == event.Pending && !e.replay || !ok):
		return fmt.Errorf("%s was delivered for good, and the journal says %s/%s", id, r.State, r.Reason)
	case !ok: // never acknowledged: its sender sends it again
		e.doubt = false
	case r.State == event.Delivered || r.State == event.Replayed:
		if e.taken == 0 {
			return fmt.Errorf("%s is delivered by the journal, and the consumer never took it", id)
		}
		e.delivered = true
	case r.State == event.Pending && r.Reason == event.Delivering: // bytes may have been sent
		e.doubt = true
	case power && e.now && !r.Unknown && e.told && r.State == event.Pending: // it will come again by itself; what had failed comes only if its sender sends it
		return fmt.Errorf("%s was acknowledged and taken, and the journal forgot that it was sent", id)
	default:
		e.doubt = r.Unknown
	}
	return nil
}

// end: everything has come to its end.
func (m *reference) end(id string, r event.Record, ok bool) error {
	e := m.of(id)
	switch {
	case !ok && e.told:
		return fmt.Errorf("%s was acknowledged and is lost", id)
	case !ok:
	case r.State == event.Delivered || r.State == event.Replayed:
		if e.taken == 0 {
			return fmt.Errorf("%s ends as %s, and the consumer never took it", id, r.State)
		}
	case r.State == event.Rejected && r.Reason == event.Stale:
	case r.State == event.Failed && r.Reason == event.Permanent && e.refused:
	case r.State == event.Failed && r.Reason == event.Returned:
	case r.State == event.Failed && e.settled:
	default:
		return fmt.Errorf("%s ends as %s/%s", id, r.State, r.Reason)
	}
	return nil
}
