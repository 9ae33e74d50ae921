// Command allocs runs the micro-benchmarks of every stage on the way of a request and compares their allocations with the committed ones.
//
//	go run ./bench/allocs           exit 1 where a stage allocates over 10 % more than bench/allocs/baseline.txt says
//	go run ./bench/allocs -update   write the file anew
//
// Run it from the module's root. Allocations, unlike times, are the same on every machine; times are shown and not judged.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// stages are the benchmarks, in the order in which a request meets them.
var stages = []struct{ name, pkg, bench string }{
	{"wire check", "proxy", "Head"},
	{"server", "proxy", "Server"},
	{"verify", "verify", "VerifyFields"},
	{"verify", "verify", "VerifyTagged"},
	{"identify", "selector", "Identify"},
	{"dedup", "dedup", "Known"},
	{"dedup", "dedup", "New"},
	{"order", "ordering", "Lane"},
	{"order", "ordering", "Version"},
	{"journal", "journal/embedded", "Accept"},
	{"journal", "journal/embedded", "Commit"},
	{"journal", "journal/embedded", "Event"},
	{"forward", "forward", "Compose"},
	{"forward", "forward", "Do"},
	{"metrics", "metrics", "Counter"},
	{"metrics", "metrics", "Histogram"},
	{"metrics", "metrics", "Event"},
	{"all of it", "gateway", "Request/proxy"},
	{"all of it", "gateway", "Request/hybrid"},
	{"all of it", "gateway", "Request/store"},
	{"all of it", "gateway", "Request/duplicate"},
}

const (
	baseline = "bench/allocs/baseline.txt"
	allowed  = 1.10
	times    = "2000x" // enough that what happens once does not count
	count    = "3"     // the least of so many runs: what goes on in the background only adds
)

// figure is what one benchmark took.
type figure struct {
	allocs int64
	ns     float64
}

func main() {
	update := flag.Bool("update", false, "write "+baseline+" anew")
	flag.Parse()
	if err := run(os.Stdout, *update); err != nil {
		fmt.Fprintln(os.Stderr, "allocs:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, update bool) error {
	got, err := measure()
	if err != nil {
		return err
	}
	if update {
		return os.WriteFile(baseline, write(got), 0o644)
	}
	raw, err := os.ReadFile(baseline)
	if err != nil {
		return err
	}
	want, err := read(raw)
	if err != nil {
		return err
	}
	return compare(w, got, want)
}

func key(pkg, bench string) string { return pkg + " " + bench }

// measure runs the benchmarks, a package at a time.
func measure() (map[string]figure, error) {
	byPkg := map[string][]string{}
	var order []string
	for _, s := range stages {
		if byPkg[s.pkg] == nil {
			order = append(order, s.pkg)
		}
		if name, _, _ := strings.Cut(s.bench, "/"); !slices.Contains(byPkg[s.pkg], name) {
			byPkg[s.pkg] = append(byPkg[s.pkg], name)
		}
	}
	got := map[string]figure{}
	for _, pkg := range order {
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^Benchmark("+strings.Join(byPkg[pkg], "|")+")$", "-benchtime", times, "-count", count, "-benchmem", "./"+pkg)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", pkg, err, out)
		}
		if err := parse(pkg, out, got); err != nil {
			return nil, err
		}
	}
	for _, s := range stages {
		if _, ok := got[key(s.pkg, s.bench)]; !ok {
			return nil, fmt.Errorf("%s has no Benchmark%s", s.pkg, s.bench)
		}
	}
	return got, nil
}

// parse reads what go test prints; of several runs of a benchmark the least counts.
func parse(pkg string, out []byte, into map[string]figure) error {
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // GOMAXPROCS
		}
		now := figure{allocs: -1}
		for i := 3; i < len(f); i += 2 {
			var err error
			switch f[i] {
			case "ns/op":
				now.ns, err = strconv.ParseFloat(f[i-1], 64)
			case "allocs/op":
				now.allocs, err = strconv.ParseInt(f[i-1], 10, 64)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		if now.allocs < 0 {
			return fmt.Errorf("no allocs/op: %s", line)
		}
		if before, ok := into[key(pkg, name)]; ok {
			now.allocs, now.ns = min(now.allocs, before.allocs), min(now.ns, before.ns)
		}
		into[key(pkg, name)] = now
	}
	return nil
}

func write(got map[string]figure) []byte {
	var b bytes.Buffer
	b.WriteString("# allocs/op of every stage: go run ./bench/allocs -update\n")
	for _, s := range stages {
		fmt.Fprintf(&b, "%s %d\n", key(s.pkg, s.bench), got[key(s.pkg, s.bench)].allocs)
	}
	return b.Bytes()
}

func read(raw []byte) (map[string]int64, error) {
	out := map[string]int64{}
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		f := strings.Fields(sc.Text())
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: %q", baseline, sc.Text())
		}
		n, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", baseline, err)
		}
		out[key(f[0], f[1])] = n
	}
	return out, sc.Err()
}

func compare(w io.Writer, got map[string]figure, want map[string]int64) error {
	var faults []error
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "stage\tbenchmark\tns/op\tallocs/op\tcommitted\t")
	for _, s := range stages {
		k := key(s.pkg, s.bench)
		now, verdict := got[k], ""
		before, known := want[k]
		switch {
		case !known:
			verdict = "NEW"
			faults = append(faults, fmt.Errorf("%s is not in %s: run with -update", k, baseline))
		case float64(now.allocs) > float64(before)*allowed:
			verdict = "MORE"
			faults = append(faults, fmt.Errorf("%s allocates %d times, committed are %d", k, now.allocs, before))
		case float64(now.allocs)*allowed < float64(before):
			verdict = "less: -update keeps it so"
		}
		fmt.Fprintf(tw, "%s\t%s.%s\t%.0f\t%d\t%d\t%s\n", s.name, s.pkg, s.bench, now.ns, now.allocs, before, verdict)
	}
	return errors.Join(append(faults, tw.Flush())...)
}
