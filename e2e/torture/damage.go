package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// ways are the ways in which a file can be damaged. Each gives the new content; nil = the file is gone.
var ways = []struct {
	name string
	do   func(rnd *rand.Rand, b []byte) []byte
}{
	{"removed", func(_ *rand.Rand, b []byte) []byte { return nil }},
	{"emptied", func(_ *rand.Rand, b []byte) []byte { return []byte{} }},
	{"cut in half", func(_ *rand.Rand, b []byte) []byte { return b[:used(b)/2] }},
	{"3 bytes cut off", func(_ *rand.Rand, b []byte) []byte { return b[:max(0, used(b)-3)] }},
	{"a bit flipped in the first 64 bytes", func(rnd *rand.Rand, b []byte) []byte { return flip(rnd, b, 0, min(64, used(b))) }},
	{"a bit flipped in the middle", func(rnd *rand.Rand, b []byte) []byte { return flip(rnd, b, used(b)/4, used(b)*3/4) }},
	{"a bit flipped near the end", func(rnd *rand.Rand, b []byte) []byte { return flip(rnd, b, max(0, used(b)-200), used(b)) }},
	{"a page of zeros", func(rnd *rand.Rand, b []byte) []byte {
		at := min(used(b)/2, used(b)/2/4096*4096+1)
		clear(b[at:min(at+4096, len(b))])
		return b
	}},
	{"a page of garbage", func(rnd *rand.Rand, b []byte) []byte {
		at := used(b) / 3
		for i := at; i < min(at+4096, len(b)); i++ {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}},
	{"garbage all over", func(rnd *rand.Rand, b []byte) []byte {
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}},
	{"two pages exchanged", func(_ *rand.Rand, b []byte) []byte {
		if n := used(b); n > 4*4096 {
			x, y := b[4096:8192], b[n/4096*4096-4096:n/4096*4096]
			z := slices.Clone(x)
			copy(x, y)
			copy(y, z)
		}
		return b
	}},
}

// used is where the zeros at the end begin.
func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

func flip(rnd *rand.Rand, b []byte, from, to int) []byte {
	if to > from {
		b[from+rnd.IntN(to-from)] ^= 1 << rnd.IntN(8)
	}
	return b
}

// damagedFiles damages every file of a journal in every way, one at a time, and starts the gateway on it. Either the start is refused, with exit code 74 and the file's
// name, and nothing is changed, so that putting the file back suffices; or it starts, and every event is there and right, or failed/corrupt with an alarm.
func damagedFiles(b *bench) (result, error) {
	base, sent, err := makeJournal(b)
	if err != nil {
		return result{}, err
	}
	type damage struct {
		file string
		way  int
	}
	var cases []damage
	for _, f := range targets(base) {
		if !strings.Contains(f, b.files) {
			continue
		}
		for w := range ways {
			if raw, err := os.ReadFile(filepath.Join(base, f)); err != nil || used(raw) == 0 && w > 0 {
				continue // nothing in it to damage
			}
			cases = append(cases, damage{f, w})
		}
	}
	if b.cycles > 0 && b.cycles < len(cases) { // a few of them
		b.rnd.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
		cases = cases[:b.cycles]
	}
	counts := map[string]int{}
	var total result
	var errs []error
	for i, c := range cases {
		if b.ctx.Err() != nil {
			return result{}, b.ctx.Err()
		}
		here := *b
		here.dir = filepath.Join(b.dir, fmt.Sprint("case-", i))
		name := fmt.Sprintf("%s, %s", c.file, ways[c.way].name)
		r, how, err := oneDamage(&here, base, sent, c.file, c.way)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		if r.Err() != nil {
			how = fmt.Sprintf("WRONG: %d violations, such as %s", len(r.Violations), r.Violations[0])
			if raw, err := os.ReadFile(filepath.Join(here.dir, "stderr")); err == nil {
				how += "\n" + string(raw[max(0, len(raw)-1500):])
			}
		}
		if how != untouched {
			counts[how]++
			total.Cuts++
		}
		fmt.Printf("  %-70s %s\n", name, how)
		total.Acked, total.Lost, total.Altered = total.Acked+r.Acked, total.Lost+r.Lost, total.Altered+r.Altered
		total.Violations = append(total.Violations, r.Violations...)
		if !b.keep {
			_ = os.RemoveAll(here.dir)
		}
	}
	total.note = fmt.Sprintf("%d damaged files: %v", total.Cuts, counts)
	return total, errors.Join(errs...)
}

const untouched = "the same as before: nothing was damaged"

// letters are what the journal of a case holds: the books as its sender has them.
type letters []letter

// makeJournal makes a journal with delivered and pending events, as a killed process leaves it.
func makeJournal(b *bench) (dir string, sent letters, err error) {
	here := *b
	here.dir = filepath.Join(b.dir, "base")
	if err := os.MkdirAll(here.dir, 0o755); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(here.dir, "data")
	sc, err := newScene(&here, dir, "min_free: 64MiB, memory: 16MiB", "mode: store")
	if err != nil {
		return "", nil, err
	}
	defer sc.close()
	for part := range 2 {
		if _, err := sc.g.launch(); err != nil {
			return "", nil, err
		}
		sc.c.down.Store(part == 1)
		for i := range 200 {
			id := fmt.Sprintf("evt_%d_%d", part, i)
			l := letter{path: "/s", id: id, body: body(id, "", 0, 16000)}
			sc.book.Send(l.id, l.body, false)
			if status, _ := sc.s.post(b.ctx, l, hooktest.Custom(secret, l.body, time.Now())); status != 202 {
				return "", nil, fmt.Errorf("making the journal: %d", status)
			}
			sent = append(sent, l)
		}
		if part == 0 {
			if err := sc.g.drained(30 * time.Second); err != nil {
				return "", nil, err
			}
		}
		time.Sleep(time.Second) // the index follows the log after half a second
		sc.g.kill()
	}
	return dir, sent, nil
}

// targets are the files that are damaged: all of them, of the tables and segments the first, one in the middle and the last.
func targets(dir string) []string {
	groups := map[string][]string{}
	var out []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "LOCK" || strings.Contains(path, "ballast") { // these hold nothing
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if ext := filepath.Ext(rel); ext != "" {
			groups[ext] = append(groups[ext], rel)
		} else {
			out = append(out, rel)
		}
		return nil
	})
	for _, g := range groups {
		slices.Sort(g)
		pick := []string{g[0], g[len(g)/2], g[len(g)-1]}
		out = append(out, slices.Compact(pick)...)
	}
	slices.Sort(out)
	return out
}

// oneDamage is one case.
func oneDamage(b *bench, base string, sent letters, file string, way int) (r ledger.Report, how string, err error) {
	data := filepath.Join(b.dir, "data")
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return r, "", err
	}
	if err := os.CopyFS(data, os.DirFS(base)); err != nil {
		return r, "", err
	}
	sc, err := newScene(b, data, "min_free: 64MiB, memory: 16MiB", "mode: store")
	if err != nil {
		return r, "", err
	}
	defer sc.close()
	for _, l := range sent {
		sc.book.Send(l.id, l.body, false)
		sc.book.Answer(l.id, 202, "accepted", "", 0)
		if strings.HasPrefix(l.id, "evt_0_") { // delivered before
			sc.book.Done(sc.book.Arrive(l.id, l.body, "s:"+l.id, false, "", 0), 200)
		}
	}
	path := filepath.Join(data, file)
	whole, err := os.ReadFile(path)
	if err != nil {
		return r, "", err
	}
	if bad := ways[way].do(rand.New(rand.NewPCG(b.seed, uint64(way))), slices.Clone(whole)); bad == nil {
		err = os.Remove(path)
	} else if bytes.Equal(bad, whole) {
		return r, untouched, nil
	} else {
		err = os.WriteFile(path, bad, 0o600)
	}
	if err != nil {
		return r, "", err
	}
	before := sums(data)
	if err := sc.g.start(); err != nil {
		return r, "", err
	}
	_, refused := sc.g.ready(60 * time.Second)
	if refused == nil {
		how = "started: every event was there"
		sc.book.Tolerant = true // failed/corrupt is a way to say that it is damaged
		r, err = sc.judge()
		states, err2 := sc.g.states(time.Time{})
		for id, st := range states {
			switch {
			case st == "failed/corrupt" && strings.Contains(sc.g.stderr(), "alarm"):
				how = "started: the damaged event is failed/corrupt, with an alarm"
			case strings.HasPrefix(st, "failed"):
				err = errors.Join(err, fmt.Errorf("%s ends as %s", id, st))
			}
		}
		return r, how, errors.Join(err, err2)
	}
	how = "refused"
	switch {
	case sc.g.alive():
		return r, how, refused
	case sc.g.ended() != "with exit code 74":
		return r, how, fmt.Errorf("it ended %s:\n%s", sc.g.ended(), sc.g.stderr())
	case !strings.Contains(sc.g.stderr(), filepath.Base(file)):
		return r, how, fmt.Errorf("the message does not name the file:\n%s", sc.g.stderr())
	}
	if err := sc.g.panics(); err != nil {
		return r, how, err
	}
	if after := sums(data); !strings.HasPrefix(file, "index") {
		for f, sum := range before {
			if strings.HasPrefix(f, "index") || f == "LOCK" || strings.HasPrefix(f, "ballast") {
				continue // it follows from the rest
			}
			if after[f] != sum {
				return r, how, fmt.Errorf("the refused start changed or deleted %s", f)
			}
		}
	}
	// Putting the file back suffices.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		return r, how, err
	}
	if _, err := sc.g.launch(); err != nil {
		return r, how, fmt.Errorf("after putting the file back: %w", err)
	}
	r, err = sc.judge()
	return r, "refused, with the file's name; putting it back sufficed", err
}

// sums are the checksums of all files of a directory.
func sums(dir string) map[string][32]byte {
	out := map[string][32]byte{}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			raw, _ := os.ReadFile(path)
			out[rel] = sha256.Sum256(raw)
		}
		return err
	})
	return out
}
