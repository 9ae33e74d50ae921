package recovery_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

// deserted is a journal whose caller leaves while the disk is waited for: what was asked is written, and the answer is the caller's context's.
type deserted struct {
	journal.Journal
	leave context.CancelFunc
}

func (d *deserted) Commit(ctx context.Context, ts []journal.Transition, how journal.Durability) ([]journal.Outcome, error) {
	out, err := d.Journal.Commit(context.WithoutCancel(ctx), ts, how)
	if d.left(ctx) {
		return nil, ctx.Err()
	}
	return out, err
}

func (d *deserted) MetaPut(ctx context.Context, key string, value []byte, how journal.Durability) error {
	err := d.Journal.MetaPut(context.WithoutCancel(ctx), key, value, how)
	if d.left(ctx) {
		return ctx.Err()
	}
	return err
}

func (d *deserted) left(ctx context.Context) bool {
	if d.leave != nil {
		d.leave()
	}
	return ctx.Err() != nil
}

// What an operator asked for happens, or does not happen at all, whether or not the operator waits for the answer. A replayed event
// used to stay pending, and in no queue, until the next start.
func TestACallerWhoLeavesIsServed(t *testing.T) {
	for _, c := range []struct {
		ask  func(r *recovery.Recovery, ctx context.Context, id event.ID)
		want string // what the consumer has seen of v1, which failed, and of v2, which waits for it
	}{
		{func(r *recovery.Recovery, ctx context.Context, id event.ID) {
			_, _ = r.ReplayOne(ctx, id, "", "ops", true, "yes")
		}, "1 1 2"},
		{func(r *recovery.Recovery, ctx context.Context, id event.ID) { _, _ = r.Resolve(ctx, id, "ops", "yes") }, "1 2"},
		{func(r *recovery.Recovery, ctx context.Context, id event.ID) { _, _ = r.Discard(ctx, id, "ops", "yes") }, "1 2(gap 1)"},
		{func(r *recovery.Recovery, ctx context.Context, id event.ID) {
			_, _ = r.StartReplay(ctx, recovery.ReplaySpec{IDs: []string{"v1"}, Force: true, Reason: "yes", Actor: "ops"})
		}, "1 1 2"},
	} {
		synctest.Test(t, func(t *testing.T) {
			gone := &deserted{}
			b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
				model, work := b.openModel(observe)
				gone.Journal = model
				return gone, work
			}, func(s *recovery.SourceConfig, u *forward.Config) {
				inSequence(s, u)
				s.Delivery.OnUnknown = "hold"
			})
			b.up()
			b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer { return hooktest.Answer{Break: nth == 1} })
			b.version(1)
			b.version(2)
			ctx, leave := context.WithCancel(t.Context())
			gone.leave = leave
			c.ask(b.r, ctx, b.find("v1").ID)
			time.Sleep(time.Second)
			if got := b.arrivals(); got != c.want {
				t.Errorf("the consumer saw %s, want %s; %v", got, c.want, b.states())
			}
		})
	}
}

// A replay that was asked for under an id is begun once, also where a kill came before the answer, and whether or not it was remembered as begun.
func TestAReplayUnderAnIDIsBegunOnce(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(*recovery.SourceConfig, *forward.Config) {})
			b.up()
			b.send("evt_1", "", "")
			id := b.find("evt_1").ID
			many := recovery.ReplaySpec{ID: "rp_many", IDs: []string{"evt_1"}, Force: true, Reason: "yes", Actor: "ops"}
			for range 2 {
				for range 2 {
					if res, err := b.r.ReplayOne(t.Context(), id, "rp_one", "ops", true, "yes"); err != nil || !res.Started || res.ReplayID != "rp_one" {
						t.Fatal(res, err)
					}
					time.Sleep(time.Second)
				}
				if !remembered { // the kill came before that
					if err := b.engine.MetaPut(t.Context(), "replay-one/rp_one", nil, journal.Written); err != nil {
						t.Fatal(err)
					}
				}
				b.restart()
			}
			if v, err := b.r.Replay(t.Context(), "rp_one"); remembered && (err != nil || v.State != "done" || v.Replayed != 1) {
				t.Errorf("%+v, %v", v, err)
			}
			if n := len(b.consumer.Seen()); n != 2 {
				t.Errorf("remembered %v: the consumer saw %d requests", remembered, n)
			}
			for range 2 {
				if v, err := b.r.StartReplay(t.Context(), many); err != nil || v.ID != "rp_many" {
					t.Fatal(v, err)
				}
				time.Sleep(time.Second)
				b.restart()
			}
			if n := len(b.consumer.Seen()); n != 3 {
				t.Errorf("of many: the consumer saw %d requests", n)
			}
		})
	}
}

// overtaken is a journal in which somebody else writes the records of some events just before their first attempt is recorded.
type overtaken struct {
	journal.Journal
	events map[string]bool
}

func (o *overtaken) Commit(ctx context.Context, ts []journal.Transition, how journal.Durability) ([]journal.Outcome, error) {
	if len(ts) == 1 && ts[0].Attempt != nil && o.events[ts[0].Record.EventID] {
		delete(o.events, ts[0].Record.EventID)
		rec, _, err := o.Get(ctx, ts[0].Record.ID, false)
		if err != nil {
			return nil, err
		}
		if _, err := o.Journal.Commit(ctx, []journal.Transition{{Record: rec}}, how); err != nil {
			return nil, err
		}
	}
	return o.Journal.Commit(ctx, ts, how)
}

// A proxy sender whose time is up while its event's attempt runs waits for that, and is told how it ended: what it was told is accepted never ends as returned to it.
func TestAProxySenderIsToldOfItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
			model, work := b.openModel(observe)
			return &overtaken{model, map[string]bool{"v2": true}}, work
		}, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy, u.Timeout = "proxy", "serial", 10*time.Second
		})
		b.up()
		b.consumer.Plan(func(s *hooktest.Seen, _ int) hooktest.Answer {
			if s.Header.Get("Hooktender-Event-Id") == "v1" {
				return hooktest.Answer{Delay: 8 * time.Second}
			}
			return hooktest.Answer{Status: 503, Delay: 5 * time.Second}
		})
		go b.version(1)
		synctest.Wait()
		h := b.version(2)
		time.Sleep(time.Minute)
		if rec := b.find("v2"); h.Outcome != recovery.Returned || rec.Reason != event.Returned {
			t.Errorf("its sender was told %s, and it is %s/%s", h.Outcome, rec.State, rec.Reason)
		}
	})
}

// An event whose sender is let go just as its attempt begins is tried all the same, and nothing goes before it. The types make it take long to see that it is ordered.
func TestNothingPassesAnEventWhoseSenderIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events, want := map[string]bool{}, []string{}
		for v := range 80 {
			events[fmt.Sprint("v", v)] = true
			want = append(want, fmt.Sprint(v))
		}
		b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
			model, work := b.openModel(observe)
			return &overtaken{model, events}, work
		}, func(s *recovery.SourceConfig, _ *forward.Config) {
			s.Delivery.Mode, s.Ordering.Policy = "store", "serial"
			s.Ordering.Types = append(slices.Repeat([]string{"another"}, 10_000), "")
		})
		b.up()
		b.pause(true)
		for v := range want {
			b.version(v)
		}
		b.pause(false)
		time.Sleep(time.Minute)
		if got := b.arrivals(); got != strings.Join(want, " ") {
			t.Errorf("the consumer saw %s", got)
		}
		if rec := b.find("v1"); rec.Attempts != 1 || rec.State != event.Delivered {
			t.Errorf("one of them is %s after %d attempts", rec.State, rec.Attempts)
		}
	})
}

// noted is a journal that tells how durably it is told that an attempt begins.
type noted struct {
	journal.Journal
	began []journal.Durability
}

func (n *noted) Accept(ctx context.Context, evs []journal.Accept, how journal.Durability) ([]journal.Verdict, error) {
	n.note(&evs[0].Record, how)
	return n.Journal.Accept(ctx, evs, how)
}

func (n *noted) Commit(ctx context.Context, ts []journal.Transition, how journal.Durability) ([]journal.Outcome, error) {
	if len(ts) > 0 {
		n.note(&ts[0].Record, how)
	}
	return n.Journal.Commit(ctx, ts, how)
}

func (n *noted) note(rec *event.Record, how journal.Durability) {
	if rec.Reason == event.Delivering {
		n.began = append(n.began, how)
	}
}

// That an attempt begins is on disk before its first byte is sent where nobody waits, and where the event, which its sender may have been told is accepted, had failed before:
// after a power cut the consumer is told that it may know it.
func TestThatAnAttemptBeginsIsOnDisk(t *testing.T) {
	for _, c := range []struct {
		mode, policy string
		fresh, anew  journal.Durability
	}{
		{"proxy", "none", journal.Written, journal.Synced},
		{"proxy", "serial", journal.Written, journal.Synced},
		{"hybrid", "none", journal.Written, journal.Synced},
		{"hybrid", "serial", journal.Written, journal.Synced},
		{"store", "none", journal.Synced, journal.Synced},
		{"store", "serial", journal.Synced, journal.Synced},
	} {
		synctest.Test(t, func(t *testing.T) {
			notes := &noted{}
			b := newBedOn(t, func(b *bed, observe journal.Observer) (journal.Journal, func()) {
				model, work := b.openModel(observe)
				notes.Journal = model
				return notes, work
			}, func(s *recovery.SourceConfig, _ *forward.Config) {
				s.Delivery.Mode, s.Ordering.Policy = c.mode, c.policy
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 400} })
			b.send("e", "r", "")
			synctest.Wait()
			b.again("e")
			synctest.Wait()
			if want := []journal.Durability{c.fresh, c.anew}; !slices.Equal(notes.began, want) {
				t.Errorf("%s, %s: attempts began %v, want %v", c.mode, c.policy, notes.began, want)
			}
		})
	}
}
