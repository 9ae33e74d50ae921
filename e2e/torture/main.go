// Command torture runs the real binary under kill -9, power cuts, failing fsyncs, a full disk and damaged files, keeps the books of both sides, and judges them against
// the promise: acknowledged means in the journal and delivered once, or more than once and marked; nothing forged or altered is forwarded.
//
//	go run ./e2e/torture                 small: every fault, about five minutes (the clock needs a build of its own)
//	go run ./e2e/torture -size large     the figures of docs/guarantees.md, about an hour
//	go run ./e2e/torture -faults power,eio -cycles 50 -seed 7
//
// What needs root, FUSE or loop mounts and does not find them is skipped, with the reason. Exit 1: something was violated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
)

// bench is what every fault is given.
type bench struct {
	ctx    context.Context
	binary string
	dir    string // for this fault alone
	seed   uint64
	rnd    *rand.Rand
	cycles int
	large  bool
	keep   bool
	sync   string // journal.sync
	files  string // of the files to damage: those whose path has this in it
}

// result is one row of the table.
type result struct {
	ledger.Report
	note string
}

var errSkipped = errors.New("skipped")

func skip(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errSkipped, fmt.Sprintf(format, args...))
}

// fault is one way to hurt the gateway.
type fault struct {
	name, what   string
	small, large int
	run          func(*bench) (result, error)
}

var faults = []fault{
	{"kill-hybrid", "SIGKILL under load, hybrid", 5, 300, func(b *bench) (result, error) { return killUnderLoad(b, "hybrid") }},
	{"kill-store", "SIGKILL under load, store, with a backlog", 5, 300, func(b *bench) (result, error) { return killUnderLoad(b, "store") }},
	{"kill-proxy", "SIGKILL under load, proxy", 5, 300, func(b *bench) (result, error) { return killUnderLoad(b, "proxy") }},
	{"recovery", "SIGKILL during recovery", 10, 100, killDuringRecovery},
	{"backlog", "SIGKILL with many pending", 3000, 100_000, backlog},
	{"power", "power cut, journalled file system, torn sectors", 6, 300, func(b *bench) (result, error) { return powerCuts(b, "journalled", "hybrid") }},
	{"power-store", "power cut, journalled, torn sectors, store, with a backlog", 4, 100, func(b *bench) (result, error) { return powerCuts(b, "journalled", "store") }},
	{"strict", "power cut, no more than POSIX promises", 4, 100, func(b *bench) (result, error) { return powerCuts(b, "strict", "hybrid") }},
	{"eio", "EIO at the n-th fsync, then a power cut", 10, 200, failingSyncs},
	{"eio-again", "EIO at the n-th fsync of the log, another start, then a power cut", 9, 90, failingSyncsThenAStart},
	{"eio-table", "EIO at the n-th fsync of a table of the index, then a power cut", 12, 100, failingTables},
	{"clock", "the clock set by a day and a year, both ways", 2, 8, clockJumps},
	{"full", "a 100 MB disk filled up", 2, 20, fullDisk},
	{"damage", "damaged files", 12, 0, damagedFiles},
}

func main() { os.Exit(run()) }

func run() int {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	which := flag.String("faults", strings.Join(names, ","), "which faults, comma-separated")
	size := flag.String("size", "small", "small or large")
	cycles := flag.Int("cycles", 0, "cycles of each fault; 0 = what the size says")
	binary := flag.String("binary", "", "the hooktender to hurt; empty = built from this source")
	seed := flag.Uint64("seed", 0, "seed of every choice; 0 = from the clock. Moments of kills depend on the machine, too")
	syncs := flag.String("sync", "always", "journal.sync; with none, power cuts must find what was lost: a proof of the test")
	files := flag.String("files", "", "damage only files whose path has this in it")
	keep := flag.Bool("keep", false, "keep the files")
	flag.Parse()
	if *size != "small" && *size != "large" {
		fmt.Fprintln(os.Stderr, "-size must be small or large")
		return 2
	}
	for name := range strings.SplitSeq(*which, ",") {
		if !slices.Contains(names, name) {
			fmt.Fprintf(os.Stderr, "-faults: %q is none of %s\n", name, strings.Join(names, ", "))
			return 2
		}
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Println("seed", *seed)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "hooktender-torture-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if *keep {
		fmt.Println("files in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if *binary == "" {
		*binary = filepath.Join(dir, "hooktender")
		if err := goBuild(".", "github.com/hooktender/hooktender", *binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := 0
	var rows []string
	for _, f := range faults {
		if !slices.Contains(strings.Split(*which, ","), f.name) || ctx.Err() != nil {
			continue
		}
		b := &bench{ctx: ctx, binary: *binary, dir: filepath.Join(dir, f.name), seed: *seed, rnd: rand.New(rand.NewPCG(*seed, uint64(len(f.name)))), large: *size == "large", keep: *keep, sync: *syncs, files: *files}
		b.cycles = f.small
		if b.large {
			b.cycles = f.large
		}
		if *cycles > 0 {
			b.cycles = *cycles
		}
		if err := os.MkdirAll(b.dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		began := time.Now()
		r, err := f.run(b)
		err = errors.Join(err, r.Err())
		took := time.Since(began).Round(time.Second)
		switch {
		case errors.Is(err, errSkipped):
			fmt.Printf("%-12s SKIP  %v\n", f.name, err)
			continue
		case err != nil:
			code = 1
			fmt.Printf("%-12s FAIL  (%s) %s\n%v\n", f.name, took, r.String(), err)
		default:
			fmt.Printf("%-12s ok    (%s) %s; %s\n", f.name, took, r.String(), r.note)
		}
		rows = append(rows, fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d | %s |", f.what, r.Cuts, r.Acked, r.Lost, r.Repeats, r.InFlight, r.Unmarked, r.note))
	}
	fmt.Println("\n| fault | cycles | acknowledged | lost | repeats | in flight at the cuts | repeats unmarked | |\n|---|---|---|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Println(r)
	}
	return code
}

func goBuild(dir, pkg, out string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
