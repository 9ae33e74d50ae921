package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4/table"
)

// TestTableThatACompactionLosesIsNoticed: Badger drops a table that a compaction cannot write, with the keys in it, and says nothing. Here its file is
// there already, as good a reason as a failed fsync or no descriptor left.
func TestTableThatACompactionLosesIsNoticed(t *testing.T) {
	dir := memDir(t)
	faults := make(chan error, 100)
	o, err := Options{Dir: dir, Memory: minMemory, Log: quiet}.withDefaults()
	must(t, err)
	var built atomic.Int64
	o.indexFault, o.tableBuilt = func(err error) { faults <- err }, func() { built.Add(1) }
	ix, err := openIndex(dir, &o)
	must(t, err)
	key, value := make([]byte, 9), make([]byte, 32<<10)
	rnd := rand.NewChaCha8([32]byte{})
	level0 := func() (n int, newest uint64) {
		for _, table := range ix.db.Tables() {
			if table.Level == 0 {
				n++
			}
			newest = max(newest, table.ID)
		}
		return n, newest
	}
	// fill makes the tables that a compaction wants; sabotage is told the newest one before the last of them.
	fill := func(sabotage func(newest uint64)) {
		for began := time.Now(); ; {
			n, newest := level0()
			switch {
			case n >= 4 || len(faults) > 0:
				return
			case n == 2:
				sabotage(newest)
			case time.Since(began) > 30*time.Second:
				t.Fatal("no tables")
			}
			b := newWrites(ix)
			for range 16 {
				rnd.Read(key)
				rnd.Read(value)
				b.set(key, bytes.Clone(value))
			}
			must(t, b.finish())
		}
	}
	compacted := func() {
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if n, _ := level0(); n < 4 || time.Since(began) > 30*time.Second {
				return
			}
		}
	}
	fill(func(uint64) {})
	compacted()
	for began := time.Now(); built.Load() == 0; time.Sleep(time.Millisecond) { // a table is gone before the compaction is done
		if time.Since(began) > 30*time.Second {
			t.Fatal("nobody was told of the tables that the compaction has built")
		}
	}
	select {
	case err := <-faults:
		t.Fatal(err)
	default:
	}
	var inTheWay []string
	fill(func(newest uint64) {
		for n := newest + 3; n < newest+40; n++ {
			inTheWay = append(inTheWay, table.NewFilename(n, dir))
			must(t, os.WriteFile(table.NewFilename(n, dir), nil, 0o600))
		}
	})
	select {
	case err := <-faults:
		if !errors.Is(err, errTableLost) {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a table that could not be written went unnoticed")
	}
	for _, name := range inTheWay { // a memory table that has to be written now would try each
		_ = os.Remove(name)
	}
	must(t, ix.close())
	if _, err := openIndex(dir, &o); !errors.Is(err, errIndex) {
		t.Fatalf("the index with a lost table opens: %v", err)
	}
}

// TestManifestChangesAreCounted: what Badger's manifest says of two compactors, a memory table, and a set that is being written.
func TestManifestChangesAreCounted(t *testing.T) {
	makes, drops := []byte{10, 4, 8, 9, 24, 1}, []byte{10, 4, 8, 7, 16, 1}
	set := func(changes ...[]byte) (b []byte) {
		for _, c := range changes {
			b = append(b, c...)
		}
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(b))), checksum(b)), b...)
	}
	var b []byte
	b = append(b, set(makes)...)
	b = append(b, set(makes, makes, drops)...)
	b = append(b, set(drops, drops)...)
	whole := len(b)
	b = append(b, set(makes, drops)[:10]...)
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	must(t, os.WriteFile(dir.Name()+"/MANIFEST", append(make([]byte, manifestHeadSize), b...), 0o600))
	var fault error
	c := &compactions{dir: dir, fault: func(err error) { fault = err }, built: map[int]int{}, at: manifestHeadSize}
	defer c.close()
	c.hear(saysDone, []any{1, 0}) // drops alone
	for range 2 {
		c.hear(saysBuilt, []any{0, uint64(5), uint64(0), time.Second})
	}
	c.hear(saysBuilt, []any{0, uint64(0), uint64(5), time.Second}) // no keys, no table
	c.hear(saysDone, []any{0, 5})
	if fault != nil || c.at != int64(manifestHeadSize+whole) {
		t.Fatal(fault, c.at)
	}
	c.hear(saysBuilt, []any{0, uint64(5), uint64(0), time.Second})
	c.hear(saysFailed, []any{0, errTable, 0})
	if fault != nil {
		t.Fatal(fault)
	}
	c.hear(saysBuilt, []any{0, uint64(5), uint64(0), time.Second})
	c.hear(saysDone, []any{0, 5})
	if !errors.Is(fault, errTableLost) {
		t.Fatal(fault)
	}
	// A rewrite hides the change that came with it, and no other.
	fault = nil
	must(t, os.Remove(dir.Name()+"/MANIFEST"))
	must(t, os.WriteFile(dir.Name()+"/MANIFEST", append(make([]byte, manifestHeadSize), set(makes, makes, makes)...), 0o600))
	c.hear(saysBuilt, []any{0, uint64(5), uint64(0), time.Second})
	c.hear(saysDone, []any{0, 5})
	if fault != nil {
		t.Fatal(fault)
	}
	c.hear(saysBuilt, []any{0, uint64(5), uint64(0), time.Second})
	c.hear(saysDone, []any{0, 5})
	if !errors.Is(fault, errTableLost) {
		t.Fatal(fault)
	}
}
