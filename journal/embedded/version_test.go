package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/journal"
)

// entries is all that an index holds, but for what it says of its own last write.
func entries(t *testing.T, ix *index) map[string]string {
	t.Helper()
	s := ix.snapshot()
	defer s.release()
	m := map[string]string{}
	must(t, s.each(nil, func(key, value []byte) bool { m[string(key)] = string(value); return true }))
	delete(m, string(prefixWrite))
	return m
}

// TestCutFlushIsTakenBack: whatever part of a flush a crash leaves, also of the taking back itself, the next open finds the index as it was before.
func TestCutFlushIsTakenBack(t *testing.T) {
	o, err := Options{Dir: memDir(t), Memory: minMemory, Log: quiet}.withDefaults()
	must(t, err)
	open := func() *index {
		ix, err := openIndex(o.Dir, &o)
		must(t, err)
		return ix
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	key := func() []byte { return fmt.Appendf(nil, "r%04d", rnd.IntN(2000)) }
	scribble := func(w *writes, n int) {
		for range n {
			if k := key(); rnd.IntN(4) == 0 {
				w.remove(k)
			} else {
				w.set(k, binary.BigEndian.AppendUint64(make([]byte, rnd.IntN(600)), rnd.Uint64()))
			}
		}
	}
	ix := open()
	for round := range 6 {
		for range 2 + round {
			w := newWrites(ix)
			scribble(w, 700)
			w.set([]byte{prefixPosition}, []byte{byte(round)})
			must(t, w.finish())
			ix.versions.done(w.version)
			ix.snapshot().release() // what older snapshots saw may go
		}
		want := entries(t, ix)
		for n := range round { // one that was cut, and rounds of taking it back that were cut
			w := newWrites(ix)
			w.version += uint64(n)
			scribble(w, 1+rnd.IntN(2500))
			must(t, w.finish())
		}
		must(t, ix.close())
		ix = open()
		if d := cmp.Diff(want, entries(t, ix)); d != "" {
			t.Fatal(round, d)
		}
	}
	must(t, ix.close())
}

// TestLostMemoryTableIsNoticed: a kill has left two memory tables, and the older one is lost or damaged. Badger takes what is left of it for all, and the later one says how far
// the index is: what the first held was nowhere in the index, ids that had been acknowledged were new again.
func TestLostMemoryTableIsNoticed(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "encrypted": {make([]byte, 32)}} {
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Keys: keys}
		e, _ := write(t, o, 100, journal.Synced)
		must(t, e.settle(context.Background()))
		first := copyDir(t, o.Dir)
		must(t, e.Close())
		o.Dir = copyDir(t, first)
		e = start(t, o) // begins another memory table
		for i := range 100 {
			accept(t, e, journal.Synced, sample(1000+i))
		}
		all := everything(t, e)
		second := copyDir(t, o.Dir)
		must(t, e.Close())
		older := memFiles(filepath.Join(first, nameIndex))
		newer := memFiles(filepath.Join(second, nameIndex))
		if len(older) != 1 || len(all) != 200 {
			t.Fatalf("%d memory tables, %d events: this is not the case to test", len(older), len(all))
		}
		index := filepath.Join(second, nameIndex) // as if the older memory table had not become one on disk yet
		must(t, os.RemoveAll(index+".new"), os.Rename(filepath.Join(first, nameIndex), index+".new"))
		at := filepath.Base(newer[len(newer)-1])
		if at == filepath.Base(older[0]) {
			t.Fatal("there is no later memory table")
		}
		must(t, os.Rename(filepath.Join(index, at), filepath.Join(index+".new", at)), os.Rename(filepath.Join(index, "KEYREGISTRY"), filepath.Join(index+".new", "KEYREGISTRY")))
		must(t, os.RemoveAll(index), os.Rename(index+".new", index))
		for damage, harm := range map[string]func(path string, raw []byte) error{
			"none":                    func(string, []byte) error { return nil },
			"it is lost":              func(path string, _ []byte) error { return os.Remove(path) },
			"it is empty":             func(path string, _ []byte) error { return os.Truncate(path, 0) },
			"its last bytes are lost": func(path string, raw []byte) error { return os.Truncate(path, int64(len(raw)-8)) },
			"a bit flips in it":       func(path string, raw []byte) error { raw[len(raw)/2] ^= 1; return os.WriteFile(path, raw, 0o600) },
		} {
			t.Run(name+", "+damage, func(t *testing.T) {
				o := o
				o.Dir = copyDir(t, second)
				path := filepath.Join(o.Dir, nameIndex, filepath.Base(older[0]))
				must(t, harm(path, bytes.TrimRight(mustRead(t, path), "\x00")))
				e := start(t, o)
				if d := cmp.Diff(all, everything(t, e)); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				for i := range 100 {
					if accept(t, e, journal.Written, sample(i)).Accepted {
						t.Fatalf("event %d was forgotten", i)
					}
				}
			})
		}
	}
}

// TestOldVersionsGo: what no snapshot can see any more leaves the disk with the next compaction.
func TestOldVersionsGo(t *testing.T) {
	o, err := Options{Dir: memDir(t), Memory: minMemory, Log: quiet}.withDefaults()
	must(t, err)
	ix, err := openIndex(o.Dir, &o)
	must(t, err)
	const keys, size, rounds = 5000, 1 << 10, 16
	for range rounds {
		w := newWrites(ix)
		for i := range keys {
			w.set(leafKey(uint64(i)), make([]byte, size))
		}
		must(t, w.finish())
		ix.versions.done(w.version)
		ix.snapshot().release()
	}
	bytes := int64(0)
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		bytes = 0
		for _, table := range ix.db.Tables() {
			bytes += int64(table.OnDiskSize)
		}
		if bytes < keys*size*rounds/2 {
			break
		}
	}
	if bytes >= keys*size*rounds/2 {
		t.Errorf("the tables have %d bytes, the keys and values %d", bytes, keys*size)
	}
	must(t, ix.close())
}

// TestJournalAfterACutFlush: a crash in the middle of a flush changes nothing of what the journal says.
func TestJournalAfterACutFlush(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
	e, rs := write(t, o, 300, journal.Written)
	must(t, e.settle(context.Background()))
	before := copyDir(t, o.Dir)
	for i, r := range rs {
		if i%4 == 0 {
			deliver(t, e, journal.Written, r)
		}
	}
	for i := range 200 {
		r := accept(t, e, journal.Written, sample(1000+i)).Record
		if i%3 > 0 {
			deliver(t, e, journal.Written, r)
		}
	}
	want := everything(t, e)
	after := entries(t, e.index)
	must(t, e.Close())

	cut := copyDir(t, o.Dir) // the log as it is, and of the last flushes every other entry
	must(t, os.RemoveAll(filepath.Join(cut, nameIndex)), os.Rename(filepath.Join(before, nameIndex), filepath.Join(cut, nameIndex)))
	o.Dir = cut
	c, err := o.withDefaults()
	must(t, err)
	ix, err := openIndex(filepath.Join(cut, nameIndex), &c)
	must(t, err)
	w, n := newWrites(ix), 0
	for k, v := range after {
		if n++; n%2 == 0 && k != string(prefixPosition) {
			w.set([]byte(k), []byte(v))
		}
	}
	must(t, w.finish(), ix.close())
	e = start(t, o)
	if d := cmp.Diff(want, everything(t, e)); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(filepath.Join(cut, nameIndex+".old")); err == nil {
		t.Error("the index was rebuilt")
	}
	must(t, e.Close())
}

// TestMemoryTableOfALargerBudget: journal.memory was lowered, and the last run was killed with a memory table that is larger than any would be now.
func TestMemoryTableOfALargerBudget(t *testing.T) {
	open := func(dir string, memory int64) *index {
		t.Helper()
		o, err := Options{Dir: dir, Memory: memory, Log: quiet}.withDefaults()
		must(t, err)
		ix, err := openIndex(dir, &o)
		must(t, err)
		return ix
	}
	dir := memDir(t)
	ix := open(dir, 128<<20)
	w := newWrites(ix)
	const n = 400
	for i := range n {
		w.set(leafKey(uint64(i)), make([]byte, 32<<10))
	}
	must(t, w.finish())
	killed := copyDir(t, dir)
	must(t, ix.close())
	for range 2 { // with the large one, and when that has gone
		ix = open(killed, minMemory)
		if got := len(entries(t, ix)); got != n {
			t.Errorf("%d entries of %d are left", got, n)
		}
		must(t, ix.close())
	}
	if ix.memtable != minMemtable {
		t.Errorf("memory tables of %d MiB are still made", ix.memtable>>20)
	}
}
