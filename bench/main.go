//go:build linux

// Command bench measures what an event costs: through plain proxies, and through hooktender in each mode, in one interleaved run.
//
//	go run ./bench                            about a minute: saturation and a fixed rate
//	go run ./bench -peers nginx,haproxy       beside them, where they are installed
//	go run ./bench -scenarios all             everything in docs/performance.md; takes a quarter of an hour
//	go run ./bench -check                     exit 1 where a bar is missed
//	go run ./bench -binary A -other B         two builds beside each other
//
// Sink, targets and load share the machine, so lone figures mean little: the ratios, medians of the paired rounds, are what counts. A run
// prints nothing if something that was accepted did not arrive exactly once, or if the plain proxy's own rounds differ too much (exit code 3).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds      int
	seconds     float64
	connections int
	body        int
	rate        float64
	noise       float64
	scenarios   string
	only        string
	peers       string
	stored      string
	pending     int
	binary      string
	other       string
	dir         string
	check       bool
	baseline    string
	ratios      bool

	role       string
	duplicates float64
	listen     string
	upstream   string
	pid        int
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each visits every target once, in rotated order")
	flag.Float64Var(&o.seconds, "seconds", 1.2, "seconds per target and round")
	flag.IntVar(&o.connections, "connections", 64, "connections that send")
	flag.IntVar(&o.body, "body", 1024, "bytes per body")
	flag.Float64Var(&o.rate, "rate", 3000, "requests per second of the scenario rate")
	flag.Float64Var(&o.noise, "noise", 0.25, "how far the plain proxy's own rounds may differ (highest/lowest - 1) before no figures are printed")
	flag.StringVar(&o.scenarios, "scenarios", "saturation,rate", "what to measure: "+strings.Join(scenarioNames(), ", ")+", or all")
	flag.StringVar(&o.only, "only", "", "comma-separated targets of hooktender: "+strings.Join(modeNames(), ", ")+" (default all)")
	flag.StringVar(&o.peers, "peers", "", "comma-separated proxies to measure beside the built-in one: nginx, haproxy; skeleton, skeleton-nosync (the least that verifies, deduplicates and logs)")
	flag.StringVar(&o.stored, "stored", "1000000", "comma-separated numbers of ids that the scenario stored has in the journal")
	flag.IntVar(&o.pending, "pending", 1_000_000, "events that wait for a consumer in the scenario pending")
	flag.StringVar(&o.binary, "binary", "", "a built hooktender (default: build it)")
	flag.StringVar(&o.other, "other", "", "another built hooktender to measure in the same rounds")
	flag.StringVar(&o.dir, "dir", "", "where journals are kept during the run (default: a temporary directory; it must not be a tmpfs)")
	flag.BoolVar(&o.check, "check", false, "exit 1 where a bar of docs/performance.md is missed; bars against nginx need -peers nginx")
	flag.StringVar(&o.baseline, "baseline", "", "a file of committed CPU ratios to the plain proxy: exit 1 where one is exceeded by over 15 %")
	flag.BoolVar(&o.ratios, "ratios", false, "print the CPU ratios as a baseline file says them")
	flag.StringVar(&o.role, "role", "", "one part alone, for profiling: sink, proxy, skeleton, skeleton-nosync, load, still (for how long the machine stood still), or fill (a journal in -dir with -pending events)")
	flag.Float64Var(&o.duplicates, "duplicates", 0, "with -role load: the share of requests that repeat an event, 0 to 1")
	flag.IntVar(&o.pid, "pid", 0, "with -role load: the process whose CPU time counts")
	flag.StringVar(&o.listen, "listen", "", "with -role: the address to listen on, or to load")
	flag.StringVar(&o.upstream, "upstream", "", "with -role proxy or skeleton: where to forward")
	flag.Parse()
	ctx := context.Background()
	if o.role != "sink" && o.role != "proxy" && !strings.HasPrefix(o.role, "skeleton") { // those simply end
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	var err error
	switch o.role {
	case "":
		err = run(ctx, o)
	case "sink":
		err = runSink(o.listen)
	case "proxy":
		err = runProxy(o.listen, o.upstream)
	case "skeleton", "skeleton-nosync":
		err = runSkeleton(o.listen, o.upstream, o.dir, o.role == "skeleton")
	case "still":
		err = runStill()
	case "load":
		err = runLoad(ctx, o)
	case "fill":
		err = fill(ctx, o.dir, o.pending, true)
	default:
		err = fmt.Errorf("no role is called %q", o.role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.Is(err, errNoisy) && !errors.Is(err, errBar) && !errors.Is(err, errDearer) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

// runLoad loads one address and prints what it saw.
func runLoad(ctx context.Context, o options) error {
	l := newLoad(uint32(time.Now().Unix()))
	w := work{connections: o.connections, body: o.body, duplicates: o.duplicates, duration: time.Duration(o.seconds * float64(time.Second))}
	t := &target{name: "load", addr: o.listen, path: "/bench", pid: o.pid}
	cpu := cpuSeconds(o.pid)
	r, err := l.run(ctx, t, w)
	if err != nil {
		return err
	}
	n := float64(r.answered)
	_, err = fmt.Printf("%.0f requests/s, %.1f µs CPU per request, p50 %s, p99 %s, p99.9 %s\n", n/r.took.Seconds(), (cpuSeconds(o.pid)-cpu)/n*1e6,
		r.latency.at(0.5), r.latency.at(0.99), r.latency.at(0.999))
	return err
}
