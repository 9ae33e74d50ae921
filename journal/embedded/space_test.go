package embedded

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/journal"
)

// The disk filled up under the gateway, and the process ended in the middle of its deliveries.
func TestFullVolumeStopsNewEventsOnly(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	look := func(string) (uint64, error) { return free.Load(), nil }
	o := Options{Dir: t.TempDir(), Sync: true, MinFree: 64 << 20, free: look, reserveFree: look, Log: quiet}
	e, rs := write(t, o, 20, journal.Synced)
	free.Store(0)
	time.Sleep(2 * freeInterval)
	if _, err := e.Accept(context.Background(), []journal.Accept{sample(100)}, journal.Synced); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("a new event on a full volume: %v", err)
	}
	for i := 0; i < len(rs); i += 2 {
		deliver(t, e, journal.Synced, rs[i])
	}
	for end := time.Now().Add(30 * time.Second); !e.space.indexPaused.Load() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if !e.space.indexPaused.Load() || e.Err() != nil {
		t.Fatalf("the index is written although the volume is full, or the journal has failed: %v", e.Err())
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("open on a full volume: %v", err)
	}
	free.Store(1 << 30)
	if _, err := Open(o); !errors.Is(err, journal.ErrLocked) {
		t.Fatalf("open beside an index that was left: %v", err)
	}
	o.Dir = copyDir(t, o.Dir) // as the next process finds it
	e = start(t, o)
	for _, r := range everything(t, e) {
		if r.State != event.Delivered {
			t.Errorf("%s is %v", r.EventID, r.State)
		}
	}
	if !accept(t, e, journal.Synced, sample(100)).Accepted {
		t.Error("there is space again, and the event is refused")
	}
}

// Every sender was answered 503, and the log ended with "ready".
func TestTheLogSaysThatNewEventsAreRefused(t *testing.T) {
	var free atomic.Uint64
	var said bytes.Buffer
	look := func(string) (uint64, error) { return free.Load(), nil }
	e := start(t, Options{Sync: true, MinFree: 64 << 20, free: look, reserveFree: func(string) (uint64, error) { return 1 << 30, nil }, Log: slog.New(slog.NewTextHandler(&said, nil))})
	for i, now := range []uint64{1 << 30, 32 << 20, 32 << 20, 1 << 30, 1 << 30} {
		free.Store(now)
		time.Sleep(2 * freeInterval) // so often is it looked up
		want := error(nil)
		if now < 64<<20 {
			want = journal.ErrFull
		}
		if _, err := e.Accept(t.Context(), []journal.Accept{sample(i)}, journal.Synced); !errors.Is(err, want) {
			t.Fatalf("with %d bytes free: %v", now, err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"new events are refused until there is more", "there is space again: new events are taken"} {
		if n := strings.Count(said.String(), line); n != 1 {
			t.Errorf("%q is said %d times:\n%s", line, n, said.String())
		}
	}
}

// A list that was asked for while the volume was full, and a start that reads what is pending, waited for good when space came back that was enough for the index, but less than
// min_free: the gateway stayed "starting".
func TestListGoesOnBelowMinFree(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	look := func(string) (uint64, error) { return free.Load(), nil }
	e, _ := write(t, Options{Sync: true, MinFree: 64 << 20, free: look, reserveFree: look}, 20, journal.Synced)
	free.Store(0)
	if err := e.MetaPut(context.Background(), "key", []byte("for the index"), journal.Synced); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	listed := make(chan error, 1)
	go func() {
		_, err := e.List(ctx, journal.Query{Limit: 1})
		listed <- err
	}()
	for !e.space.indexPaused.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	for len(e.applier.kick) > 0 && ctx.Err() == nil { // until the applier has seen it
		time.Sleep(time.Millisecond)
	}
	free.Store(60 << 20)
	if err := <-listed; err != nil {
		t.Fatal(err)
	}
}

// The log goes on in the ballast where nothing else is left, on the volume or in a quota (with which the process ended).
func TestBallastBecomesTheLog(t *testing.T) {
	for _, err := range []error{unix.ENOSPC, unix.EDQUOT} {
		t.Run(err.Error(), func(t *testing.T) { testBallastBecomesTheLog(t, err) })
	}
}

func testBallastBecomesTheLog(t *testing.T, full error) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, nameBallast), 0o700); err != nil {
		t.Fatal(err)
	}
	spare := filepath.Join(dir, nameBallast, "1"+ballastSuffix)
	if err := os.WriteFile(spare, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Sync: true, SegmentSize: 16 << 10, Log: quiet}
	e := start(t, o)
	p := e.wal.make(1 << 10)
	if p.err != nil {
		t.Fatal(p.err)
	}
	if err := errors.Join(p.file.Close(), os.Remove(p.path)); err != nil {
		t.Fatal(err)
	}
	e.wal.asked = true
	e.wal.prepared <- &prepared{err: full}
	for i := range 40 {
		accept(t, e, journal.Synced, sample(i))
	}
	if _, err := os.Stat(spare); err == nil {
		t.Error("the ballast was not used")
	}
	e.Close()
	if got := len(everything(t, start(t, o))); got != 40 {
		t.Errorf("%d events of 40", got)
	}
}

// No space, no ballast: the log waits until there is some, and nobody is told of an error.
func TestLogWaitsForSpace(t *testing.T) {
	var said bytes.Buffer
	e := start(t, Options{Sync: true, SegmentSize: 16 << 10, Log: slog.New(slog.NewTextHandler(&said, nil))})
	e.wal.asked = true
	e.wal.prepared <- &prepared{err: unix.ENOSPC}
	for i := range 20 {
		accept(t, e, journal.Synced, sample(i))
	}
	if got := len(everything(t, e)); got != 20 || e.space.refusing() {
		t.Errorf("%d events of 20, refusing %t", got, e.space.refusing())
	}
	must(t, e.Close())
	for _, line := range []string{"the log has no room for another segment and waits for space", "there is space again: the log goes on"} {
		if n := strings.Count(said.String(), line); n != 1 {
			t.Errorf("%q is said %d times:\n%s", line, n, said.String())
		}
	}
}

// The index waits for space until the overlay is full: then whoever writes waits, new events are refused at once, a list says why it gave up, and all goes on with the space.
func TestFullOverlayWaits(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	o := Options{MinFree: 8 << 20, free: func(string) (uint64, error) { return 1 << 30, nil }, reserveFree: func(string) (uint64, error) { return free.Load(), nil }}
	e := start(t, o)
	free.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	value, puts := make([]byte, maxMeta), make(chan int, 1)
	const all = 200
	go func() {
		n := 0
		for n < all && e.MetaPut(ctx, "key", value, journal.Written) == nil {
			n++
		}
		puts <- n
	}()
	for !e.space.overfull.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if _, err := e.Accept(ctx, []journal.Accept{sample(1)}, journal.Written); !errors.Is(err, journal.ErrFull) {
		t.Errorf("a new event: %v", err)
	}
	brief, giveUp := context.WithTimeout(ctx, time.Millisecond)
	defer giveUp()
	if err := e.settleFor(brief, e.published()); !errors.Is(err, journal.ErrFull) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("whoever waits for the index: %v", err)
	}
	select {
	case n := <-puts:
		t.Fatalf("%d of %d values were written", n, all)
	default:
	}
	free.Store(1 << 30)
	if n := <-puts; n != all {
		t.Fatalf("%d of %d values were written", n, all)
	}
	if !accept(t, e, journal.Written, sample(1)).Accepted || e.space.refusing() {
		t.Error("there is space again, and new events are refused")
	}
}

// What a nearly full volume needs to open the index is taken from the ballast, and no more than that.
func TestBallastIsGivenUpToOpen(t *testing.T) {
	o := Options{Dir: t.TempDir(), Log: quiet}
	dir := filepath.Join(o.Dir, nameBallast)
	must(t, os.Mkdir(dir, 0o700))
	for _, name := range []string{"1", "2", "3"} {
		must(t, os.WriteFile(filepath.Join(dir, name+ballastSuffix), make([]byte, minSegment), 0o600))
	}
	o.reserveFree = func(string) (uint64, error) { return 1000 - 100*uint64(len(ballastIn(o.Dir))), nil }
	for _, x := range []struct {
		need uint64
		left int
	}{{700, 3}, {701, 2}, {900, 1}, {5000, 0}, {5000, 0}} {
		s := newSpace(&o)
		if s.begin(x.need); len(s.ballast) != x.left || len(ballastIn(o.Dir)) != x.left {
			t.Errorf("with %d bytes needed the ballast has %d files, knows of %d", x.need, len(ballastIn(o.Dir)), len(s.ballast))
		}
	}
}

// A crash as a ballast file was made left an empty one, which counted for ever as one that is whole: on a full volume the log could not go on in it, and the process ended.
func TestEmptyBallastIsNone(t *testing.T) {
	o := Options{Dir: t.TempDir(), Log: quiet}
	must(t, os.Mkdir(filepath.Join(o.Dir, nameBallast), 0o700))
	empty, whole := filepath.Join(o.Dir, nameBallast, "1"+ballastSuffix), filepath.Join(o.Dir, nameBallast, "2"+ballastSuffix)
	must(t, os.WriteFile(empty, nil, 0o600))
	must(t, os.WriteFile(whole, make([]byte, 64<<10), 0o600))
	e := start(t, o)
	if got := e.space.takeBallast(); got != whole {
		t.Errorf("the log would go on in %q", got)
	}
	if got := e.space.takeBallast(); got != "" {
		t.Errorf("and then in %q", got)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Error("the empty file is still there")
	}
}

// A gateway that starts without space, or loses it while nobody sends anything, says so all the same: the log ended with "ready", and where readiness
// keeps senders away no event came to be refused.
func TestTheLogSaysWithoutAnyEventThatNewOnesAreRefused(t *testing.T) {
	var free atomic.Uint64
	said := make(chan string, 8)
	look := func(string) (uint64, error) { return free.Load(), nil }
	enough := func(string) (uint64, error) { return 1 << 30, nil }
	start(t, Options{MinFree: 64 << 20, free: look, reserveFree: enough, Log: slog.New(slog.NewTextHandler(lines(said), nil))})
	for _, text := range []string{"below journal.min_free", "space again: new events"} {
		for line := range said {
			if strings.Contains(line, text) {
				break
			}
		}
		free.Store(1 << 30)
	}
}

type lines chan<- string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

// Free space that goes to and fro about MinFree is told once, not each time: as tables of the index come and go it can do so many times a second.
func TestSpaceAboutMinFreeIsToldSeldom(t *testing.T) {
	var looks atomic.Uint64
	look := func(string) (uint64, error) { return 64<<20 - looks.Add(1)%2, nil }
	enough := func(string) (uint64, error) { return 1 << 30, nil }
	var said bytes.Buffer
	e := start(t, Options{Dir: t.TempDir(), MinFree: 64 << 20, free: look, reserveFree: enough, Log: slog.New(slog.NewTextHandler(&said, nil))})
	began, refused := time.Now(), 0
	for i := 0; refused < 20 && time.Since(began) < time.Minute; i++ {
		if _, err := e.Accept(context.Background(), []journal.Accept{sample(i)}, journal.Written); errors.Is(err, journal.ErrFull) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * freeIntervalNear)
	}
	minutes := int(time.Since(began)/fullAgain) + 1
	must(t, e.Close())
	for _, text := range []string{"below journal.min_free", "space again: new events"} {
		if n := strings.Count(said.String(), text); refused < 20 || n < 1 || n > minutes {
			t.Errorf("%q is told %d times in %d minutes, %d refused\n%s", text, n, minutes, refused, said.String())
		}
	}
}
