// Package cli is the command line: one binary, server and client. Data goes to stdout, everything else to stderr; every outcome has
// its exit code (exit.go). One file per command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Run executes one command line (args without the program's name) and returns the exit code of the process. It writes to nothing but
// stdout and stderr, and ends soon after ctx does.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := newEnv(stdin, stdout, stderr)
	root := rootCommand(e)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !e.started {
		err = &usageError{err: err}
	}
	e.report(cmd, err)
	return exitCode(err)
}

func rootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "hooktender",
		Short: "Makes webhooks authentic, once, in order and never lost",
		Long: "hooktender stands in front of a service that consumes webhooks. It verifies what comes in, drops duplicates, keeps the\n" +
			"order, retries what the service did not take, and remembers what became of every event.",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          e.group,
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error { return e.start(cmd, args) }
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err: err} })
	e.globalFlags(root)
	for _, make := range constructors {
		root.AddCommand(make(e))
	}
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args, cmd.RunE = nil, e.group
		case "help":
			cmd.Args = func(_ *cobra.Command, topic []string) error {
				if about, rest, err := root.Find(topic); err != nil || len(rest) > 0 && about.HasSubCommands() {
					return usage("unknown help topic %q", topic)
				}
				return nil
			}
		}
	}
	return root
}

// group is what a command does that only holds other commands: without arguments it prints its usage and exits 2.
func (e *env) group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(e.stderr)
		_ = cmd.Help() // to stderr, which may be closed
		return &exitError{code: exitUsage, err: errShown}
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return &usageError{err: errors.New(msg)}
}

// mutationFlags adds the flags of a mutation that neither asks nor needs a reason.
func mutationFlags(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, for the audit log")
	cmd.Flags().Bool("yes", false, "for scripts; nothing is asked anyway")
}

// report says on stderr what went wrong, and what can be done.
func (e *env) report(cmd *cobra.Command, err error) {
	if errors.Is(err, errShown) {
		return
	}
	fmt.Fprintln(e.stderr, e.paint(red, "error:"), explain(err))
	if _, ok := errors.AsType[*usageError](err); ok && cmd != nil {
		fmt.Fprintf(e.stderr, "See '%s --help'.\n", cmd.CommandPath())
	}
}
