// Package simulation runs the pipeline, recovery and a model of the journal in testing/synctest bubbles, with faults that a seed decides: kills and power cuts at every
// crash point of SPEC §1, a consumer that refuses, stalls and breaks connections, senders that repeat. Beside it runs a reference model of the promise.
//
//	go test ./e2e/simulation -seeds 20000          many seeds
//	go test ./e2e/simulation -seed 4711 -v         one of them again, with what happened
package simulation

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/dedup"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/forward"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/journaltest"
	"github.com/hooktender/hooktender/ordering"
	"github.com/hooktender/hooktender/proxy"
	"github.com/hooktender/hooktender/recovery"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

const secret = "simulation-secret-0123456789"

// points are where a crash is made, and the row of SPEC §1 that each belongs to.
var points = []struct{ name, row string }{
	{"accept", "before the intent is written"},
	{"written", "intent written, no byte sent"},
	{"dial", "intent written, no byte sent"},
	{"sending", "bytes sent, outcome unknown"},
	{"received", "bytes sent, outcome unknown"},
	{"answered", "upstream 2xx, before delivered is durable"},
	{"commit", "upstream 2xx, before delivered is durable"},
	{"sync", "upstream 2xx, before delivered is durable"},
	{"reply", "delivered durable, answer lost"},
}

// settings are what a seed decides about the gateway.
type settings struct {
	mode, policy     string
	observe, renamed bool
	hold             bool // on_unknown
}

var sources = sync.OnceValue(func() *config.Config {
	cfg, err := config.Parse("simulation.yaml", []byte(`version: 1
upstreams: {app: {url: "http://127.0.0.1:3000", timeout: 3s, max_in_flight: 8, breaker: {failures: 5}}}
sources:
  s:
    path: /s
    provider: custom
    secrets: [{env: SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
    delivery: {upstream: app, deadline: 2s, retry: {base: 1s, max_delay: 20s, max_attempts: 1000, max_elapsed: 100h}}
`), func(string) (string, bool) { return secret, true })
	if err != nil {
		panic(err)
	}
	return cfg
})

var verifier = sync.OnceValue(func() *verify.Verifier {
	c := sources().Sources["s"]
	v, err := verify.Compile(c.Verify, c.Secrets, verify.Options{})
	if err != nil {
		panic(err)
	}
	return v
})

// world is one run.
type world struct {
	seed uint64
	set  settings
	disk *journaltest.Disk
	ids  []string

	mu      sync.Mutex
	rnd     *rand.Rand
	ref     reference
	faults  []error
	trace   []string
	plan    []planned // crashes that are still to come
	crashed map[string]int
	quiet   bool // the consumer takes everything, nothing crashes any more
	live    *life
	lives   int
	past    []*life
	power   bool // the crash under way is a power cut
	liar    bool // the disk forgets what it said was synced
	reloads bool // an operator reloads and pauses
	ends    bool // it is ended and started again
	ended   int  // how often that was
	decided bool // an operator replays and decides
	watched bool // onlookers ask and replay, and every operation is kept in history
	history []porcupine.Operation
	clock   int64
	restart chan struct{}

	jobs     []string // replays that were begun
	jobLives []int    // … and in which life
}

// planned is a crash at the nth time that a point is reached.
type planned struct {
	point string
	nth   int
	power bool
}

// life is the gateway between two crashes.
type life struct {
	w        *world
	model    *journaltest.Model
	recovery *recovery.Recovery
	pipeline *proxy.Pipeline
	ended    chan struct{} // closed by the crash
	stop     context.CancelFunc
	done     chan struct{} // everything has returned
	setting  chan struct{} // full while somebody loads or configures: one at a time, as in the gateway

	mu    sync.Mutex
	conns []net.Conn
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%10s  life %d  ", time.Since(epoch), w.lives)+fmt.Sprintf(format, args...))
}

// epoch is when every bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// pause lets a little time pass, a different time for everybody, so that a seed decides who goes first.
func (w *world) pause(limit time.Duration) {
	w.mu.Lock()
	d := time.Duration(w.rnd.Int64N(int64(limit))) + 1
	w.mu.Unlock()
	time.Sleep(d)
}

// reach says that a life is at a crash point. It crashes there if the plan says so. It reports whether the life goes on.
func (l *life) reach(point string) bool {
	l.w.pause(200 * time.Microsecond)
	return l.pass(point)
}

// pass is reach without the time that passes there.
func (l *life) pass(point string) bool {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live != l {
		return false
	}
	if len(w.plan) == 0 || w.plan[0].point != point {
		return true
	}
	if w.plan[0].nth--; w.plan[0].nth > 0 {
		return true
	}
	w.crash(point)
	return false
}

// crash ends the present life. The caller holds mu.
func (w *world) crash(point string) {
	w.power = w.plan[0].power
	w.plan = w.plan[1:]
	w.crashed[point]++
	w.logf("crash at %s, power cut: %t", point, w.power)
	w.end()
}

// end is the end of the present life, whatever it is doing. The caller holds mu.
func (w *world) end() {
	l := w.live
	w.live = nil
	l.model.Kill()
	close(l.ended)
	l.stop()
	l.mu.Lock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.mu.Unlock()
	w.restart <- struct{}{}
}

// begin starts a life on what the disk has.
func (w *world) begin() error {
	cfg := sources()
	l := &life{w: w, ended: make(chan struct{}), done: make(chan struct{}), setting: make(chan struct{}, 1)}
	l.model = journaltest.OpenModel(w.disk, journaltest.ModelOptions{
		Config: journaltest.Config{Observer: func(old event.State, why event.Reason, rec *event.Record) { l.recovery.Observe(old, why, rec) }},
		Before: func(what string) {
			switch {
			case what != "accept" && what != "commit" && what != "written" && what != "sync":
			case w.reloads, w.decided: // a commit may be made with the cursors locked, and no time passes in a bubble while somebody waits for a lock
				l.pass(what)
			default:
				l.reach(what)
			}
		},
	})
	quiet := slog.New(slog.DiscardHandler)
	l.recovery = recovery.New(recovery.Options{Journal: l.model, Log: quiet, Forward: forward.Options{Dial: l.dial}, Random: func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.rnd.Float64()
	}})
	index, err := dedup.New(dedup.Config{Cache: 64}, l.model, cfg.Retention.Dedup, nil)
	if err != nil {
		return err
	}
	l.pipeline = proxy.NewPipeline(l.model, index, l.recovery, quiet)
	w.mu.Lock()
	set := w.set
	w.mu.Unlock()
	if err := l.configure(set); err != nil {
		return err
	}
	l.setting <- struct{}{}
	w.mu.Lock()
	w.live = l
	w.lives++
	w.past = append(w.past, l)
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	w.mu.Unlock()
	go func() {
		defer close(l.done)
		err := l.recovery.Load(ctx)
		<-l.setting
		if err == nil { // else the crash came first
			_ = l.recovery.Run(ctx)
		}
	}()
	return nil
}

// terminator ends the gateway as SIGTERM does, at random: nothing new is taken, nothing begins in the background, and what is under way comes to its end.
func (w *world) terminator() {
	for range 3 {
		w.pause(12 * time.Second)
		w.mu.Lock()
		l := w.live
		w.mu.Unlock()
		if l == nil {
			continue
		}
		l.pipeline.Drain()
		l.recovery.Leaving()
		w.pause(3 * time.Second) // the port waits for slow senders
		l.stop()
		<-l.done
		w.mu.Lock()
		if w.live == l {
			w.logf("it has ended")
			w.ended++
			w.power = false
			w.end()
		}
		w.mu.Unlock()
	}
}

// configure brings a configuration into effect, at the begin of a life and on a reload.
func (l *life) configure(set settings) error {
	cfg := sources()
	c := *cfg.Sources["s"]
	c.Delivery.Mode, c.Ordering.Policy, c.Ordering.Start = set.mode, set.policy, "1"
	c.Ordering.MaxWait = 10 * time.Second
	if set.hold {
		c.Delivery.OnUnknown = "hold"
	}
	if set.observe {
		c.Ordering.Mode = "observe"
	}
	upstreams := map[string]forward.Config{"app": cfg.Upstreams["app"]}
	if set.renamed {
		c.Delivery.Upstream = "renamed"
		upstreams = map[string]forward.Config{"renamed": cfg.Upstreams["app"]}
	}
	identity, err := selector.CompileIdentity(c.Identity)
	if err != nil {
		return err
	}
	policy, err := ordering.NewPolicy(c.Ordering)
	if err != nil {
		return err
	}
	err = l.recovery.Apply(recovery.Config{Upstreams: upstreams, Sources: []recovery.SourceConfig{{Name: "s", Path: c.Path, Provider: c.Provider,
		Delivery: c.Delivery, Ordering: c.Ordering, Pending: c.Limits.Pending, Held: c.Limits.Held, Resources: c.Limits.Resources, Binds: "body"}}})
	if err != nil {
		return err
	}
	s := &proxy.Source{Name: "s", Path: c.Path, Provider: c.Provider, Methods: c.Methods, Verifier: verifier(), Identity: identity, Policy: policy,
		Limits: c.Limits, Dedup: c.Dedup, Respond: c.Respond, DeliveryConfig: c.Delivery, Delivery: l.recovery.Source("s")}
	if err := s.Ready(); err != nil {
		return err
	}
	l.pipeline.SetSources([]*proxy.Source{s})
	return nil
}

// operator reloads the gateway with another order, mode or name of the upstream, pauses it and lets it go on, at random; in the end it is as it was.
func (w *world) operator() {
	first := w.set
	for n := 12; n >= 0; n-- {
		w.pause(4 * time.Second)
		w.mu.Lock()
		l, set, act := w.live, w.set, w.rnd.IntN(4)
		switch policies := []string{"none", "serial", "reject_stale", "in_sequence"}; {
		case n == 0:
			set = first
		case act < 2:
			set.policy, set.observe = policies[w.rnd.IntN(4)], w.rnd.IntN(4) == 0
		case act == 2:
			set.renamed = !set.renamed
			set.mode = []string{"hybrid", "proxy", "store"}[w.rnd.IntN(3)]
		}
		if set != w.set {
			w.logf("reload: %+v", set)
		}
		w.set = set
		w.mu.Unlock()
		if l == nil {
			n = max(n, 1) // the end needs a live one
			continue
		}
		if act < 3 {
			l.setting <- struct{}{}
			err := l.configure(set)
			<-l.setting
			if err != nil && l.alive() {
				w.fault(err)
			}
		}
		if pause := n%3 == 0 && n > 0; act == 3 || n == 0 {
			_, err := l.recovery.SetPaused(context.Background(), "s", pause)
			w.mu.Lock()
			w.logf("paused: %t, %v", pause, err)
			w.mu.Unlock()
			if n == 0 && err != nil {
				n = 1
			}
		}
	}
}

// dial connects a life to the consumer.
func (l *life) dial(context.Context, string, string) (net.Conn, error) {
	if !l.reach("dial") {
		return nil, io.ErrClosedPipe
	}
	here, there := net.Pipe()
	l.mu.Lock()
	l.conns = append(l.conns, here, there)
	l.mu.Unlock()
	go l.consume(there)
	return &wire{Conn: here, l: l}, nil
}

// wire is the gateway's end of a connection.
type wire struct {
	net.Conn
	l *life
}

// Write sends a request: half of it has left when the crash comes.
func (c *wire) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:len(b)/2])
	if err != nil || !c.l.reach("sending") {
		return n, io.ErrClosedPipe
	}
	k, err := c.Conn.Write(b[n:])
	return n + k, err
}

// consume is the consumer at one connection.
func (l *life) consume(c net.Conn) {
	defer c.Close()
	w := l.w
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		id, marked := req.Header.Get("Hooktender-Event-Id"), req.Header.Get("Hooktender-Redelivered") == "possible"
		w.mu.Lock()
		if w.live != l { // it came in too late: the gateway is dead, and what it sent with it
			w.mu.Unlock()
			return
		}
		status, stall, whole := w.mood()
		w.logf("%s arrives, marked %t; it will be answered %d after %s, whole: %t", id, marked, status, stall, whole)
		w.fault(w.ref.arrive(id, marked))
		if !whole || stall > 2900*time.Millisecond {
			w.ref.answer(id, 0, false)
		}
		w.mu.Unlock()
		if !l.reach("received") {
			return
		}
		time.Sleep(stall)
		w.mu.Lock()
		if w.live != l {
			w.mu.Unlock()
			return
		}
		w.ref.answer(id, status, true)
		w.mu.Unlock()
		if !whole {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok", status); err != nil || !l.reach("answered") {
			return
		}
	}
}

// mood is what the consumer does with a request. The caller holds mu.
func (w *world) mood() (status int, stall time.Duration, whole bool) {
	status, whole = 200, true
	if w.quiet {
		return
	}
	switch x := w.rnd.IntN(100); {
	case x < 12:
		status = 503
	case x < 15, w.decided && x > 80: // so that there is something to replay
		status = 400
	case x < 21:
		whole = false
	case x < 26:
		stall = 4 * time.Second // longer than the upstream's timeout
	case x < 31:
		stall = 2500 * time.Millisecond // longer than the sender may wait
	case x < 60:
		stall = time.Duration(w.rnd.Int64N(int64(20 * time.Millisecond)))
	}
	return
}

func (w *world) fault(err error) {
	if err != nil {
		w.logf("WRONG: %v", err)
		w.faults = append(w.faults, err)
	}
}

// send sends one event and waits for the answer, or for the crash; status 0 = none.
func (w *world) send(id string) int {
	w.mu.Lock()
	l := w.live
	w.mu.Unlock()
	if l == nil {
		return 0
	}
	var resource, version string
	if r, v, ok := strings.Cut(id, "_"); ok && (w.reloads || w.set.policy != "none") {
		resource, version = r, v
	}
	body := hooktest.CustomBody(id, "t", resource, version)
	if version == "" {
		body = hooktest.CustomBody(id, "t", id, "1")
	}
	r := hooktest.Custom(secret, body, time.Now())
	req := &event.Request{Method: "POST", Target: []byte("/s"), Host: []byte("h"), Body: body, Peer: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	for _, name := range []string{"Content-Type", "X-Timestamp", "X-Signature"} {
		req.Head = req.Head.AppendString(name, r.Header.Get(name))
	}
	began := w.now()
	answered := make(chan proxy.Answer, 1)
	go func() {
		var a proxy.Answer
		l.pipeline.Handle(context.Background(), req, &a)
		if l.reach("reply") {
			answered <- a
		}
	}()
	select {
	case a := <-answered:
		outcome, _ := a.Head.Get("Hooktender-Outcome")
		if !l.alive() {
			w.note(0, began, call{"submit", id}, told{}, true)
			return 0
		}
		w.note(0, began, call{"submit", id}, told{status: a.Status, outcome: string(outcome)}, false)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.logf("the sender of %s is told %d %s", id, a.Status, outcome)
		w.ref.tell(id, a.Status, string(outcome))
		return a.Status
	case <-l.ended:
		w.note(0, began, call{"submit", id}, told{}, true)
		return 0
	}
}

// sender sends an event until it is acknowledged, and sometimes once more.
func (w *world) sender(id string) {
	for range 200 {
		w.pause(300 * time.Millisecond)
		status := w.send(id)
		if status >= 200 && status <= 299 {
			w.mu.Lock()
			again := w.rnd.IntN(4) == 0
			w.mu.Unlock()
			if !again {
				return
			}
		}
		if status == 400 {
			return
		}
	}
}

// run is one seed: a world from its beginning to its judgement.
func (w *world) run() {
	w.ref.hold = w.set.hold
	if err := w.begin(); err != nil {
		w.fault(err)
		return
	}
	var senders sync.WaitGroup
	for _, id := range w.ids {
		senders.Go(func() { w.sender(id) })
	}
	if w.watched {
		for i := range 2 {
			senders.Go(func() { w.onlooker(1 + i) })
		}
	}
	if w.reloads {
		senders.Go(w.operator)
	}
	if w.ends {
		senders.Go(w.terminator)
	}
	if w.decided {
		senders.Go(w.decider)
	}
	allSent := make(chan struct{})
	go func() { senders.Wait(); close(allSent) }()
	for quietAt := time.After(30 * time.Second); allSent != nil || quietAt != nil; {
		select {
		case <-w.restart:
			w.mu.Lock()
			w.afterCrash()
			w.mu.Unlock()
			w.pause(time.Second)
			if err := w.begin(); err != nil {
				w.fault(err)
				return
			}
		case <-quietAt: // from now on everything goes well
			quietAt = nil
			w.mu.Lock()
			w.quiet, w.plan = true, nil
			w.mu.Unlock()
		case <-allSent:
			allSent = nil
		}
	}
	time.Sleep(10 * time.Minute) // whatever is retried or held has come to its end
	w.mu.Lock()
	l := w.live
	w.mu.Unlock()
	w.judgeJobs(l)
	l.stop()
	for _, l := range w.past {
		<-l.done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.ids {
		r, ok := w.record(l.model, id)
		w.logf("%s ends as %s/%s after %d attempts", id, r.State, r.Reason, r.Attempts)
		w.fault(w.ref.end(id, r, ok))
	}
	_ = l.model.Close()
}

// afterCrash loses what a power cut loses and tells the reference what is left. The caller holds mu.
func (w *world) afterCrash() {
	if w.power && w.liar {
		w.disk.Lie(w.rnd.IntN(4))
	} else if w.power {
		w.disk.Cut(w.rnd.IntN(w.disk.Unsynced() + 1))
	}
	m := journaltest.OpenModel(w.disk, journaltest.ModelOptions{}) // as the next life will find it
	for _, id := range w.ids {
		r, ok := w.record(m, id)
		w.logf("the journal has %s as %s/%s", id, r.State, r.Reason)
		w.fault(w.ref.crash(id, w.power, r, ok))
	}
}

func (w *world) record(m *journaltest.Model, id string) (event.Record, bool) {
	p, err := m.List(context.Background(), journal.Query{EventID: id})
	switch {
	case err != nil:
		w.fault(err)
	case len(p.Records) > 1:
		w.fault(fmt.Errorf("%d records of %s", len(p.Records), id))
	case len(p.Records) == 1:
		return p.Records[0], true
	}
	return event.Record{}, false
}

// newWorld makes a world as a seed decides it.
func newWorld(seed uint64) *world {
	rnd := rand.New(rand.NewPCG(seed, 0x5eed))
	w := &world{seed: seed, rnd: rnd, disk: &journaltest.Disk{}, crashed: map[string]int{}, restart: make(chan struct{}, 8), ref: reference{events: map[string]*fate{}}}
	w.set = settings{mode: []string{"hybrid", "hybrid", "proxy", "store"}[rnd.IntN(4)], policy: []string{"none", "none", "serial", "reject_stale", "in_sequence"}[rnd.IntN(5)]}
	for r := range 1 + rnd.IntN(2) {
		for v := range 1 + rnd.IntN(3) {
			w.ids = append(w.ids, fmt.Sprintf("r%d_%d", r, v+1))
		}
	}
	for range 1 + rnd.IntN(3) {
		w.plan = append(w.plan, planned{points[rnd.IntN(len(points))].name, 1 + rnd.IntN(6), rnd.IntN(2) == 0})
	}
	return w
}
