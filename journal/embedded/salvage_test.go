package embedded

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

var matrix = flag.Bool("matrix", false, "damage the journal in every way, not only the most telling")

// bigSample has a body that tells which event it is.
func bigSample(n int) journal.Accept {
	a := sample(n)
	a.Payload.Body = fmt.Appendf(nil, "%d %s", n, strings.Repeat(fmt.Sprint(n%10), 3000))
	return a
}

// salvageable is a journal of 100 events in several segments: every third one is delivered, the last ten after a rest.
func salvageable(t *testing.T, o Options) (want map[event.ID]event.Record) {
	t.Helper()
	e := start(t, o)
	want = map[event.ID]event.Record{}
	for i := range 100 {
		r := accept(t, e, journal.Synced, bigSample(i)).Record
		if i%3 == 0 {
			r = deliver(t, e, journal.Synced, r)
		}
		want[r.ID] = r
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

// flip changes a byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestCheckNamesTheFileThatIsCutOff: also where what is left of a frame is not even a header, or nothing.
func TestCheckNamesTheFileThatIsCutOff(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e, _ := write(t, o, 5, journal.Synced)
	end := e.wal.offset // of a frame, before the last ones
	deliver(t, e, journal.Synced, accept(t, e, journal.Synced, sample(7)).Record)
	must(t, e.Close())
	files := segmentFiles(t, o.Dir)
	path := files[len(files)-1]
	for left := int64(frameHead + 100); left >= 0; left -= 4 {
		must(t, os.Truncate(path, end+left))
		r, err := Check(context.Background(), o.Dir, nil, nil)
		if err != nil || len(r.Damage) != 1 || r.Damage[0].File != path || r.MissingEvents != 1 {
			t.Fatalf("%d bytes of the frame are left: %+v %v", left, r, err)
		}
		if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%d bytes of the frame are left: %v", left, err)
		}
	}
}

// TestCheckCountsWhatTheFirstSegmentHeld: where nothing of it can be read, its events are missing whether the file is there or not. It said that none were.
func TestCheckCountsWhatTheFirstSegmentHeld(t *testing.T) {
	for name, c := range map[string]struct {
		keys   [][]byte
		damage func(path string) error
		want   uint64
	}{
		"gone":                     {damage: os.Remove, want: 20},
		"empty":                    {damage: func(path string) error { return os.Truncate(path, 0) }, want: 20},
		"no header":                {damage: func(path string) error { flip(t, path, 30); return nil }, want: 0},
		"encrypted, and no header": {keys: [][]byte{make([]byte, 32)}, damage: func(path string) error { flip(t, path, 30); return nil }, want: 20},
	} {
		o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Keys: c.keys, Log: quiet}
		e, _ := write(t, o, 20, journal.Synced)
		must(t, e.Close(), c.damage(segmentFiles(t, o.Dir)[0]))
		if r, err := Check(context.Background(), o.Dir, o.Keys, nil); err != nil || r.MissingEvents != c.want {
			t.Errorf("%s: %+v %v, want %d missing events", name, r, err, c.want)
		}
	}
}

// TestSalvageBeyondTheLedger: after a power cut the ledger may be older than the log, and later frames say what the disk had confirmed. A start was refused, and the salvage, which
// took its own lock for a running gateway's, found nothing wrong with what the ledger does not know.
func TestSalvageBeyondTheLedger(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, Sync: true, Log: quiet}
	e, _ := write(t, o, 5, journal.Synced)
	old := mustRead(t, filepath.Join(o.Dir, nameLedger))
	at := int64(0)
	for i := range 10 {
		if i == 2 {
			at = e.wal.offset
		}
		accept(t, e, journal.Synced, sample(100+i))
	}
	must(t, e.Close(), os.WriteFile(filepath.Join(o.Dir, nameLedger), old, 0o600))
	flip(t, segmentFiles(t, o.Dir)[0], at+20)
	if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) {
		t.Fatal(err)
	}
	r, err := Salvage(context.Background(), o, "", nil)
	if err != nil || r.Whole() || r.MissingEvents != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if n := len(everything(t, start(t, o))); n != 14 {
		t.Errorf("%d events are left", n)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A damaged journal is refused, and what can be read of it can be had: nothing wrong is given out, nothing is deleted, and what is
// missing is counted.
func TestSalvage(t *testing.T) {
	segment := func(dir string, i int) string { return segmentFiles(t, dir)[i] }
	for name, tt := range map[string]struct {
		damage  func(dir string)
		missing uint64 // events, at most
		file    string // that the report names
		encrypt bool
		long    bool // only with -matrix
	}{
		"a byte of a payload":         {damage: func(d string) { flip(t, segment(d, 1), segmentHeadSize+2000) }, file: "0002.seg"},
		"a byte of a record":          {damage: func(d string) { flip(t, segment(d, 1), segmentHeadSize+frameHead+12) }, missing: 1, file: "0002.seg"},
		"a byte of a frame's header":  {damage: func(d string) { flip(t, segment(d, 1), segmentHeadSize+20) }, missing: 1, file: "0002.seg"},
		"a byte of a frame's length":  {damage: func(d string) { flip(t, segment(d, 2), segmentHeadSize+1) }, missing: 1, file: "0003.seg", long: true},
		"a byte of a segment header":  {damage: func(d string) { flip(t, segment(d, 1), 30) }, file: "0002.seg"},
		"a segment header of zeros":   {damage: func(d string) { wipe(t, segment(d, 2), 0, segmentHeadSize) }, file: "0003.seg", long: true},
		"a page of zeros":             {damage: func(d string) { wipe(t, segment(d, 1), 8192, 4096) }, missing: 3, file: "0002.seg"},
		"a page of rubbish":           {damage: func(d string) { rubbish(t, segment(d, 1), 8192, 4096) }, missing: 3, file: "0002.seg", long: true},
		"the first segment is gone":   {damage: func(d string) { must(t, os.Remove(segment(d, 0))) }, missing: 30, file: "0001.seg", long: true},
		"a segment is gone":           {damage: func(d string) { must(t, os.Remove(segment(d, 2))) }, missing: 30, file: "0003.seg"},
		"the last segment is gone":    {damage: func(d string) { f := segmentFiles(t, d); must(t, os.Remove(f[len(f)-1])) }, missing: 30},
		"the last segment is cut":     {damage: func(d string) { f := segmentFiles(t, d); must(t, os.Truncate(f[len(f)-1], 5000)) }, missing: 30, long: true},
		"a segment is cut":            {damage: func(d string) { must(t, os.Truncate(segment(d, 1), 20_000)) }, missing: 30, file: "0002.seg", long: true},
		"a segment is empty":          {damage: func(d string) { must(t, os.Truncate(segment(d, 1), 0)) }, missing: 30, file: "0002.seg", long: true},
		"the ledger is gone":          {damage: func(d string) { must(t, os.Remove(filepath.Join(d, nameLedger))) }, file: nameLedger, long: true},
		"the ledger is zeros":         {damage: func(d string) { wipe(t, filepath.Join(d, nameLedger), 0, 1024) }, file: nameLedger, long: true},
		"the format file is gone":     {damage: func(d string) { must(t, os.Remove(filepath.Join(d, nameFormat))) }, file: nameFormat},
		"the format file is rubbish":  {damage: func(d string) { rubbish(t, filepath.Join(d, nameFormat), 0, 10) }, file: nameFormat, long: true},
		"the log is gone":             {damage: func(d string) { must(t, os.RemoveAll(filepath.Join(d, nameLog))) }, missing: 100, file: "0001.seg"},
		"encrypted, a payload's byte": {damage: func(d string) { flip(t, segment(d, 1), segmentHeadSize+2000) }, file: "0002.seg", encrypt: true},
		"encrypted, a page of zeros":  {damage: func(d string) { wipe(t, segment(d, 1), 8192, 4096) }, missing: 3, file: "0002.seg", encrypt: true, long: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.long && !*matrix {
				t.Skip("only with -matrix")
			}
			t.Parallel()
			ctx := context.Background()
			o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
			if tt.encrypt {
				o.Keys = [][]byte{make([]byte, 32)}
			}
			want := salvageable(t, o)
			tt.damage(o.Dir)
			must(t, os.MkdirAll(filepath.Join(o.Dir, nameLog), 0o700))
			before := contents(t, filepath.Join(o.Dir, nameLog))
			if _, err := Open(o); !errors.Is(err, journal.ErrDamaged) || !strings.Contains(err.Error(), o.Dir) {
				t.Fatalf("open: %v", err)
			}
			r, err := Check(ctx, o.Dir, o.Keys, nil)
			if err != nil || r.Whole() || r.MissingEvents > tt.missing {
				t.Fatalf("check: %+v, %v", r, err)
			}
			if !strings.Contains(fmt.Sprint(r.Damage), tt.file) {
				t.Errorf("the report names %v, want %s", r.Damage, tt.file)
			}
			if now := contents(t, filepath.Join(o.Dir, nameLog)); !maps.Equal(before, now) {
				t.Fatal("something was changed")
			}
			r, err = Salvage(ctx, o, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := os.ReadDir(filepath.Join(r.Kept, nameLog))
			if err == nil && len(kept) < len(before) {
				t.Errorf("%d of %d damaged files were kept", len(kept), len(before))
			}
			e := start(t, o)
			found := map[event.ID]event.Record{}
			for _, r := range everything(t, e) {
				found[r.ID] = r
			}
			missing := uint64(0)
			for id, w := range want {
				got, ok := found[id]
				if !ok {
					missing++
					continue
				}
				n := 0
				fmt.Sscanf(w.EventID, "evt_%d", &n)
				if got.State != w.State && got.State != event.Pending && got.Reason != event.Corrupt {
					t.Errorf("%s is %v/%v, was %v", w.EventID, got.State, got.Reason, w.State)
				}
				if w.State == event.Delivered && got.State == event.Pending && !got.Unknown {
					t.Errorf("%s was delivered, and would be delivered again without a mark", w.EventID)
				}
				_, p, err := e.Get(ctx, id, true)
				switch {
				case err == nil && !cmp.Equal(p.Body, bigSample(n).Payload.Body):
					t.Errorf("%s: wrong bytes", w.EventID)
				case err != nil && got.State == event.Pending:
					t.Errorf("%s waits for delivery without its bytes: %v", w.EventID, err)
				}
				if accept(t, e, journal.Written, bigSample(n)).Accepted {
					t.Errorf("%s passes a second time", w.EventID)
				}
			}
			if missing > tt.missing || missing > r.MissingEvents {
				t.Errorf("%d events are missing, the report says %d", missing, r.MissingEvents)
			}
			if v := accept(t, e, journal.Synced, bigSample(1000)); !v.Accepted || want[v.Record.ID].ID == v.Record.ID || v.Record.Seq <= 100 {
				t.Errorf("the next event is %+v", v.Record)
			}
			must(t, e.Close())
			if r, err := Check(ctx, o.Dir, o.Keys, nil); err != nil || !r.Whole() {
				t.Errorf("after salvage: %+v, %v", r, err)
			}
		})
	}
}

// An event that was carried forward has changes in the log from before that, with the segment of its first frame gone. A salvage makes it of these, without the second replay
// key, which only what was carried has: that key then was unknown, and who sent the event again under another id was taken for new.
func TestSalvageKeepsEveryKeyOfWhatWasCarriedForward(t *testing.T) {
	m := newMachine()
	o := m.options(memDir(t))
	o.SegmentSize = 16 << 10
	e := start(t, o)
	signed := m.sample(1)
	signed.Keys = append(signed.Keys, event.MakeKey(event.KeyMAC, "stripe", "its signature"))
	waiting := accept(t, e, journal.Synced, signed).Record
	fill := func(from int) { // a segment and more
		for n := range 20 {
			m.settle(t, e, accept(t, e, journal.Synced, m.sample(from+n)).Record, event.Delivered, 0)
		}
	}
	fill(100)
	m.settle(t, e, waiting, event.Pending, event.Retrying)
	fill(200)
	for oldest, _ := e.wal.oldest(); oldest.number == 1; oldest, _ = e.wal.oldest() {
		m.pass(time.Hour)
		_, err := e.Sweep(context.Background(), m.now(), 5)
		must(t, err)
	}
	must(t, e.Close(), os.Remove(filepath.Join(o.Dir, nameFormat)))
	_, err := Salvage(context.Background(), o, "", nil)
	must(t, err)
	fates, err := start(t, o).Lookup(context.Background(), signed.Keys)
	if err != nil || fates[0].ID != waiting.ID || fates[1].ID != waiting.ID {
		t.Errorf("under its keys: %+v %v, want %s twice", fates, err, waiting.ID)
	}
}

// TestSalvageKeepsTheCursor: a delivery moves the cursor of its resource in the same change. Where the event's first change was lost, or had gone with an old segment, the salvage
// kept the event and left the cursor out: the next older version would have been delivered.
func TestSalvageKeepsTheCursor(t *testing.T) {
	m := newMachine()
	o := m.options(memDir(t))
	e := start(t, o)
	accept(t, e, journal.Synced, m.sample(0))
	begin := e.wal.offset
	r := accept(t, e, journal.Synced, m.sample(1)).Record
	r.State, r.Reason, r.SettledAt = event.Delivered, event.NoReason, m.now()
	cursor := event.ResourceState{ResourceKey: event.ResourceKey{Source: r.Source, Resource: r.Resource}, Version: r.Version, EventID: r.EventID, UpdatedAt: m.now()}
	_, err := e.Commit(context.Background(), []journal.Transition{{Record: r, Cursor: &cursor}}, journal.Synced)
	must(t, err, e.Close())
	flip(t, segmentFiles(t, o.Dir)[0], begin+20)
	_, err = Salvage(context.Background(), o, "", nil)
	must(t, err)
	got, err := start(t, o).Resources(context.Background(), []event.ResourceKey{cursor.ResourceKey})
	must(t, err)
	if d := cmp.Diff(cursor, got[0]); d != "" {
		t.Errorf("the cursor (-before +after):\n%s", d)
	}
}

// TestSalvageKnowsHowFarTheClockIsOff: also without the ledger, which notes that. The time of the new journal was the wall clock's: where that had been set ahead, all ids were
// forgotten at once, and dead letters expired.
func TestSalvageKnowsHowFarTheClockIsOff(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, jump := range []time.Duration{0, year, -year} {
		m := newMachine()
		o := m.options(memDir(t))
		e := start(t, o)
		dead := m.settle(t, e, accept(t, e, journal.Synced, m.sample(1)).Record, event.Failed, event.Exhausted)
		m.setClock(jump)
		accept(t, e, journal.Synced, m.sample(2))
		must(t, e.Close(), os.Remove(filepath.Join(o.Dir, nameLedger)))
		m.pass(time.Hour)
		_, err := Salvage(context.Background(), o, "", nil)
		must(t, err)
		e = start(t, o)
		m.pass(718 * time.Hour)
		m.sweep(t, e)
		if got, _, err := e.Get(context.Background(), dead.ID, false); err != nil || got.Reason != event.Exhausted {
			t.Errorf("clock set by %v: after 719 hours %v/%v: %v", jump, got.State, got.Reason, err)
		}
		m.pass(time.Hour)
		m.sweep(t, e)
		if got, _, err := e.Get(context.Background(), dead.ID, false); err != nil || got.Reason != event.Expired {
			t.Errorf("clock set by %v: after 720 hours %v/%v: %v", jump, got.State, got.Reason, err)
		}
	}
}

// TestSalvageCountsWhatIsLeft: the counters of a log with lost changes say what its records say, also after another rebuild and once retention has taken them all. They
// followed the changes, and an event whose first one was lost was never counted, one with a lost change in between counted twice.
func TestSalvageCountsWhatIsLeft(t *testing.T) {
	m := newMachine()
	o := m.options(memDir(t))
	e := start(t, o)
	lose := func(do func()) (at int64) { at = e.wal.offset; do(); return at }
	accept(t, e, journal.Synced, m.sample(0))
	var first, second event.Record
	begin := lose(func() { first = accept(t, e, journal.Synced, m.sample(1)).Record })
	m.settle(t, e, first, event.Delivered, 0)
	second = accept(t, e, journal.Synced, m.sample(2)).Record
	between := lose(func() { second = m.settle(t, e, second, event.Failed, event.Exhausted) })
	m.settle(t, e, second, event.Replayed, 0)
	third := accept(t, e, journal.Synced, m.sample(3)).Record
	end := lose(func() { m.settle(t, e, third, event.Delivered, 0) })
	m.settle(t, e, accept(t, e, journal.Synced, m.sample(4)).Record, event.Delivered, 0)
	must(t, e.Close())
	for _, at := range []int64{begin, between, end} {
		flip(t, segmentFiles(t, o.Dir)[0], at+20)
	}
	r, err := Salvage(context.Background(), o, "", nil)
	if err != nil || r.MissingChanges != 3 || r.MissingEvents != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	check := func() {
		t.Helper()
		records, counted := map[event.State]int64{}, map[event.State]int64{}
		for _, r := range everything(t, e) {
			records[r.State]++
		}
		counts, err := e.Counts(context.Background())
		must(t, err)
		for _, c := range counts {
			counted[c.State] += c.N
		}
		if !maps.Equal(records, counted) {
			t.Errorf("counted %v, there are %v", counted, records)
		}
	}
	e = start(t, o)
	check()
	must(t, e.Close(), os.RemoveAll(filepath.Join(o.Dir, nameIndex)))
	e = start(t, o)
	check()
	for range 2 {
		m.pass(200 * time.Hour)
		m.sweep(t, e)
		check()
	}
}

// Of three events in a row whose first frames are lost a change is left of the second: the others are missing, both.
func TestEventsAroundOneThatIsLeftAreMissing(t *testing.T) {
	m := newMachine()
	o := m.options(memDir(t))
	e := start(t, o)
	accept(t, e, journal.Synced, m.sample(0))
	var lost []int64
	var second event.Record
	for i := range 3 {
		lost = append(lost, e.wal.offset)
		if r := accept(t, e, journal.Synced, m.sample(1+i)).Record; i == 1 {
			second = r
		}
	}
	m.settle(t, e, second, event.Delivered, 0)
	accept(t, e, journal.Synced, m.sample(4))
	must(t, e.Close())
	for _, at := range lost {
		flip(t, segmentFiles(t, o.Dir)[0], at+20)
	}
	if r, err := Check(t.Context(), o.Dir, nil, nil); err != nil || r.MissingEvents != 2 || r.MissingChanges != 3 {
		t.Errorf("%+v %v", r, err)
	}
}

func wipe(t *testing.T, path string, at int64, n int) { overwrite(t, path, at, make([]byte, n)) }

func rubbish(t *testing.T, path string, at int64, n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + 13)
	}
	overwrite(t, path, at, b)
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// A crash at any moment of putting the salvaged journal in its place is finished by the next start.
func TestSalvageInterrupted(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
	salvageable(t, o)
	flip(t, segmentFiles(t, o.Dir)[1], segmentHeadSize+2000)
	to := filepath.Join(o.Dir, nameSalvage)
	if _, err := Salvage(context.Background(), o, to, nil); err != nil {
		t.Fatal(err)
	}
	must(t, writeDurably(filepath.Join(to, nameDone), "damaged-x"))
	aside := filepath.Join(o.Dir, "damaged-x")
	must(t, os.Mkdir(aside, 0o700), os.Rename(filepath.Join(o.Dir, nameLog), filepath.Join(aside, nameLog)),
		os.Rename(filepath.Join(to, nameLog), filepath.Join(o.Dir, nameLog)),
		os.Rename(filepath.Join(o.Dir, nameLedger), filepath.Join(aside, nameLedger)))
	if got := len(everything(t, start(t, o))); got != 100 {
		t.Errorf("%d events of 100", got)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("the scratch directory is still there")
	}
	for _, name := range []string{nameLog, nameLedger, nameFormat, nameIndex} {
		if _, err := os.Stat(filepath.Join(aside, name)); err != nil {
			t.Error(err)
		}
	}
}

// An event whose first frame is lost has the key under which its sender's retry comes: where nothing is verified, or its signature was good, that
// of its id, and that of what was only observed where it was not.
func TestSalvageComputesTheKeyAnew(t *testing.T) {
	for _, tt := range []struct {
		provider string
		verified bool
		kind     event.KeyKind
	}{{"stripe", true, event.KeyEvent}, {"stripe", false, event.KeyObserved}, {"none", false, event.KeyEvent}} {
		r := sample(1).Record
		r.Provider, r.Verified, r.State = tt.provider, tt.verified, event.Delivered
		f := (&salvager{}).whole(&frame{kind: kindCommit}, &parts{record: appendRecord(nil, &r)})
		got, ok := parseParts(f.body)
		if want := event.MakeKey(tt.kind, r.Source, r.Account, r.EventID); !ok || len(got.keys) == 0 || got.keys[0] != want {
			t.Errorf("%s, verified: %t: %x, want %x", tt.provider, tt.verified, got.keys, want)
		}
	}
}

// TestRecountFindsTheLastDelivery: an event whose forced replay has failed was delivered when it was, and not when that ended.
func TestRecountFindsTheLastDelivery(t *testing.T) {
	at := time.Unix(1e9, 0)
	for _, last := range []event.Seq{1, 2} {
		c, newest := counters{}, map[string]int64{}
		for _, seq := range []event.Seq{1, 2} {
			r := event.Record{Source: "s", State: event.Delivered, DeliveredAt: at, SettledAt: at.Add(time.Hour)}
			if seq == last {
				r.DeliveredAt, r.SettledAt = at.Add(time.Minute), at.Add(time.Minute)
			}
			must(t, c.again(&item{id: event.MakeID(at, seq, 0), front: frontOf(&r), body: appendRecord(nil, &r)}, newest))
		}
		if got := c.of("s").lastDelivered; got != last {
			t.Errorf("%d, want %d", got, last)
		}
	}
}

// A salvage that is cut short, by a full volume or by the user, takes what it has made away: it filled the volume, and a new directory for the usable journal was taken for one that is.
func TestASalvageThatFailsLeavesNothing(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
	salvageable(t, o)
	flip(t, segmentFiles(t, o.Dir)[1], segmentHeadSize+2000)
	to := filepath.Join(memDir(t), "new") + "/"
	for _, to := range []string{"", to} {
		ctx, cancel := context.WithCancel(t.Context())
		if r, err := Salvage(ctx, o, to, func(done, total int64) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Errorf("to %q: %+v %v", to, r, err)
		}
	}
	for _, dir := range []string{filepath.Join(o.Dir, nameSalvage), filepath.Clean(to), filepath.Clean(to) + ".partial"} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	_, err := Salvage(t.Context(), o, to, nil)
	must(t, err)
	if r, err := Check(t.Context(), to, nil, nil); err != nil || !r.Whole() {
		t.Errorf("%+v %v", r, err)
	}
}

// A segment of another journal in the place of one: a salvage took its events, which that other journal delivers, for this one's, and said that fewer were missing.
func TestASegmentOfAnotherJournal(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
	want := salvageable(t, o)
	other := o
	other.Dir = memDir(t)
	e := start(t, other)
	for i := range 120 {
		accept(t, e, journal.Synced, bigSample(1000+i))
	}
	must(t, e.Close())
	strangers := segmentFiles(t, other.Dir)
	for i := range segmentFiles(t, o.Dir) {
		x := o
		x.Dir = memDir(t)
		must(t, os.CopyFS(x.Dir, os.DirFS(o.Dir)))
		b, err := os.ReadFile(strangers[i])
		must(t, err, os.WriteFile(segmentFiles(t, x.Dir)[i], b, 0o600))
		if e, err := Open(x); !errors.Is(err, journal.ErrDamaged) {
			t.Errorf("segment %d: a start gives %v", i+1, err)
			must(t, e.Close())
		}
		r, err := Salvage(t.Context(), x, "", nil)
		must(t, err)
		got := everything(t, start(t, x))
		for _, r := range got {
			if _, ok := want[r.ID]; !ok {
				t.Errorf("segment %d: %s is of the other journal", i+1, r.ID)
			}
		}
		if lost := uint64(len(want) - len(got)); lost != r.MissingEvents {
			t.Errorf("segment %d: %d events are missing, it says %d", i+1, lost, r.MissingEvents)
		}
	}
}

// Two segments whose names were exchanged: nothing of them is lost. They were read in the order of their names, and most of what they hold was neither saved nor counted as missing.
func TestSegmentsUnderEachOthersNames(t *testing.T) {
	o := Options{Dir: memDir(t), AllowTmpfs: true, SegmentSize: 64 << 10, Log: quiet}
	want := salvageable(t, o)
	files := segmentFiles(t, o.Dir)
	aside := filepath.Join(o.Dir, "aside")
	last := files[len(files)-1]
	must(t, os.Rename(files[0], aside), os.Rename(last, files[0]), os.Rename(aside, last))
	if r, err := Salvage(t.Context(), o, "", nil); err != nil || r.Whole() || r.MissingEvents != 0 || r.MissingChanges != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := len(everything(t, start(t, o))); got != len(want) {
		t.Errorf("%d events of %d", got, len(want))
	}
}
