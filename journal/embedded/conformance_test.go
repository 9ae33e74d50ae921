package embedded

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/journaltest"
)

func TestConformance(t *testing.T) {
	for name, size := range map[string]int64{"ordinary": 0, "tiny segments": 16 << 10} {
		t.Run(name, func(t *testing.T) {
			journaltest.Run(t, func(t *testing.T, c journaltest.Config) *journaltest.Fixture {
				return fixture(t, c, size)
			})
		})
	}
}

// gate holds the disk back.
type gate struct {
	mu   sync.Mutex
	held chan struct{}
}

func (g *gate) hold() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held := make(chan struct{})
	g.held = held
	return sync.OnceFunc(func() { close(held) })
}

func (g *gate) sync(f *os.File) error {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held != nil {
		<-held
	}
	return fdatasync(f)
}

func fixture(t *testing.T, c journaltest.Config, segmentSize int64) *journaltest.Fixture {
	g := &gate{}
	o := Options{
		Dir: memDir(t), Sync: true, SegmentSize: segmentSize, Retention: c.Retention, Now: c.Now, Observer: c.Observer,
		syncFile: g.sync,
	}
	if c.Full != nil {
		o.MinFree = 1 << 20
		o.free = func(string) (uint64, error) {
			if c.Full() {
				return 0, nil
			}
			return 1 << 30, nil
		}
	}
	e := start(t, o)
	x := &journaltest.Fixture{Journal: e, HoldSync: g.hold}
	x.Reopen = func() journal.Journal {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = start(t, o)
		return e
	}
	x.Crash = func() journal.Journal {
		o.Dir = copyDir(t, o.Dir)
		e.Close()
		e = start(t, o)
		return e
	}
	return x
}

// copyDir copies a journal as it lies on disk: what a killed process leaves. Badger may remove a file meanwhile; then it begins again.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	for try := 0; ; try++ {
		to := memDir(t)
		err := copyFiles(dir, to)
		if err == nil {
			return to
		}
		if !errors.Is(err, fs.ErrNotExist) || try == 10 {
			t.Fatal(err)
		}
	}
}

func copyFiles(dir, to string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		defer out.Close()
		return copySparse(out, in)
	})
}

// copySparse copies a file and leaves out what is zero: most of what Badger and the log make in advance is.
func copySparse(out, in *os.File) error {
	b := make([]byte, 64<<10)
	zeros := make([]byte, len(b))
	for at := int64(0); ; {
		n, err := in.Read(b)
		if err == io.EOF {
			return out.Truncate(at)
		}
		if err == nil && !bytes.Equal(b[:n], zeros[:n]) {
			_, err = out.WriteAt(b[:n], at)
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
}
