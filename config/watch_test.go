package config

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// watching starts Watch and gives the channel of its calls.
func watching(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	calls, done := make(chan struct{}, 16), make(chan error, 1)
	go func() { done <- Watch(ctx, path, func() { calls <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	for i := range 100 { // Watch has no sign that it has begun, but that it sees a change
		write(t, path, fmt.Sprint("a change ", i))
		select {
		case <-calls:
			quiet(calls)
			return calls
		case <-time.After(5 * settle):
		}
	}
	t.Fatal("no change is seen")
	return nil
}

// quiet waits until no call comes any more.
func quiet(calls <-chan struct{}) {
	for {
		select {
		case <-calls:
		case <-time.After(5 * settle):
			return
		}
	}
}

func expectCall(t *testing.T, calls <-chan struct{}, want bool) {
	t.Helper()
	wait := 5 * settle
	if want {
		wait = 10 * time.Second
	}
	select {
	case <-calls:
		if !want {
			t.Error("called, though nothing changed")
		}
	case <-time.After(wait):
		if want {
			t.Error("not called")
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestWatchSeesWritesAndRenamesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooktender.yaml")
	write(t, path, "a")
	calls := watching(t, path)
	began := time.Now()
	for i := range 5 {
		write(t, path, string(rune('b'+i)))
	}
	atOnce := time.Since(began) < settle/2 // not so on a busy machine
	if expectCall(t, calls, true); !atOnce {
		quiet(calls)
	}
	expectCall(t, calls, false)
	write(t, path+".same", "f") // the same content
	if err := os.Rename(path+".same", path); err != nil {
		t.Fatal(err)
	}
	write(t, path+"x", "another file")
	expectCall(t, calls, false)
	write(t, path+".tmp", "renamed over it")
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	expectCall(t, calls, true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expectCall(t, calls, false)
	write(t, path, "back again")
	expectCall(t, calls, true)
}

// Kubernetes mounts a ConfigMap as file → ..data/file, ..data → ..timestamp, and swaps ..data.
func TestWatchSeesASwappedSymlink(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, d, "hooktender.yaml"), d)
	}
	link(t, "..1", filepath.Join(dir, "..data"))
	path := filepath.Join(dir, "hooktender.yaml")
	link(t, "..data/hooktender.yaml", path)
	calls := watching(t, path)
	link(t, "..2", filepath.Join(dir, "..data"))
	expectCall(t, calls, true)
	write(t, filepath.Join(dir, "..2", "hooktender.yaml"), "written behind the link")
	expectCall(t, calls, true)
}

// A file that is mounted into a container (docker run -v ./hooktender.yaml:/etc/…) is written to under its name outside, of which the
// directory inside knows nothing; a hard link is the same to the kernel.
func TestWatchSeesAWriteUnderAnotherName(t *testing.T) {
	outside, inside := filepath.Join(t.TempDir(), "outside.yaml"), filepath.Join(t.TempDir(), "hooktender.yaml")
	write(t, outside, "a")
	if err := os.Link(outside, inside); err != nil {
		t.Skip(err)
	}
	calls := watching(t, inside)
	for _, text := range []string{"b", "c"} {
		write(t, outside, text)
		expectCall(t, calls, true)
	}
}

// A release is put in place by swapping the link to its whole directory: current/hooktender.yaml, current → release-2.
func TestWatchSeesASwappedDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"release-1", "release-2"} {
		if err := os.MkdirAll(filepath.Join(dir, d, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, d, "etc", "hooktender.yaml"), d)
	}
	link(t, "release-1", filepath.Join(dir, "current"))
	calls := watching(t, filepath.Join(dir, "current", "etc", "hooktender.yaml"))
	link(t, filepath.Join(dir, "release-2"), filepath.Join(dir, "current"))
	expectCall(t, calls, true)
	write(t, filepath.Join(dir, "release-2", "etc", "hooktender.yaml"), "written behind the link")
	expectCall(t, calls, true)
}

// A log in the same directory, written to all the time, once kept every change from being seen.
func TestWatchSeesAChangeBesideABusyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooktender.yaml")
	calls := watching(t, path)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(settle / 50):
				_ = os.WriteFile(path+".log", []byte("a line"), 0o600)
			}
		}
	}()
	write(t, path, "changed")
	expectCall(t, calls, true)
	close(stop)
	<-done
}

func TestWatchOfADirectoryThatIsNotThereFails(t *testing.T) {
	if err := Watch(t.Context(), filepath.Join(t.TempDir(), "none", "f.yaml"), func() {}); err == nil {
		t.Error("no error")
	}
}

// A directory that is deleted and made again, as by a deployment that copies a whole tree, is another one to the kernel: what changed in it was not seen any more.
func TestWatchSeesADirectoryThatIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "hooktender.yaml")
	again := func(text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
	}
	again("a")
	calls := watching(t, path)
	remove := func() {
		t.Helper()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	remove()
	expectCall(t, calls, false) // long enough for it to be missed
	again("b")
	expectCall(t, calls, true)
	write(t, path, "c")
	expectCall(t, calls, true)
	remove()
	again("c") // at once, and the same
	expectCall(t, calls, false)
	write(t, path, "d")
	expectCall(t, calls, true)
}
