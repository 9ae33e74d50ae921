package cli

import "github.com/spf13/cobra"

func eventsCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "Look at what was received and what became of it", RunE: e.group}
	cmd.AddCommand(eventsListCommand(e), eventsGetCommand(e), eventsAttemptsCommand(e), eventsPayloadCommand(e), eventsWaitCommand(e), eventsTailCommand(e))
	return cmd
}
