package recovery_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/embedded"
	"github.com/hooktender/hooktender/journal/journaltest"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/recovery"
)

// bed is a recovery on a real journal, in front of a consumer, all inside a bubble: hours pass in milliseconds.
type bed struct {
	t        *testing.T
	dir      string
	net      *hooktest.Network
	consumer *hooktest.Consumer
	source   recovery.SourceConfig
	upstream forward.Config
	name     string                                                 // of that
	open     func(*bed, journal.Observer) (journal.Journal, func()) // and what works for it until it is closed
	engine   journal.Journal
	r        *recovery.Recovery
	shift    time.Duration // of the wall clock
	asked    func()        // happens once, when the time is asked for next
	stop     func()
	dead     []chan struct{} // closed when what was killed has ended
}

const consumerAddr = "127.0.0.1:3000"

func newBed(t *testing.T, change func(*recovery.SourceConfig, *forward.Config)) *bed {
	t.Helper()
	return newBedOn(t, (*bed).openEmbedded, change)
}

func newBedOn(t *testing.T, open func(*bed, journal.Observer) (journal.Journal, func()), change func(*recovery.SourceConfig, *forward.Config)) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), net: &hooktest.Network{}, consumer: hooktest.NewConsumer(), upstream: forward.Default(), name: "app"}
	b.upstream.URL = "http://" + consumerAddr
	b.source = recovery.SourceConfig{Name: "s", Path: "/s", Provider: "custom", Delivery: recovery.DefaultDelivery(), Ordering: ordering.Default(),
		Pending: 100_000, Held: 10_000, Resources: 100_000, Binds: "body"}
	b.source.Delivery.Upstream = "app"
	b.open = open
	change(&b.source, &b.upstream)
	b.start()
	t.Cleanup(func() {
		b.stop()
		b.consumer.Close()
		for _, d := range b.dead {
			<-d
		}
	})
	return b
}

// up lets the consumer listen; down makes dials refused.
func (b *bed) up() {
	b.t.Helper()
	l, err := b.net.Listen(consumerAddr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.consumer.Serve(l)
}

func (b *bed) down() { b.consumer.Close() }

// openEmbedded opens the real engine.
func (b *bed) openEmbedded(observe journal.Observer) (journal.Journal, func()) {
	b.t.Helper()
	engine, err := embedded.Open(embedded.Options{Dir: b.dir, Sync: false, // a killed process does not need fsyncs; a power cut would
		AllowTmpfs: true, InBubble: true, Observer: observe})
	if err != nil {
		b.t.Fatal(err)
	}
	return engine, func() { _ = engine.Run(context.Background()) }
}

// openModel opens the model of a journal: the same contract in memory, without files.
func (b *bed) openModel(observe journal.Observer) (journal.Journal, func()) {
	return journaltest.OpenModel(nil, journaltest.ModelOptions{Config: journaltest.Config{Observer: observe}}), func() {}
}

func (b *bed) start() {
	b.t.Helper()
	var r *recovery.Recovery
	engine, work := b.open(b, func(old event.State, why event.Reason, rec *event.Record) { r.Observe(old, why, rec) })
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	r = recovery.New(recovery.Options{Journal: engine, Forward: forward.Options{Dial: b.net.Dial}, Random: func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64()
	}, Steady: func() time.Time {
		if do := b.asked; do != nil {
			b.asked = nil
			do()
		}
		return time.Now().Add(-b.shift)
	}, Shift: func() time.Duration { return b.shift }})
	if err := r.Apply(recovery.Config{Upstreams: map[string]forward.Config{b.name: b.upstream}, Sources: []recovery.SourceConfig{b.source}}); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running, store sync.WaitGroup
	store.Go(work)
	if err := r.Load(ctx); err != nil {
		b.t.Fatal(err)
	}
	running.Go(func() { _ = r.Run(ctx) })
	b.engine, b.r = engine, r
	b.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := engine.Close(); err != nil {
			b.t.Error(err)
		}
		store.Wait()
	})
}

func (b *bed) restart() {
	b.stop()
	b.start()
}

var (
	submissions = sync.Pool{New: func() any { return new(recovery.Submission) }}
	jsonHead    = event.Head("Content-Type: application/json\r\n")
)

// send submits a fresh event and gives what its sender is told.
func (b *bed) send(id, resource, version string) recovery.Handled {
	return b.sendTo("s", id, resource, version)
}

func (b *bed) sendTo(source, id, resource, version string) recovery.Handled {
	body := append(strconv.AppendQuote([]byte(`{"id":`), id), '}')
	sub := submissions.Get().(*recovery.Submission) // nobody uses it when Deliver has returned
	defer submissions.Put(sub)
	*sub = recovery.Submission{
		Record: event.Record{Source: source, Provider: "custom", EventID: id, Resource: resource, Version: version, Verified: true, ReceivedAt: time.Now(),
			BodyBytes: len(body), HasPayload: true},
		Payload: &event.Payload{Method: "POST", Target: []byte("/s"), Head: jsonHead, Body: body, Peer: "127.0.0.1"},
		Keys:    append(sub.Keys[:0], event.MakeKey(event.KeyEvent, source, "", id)), Aliases: append(sub.Aliases[:0], event.MakeKey(event.KeyAlias, source, id)),
	}
	h, err := b.r.Source(source).Deliver(context.Background(), sub)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// again submits an event that has failed once more, as its sender does.
func (b *bed) again(id string) recovery.Handled {
	b.t.Helper()
	sub := &recovery.Submission{Record: b.find(id), Again: true,
		Payload: &event.Payload{Method: "POST", Target: []byte("/s"), Head: jsonHead, Body: []byte("{}"), Peer: "127.0.0.1"}}
	h, err := b.r.Source("s").Deliver(context.Background(), sub)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

func (b *bed) find(id string) event.Record {
	b.t.Helper()
	rec, err := b.r.Find(context.Background(), "s", id)
	if err != nil {
		b.t.Fatalf("%s: %v", id, err)
	}
	return rec
}

func (b *bed) states() map[string]int {
	b.t.Helper()
	out := map[string]int{}
	counts, err := b.engine.Counts(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range counts {
		if c.N > 0 {
			out[strings.TrimSuffix(c.State.String()+"/"+c.Reason.String(), "/")] = int(c.N)
		}
	}
	return out
}

// An outage longer than max_elapsed: nothing becomes a dead letter because of it, everything arrives once when the consumer is back, also across a restart.
func TestOutageTurnsNothingIntoDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) { s.Delivery.Mode = "store"; u.Breaker.Failures = 3 })
		for i := range 200 {
			if h := b.send(fmt.Sprint("evt_", i), "", ""); h.Outcome != recovery.Accepted {
				t.Fatalf("%+v", h)
			}
		}
		time.Sleep(20 * time.Minute)
		b.restart()
		time.Sleep(40 * time.Minute)
		if got := b.states(); got["failed/exhausted"] != 0 {
			t.Fatalf("after an hour: %v", got)
		}
		rec := b.find("evt_7")
		if b.r.View(&rec); rec.Reason != event.BreakerOpen {
			t.Errorf("it shows as %s", rec.Reason)
		}
		b.up()
		time.Sleep(5 * time.Minute)
		if got := b.states(); got["delivered"] != 200 {
			t.Errorf("when the consumer is back: %v", got)
		}
		if n := len(b.consumer.Seen()); n != 200 {
			t.Errorf("the consumer saw %d requests", n)
		}
	})
}

// Retries end with max_attempts or max_elapsed, whichever is first; the dead letter keeps what it takes to replay it, and a replay delivers it once.
func TestDeadLetterAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Delivery.Mode = "store"
			u.Breaker.Failures = 1000
		})
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Status: 503, Body: "later"} })
		b.send("evt_1", "", "")
		time.Sleep(10 * time.Minute)
		rec := b.find("evt_1")
		if rec.State != event.Failed || rec.Reason != event.Exhausted || rec.Attempts != 8 || rec.LastStatus != 503 || !rec.HasPayload || len(b.consumer.Seen()) != 8 {
			t.Fatalf("%+v after %d requests", rec, len(b.consumer.Seen()))
		}
		attempts, err := b.engine.Attempts(context.Background(), rec.ID)
		if err != nil || len(attempts) != 8 || attempts[0].Trigger != event.TriggerInitial || attempts[7].Trigger != event.TriggerRetry || string(attempts[7].Excerpt) != "later" {
			t.Errorf("attempts %+v, %v", attempts, err)
		}
		b.consumer.Plan(nil)
		results := make([]recovery.ReplayResult, 100)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { results[i], _ = b.r.ReplayOne(context.Background(), rec.ID, "", "ops", false, "") })
		}
		wg.Wait()
		time.Sleep(time.Minute)
		if rec = b.find("evt_1"); rec.State != event.Replayed || len(b.consumer.Seen()) != 9 {
			t.Errorf("100 replays at once: %s/%s, %d requests", rec.State, rec.Reason, len(b.consumer.Seen()))
		}
		if got := b.consumer.Seen()[8].Header.Get("Hooktender-Replay"); got == "" || got != rec.ReplayID {
			t.Errorf("Hooktender-Replay %q, record says %q", got, rec.ReplayID)
		}
	})
}

// Attempts, headers and marks over a restart while the outcome is unknown.
func TestUnknownOutcomeIsRedeliveredAndMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {})
		b.up()
		b.consumer.Plan(func(_ *hooktest.Seen, nth int) hooktest.Answer { return hooktest.Answer{Break: nth == 1} })
		if h := b.send("evt_1", "", ""); h.Outcome != recovery.Accepted {
			t.Fatalf("%+v", h)
		}
		time.Sleep(time.Minute)
		seen := b.consumer.Seen()
		if len(seen) != 2 || seen[0].Header.Get("Hooktender-Redelivered") != "" || seen[1].Header.Get("Hooktender-Redelivered") != "possible" {
			t.Errorf("saw %+v", seen)
		}
		if a, b := seen[0].Header.Get("Idempotency-Key"), seen[1].Header.Get("Idempotency-Key"); a != "s:evt_1" || a != b {
			t.Errorf("idempotency keys %q and %q", a, b)
		}
	})
}

// The deadline passes, the attempt goes on: one request, and its result is recorded.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) { s.Delivery.Deadline = 2 * time.Second })
		b.up()
		b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Second} })
		began := time.Now()
		if h := b.send("evt_1", "", ""); h.Outcome != recovery.Accepted || time.Since(began) != 2*time.Second {
			t.Errorf("%s after %s", h.Outcome, time.Since(began))
		}
		time.Sleep(10 * time.Second)
		if rec := b.find("evt_1"); rec.State != event.Delivered || rec.Attempts != 1 || len(b.consumer.Seen()) != 1 {
			t.Errorf("%s after %d attempts, %d requests", rec.State, rec.Attempts, len(b.consumer.Seen()))
		}
	})
}

// Random arrival, failing deliveries, restarts: each resource's versions reach the consumer strictly increasing, one at a time.
func TestOrderUnderFailures(t *testing.T) {
	for _, policy := range []string{"reject_stale", "in_sequence", "window"} {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(7, 7))
				b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
					s.Ordering.Policy, s.Ordering.Start, s.Delivery.Mode, s.Delivery.Retry.MaxAttempts = policy, "1", "store", 100
					u.Breaker.Failures = 1000
				})
				b.up()
				var mu sync.Mutex
				moods := rand.New(rand.NewPCG(8, 8))
				b.consumer.Plan(func(*hooktest.Seen, int) hooktest.Answer {
					mu.Lock()
					defer mu.Unlock()
					if moods.IntN(3) == 0 {
						return hooktest.Answer{Status: 500}
					}
					return hooktest.Answer{Delay: time.Duration(moods.IntN(200)) * time.Millisecond}
				})
				const resources, versions = 5, 20
				var all [][2]int
				for r := range resources {
					for v := range versions {
						all = append(all, [2]int{r, v + 1})
					}
				}
				random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for i, e := range all {
					b.send(fmt.Sprintf("evt_%d_%d", e[0], e[1]), fmt.Sprint("r", e[0]), fmt.Sprint(e[1]))
					time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
					if i == len(all)/2 {
						b.restart()
					}
				}
				time.Sleep(time.Hour)
				delivered := 0
				for r := range resources {
					last := 0
					for _, v := range order(b, r) {
						if v <= last {
							t.Errorf("resource %d: version %d after %d", r, v, last)
						}
						last = v
						delivered++
					}
				}
				if policy == "in_sequence" && delivered != resources*versions {
					t.Errorf("%d of %d delivered: %v", delivered, resources*versions, b.states())
				}
				if n := b.states()["pending/queued"] + b.states()["pending/held"] + b.states()["pending/retrying"]; n != 0 {
					t.Errorf("left behind: %v", b.states())
				}
			})
		})
	}
}

// order is the versions of a resource that were delivered, in order of delivery.
func order(b *bed, resource int) []int {
	type done struct {
		at time.Time
		v  int
	}
	var ds []done
	page, err := b.engine.List(context.Background(), journal.Query{Source: "s", Resource: fmt.Sprint("r", resource), States: []event.State{event.Delivered}, Asc: true, Limit: 500})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, rec := range page.Records {
		var v int
		_, _ = fmt.Sscan(rec.Version, &v)
		ds = append(ds, done{rec.DeliveredAt, v})
	}
	slices.SortStableFunc(ds, func(x, y done) int { return x.at.Compare(y.at) })
	var out []int
	for _, d := range ds {
		out = append(out, d.v)
	}
	return out
}
