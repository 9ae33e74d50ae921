package recovery_test

import (
	"bufio"
	"bytes"
	"flag"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/recovery"
)

var (
	hourEvents = flag.Int("hour-events", 3000, "events that arrive during the hour without the consumer, on the real journal")
	hourWithin = flag.Duration("hour-within", 0, "the hour without the consumer may take so long; 0 = any time")
)

// tally is a consumer that costs next to nothing: it answers 200 to everything and remembers, per resource, the last event by order of arrival.
type tally struct {
	mu        sync.Mutex
	last      map[string]*event.Seq
	seen      []bool
	twice     int
	backwards int
	requests  int
	from      time.Time // of the first request
	until     time.Time // of the last that had waited
}

func (c *tally) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go c.talk(conn)
	}
}

func (c *tally) talk(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 4096)
	for {
		length, id, seq := 0, "", event.Seq(0)
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
			if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
			} else if value, ok := bytes.CutPrefix(line, []byte("Hooktender-Event-Id: ")); ok {
				id = string(bytes.TrimSpace(value))
			} else if value, ok := bytes.CutPrefix(line, []byte("Hooktender-Id: ")); ok {
				own, _ := event.ParseID(string(bytes.TrimSpace(value)))
				seq = own.Seq()
			}
		}
		if _, err := r.Discard(length); err != nil {
			return
		}
		c.note(id, seq)
		if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
			return
		}
	}
}

// came is the number of requests so far.
func (c *tally) came() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// note takes an event whose id is number.resource.
func (c *tally) note(id string, seq event.Seq) {
	number, resource, _ := strings.Cut(id, ".")
	n, _ := strconv.Atoi(number)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests == 0 {
		c.from = time.Now()
	}
	c.requests++
	if n >= len(c.seen) {
		return
	}
	if c.seen[n] {
		c.twice++
	}
	c.until = time.Now()
	last := c.last[resource]
	if last == nil {
		last = new(event.Seq)
		c.last[resource] = last
	}
	if seq < *last {
		c.backwards++
	}
	c.seen[n], *last = true, seq
}

// The consumer is away for an hour while events keep arriving: none is lost, none becomes a dead letter, memory stays flat, and when it is back the backlog
// drains in order per resource, at the configured rate, while new events wait no longer than before.
//
// On the real journal, 100,000 events: go test ./recovery -run TestHourWithoutTheConsumer -hour-events 100000
func TestHourWithoutTheConsumer(t *testing.T) {
	hour(t, *hourEvents, 400, (*bed).openEmbedded)
}

// The same with 100,000 events, on the model of the journal: what is left is the schedule, the lanes and the exchanges.
//
// On a machine that does nothing else: go test ./recovery -run TestHourOf100000 -hour-within 2s
func TestHourOf100000(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the journal in memory is the most of what there is to scan: only when there is very much of it
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	began := time.Now()
	hour(t, n, 2000, (*bed).openModel) // the bytes are the journal's
	took := time.Since(began)
	if t.Logf("%d events in %s", n, took); *hourWithin > 0 && took > *hourWithin {
		t.Errorf("%d events took %s", n, took)
	}
}

// hour lets n events wait; each may take so many bytes of the heap meanwhile.
func hour(t *testing.T, n int, bytes int64, open func(*bed, journal.Observer) (journal.Journal, func())) {
	rate := max(400, float64(n)/10) // attempts a second that the upstream takes
	synctest.Test(t, func(t *testing.T) {
		b := newBedOn(t, open, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Ordering.Policy = "serial"
			u.Rate = rate
		})
		c := &tally{last: map[string]*event.Seq{}, seen: make([]bool, n)}
		grown := awayForAnHour(t, b, n)
		if grown > int64(n)*bytes+8<<20 { // what the journal has not put into its index yet is the rest
			t.Errorf("%d waiting events take %d bytes of the heap", n, grown)
		}
		if got := b.states(); got["failed/exhausted"] != 0 || got["pending/queued"]+got["pending/retrying"]+got["pending/held"] != n {
			t.Fatalf("after the hour: %v", got)
		}
		l, err := b.net.Listen(consumerAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go c.serve(l)
		fresh := back(t, b, c, n, 2*n/int(rate)+120)
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := b.states(); got["delivered"] != n+fresh || len(got) != 1 {
			t.Errorf("at the end: %v", got)
		}
		if c.twice != 0 || c.backwards != 0 || slices.Contains(c.seen, false) {
			t.Errorf("%d twice, %d out of order, all seen: %t", c.twice, c.backwards, !slices.Contains(c.seen, false))
		}
		took := c.until.Sub(c.from)
		if got := float64(c.requests-1) / took.Seconds(); got < 0.9*rate || got > 1.1*rate {
			t.Errorf("it drains at %.0f events a second, %g are configured", got, rate)
		}
		t.Logf("%d events and %d new ones: heap grown by %d bytes each, drained in %s", n, fresh, grown/int64(n), took)
	})
}

// awayForAnHour sends n events in an hour. It gives the bytes by which the heap has grown.
func awayForAnHour(t *testing.T, b *bed, n int) int64 {
	const batches, resources, senders = 60, 500, 4
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := 0
	for batch := range batches {
		var wg sync.WaitGroup
		from, to := n*batch/batches, n*(batch+1)/batches
		for k := range senders {
			wg.Go(func() {
				for i := from + k; i < to; i += senders {
					resource := "r" + strconv.Itoa(i%resources)
					began := time.Now()
					h := b.send(strconv.Itoa(i)+"."+resource, resource, "")
					if h.Outcome != recovery.Accepted && h.Outcome != recovery.Held {
						t.Errorf("event %d: %s", i, h.Outcome)
					}
					if waited := time.Since(began); batch > 1 && waited > 0 {
						t.Errorf("event %d: its sender waited %s", i, waited)
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Hour / batches)
		if batch == 1 {
			goroutines = runtime.NumGoroutine()
		}
	}
	if got := runtime.NumGoroutine(); got > goroutines+5 {
		t.Errorf("%d goroutines at the end of the hour, %d at its beginning", got, goroutines)
	}
	runtime.GC()
	runtime.ReadMemStats(&during)
	return int64(during.HeapAlloc) - int64(before.HeapAlloc)
}

// back waits until n events have come, so many seconds at most, and sends a new one every second: it is delivered as if nothing else waited. It gives their number.
func back(t *testing.T, b *bed, c *tally, n, seconds int) (fresh int) {
	for second := 0; c.came() < n+fresh; second++ {
		time.Sleep(time.Second)
		if b.r.Upstreams()[0].Breaker == "closed" {
			began := time.Now()
			h := b.send(strconv.Itoa(n+second)+".new"+strconv.Itoa(second), "new"+strconv.Itoa(second), "")
			if waited := time.Since(began); h.Outcome != recovery.Delivered || waited > 20*time.Millisecond {
				t.Errorf("a new event while the backlog drains: %s after %s", h.Outcome, waited)
			}
			fresh++
		}
		if second > seconds {
			t.Fatalf("%d s after the consumer is back: %v", second, b.states())
		}
	}
	time.Sleep(time.Second) // for what is counted twice
	return fresh
}
