package cli

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/memory"
)

// exitJournal ends a process whose journal failed or cannot be opened (EX_IOERR of sysexits.h).
const exitJournal = 74

func runCommand(e *env) *cobra.Command {
	var level string
	var acceptLoss bool
	cmd := &cobra.Command{Use: "run", Short: "Run the gateway", Args: cobra.NoArgs,
		Long: "Run the gateway until SIGTERM or SIGINT, which finishes what is under way; a second one ends at once with 1.\nSIGHUP reads the configuration again. Logs are JSON lines on stderr."}
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().BoolVar(&acceptLoss, "accept-loss", false, "start on a damaged journal with what can be read of it, and say how many events are missing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return usage("--log-level must be debug, info, warn or error, not %q", level)
		}
		e.stderr = logTo(e.stderr, e.now)
		return e.serve(cmd.Context(), acceptLoss, slog.New(slog.NewJSONHandler(e.stderr, &slog.HandlerOptions{Level: l})))
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
func (e *env) serve(ctx context.Context, acceptLoss bool, log *slog.Logger) error {
	signal.Ignore(syscall.SIGPIPE) // whoever reads the log may go: events are taken all the same
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
	options := gateway.Options{Log: log, Version: thisBuild().Version, Load: func() (*config.Config, error) {
		read.Store(config.Fingerprint(e.config))
		return config.Load(e.config, os.LookupEnv)
	}}
	around, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { memory.Keep(around, cfg.Journal.Memory) })
	g, err := gateway.New(cfg, options)
	if acceptLoss && errors.Is(err, journal.ErrDamaged) {
		log.Error("the journal is damaged; starting with what can be read of it, as --accept-loss says", "alarm", true, "error", err)
		if err = gateway.Salvage(ctx, cfg, log); err == nil {
			g, err = gateway.New(cfg, options)
		}
	}
	if err != nil {
		return startError(err)
	}
	debug.FreeOSMemory() // the log was looked through, which is done once
	work.Go(func() {
		e.reloads(around, g, log, hup, func() bool { return read.Load() == config.Fingerprint(e.config) })
	})
	err = g.Run(ctx)
	stop()
	if errors.Is(err, gateway.ErrJournal) {
		log.Error("the journal failed: nothing can be promised any more", "error", err)
		return failure(err)
	}
	work.Wait()
	return err
}

// failure says where to read what to do about a journal that failed while the gateway ran.
func failure(err error) error {
	section := "the-disk-fails"
	if errors.Is(err, journal.ErrDamaged) {
		section = "the-journal-is-damaged"
	}
	return fail(exitJournal, "%w\n  nothing was acknowledged after that; see %s%s", err, operations, section)
}

// startError says what refuses the start, and where to read what to do.
func startError(err error) error {
	if _, ok := errors.AsType[*gateway.OpenError](err); !ok {
		return err
	}
	return refusal(err)
}

// refusal says it of an error of the journal.
func refusal(err error) error {
	for _, r := range refusals {
		if errors.Is(err, r.is) {
			return fail(r.code, "%w\n  %s; see %s%s", err, r.what, operations, r.section)
		}
	}
	return fail(exitJournal, "%w", err)
}

// refusals are what a start can be refused with because of the journal; each has its section in docs/operations.md.
var refusals = [...]struct {
	is            error
	code          int
	what, section string
}{
	{journal.ErrLocked, exitFailed, "another gateway runs on this data_dir", "the-journal-is-in-use"},
	{journal.ErrDamaged, exitJournal, "nothing was changed; putting the file back suffices, or 'hooktender journal check' says what is left, and 'run --accept-loss' starts with it", "the-journal-is-damaged"},
	{journal.ErrKey, exitJournal, "nothing was changed", "the-journal-is-encrypted-with-another-key"},
	{journal.ErrFormat, exitJournal, "nothing was changed", "the-journal-has-a-newer-format"},
	{journal.ErrTmpfs, exitJournal, "nothing was changed", "the-directory-is-in-memory"},
	{syscall.ENOSPC, exitJournal, "the disk is full; nothing was changed", "the-disk-is-full"},
	{syscall.EDQUOT, exitJournal, "the disk is full for this user; nothing was changed", "the-disk-is-full"},
	{journal.ErrFull, exitJournal, "the disk is full; nothing was changed", "the-disk-is-full"},
	{syscall.EIO, exitJournal, "the disk fails; the journal was not opened", "the-disk-fails"},
	{journal.ErrFailed, exitJournal, "the disk fails; the journal was not opened", "the-disk-fails"},
	{syscall.EROFS, exitJournal, "nothing was changed", "the-directory-cannot-be-written"},
	{fs.ErrPermission, exitJournal, "nothing was changed", "the-directory-cannot-be-written"},
	{syscall.ENOTDIR, exitJournal, "there is a file where a directory should be", "the-directory-cannot-be-written"},
	{syscall.EEXIST, exitJournal, "there is something else where a directory should be", "the-directory-cannot-be-written"},
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
