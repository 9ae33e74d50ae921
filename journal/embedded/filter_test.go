package embedded

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

func bare(i int) journal.Accept {
	a := sample(i)
	a.Payload = nil
	return a
}

// keysOf accepts samples from..to and gives their keys.
func keysOf(t *testing.T, e *Engine, from, to int) (keys []event.Key) {
	t.Helper()
	for i := from; i < to; i++ {
		a := bare(i)
		if !accept(t, e, journal.Written, a).Accepted {
			t.Fatalf("event %d is new", i)
		}
		keys = append(keys, a.Keys...)
	}
	must(t, e.settle(context.Background()))
	return keys
}

// holdsAll fails unless the filter in use passes these keys, and not one that nobody has claimed.
func holdsAll(t *testing.T, e *Engine, keys []event.Key) {
	t.Helper()
	f := e.filters.now.Load()
	if f == nil || !f.absent(event.MakeKey(event.KeyEvent, "nobody")) {
		t.Fatal("there is no filter in use")
	}
	for i, k := range keys {
		if f.absent(k) {
			t.Fatalf("key %d of %d is hidden", i, len(keys))
		}
	}
}

// TestFilterIsThereFromTheStart: it has what is in tables and what is in memory tables, after an orderly stop, after a crash, and after the index was lost.
func TestFilterIsThereFromTheStart(t *testing.T) {
	o := Options{Dir: memDir(t), Sync: true, Log: quiet}
	e := start(t, o)
	keys := keysOf(t, e, 0, 1000)
	holdsAll(t, e, keys)
	must(t, e.Close()) // writes a table
	e = start(t, o)
	holdsAll(t, e, keys)
	keys = append(keys, keysOf(t, e, 1000, 2000)...)
	o.Dir = copyDir(t, o.Dir) // with a memory table, as a crash leaves it
	e = start(t, o)
	if n := e.filters.now.Load().added.Load(); n < int64(len(keys)) {
		t.Fatalf("%d keys, not %d", n, len(keys))
	}
	holdsAll(t, e, keys)
	must(t, e.Close())
	must(t, os.RemoveAll(filepath.Join(o.Dir, nameIndex)))
	e = start(t, o)
	holdsAll(t, e, keys)
}

// TestFilterOfAnEncryptedIndex: only Badger can read its tables, so it is built from what Badger reads, once there is something to flush.
func TestFilterOfAnEncryptedIndex(t *testing.T) {
	o := Options{Dir: memDir(t), Sync: true, Log: quiet, Keys: [][]byte{make([]byte, 32)}}
	e := start(t, o)
	keys := keysOf(t, e, 0, 500)
	must(t, e.Close())
	e = start(t, o)
	keys = append(keys, keysOf(t, e, 500, 501)...)
	awaitFilter(t, e, nil)
	holdsAll(t, e, keys)
}

// TestWornFilterIsBuiltAnew: one whose keys have gone makes room for one that has only those that are left, while the journal goes on.
func TestWornFilterIsBuiltAnew(t *testing.T) {
	e := start(t, Options{Dir: memDir(t), Sync: true, Log: quiet})
	keys := keysOf(t, e, 0, 500)
	worn := e.filters.now.Load()
	for i := range filterWorn * 3 {
		worn.add(event.MakeKey(event.KeyEvent, string(binary.LittleEndian.AppendUint64(nil, uint64(i)))))
	}
	e.index.gone += filterWorn * 3
	keys = append(keys, keysOf(t, e, 500, 501)...)
	awaitFilter(t, e, worn)
	holdsAll(t, e, keys)
	if n := e.filters.now.Load().added.Load(); n > 1000 {
		t.Fatalf("%d keys are in it, of %d", n, len(keys))
	}
}

// TestKeyWrittenAgainIsNoneMore: an event is carried forward up to twice. Were its key one more each time, never half of the keys would seem to be gone, and a filter
// that has worn out would stay.
func TestKeyWrittenAgainIsNoneMore(t *testing.T) {
	e := start(t, Options{Dir: memDir(t), Sync: true, Log: quiet})
	keys := keysOf(t, e, 0, 100)
	before := e.filters.now.Load().added.Load()
	for range 2 {
		must(t, e.call(context.Background(), journal.Synced, func(w *writer) error {
			for seq := event.Seq(1); seq <= event.Seq(len(keys)); seq++ {
				it, err := w.item(seq)
				if err == nil {
					err = w.carry(it.id, it.base)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
		must(t, e.settle(context.Background()))
	}
	if n := e.filters.now.Load().added.Load(); n != before {
		t.Errorf("%d keys, which have become %d", before, n)
	}
	holdsAll(t, e, keys)
}

// awaitFilter writes until another filter than old is in use.
func awaitFilter(t *testing.T, e *Engine, old *keyFilter) {
	t.Helper()
	for i := range 1000 {
		if f := e.filters.now.Load(); f != old {
			return
		}
		keysOf(t, e, 10_000+i, 10_001+i)
	}
	t.Fatal("no filter was built")
}

// TestFilterTakesWhatItMayAndNoMore: with more keys than its memory is for it still hides none, and still knows most that are not there.
func TestFilterTakesWhatItMayAndNoMore(t *testing.T) {
	for _, c := range []struct {
		first, most, keys int64
		pass              float64 // share of unknown keys that pass, at most
	}{
		{0, 1 << 20, 1 << 19, 0.01}, // as many as it is for
		{0, 8 << 20, 1 << 20, 0.01}, // two rows
		{1 << 19, 1 << 20, 1 << 20, 0.08},
		{0, 1 << 18, 1 << 19, 0.5}, // four times as many
	} {
		f := newKeyFilter(c.first, c.most)
		key := func(stream, i uint64) (k event.Key) {
			r := rand.New(rand.NewPCG(stream, i))
			binary.LittleEndian.PutUint64(k[:], r.Uint64())
			binary.LittleEndian.PutUint64(k[8:], r.Uint64())
			return k
		}
		var adding sync.WaitGroup
		for part := range int64(4) {
			adding.Go(func() {
				for i := part; i < c.keys; i += 4 {
					f.add(key(1, uint64(i)))
				}
			})
		}
		adding.Wait()
		size := int64(0)
		for _, b := range *f.rows.Load() {
			size += int64(len(b)) * bloomBlockSize
		}
		if size > c.most {
			t.Errorf("%+v: %d bytes", c, size)
		}
		const asked = 20_000
		passed := 0
		for i := range uint64(asked) {
			if f.absent(key(1, i)) {
				t.Fatalf("%+v: key %d is hidden", c, i)
			}
			if !f.absent(key(2, i)) {
				passed++
			}
		}
		if share := float64(passed) / asked; share > c.pass {
			t.Errorf("%+v: %.3f of unknown keys pass", c, share)
		}
	}
}

// TestFilterNeverHidesAKey: with the filter complete, rebuilt and restarted, every key is found.
func TestFilterNeverHidesAKey(t *testing.T) {
	o := Options{Dir: memDir(t), Sync: true}
	e := start(t, o)
	const n = 3000
	for round := range 3 {
		for i := range n {
			if i%1000 == 0 {
				if err := e.settle(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			a := sample(round*n + i)
			a.Payload = nil
			if !accept(t, e, journal.Written, a).Accepted {
				t.Fatalf("event %d of round %d is new", i, round)
			}
		}
		for i := range (round + 1) * n {
			a := sample(i)
			a.Payload = nil
			if accept(t, e, journal.Written, a).Accepted {
				t.Fatalf("event %d was forgotten in round %d", i, round)
			}
		}
		if f := e.filters.now.Load(); f == nil || !f.absent(event.MakeKey(event.KeyEvent, "nobody")) {
			t.Fatal("the filter is not in use")
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = start(t, o)
	}
}
