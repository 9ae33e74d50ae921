package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/e2e/internal/ledger"
	"github.com/hooktender/hooktender/hooktest"
)

// smallDisk is a volume of 100 MB: a file with ext4 in it, mounted through a loop device.
type smallDisk struct{ image, dir string }

func newSmallDisk(b *bench) (*smallDisk, error) {
	if os.Geteuid() != 0 {
		return nil, skip("a loop mount needs root")
	}
	d := &smallDisk{image: filepath.Join(b.dir, "image"), dir: filepath.Join(b.dir, "disk")}
	if err := errors.Join(os.MkdirAll(d.dir, 0o755), os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 100<<20)); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", d.image).CombinedOutput(); err != nil {
		return nil, skip("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		return nil, skip("mount -o loop: %v: %s", err, out)
	}
	return d, nil
}

func (d *smallDisk) close() { _ = exec.Command("umount", "-l", d.dir).Run() }

func (d *smallDisk) free() uint64 {
	var st syscall.Statfs_t
	if syscall.Statfs(d.dir, &st) != nil {
		return 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize)
}

// fill writes a file until so many bytes are free; 0 = until nothing goes any more.
func (d *smallDisk) fill(name string, leave uint64) error {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for d.free() > leave {
		if _, err := f.Write(block[:min(uint64(len(block)), max(d.free()-leave, 1))]); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

const minFree = 24 << 20

// fullDisk fills the volume up: first the gateway itself until it refuses, then somebody else to the last byte; then space is freed.
func fullDisk(b *bench) (result, error) {
	var total result
	var back times
	var died int
	for cycle := range b.cycles {
		if b.ctx.Err() != nil {
			return result{}, b.ctx.Err()
		}
		r, again, ended, err := fillOnce(b, cycle)
		if err != nil {
			return result{}, fmt.Errorf("cycle %d: %w", cycle, err)
		}
		if ended {
			died++
		}
		back = append(back, again)
		total.Cuts++
		total.Sent, total.Acked, total.Lost = total.Sent+r.Sent, total.Acked+r.Acked, total.Lost+r.Lost
		total.Repeats, total.InFlight, total.Unmarked = total.Repeats+r.Repeats, total.InFlight+r.InFlight, total.Unmarked+r.Unmarked
		total.Violations = append(total.Violations, r.Violations...)
	}
	total.note = fmt.Sprintf("serves again after space was freed: %s; no SIGBUS; the process ended with 74 and a message at the last byte in %d of %d", back, died, b.cycles)
	return total, nil
}

func fillOnce(b *bench, cycle int) (r ledger.Report, again time.Duration, ended bool, err error) {
	here := *b
	here.dir = filepath.Join(b.dir, fmt.Sprint(cycle))
	if err := os.MkdirAll(here.dir, 0o755); err != nil {
		return r, 0, false, err
	}
	d, err := newSmallDisk(&here)
	if err != nil {
		return r, 0, false, err
	}
	defer d.close()
	sc, err := newScene(&here, filepath.Join(d.dir, "data"), fmt.Sprintf("min_free: %dMiB, memory: 16MiB", minFree>>20), "mode: store")
	if err != nil {
		return r, 0, false, err
	}
	defer sc.close()
	if _, err := sc.g.launch(); err != nil {
		return r, 0, false, err
	}
	// The gateway fills what somebody else has left.
	if err := d.fill("somebody-elses", minFree+8<<20); err != nil {
		return r, 0, false, err
	}
	sc.c.down.Store(true)
	if err := sc.untilRefused(d); err != nil {
		return r, 0, false, err
	}
	if free := d.free(); free < minFree/2 {
		return r, 0, false, fmt.Errorf("it refused only when %d bytes were free", free)
	}
	if cycle%2 == 0 { // deliveries go on
		sc.c.down.Store(false)
		if err := sc.g.drained(60 * time.Second); err != nil {
			return r, 0, false, fmt.Errorf("while the disk is full: %w", err)
		}
	}
	// Somebody else takes the rest, to the last byte.
	if err := d.fill("somebody-elses", 0); err != nil {
		return r, 0, false, err
	}
	sc.c.down.Store(false) // in every other cycle deliveries are recorded where nothing is free any more
	for range 20 {
		if status := sc.one("full"); status != 503 && status != 0 {
			return r, 0, false, fmt.Errorf("on a full disk it answers %d", status)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if ended = !sc.g.alive(); ended {
		if how := sc.g.ended(); how != "with exit code 74" {
			return r, 0, ended, errors.Join(fmt.Errorf("on a full disk it ended %s", how), sc.g.panics(), errors.New(sc.g.stderr()))
		}
	}
	// What must be listed waits for space, and says so in time.
	if status := sc.g.status("/v1/events"); !ended && status != 200 && status != 503 {
		return r, 0, ended, fmt.Errorf("a list on a full disk: %d", status)
	}
	// It ends there, by itself or not; then a start on a full disk: not ready, or refused with a message; never a crash.
	began := sc.book.Begin()
	if cycle/2%2 == 1 && !ended {
		if err := sc.g.terminate(); err != nil {
			return r, 0, ended, err
		}
	}
	sc.g.kill()
	sc.book.Cut(ledger.Kill, began)
	if err := sc.startFull(); err != nil {
		return r, 0, ended, err
	}
	// Space is freed.
	if err := os.Remove(filepath.Join(d.dir, "somebody-elses")); err != nil {
		return r, 0, ended, err
	}
	freed := time.Now()
	if !sc.g.alive() {
		if _, err := sc.g.launch(); err != nil {
			return r, 0, ended, err
		}
	}
	for sc.one("after") != 202 {
		if time.Since(freed) > 5*time.Second {
			return r, 0, ended, fmt.Errorf("5 s after space was freed it does not serve: %s", sc.g.stderr())
		}
		time.Sleep(20 * time.Millisecond)
	}
	again = time.Since(freed)
	if r, err = sc.judge(); err != nil {
		return r, again, ended, err
	}
	return r, again, ended, sc.g.panics()
}

// one sends one event and gives the status; a 503 must carry Retry-After.
func (sc *scene) one(name string) int {
	id := fmt.Sprintf("%s_%d", name, sc.s.next.Add(1))
	l := letter{path: "/s", id: id, body: body(id, "", 0, 8000)}
	sc.book.Send(l.id, l.body, false)
	status, head := sc.s.post(sc.b.ctx, l, hooktest.Custom(secret, l.body, time.Now()))
	if status == http.StatusServiceUnavailable && head.Get("Retry-After") == "" {
		return -1
	}
	return status
}

// untilRefused sends until the gateway refuses for want of space, and says so by its readiness.
func (sc *scene) untilRefused(d *smallDisk) error {
	ctx, cancel := context.WithTimeout(sc.b.ctx, 60*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		switch status := sc.one("fill"); status {
		case 202:
		case 503:
			if status := sc.g.status("/readyz"); status != 503 {
				if d.free() >= minFree {
					continue // a file of the index that is not needed any more went meanwhile
				}
				return fmt.Errorf("it refuses and is ready: %d", status)
			}
			return nil
		default:
			return fmt.Errorf("while the disk fills up it answers %d:\n%s", status, sc.g.stderr())
		}
	}
	return errors.New("it did not refuse in a minute")
}

// startFull starts the gateway where nothing is free.
func (sc *scene) startFull() error {
	if err := sc.g.start(); err != nil {
		return err
	}
	select {
	case <-sc.g.gone:
		if how := sc.g.ended(); how != "with exit code 74" || !strings.Contains(sc.g.stderr(), "free") {
			return errors.Join(fmt.Errorf("a start on a full disk ended %s", how), sc.g.panics(), errors.New(sc.g.stderr()))
		}
		return nil
	case <-time.After(3 * time.Second):
	}
	if sc.g.status("/readyz") == 200 {
		return errors.New("it is ready on a full disk")
	}
	if status := sc.one("full"); status != 503 {
		return fmt.Errorf("started on a full disk it answers %d", status)
	}
	return nil
}
