package gateway

import (
	"context"
	"runtime"
	"runtime/metrics"
	"time"
)

// Many connections that wait hold on to the stacks that their last request needed, and only a collection gives stacks back. An idle
// gateway makes none, so trim asks for one while that pays.
const (
	trimInterval   = time.Second
	trimMaxPause   = 2 * time.Minute
	trimGoroutines = 1000    // fewer are not worth it
	trimStack      = 9 << 10 // bytes of stack per goroutine that are fair: one that waits needs 8 KiB
)

// trim runs until ctx ends.
func (g *Gateway) trim(ctx context.Context) {
	pause := trimInterval
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		before, goroutines := stacks()
		if goroutines < trimGoroutines || before/goroutines < trimStack {
			pause = trimInterval
		} else {
			runtime.GC()
			if after, _ := stacks(); after > before/10*9 {
				pause = min(2*pause, trimMaxPause) // they are in use
			}
		}
		t.Reset(pause)
	}
}

// stacks is how many bytes stacks take, and how many goroutines there are.
func stacks() (bytes, goroutines uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0, 0
		}
	}
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}
