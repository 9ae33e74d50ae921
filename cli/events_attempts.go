package cli

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func eventsAttemptsCommand(e *env) *cobra.Command {
	var source string
	cmd := &cobra.Command{Use: "attempts <id>", Short: "List the attempts to deliver one event", Args: cobra.ExactArgs(1)}
	e.sourceFlag(cmd, &source)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var attempts []api.Attempt
		raw, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			attempts, err = c.Attempts(ctx, source, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return e.print(raw, func(w io.Writer) {
			t := e.table("N", "TRIGGER", "STARTED", "TOOK", "OUTCOME", "STATUS", "UPSTREAM", "ERROR")
			for _, a := range attempts {
				t.row(a.N, a.Trigger, e.ago(a.StartedAt), took(a.DurationMS), outcomeCell(string(a.Outcome)), number(a.StatusCode), a.Upstream, attemptError(a.Error))
			}
			t.writeTo(w)
		})
	}
	return cmd
}

func took(ms *int64) string {
	if ms == nil {
		return ""
	}
	return (time.Duration(*ms) * time.Millisecond).String()
}

func number(n api.Number) any {
	if n == 0 {
		return ""
	}
	return int(n)
}

func attemptError(err *api.Error) string {
	if err == nil {
		return ""
	}
	return err.Kind + ": " + err.Message
}

func outcomeCell(outcome string) cell {
	switch outcome {
	case "delivered":
		return cell{outcome, green}
	case "":
		return cell{"running", yellow}
	case "permanent", "unknown":
		return cell{outcome, red}
	}
	return cell{outcome, yellow}
}
