package embedded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// A backup that is made while events come in holds everything that was acknowledged before it began, and opens.
func TestBackupOfARunningJournal(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
	e := start(t, o)
	var before []event.Record
	for i := range 60 {
		before = append(before, accept(t, e, journal.Synced, bigSample(i)).Record)
	}
	must(t, e.wal.sync(), e.reached(e.published()))
	var writing sync.WaitGroup
	stop := make(chan struct{})
	writing.Go(func() {
		for i := 60; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = e.Accept(ctx, []journal.Accept{bigSample(i)}, journal.Written)
			}
		}
	})
	to := filepath.Join(memDir(t), "backup")
	r, err := Backup(ctx, o.Dir, to, nil)
	close(stop)
	writing.Wait()
	if err != nil || r.Segments == 0 {
		t.Fatal(r, err)
	}
	if _, err := Backup(ctx, o.Dir, to, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing one: %v", err)
	}
	link := filepath.Join(memDir(t), "link")
	must(t, os.Symlink(filepath.Join(o.Dir, nameLog), link))
	for _, inside := range []string{filepath.Join(o.Dir, "backup"), filepath.Join(o.Dir, "new", "backup"), filepath.Join(link, "backup")} {
		if _, err := Backup(ctx, o.Dir, inside, nil); err == nil {
			t.Errorf("into the journal itself: %s", inside)
		}
	}
	if _, err := Restore(ctx, to, o.Dir, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a journal: %v", err)
	}
	volume := memDir(t) // the top of a volume of its own, on which a restore was cut off
	must(t, os.Mkdir(filepath.Join(volume, "lost+found"), 0o700), os.MkdirAll(filepath.Join(volume, "restore.partial", nameLog), 0o700))
	for _, dir := range []string{filepath.Join(memDir(t), "new"), memDir(t), volume} {
		if _, err := Restore(ctx, to, dir, nil); err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := Export(ctx, dir, nil, nil, func(x *Exported) error { n++; return x.Err }); err != nil || n < len(before) {
			t.Errorf("exported %d: %v", n, err)
		}
		x := start(t, Options{Dir: dir, AllowTmpfs: true, Log: quiet})
		for i, want := range before {
			got, p, err := x.Get(ctx, want.ID, true)
			if err != nil || !cmp.Equal(got, want) || !cmp.Equal(p.Body, bigSample(i).Payload.Body) {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		if accept(t, x, journal.Written, bigSample(7)).Accepted {
			t.Error("a duplicate passes after the restore")
		}
	}
	flip(t, segmentFiles(t, o.Dir)[0], segmentHeadSize+2000)
	bad := filepath.Join(memDir(t), "bad")
	if _, err := Backup(ctx, o.Dir, bad, nil); !errors.Is(err, journal.ErrDamaged) {
		t.Errorf("a damaged journal was backed up: %v", err)
	}
	if m, _ := filepath.Glob(bad + "*"); len(m) > 0 {
		t.Errorf("left behind: %v", m)
	}
}

// A journal that nothing was written to yet has a backup like any other. It was called damaged, and no file was named.
func TestBackupBeforeTheFirstEvent(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e := start(t, o)
	to, dir := filepath.Join(memDir(t), "backup"), filepath.Join(memDir(t), "new")
	if r, err := Backup(ctx, o.Dir, to, nil); err != nil || r.Changes != 0 {
		t.Fatal(r, err)
	}
	if r, err := Check(ctx, to, nil, nil); err != nil || !r.Whole() {
		t.Errorf("the backup: %+v %v", r, err)
	}
	accept(t, e, journal.Synced, sample(1))
	_, err := Restore(ctx, to, dir, nil)
	must(t, err)
	x := start(t, Options{Dir: dir, AllowTmpfs: true, Sync: true, Log: quiet})
	if all := everything(t, x); len(all) != 0 {
		t.Errorf("what came later is in it: %+v", all)
	}
	if !accept(t, x, journal.Synced, sample(1)).Accepted {
		t.Error("the first event is refused")
	}
}

// An fsync that ends just as a segment does: the ledger named the next one, and confirmed less than the frames before it. A backup then said that the journal is damaged.
func TestBackupRightAfterASegmentHasEnded(t *testing.T) {
	var e *Engine
	var once sync.Once
	var failed error
	o := Options{Dir: memDir(t), Sync: true, Synced: func(time.Duration) {
		once.Do(func() {
			failed = e.call(t.Context(), journal.Written, func(w *writer) error {
				for _, key := range []string{"a", "b"} {
					body := appendSection(nil, secMetaKey, []byte(key))
					if err := w.emit(&frame{kind: kindMeta, body: body, bodySum: checksum(body)}, &parts{metaKey: key}, nil); err != nil {
						return err
					}
				}
				return e.wal.rotate(segmentHead{nextSeq: uint64(w.nextSeq), created: w.now, born: e.born, lowest: 1})
			})
		})
	}}
	e = start(t, o)
	accept(t, e, journal.Synced, sample(1))
	must(t, failed)
	if r, err := Backup(t.Context(), o.Dir, filepath.Join(memDir(t), "backup"), nil); err != nil || r.Segments != 2 {
		t.Fatal(r, err)
	}
}

// A slash at the end of the name, as completion by a shell leaves it: the copy was made, could not be put in its place, and was left in the way of the next.
func TestBackupToANameThatEndsInASlash(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	accept(t, start(t, o), journal.Synced, sample(1))
	above := memDir(t)
	_, err := Backup(ctx, o.Dir, filepath.Join(above, "backup")+"/", nil)
	must(t, err)
	_, err = Restore(ctx, filepath.Join(above, "backup")+"/", filepath.Join(above, "new")+"/", nil)
	must(t, err)
	for _, dir := range []string{"backup", "new"} {
		if r, err := Check(ctx, filepath.Join(above, dir), nil, nil); err != nil || !r.Whole() || r.Events != 1 {
			t.Errorf("%s: %+v %v", dir, r, err)
		}
	}
}

// Two backups to one name at once: the second took away what the first had copied, and both failed, or the first said that it was done and held half.
func TestTwoBackupsToOneName(t *testing.T) {
	ctx := context.Background()
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	accept(t, start(t, o), journal.Synced, sample(1))
	to := filepath.Join(memDir(t), "backup")
	var second error
	_, err := Backup(ctx, o.Dir, to, func(done, total int64) {
		_, second = Backup(ctx, o.Dir, to, nil)
	})
	if err != nil || !errors.Is(second, fs.ErrExist) {
		t.Errorf("the first: %v, the second: %v", err, second)
	}
	if r, err := Check(ctx, to, nil, nil); err != nil || !r.Whole() || r.Events != 1 {
		t.Errorf("%+v %v", r, err)
	}
	if m, _ := filepath.Glob(to + ".*"); len(m) > 0 {
		t.Errorf("left behind: %v", m)
	}
}
