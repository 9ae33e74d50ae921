package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/journal"
)

// exitJournal ends a process whose journal failed or cannot be opened (EX_IOERR of sysexits.h).
const exitJournal = 74

func runCommand(e *env) *cobra.Command {
	var level string
	cmd := &cobra.Command{Use: "run", Short: "Run the gateway", Args: cobra.NoArgs,
		Long: "Run the gateway until SIGTERM or SIGINT, which finishes what is under way; a second one ends at once with 1.\nSIGHUP reads the configuration again. Logs are JSON lines on stderr."}
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return usage("--log-level must be debug, info, warn or error, not %q", level)
		}
		return e.serve(cmd.Context(), slog.New(slog.NewJSONHandler(e.stderr, &slog.HandlerOptions{Level: l})))
	}
	return cmd
}

func demoCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "demo", Short: "Show the main job on loopback, without configuration, keys or network", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return e.demo(cmd.Context()) }
	return cmd
}

// load reads the configuration file; faults exit 3.
func (e *env) load() (*config.Config, error) {
	cfg, err := config.Load(e.config, os.LookupEnv)
	if err != nil {
		return nil, &exitError{code: exitConfig, err: err}
	}
	return cfg, nil
}

// serve runs the gateway with everything around it: warnings, SIGHUP, the watch of the file.
func (e *env) serve(ctx context.Context, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // from the first moment: unhandled, it would end the process
	defer signal.Stop(hup)
	var read atomic.Value // the fingerprint of the file as it was last read
	read.Store(config.Fingerprint(e.config))
	cfg, err := e.load()
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w.String())
	}
	g, err := gateway.New(cfg, gateway.Options{Log: log, Version: thisBuild().Version, Load: func() (*config.Config, error) {
		read.Store(config.Fingerprint(e.config))
		return config.Load(e.config, os.LookupEnv)
	}})
	if err != nil {
		return startError(err)
	}
	around, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		e.reloads(around, g, log, hup, func() bool { return read.Load() == config.Fingerprint(e.config) })
	})
	err = g.Run(ctx)
	stop()
	if errors.Is(err, gateway.ErrJournal) {
		log.Error("the journal failed: nothing can be promised any more", "error", err)
		return &exitError{code: exitJournal, err: err}
	}
	work.Wait()
	return err
}

// startError says what refuses the start and what to do.
func startError(err error) error {
	switch {
	case errors.Is(err, journal.ErrLocked):
		return err
	case errors.Is(err, journal.ErrDamaged):
		return fail(exitJournal, "%w\n  nothing was changed; restore the file from a copy and start again", err)
	case errors.Is(err, syscall.EIO), errors.Is(err, journal.ErrFailed):
		return fail(exitJournal, "%w\n  the disk fails; the journal was not opened", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, journal.ErrFull):
		return fail(exitJournal, "%w\n  the disk is full; nothing was changed", err)
	}
	return err
}

// reloads reads the configuration again on SIGHUP and when the file, or the link to it, changes, unless it was read since.
func (e *env) reloads(ctx context.Context, g *gateway.Gateway, log *slog.Logger, hup <-chan os.Signal, wasRead func() bool) {
	changed := make(chan struct{}, 1)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		err := config.Watch(ctx, e.config, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil && ctx.Err() == nil {
			log.Warn("the configuration file is not watched: send SIGHUP after a change", "error", err)
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		case <-changed:
			if wasRead() {
				continue
			}
		}
		_, _ = g.Reload(ctx) // it has logged what is wrong
	}
}
