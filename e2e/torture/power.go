package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
)

// powerDisk is a disk that can lose its power: the program e2e/powerfs (its own module, for its dependency on FUSE), mounted at dir.
type powerDisk struct {
	dir, mode string
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Reader
}

// newPowerDisk builds and mounts it; errSkipped where that is not possible here.
func newPowerDisk(b *bench, mode string) (*powerDisk, error) {
	if os.Geteuid() != 0 {
		return nil, skip("mounting a FUSE file system needs root")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, skip("no FUSE here: %v", err)
	}
	_ = f.Close()
	_, here, _, _ := runtime.Caller(0)
	src := filepath.Join(filepath.Dir(here), "..", "powerfs")
	if _, err := os.Stat(src); err != nil {
		return nil, skip("the source of e2e/powerfs is not here: %v", err)
	}
	program := filepath.Join(b.dir, "powerfs")
	if err := goBuild(src, ".", program); err != nil {
		return nil, skip("e2e/powerfs does not build here (its module needs a network the first time): %v", err)
	}
	d := &powerDisk{dir: filepath.Join(b.dir, "disk"), mode: mode, cmd: exec.Command(program)}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	d.cmd.Stderr = os.Stderr
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.out = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := d.mount(); err != nil {
		d.close()
		return nil, skip("%v", err)
	}
	return d, nil
}

func (d *powerDisk) do(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(d.in, format+"\n", args...); err != nil {
		return "", err
	}
	line, err := d.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("powerfs: %w", err)
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(line), "ok")
	if !ok {
		return "", errors.New("powerfs: " + line)
	}
	return strings.TrimSpace(text), nil
}

func (d *powerDisk) mount() error {
	_, err := d.do("mount %s %s", d.dir, d.mode)
	return err
}

// failed says of what an fsync failed, and when; zero = none did.
func (d *powerDisk) failed() (what string, at time.Time, err error) {
	text, err := d.do("status")
	if err != nil {
		return "", at, err
	}
	parts := strings.SplitN(text, " ", 3)
	if ns, _ := strconv.ParseInt(parts[1], 10, 64); ns != 0 {
		at, what = time.Unix(0, ns), parts[len(parts)-1]
	}
	return what, at, nil
}

// cut loses what was not durable and mounts the rest. The disk is frozen already, and nobody uses it.
func (d *powerDisk) cut(seed uint64) error {
	if _, err := d.do("cut %d", seed); err != nil {
		return err
	}
	return d.mount()
}

// cache has the kernel read files, so that it keeps what is written there as the page cache of a disk would.
func (d *powerDisk) cache(pattern string) {
	paths, _ := filepath.Glob(filepath.Join(d.dir, pattern)) // the pattern is well-formed
	for _, path := range paths {
		_, _ = os.ReadFile(path)
	}
}

func (d *powerDisk) close() {
	_, _ = d.do("quit")
	_ = d.in.Close()
	_ = d.cmd.Wait()
	const detach = 2 // MNT_DETACH of umount2(2), Linux
	_ = syscall.Unmount(d.dir, detach)
}

// present checks that everything acknowledged since a cut is in the journal.
func (sc *scene) present(sinceCut int, since time.Time) error {
	states, err := sc.g.states(since.Add(-time.Second))
	if err != nil {
		return err
	}
	lost := 0
	for _, id := range sc.book.Acked(sinceCut) {
		if states[id] == "" && !sc.g.has(id) { // one that is sent again may have been received long before
			lost++
			err = errors.Join(err, fmt.Errorf("%s was acknowledged before the power cut and is not in the journal", id))
			if lost == 5 {
				break
			}
		}
	}
	return err
}

// powerCuts loses the power at random moments under load.
func powerCuts(b *bench, disk, mode string) (result, error) {
	d, err := newPowerDisk(b, disk)
	if err != nil {
		return result{}, err
	}
	defer d.close()
	sc, err := newScene(b, filepath.Join(d.dir, "data"), "min_free: 64MiB", "mode: "+mode)
	if err != nil {
		return result{}, err
	}
	defer sc.close()
	ready, err := sc.underLoad(4, func(stop func()) error { return sc.powerCut(d, b.rnd.Uint64(), stop) }, sc.present)
	if err != nil {
		return result{}, err
	}
	r, err := sc.judge()
	return result{r, "ready again: " + ready.String()}, err
}

// powerCut stops the process and the disk, ends the one and forgets what the other had not made durable.
func (sc *scene) powerCut(d *powerDisk, seed uint64, stop func()) error {
	began := sc.book.Begin()
	if sc.g.alive() { // it must not see a disk that fails: that is another fault
		_ = sc.g.cmd.Process.Signal(syscall.SIGSTOP)
	}
	if _, err := d.do("freeze"); err != nil {
		return err
	}
	sc.g.kill()
	stop()
	time.Sleep(10 * time.Millisecond)
	sc.book.Cut(ledger.Power, began)
	return d.cut(seed)
}

// failingSyncs lets the n-th fsync after the start fail, for n = 1, 4, 7 …, so that a short run gets beyond the fsyncs of the start: no success may be told after it, the process ends within a second with 74,
// and after a power cut nothing acknowledged is missing.
func failingSyncs(b *bench) (result, error) {
	return failures(b, "journalled", false, func(cycle int) (int, string) { return 3*cycle + 1, "" })
}

// failingSyncsThenAStart does the same, but the gateway is started again, and works, before the power goes: what the failed fsync was for may be in the page cache still, and
// never reach the disk. It is an fsync of the log's files in two cycles of three, else one of a directory.
func failingSyncsThenAStart(b *bench) (result, error) {
	suffixes := [...]string{".seg", "/log", ".seg"}
	return failures(b, "strict", true, func(cycle int) (int, string) { return cycle/3*5%31 + 1, suffixes[cycle%3] })
}

// failingTables does the same to the n-th fsync of a table of the index, n = 1, 2, 3, 1 …: each start makes one, and the compaction of every fourth makes more.
func failingTables(b *bench) (result, error) {
	return failures(b, "journalled", false, func(cycle int) (int, string) { return cycle%3 + 1, ".sst" })
}

func failures(b *bench, disk string, again bool, pick func(cycle int) (n int, suffix string)) (result, error) {
	d, err := newPowerDisk(b, disk)
	if err != nil {
		return result{}, err
	}
	defer d.close()
	sc, err := newScene(b, filepath.Join(d.dir, "data"), "min_free: 64MiB", "mode: hybrid")
	if err != nil {
		return result{}, err
	}
	defer sc.close()
	if _, err := sc.g.launch(); err != nil { // a first journal
		return result{}, err
	}
	sc.interrupt(func() {})
	var exits times
	atStart, compactions := 0, 0
	for cycle := range b.cycles {
		if b.ctx.Err() != nil {
			return result{}, b.ctx.Err()
		}
		n, suffix := pick(cycle)
		exit, started, err := sc.failOne(d, n, suffix, again)
		if err != nil {
			return result{}, fmt.Errorf("cycle %d, fsync %d: %w", cycle, n, err)
		}
		if exit == 0 { // it was not reached
			continue
		}
		if !started {
			atStart++
		}
		if exits = append(exits, exit); strings.Contains(sc.g.stderr(), "a compaction could not write a table") {
			compactions++
		}
	}
	if len(exits) == 0 && b.cycles >= 12 {
		return result{}, errors.New("no fsync that was to fail came: nothing was tried")
	}
	if _, err := sc.g.launch(); err != nil {
		return result{}, err
	}
	r, err := sc.judge()
	return result{r, fmt.Sprintf("%d of %d fsyncs failed, of these at the start: %d, in a compaction that said nothing: %d; from the error to the end of the process: %s; told a success for what began more than 100 ms (a table: 1 s) after it: 0",
		len(exits), b.cycles, atStart, compactions, exits)}, err
}

// grace is how long it may take from the moment at which the disk fails an fsync to the moment at which the gateway has heard of it: the error has to come back through
// the kernel, and below the index through Badger. What is acknowledged meanwhile is on disk in the log, and is checked to be there after the power cut.
// A table that a compaction could not write is missed when the compaction is done; until then the tables that it was to replace are in use.
const (
	grace      = 100 * time.Millisecond
	tableGrace = time.Second
)

// failOne is one n; again: there is another start before the power cut. An exit of 0: with a suffix, such an fsync need not come.
func (sc *scene) failOne(d *powerDisk, n int, suffix string, again bool) (exit time.Duration, started bool, err error) {
	patience := 20 * time.Second
	if suffix != "" {
		patience = 3 * time.Second
	}
	if _, err := d.do("fail %d %s", n, suffix); err != nil {
		return 0, false, err
	}
	if err := sc.g.start(); err != nil {
		return 0, false, err
	}
	cuts, began := sc.book.Cuts(), time.Now()
	_, err = sc.g.ready(30 * time.Second)
	started = err == nil
	stop, late := func() {}, &lateAnswers{}
	if started {
		sc.g.client.Transport = &watch{next: sc.g.client.Transport, late: late}
		if again {
			d.cache("data/log/*.seg")
		}
		stop = sc.load(sc.b.seed + uint64(n))
	}
	select {
	case <-sc.g.gone:
	case <-time.After(patience):
		what, at, _ := d.failed()
		if suffix != "" && at.IsZero() {
			sc.g.client.Transport = sc.g.client.Transport.(*watch).next
			sc.interrupt(stop)
			_, err := d.do("fail 0")
			return 0, started, err
		}
		stop()
		return 0, started, fmt.Errorf("the process still runs; the failed fsync was of %q at %s", what, at)
	}
	what, at, err := d.failed()
	if err != nil {
		return 0, started, err
	}
	if how := sc.g.ended(); how != "with exit code 74" {
		stop()
		return 0, started, fmt.Errorf("fsync of %s: it ended %s:\n%s", what, how, sc.g.stderr())
	}
	if exit = sc.g.goneAt.Sub(at); exit > time.Second {
		return exit, started, fmt.Errorf("it took %s from the failed fsync to the end of the process", exit)
	}
	if again {
		began := sc.book.Begin()
		sc.g.kill()
		stop()
		time.Sleep(10 * time.Millisecond)
		sc.book.Cut(ledger.Power, began) // for what was being written
	} else if err := sc.powerCut(d, sc.b.rnd.Uint64(), stop); err != nil {
		return exit, started, err
	}
	if started {
		sc.g.client.Transport = sc.g.client.Transport.(*watch).next
		grace := grace
		if strings.HasSuffix(what, ".sst") {
			grace = tableGrace
		}
		if told := late.after(at.Add(grace)); told > 0 {
			return exit, started, fmt.Errorf("%d requests that began more than %s after the failed fsync of %s were told a success", told, grace, what)
		}
	}
	if again {
		if _, err := sc.g.launch(); err != nil {
			return exit, started, fmt.Errorf("after the failed fsync of %s: %w", what, err)
		}
		stop := sc.load(sc.b.rnd.Uint64())
		time.Sleep(time.Duration(50+sc.b.rnd.IntN(200)) * time.Millisecond)
		if err := sc.powerCut(d, sc.b.rnd.Uint64(), stop); err != nil {
			return exit, started, err
		}
	}
	if _, err := sc.g.launch(); err != nil {
		return exit, started, err
	}
	if err := sc.present(cuts, began); err != nil {
		return exit, started, err
	}
	sc.interrupt(func() {})
	return exit, started, nil
}

// lateAnswers remembers when the requests began that were told a success.
type lateAnswers struct {
	mu     sync.Mutex
	begins []time.Time
}

func (l *lateAnswers) note(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begins = append(l.begins, began)
}

func (l *lateAnswers) after(t time.Time) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.begins {
		if b.After(t) {
			n++
		}
	}
	return n
}

// watch notes successes.
type watch struct {
	next http.RoundTripper
	late *lateAnswers
}

// RoundTrip is http.RoundTripper's.
func (w *watch) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := w.next.RoundTrip(r)
	if err == nil && r.Method == http.MethodPost && resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		w.late.note(began)
	}
	return resp, err
}
