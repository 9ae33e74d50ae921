package cli

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/hooktender/hooktender/cli/demo"
)

// demo plays the main job; a failed check exits 1.
func (e *env) demo(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE) // where nobody reads on (demo | head) its directory is removed all the same
	defer signal.Reset(syscall.SIGPIPE)
	err := demo.Run(ctx, e.stdout, e.stderr)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err() // whatever failed because of it
	case err != nil:
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}
