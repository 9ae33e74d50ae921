package recovery

import (
	"math"
	"time"
)

// Retire lets go of what no configuration names any more and nothing has needed for as long as idle: a source of which nothing is pending, and an upstream that no source has
// and that nothing is under way to. What must survive of them (records, a pause, how long an upstream was away) is in the journal, from where Apply takes it up
// should they come back. It says which are left, by name. One call at a time, and none beside Apply or Load.
func (r *Recovery) Retire(idle time.Duration) (sources, upstreams map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sources, upstreams = map[string]bool{}, map[string]bool{}
	now := time.Now()
	due := func(since *time.Time, wanted bool) bool {
		switch {
		case wanted:
			*since = time.Time{}
		case since.IsZero():
			*since = now
		}
		return !wanted && now.Sub(*since) >= idle
	}
	for name, s := range r.sources {
		if due(&s.idle, !s.removed.Load() || s.pending.Load() > 0 || s.users.Load() > 0) && s.retire() {
			delete(r.sources, name)
			s.cfg.Load().up.detach(s)
		} else {
			sources[name] = true
		}
	}
	for name, u := range r.upstreams {
		if due(&u.idle, u.named || u.used()) {
			delete(r.upstreams, name)
			u.gone.Store(true)
			u.client.Close()
			u.poke()
		} else {
			upstreams[name] = true
		}
	}
	return sources, upstreams
}

// used says whether some source has the upstream, or something has a slot of it or wants one.
func (u *upstream) used() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sources) > 0 || len(u.waiters) > 0 || u.inflight > 0 || u.queued.Load() > 0
}

// enter begins a call that may make something of the source pending, and exit ends it; false: the source is let go.
func (s *Source) enter() bool {
	if s.users.Add(1) > 0 {
		return true
	}
	s.exit()
	return false
}

func (s *Source) exit() { s.users.Add(-1) }

// retire is for a source that a reload has removed: from now on nobody enters. False: something of it is pending, or about to be.
func (s *Source) retire() bool {
	const never = math.MinInt64 / 2
	if !s.users.CompareAndSwap(0, never) {
		return false
	}
	if s.pending.Load() > 0 {
		s.users.Add(-never)
		return false
	}
	return true
}

// use is Source for a call that makes something pending, which exits it.
func (r *Recovery) use(name string) *Source {
	if s := r.Source(name); s != nil && s.enter() {
		return s
	}
	return nil
}
