package recovery

import "github.com/hooktender/hooktender/event"

// timed is an event without a lane that waits for a time.
type timed struct {
	due int64 // nanoseconds since 1970
	id  event.ID
}

// events is a heap of them by due time; those of one time in the order in which they were accepted. After an outage there may be a million: so it holds
// no pointers, and a garbage collection has nothing to look through.
type events []timed

func (e events) before(i, j int) bool {
	a, b := &e[i], &e[j]
	return a.due < b.due || a.due == b.due && a.id.Seq() < b.id.Seq()
}

// push adds an event.
func (e *events) push(x timed) {
	*e = append(*e, x)
	e.up(len(*e) - 1)
}

// pop takes the first one; there must be one.
func (e *events) pop() timed {
	q := *e
	first, last := q[0], len(q)-1
	q[0] = q[last]
	if q = q[:last]; cap(q) > fewEvents && last < cap(q)/4 { // the backlog of an outage is over
		q = append(make(events, 0, cap(q)/2), q...)
	}
	q.down(0)
	*e = q
	return first
}

const fewEvents = 1024

func (e events) up(i int) {
	for i > 0 {
		above := (i - 1) / 2
		if !e.before(i, above) {
			return
		}
		e[i], e[above] = e[above], e[i]
		i = above
	}
}

func (e events) down(i int) {
	for {
		least := 2*i + 1
		if least >= len(e) {
			return
		}
		if right := least + 1; right < len(e) && e.before(right, least) {
			least = right
		}
		if !e.before(least, i) {
			return
		}
		e[i], e[least] = e[least], e[i]
		i = least
	}
}

// hurry makes due at now what would be later.
func (e events) hurry(now int64) {
	for i := range e {
		e[i].due = min(e[i].due, now)
	}
	for i := len(e)/2 - 1; i >= 0; i-- {
		e.down(i)
	}
}
