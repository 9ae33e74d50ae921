package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// write makes a journal of n events, the odd ones delivered, and gives their records.
func write(t testing.TB, o Options, n int, d journal.Durability) (*Engine, []event.Record) {
	t.Helper()
	e := start(t, o)
	var rs []event.Record
	for i := range n {
		r := accept(t, e, d, sample(i)).Record
		if i%2 == 1 {
			r = deliver(t, e, d, r)
		}
		rs = append(rs, r)
	}
	return e, rs
}

// contents is every file of a directory tree.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		m[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// state is contents with what is zero left out, as pages of it: most of what Badger makes in advance is, and reading that twice takes longer than the rest of a test.
func state(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	page := make([]byte, 64<<10)
	zeros := make([]byte, len(page))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var kept []byte
		for at := uint64(0); ; {
			n, err := f.Read(page)
			if err == io.EOF {
				m[path] = string(binary.LittleEndian.AppendUint64(kept, at))
				return nil
			}
			if err != nil {
				return err
			}
			if !bytes.Equal(page[:n], zeros[:n]) {
				kept = append(binary.LittleEndian.AppendUint64(kept, at), page[:n]...)
			}
			at += uint64(n)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, nameLog, "*"+segmentSuffix))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// everything is what the journal says about all its events, newest first.
func everything(t testing.TB, e *Engine) []event.Record {
	t.Helper()
	var all []event.Record
	q := journal.Query{Limit: 500}
	for {
		p, err := e.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Records...)
		if p.Next == "" {
			return all
		}
		q.Cursor = p.Next
	}
}

func TestTornTailIsCutAtAnyByte(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, SegmentSize: 64 << 10, Log: quiet}
	e, _ := write(t, o, 3, journal.Synced)
	kept := e.wal.offset
	last := accept(t, e, journal.Written, sample(3)).Record // never synced
	end := e.wal.offset
	dir := copyDir(t, o.Dir)
	e.Close()
	file := segmentFiles(t, dir)[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, nameLog)
	ledger, _, err := readLedger(filepath.Join(dir, nameLedger))
	if err != nil {
		t.Fatal(err)
	}
	for cut := kept; cut < end; cut++ {
		torn := bytes.Clone(whole)
		clear(torn[cut:])
		if cut%3 == 0 && cut+8 < end { // not only zeros behind the tear
			copy(torn[cut+1:], whole[cut+1:end-2])
		}
		if bytes.Equal(torn, whole) {
			continue
		}
		if err := os.WriteFile(file, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := checkLog(log, ledger, nil, quiet)
		if err != nil || found.end != kept || found.lsn != e.wal.lsn-1 {
			t.Fatalf("cut at %d: %+v, %v", cut, found, err)
		}
	}
	o.Dir = dir // the last of them, opened for good
	e = start(t, o)
	if !allZero(mustRead(t, file)[kept:]) {
		t.Error("something of the torn frame is left: it could be taken for one when the log has come so far again")
	}
	if _, _, err := e.Get(context.Background(), last.ID, false); !errors.Is(err, journal.ErrNotFound) {
		t.Fatal(err)
	}
	if v := accept(t, e, journal.Synced, sample(3)); !v.Accepted {
		t.Fatal("the torn event is still known")
	}
	if n := len(everything(t, e)); n != 4 {
		t.Fatalf("%d events", n)
	}
}

// TestTornOrDamaged: what is bad at the end was torn if nobody can have been told of it, and damaged where the ledger or a later frame says that it was on the disk.
func TestTornOrDamaged(t *testing.T) {
	s := &segment{path: "log", segmentHead: segmentHead{generation: 7, firstLSN: 5}}
	body := []byte("body")
	for _, x := range []struct {
		what    string
		bad     int // of the frames 5, 6 and 7
		known   uint64
		synced  uint64 // as the frames say
		damaged bool
		lsn     uint64
	}{
		{what: "whole", bad: -1, known: 7, synced: 6, lsn: 7},
		{what: "whole, and the ledger says more", bad: -1, known: 8, damaged: true},
		{what: "the ledger does not say it", bad: 6, known: 5, synced: 5, lsn: 5},
		{what: "the ledger says it", bad: 6, known: 6, synced: 5, damaged: true},
		{what: "the next frame says it", bad: 6, known: 5, synced: 6, damaged: true},
		{what: "the last", bad: 7, known: 6, synced: 6, lsn: 6},
		{what: "the first", bad: 5, known: 4, synced: 4, lsn: 4},
		{what: "the first, and the next says it", bad: 5, known: 4, synced: 5, damaged: true},
	} {
		data := make([]byte, segmentHeadSize)
		ends := map[uint64]int64{4: segmentHeadSize}
		for lsn := uint64(5); lsn <= 7; lsn++ {
			f := frame{kind: kindNote, lsn: lsn, synced: min(x.synced, lsn-1), body: body, bodySum: checksum(body)}
			data = append(f.appendHead(data, generationSum(7)), body...)
			if ends[lsn] = int64(len(data)); int(lsn) == x.bad {
				data[len(data)-1] ^= 1
			}
		}
		found := &tail{}
		err := found.checkLast(s, append(data, make([]byte, 100)...), ledgerState{synced: x.known})
		if x.damaged {
			if !errors.Is(err, journal.ErrDamaged) {
				t.Errorf("%s: %v", x.what, err)
			}
			continue
		}
		if err != nil || found.lsn != x.lsn || found.end != ends[x.lsn] || found.torn != (x.bad > 0) || found.open != ends[min(x.known, x.lsn)] {
			t.Errorf("%s: %+v, %v", x.what, found, err)
		}
	}
}

func TestFlippedByteIsRefused(t *testing.T) {
	src := memDir(t)
	o := Options{Dir: src, AllowTmpfs: true, Sync: true, SegmentSize: 8 << 10, Log: quiet}
	e, _ := write(t, o, 20, journal.Synced)
	end := e.wal.offset
	running := copyDir(t, src) // as a killed process leaves it
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, from := range map[string]string{"after a close": src, "after a kill": running} {
		files := segmentFiles(t, from)
		for range 12 {
			dir := copyDir(t, from)
			i := rnd.IntN(len(files))
			file := strings.Replace(files[i], from, dir, 1)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			used := lastByte(b)
			if i == len(files)-1 {
				used = int(end)
			}
			at := rnd.IntN(used)
			bit := byte(1) << rnd.IntN(8)
			b[at] ^= bit
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			before := state(t, dir)
			o.Dir = dir
			_, err = Open(o)
			if !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), file) {
				t.Fatalf("%s, byte %d of %s: %v", name, at, file, err)
			}
			if !maps.Equal(before, state(t, dir)) {
				t.Fatal("the files were changed")
			}
			b[at] ^= bit // put back what was there
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := Open(o)
			if err != nil {
				t.Fatal("after putting the file back:", err)
			}
			e.Close()
			must(t, os.RemoveAll(dir)) // it may be in memory
		}
	}
}

func lastByte(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLostFilesAreRefused(t *testing.T) {
	src := memDir(t)
	o := Options{Dir: src, AllowTmpfs: true, Sync: true, SegmentSize: 8 << 10, Log: quiet}
	e, _ := write(t, o, 20, journal.Synced)
	e.Close()
	files := segmentFiles(t, src)
	lost := map[string]string{
		"first segment": files[0], "middle segment": files[len(files)/2], "last segment": files[len(files)-1],
		"ledger": filepath.Join(src, nameLedger), "format": filepath.Join(src, nameFormat),
	}
	for what, path := range lost {
		dir := copyDir(t, src)
		gone := strings.Replace(path, src, dir, 1)
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		o.Dir = dir
		if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), gone) {
			t.Errorf("without its %s: %v", what, err)
		}
	}
	for what, keep := range map[string]int64{"last segment cut": 100, "last segment emptied": 0} {
		dir := copyDir(t, src)
		file := strings.Replace(files[len(files)-1], src, dir, 1)
		if err := os.Truncate(file, keep); err != nil {
			t.Fatal(err)
		}
		o.Dir = dir
		if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, nameFormat), []byte(formatPrefix+"2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, Log: quiet}); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Fatal(err)
	}
}

func TestSecondProcessIsLockedOut(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
	e := start(t, o)
	if _, err := Open(o); !errors.Is(err, journal.ErrLocked) {
		t.Fatal(err)
	}
	e.Close()
	start(t, o)
}

func TestIndexIsRebuiltFromTheLog(t *testing.T) {
	spoil := map[string]func(t *testing.T, dir string){
		"deleted": func(t *testing.T, dir string) { os.RemoveAll(dir) },
		"garbled": func(t *testing.T, dir string) {
			files, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
			for _, f := range append(files, filepath.Join(dir, "MANIFEST")) {
				b := mustRead(t, f)
				for i := range b {
					if i%97 == 0 {
						b[i] ^= 0x55
					}
				}
				os.WriteFile(f, b, 0o600)
			}
		},
		"table truncated": func(t *testing.T, dir string) {
			files, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
			for _, f := range files {
				os.Truncate(f, 100)
			}
		},
		"manifest cut": func(t *testing.T, dir string) {
			f := filepath.Join(dir, "MANIFEST")
			os.Truncate(f, int64(len(mustRead(t, f))-3))
		},
		"of which a table was lost": func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, nameLost), 0o700)) },
		"of another journal": func(t *testing.T, dir string) {
			o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
			e, _ := write(t, o, 5, journal.Written)
			e.Close()
			os.RemoveAll(dir)
			os.Rename(filepath.Join(o.Dir, nameIndex), dir)
		},
	}
	src := memDir(t)
	e, want := write(t, Options{Dir: src, AllowTmpfs: true, Sync: true, SegmentSize: 32 << 10}, 300, journal.Written)
	counts, _ := e.Counts(context.Background())
	all := everything(t, e)
	e.Close()
	for what, fn := range spoil {
		t.Run(what, func(t *testing.T) {
			o := Options{Dir: copyDir(t, src), AllowTmpfs: true, Sync: true, SegmentSize: 32 << 10}
			fn(t, filepath.Join(o.Dir, nameIndex))
			e := start(t, o)
			if d := cmp.Diff(all, everything(t, e)); d != "" {
				t.Fatalf("(-want +got):\n%s", d)
			}
			if got, _ := e.Counts(context.Background()); !cmp.Equal(counts, got) {
				t.Fatal(cmp.Diff(counts, got))
			}
			for i, r := range want {
				if v := accept(t, e, journal.Written, sample(i)); v.Accepted || v.Record.ID != r.ID {
					t.Fatalf("event %d: %+v", i, v)
				}
			}
			if _, p, err := e.Get(context.Background(), want[7].ID, true); err != nil || len(p.Body) != 1024 {
				t.Fatal(err)
			}
		})
	}
}

// TestIndexFitsTheLog: an index is gone on with only where it says how far it is, and that is a place in this log; an empty one only where the log is, too.
func TestIndexFitsTheLog(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
	e := start(t, o)
	first := *e.wal.active()
	fits := func(what string, want bool, segs []*segment, end int64, lsn uint64) {
		t.Helper()
		at, err := e.loadPosition(&tail{segs: segs, end: end, lsn: lsn})
		if want != (err == nil) || err != nil && !errors.Is(err, errIndex) {
			t.Errorf("%s: %+v, %v", what, at, err)
		}
	}
	empty := []*segment{&first}
	fits("an empty index of an empty log", true, empty, segmentHeadSize, 0)
	fits("an empty index of a log", false, empty, 1000, 3)
	later := first
	later.firstLSN = 4
	fits("an empty index of a log whose beginning is gone", false, []*segment{&later}, segmentHeadSize, 0)

	for i := range 3 {
		accept(t, e, journal.Written, sample(i))
	}
	must(t, e.settle(t.Context()))
	at := e.active.last
	is := func(change func(*segment)) []*segment {
		s := first
		change(&s)
		return []*segment{&s}
	}
	same := func(*segment) {}
	next := func(segs []*segment) []*segment {
		return append(segs, &segment{number: at.segment + 1, segmentHead: segmentHead{firstLSN: at.lsn + 1}})
	}
	fits("of this log", true, is(same), at.offset, at.lsn)
	fits("behind the log", true, is(same), at.offset+100, at.lsn+1)
	fits("a frame ahead of the log", false, is(same), at.offset, at.lsn-1)
	fits("ahead of the log's end", false, is(same), at.offset-1, at.lsn)
	fits("of a segment that is not the last", true, next(is(same)), segmentHeadSize, at.lsn)
	fits("of another generation", false, is(func(s *segment) { s.generation++ }), at.offset, at.lsn)
	fits("of a segment that is gone", false, is(func(s *segment) { s.number++ }), at.offset, at.lsn)
	fits("up to where the segment begins", true, is(func(s *segment) { s.firstLSN = at.lsn + 1 }), at.offset, at.lsn)
	fits("of before the segment", false, is(func(s *segment) { s.firstLSN = at.lsn + 2 }), at.offset, at.lsn+2)

	w := newWrites(e.index)
	w.remove([]byte{prefixPosition})
	must(t, w.finish())
	e.index.versions.done(w.version)
	fits("an index that does not say how far it is", false, empty, segmentHeadSize, 0)
}

// TestReplayOfMoreThanALayer: a start writes what it replays to the index, again and again; what comes later in the log may change what is there already.
func TestReplayOfMoreThanALayer(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 40)
	o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet, SegmentSize: 1 << 20, MinFree: 256 << 20, reserveFree: func(string) (uint64, error) { return free.Load(), nil }}
	e := start(t, o)
	must(t, e.MetaPut(t.Context(), "key", nil, journal.Written), e.settle(t.Context())) // else nothing says how far the index is, and it is rebuilt
	free.Store(0)                                                                       // the index is not written any more
	const events, delivered = 1200, 20
	var rs []event.Record
	for from := 0; from < events; from += 100 {
		batch := make([]journal.Accept, 100)
		for i := range batch {
			batch[i] = sample(from + i)
			batch[i].Payload, batch[i].Record.LastErrText = nil, strings.Repeat("x", 4096)
		}
		vs, err := e.Accept(t.Context(), batch, journal.Written)
		must(t, err)
		for _, v := range vs {
			rs = append(rs, v.Record)
		}
	}
	for i := range delivered {
		deliver(t, e, journal.Written, rs[i])
	}
	want, err := e.Counts(t.Context())
	must(t, err)
	dir := copyDir(t, o.Dir)
	for _, rebuilt := range []bool{false, true} {
		o := o
		o.Dir, o.reserveFree = dir, nil
		if rebuilt {
			must(t, os.RemoveAll(filepath.Join(dir, nameIndex)))
		} else {
			o.Dir = copyDir(t, dir)
		}
		e := start(t, o)
		if exists(filepath.Join(o.Dir, nameIndex+".old")) != rebuilt {
			t.Errorf("rebuilt %t", !rebuilt)
		}
		if at, err := e.snap.get([]byte{prefixPosition}); at == nil || err != nil {
			t.Errorf("rebuilt %t: the index does not say how far it is: %v", rebuilt, err)
		}
		got, err := e.Counts(t.Context())
		must(t, err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("rebuilt %t (-want +got):\n%s", rebuilt, d)
		}
		n := 0
		must(t, e.Pending(t.Context(), func(page []event.Record) error { n += len(page); return nil }))
		if n != events-delivered {
			t.Errorf("rebuilt %t: %d are pending of %d", rebuilt, n, events-delivered)
		}
		for _, i := range []int{0, delivered - 1, delivered, events - 1} {
			if v := accept(t, e, journal.Written, sample(i)); v.Accepted || v.Record.ID != rs[i].ID || (v.Record.State == event.Delivered) != (i < delivered) {
				t.Errorf("rebuilt %t: event %d: %+v", rebuilt, i, v)
			}
		}
	}
}

// TestOpenThatDidNotComeBack: it may have been killed, and is tried again; if Badger dies of what is there, a start does not die of it for ever.
func TestOpenThatDidNotComeBack(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e, want := write(t, o, 20, journal.Written)
	must(t, e.Close())
	dir := filepath.Join(o.Dir, nameIndex)
	for tries := range openTries + 1 {
		for range tries {
			must(t, beginOpening(dir))
		}
		e := start(t, o)
		if v := accept(t, e, journal.Written, sample(7)); v.Accepted || v.Record.ID != want[7].ID {
			t.Errorf("after %d: %+v", tries, v)
		}
		must(t, e.Close())
		if _, err := os.Stat(dir + ".old"); (err == nil) != (tries == openTries) {
			t.Errorf("after %d: %v", tries, err)
		}
		if _, err := os.Stat(filepath.Join(dir, nameOpening)); err == nil {
			t.Errorf("after %d: the mark stays", tries)
		}
	}
}

// TestUnfinishedTables: a kill in the middle of a compaction leaves tables that the manifest does not name. What is in them is elsewhere too, so they go, and nothing is rebuilt;
// a table whose name the manifest has lost, and which holds what is nowhere else, is not taken for one.
func TestUnfinishedTables(t *testing.T) {
	src := memDir(t)
	e, _ := write(t, Options{Dir: src, AllowTmpfs: true, Sync: true}, 300, journal.Written)
	all := everything(t, e)
	e.Close()
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, dir, table string)
		rebuilt bool
	}{
		"the copy of a table": {func(t *testing.T, dir, table string) {
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"), mustRead(t, table), 0o600))
		}, false},
		"one that was put aside before": {func(t *testing.T, dir, table string) {
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"+unnamedSuffix), mustRead(t, table), 0o600))
		}, false},
		"one that is not finished": {func(t *testing.T, dir, table string) {
			b := mustRead(t, table)
			clear(b[len(b)/2:])
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"), b, 0o600))
		}, false},
		"one that is not begun": {func(t *testing.T, dir, _ string) {
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"), nil, 0o600))
		}, false},
		"half a table": {func(t *testing.T, dir, table string) {
			b := mustRead(t, table)
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"), b[:lastByte(b[:len(b)/2])], 0o600)) // zeros at its end are what an unfinished one has
		}, true},
		"the manifest has lost its end": {func(t *testing.T, dir, _ string) {
			path := filepath.Join(dir, "MANIFEST")
			must(t, os.Truncate(path, int64(len(mustRead(t, path))-3)))
		}, true},
		"of another journal": {func(t *testing.T, dir, _ string) {
			o := Options{Dir: memDir(t), AllowTmpfs: true, Log: quiet}
			e := start(t, o)
			for i := range 10 {
				accept(t, e, journal.Written, sample(5000+i))
			}
			e.Close()
			others, _ := filepath.Glob(filepath.Join(o.Dir, nameIndex, "*.sst"))
			must(t, os.WriteFile(filepath.Join(dir, "000077.sst"), mustRead(t, others[0]), 0o600))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Dir: copyDir(t, src), AllowTmpfs: true, Sync: true}
			dir := filepath.Join(o.Dir, nameIndex)
			tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
			if len(tables) == 0 {
				t.Fatal("no table: this is not the case to test")
			}
			c.spoil(t, dir, tables[len(tables)-1])
			e := start(t, o)
			if d := cmp.Diff(all, everything(t, e)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if _, err := os.Stat(dir + ".old"); (err == nil) != c.rebuilt {
				t.Errorf("rebuilt: %t, want %t", err == nil, c.rebuilt)
			}
			e.Close()
			if left, _ := filepath.Glob(filepath.Join(dir, "*"+unnamedSuffix)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if d := cmp.Diff(all, everything(t, start(t, o))); d != "" {
				t.Errorf("opened again (-want +got):\n%s", d)
			}
		})
	}
}

// TestDroppedTables: a kill between the manifest's line about a compaction and the removal of what that has dropped. Versions in it, and what was deleted since, are nowhere else.
func TestDroppedTables(t *testing.T) {
	src := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet, InBubble: true} // nothing is compacted but by Flatten
	var rs []event.Record
	for round := range 6 { // each leaves a table
		e := start(t, src)
		for i, r := range rs { // what the table before says of these is superseded: states, deliveries that were due
			rs[i] = deliver(t, e, journal.Written, r)
		}
		rs = rs[:0]
		for i := range 50 {
			rs = append(rs, accept(t, e, journal.Written, sample(round*50+i)).Record)
		}
		e.Close()
	}
	dir := filepath.Join(src.Dir, nameIndex)
	dropped := contents(t, dir)
	e := start(t, src)
	if err := e.index.db.Flatten(1); err != nil {
		t.Fatal(err)
	}
	all := everything(t, e)
	e.Close()
	made := ""
	for path := range contents(t, dir) {
		if _, ok := dropped[path]; !ok && strings.HasSuffix(path, ".sst") {
			made = path
		}
		delete(dropped, path)
	}
	maps.DeleteFunc(dropped, func(path, _ string) bool { return !strings.HasSuffix(path, ".sst") })
	tables := slices.Sorted(maps.Keys(dropped))
	if len(tables) < 3 || made == "" {
		t.Fatalf("%q became %q: this is not the case to test", tables, made)
	}
	for name, c := range map[string]struct {
		left    []string // of tables
		suffix  string
		lost    bool // what the compaction made
		rebuilt bool
	}{
		"all are left":                       {left: tables},
		"all were put aside before":          {left: tables, suffix: unnamedSuffix},
		"the newest is left":                 {left: tables[len(tables)-1:]},
		"the oldest was removed":             {left: tables[1:]},
		"the oldest is left, deletions gone": {left: tables[:1], rebuilt: true},
		"what was made was lost":             {left: tables, lost: true, rebuilt: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Dir: copyDir(t, src.Dir), AllowTmpfs: true, Sync: true}
			dir := filepath.Join(o.Dir, nameIndex)
			for _, path := range c.left {
				must(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)+c.suffix), []byte(dropped[path]), 0o600))
			}
			if c.lost { // Badger drops the error of a table that it could not write
				must(t, os.Remove(filepath.Join(dir, filepath.Base(made))))
				n, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(made), ".sst"), 10, 64)
				must(t, err)
				unname(t, filepath.Join(dir, badger.ManifestFilename), n)
			}
			e := start(t, o)
			if d := cmp.Diff(all, everything(t, e)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if _, err := os.Stat(dir + ".old"); (err == nil) != c.rebuilt {
				t.Errorf("rebuilt: %t, want %t", err == nil, c.rebuilt)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*"+unnamedSuffix)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestLostTableIsNotExplained: three tables that the manifest does not name hold a key that was taken, given away and taken again. The deletion is older than what is lost; it was
// believed to be the reason where a table with the first claim was looked at after the one with the second.
func TestLostTableIsNotExplained(t *testing.T) {
	const first, deletion, second = 1, 2, 3
	for _, c := range []struct {
		order []uint64 // of the files: which write each has
		lost  bool
	}{
		{[]uint64{first, deletion, second}, true},
		{[]uint64{second, first, deletion}, true},
		{[]uint64{first, deletion}, false},
	} {
		o, err := Options{Dir: memDir(t), Log: quiet}.withDefaults()
		must(t, err)
		ix, err := openIndex(o.Dir, &o)
		must(t, err)
		for range 4 {
			w := newWrites(ix)
			w.set([]byte{prefixPosition}, nil)
			must(t, w.finish())
			ix.versions.done(w.version)
		}
		for i, version := range c.order {
			b := table.NewTableBuilder(table.Options{BlockSize: 4 << 10, TableSize: 1 << 20})
			v := y.ValueStruct{Value: []byte("event")}
			if version == deletion {
				v = y.ValueStruct{Meta: metaDelete}
			}
			b.Add(y.KeyWithTs([]byte("key"), version), v, 0)
			must(t, os.WriteFile(table.NewFilename(uint64(100+i), o.Dir), b.Finish(), 0o600), putAside(o.Dir, []uint64{uint64(100 + i)}))
			b.Close()
		}
		if err := dropUnnamed(ix.db, o.Dir); errors.Is(err, errIndex) != c.lost {
			t.Errorf("%v: %v", c.order, err)
		}
		must(t, ix.close())
	}
}

// TestTablesPutAsideAreKept: a table of a number that was put aside before, at an open that did not come so far as to look at it.
func TestTablesPutAsideAreKept(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"first", "second"} {
		must(t, os.WriteFile(table.NewFilename(9, dir), []byte(text), 0o600), putAside(dir, []uint64{9}))
	}
	aside, err := filepath.Glob(filepath.Join(dir, "*"+unnamedSuffix))
	must(t, err)
	var got []string
	for _, path := range aside {
		got = append(got, string(mustRead(t, path)))
	}
	if !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("put aside: %q", got)
	}
}

// unname adds a line to Badger's manifest: table n was dropped.
func unname(t *testing.T, path string, n uint64) {
	t.Helper()
	change := append(binary.AppendUvarint([]byte{1 << 3}, n), 2<<3, 1) // as countChanges reads it
	set := append([]byte{1<<3 | 2, byte(len(change))}, change...)
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(set))), checksum(set))
	must(t, os.WriteFile(path, slices.Concat(mustRead(t, path), head, set), 0o600))
}

// TestLostManifestIsNoticed: without its manifest Badger deletes the only table, and gives its number to the one that it makes of the memtable. Half of the events were
// missing from lists, and every look-up of them.
func TestLostManifestIsNoticed(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true}
	e, first := write(t, o, 100, journal.Synced)
	if err := e.settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	killed := copyDir(t, o.Dir)
	e.Close()
	o.Dir = killed // the memtable becomes table 1
	e = start(t, o)
	for i := range 100 {
		accept(t, e, journal.Synced, sample(1000+i))
	}
	if err := e.settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	all := everything(t, e)
	var tables []string
	for begin := time.Now(); len(tables) == 0 && time.Since(begin) < 20*time.Second; time.Sleep(time.Millisecond) { // it is made in the background
		tables, _ = filepath.Glob(filepath.Join(o.Dir, nameIndex, "*.sst"))
	}
	killed = copyDir(t, o.Dir)
	e.Close()
	if len(tables) == 0 || len(all) != 200 {
		t.Fatalf("%d tables, %d events: this is not the case to test", len(tables), len(all))
	}
	if err := os.Remove(filepath.Join(killed, nameIndex, "MANIFEST")); err != nil {
		t.Fatal(err)
	}
	o.Dir = killed
	e = start(t, o)
	if d := cmp.Diff(all, everything(t, e)); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
	if v := accept(t, e, journal.Synced, sample(0)); v.Accepted || v.Record.ID != first[0].ID {
		t.Fatal("an event was forgotten")
	}
}

func TestFailedSyncIsFinal(t *testing.T) {
	var mu sync.Mutex
	broken := false
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet, syncFile: func(f *os.File) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			broken = false // only once: the second fsync would claim success
			return errors.New("input/output error")
		}
		return fdatasync(f)
	}}
	e := start(t, o)
	r := accept(t, e, journal.Synced, sample(1)).Record
	mu.Lock()
	broken = true
	mu.Unlock()
	ctx := context.Background()
	if _, err := e.Accept(ctx, []journal.Accept{sample(2)}, journal.Synced); !errors.Is(err, journal.ErrFailed) {
		t.Fatal(err)
	}
	<-e.Failed()
	if !errors.Is(e.Err(), journal.ErrFailed) {
		t.Fatal(e.Err())
	}
	for range 3 {
		_, err1 := e.Accept(ctx, []journal.Accept{sample(3)}, journal.Written)
		_, err2 := e.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written)
		_, err3 := e.Commit(ctx, nil, journal.Synced)
		_, err4 := e.Accept(ctx, []journal.Accept{sample(1)}, journal.Synced) // a duplicate, too
		err5 := e.MetaPut(ctx, "k", nil, journal.Written)
		_, err6 := e.List(ctx, journal.Query{})
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			if !errors.Is(err, journal.ErrFailed) {
				t.Fatalf("call %d: %v", i+1, err)
			}
		}
	}
	if err := e.Close(); !errors.Is(err, journal.ErrFailed) {
		t.Fatal(err)
	}
	o.syncFile = nil
	e = start(t, o)
	if got, _, err := e.Get(ctx, r.ID, true); err != nil || got.ID != r.ID {
		t.Fatal(err)
	}
}

// A write that fails is final as an fsync is: what the page cache has of it is unknown.
func TestFailedWriteIsFinal(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e := start(t, o)
	r := accept(t, e, journal.Synced, sample(1)).Record
	f, err := os.Open(segmentFiles(t, o.Dir)[0]) // only to be read
	must(t, err)
	e.wal.syncing.Lock()
	e.wal.file, f = f, e.wal.file
	e.wal.syncing.Unlock()
	defer f.Close()
	for i := range 3 {
		if v, err := e.Accept(t.Context(), []journal.Accept{sample(2)}, journal.Written); !errors.Is(err, journal.ErrFailed) {
			t.Fatalf("call %d: %+v, %v", i+1, v, err)
		}
	}
	select {
	case <-e.Failed():
	default:
		t.Error("the journal does not say that it failed")
	}
	if err := e.Close(); !errors.Is(err, journal.ErrFailed) {
		t.Error(err)
	}
	e = start(t, o)
	if all := everything(t, e); len(all) != 1 || all[0].ID != r.ID {
		t.Errorf("%+v", all)
	}
}

func TestDamagedPayloadIsNeverGivenOut(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true}
	e := start(t, o)
	r := accept(t, e, journal.Synced, sample(1)).Record
	it, _, err := e.live(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(segmentFiles(t, o.Dir)[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{'X'}, it.payload.offset+int64(it.payload.size)-10); err != nil {
		t.Fatal(err)
	}
	got, p, err := e.Get(context.Background(), r.ID, true)
	if !errors.Is(err, journal.ErrCorrupt) || p != nil || got.ID != r.ID {
		t.Fatal(got, p, err)
	}
}

// TestOldSegmentsGo lets time pass with a few events that stay, and checks that the log shrinks while it stays complete.
func TestOldSegmentsGo(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	o := Options{
		Dir: memDir(t), AllowTmpfs: true, Sync: true, SegmentSize: 16 << 10,
		Retention: journal.Retention{Payload: 10 * time.Hour, Record: 20 * time.Hour, Dedup: 20 * time.Hour, DeadLetter: 100 * time.Hour},
		Now:       func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
	}
	e := start(t, o)
	ctx := context.Background()
	cursor := event.ResourceState{ResourceKey: event.ResourceKey{Source: "stripe", Resource: "x"}, Version: "3", UpdatedAt: now}
	keep := sample(100000)
	keep.Record.ReceivedAt, keep.Cursor = now, &cursor
	pending := accept(t, e, journal.Synced, keep).Record
	for n := 1; n <= 3; n++ {
		pending.Attempts = n
		out, err := e.Commit(ctx, []journal.Transition{{Record: pending, Attempt: &event.Attempt{N: n, Status: 500 + n}}}, journal.Written)
		if err != nil {
			t.Fatal(err)
		}
		pending = out[0].Record
	}
	if err := e.MetaPut(ctx, "replay", []byte("job"), journal.Written); err != nil {
		t.Fatal(err)
	}
	for hour := range 60 {
		for i := range 20 {
			a := sample(hour*100 + i)
			a.Record.ReceivedAt = e.opts.Now()
			r := accept(t, e, journal.Written, a).Record
			r.State, r.Reason, r.SettledAt = event.Delivered, 0, e.opts.Now()
			if i == 0 && hour < 5 {
				r.State, r.Reason = event.Failed, event.Exhausted
			}
			if _, err := e.Commit(ctx, []journal.Transition{{Record: r}}, journal.Written); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		now = now.Add(time.Hour)
		mu.Unlock()
		for {
			n, err := e.Sweep(ctx, e.opts.Now(), 100)
			if err != nil {
				t.Fatal(err)
			}
			if n < 100 {
				break
			}
		}
	}
	first, _ := e.wal.oldest()
	if first.number < 20 {
		t.Fatalf("the oldest segment is still %d", first.number)
	}
	check := func(e *Engine) {
		t.Helper()
		r, p, err := e.Get(ctx, pending.ID, true)
		if err != nil || len(p.Body) != 1024 {
			t.Fatal(err)
		}
		if d := cmp.Diff(pending, r); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
		as, err := e.Attempts(ctx, pending.ID)
		if err != nil || len(as) != 3 || as[0].Status != 501 || as[2].Status != 503 {
			t.Fatalf("%+v, %v", as, err)
		}
		if rs, err := e.Resources(ctx, []event.ResourceKey{cursor.ResourceKey}); err != nil || !cmp.Equal(rs[0], cursor) {
			t.Fatal(rs, err)
		}
		if v, err := e.MetaGet(ctx, "replay"); string(v) != "job" || err != nil {
			t.Fatalf("%q, %v", v, err)
		}
		if v := accept(t, e, journal.Written, sample(100000)); v.Accepted {
			t.Fatal("the pending event was forgotten")
		}
	}
	check(e)
	all := everything(t, e)
	counts, _ := e.Counts(ctx)
	cp, _ := e.Checkpoint(ctx, "stripe")
	if len(all) < 19*19 || len(all) > 21*20+6 {
		t.Fatalf("%d records", len(all))
	}
	copied := copyDir(t, o.Dir)
	e.Close()
	o.Dir = copied
	os.RemoveAll(filepath.Join(o.Dir, nameIndex))
	e = start(t, o)
	check(e)
	if d := cmp.Diff(all, everything(t, e)); d != "" {
		t.Fatalf("rebuilt (-want +got):\n%s", d)
	}
	if got, _ := e.Counts(ctx); !cmp.Equal(counts, got) {
		t.Fatal(cmp.Diff(counts, got))
	}
	if got, _ := e.Checkpoint(ctx, "stripe"); !cmp.Equal(cp, got) {
		t.Fatal(cmp.Diff(cp, got))
	}
}

// What is left of the oldest segment is written again, and then it goes. A crash between the ledger's entry and the file's removal leaves a segment that is no part of the log
// any more: that goes at the next start.
func TestASegmentThatWasWrittenOffGoes(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "encrypted": {make([]byte, 32)}} {
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, SegmentSize: 16 << 10, Log: quiet, Keys: keys}
		o.Retention.Payload = time.Hour
		e, rs := write(t, o, 40, journal.Written)
		path := segmentFiles(t, o.Dir)[0]
		written, later := mustRead(t, path), time.Now().Add(2*time.Hour)
		if _, p, err := e.Get(t.Context(), rs[0].ID, true); p == nil || err != nil { // it is kept open
			t.Fatal(p, err)
		}
		for first, _ := e.wal.oldest(); first.path == path; first, _ = e.wal.oldest() {
			if _, err := e.Sweep(t.Context(), later, 100); err != nil {
				t.Fatal(name, err)
			}
		}
		for i := range e.wal.kept {
			if k := e.wal.kept[i].Load(); k != nil && k.Name() == path {
				t.Errorf("%s: the file is still open: its space is not free", name)
			}
		}
		want := everything(t, e)
		must(t, e.Close())
		must(t, os.WriteFile(path, written, 0o600))
		e = start(t, o)
		if d := cmp.Diff(want, everything(t, e)); d != "" || len(want) != len(rs) {
			t.Errorf("%s: %d events (-want +got):\n%s", name, len(want), d)
		}
		if _, p, err := e.Get(t.Context(), rs[0].ID, true); p == nil || err != nil || len(p.Body) != 1024 {
			t.Errorf("%s: what waits has lost its bytes: %v", name, err)
		}
		if exists(path) {
			t.Errorf("%s: the file is still there", name)
		}
	}
}

// A disk that forgets: it keeps an image of every log file as of its last fsync.
type forgetfulDisk struct {
	mu     sync.Mutex
	synced map[string][]byte
}

func (d *forgetfulDisk) sync(f *os.File) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	if err := fdatasync(f); err != nil {
		return err
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced[filepath.Base(path)] = b
	return nil
}

// cut copies a journal as a power cut may leave it: of each sector that was written after the last fsync of its file,
// either the old or the new content. The ledger, which is hardly ever fsynced, may be as old as its other slot.
func (d *forgetfulDisk) cut(t testing.TB, dir string, rnd *rand.Rand) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	to := copyDir(t, dir)
	for _, file := range segmentFiles(t, to) {
		now := mustRead(t, file)
		old, ok := d.synced[filepath.Base(file)]
		if !ok {
			old = d.synced["next"]
		}
		for at := 0; at < len(now); at += 512 {
			end := min(at+512, len(now))
			if rnd.IntN(2) == 0 {
				clear(now[at:end])
				if at < len(old) {
					copy(now[at:end], old[at:min(end, len(old))])
				}
			}
		}
		if err := os.WriteFile(file, now, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestPowerCutLosesNothingThatWasSynced(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		disk := &forgetfulDisk{synced: map[string][]byte{}}
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, SegmentSize: 32 << 10, syncFile: disk.sync}
		e := start(t, o)
		next := 0
		for round := range 3 {
			acked := map[int]event.Record{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for w := range 6 {
				wg.Go(func() {
					for i := range 15 {
						n := next + w*100 + i
						d := journal.Durability((w + i) % 2)
						r := accept(t, e, d, sample(n)).Record
						if d == journal.Synced {
							if i%3 == 0 {
								r = deliver(t, e, journal.Synced, r)
							}
							mu.Lock()
							acked[n] = r
							mu.Unlock()
						}
					}
				})
			}
			wg.Wait()
			next += 1000
			dir := disk.cut(t, o.Dir, rnd)
			e.Close()
			must(t, os.RemoveAll(o.Dir)) // it may be in memory
			o.Dir = dir
			e = start(t, o)
			for n, want := range acked {
				r, p, err := e.Get(context.Background(), want.ID, true)
				if err != nil || r.State != want.State || len(p.Body) != 1024 {
					t.Fatalf("seed %d, round %d, event %d: %+v, %v", seed, round, n, r, err)
				}
				if accept(t, e, journal.Synced, sample(n)).Accepted {
					t.Fatalf("seed %d: event %d was forgotten", seed, n)
				}
			}
		}
		e.Close()
	}
}

// TestPayloadsLeaveTheDisk: on a quiet journal, too, what retention took is not on the disk any more.
func TestPayloadsLeaveTheDisk(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	o := Options{
		Dir: memDir(t), AllowTmpfs: true, Sync: true,
		Retention: journal.Retention{Payload: 8 * time.Hour, Record: 100 * time.Hour, Dedup: 100 * time.Hour, DeadLetter: 100 * time.Hour},
		Now:       func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
	}
	e := start(t, o)
	a := sample(1)
	a.Record.ReceivedAt = now
	copy(a.Payload.Body, "a secret of the sender")
	r := accept(t, e, journal.Synced, a).Record
	r.State, r.SettledAt = event.Delivered, now
	if _, err := e.Commit(context.Background(), []journal.Transition{{Record: r}}, journal.Synced); err != nil {
		t.Fatal(err)
	}
	for range 11 {
		mu.Lock()
		now = now.Add(time.Hour)
		mu.Unlock()
		for n := 1; n > 0; {
			var err error
			if n, err = e.Sweep(context.Background(), now, 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, text := range contents(t, o.Dir) {
		if strings.Contains(text, "a secret of the sender") {
			t.Errorf("the payload is still in %s", path)
		}
	}
	if got, _, err := e.Get(context.Background(), r.ID, false); err != nil || got.HasPayload {
		t.Fatal(got, err)
	}
}

// TestFaultThatBadgerOnlyLogsIsFinal: Badger logs that a table could not be written, and tries again. A disk that fails is final for the journal.
func TestFaultThatBadgerOnlyLogsIsFinal(t *testing.T) {
	for name, say := range map[string]func(badgerLog){
		"flush":      func(l badgerLog) { l.Errorf("error flushing memtable to disk: %v, retrying", syscall.EIO) },
		"compaction": func(l badgerLog) { l.Warningf("[Compactor: %d] LOG Compact FAILED with error: %+v", 1, syscall.EIO) },
	} {
		e := start(t, Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet})
		say(badgerLog{log: quiet, fault: e.opts.indexFault})
		<-e.Failed()
		if _, err := e.Accept(context.Background(), []journal.Accept{sample(1)}, journal.Written); !errors.Is(err, journal.ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatal(name, err)
		}
	}
}

// TestLastTableThatCannotBeWritten: Badger tries for ever to write what it has in memory when it is closed. A directory that is gone does not hold the end up.
func TestLastTableThatCannotBeWritten(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e := start(t, o)
	accept(t, e, journal.Synced, sample(1))
	if err := e.settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(o.Dir, "index")); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); !errors.Is(err, journal.ErrFailed) || !errors.Is(err, syscall.ENOENT) {
		t.Fatal(err)
	}
}

// TestGarbageInATableIsNoPanic: Badger reads its tables in goroutines of its own at open, and a garbled block ended the process there.
func TestGarbageInATableIsNoPanic(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true}
	e := start(t, o)
	for i := range 400 {
		accept(t, e, journal.Synced, sample(i))
	}
	if err := e.settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	e.Close() // writes a table
	tables, err := filepath.Glob(filepath.Join(o.Dir, "index", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	whole := mustRead(t, tables[0])
	rnd := rand.New(rand.NewPCG(5, 6))
	for at := 0; at+4096 < len(whole); at += 4096 {
		b := bytes.Clone(whole)
		for i := range 4096 {
			b[at+i] = byte(rnd.Uint32())
		}
		path := filepath.Join(t.TempDir(), filepath.Base(tables[0]))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".sst"), 10, 64)
		if _, err := checkBlocks(path, n, nil, func(*table.Table) error { return nil }); err == nil {
			t.Fatalf("garbage at %d was not noticed", at)
		}
	}
	if err := os.WriteFile(tables[0], append(bytes.Repeat([]byte{7}, 4096), whole[4096:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	e = start(t, o)
	if l, err := e.List(context.Background(), journal.Query{Limit: 500}); err != nil || len(l.Records) != 400 {
		t.Fatal(len(l.Records), err)
	}
}

// A kill, or a power cut, right as a first start makes the ledger left a file without a word in it, and every start after that was refused as damaged.
func TestAFirstStartThatWasCutShortIsBegunAgain(t *testing.T) {
	for _, size := range []int{0, ledgerSlot, 2 * ledgerSlot} {
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
		must(t, os.WriteFile(filepath.Join(o.Dir, nameFormat), fmt.Appendf(nil, "%s%d\n", formatPrefix, formatVersion), 0o600))
		must(t, os.WriteFile(filepath.Join(o.Dir, nameLedger), make([]byte, size), 0o600))
		r := accept(t, start(t, o), journal.Synced, sample(1)).Record
		o.Dir = copyDir(t, o.Dir)
		if _, _, err := start(t, o).Get(t.Context(), r.ID, true); err != nil {
			t.Fatal(err)
		}
		must(t, os.WriteFile(filepath.Join(o.Dir, nameLedger), make([]byte, size), 0o600))
		o.Dir = copyDir(t, o.Dir)
		if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), nameLedger) {
			t.Fatalf("a ledger of %d zeros beside a log: %v", size, err)
		}
	}
}

// What no fsync has confirmed may be in the page cache alone, for good after one that failed: it is written again before anything is built on it.
func TestWhatWasNotSyncedIsWrittenAgain(t *testing.T) {
	for name, keys := range map[string][][]byte{"plain": nil, "encrypted": {[]byte("0123456789abcdef0123456789abcdef")}} {
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet, Keys: keys}
		e, _ := write(t, o, 3, journal.Synced)
		synced := copyDir(t, o.Dir)
		accept(t, e, journal.Written, bigSample(3))
		written := copyDir(t, o.Dir)
		for dir, want := range map[string]bool{synced: false, written: true} {
			path, long := segmentFiles(t, dir)[0], time.Unix(1, 0)
			before := mustRead(t, path)
			must(t, os.Chtimes(path, long, long))
			o.Dir = dir
			start(t, o)
			info, err := os.Stat(path)
			if err != nil || info.ModTime().After(long) != want || !bytes.Equal(mustRead(t, path), before) {
				t.Errorf("%s, all synced %t: written at %s, the same %t, %v", name, !want, info.ModTime(), bytes.Equal(mustRead(t, path), before), err)
			}
		}
	}
}
