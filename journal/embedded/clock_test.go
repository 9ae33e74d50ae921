package embedded

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A machine's clocks: the wall clock, which somebody sets, and the time that has really passed.
type machine struct {
	wall atomic.Int64
	real atomic.Int64
	boot atomic.Uint64
}

func newMachine() *machine {
	m := &machine{}
	m.wall.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	m.real.Store(int64(time.Hour))
	m.boot.Store(1)
	return m
}

func (m *machine) now() time.Time           { return time.Unix(0, m.wall.Load()).UTC() }
func (m *machine) pass(d time.Duration)     { m.wall.Add(int64(d)); m.real.Add(int64(d)) }
func (m *machine) setClock(d time.Duration) { m.wall.Add(int64(d)) }
func (m *machine) options(dir string) Options {
	return Options{Dir: dir, AllowTmpfs: true, Sync: true, Log: quiet, Now: m.now, SegmentSize: 64 << 10,
		boot: func() bootTime { return bootTime{m.boot.Load(), m.real.Load()} }}
}

func (m *machine) sample(n int) journal.Accept {
	a := sample(n)
	a.Record.ReceivedAt = m.now()
	return a
}

// settle ends an event now.
func (m *machine) settle(t *testing.T, e *Engine, r event.Record, s event.State, why event.Reason) event.Record {
	t.Helper()
	r.State, r.Reason, r.SettledAt = s, why, m.now()
	out, err := e.Commit(context.Background(), []journal.Transition{{Record: r}}, journal.Synced)
	if err != nil || !out[0].Applied {
		t.Fatal(out, err)
	}
	return out[0].Record
}

// sweep applies retention as of now until nothing is left to do.
func (m *machine) sweep(t *testing.T, e *Engine) {
	t.Helper()
	for n := 1000; n == 1000; {
		var err error
		if n, err = e.Sweep(context.Background(), m.now(), 1000); err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody set the clock of the machine, and an id was forgotten early, or its payload was gone.
func TestSettingTheClockForgetsNothing(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, restart := range []string{"running", "over a restart", "over a reboot"} {
		for _, jump := range []time.Duration{day, -day, year, -year} {
			t.Run(restart+" "+jump.String(), func(t *testing.T) {
				t.Parallel()
				m := newMachine()
				o := m.options(memDir(t))
				e := start(t, o)
				ctx := context.Background()
				sweep := func() { m.sweep(t, e) }
				end := func(n int) journal.Verdict {
					v := accept(t, e, journal.Synced, m.sample(n))
					m.settle(t, e, v.Record, event.Delivered, 0)
					return v
				}
				first := end(1)
				m.pass(time.Hour)
				switch restart {
				case "running":
					m.setClock(jump)
				default:
					if err := e.Close(); err != nil {
						t.Fatal(err)
					}
					m.setClock(jump)
					if restart == "over a reboot" {
						m.boot.Add(1)
						m.real.Store(int64(time.Second))
					}
					e = start(t, o)
				}
				steady := e.Steady()
				second := end(2)
				third := accept(t, e, journal.Synced, m.sample(3)) // stays pending
				sweep()
				for n, v := range map[int]journal.Verdict{1: first, 2: second, 3: third} {
					if accept(t, e, journal.Synced, m.sample(n)).Accepted {
						t.Errorf("event %d passes a second time", n)
					}
					if _, p, err := e.Get(ctx, v.Record.ID, true); err != nil || p == nil {
						t.Errorf("event %d: %v", n, err)
					}
				}
				m.pass(70 * time.Hour) // payloads stay for 72
				sweep()
				if d := e.Steady().Sub(steady); d != 70*time.Hour {
					t.Errorf("70 hours have passed, the schedule counts %v", d)
				}
				if _, _, err := e.Get(ctx, second.Record.ID, true); err != nil {
					t.Errorf("after 70 hours: %v", err)
				}
				m.pass(3 * time.Hour)
				sweep()
				if _, _, err := e.Get(ctx, second.Record.ID, true); !errors.Is(err, journal.ErrNoPayload) {
					t.Errorf("after 73 hours its payload is still there: %v", err)
				}
				if _, _, err := e.Get(ctx, third.Record.ID, true); err != nil {
					t.Errorf("pending: %v", err)
				}
				if accept(t, e, journal.Synced, m.sample(2)).Accepted {
					t.Error("it passes a second time after 73 hours")
				}
				m.pass(100 * time.Hour)
				sweep()
				if !accept(t, e, journal.Synced, m.sample(2)).Accepted {
					t.Error("after a week it is not new")
				}
				e.Close()
				e = start(t, o)
				if accept(t, e, journal.Synced, m.sample(2)).Accepted || accept(t, e, journal.Synced, m.sample(3)).Accepted {
					t.Error("passes after another start")
				}
			})
		}
	}
}

// An event that was received just before the clock was set, and stored just after, keeps the age it has.
func TestReceivedBeforeTheClockWasSetStoredAfter(t *testing.T) {
	for _, jump := range []time.Duration{365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		m := newMachine()
		e := start(t, m.options(memDir(t)))
		a := m.sample(1)
		m.setClock(jump)
		accept(t, e, journal.Synced, a)
		if accept(t, e, journal.Synced, m.sample(1)).Accepted {
			t.Errorf("%v: it passes a second time", jump)
		}
		m.pass(169 * time.Hour)
		if a := m.sample(2); !accept(t, e, journal.Synced, a).Accepted {
			t.Error("another event is refused")
		}
	}
}

// Retention is applied to a journal that nobody has used since the clock was set: it took the new time for the age of everything, and forgot ids, payloads and dead letters.
func TestTheClockIsSetRightBeforeASweep(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, sweep := range map[string]func(m *machine, e *Engine) error{
		"a year ahead": func(m *machine, e *Engine) error {
			m.setClock(year)
			_, err := e.Sweep(context.Background(), m.now(), 1000)
			return err
		},
		"a year back, after the caller's look at it": func(m *machine, e *Engine) error {
			now := m.now()
			m.setClock(-year)
			_, err := e.Sweep(context.Background(), now, 1000)
			return err
		},
	} {
		m := newMachine()
		e := start(t, m.options(memDir(t)))
		delivered := m.settle(t, e, accept(t, e, journal.Synced, m.sample(1)).Record, event.Delivered, 0)
		dead := m.settle(t, e, accept(t, e, journal.Synced, m.sample(2)).Record, event.Failed, event.Exhausted)
		m.pass(time.Minute)
		must(t, sweep(m, e))
		for _, r := range []event.Record{delivered, dead} {
			if got, _, err := e.Get(context.Background(), r.ID, true); err != nil || got.Reason != r.Reason {
				t.Errorf("%s: after a minute %s is %v/%v: %v", name, r.EventID, got.State, got.Reason, err)
			}
		}
		if accept(t, e, journal.Synced, m.sample(1)).Accepted {
			t.Errorf("%s: it passes a second time after a minute", name)
		}
	}
}

// A dead letter past its retention expires at the time that the clock shows, and its record stays for as long as any other from then on, also after the clock was set.
func TestADeadLetterExpiresByTheClockThatWasSet(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, jump := range []time.Duration{0, year, -year} {
		m := newMachine()
		e := start(t, m.options(memDir(t)))
		dead := m.settle(t, e, accept(t, e, journal.Synced, m.sample(1)).Record, event.Failed, event.Exhausted)
		m.setClock(jump)
		m.pass(720 * time.Hour)
		m.sweep(t, e)
		if got, _, err := e.Get(context.Background(), dead.ID, false); err != nil || got.Reason != event.Expired || !got.SettledAt.Equal(m.now()) {
			t.Errorf("clock set by %v: %v/%v since %v, it is %v: %v", jump, got.State, got.Reason, got.SettledAt, m.now(), err)
		}
		m.pass(168*time.Hour - time.Second)
		m.sweep(t, e)
		if _, _, err := e.Get(context.Background(), dead.ID, false); err != nil {
			t.Errorf("clock set by %v: the record is gone early: %v", jump, err)
		}
		m.pass(time.Second)
		m.sweep(t, e)
		if _, _, err := e.Get(context.Background(), dead.ID, false); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("clock set by %v: after a week the record is still there: %v", jump, err)
		}
	}
}
