package recovery_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/recovery"
)

var hourEvents = flag.Int("hour-events", 3000, "events that arrive during the hour without the consumer")

// tally is a consumer that costs next to nothing: it answers 200 to everything and remembers, per resource, the last event by order of arrival, and when
// each request came.
type tally struct {
	mu        sync.Mutex
	last      map[string]event.Seq
	seen      []bool
	twice     int
	backwards int
	at        []time.Time
	l         net.Listener
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
			name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
			switch string(name) {
			case "Content-Length":
				length, _ = strconv.Atoi(string(value))
			case "Hooktender-Event-Id":
				id = string(value)
			case "Hooktender-Id":
				own, _ := event.ParseID(string(value))
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

// note takes an event whose id is number.resource.
func (c *tally) note(id string, seq event.Seq) {
	number, resource, _ := bytes.Cut([]byte(id), []byte("."))
	n, _ := strconv.Atoi(string(number))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Now())
	if n >= len(c.seen) {
		return
	}
	if c.seen[n] {
		c.twice++
	}
	if last, ok := c.last[string(resource)]; ok && seq < last {
		c.backwards++
	}
	c.seen[n], c.last[string(resource)] = true, seq
}

// The consumer is away for an hour while events keep arriving: none is lost, none becomes a dead letter, memory stays flat, and when it is back the backlog
// drains in order per resource, at the configured rate, while new events wait no longer than before.
//
// 100,000 of them: go test ./recovery -run TestHour -hour-events 100000
func TestHourWithoutTheConsumer(t *testing.T) {
	n := *hourEvents
	const resources, rate = 500, 400.0
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(s *recovery.SourceConfig, u *forward.Config) {
			s.Ordering.Policy = "serial"
			u.Rate = rate
		})
		c := &tally{last: map[string]event.Seq{}, seen: make([]bool, n)}
		var before, during runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const batches = 60
		for batch := range batches {
			var wg sync.WaitGroup
			for i := n * batch / batches; i < n*(batch+1)/batches; i++ {
				wg.Go(func() {
					began := time.Now()
					h := b.send(fmt.Sprintf("%d.r%d", i, i%resources), fmt.Sprint("r", i%resources), "")
					if h.Outcome != recovery.Accepted && h.Outcome != recovery.Held {
						t.Errorf("event %d: %s", i, h.Outcome)
					}
					if waited := time.Since(began); batch > 1 && waited > 0 {
						t.Errorf("event %d: its sender waited %s", i, waited)
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Hour / batches)
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		grown := int64(during.HeapAlloc) - int64(before.HeapAlloc)
		if got := b.states(); got["failed/exhausted"] != 0 || got["pending/queued"]+got["pending/retrying"]+got["pending/held"] != n {
			t.Fatalf("after the hour: %v", got)
		}
		l, err := b.net.Listen(consumerAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go c.serve(l)
		began := time.Now()
		for i := 0; b.states()["delivered"] < n; i++ {
			time.Sleep(time.Second)
			if i%10 == 5 && b.r.Upstreams()[0].Breaker == "closed" {
				at := time.Now()
				if h := b.send(fmt.Sprintf("%d.new%d", n+i, i), fmt.Sprint("new", i), ""); h.Outcome != recovery.Delivered || time.Since(at) > 20*time.Millisecond {
					t.Errorf("a new event while the backlog drains: %s after %s", h.Outcome, time.Since(at))
				}
			}
			if i > 2*n/int(rate)+120 {
				t.Fatalf("%s after the consumer is back: %v", time.Since(began), b.states())
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.twice != 0 || c.backwards != 0 || b.states()["failed/exhausted"] != 0 {
			t.Errorf("%d twice, %d out of order, %v", c.twice, c.backwards, b.states())
		}
		first, last := c.at[0], c.at[len(c.at)-1]
		if got := float64(len(c.at)) / last.Sub(first).Seconds(); got < 0.9*rate || got > 1.1*rate {
			t.Errorf("it drains at %.0f events a second, %g are configured", got, rate)
		}
		t.Logf("%d events: heap grown by %d bytes each, drained in %s", n, grown/int64(n), last.Sub(first))
	})
}
