package simulation

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var (
	seeds = flag.Int("seeds", 400, "how many seeds, from -from on")
	from  = flag.Uint64("from", 1, "the first seed")
	loads = flag.Uint64("reloads", 150, "how many seeds with reloads and pauses, from -from on")
	ends  = flag.Uint64("ends", 150, "how many seeds with SIGTERM, from -from on")
	one   = flag.Uint64("seed", 0, "this seed alone, with what happened")
)

// simulate runs one seed, in a world that each of set has changed before.
func simulate(t *testing.T, seed uint64, set ...func(*world)) *world {
	var w *world
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(seed)
		for _, change := range set {
			change(w)
		}
		w.run()
	})
	return w
}

// A simulation that cannot fail proves nothing: on a disk whose fsync lies it finds what was lost.
func TestLyingDiskIsFound(t *testing.T) {
	for seed := uint64(1); seed <= 500; seed++ {
		w := simulate(t, seed, func(w *world) { w.liar = true })
		if len(w.faults) > 0 {
			t.Logf("found with seed %d: %v", seed, w.faults[0])
			return
		}
	}
	t.Error("500 seeds on a disk that forgets what was synced, and nothing was found")
}

// The same seed is the same history, so that a violation can be looked at again: on one processor, where only the scheduler still decides between what
// happens at the same nanosecond.
func TestSameSeedSameHistory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector lets goroutines run in another order each time")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	same := 0
	const n = 60
	for seed := uint64(1); seed <= n; seed++ {
		if strings.Join(simulate(t, seed).trace, "\n") == strings.Join(simulate(t, seed).trace, "\n") {
			same++
		}
	}
	t.Logf("%d of %d seeds went the same way twice", same, n)
	if same < n*9/10 {
		t.Errorf("only %d of %d seeds went the same way twice", same, n)
	}
}

// Seeds in which something was once wrong; see e2e/DESIGN.md.
func TestSeedsThatFailedOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // see TestSameSeedSameHistory
	for _, seed := range []uint64{14, 106217, 641176} {
		if w := simulate(t, seed); len(w.faults) > 0 {
			t.Errorf("seed %d: %v\n%s", seed, w.faults, strings.Join(w.trace, "\n"))
		}
	}
}

// Every seed is a history of sends, failures and crashes; in none of them is anything lost, repeated without a mark or forgotten.
func TestSeeds(t *testing.T) {
	if *one != 0 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // see TestSameSeedSameHistory
		w := simulate(t, *one)
		t.Logf("seed %d, %s, %s\n%s", w.seed, w.set.mode, w.set.policy, strings.Join(w.trace, "\n"))
		for _, err := range w.faults {
			t.Error(err)
		}
		return
	}
	var next, crashes atomic.Uint64
	var mu sync.Mutex
	rows := map[string]int{}
	failed := 0
	next.Store(*from)
	end := *from + uint64(*seeds)
	t.Run("all", func(t *testing.T) {
		for worker := range 2 {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for {
					seed := next.Add(1) - 1
					if seed >= end || t.Failed() {
						return
					}
					w := simulate(t, seed)
					mu.Lock()
					for _, p := range points {
						rows[p.row] += w.crashed[p.name]
						crashes.Add(uint64(w.crashed[p.name]))
					}
					if len(w.faults) > 0 {
						failed++
						if failed <= 3 {
							t.Errorf("seed %d (%s, %s): %v\nagain with: go test ./e2e/simulation -seed %d -v\n%s", seed, w.set.mode, w.set.policy, w.faults, seed, strings.Join(w.trace, "\n"))
						}
					}
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d seeds, %d crashes: %v; %d with a violation", *seeds, crashes.Load(), rows, failed)
	for _, p := range points {
		if *seeds >= 400 && rows[p.row] == 0 {
			t.Errorf("no crash %s", p.row)
		}
	}
}

// The same while an operator reloads the gateway with another order, mode or upstream, and pauses it.
func TestReloads(t *testing.T) {
	for seed := *from; seed < *from+*loads; seed++ {
		w := simulate(t, seed, func(w *world) { w.reloads = true })
		if len(w.faults) > 0 {
			t.Fatalf("seed %d: %v\nagain with: go test ./e2e/simulation -run TestReloads -from %d -reloads 1\n%s", seed, w.faults, seed, strings.Join(w.trace, "\n"))
		}
	}
}

// The same while the gateway is ended as by SIGTERM and started again, in half of the seeds with reloads and pauses: nothing is lost or doubled by it.
func TestEnds(t *testing.T) {
	ended := 0
	for seed := *from; seed < *from+*ends; seed++ {
		w := simulate(t, seed, func(w *world) { w.ends, w.reloads = true, seed%2 == 0 })
		ended += w.ended
		if len(w.faults) > 0 {
			t.Fatalf("seed %d (%+v): %v\nagain with: go test ./e2e/simulation -run TestEnds -from %d -ends 1\n%s", seed, w.set, w.faults, seed, strings.Join(w.trace, "\n"))
		}
	}
	t.Logf("%d seeds, %d ends", *ends, ended)
	if *ends >= 100 && ended == 0 {
		t.Error("nothing was ended")
	}
}
