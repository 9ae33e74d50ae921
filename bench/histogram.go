//go:build linux

package main

import (
	"math/bits"
	"time"
)

// A histogram keeps durations with an error below 1 %, in fixed memory.
type histogram struct {
	counts [64 * subBuckets]uint32
	n      uint64
}

const (
	subBits    = 7
	subBuckets = 1 << subBits
)

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(uint64(max(d, 0)))]++
	h.n++
}

func bucketOf(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift*subBuckets + int(v>>shift)
}

// at gives the value below which the share q of all values is.
func (h *histogram) at(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank, seen := uint64(q*float64(h.n-1)), uint64(0)
	for i, c := range h.counts {
		if seen += uint64(c); seen > rank {
			if i < subBuckets {
				return time.Duration(i)
			}
			shift := i/subBuckets - 1
			low := uint64(i-shift*subBuckets) << shift
			return time.Duration(low + 1<<shift/2)
		}
	}
	return 0
}
