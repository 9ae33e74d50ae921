//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// of collects one figure of all rounds.
func of[T any](s *subject, f func(*sample) T) []T {
	out := make([]T, len(s.rounds))
	for i := range s.rounds {
		out[i] = f(&s.rounds[i])
	}
	return out
}

func median[T cmp.Ordered](xs []T) T {
	xs = slices.Clone(xs)
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// ratio is the median of the paired rounds' ratios.
func ratio(s, base *subject, f func(*sample) float64) float64 {
	xs, ys := of(s, f), of(base, f)
	for i := range xs {
		xs[i] /= ys[i]
	}
	return median(xs)
}

func rps(s *sample) float64 { return s.rps }
func cpu(s *sample) float64 { return s.cpu }
func p50(s *sample) float64 { return s.p50.Seconds() }
func p99(s *sample) float64 { return s.p99.Seconds() }

func anon(s *sample) int64     { return s.anon }
func resident(s *sample) int64 { return s.resident }

// writtenPerEvent is over all rounds: segments are prepared in lumps.
func writtenPerEvent(s *subject) float64 {
	var bytes, n float64
	for _, r := range s.rounds {
		bytes, n = bytes+r.written, n+r.n
	}
	return bytes / max(n, 1)
}

// noisy refuses a run in which the plain proxy, which always does the same, did not cost or reach the same.
func noisy(title string, base *subject, bound float64) error {
	for _, m := range []struct {
		what string
		f    func(*sample) float64
	}{{"CPU per request", cpu}, {"requests/s", rps}} {
		xs := of(base, m.f)
		if spread := slices.Max(xs)/slices.Min(xs) - 1; spread > bound {
			return fmt.Errorf("%w: %s: the %s's own rounds differ by %.0f %% in %s, more than %.0f %%: no figures (is something else running here? see -noise)",
				errNoisy, title, base.name, spread*100, m.what, bound*100)
		}
	}
	return nil
}

func table(w io.Writer, title string, subjects []*subject) error {
	bases := subjects[:1:1]
	if i := slices.IndexFunc(subjects, func(s *subject) bool { return s.name == "nginx" }); i > 0 {
		bases = append(bases, subjects[i])
	}
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "\trequests/s\tCPU µs\tp50 ms\tp99 ms\tp99.9 ms\tMiB (own)\twritten B\tfsyncs/s\tstill %\t")
	for _, b := range bases {
		fmt.Fprintf(tw, "CPU × %s\trequests × %[1]s\t", b.name)
	}
	fmt.Fprintln(tw)
	for _, s := range subjects {
		ms := func(f func(*sample) time.Duration) float64 { return median(of(s, f)).Seconds() * 1e3 }
		fmt.Fprintf(tw, "%s\t%.0f\t%.1f\t%.2f\t%.2f\t%.2f\t%d (%d)\t%.0f\t%.0f\t", s.name, median(of(s, rps)), median(of(s, cpu))*1e6,
			ms(func(x *sample) time.Duration { return x.p50 }), ms(func(x *sample) time.Duration { return x.p99 }), ms(func(x *sample) time.Duration { return x.p999 }),
			slices.Max(of(s, resident))>>20, slices.Max(of(s, anon))>>20,
			writtenPerEvent(s), median(of(s, func(x *sample) float64 { return x.syncs })))
		if still := median(of(s, func(x *sample) float64 { return x.still })); still < 0 {
			fmt.Fprint(tw, "?\t")
		} else {
			fmt.Fprintf(tw, "%.1f\t", still*100)
		}
		for _, b := range bases {
			fmt.Fprintf(tw, "%.2f\t%.2f\t", ratio(s, b, cpu), ratio(s, b, rps))
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, s := range subjects {
		if i := slices.IndexFunc(subjects, func(o *subject) bool { return o.name == s.name+otherSuffix }); i >= 0 {
			o := subjects[i]
			fmt.Fprintf(w, "%s: CPU × %.3f, requests × %.3f, p99 × %.3f of %s's\n", o.name, ratio(o, s, cpu), ratio(o, s, rps), ratio(o, s, p99), s.name)
		}
	}
	return nil
}

// bar is one figure that must hold.
type bar struct {
	scenario, target string
	base             string // "" = an absolute figure
	what             string
	bound            float64
	least            bool // the bound is a least, not a most
	f                func(s, base *subject) float64
}

func times(f func(*sample) float64) func(s, base *subject) float64 {
	return func(s, base *subject) float64 { return ratio(s, base, f) }
}

func mib(f func(*sample) int64) func(s, _ *subject) float64 {
	return func(s, _ *subject) float64 { return float64(slices.Max(of(s, f))) / (1 << 20) }
}

// restartBar is how soon a restart with very many pending events must answer.
const restartBar = 3 * time.Second

// bars are the promises of docs/performance.md.
var bars = []bar{
	{"saturation", "hybrid", "proxy", "CPU per request", 3.0, false, times(cpu)},
	{"saturation", "hybrid", "proxy", "requests/s", 0.42, true, times(rps)},
	{"saturation", "hybrid", "", "resident MiB", 250, false, mib(resident)},
	{"saturation", "nosync", "nginx", "CPU per request", 1.25, false, times(cpu)},
	{"saturation", "nosync", "nginx", "requests/s", 0.85, true, times(rps)},
	{"saturation", "hybrid", "nginx", "CPU per request", 1.9, false, times(cpu)},
	{"saturation", "hybrid", "nginx", "requests/s", 0.60, true, times(rps)},
	{"saturation", "hybrid", "nginx", "p99", 1.4, false, times(p99)},
	{"saturation", "store", "nginx", "CPU per request", 2.2, false, times(cpu)},
	{"saturation", "store", "nginx", "requests/s", 0.55, true, times(rps)},
	{"saturation", "duplicate", "nginx", "CPU per request", 0.6, false, times(cpu)},
	{"saturation", "hybrid", "", "own MiB", 160, false, mib(anon)},
	{"saturation", "hybrid", "", "bytes written per event", 3000, false, func(s, _ *subject) float64 { return writtenPerEvent(s) }},
	{"pending", "pending", "store", "p99", 1.3, false, times(p99)},
	{"stored", "1 M ids", "", "own MiB", 160, false, mib(anon)},
	{"stored", "10 M ids", "", "own MiB", 160, false, mib(anon)},
	{"rate", "hybrid", "nginx", "CPU per request", 2.4, false, times(cpu)},
	{"rate", "hybrid", "nginx", "p50", 2.5, false, times(p50)},
	{"rate", "hybrid", "", "p99 ms", 5, false, func(s, _ *subject) float64 { return median(of(s, p99)) * 1e3 }},
}

// check says of every bar of a scenario whether it holds.
func check(w io.Writer, scenario string, subjects []*subject) error {
	find := func(name string) *subject {
		if i := slices.IndexFunc(subjects, func(s *subject) bool { return s.name == name }); i >= 0 {
			return subjects[i]
		}
		return nil
	}
	var faults []error
	for _, b := range bars {
		s, base := find(b.target), find(b.base)
		if b.scenario != scenario || s == nil || base == nil && b.base != "" {
			continue
		}
		got, sign, against, verdict := b.f(s, base), "≤", "", "holds"
		if b.base != "" {
			against = " × " + b.base
		}
		if b.least {
			sign = "≥"
		}
		if b.least && got < b.bound || !b.least && got > b.bound {
			verdict = "MISSED"
			faults = append(faults, fmt.Errorf("%w: %s, %s: %s%s is %.2f, not %s %g", errBar, scenario, b.target, b.what, against, got, sign, b.bound))
		}
		fmt.Fprintf(w, "bar: %s: %s%s %s %g: %.2f %s\n", b.target, b.what, against, sign, b.bound, got, verdict)
	}
	return errors.Join(faults...)
}
