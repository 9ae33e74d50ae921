package metrics

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Counters are split over shards, a cache line each, so that cores that count the same thing do not wait for each other. A shard is
// picked at random: cheaper than asking which core one runs on, and as good.
const (
	shardCount = 8
	cacheLine  = 64
)

type shard struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

// Counter counts up. The zero value is ready; all methods are safe for concurrent use and never block. A nil Counter counts nothing.
type Counter struct{ shards [shardCount]shard }

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) {
	if c != nil {
		c.shards[rand.Uint32()%shardCount].n.Add(n)
	}
}

// Value is the sum so far.
func (c *Counter) Value() uint64 {
	var n uint64
	if c != nil {
		for i := range c.shards {
			n += c.shards[i].n.Load()
		}
	}
	return n
}

// maxBuckets bounds the buckets of a histogram, the last one for everything above included.
const maxBuckets = 16

type histShard struct {
	counts [maxBuckets]atomic.Uint64
	sum    atomic.Int64
	_      [cacheLine - 8]byte
}

// Histogram sorts values into fixed buckets. Made by a Set; all methods are safe for concurrent use and never block. A nil Histogram
// takes nothing. Values are integers (nanoseconds, or a count); scale is how many of them make the unit that is shown.
type Histogram struct {
	bounds []int64 // upper bounds, inclusive, ascending; at most maxBuckets-1
	scale  float64
	shards [shardCount]histShard
}

// Observe takes a duration.
func (h *Histogram) Observe(d time.Duration) { h.ObserveN(int64(d)) }

// ObserveN takes a value in the histogram's own integer unit: a count for hooktender_journal_group_size, nanoseconds for all others.
func (h *Histogram) ObserveN(n int64) {
	if h == nil {
		return
	}
	i := 0
	for i < len(h.bounds) && n > h.bounds[i] {
		i++
	}
	s := &h.shards[rand.Uint32()%shardCount]
	s.counts[i].Add(1)
	s.sum.Add(n)
}

// snapshot gives the count, the sum in the unit shown, and the cumulative counts by upper bound.
func (h *Histogram) snapshot() (count uint64, sum float64, buckets map[float64]uint64) {
	var counts [maxBuckets]uint64
	var total int64
	for i := range h.shards {
		for j := range h.bounds {
			counts[j] += h.shards[i].counts[j].Load()
		}
		counts[len(h.bounds)] += h.shards[i].counts[len(h.bounds)].Load()
		total += h.shards[i].sum.Load()
	}
	buckets = make(map[float64]uint64, len(h.bounds))
	for j, b := range h.bounds {
		count += counts[j]
		buckets[float64(b)/h.scale] = count
	}
	return count + counts[len(h.bounds)], float64(total) / h.scale, buckets
}

// Buckets, in nanoseconds: what a request or an attempt takes, what a check in memory takes, and what a disk takes.
var (
	requestBounds = durations(time.Millisecond, 2500*time.Microsecond, 5*time.Millisecond, 10*time.Millisecond, 25*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 250*time.Millisecond, 500*time.Millisecond, time.Second, 2500*time.Millisecond, 5*time.Second, 10*time.Second, 30*time.Second)
	verifyBounds = durations(time.Microsecond, 2*time.Microsecond, 5*time.Microsecond, 10*time.Microsecond, 25*time.Microsecond, 50*time.Microsecond,
		100*time.Microsecond, 250*time.Microsecond, 500*time.Microsecond, time.Millisecond, 5*time.Millisecond, 25*time.Millisecond)
	syncBounds = durations(50*time.Microsecond, 100*time.Microsecond, 250*time.Microsecond, 500*time.Microsecond, time.Millisecond, 2500*time.Microsecond,
		5*time.Millisecond, 10*time.Millisecond, 25*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond, 500*time.Millisecond, time.Second)
	groupBounds = []int64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}
)

func durations(ds ...time.Duration) []int64 {
	out := make([]int64, len(ds))
	for i, d := range ds {
		out[i] = int64(d)
	}
	return out
}

func newHistogram(bounds []int64, scale float64) *Histogram {
	return &Histogram{bounds: bounds, scale: scale}
}
