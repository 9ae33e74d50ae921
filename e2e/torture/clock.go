package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// Setting the machine's clock would set everybody's. So the binary is built from the same source over a standard library whose time.Now adds to the wall clock what a
// mapped file says; monotonic time, timers and the boot clock stay the machine's, as they do when somebody sets the clock.
const clockSource = `package time

import (
	"syscall"
	"unsafe"
)

var wallOffset = func() *int64 {
	path, ok := syscall.Getenv("TORTURE_CLOCK")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		panic(err)
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}()
`

// buildWithClock builds hooktender so that TORTURE_CLOCK names a file of eight bytes: the seconds to add to the wall clock.
func buildWithClock(dir string) (binary string, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	raw, err := os.ReadFile(filepath.Join(src, "time.go"))
	if err != nil {
		return "", err
	}
	now := []byte("func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n")
	if bytes.Count(raw, now) != 1 {
		return "", skip("time.Now of this Go is not the one that is known here")
	}
	patched, added := filepath.Join(dir, "time.go"), filepath.Join(dir, "offset.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(src, "time.go"): patched, filepath.Join(src, "offset.go"): added}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	err = errors.Join(os.WriteFile(patched, bytes.Replace(raw, now, append(now, "\tsec += *wallOffset\n"...), 1), 0o600),
		os.WriteFile(added, []byte(clockSource), 0o600), os.WriteFile(list, overlay, 0o600))
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "hooktender-clock")
	cmd := exec.Command("go", "build", "-overlay", list, "-o", binary, "github.com/hooktender/hooktender")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with a clock: %w\n%s", err, text)
	}
	return binary, nil
}

// wallClock is the clock of one gateway.
type wallClock struct {
	path  string
	shift time.Duration
}

func (c *wallClock) set(shift time.Duration) error {
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE, 0o600) // never shorter: it is mapped
	if err != nil {
		return err
	}
	c.shift = shift
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(shift/time.Second)), 0)
	return errors.Join(err, f.Close())
}

func (c *wallClock) now() time.Time { return time.Now().Add(c.shift) }

// jump is one way to set the clock.
type jump struct {
	by      time.Duration
	restart bool // while the gateway is down
}

func (j jump) String() string {
	if j.restart {
		return fmt.Sprintf("%+.0f days over a restart", j.by.Hours()/24)
	}
	return fmt.Sprintf("%+.0f days while it runs", j.by.Hours()/24)
}

var jumps = []jump{
	{24 * time.Hour, false}, {-365 * 24 * time.Hour, true}, {365 * 24 * time.Hour, false}, {-24 * time.Hour, true},
	{-24 * time.Hour, false}, {365 * 24 * time.Hour, true}, {-365 * 24 * time.Hour, false}, {24 * time.Hour, true},
}

// clockJumps sets the clock by a day and by a year, in both directions, while the gateway runs and while it does not.
func clockJumps(b *bench) (result, error) {
	binary, err := buildWithClock(b.dir)
	if err != nil {
		return result{}, err
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	var all ledger.Report
	var errs []error
	slots := make(chan struct{}, 4)
	n := min(b.cycles, len(jumps))
	for i, j := range jumps[:n] {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			own := *b
			own.binary, own.dir = binary, filepath.Join(b.dir, fmt.Sprint(i))
			r, err := clockJump(&own, j)
			mu.Lock()
			defer mu.Unlock()
			all.Add(r)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", j, err))
			}
		})
	}
	work.Wait()
	return result{all, fmt.Sprintf("%d ways to set the clock: duplicates stayed duplicates, nothing expired early or stayed, retries kept their pace, and the log said so", n)}, errors.Join(errs...)
}

const (
	clockRetention = 60 * time.Second
	clockMaxWait   = 15 * time.Second
	clockPace      = 3 * time.Second // for so long attempts are counted
)

func clockJump(b *bench, j jump) (ledger.Report, error) {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return ledger.Report{}, err
	}
	sc, err := newScene(b, filepath.Join(b.dir, "data"), "min_free: 64MiB", "mode: hybrid")
	if err != nil {
		return ledger.Report{}, err
	}
	defer sc.close()
	if err := sc.clockConfig(); err != nil {
		return ledger.Report{}, err
	}
	clock := &wallClock{path: filepath.Join(b.dir, "clock")}
	if err := clock.set(0); err != nil {
		return ledger.Report{}, err
	}
	sc.g.env = []string{"TORTURE_CLOCK=" + clock.path}
	if _, err := sc.g.launch(); err != nil {
		return ledger.Report{}, err
	}
	begun := time.Now()
	send := func(path, id string, version int) (int, string) {
		l := letter{path: path, id: id, body: body(id, "", 0, 20)}
		if version > 0 {
			l.resource, l.version = "r1", version
			l.body = body(id, l.resource, version, 20)
		}
		sc.book.Send(id, l.body, false)
		status, head := sc.s.post(b.ctx, l, hooktest.Custom(secret, l.body, clock.now()))
		return status, head.Get("Hooktender-Outcome")
	}
	var faults []error
	expect := func(want int, outcome, path, id string, version int) {
		if status, got := send(path, id, version); status != want || got != outcome {
			faults = append(faults, fmt.Errorf("%s: %d %s, not %d %s", id, status, got, want, outcome))
		}
	}
	const events = 20
	each := func(prefix string, fn func(id string)) {
		for i := range events {
			fn(fmt.Sprintf("%s_%d", prefix, i))
		}
	}
	each("done", func(id string) { expect(200, "delivered", "/s", id, 0) })
	expect(200, "delivered", "/q", "q_1", 1)
	expect(202, "held", "/q", "q_3", 3)
	held := time.Now()
	sc.c.down.Store(true)
	each("late", func(id string) { expect(202, "accepted", "/s", id, 0) })
	pace := func() float64 {
		before, began := sc.c.arrived.Load(), time.Now()
		time.Sleep(clockPace)
		return float64(sc.c.arrived.Load()-before) / time.Since(began).Seconds()
	}
	before := pace()

	if j.restart {
		sc.interrupt(func() {})
	}
	if err := clock.set(j.by); err != nil {
		return ledger.Report{}, err
	}
	if j.restart {
		if _, err := sc.g.launch(); err != nil {
			return ledger.Report{}, err
		}
		time.Sleep(time.Second) // what fell due while it was down comes at once
	}
	each("done", func(id string) { expect(200, "duplicate", "/s", id, 0) })
	if reason := sc.reason("q_3"); time.Since(held) < clockMaxWait-time.Second && reason != "held" {
		faults = append(faults, fmt.Errorf("what was held came out of its turn after %s: %s", time.Since(held), reason))
	}
	if after := pace(); after > 2*before || after < before/2 {
		faults = append(faults, fmt.Errorf("%.1f attempts a second before the jump, %.1f after it", before, after))
	}
	each("late", func(id string) { expect(200, "duplicate", "/s", id, 0) })
	for reason := "held"; reason == "held"; reason = sc.reason("q_3") {
		if time.Since(held) > 3*clockMaxWait {
			faults = append(faults, errors.New("what was held stays held"))
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if time.Since(begun) < clockRetention-5*time.Second { // the sweep has come by at least once since
		each("done", func(id string) {
			if status := sc.g.status("/v1/events/" + id + "/payload"); status != 200 {
				faults = append(faults, fmt.Errorf("%s: its payload: %d", id, status))
			}
		})
	}
	if err := sc.receivedNow(clock, send); err != nil {
		faults = append(faults, err)
	}
	ended := time.Now() // of the last event, about
	r, err := sc.judge()
	faults = append(faults, err)
	if raw, _ := os.ReadFile(filepath.Join(b.dir, "stderr")); !bytes.Contains(raw, []byte("the clock was set")) {
		faults = append(faults, errors.New("the log does not say that the clock was set"))
	}
	for sc.g.has("done_0") {
		if time.Since(ended) > 2*clockRetention {
			faults = append(faults, errors.New("what was delivered stays for good"))
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	return r, errors.Join(faults...)
}

// clockConfig is a configuration in which a minute matters.
func (sc *scene) clockConfig() error {
	source := func(name, ordering string) string {
		return fmt.Sprintf(`  %[1]s:
    path: /%[1]s
    provider: custom
    secrets: [{env: TORTURE_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", resource: "json:resource", version: "json:version"}
    ordering: {%[2]s}
    delivery: {mode: hybrid, upstream: app, retry: {base: 1s, factor: 1, max_attempts: 100000, max_elapsed: 12h}}
`, name, ordering)
	}
	text := fmt.Sprintf(`version: 1
listen: %q
admin: {listen: %q}
data_dir: %q
journal: {min_free: 64MiB}
retention: {dedup: %[4]s, payload: %[4]s, record: %[4]s, dead_letter: %[4]s}
upstreams: {app: {url: "http://%s", timeout: 5s, breaker: {failures: 1000000}}}
sources:
%s%s`, sc.g.public, sc.g.admin, sc.g.data, clockRetention, sc.c.addr, source("s", "policy: none"), source("q", fmt.Sprintf("policy: in_sequence, max_wait: %s", clockMaxWait)))
	return os.WriteFile(filepath.Join(sc.g.dir, "hooktender.yaml"), []byte(text), 0o600)
}

// reason is why an event waits; "" if it does not.
func (sc *scene) reason(id string) string {
	var r struct{ Reason string }
	if err := sc.g.get("/v1/events/"+id, &r); err != nil {
		return err.Error()
	}
	return r.Reason
}

// receivedNow sends an event and compares the time at which it was received with what the clock shows.
func (sc *scene) receivedNow(clock *wallClock, send func(path, id string, version int) (int, string)) error {
	if status, _ := send("/s", "new", 0); status != http.StatusAccepted {
		return fmt.Errorf("a new event after the jump: %d", status)
	}
	var r struct {
		At time.Time `json:"received_at"`
	}
	err := sc.g.get("/v1/events/new", &r)
	if d := clock.now().Sub(r.At); err != nil || d < -time.Minute || d > time.Minute {
		return fmt.Errorf("a new event was received at %s, the clock says %s: %w", r.At, clock.now(), err)
	}
	return nil
}
