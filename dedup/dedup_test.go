package dedup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
)

// logOf answers look-ups from a map and counts them.
type logOf struct {
	mu    sync.Mutex
	fates map[event.Key]event.Fate
	asked int
	err   error
}

func (l *logOf) Lookup(_ context.Context, keys []event.Key) ([]event.Fate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.err != nil {
		return nil, l.err
	}
	out := make([]event.Fate, len(keys))
	for i, k := range keys {
		out[i] = l.fates[k]
	}
	return out, nil
}

func index(t testing.TB, l *logOf) *Index {
	t.Helper()
	x, err := New(Default(), l, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func key(i int) event.Key { return event.MakeKey(event.KeyEvent, "s", "", fmt.Sprint(i)) }

// Of any number of requests with one key, one is under way at a time.
func TestOneClaimAtATime(t *testing.T) {
	x := index(t, &logOf{})
	var under [2][4]atomic.Int64 // requests that hold a key
	var waited atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			keys := []event.Key{key(i % 4), key(100 + i%3)} // overlapping
			if i%2 == 0 {
				keys[0], keys[1] = keys[1], keys[0] // in no common order
			}
			held := [2]*atomic.Int64{&under[0][i%4], &under[1][i%3]}
			for {
				mine, other := x.Claim(keys)
				if mine != nil {
					for _, h := range held {
						if n := h.Add(1); n != 1 {
							t.Errorf("%d requests hold one key", n)
						}
					}
					time.Sleep(time.Millisecond)
					for _, h := range held {
						h.Add(-1)
					}
					mine.Release(i)
					return
				}
				if _, ok := other.Wait(context.Background(), time.Minute); !ok {
					t.Error("nobody released")
					return
				}
				waited.Add(1)
			}
		})
	}
	wg.Wait()
	if waited.Load() == 0 {
		t.Error("nobody waited: the test shows nothing")
	}
	for i := range x.shard {
		if n := len(x.shard[i].claims); n != 0 {
			t.Errorf("%d claims left", n)
		}
	}
}

func TestWaiterGetsTheFirstOnesValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := index(t, &logOf{})
		first, _ := x.Claim([]event.Key{key(1)})
		_, other := x.Claim([]event.Key{key(1)})
		if _, ok := other.Wait(t.Context(), time.Second); ok {
			t.Error("it waits as long as it may, and no longer")
		}
		_, other = x.Claim([]event.Key{key(1)})
		go func() { time.Sleep(5 * time.Second); first.Release("answer") }()
		if v, ok := other.Wait(t.Context(), time.Minute); !ok || v != "answer" {
			t.Errorf("got %v, %v", v, ok)
		}
		if !first.Awaited() {
			t.Error("somebody waited")
		}
		twice, _ := x.Claim([]event.Key{key(2), key(2)})
		if twice == nil {
			t.Fatal("a request waits for itself")
		}
		twice.Release(nil)
		if again, _ := x.Claim([]event.Key{key(2)}); again == nil {
			t.Error("a key that was named twice is still held")
		}
	})
}

// The cache answers only for what was remembered, and not beyond the event's own window.
func TestCacheEndsWithTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logOf{fates: map[event.Key]event.Fate{}}
		x := index(t, l)
		r := &event.Fate{ID: event.MakeID(time.Now(), 1, 0), State: event.Delivered, ReceivedAt: time.Now(), BodySHA256: [32]byte{1}}
		keys := []event.Key{key(1)}
		look := func() (Found, bool) {
			f, ok := x.Cached(keys, &r.BodySHA256, time.Now())
			if ok {
				return f, ok
			}
			f, ok, err := x.Lookup(t.Context(), keys, &r.BodySHA256)
			if err != nil {
				t.Fatal(err)
			}
			return f, ok
		}
		if _, ok := look(); ok || l.asked != 1 {
			t.Error("a miss asks the journal")
		}
		x.Remember(keys, r)
		if f, ok := look(); !ok || !f.Durable || f.ID != r.ID || f.Other || l.asked != 1 {
			t.Errorf("remembered: %+v, journal asked %d times", f, l.asked)
		}
		other := [32]byte{2}
		if f, ok := x.Cached(keys, &other, time.Now()); !ok || !f.Other {
			t.Error("another body under the id is told apart")
		}
		time.Sleep(time.Hour)
		if _, ok := look(); ok || l.asked != 2 {
			t.Error("after the window the cache does not answer")
		}
	})
}

// A reload that makes the window shorter leaves the answer to the journal; a longer one forgets nothing. Every look-up is told of, and an error of the journal is no "new".
func TestTheWindowGetsShorter(t *testing.T) {
	var told []string
	l := &logOf{}
	x, err := New(Default(), l, time.Hour, func(tier string, hit bool) { told = append(told, fmt.Sprint(tier, " ", hit)) })
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f := event.Fate{ID: event.MakeID(now, 1, 0), State: event.Delivered, ReceivedAt: now}
	keys := []event.Key{key(1)}
	l.fates = map[event.Key]event.Fate{keys[0]: f}
	x.Remember(keys, &f)
	for _, window := range []time.Duration{2 * time.Hour, 2 * time.Hour, time.Minute} {
		if _, ok := x.Cached(keys, &f.BodySHA256, now); !ok {
			t.Errorf("forgotten before the window is %s", window)
		}
		x.Reconfigure(Config{Cache: 1}, window)
	}
	if _, ok := x.Cached(keys, &f.BodySHA256, now); ok {
		t.Error("known by the window of before")
	}
	if got, ok, err := x.Lookup(t.Context(), keys, &f.BodySHA256); !ok || err != nil || got.Durable || got.Other {
		t.Errorf("the journal: %+v, %v, %v", got, ok, err)
	}
	x.Remember(keys, &f)
	if _, ok := x.Cached(keys, &f.BodySHA256, now.Add(time.Minute)); ok {
		t.Error("what is remembered now goes by the new window")
	}
	if want := "[lru true lru true lru true lru false log true lru false]"; fmt.Sprint(told) != want {
		t.Errorf("told %v, want %s", told, want)
	}
	for body, differs := range map[[32]byte]bool{f.BodySHA256: false, {1}: true} {
		if got := x.Met(&f, 1, &body); got.ID != f.ID || got.Key != 1 || got.Durable || got.Other != differs {
			t.Errorf("named by the journal as it refused the claim: %+v", got)
		}
	}
	l.err = errors.New("the disk")
	if _, ok, err := x.Lookup(t.Context(), keys, &f.BodySHA256); ok || !errors.Is(err, l.err) {
		t.Errorf("a failing journal: %v, %v", ok, err)
	}
}

func BenchmarkKnown(b *testing.B) {
	x := index(b, &logOf{})
	r := &event.Fate{ID: event.MakeID(time.Now(), 1, 0), State: event.Delivered, ReceivedAt: time.Now()}
	keys := []event.Key{key(1)}
	x.Remember(keys, r)
	b.ReportAllocs()
	for b.Loop() {
		c, _ := x.Claim(keys)
		_, _ = x.Cached(keys, &r.BodySHA256, r.ReceivedAt)
		c.Release(nil)
	}
}

// BenchmarkNew is an id that nobody has sent before, on its way in front of the journal's own claim.
func BenchmarkNew(b *testing.B) {
	x := index(b, &logOf{})
	r := &event.Fate{ID: event.MakeID(time.Now(), 1, 0), State: event.Delivered, ReceivedAt: time.Now()}
	keys := []event.Key{{}}
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		binary.BigEndian.PutUint64(keys[0][:], n)
		c, _ := x.Claim(keys)
		_, _ = x.Cached(keys, &r.BodySHA256, r.ReceivedAt)
		x.Remember(keys, r)
		c.Release(nil)
	}
}
