package embedded

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/journal"
)

// cpu is the processor time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEvent is the life of an event in hybrid mode: Accept Written, Commit Synced, 64 at a time.
func BenchmarkEvent(b *testing.B) {
	e := start(b, Options{Sync: true})
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			v := accept(b, e, journal.Written, sample(int(n.Add(1))))
			deliver(b, e, journal.Synced, v.Record)
		}
	})
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/event")
	s := e.Stats()
	b.ReportMetric(float64(s.Items)/float64(max(s.Groups, 1)), "items/group")
	b.ReportMetric(float64(s.Items)/float64(max(s.Syncs, 1)), "items/sync")
}
