//go:build !portable

package embedded

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The kernel does it where it can, and says why it could not.
func TestFsyncerAsksTheKernel(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s fsyncer
	defer s.close()
	for i := range 200 {
		if _, err := f.WriteAt([]byte("frame"), int64(i)*5); err != nil {
			t.Fatal(err)
		}
		if i == 100 && s.context != 0 { // what an earlier request has left there is not this one's end
			if _, err := s.event.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.sync(f); err != nil {
			t.Fatal(err)
		}
	}
	if s.context == 0 {
		t.Skip("this kernel takes no asynchronous requests")
	}
	if !s.submit(f) {
		t.Fatal("not taken")
	}
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if s.result.result != 0 || s.result.request == 0 {
		t.Fatalf("the kernel says %+v", s.result)
	}
}

func TestFsyncerWithoutTheKernel(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := fsyncer{tried: true}
	if err := s.sync(f); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// What cannot be synced is an error either way.
func TestFsyncerSaysWhatFails(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, s := range []*fsyncer{{}, {tried: true}} {
		defer s.close()
		if err := s.sync(w); err != syscall.EINVAL {
			t.Errorf("a pipe: %v", err)
		}
	}
}
