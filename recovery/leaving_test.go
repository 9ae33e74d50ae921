package recovery_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/recovery"
)

// While the public port waits for slow senders, nothing begins that nobody waits for: it would keep the end waiting once more. The next start goes on with it.
func TestNothingBeginsInTheBackgroundWhenTheGatewayGoes(t *testing.T) {
	for _, policy := range []string{"none", "serial"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
				s.Ordering.Policy, s.Delivery.Mode = policy, "store"
				s.Delivery.Retry.Jitter, s.Delivery.Retry.Base = "none", 5*time.Second
			})
			b.up()
			b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503} })
			b.send("evt_0", "r", "")
			time.Sleep(time.Second)
			b.consumer.Plan(nil)
			b.r.Leaving()
			if h := b.send("evt_1", "q", ""); h.Outcome != recovery.Accepted {
				t.Errorf("%s: one that had come: %s", policy, h.Outcome)
			}
			time.Sleep(30 * time.Second)
			if n := len(b.consumer.Seen()); n != 1 {
				t.Errorf("%s: the consumer saw %d requests", policy, n)
			}
			b.restart()
			time.Sleep(time.Second)
			if got := b.states(); got["delivered"] != 2 {
				t.Errorf("%s: after the start: %v", policy, got)
			}
		})
	}
}

// Senders that wait for their turn in a lane of a proxy source, which has nothing else to tell them, get their attempts all the same.
func TestSendersInALaneOfAProxySourceAreServedWhenTheGatewayGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Ordering.Policy, s.Delivery.Mode = "serial", "proxy"
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 2 * time.Second} })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if h := b.send(fmt.Sprint("evt_", i), "r", ""); h.Outcome != recovery.Delivered {
					t.Errorf("evt_%d: %s", i, h.Outcome)
				}
			})
		}
		time.Sleep(time.Second)
		b.r.Leaving()
		wg.Wait()
	})
}

// What a sender has left behind as late as the port waited does not get a whole timeout more.
func TestTheEndTakesOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Delivery.Deadline, u.Timeout = time.Second, 10*time.Second
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: time.Hour} })
		began := time.Now()
		b.r.Leaving()
		time.Sleep(9 * time.Second)
		if h := b.send("evt_0", "", ""); h.Outcome != recovery.Accepted {
			t.Error(h.Outcome)
		}
		b.stop()
		if d := time.Since(began); d != 11*time.Second {
			t.Errorf("the end took %s", d)
		}
		b.consumer.Plan(nil)
		b.start()
		time.Sleep(time.Minute)
		if got := b.states(); got["delivered"] != 1 {
			t.Errorf("after the start: %v", got)
		}
	})
}
