package recovery

import (
	"time"

	"github.com/hooktender/hooktender/ordering"
)

// Push is for a gateway that is about to go while its upstreams still live: what waits for its next attempt is tried at once, open
// breakers probe at once, and from now on a connection that is refused, because the upstream goes too, uses up no attempt. What fails
// again waits as usual.
func (r *Recovery) Push() {
	r.leaving.Store(true)
	r.mu.RLock()
	defer r.mu.RUnlock()
	now, steady := time.Now(), r.steady().UnixNano()
	for _, s := range r.sources {
		s.push(steady)
	}
	for _, u := range r.upstreams {
		u.mu.Lock()
		if u.breaker.state == open {
			u.breaker.next, u.breaker.wait = now, u.breaker.cfg.Probe
		}
		u.mu.Unlock()
		u.poke()
	}
}

// Leaving says that the gateway is about to go: a connection that is refused uses up no attempt any more, no attempt begins that no sender waits for, and in hybrid
// mode nobody waits for a turn in a lane, which may come later than the gateway waits.
func (r *Recovery) Leaving() {
	now := time.Now()
	r.ending.Store(&now)
	r.leaving.Store(true)
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.sources {
		s.letGo()
	}
}

// push makes every retry of the source due. Events that ordering holds keep waiting for those before them.
func (s *Source) push(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.hurry(now)
	for _, l := range s.lanes {
		retries := false
		for _, e := range l.Entries() {
			if e.Retry && e.Due > now && e.Due < ordering.Never {
				e.Due, retries = now, true
			}
		}
		if retries {
			s.wake(l, 0)
		}
	}
}
