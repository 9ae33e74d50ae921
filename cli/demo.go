package cli

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/hooktender/hooktender/cli/demo"
)

// demo plays the main job; a failed check exits 1.
func (e *env) demo(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE) // where nobody reads on (demo | head) its directory is removed all the same
	defer signal.Reset(syscall.SIGPIPE)
	result, err := demo.Run(ctx, e.stderr)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // whatever failed because of it
	}
	if result != nil {
		if err := e.printValue(result, func(w io.Writer) { e.showDemo(w, result) }); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func (e *env) showDemo(w io.Writer, r *demo.Result) {
	t := e.table("SENT", "SOURCE", "EVENT", "ANSWER", "CONSUMER SAW", "BECAME")
	for _, s := range r.Steps {
		saw := cell{text: fmt.Sprintf("%d×", s.ConsumerSaw)}
		if s.Fault != "" {
			saw = cell{saw.text + "  ✗ " + s.Fault, red}
		}
		t.row(s.Sent, s.Source, s.Event, s.Answer, saw, s.State)
	}
	t.writeTo(w)
	switch {
	case r.Fault != "":
		fmt.Fprintf(w, "\n✗ %s\n", r.Fault)
	case !r.Pass:
		fmt.Fprintln(w, "\n✗ Not everything is as it must be.")
	default:
		fmt.Fprintln(w, "\n✓ Every genuine event reached the consumer exactly once, order 7 in order 1, 2, 3; nothing forged, stale or repeated did.")
	}
}
