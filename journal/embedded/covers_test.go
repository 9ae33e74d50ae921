package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// An event that nothing is known of was "not received" only as far as the log goes back. What was lost to a restore, to damage or to an earlier, shorter
// retention is not in it: covers moves behind that, and stays there over restarts.
func TestTheLogCoversNothingThatItMayHaveLost(t *testing.T) {
	since := func(o Options) (first, again time.Time) {
		for _, at := range []*time.Time{&first, &again} {
			e := start(t, o)
			*at = e.Stats().CoversSince
			must(t, e.Close())
		}
		return first, again
	}
	made := func(dir string) (o Options, lost time.Time) {
		o = Options{Dir: dir, AllowTmpfs: true, Sync: true, Log: quiet}
		e := start(t, o)
		if covers := e.Stats().CoversSince; !covers.Equal(e.Stats().Born) {
			t.Errorf("a new journal covers %s", covers)
		}
		accept(t, e, journal.Synced, bigSample(1))
		if _, err := Backup(t.Context(), dir, dir+".backup", nil); err != nil {
			t.Fatal(err)
		}
		lost = accept(t, e, journal.Synced, bigSample(2)).Record.ReceivedAt
		must(t, e.Close())
		return o, lost
	}
	t.Run("restored", func(t *testing.T) {
		o, lost := made(filepath.Join(memDir(t), "j"))
		must(t, os.RemoveAll(o.Dir))
		if _, err := Restore(t.Context(), o.Dir+".backup", o.Dir, nil); err != nil {
			t.Fatal(err)
		}
		if first, again := since(o); !first.After(lost) || !again.Equal(first) {
			t.Errorf("it covers %s, after a restart %s; what came at %s is not there", first, again, lost)
		}
	})
	t.Run("salvaged", func(t *testing.T) {
		o, lost := made(filepath.Join(memDir(t), "j"))
		flip(t, segmentFiles(t, o.Dir)[0], segmentHeadSize+frameHead+12)
		if r, err := Salvage(t.Context(), o, "", nil); err != nil || r.MissingEvents != 1 {
			t.Fatal(r, err)
		}
		if first, again := since(o); !first.After(lost) || !again.Equal(first) {
			t.Errorf("it covers %s, after a restart %s", first, again)
		}
	})
}

// Of an event that is older than the oldest part of the log there is one frame, in which it was carried forward, and nobody can tell from the numbers whether that is
// what was lost. The journal said that the event was never received, and that it would know.
func TestTheLogDoesNotCoverWhatWasCarriedForwardAndLost(t *testing.T) {
	for name, damage := range map[string]func(o Options, carried *item){
		"a frame": func(o Options, carried *item) {
			path := segmentPath(filepath.Join(o.Dir, nameLog), carried.base)
			flip(t, path, int64(bytes.Index(mustRead(t, path), carried.body)))
		},
		"the oldest segment": func(o Options, _ *item) { must(t, os.Remove(segmentFiles(t, o.Dir)[0])) },
		"nothing":            func(o Options, _ *item) { must(t, os.Remove(filepath.Join(o.Dir, nameFormat))) },
	} {
		m := newMachine()
		o := m.options(memDir(t))
		o.SegmentSize = 16 << 10
		e := start(t, o)
		old := m.settle(t, e, accept(t, e, journal.Synced, m.sample(1)).Record, event.Delivered, 0)
		for n := range 20 {
			m.settle(t, e, accept(t, e, journal.Synced, m.sample(10+n)).Record, event.Delivered, 0)
		}
		m.pass(80 * time.Hour)
		m.settle(t, e, accept(t, e, journal.Synced, m.sample(100)).Record, event.Delivered, 0)
		m.sweep(t, e)
		carried, err := e.item(old.ID.Seq())
		if err != nil || carried.base == 1 {
			t.Fatal(carried, err)
		}
		m.settle(t, e, accept(t, e, journal.Synced, m.sample(101)).Record, event.Delivered, 0)
		must(t, e.Close())
		damage(o, carried)
		lost := name != "nothing"
		if r, err := Salvage(t.Context(), o, "", nil); err != nil || r.Whole() || r.OlderMayBeMissing != lost {
			t.Fatal(name, r, err)
		}
		if since := start(t, o).Stats().CoversSince; since.After(old.ReceivedAt) != lost {
			t.Errorf("%s lost: it covers %s, and an event came at %s", name, since, old.ReceivedAt)
		}
	}
}

func TestALongerRetentionBringsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hour := journal.Retention{Dedup: time.Hour, Payload: time.Hour, Record: time.Hour, DeadLetter: time.Hour}
		e := start(t, Options{Dir: t.TempDir(), InBubble: true, Retention: hour})
		lost := deliver(t, e, journal.Written, accept(t, e, journal.Written, sample(1)).Record).ReceivedAt
		time.Sleep(2 * time.Hour)
		if _, err := e.Sweep(t.Context(), time.Now(), 100); err != nil {
			t.Fatal(err)
		}
		e.SetRetention(journal.Retention{Dedup: 5 * time.Hour, Payload: time.Hour, Record: 5 * time.Hour, DeadLetter: time.Hour})
		if covers := e.Stats().CoversSince; !covers.After(lost) {
			t.Errorf("it covers %s; what came at %s is forgotten", covers, lost)
		}
	})
}

// The same over a restart, and where the index has to be made anew.
func TestALongerRetentionAfterARestartBringsNothingBack(t *testing.T) {
	for _, rebuilt := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			hour := journal.Retention{Dedup: time.Hour, Payload: 100 * time.Hour, Record: time.Hour, DeadLetter: time.Hour}
			o := Options{Dir: t.TempDir(), InBubble: true, Retention: hour}
			e := start(t, o)
			lost := deliver(t, e, journal.Written, accept(t, e, journal.Written, sample(1)).Record).ReceivedAt
			time.Sleep(2 * time.Hour)
			if _, err := e.Sweep(t.Context(), time.Now(), 100); err != nil {
				t.Fatal(err)
			}
			must(t, e.Close())
			if rebuilt {
				must(t, os.RemoveAll(filepath.Join(o.Dir, nameIndex)))
			}
			o.Retention.Dedup, o.Retention.Record = 5*time.Hour, 5*time.Hour
			if covers := start(t, o).Stats().CoversSince; !covers.After(lost) {
				t.Errorf("rebuilt %t: it covers %s; what came at %s is forgotten", rebuilt, covers, lost)
			}
		})
	}
}
