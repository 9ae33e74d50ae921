package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

func eventsPayloadCommand(e *env) *cobra.Command {
	var source string
	var raw bool
	cmd := &cobra.Command{Use: "payload <id>", Short: "Show the request of one event as it was received", Args: cobra.ExactArgs(1),
		Example: "  hooktender events payload evt_1 --raw > body.bin"}
	e.sourceFlag(cmd, &source)
	cmd.Flags().BoolVar(&raw, "raw", false, "only the body, byte for byte")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if raw {
			_, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error { return c.Body(ctx, source, args[0], e.stdout) })
			return err
		}
		var p api.Payload
		answer, err := e.call(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var err error
			p, err = c.Payload(ctx, source, args[0])
			return err
		})
		if err != nil {
			return err
		}
		return e.print(answer, func(w io.Writer) { e.showPayload(w, &p) })
	}
	return cmd
}

// showPayload writes a request like a request. The body is as received, unless a terminal would have to bear it.
func (e *env) showPayload(w io.Writer, p *api.Payload) {
	fmt.Fprintln(w, clean(p.Method), clean(p.Path))
	for _, h := range p.Headers {
		fmt.Fprintf(w, "%s: %s\n", clean(h[0]), clean(h[1]))
	}
	fmt.Fprintln(w)
	body := string(p.BodyBase64)
	if isTerminal(e.stdout) {
		body = cleanText(body)
	}
	fmt.Fprintln(w, body)
}
