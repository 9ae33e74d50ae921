//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// scenarios lists everything that can be measured, in this order.
var scenarios = []scenario{
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
}

func scenarioNames() []string {
	out := make([]string, len(scenarios))
	for i, s := range scenarios {
		out[i] = s.name
	}
	return out
}

func chosen(o options) ([]scenario, error) {
	var out []scenario
	for _, name := range list(o.scenarios) {
		if name == "all" {
			return scenarios, nil
		}
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no scenario is called %q", name)
		}
		out = append(out, scenarios[i])
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
		if len(modes) == 0 || slices.Contains(modes, t.name) {
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
	if !b.o.check {
		return nil
	}
	return check(os.Stdout, scenario, subjects)
}
