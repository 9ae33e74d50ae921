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
}

// bench is a run.
type bench struct {
	*fleet
	load *load
	http http.Client
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
	b := &bench{fleet: f, load: newLoad(uint32(time.Now().Unix())), http: http.Client{Timeout: 10 * time.Second}}
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
	for _, s := range subjects { // warm up, and see that it works
		w := s.work
		w.duration = 300 * time.Millisecond
		if _, err := b.measure(ctx, s.target, w); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for r := range b.o.rounds {
		for i := range subjects {
			s := subjects[(i+r)%len(subjects)]
			got, err := b.measure(ctx, s.target, s.work)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.rounds = append(s.rounds, got)
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", r+1, b.o.rounds)
	}
	return nil
}

// measure loads one target once, waits until everything that it accepted has arrived and it is idle again, and gives the figures.
func (b *bench) measure(ctx context.Context, t *target, w work) (sample, error) {
	var s sample
	stats, err := b.sinkStats()
	if err != nil {
		return s, err
	}
	syncs, err := b.syncCount(t)
	if err != nil {
		return s, err
	}
	before, began := usageOf(t.pid), time.Now()
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() { defer close(watched); s.watchMemory(t.pid, stop) }()
	res, err := b.load.run(ctx, t, w)
	if err == nil {
		err = b.arrived(ctx, stats, res.fresh)
	}
	took := time.Since(began)
	close(stop)
	<-watched
	if err != nil {
		return s, err
	}
	synced, err := b.syncCount(t)
	if err != nil {
		return s, err
	}
	idle(t.pid)
	after, n := usageOf(t.pid), float64(res.answered)
	s.rps, s.cpu = n/took.Seconds(), (after.cpu-before.cpu)/n
	s.p50, s.p99, s.p999 = res.latency.at(0.5), res.latency.at(0.99), res.latency.at(0.999)
	s.n, s.written, s.syncs = n, float64(after.written-before.written), (synced-syncs)/took.Seconds()
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
