package embedded

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

var update = flag.Bool("update", false, "write testdata/golden anew: only when the format's version changes")

// goldenAt is when the golden journals were written; they are read as of a week later.
var goldenAt = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

func goldenOptions(dir, name string) Options {
	o := Options{Dir: dir, AllowTmpfs: true, SegmentSize: 16 << 10, Log: quiet, Now: func() time.Time { return goldenAt.Add(180 * time.Hour) }}
	o.Retention.Record = 48 * time.Hour // markers outlive records
	if name == "encrypted" {
		o.Keys = [][]byte{[]byte("golden key of thirty-two bytes !")}
	}
	return o
}

// writeGolden writes every kind of frame.
func writeGolden(t *testing.T, o Options) {
	t.Helper()
	ctx := context.Background()
	at := goldenAt
	o.Now = func() time.Time { return at }
	n := uint16(0)
	o.Salt = func() uint16 { n++; return n }
	e := start(t, o)
	sweep := func() {
		for range 20 {
			if _, err := e.Sweep(ctx, at, 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	var rs []event.Record
	write := func(i int, deliver bool) {
		a := sample(i)
		a.Record.ReceivedAt, a.Record.Account = at, "acct"
		a.Aliases = []event.Key{event.MakeKey(event.KeyAlias, "stripe", a.Record.EventID)}
		if i%5 == 0 {
			a.Cursor = &event.ResourceState{ResourceKey: event.ResourceKey{Source: "stripe", Resource: a.Record.Resource}, Version: "7", Floor: "9", EventID: a.Record.EventID, UpdatedAt: at}
		}
		r := accept(t, e, journal.Written, a).Record
		if deliver {
			r.State, r.Reason, r.SettledAt, r.DeliveredAt, r.Attempts, r.LastAttemptAt = event.Delivered, 0, at, at, 1, at
			out, err := e.Commit(ctx, []journal.Transition{{Record: r, Attempt: &event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: at, Duration: time.Millisecond,
				Outcome: event.OutcomeDelivered, Status: 200, Excerpt: []byte("ok"), Upstream: "app"}}}, journal.Written)
			if err != nil {
				t.Fatal(err)
			}
			r = out[0].Record
		}
		rs = append(rs, r)
		at = at.Add(time.Minute)
	}
	for i := range 20 {
		write(i, i%3 != 0) // the others stay pending and are carried forward
	}
	e.Note(rs[0].ID, 3, 1)
	must(t, e.MetaPut(ctx, "pause/stripe", []byte("yes"), journal.Written), e.MetaPut(ctx, "gone", []byte("x"), journal.Written), e.MetaPut(ctx, "gone", nil, journal.Written))
	at = at.Add(100 * time.Hour) // payloads and the oldest segments go
	sweep()
	for i := 20; i < 26; i++ {
		write(i, true)
	}
	at = at.Add(70 * time.Hour) // records and markers, too
	sweep()
	for i := 26; i < 30; i++ {
		write(i, i%2 == 0)
	}
	sweep()
	must(t, e.Close())
}

// golden is what a journal says about itself.
type golden struct {
	Records  []event.Record
	Attempts map[string][]event.Attempt
	Bodies   map[string]int
	Metas    []journal.MetaEntry
	Cursors  []event.ResourceState
	Counts   []journal.Count
	Fates    []event.Fate // of evt_0, evt_1 …
}

func readGolden(t *testing.T, e *Engine) *golden {
	t.Helper()
	ctx := context.Background()
	g := &golden{Records: everything(t, e), Attempts: map[string][]event.Attempt{}, Bodies: map[string]int{}}
	for _, r := range g.Records {
		as, err := e.Attempts(ctx, r.ID)
		must(t, err)
		g.Attempts[r.EventID] = as
		if _, p, err := e.Get(ctx, r.ID, true); err == nil {
			g.Bodies[r.EventID] = len(p.Body)
		}
	}
	var err error
	g.Metas, err = e.MetaList(ctx, "")
	must(t, err)
	g.Cursors, err = e.Resources(ctx, []event.ResourceKey{{Source: "stripe", Resource: "in_0"}, {Source: "stripe", Resource: "in_5"}})
	must(t, err)
	var keys []event.Key
	for i := range 30 {
		keys = append(keys, sample(i).Keys...)
	}
	g.Fates, err = e.Lookup(ctx, keys)
	must(t, err)
	g.Counts, err = e.Counts(ctx)
	must(t, err)
	return g
}

// A journal that an earlier version wrote opens, whole, and says what it said then.
func TestGoldenJournals(t *testing.T) {
	for _, name := range []string{"plain", "encrypted"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", "golden", "v1-"+name)
			if *update {
				o := goldenOptions(memDir(t), name)
				writeGolden(t, o)
				must(t, os.RemoveAll(dir), os.MkdirAll(filepath.Dir(dir), 0o755))
				if _, err := Backup(context.Background(), o.Dir, dir, nil); err != nil {
					t.Fatal(err)
				}
			}
			o := goldenOptions(memDir(t), name)
			if _, err := Restore(context.Background(), dir, o.Dir, nil); err != nil {
				t.Fatal(err)
			}
			if r, err := Check(context.Background(), o.Dir, o.Keys, nil); err != nil || !r.Whole() {
				t.Fatalf("%+v, %v", r, err)
			}
			text, err := json.MarshalIndent(readGolden(t, start(t, o)), "", " ")
			must(t, err)
			file := dir + ".json"
			if *update {
				must(t, os.WriteFile(file, text, 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if d := cmp.Diff(string(want), string(text)); d != "" {
				t.Error(d)
			}
		})
	}
}
