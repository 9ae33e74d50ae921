package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/journal/embedded"
)

// command runs hooktender beside the gateway, on its configuration, and gives exit code and output.
func (g *gatewayProcess) command(args ...string) (code int, stdout, stderr string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--config", g.file())...)
	var out, said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "E2E_SECRET="+secret), &out, &said
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), out.String(), said.String()
	} else if err != nil {
		g.t.Fatal(err)
	}
	return 0, out.String(), said.String()
}

var page = regexp.MustCompile(`docs/operations\.md#([a-z0-9-]+)`)

// refuses wants a refusal with the code that names the file and a section of docs/operations.md that is there.
func (g *gatewayProcess) refuses(code int, file, section string, args ...string) string {
	g.t.Helper()
	got, out, said := g.command(args...)
	if got != code || !strings.Contains(out+said, file) {
		g.t.Errorf("%s: exit %d, want %d and %q in\n%s%s", strings.Join(args, " "), got, code, file, out, said)
	}
	if m := page.FindStringSubmatch(said); len(m) == 0 || m[1] != section {
		g.t.Errorf("%s: names %q of docs/operations.md, want %s:\n%s", strings.Join(args, " "), m, section, said)
	}
	if raw, err := os.ReadFile("../docs/operations.md"); err != nil || !strings.Contains(strings.ReplaceAll(strings.ToLower(string(raw)), " ", "-"), "\n##-"+section+"\n") {
		g.t.Errorf("docs/operations.md has no section %s: %v", section, err)
	}
	return out
}

func (g *gatewayProcess) data() string { return filepath.Join(g.dir, "data") }

// files are the checksums of all files below a directory; of the index, which is made again from the log, none.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && d.Name() == "index" {
				return fs.SkipDir
			}
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		m[rel] = fmt.Sprintf("%x", sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// keep copies what cannot be made again from the rest: the log, its ledger, its format.
func keep(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(filepath.Join(to, "log"), 0o700)); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(from, "log", "*"))
	for _, path := range append(logs, filepath.Join(from, "LEDGER"), filepath.Join(from, "FORMAT")) {
		rel, _ := filepath.Rel(from, path)
		raw, err := os.ReadFile(path)
		if err := errors.Join(err, os.WriteFile(filepath.Join(to, rel), raw, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// letter is an event that a test knows whole: its bytes tell which one it is.
func letter(id string, size int) hooktest.Request {
	return signed(fmt.Sprintf(`{"id":%q,"type":"t","pad":%q}`, id, strings.Repeat(id+".", size/(len(id)+1))))
}

type exported struct {
	EventID      string `json:"event_id"`
	State        string
	Reason       string
	PayloadError string `json:"payload_error"`
	Payload      *struct {
		BodyBase64 []byte `json:"body_base64"`
	}
}

func readExport(t *testing.T, path string) map[string]exported {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]exported{}
	for line := range bytes.Lines(raw) {
		var x exported
		if err := json.Unmarshal(line, &x); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		m[x.EventID] = x
	}
	return m
}

var damagedWays = flag.Int("damaged", 3, "ways to damage a journal, of 11")

// damages are what disks and people do to a journal, the most telling first, and how many of its 90 events may be gone then.
var damages = []struct {
	name, file string // of the log: first, last
	missing    int    // events, at most
	corrupt    bool   // bytes of an event that waits may be lost, though its record is not
	do         func(b []byte) []byte
}{
	{"a byte of a payload", "first", 0, true, func(b []byte) []byte { b[bytes.Index(b, []byte("wait_05.wait_05"))+4000] ^= 1; return b }},
	{"deleted", "first", 60, true, nil},
	{"the end is cut off", "last", 60, true, func(b []byte) []byte { return b[:len(bytes.TrimRight(b, "\x00"))/2] }},
	{"deleted", "LEDGER", 0, false, nil},
	{"deleted", "FORMAT", 0, false, nil},
	{"a byte of a record", "first", 0, false, func(b []byte) []byte { b[bytes.Index(b, []byte("sha256="))-200] ^= 1; return b }},
	{"a page of zeros", "first", 2, true, func(b []byte) []byte { clear(b[1<<20 : 1<<20+4096]); return b }},
	{"emptied", "last", 60, true, func(b []byte) []byte { return nil }},
	{"deleted", "last", 60, true, nil},
	{"the header is overwritten", "first", 0, false, func(b []byte) []byte { copy(b, "nonsense"); return b }},
	{"both its slots", "LEDGER", 0, false, func(b []byte) []byte { b[20] ^= 4; b[532] ^= 4; return b }},
}

func damagedConfig(addr string) string {
	return sources(addr, source("s", "delivery: {mode: store, upstream: app, retry: {base: 50ms, factor: 1, max_attempts: 100000}}"))
}

// A damaged journal is refused by everything that would trust it, with the file's name and the page that says what to do, and nothing is changed; what can be read of it can
// be had by each way that the page names, and how much is missing is said and is right: nothing more is missing, and nothing else is delivered.
//
// All: go test ./e2e -run TestADamagedJournal -damaged 11
func TestADamagedJournal(t *testing.T) {
	t.Parallel()
	const each, size = 30, 100_000
	c, addr := consumer(t)
	p := planned(c)
	g := startGateway(t, damagedConfig(addr))
	sent := map[string]hooktest.Request{} // done_…: delivered, dead_…: refused for good, wait_…: pending
	for i := range each {
		var three sync.WaitGroup
		for _, kind := range []string{"done", "dead", "wait"} {
			id := fmt.Sprintf("%s_%02d", kind, i)
			r := letter(id, size)
			if sent[id] = r; kind == "dead" {
				p.on(id, hooktest.Answer{Status: 422})
			} else if kind == "wait" {
				p.on(id, hooktest.Answer{Status: 503})
			}
			three.Go(func() { g.want(id, g.ask("/s", r), 202, "accepted") })
		}
		three.Wait()
	}
	ends := map[string]string{"done": "delivered/", "dead": "failed/permanent", "wait": "pending/retrying"}
	for id := range sent {
		g.becomes("s", id, ends[id[:4]])
	}
	g.kill()
	if err := filepath.WalkDir(g.data(), func(path string, d fs.DirEntry, err error) error {
		if info, infoErr := d.Info(); err == nil && (infoErr != nil || info.Mode().Perm()&0o077 != 0) {
			t.Errorf("%s is not for its owner alone: %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(g.dir, "whole")
	keep(t, g.data(), whole)
	logs, _ := filepath.Glob(filepath.Join(whole, "log", "*.seg"))
	if len(logs) < 2 {
		t.Fatalf("segments: %v", logs)
	}
	for i, d := range damages[:min(*damagedWays, len(damages))] {
		name := map[string]string{"first": "log/" + filepath.Base(logs[0]), "last": "log/" + filepath.Base(logs[len(logs)-1])}[d.file]
		if name == "" {
			name = d.file
		}
		t.Run(strings.ReplaceAll(d.name+" of "+d.file, " ", "_"), func(t *testing.T) {
			t.Parallel()
			c, addr := consumer(t) // takes whatever comes
			g := prepareGateway(t, damagedConfig(addr), "warn")
			keep(t, whole, g.data())
			path := filepath.Join(g.data(), name)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d.do == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, d.do(raw), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := files(t, g.data())
			base, section := filepath.Base(name), "the-journal-is-damaged"
			g.refuses(74, base, section, "run")
			var report struct {
				MissingEvents, DamagedPayloads int
				Damage                         []struct{ File string }
			}
			said := strings.NewReplacer("missing_events", "MissingEvents", "damaged_payloads", "DamagedPayloads").Replace(g.refuses(74, base, section, "journal", "check", "-o", "json"))
			if err := json.Unmarshal([]byte(said), &report); err != nil || len(report.Damage) == 0 || report.MissingEvents > d.missing {
				t.Errorf("check: %v, want at most %d events missing: %s", err, d.missing, said)
			}
			to := filepath.Join(g.dir, fmt.Sprint("case", i))
			g.refuses(74, "", section, "journal", "export", "--to", to+".ndjson")
			out := readExport(t, to+".ndjson")
			if lost := len(sent) - len(out); lost != report.MissingEvents {
				t.Errorf("export: %d events are missing, check says %d", lost, report.MissingEvents)
			}
			for id, x := range out {
				if x.Payload != nil && !bytes.Equal(x.Payload.BodyBase64, sent[id].Body) || x.Payload == nil && x.PayloadError == "" {
					t.Errorf("export: wrong bytes of %s: %q", id, x.PayloadError)
				}
			}
			g.refuses(74, base, section, "journal", "backup", to+".backup")
			if left, _ := filepath.Glob(to + ".backup*"); len(left) > 0 {
				t.Errorf("the backup of a damaged journal is there: %v", left)
			}
			if code, _, said := g.command("journal", "salvage", "--to", to+".salvaged"); code != 0 {
				t.Errorf("salvage --to: %d %s", code, said)
			}
			if code, said, _ := g.command("journal", "check", "--data-dir", to+".salvaged"); code != 0 || !strings.Contains(said, "is whole") {
				t.Errorf("what was salvaged: %d %s", code, said)
			}
			if after := files(t, g.data()); !maps.Equal(before, without(after, "LOCK", "ballast")) {
				t.Errorf("looking at a damaged journal changed it: %v, was %v", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
			}

			began := len(c.Seen())
			mark := size64(t, g.stderr)
			g.extra = []string{"--accept-loss"}
			g.launch()
			defer g.kill()
			g.extra = nil
			missing := g.saysMissing(t, mark)
			if missing != report.MissingEvents {
				t.Errorf("--accept-loss says that %d events are missing, check said %d", missing, report.MissingEvents)
			}
			g.await("everything ends", time.Minute, func() bool { return counts(t, g)["pending"] == 0 })
			states := map[string]string{}
			for e, err := range g.api().AllEvents(t.Context(), client.Query{Source: "s"}) {
				if err != nil {
					t.Fatal(err)
				}
				states[string(e.EventID)] = e.State + "/" + string(e.Reason)
			}
			if lost := len(sent) - len(states); lost != missing {
				t.Errorf("%d of %d events are missing, it says %d", lost, len(sent), missing)
			}
			taken := map[string]int{}
			for _, s := range c.Seen()[began:] {
				id := s.Header.Get("Hooktender-Event-Id")
				if taken[id]++; !bytes.Equal(s.Body, sent[id].Body) {
					t.Errorf("wrong bytes of %q were forwarded", id)
				}
				if id[:4] != "wait" && s.Header.Get("Hooktender-Redelivered") != "possible" {
					t.Errorf("%s was delivered again, unmarked", id)
				}
			}
			corrupt := 0
			for id, state := range states {
				switch {
				case state == "failed/corrupt":
					if corrupt++; taken[id] > 0 {
						t.Errorf("%s is corrupt and was forwarded", id)
					}
				case id[:4] == "wait" && state == "delivered/" && taken[id] == 1:
				case id[:4] != "wait" && (state == ends[id[:4]] || d.missing > 0 && taken[id] == 1):
				default:
					t.Errorf("%s is %s and was taken %d times", id, state, taken[id])
				}
			}
			if corrupt > 0 && !d.corrupt || d.name == "a byte of a payload" && corrupt != 1 {
				t.Errorf("%d events are corrupt", corrupt)
			}
			var senders sync.WaitGroup
			for id, r := range sent { // the senders send everything again
				senders.Go(func() {
					switch a := g.ask("/s", hooktest.Custom(secret, r.Body, time.Now())); {
					case states[id] == "", strings.HasPrefix(states[id], "failed"):
						g.want(id+", again", a, 202, "accepted")
					default:
						g.want(id+", again", a, 200, "duplicate")
					}
				})
			}
			senders.Wait()
			g.await("everything ends", time.Minute, func() bool { return counts(t, g)["delivered"] == int64(len(sent)) })
			g.kill()
			aside, _ := filepath.Glob(filepath.Join(g.data(), "damaged-*"))
			if len(aside) != 1 {
				t.Fatalf("kept: %v", aside)
			}
			if kept := files(t, aside[0]); !maps.Equal(without(before, "LOCK"), kept) {
				t.Errorf("of what was damaged is kept: %v", slices.Sorted(maps.Keys(kept)))
			}
			if code, said, _ := g.command("journal", "check"); code != 0 || !strings.Contains(said, "is whole") {
				t.Errorf("at the end: %d %s", code, said)
			}
		})
	}
}

// without leaves out what begins with one of the names.
func without(m map[string]string, names ...string) map[string]string {
	out := map[string]string{}
	for path, sum := range m {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(path, n) }) {
			out[path] = sum
		}
	}
	return out
}

func size64(t *testing.T, f *os.File) int64 {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// saysMissing is how many events the log says are missing.
func (g *gatewayProcess) saysMissing(t *testing.T, from int64) int {
	t.Helper()
	raw, err := os.ReadFile(g.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw[from:]) {
		var l struct {
			Msg     string
			Alarm   bool
			Missing *int   `json:"missing_events"`
			Kept    string `json:"damaged_files_kept_in"`
		}
		if json.Unmarshal(line, &l) == nil && l.Missing != nil && l.Alarm && l.Msg == "the journal was damaged: events are missing" && l.Kept != "" {
			return *l.Missing
		}
	}
	t.Fatalf("it does not say how many events are missing:\n%s", raw[from:])
	return 0
}

// A backup is made of a running gateway under load and holds everything that was acknowledged before it began; restored, all of that is there and is delivered or known. What
// would lose something is refused: a directory that is there already, a journal in use, a backup with a wrong byte.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	p := planned(c)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app, "+quick+"}")))
	p.on("wait", hooktest.Answer{Status: 503})
	g.want("a pending event", g.ask("/s", custom("wait", "", "")), 202, "accepted")
	tr := load(g, "/s", "l", 8)
	g.await("some events", 30*time.Second, func() bool { return tr.answered.Load() > 50 })
	before := len(c.Seen())
	acked := tr.acknowledged()
	to := filepath.Join(g.dir, "backup")
	if code, out, said := g.command("journal", "backup", to); code != 0 {
		t.Fatalf("backup: %d %s%s", code, out, said)
	}
	tr.end()
	if tr.failed.Load() > 0 || len(c.Seen()) == before {
		t.Errorf("beside the backup %d requests failed, %d came: %v", tr.failed.Load(), len(c.Seen())-before, tr.why)
	}
	if code, _, said := g.command("journal", "backup", to); code != 1 || !strings.Contains(said, "exists") {
		t.Errorf("a second backup to the same place: %d %s", code, said)
	}
	if code, _, said := g.command("journal", "restore", to); code != 1 || !strings.Contains(said, "not empty") {
		t.Errorf("restore into a journal in use: %d %s", code, said)
	}
	g.refuses(1, "in use", "the-journal-is-in-use", "journal", "salvage")
	g.refuses(1, "data", "the-journal-is-in-use", "run")
	if code, out, said := g.command("journal", "check"); code != 0 || !strings.Contains(out, "a gateway is running on it") {
		t.Errorf("check beside the gateway: %d %s%s", code, out, said)
	}
	g.kill()

	lost := filepath.Join(g.dir, "lost")
	if err := os.Rename(g.data(), lost); err != nil { // the volume is gone
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(to, "log", "*.seg"))
	raw, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte("sha256="))
	raw[at] ^= 1
	if err := os.WriteFile(logs[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	g.refuses(74, filepath.Base(logs[0]), "the-journal-is-damaged", "journal", "restore", to)
	if left, _ := os.ReadDir(g.data()); len(left) > 0 {
		t.Errorf("a restore that was refused left %v", left)
	}
	raw[at] ^= 1
	if err := os.WriteFile(logs[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, said := g.command("journal", "restore", to); code != 0 {
		t.Fatalf("restore: %d %s%s", code, out, said)
	}
	p.on("wait")
	g.launch()
	g.becomes("s", "wait", "delivered/")
	g.await("everything ends", time.Minute, func() bool { return counts(t, g)["pending"] == 0 })
	for _, id := range acked {
		if r := g.record("s", id); r == nil || r["state"] != "delivered" {
			t.Errorf("%s was acknowledged before the backup; it is %v", id, r)
		}
	}
	g.want("what was delivered before it", g.ask("/s", custom(acked[0], "", "")), 200, "duplicate")
	g.want("something new", g.ask("/s", custom("new", "", "")), 200, "delivered")
}

// What else refuses a start (a full disk apart, see torture) says what to do: the page has a section for each. Nothing is changed.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	_, addr := consumer(t)
	g := prepareGateway(t, sources(addr, source("s", "delivery: {mode: store, upstream: app}")), "warn")
	text, err := os.ReadFile(g.file())
	if err != nil {
		t.Fatal(err)
	}
	with := func(journal, data string) {
		s := strings.Replace(string(text), "min_free: 64MiB", journal, 1)
		g.write(g.file(), strings.Replace(s, g.data(), data, 1))
	}
	key := func(c string) string {
		return fmt.Sprintf("min_free: 64MiB, encryption_keys: [{value: %q}]", strings.Repeat(c, 64))
	}
	with(key("a"), g.data())
	g.launch()
	g.want("an event", g.ask("/s", custom("e1", "", "")), 202, "accepted")
	g.kill()
	before := files(t, g.data())
	with(key("b"), g.data())
	g.refuses(74, ".seg", "the-journal-is-encrypted-with-another-key", "run")
	g.refuses(74, ".seg", "the-journal-is-encrypted-with-another-key", "journal", "export")
	format, err := os.ReadFile(filepath.Join(g.data(), "FORMAT"))
	if err != nil {
		t.Fatal(err)
	}
	with(key("a"), g.data())
	g.write(filepath.Join(g.data(), "FORMAT"), "hooktender journal 99\n")
	g.refuses(74, "FORMAT", "the-journal-has-a-newer-format", "run")
	g.write(filepath.Join(g.data(), "FORMAT"), string(format))
	if _, err := os.Stat("/dev/shm"); err == nil {
		dir, err := os.MkdirTemp("/dev/shm", "hooktender-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if name, _, err := embedded.Filesystem(dir); err == nil && name == "tmpfs" {
			with("min_free: 1MiB", filepath.Join(dir, "data"))
			g.refuses(74, "tmpfs", "the-directory-is-in-memory", "run")
		}
	}
	if os.Geteuid() != 0 { // permissions bind others only
		if err := os.Chmod(g.data(), 0o500); err != nil {
			t.Fatal(err)
		}
		with(key("a"), g.data())
		g.refuses(74, "data", "the-directory-cannot-be-written", "run")
		if err := os.Chmod(g.data(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if after := files(t, g.data()); !maps.Equal(without(before, "ballast", "log/next"), without(after, "ballast", "log/next")) {
		t.Errorf("a refused start changed something: %v, was %v", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
	}
	with(key("a"), g.data())
	g.launch()
	g.becomes("s", "e1", "delivered/")
}
