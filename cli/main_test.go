package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hooktender": func() { os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/*.txtar against one admin port. In a script, `exits N hooktender …` runs the command line and wants exit code N.
func TestScripts(t *testing.T) {
	open := admintest.Start(t, nil)
	guarded := admintest.Start(t, func(o *admin.Options) {
		o.Tokens = []admin.Token{{Name: "reader", Hash: admin.HashToken([]byte("reader-token-0123456")), Scopes: []string{api.ScopeEventsRead}}}
	})
	receive(t, open)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOOKTENDER_ADMIN", open.URL)
			env.Setenv("OPEN", open.URL)
			golden, err := filepath.Abs("../journal/embedded/testdata/golden/v1-plain")
			env.Setenv("GOLDEN", golden)
			if err != nil {
				return err
			}
			env.Setenv("GUARDED", guarded.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// receive makes the events that the scripts speak of.
func receive(t *testing.T, g *admintest.Gateway) {
	for _, id := range []string{"evt_ok", "evt_force"} {
		g.Receive(t, "stripe", id, nil)
	}
	for _, id := range []string{"evt_dead", "evt_dead_resolve", "evt_dead_discard", "evt_dead_fails", "evt_dead_fails2", "evt_dead_many"} {
		g.Receive(t, "stripe", id, admintest.Dead)
	}
	g.Receive(t, "stripe", "evt_open", admintest.Undecided)
	g.Receive(t, "stripe", "evt_open_again", admintest.Undecided)
	g.Core.Fails["evt_open_again"] = true
	g.Receive(t, "stripe", "evt_queued", admintest.Queued)
	g.Receive(t, "stripe", "evt_escape", func(r *event.Record) { r.Type = "a\x1b[31mb" })
	for _, source := range []string{"stripe", "github"} {
		g.Receive(t, source, "evt_two", nil)
	}
	g.Core.Fails["evt_dead_fails"], g.Core.Fails["evt_dead_fails2"] = true, true
}

// Every exit code of SPEC §9 has a script that wants it.
func TestEveryExitCodeHasAScript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw...)
	}
	for code := exitOK; code <= exitUnreachable; code++ {
		if want := fmt.Sprintf("\nexits %d hooktender ", code); !bytes.Contains(all, []byte(want)) {
			t.Errorf("no script wants exit code %d", code)
		}
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command [args]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
