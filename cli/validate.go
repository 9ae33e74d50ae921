package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/config"
)

// judged is what validate says in JSON.
type judged struct {
	Valid    bool             `json:"valid"`
	Problems []config.Problem `json:"problems"`
	Warnings []config.Problem `json:"warnings"`
}

func validateCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "validate [file]", Short: "Check the configuration: all faults at once, with their places", Args: cobra.MaximumNArgs(1),
		Long: "Check the configuration: all faults at once, each with file, line and column. Exits 3 if there are any; warnings are no faults."}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			e.config = args[0]
		}
		cfg, err := e.load()
		out := judged{Valid: err == nil, Problems: []config.Problem{}, Warnings: []config.Problem{}}
		if faults, ok := errors.AsType[*config.Errors](err); ok {
			out.Problems = append(out.Problems, faults.Problems...)
		} else if err != nil {
			return err
		}
		if cfg != nil {
			out.Warnings = append(out.Warnings, cfg.Warnings...)
		}
		if err := e.printValue(out, func(w io.Writer) {
			if cfg != nil {
				fmt.Fprintf(w, "%s is valid: %d sources, %d upstreams\n", e.config, len(cfg.Sources), len(cfg.Upstreams))
			}
		}); err != nil {
			return err
		}
		for _, w := range out.Warnings {
			e.note("%s %s", e.paint(yellow, "warning:"), w.Report())
		}
		return err
	}
	return cmd
}
