// Package memory keeps what the process holds of the machine's memory near what it needs.
package memory

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	beside   = 48 << 20        // what the process may use beside its journal before the garbage collector works harder
	most     = 96 << 20        // and what it may use to spare the collector
	headroom = 24 << 20        // but always this much more than what lives
	outside  = 16 << 20        // in the heap, and what is outside of it
	lookEach = time.Second / 4 // what lives may grow by a hundred MiB in two seconds, at a start with very many pending events
	calm     = 256 << 10       // fewer bytes allocated between two looks are none
	// After so many calm looks what is free goes back to the system: when the work is over, and when the index has let go of what its compactions used.
	rested, settled = 120, 360
)

// Keep works until ctx ends. journal is the budget of the journal's index in bytes. While there is work, the garbage collector is made to collect before the process holds
// journal + 48 MiB, or, where more than that lives, what lives and twice as much again as there is to look through, up to journal + 96 MiB: most of what lives are the index's
// buffers, which cost a collection nothing. It is no bound on what lives, which always has 40 MiB to spare. An idle process gives back what it does not need. GOMEMLIMIT takes the place
// of the bound.
func Keep(ctx context.Context, journal int64) {
	k := newKeeper(journal)
	t := time.NewTicker(lookEach)
	defer t.Stop()
	for {
		k.look()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

type keeper struct {
	journal   int64 // 0: the bound is not ours to set
	limit     int64 // as it is set; 0: not yet
	read      [3]metrics.Sample
	allocated uint64 // as of the last look
	calm      int    // looks since there was work, up to settled
	free      func()
}

func newKeeper(journal int64) *keeper {
	k := &keeper{free: debug.FreeOSMemory}
	if os.Getenv("GOMEMLIMIT") == "" {
		k.journal = journal
	}
	for i, name := range [...]string{"/gc/heap/live:bytes", "/gc/scan/heap:bytes", "/gc/heap/allocs:bytes"} {
		k.read[i].Name = name
	}
	return k
}

func (k *keeper) look() {
	metrics.Read(k.read[:])
	live, scan, allocated := k.read[0].Value.Uint64(), k.read[1].Value.Uint64(), k.read[2].Value.Uint64()
	if k.journal > 0 {
		// To set it stops the world, also where it was the same before.
		if n := max(k.journal+beside, min(int64(live+2*scan)+outside, k.journal+most), int64(live)+headroom+outside); n != k.limit {
			k.limit = n
			debug.SetMemoryLimit(n)
		}
	}
	fresh := allocated - k.allocated
	if k.allocated = allocated; fresh >= calm {
		k.calm = 0
		return
	}
	if k.calm = min(k.calm+1, settled+1); k.calm == rested || k.calm == settled {
		k.free()
	}
}
