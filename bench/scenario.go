//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	errNoisy = errors.New("too noisy")
	errBar   = errors.New("a bar is missed")
)

// subject is a target under one kind of work.
type subject struct {
	*target
	name   string
	work   work
	rounds []sample
}

// scenario is one table of figures.
type scenario struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

// allScenarios lists everything that can be measured, in this order.
func allScenarios() []scenario {
	return []scenario{
		{"saturation", func(ctx context.Context, b *bench) error {
			ss := b.all(work{})
			if h := b.mode("hybrid"); h != nil {
				ss = append(ss, &subject{target: h, name: "duplicate", work: b.work(work{duplicates: 1})})
			}
			return b.compare(ctx, "saturation", fmt.Sprintf("as fast as answered: %d connections, %d-byte bodies", b.o.connections, b.o.body), ss)
		}},
		{"rate", func(ctx context.Context, b *bench) error {
			return b.compare(ctx, "rate", fmt.Sprintf("%g requests/s by the clock, latency from the intended start", b.o.rate), b.all(work{rate: b.o.rate}, "hybrid", "store"))
		}},
		{"duplicates", func(ctx context.Context, b *bench) error {
			return b.compare(ctx, "duplicates", "10 % duplicates (plain proxies: none)", b.all(work{duplicates: 0.1}, "hybrid", "store"))
		}},
		{"bodies", func(ctx context.Context, b *bench) error {
			var faults []error
			for _, n := range []int{8 << 10, 64 << 10} {
				faults = append(faults, b.compare(ctx, "bodies", fmt.Sprintf("bodies of %d KiB", n>>10), b.all(work{body: n}, "hybrid", "store")))
			}
			return errors.Join(faults...)
		}},
		{"connections", func(ctx context.Context, b *bench) error {
			return b.compare(ctx, "connections", "256 connections", b.all(work{connections: 256}, "hybrid", "store"))
		}},
		{"stored", runStored},
		{"pending", runPending},
		{"hole", runHole},
	}
}

func scenarioNames() []string {
	all := allScenarios()
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = s.name
	}
	return out
}

func chosen(o options) ([]scenario, error) {
	var out []scenario
	for _, name := range list(o.scenarios) {
		if name == "all" {
			return allScenarios(), nil
		}
		all := allScenarios()
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no scenario is called %q", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}

// work fills in what the flags say.
func (b *bench) work(w work) work {
	if w.connections == 0 {
		w.connections = b.o.connections
	}
	if w.body == 0 {
		w.body = b.o.body
	}
	w.duration = time.Duration(b.o.seconds * float64(time.Second))
	return w
}

// all makes subjects of the plain proxies and of hooktender in the modes named, or in every mode.
func (b *bench) all(w work, modes ...string) []*subject {
	var out []*subject
	w = b.work(w)
	plain := w
	plain.duplicates = 0
	for _, t := range b.plain {
		out = append(out, &subject{target: t, name: t.name, work: plain})
	}
	for _, t := range b.byMode {
		if len(modes) == 0 || slices.Contains(modes, strings.TrimSuffix(t.name, otherSuffix)) {
			out = append(out, &subject{target: t, name: t.name, work: w})
		}
	}
	return out
}

func (b *bench) mode(name string) *target {
	for _, t := range b.byMode {
		if t.name == name {
			return t
		}
	}
	return nil
}

// compare runs the rounds and prints the table, unless the run was noisy. subjects[0] is the plain proxy.
func (b *bench) compare(ctx context.Context, scenario, title string, subjects []*subject) error {
	fmt.Fprintf(os.Stderr, "%s\n", title)
	if err := b.rounds(ctx, subjects); err != nil {
		return err
	}
	if err := noisy(title, subjects[0], b.o.noise); err != nil {
		return err
	}
	if err := table(os.Stdout, title, subjects); err != nil {
		return err
	}
	if b.o.ratios {
		writeRatios(os.Stdout, scenario, subjects)
	}
	var faults []error
	if b.o.baseline != "" {
		r, err := readRatios(b.o.baseline)
		if err != nil {
			return err
		}
		faults = append(faults, r.against(os.Stdout, scenario, subjects))
	}
	if b.o.check {
		faults = append(faults, check(os.Stdout, scenario, subjects))
	}
	return errors.Join(faults...)
}

// runStored compares an empty journal with filled ones.
func runStored(ctx context.Context, b *bench) error {
	subjects := b.all(work{}, "hybrid")
	for _, text := range list(b.o.stored) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-stored: %q is no number of ids", text)
		}
		dir := filepath.Join(b.dir, "stored-"+text)
		if err := fill(ctx, dir, n, false); err != nil {
			return err
		}
		t, err := b.startGateway(b.o.binary, millions(n)+" ids", dir, "hybrid", "always")
		if err != nil {
			return err
		}
		defer b.end(t.cmd)
		if _, err := b.firstAnswer(ctx, t); err != nil {
			return err
		}
		idle(t.pid)
		fmt.Printf("%s: %d MiB of own memory (%d resident) when idle, before any load\n", t.name, anonymousBytes(t.pid)>>20, residentBytes(t.pid)>>20)
		subjects = append(subjects, &subject{target: t, name: t.name, work: b.work(work{})})
	}
	return b.compare(ctx, "stored", "ids in the journal", subjects)
}

func millions(n int) string {
	if n%1_000_000 == 0 {
		return strconv.Itoa(n/1_000_000) + " M"
	}
	return strconv.Itoa(n)
}

// runPending compares a journal in which nothing waits with one in which very many events wait for a consumer that is down, and times restarts
// of the latter: after SIGTERM, and after SIGKILL.
func runPending(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "pending")
	if err := fill(ctx, dir, b.o.pending, true); err != nil {
		return err
	}
	var faults []error
	var t *target
	for _, end := range []string{"an orderly stop", "SIGKILL"} {
		if t != nil {
			_ = t.cmd.Process.Kill()
			b.end(t.cmd)
		}
		began := time.Now()
		var err error
		if t, err = b.startGateway(b.o.binary, "pending", dir, "store", "always"); err != nil {
			return err
		}
		answered, err := b.firstAnswer(ctx, t)
		if err != nil {
			return err
		}
		took := answered.Sub(began)
		fmt.Printf("%s pending: first event accepted %.2f s after the start that followed %s, for %.2f s of CPU\n", millions(b.o.pending), took.Seconds(), end, cpuSeconds(t.pid))
		if b.o.check && took > restartBar {
			faults = append(faults, fmt.Errorf("%w: a restart with %s pending events takes %.2f s, not ≤ %s", errBar, millions(b.o.pending), took.Seconds(), restartBar))
		}
	}
	defer b.end(t.cmd)
	idle(t.pid)
	fmt.Printf("%s pending: %d MiB of own memory (%d resident) when idle\n", millions(b.o.pending), anonymousBytes(t.pid)>>20, residentBytes(t.pid)>>20)
	subjects := append(b.all(work{rate: b.o.rate}, "store"), &subject{target: t, name: "pending", work: b.work(work{rate: b.o.rate})})
	faults = append(faults, b.compare(ctx, "pending", fmt.Sprintf("%s pending events, %g requests/s by the clock", millions(b.o.pending), b.o.rate), subjects))
	return errors.Join(faults...)
}

// firstAnswer sends one event as soon as it can and says when it was accepted.
func (b *bench) firstAnswer(ctx context.Context, t *target) (time.Time, error) {
	w := b.work(work{connections: 1, patience: 5 * time.Minute})
	w.duration = time.Nanosecond
	_, err := b.load.run(ctx, t, w)
	return time.Now(), err
}
