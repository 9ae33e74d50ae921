package cli

import (
	"context"
	"fmt"

	"github.com/hooktender/hooktender/cli/demo"
)

// demo plays the main job; a failed check exits 1.
func (e *env) demo(ctx context.Context) error {
	if err := demo.Run(ctx, e.stdout, e.stderr); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}
