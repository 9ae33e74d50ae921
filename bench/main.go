// Command bench compares what a request costs: through a plain proxy, and through hooktender in each mode, in one interleaved run.
//
//	go run ./bench                       all targets, 1 KiB bodies, 64 connections
//	go run ./bench -rounds 7 -seconds 5  longer
//
// A sink, the targets and the load share the machine, so lone figures mean little; the ratios, medians of the paired rounds, are what counts.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

type options struct {
	rounds      int
	seconds     float64
	connections int
	body        int
	only        string
	binary      string
	role        string
	listen      string
	upstream    string
	pid         int
	check       bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each visits every target once, in rotated order")
	flag.Float64Var(&o.seconds, "seconds", 3, "seconds per target and round")
	flag.IntVar(&o.connections, "connections", 64, "connections that send")
	flag.IntVar(&o.body, "body", 1024, "bytes per body")
	flag.StringVar(&o.only, "only", "", "comma-separated targets (default all)")
	flag.StringVar(&o.binary, "binary", "", "a built hooktender (default: build it)")
	flag.BoolVar(&o.check, "check", false, "exit 1 unless hybrid costs at most 3.0 × the CPU and reaches at least 0.42 × the throughput of the plain proxy")
	flag.StringVar(&o.role, "role", "", "one part alone, for profiling: sink, proxy or load")
	flag.IntVar(&o.pid, "pid", 0, "with -role load: the process whose CPU time counts")
	flag.StringVar(&o.listen, "listen", "", "with -role: the address to listen on, or to load")
	flag.StringVar(&o.upstream, "upstream", "", "with -role proxy: where to forward")
	flag.Parse()
	var err error
	switch o.role {
	case "sink":
		err = runSink(o.listen)
	case "proxy":
		err = runProxy(o.listen, o.upstream)
	case "load":
		err = runLoad(o)
	default:
		err = run(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runLoad loads one address and prints what it saw.
func runLoad(o options) error {
	s, err := newLoad(o).run(context.Background(), &target{name: "load", addr: o.listen, path: "/bench", pid: o.pid}, time.Duration(o.seconds*float64(time.Second)))
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%.0f requests/s, %.1f µs CPU per request, p50 %s, p99 %s\n", s.rps, s.cpu*1e6, s.p50, s.p99)
	return err
}

// target is one process under load.
type target struct {
	name   string
	addr   string
	path   string
	pid    int
	rounds []sample
	loaded int64 // highest resident memory seen, bytes
}

type sample struct {
	rps, cpu float64 // requests a second; CPU seconds per request of the target's process
	p50, p99 time.Duration
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "hooktender-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	procs := &processes{dir: dir}
	defer procs.stop()
	targets, sink, err := start(procs, o, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s, %d CPUs; %d rounds of %.1f s, %d connections, %d-byte bodies, unique signed ids\n",
		runtime.Version(), runtime.NumCPU(), o.rounds, o.seconds, o.connections, o.body)
	load := newLoad(o)
	for _, t := range targets { // warm up, and see that it works
		if _, err := load.run(ctx, t, 500*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for r := range o.rounds {
		for i := range targets {
			t := targets[(i+r)%len(targets)]
			s, err := load.run(ctx, t, time.Duration(o.seconds*float64(time.Second)))
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			t.rounds = append(t.rounds, s)
			t.loaded = max(t.loaded, residentBytes(t.pid))
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", r+1, o.rounds)
	}
	if err := checkSink(sink, load.sent.Load()); err != nil {
		return err
	}
	return report(os.Stdout, targets, o)
}

// checkSink waits until everything that was accepted has arrived, exactly once.
func checkSink(sink string, sent int64) error {
	var st sinkStats
	for range 300 {
		resp, err := http.Get("http://" + sink + "/stats")
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &st); err != nil {
			return err
		}
		if st.Unique >= sent {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if st.Unique != sent || st.Repeats != 0 {
		return fmt.Errorf("%d accepted, %d arrived, %d of them again: the figures are worth nothing", sent, st.Unique, st.Repeats)
	}
	fmt.Fprintf(os.Stderr, "%d accepted, all arrived exactly once\n", sent)
	return nil
}

func median[T cmp.Ordered](xs []T) T {
	xs = slices.Clone(xs)
	slices.Sort(xs)
	return xs[len(xs)/2]
}

func report(w io.Writer, targets []*target, o options) error {
	base := targets[0]
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "target\trequests/s\tCPU µs/request\tp50\tp99\tRSS MiB\t× CPU\t× requests/s\t")
	var failed error
	for _, t := range targets {
		var rps, cpu, rRPS, rCPU []float64
		var p50, p99 []time.Duration
		for i, s := range t.rounds {
			rps, cpu, p50, p99 = append(rps, s.rps), append(cpu, s.cpu*1e6), append(p50, s.p50), append(p99, s.p99)
			rRPS, rCPU = append(rRPS, s.rps/base.rounds[i].rps), append(rCPU, s.cpu/base.rounds[i].cpu)
		}
		fmt.Fprintf(tw, "%s\t%.0f\t%.1f\t%s\t%s\t%d\t%.2f\t%.2f\t\n", t.name, median(rps), median(cpu), median(p50).Round(10*time.Microsecond),
			median(p99).Round(10*time.Microsecond), t.loaded>>20, median(rCPU), median(rRPS))
		if o.check && t.name == "hybrid" && (median(rCPU) > 3.0 || median(rRPS) < 0.42 || t.loaded > 250<<20) {
			failed = fmt.Errorf("hybrid misses its bars: CPU × %.2f (≤ 3.0), requests × %.2f (≥ 0.42), RSS %d MiB (≤ 250)", median(rCPU), median(rRPS), t.loaded>>20)
		}
	}
	fmt.Fprintf(tw, "\nratios: medians of the paired rounds against %s\n", base.name)
	return errors.Join(tw.Flush(), failed)
}

// start starts the sink, the plain proxy, hooktender in each mode, and nginx where it is installed.
func start(p *processes, o options, dir string) ([]*target, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	if o.binary == "" {
		o.binary = filepath.Join(dir, "hooktender")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", o.binary, "github.com/hooktender/hooktender")
		build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		if err := build.Run(); err != nil {
			return nil, "", fmt.Errorf("build: %w", err)
		}
	}
	sink := freeAddr()
	if _, err := p.start(sink, nil, self, "-role", "sink", "-listen", sink); err != nil {
		return nil, "", err
	}
	wanted := func(name string) bool {
		return o.only == "" || name == "proxy" || slices.Contains(strings.Split(o.only, ","), name)
	}
	var out []*target
	add := func(name, addr, path string, pid int, err error) error {
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		out = append(out, &target{name: name, addr: addr, path: path, pid: pid})
		return nil
	}
	addr := freeAddr()
	pid, err := p.start(addr, nil, self, "-role", "proxy", "-listen", addr, "-upstream", sink)
	if err := add("proxy", addr, "/bench", pid, err); err != nil {
		return nil, "", err
	}
	if nginx, err := exec.LookPath("nginx"); err == nil && wanted("nginx") {
		addr := freeAddr()
		pid, err := startNginx(p, nginx, addr, sink)
		if err := add("nginx", addr, "/bench", pid, err); err != nil {
			return nil, "", err
		}
	}
	for _, mode := range []struct{ name, mode, sync string }{{"nosync", "hybrid", "none"}, {"proxy-mode", "proxy", "always"}, {"hybrid", "hybrid", "always"}, {"store", "store", "always"}} {
		if !wanted(mode.name) {
			continue
		}
		addr, admin := freeAddr(), freeAddr()
		path := filepath.Join(dir, mode.name+".yaml")
		if err := os.WriteFile(path, []byte(gatewayConfig(addr, admin, filepath.Join(dir, mode.name), sink, mode.mode, mode.sync)), 0o600); err != nil {
			return nil, "", err
		}
		pid, err := p.start(addr, []string{"BENCH_SECRET=" + secret}, o.binary, "run", "--config", path, "--log-level", "warn")
		if err := add(mode.name, addr, "/bench", pid, err); err != nil {
			return nil, "", err
		}
	}
	return out, sink, nil
}

func gatewayConfig(addr, admin, data, sink, mode, sync string) string {
	return fmt.Sprintf(`version: 1
listen: %q
data_dir: %q
admin: {listen: %q}
journal: {min_free: 64MiB, sync: %s}
upstreams: {sink: {url: "http://%s", max_in_flight: 128}}
sources:
  bench:
    path: /bench
    provider: custom
    secrets: [{env: BENCH_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource"}
    delivery: {mode: %s, upstream: sink}
`, addr, data, admin, sync, sink, mode)
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
