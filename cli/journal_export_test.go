package cli

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// An export that fails leaves no file: an empty or half one was in the way of the next try, and on a full volume kept it full.
func TestAnExportThatFailsLeavesNoFile(t *testing.T) {
	to := filepath.Join(t.TempDir(), "events.ndjson")
	run := func(dir string) int {
		return Run(t.Context(), []string{"journal", "export", "--data-dir", dir, "--to", to}, nil, io.Discard, t.Output())
	}
	if code := run(t.TempDir()); code != exitNotFound {
		t.Errorf("of no journal: exit %d", code)
	}
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if code := run(filepath.Join("..", "journal", "embedded", "testdata", "golden", "v1-plain")); code != 0 {
		t.Errorf("exit %d", code)
	}
	if info, err := os.Stat(to); err != nil || info.Size() == 0 {
		t.Errorf("%v %v", info, err)
	}
}
