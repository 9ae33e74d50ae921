//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is one target in one round.
type sample struct {
	rps            float64 // requests a second; of store: delivered ones
	cpu            float64 // CPU seconds of the process per request, until it is idle again
	p50, p99, p999 time.Duration
	anon, resident int64   // bytes, the highest seen
	n, written     float64 // requests; bytes written
	syncs          float64 // fsyncs a second
	still          float64 // share of the time in which the machine stood still; negative = not known
}

// bench is a run.
type bench struct {
	*fleet
	load  *load
	still *stillness
	http  http.Client
}

func run(ctx context.Context, o options) error {
	debug.SetGCPercent(400) // the senders share the machine with what they measure
	todo, err := chosen(o)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "hooktender-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := newFleet(o, dir)
	if err != nil {
		return err
	}
	defer f.stop()
	still, err := startStillness(f.self)
	if err != nil {
		return err
	}
	defer still.close()
	b := &bench{fleet: f, load: newLoad(uint32(time.Now().Unix())), still: still, http: http.Client{Timeout: 10 * time.Second}}
	fmt.Fprintf(os.Stderr, "%s, %d CPUs (%s); %d rounds of %g s a target\n", runtime.Version(), runtime.NumCPU(), cpuModel(), o.rounds, o.seconds)
	var faults []error
	for _, s := range todo {
		err := s.run(ctx, b)
		if err != nil && !errors.Is(err, errNoisy) && !errors.Is(err, errBar) && !errors.Is(err, errDearer) {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// rounds loads each subject once a round, the first one another time each.
func (b *bench) rounds(ctx context.Context, subjects []*subject) error {
	groups := make([][]*subject, len(subjects))
	for i := range subjects {
		groups[i] = subjects[i : i+1]
	}
	return b.groups(ctx, groups)
}

// together loads all subjects at the same time in each round: what the machine does meanwhile happens to all of them.
func (b *bench) together(ctx context.Context, subjects []*subject) error {
	return b.groups(ctx, [][]*subject{subjects})
}

// groups loads each group once a round, the first one another time each; those in a group at the same time.
func (b *bench) groups(ctx context.Context, groups [][]*subject) error {
	for _, g := range groups { // warm up, and see that it works
		if _, err := b.measure(ctx, g, 300*time.Millisecond); err != nil {
			return err
		}
	}
	for r := range b.o.rounds {
		for i := range groups {
			g := groups[(i+r)%len(groups)]
			got, err := b.measure(ctx, g, 0)
			if err != nil {
				return err
			}
			for k, s := range g {
				s.rounds = append(s.rounds, got[k])
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", r+1, b.o.rounds)
	}
	return nil
}

// measure loads targets once, all at the same time, for as long as their work says or d, waits until everything that they accepted has arrived and they are idle
// again, and gives the figures of each.
func (b *bench) measure(ctx context.Context, subjects []*subject, d time.Duration) ([]sample, error) {
	stats, err := b.sinkStats()
	if err != nil {
		return nil, err
	}
	runs := make([]*measurement, len(subjects))
	var wg sync.WaitGroup
	for i, s := range subjects {
		m := &measurement{target: s.target, work: s.work}
		if d > 0 {
			m.work.duration = d
		}
		if m.syncs, err = b.syncCount(s.target); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		runs[i] = m
	}
	stood, err := b.still.seconds()
	if err != nil {
		return nil, err
	}
	for _, m := range runs {
		m.begin()
		wg.Go(func() { m.res, m.err = b.load.run(ctx, m.target, m.work) })
	}
	wg.Wait()
	loaded := time.Since(runs[0].began)
	standing, err := b.still.seconds()
	var fresh uint64
	for i, m := range runs {
		if m.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", subjects[i].name, m.err))
		}
		fresh += m.res.fresh
	}
	if err == nil {
		err = b.arrived(ctx, stats, fresh)
	}
	for _, m := range runs { // of all, before one is waited for
		m.end()
	}
	samples := make([]sample, len(runs))
	for i, m := range runs {
		if err == nil {
			samples[i], err = b.figures(m)
			samples[i].still = (standing - stood) / loaded.Seconds()
			if standing < 0 {
				samples[i].still = -1
			}
		}
	}
	return samples, err
}

// measurement is one target under one load.
type measurement struct {
	target  *target
	work    work
	syncs   float64 // before
	before  usage
	began   time.Time
	took    time.Duration // until everything has arrived
	memory  sample
	stop    chan struct{}
	watched chan struct{}
	res     result
	err     error
}

func (m *measurement) begin() {
	m.before, m.began = usageOf(m.target.pid), time.Now()
	m.stop, m.watched = make(chan struct{}), make(chan struct{})
	go func() { defer close(m.watched); m.memory.watchMemory(m.target.pid, m.stop) }()
}

func (m *measurement) end() {
	m.took = time.Since(m.began)
	close(m.stop)
	<-m.watched
}

func (b *bench) figures(m *measurement) (sample, error) {
	synced, err := b.syncCount(m.target)
	if err != nil {
		return sample{}, err
	}
	if m.target.admin != "" { // a list has the index written: that is put off for seconds
		if _, err := b.get("http://" + m.target.admin + "/v1/events?limit=1"); err != nil {
			return sample{}, err
		}
	}
	idle(m.target.pid)
	after, n, s := usageOf(m.target.pid), float64(m.res.answered), m.memory
	s.rps, s.cpu = n/m.took.Seconds(), (after.cpu-m.before.cpu)/n
	s.p50, s.p99, s.p999 = m.res.latency.at(0.5), m.res.latency.at(0.99), m.res.latency.at(0.999)
	s.n, s.written, s.syncs = n, float64(after.written-m.before.written), (synced-m.syncs)/m.took.Seconds()
	return s, nil
}

func (s *sample) watchMemory(pid int, stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s.anon, s.resident = max(s.anon, anonymousBytes(pid)), max(s.resident, residentBytes(pid))
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// idle waits until a process does next to nothing, at most two seconds: what it put off while it was loaded counts too.
func idle(pid int) {
	const step = 25 * time.Millisecond
	for range 80 {
		before := cpuSeconds(pid)
		time.Sleep(step)
		if cpuSeconds(pid)-before < 0.04*step.Seconds() {
			return
		}
	}
}

// arrived waits until so many more events have reached the sink than it had seen before, each exactly once.
func (b *bench) arrived(ctx context.Context, before sinkStats, fresh uint64) error {
	var now sinkStats
	for range 12_000 {
		var err error
		if now, err = b.sinkStats(); err != nil {
			return err
		}
		if now.Unique-before.Unique >= fresh || ctx.Err() != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if now.Unique-before.Unique != fresh || now.Repeats != before.Repeats {
		return fmt.Errorf("%d accepted, %d arrived, %d of them again: the figures are worth nothing", fresh, now.Unique-before.Unique, now.Repeats-before.Repeats)
	}
	return nil
}

func (b *bench) sinkStats() (st sinkStats, err error) {
	raw, err := b.get("http://" + b.sink + "/stats")
	if err == nil {
		err = json.Unmarshal(raw, &st)
	}
	return st, err
}

// syncCount is how many fsyncs the target's journal has done.
func (b *bench) syncCount(t *target) (float64, error) {
	if t.admin == "" {
		return 0, nil
	}
	raw, err := b.get("http://" + t.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "hooktender_journal_sync_duration_seconds_count "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, errors.New("/metrics does not tell the number of fsyncs")
}

func (b *bench) get(url string) ([]byte, error) {
	resp, err := b.http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 16<<20))
}

func cpuModel() string {
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
