package embedded

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// secretSample is an event whose every part holds the word canary.
func secretSample(n int) journal.Accept {
	a := sample(n)
	a.Record.Resource, a.Record.Type, a.Record.Account = "canary-resource", "canary-type", "canary-account"
	a.Payload.Target, a.Payload.Host = []byte("/canary-target"), []byte("canary.host")
	a.Payload.Head = event.Head("Authorization: canary-header\r\n")
	a.Payload.Body = bytes.Repeat([]byte("canary-body "), 6_000*(n%2)+10) // also one that is written directly
	return a
}

// leaks are the files under dir with the word canary in them.
func leaks(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 4<<20)) // the rest of Badger's files is sparse
		if bytes.Contains(b, []byte("canary")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEncryptedJournalShowsNothing(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, SegmentSize: 256 << 10, Keys: [][]byte{one}, Log: quiet}
	ctx := context.Background()
	e := start(t, o)
	var ids []event.ID
	for i := range 8 {
		r := accept(t, e, journal.Synced, secretSample(i)).Record
		if i%4 != 0 {
			r = deliver(t, e, journal.Synced, r)
		}
		ids = append(ids, r.ID)
	}
	if err := e.MetaPut(ctx, "canary-key", []byte("canary-value"), journal.Synced); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		for i, id := range ids {
			r, p, err := e.Get(ctx, id, true)
			if err != nil || r.Resource != "canary-resource" || !cmp.Equal(p.Body, secretSample(i).Payload.Body) {
				t.Fatalf("%s: event %d: %v", what, i, err)
			}
		}
	}
	check("as written")
	e.settle(ctx)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if found := leaks(t, o.Dir); len(found) > 0 {
		t.Fatalf("readable in %v", found)
	}

	before := contents(t, o.Dir+"/log")
	for name, keys := range map[string][][]byte{"no key": nil, "another key": {two}} {
		x := o
		x.Keys = keys
		if _, err := Open(x); !errors.Is(err, journal.ErrKey) || !strings.Contains(err.Error(), ".seg") {
			t.Fatalf("%s: %v", name, err)
		}
		if !maps.Equal(before, contents(t, o.Dir+"/log")) {
			t.Fatalf("%s: something was changed", name)
		}
	}

	e = start(t, o)
	check("after a start")
	e.Close()
	o.Keys = [][]byte{two, one} // rotation: the new key encrypts, the old one still decrypts
	e = start(t, o)
	check("with a new key in front")
	ids = append(ids, accept(t, e, journal.Synced, secretSample(8)).Record.ID)
	e.Close()
	if err := os.RemoveAll(o.Dir + "/index"); err != nil {
		t.Fatal(err)
	}
	e = start(t, o)
	check("rebuilt")
	e.Close()
	if found := leaks(t, o.Dir); len(found) > 0 {
		t.Fatalf("readable in %v", found)
	}
}

// Encryption that is turned on covers what comes from then on, and the index at once.
func TestEncryptionTurnedOnLater(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e := start(t, o)
	plain := accept(t, e, journal.Synced, secretSample(0)).Record
	e.Close()
	o.Keys = [][]byte{bytes.Repeat([]byte{1}, 32)}
	e = start(t, o)
	sealed := accept(t, e, journal.Synced, secretSample(2)).Record
	for _, r := range []event.Record{plain, sealed} {
		if _, p, err := e.Get(context.Background(), r.ID, true); err != nil || len(p.Body) == 0 {
			t.Error(err)
		}
	}
	e.Close()
	found := leaks(t, o.Dir)
	if len(found) != 1 || !strings.HasSuffix(found[0], "0000000000000001.seg") {
		t.Errorf("readable in %v, want the first segment only", found)
	}
}

// A payload that was looked up just before its segment goes is looked for where it is now, and not taken for damaged.
func TestEncryptedPayloadOfASegmentThatGoes(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Keys: [][]byte{bytes.Repeat([]byte{1}, 32)}, Log: quiet}
	e := start(t, o)
	defer e.Close()
	it, _, err := e.live(accept(t, e, journal.Synced, secretSample(0)).Record.ID)
	must(t, err)
	if _, err := e.payload(it.payload); err != nil {
		t.Fatal(err)
	}
	must(t, e.call(context.Background(), journal.Synced, (*writer).rotate))
	e.wal.mu.Lock()
	e.wal.segs = e.wal.segs[1:] // as dropOldest does before it removes the file
	e.wal.mu.Unlock()
	if _, err := e.payload(it.payload); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, not that it is gone", err)
	}
}

// A large event kept as much memory as it has bytes, for as long as the process ran.
func TestALargeEventLeavesNoMemoryBehind(t *testing.T) {
	e := start(t, Options{Keys: [][]byte{[]byte("0123456789abcdef0123456789abcdef")}})
	a := sample(1)
	a.Payload.Body = make([]byte, 16<<20)
	r := accept(t, e, journal.Written, a).Record
	if _, p, err := e.Get(t.Context(), r.ID, true); err != nil || len(p.Body) != 16<<20 {
		t.Fatal(err)
	}
	must(t, e.Close())
	if kept := cap(e.wal.seal) + cap(e.wal.buf); kept > 8<<20 {
		t.Errorf("%d bytes are kept", kept)
	}
}
