package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/cli/demo"
)

// Where nobody reads on, as in demo | head, nothing is left behind all the same: the write that failed ended the process, and 20 MB stayed in /tmp.
func TestADemoThatNobodyReadsLeavesNothingBehind(t *testing.T) {
	tmp := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	cmd := exec.Command("hooktender", "demo")
	cmd.Env, cmd.Stdout = append(os.Environ(), "TMPDIR="+tmp), w
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("ended with %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// endsAt calls end when a text is written.
type endsAt struct {
	bytes.Buffer
	text string
	end  func()
}

func (w *endsAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.end()
	}
	return w.Buffer.Write(p)
}

func TestAnInterruptedDemoSaysSo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &endsAt{text: "restarts meanwhile", end: cancel}
	code := Run(ctx, []string{"demo"}, nil, io.Discard, stderr)
	if code != exitFailed || !strings.HasSuffix(stderr.String(), "error: interrupted\n") {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}

func TestADemoForPrograms(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	if code := Run(t.Context(), []string{"demo", "-o", "json"}, nil, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	var got demo.Result
	dec := json.NewDecoder(&stdout)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil || dec.More() || !got.Pass || len(got.Steps) < 10 || len(got.Order) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}
