package cli

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/client"
)

// env is what commands share: where to read and write, the global flags, and the clock.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	config  string        // --config
	admin   string        // --admin
	token   string        // --token
	output  string        // --output: table, json or ndjson
	timeout time.Duration // --timeout; 0 = the command's own

	started bool // a command runs: errors from here on are not about usage
	now     func() time.Time
}

// callTimeout is how long a call may take that has nothing to wait for.
const callTimeout = 30 * time.Second

// selectTimeout is how long a call may take that walks over all events of a selection before it answers.
const selectTimeout = 5 * time.Minute

func newEnv(stdin io.Reader, stdout, stderr io.Writer) *env {
	return &env{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
}

func (e *env) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&e.config, "config", "hooktender.yaml", "configuration `file`")
	f.StringVar(&e.admin, "admin", "", "`address` of the admin port (default $HOOKTENDER_ADMIN, else "+client.DefaultAddress+")")
	f.StringVar(&e.token, "token", "", "bearer `token` of the admin port (default $HOOKTENDER_TOKEN)")
	f.StringVarP(&e.output, "output", "o", "table", "table, json or ndjson")
	f.DurationVar(&e.timeout, "timeout", 0, "how long to wait for an answer or an end (default 30s, waits 60s, bulk work no limit)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "ndjson"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

// start is called when flags and arguments are understood.
func (e *env) start(cmd *cobra.Command, args []string) error {
	switch e.output {
	case "table", "json", "ndjson":
	default:
		return usage("--output must be table, json or ndjson, not %q", e.output)
	}
	if e.timeout < 0 {
		return usage("--timeout must not be negative")
	}
	for i, a := range args {
		if a == "" && !cmd.DisableFlagParsing { // not what a shell completes; a variable that is not set: "not found" would say something of an event
			return usage("argument %d is empty", i+1)
		}
	}
	e.started = true
	return nil
}

// client makes a client of the admin port that flags or the environment name.
func (e *env) client() (*client.Client, error) {
	address, token := e.admin, e.token
	if address == "" {
		address = os.Getenv("HOOKTENDER_ADMIN")
	}
	if token == "" {
		token = os.Getenv("HOOKTENDER_TOKEN")
	}
	c, err := client.New(address, token)
	if err != nil {
		return nil, &usageError{err: err}
	}
	return c, nil
}

// limited bounds ctx by --timeout, or by what the command takes if that is not given; 0 = no bound.
func (e *env) limited(ctx context.Context, own time.Duration) (context.Context, context.CancelFunc) {
	if e.timeout > 0 {
		own = e.timeout
	}
	if own == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, own)
}

// call makes one call of the admin port and gives the bytes of its answer.
//
//go:noinline // many callers, none in a hurry
func (e *env) call(ctx context.Context, do func(context.Context, *client.Client) error) ([]byte, error) {
	return e.callFor(ctx, callTimeout, do)
}

func (e *env) callFor(ctx context.Context, own time.Duration, do func(context.Context, *client.Client) error) ([]byte, error) {
	c, err := e.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := e.limited(ctx, own)
	defer cancel()
	var raw []byte
	if err := do(client.Capture(ctx, &raw), c); err != nil {
		return nil, err
	}
	return raw, nil
}
