package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/journal"
	"github.com/hooktender/hooktender/journal/embedded"
)

// operations is where users read what to do.
const operations = "docs/operations.md#"

func journalCommand(e *env) *cobra.Command {
	j := &journalFlags{env: e}
	cmd := &cobra.Command{Use: "journal", Short: "Look after the journal's files: check, back up, restore, salvage, export", RunE: e.group,
		Long: "Look after the journal's files in data_dir. --data-dir names the directory where the configuration cannot be read;\nan encrypted journal then needs --key-file or --key-env."}
	f := cmd.PersistentFlags()
	f.StringVar(&j.dir, "data-dir", "", "the journal's `directory` (default: data_dir of the configuration)")
	f.StringArrayVar(&j.keyFiles, "key-file", nil, "`file` with an encryption key; may be repeated")
	f.StringArrayVar(&j.keyEnvs, "key-env", nil, "environment `variable` with an encryption key; may be repeated")
	cmd.AddCommand(j.check(), j.backup(), j.restore(), j.salvage(), j.export())
	return cmd
}

// journalFlags say which journal is meant.
type journalFlags struct {
	*env
	dir      string
	keyFiles []string
	keyEnvs  []string

	credential func(header string) bool // says which headers' values are not shown; set by options
}

// options are those of the engine, from the configuration or from flags.
func (j *journalFlags) options() (embedded.Options, error) {
	o := embedded.Options{Dir: j.dir, Sync: true, AllowTmpfs: true, Log: slog.New(slog.NewTextHandler(j.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	j.credential = event.Credential
	if j.dir == "" {
		cfg, err := j.load()
		if err != nil {
			return o, fmt.Errorf("%w\n  --data-dir names the journal without a configuration", err)
		}
		j.credential = cfg.Credential
		o.Dir, o.Memory, o.Retention = cfg.DataDir, cfg.Journal.Memory, cfg.Retention
		for _, k := range cfg.Journal.EncryptionKeys {
			o.Keys = append(o.Keys, k.Bytes())
		}
	}
	for _, name := range j.keyFiles {
		b, err := os.ReadFile(name)
		if err != nil {
			return o, err
		}
		o.Keys = append(o.Keys, []byte(strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")))
	}
	for _, name := range j.keyEnvs {
		v, ok := os.LookupEnv(name)
		if !ok {
			return o, usage("--key-env: %s is not set", name)
		}
		o.Keys = append(o.Keys, []byte(v))
	}
	return o, nil
}

// bar shows how many bytes are done.
func (j *journalFlags) bar(what string) (show func(done, total int64), clear func()) {
	var p *progress
	return func(done, total int64) {
			if p == nil {
				p = j.progress(what, total)
			}
			p.set(done, "bytes")
		}, func() {
			if p != nil {
				p.clear()
			}
		}
}

func (j *journalFlags) check() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Read the whole log and say what is damaged; changes nothing", Args: cobra.NoArgs,
		Long: "Read the whole log and say what is damaged. It changes nothing, and may run beside a gateway. Exits 74 if something is damaged."}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := j.options()
		if err != nil {
			return err
		}
		show, clear := j.bar("checking")
		r, err := embedded.Check(cmd.Context(), o.Dir, o.Keys, show)
		clear()
		if err != nil {
			return journalError(err)
		}
		if err := j.printValue(r, func(w io.Writer) { j.showReport(w, r) }); err != nil {
			return err
		}
		if !r.Whole() {
			return fail(exitJournal, "the journal is damaged; see %sthe-journal-is-damaged", operations)
		}
		return nil
	}
	return cmd
}

func (j *journalFlags) showReport(w io.Writer, r *embedded.Report) {
	verdict := j.paint(green, "whole")
	if !r.Whole() {
		verdict = j.paint(red, "damaged")
	}
	fmt.Fprintf(w, "%s is %s: %d segments, %d bytes, %d changes, %d events accepted in them\n", r.Dir, verdict, r.Segments, r.Bytes, r.Changes, r.Events)
	if r.InUse {
		fmt.Fprintln(w, "a gateway is running on it; what it has written since was not looked at")
	}
	if len(r.Damage) == 0 {
		return
	}
	t := j.table("FILE", "BYTE", "WHAT")
	for _, d := range r.Damage {
		t.row(d.File, fmt.Sprint(d.Offset), d.What)
	}
	t.writeTo(w)
	fmt.Fprintf(w, "%d events are missing, %d changes are lost, %d payloads are damaged\n", r.MissingEvents, r.MissingChanges, r.DamagedPayloads)
	showOlder(w, r)
}

// showOlder says where the number of missing events is not all that may be missing.
func showOlder(w io.Writer, r *embedded.Report) {
	if r.OlderMayBeMissing {
		fmt.Fprintln(w, "events from before the oldest part of the log may be missing, too: what is left of them is carried along in it, and nobody can count what is lost")
	}
}

func (j *journalFlags) backup() *cobra.Command {
	cmd := &cobra.Command{Use: "backup <directory>", Short: "Copy the journal, also of a running gateway, to a new directory", Args: cobra.ExactArgs(1),
		Long: "Copy the journal to a new directory, as it was on the disk at one moment; the gateway may run meanwhile. Every record is checked on the way.\nAn encrypted journal stays encrypted."}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := j.options()
		if err != nil {
			return err
		}
		show, clear := j.bar("backing up")
		r, err := embedded.Backup(cmd.Context(), o.Dir, args[0], show)
		clear()
		if err != nil {
			return journalError(err)
		}
		enrolled := gateway.Enrolled(o.Dir)
		if _, err := os.Stat(enrolled); err == nil {
			j.note("the secrets in %s, which senders delivered, are not in it: keep a copy of that directory with your other secrets", enrolled)
		}
		return j.printValue(r, func(w io.Writer) {
			fmt.Fprintf(w, "%s holds %d segments, %d bytes, %d changes\n", args[0], r.Segments, r.Bytes, r.Changes)
		})
	}
	return cmd
}

func (j *journalFlags) restore() *cobra.Command {
	cmd := &cobra.Command{Use: "restore <directory>", Short: "Make the journal from a backup; data_dir must be empty or absent", Args: cobra.ExactArgs(1),
		Long: "Make the journal from a backup; data_dir must be empty (but for lost+found) or absent. What root makes is given to the owner of data_dir,\nor of the directory above it."}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := j.options()
		if err != nil {
			return err
		}
		show, clear := j.bar("restoring")
		owner := ownerOf(o.Dir)
		r, err := embedded.Restore(cmd.Context(), args[0], o.Dir, show)
		clear()
		if err == nil {
			err = handOver(o.Dir, owner)
		}
		if err != nil {
			return journalError(err)
		}
		return j.printValue(r, func(w io.Writer) {
			fmt.Fprintf(w, "%s holds %d segments, %d bytes, %d changes; the next start makes the index\n", o.Dir, r.Segments, r.Bytes, r.Changes)
		})
	}
	return cmd
}

func (j *journalFlags) salvage() *cobra.Command {
	var to string
	cmd := &cobra.Command{Use: "salvage", Short: "Make a damaged journal usable with what can be read of it; keeps the damaged files", Args: cobra.NoArgs,
		Long: "Make a damaged journal usable with everything that can be read of it, and say how many events are missing. The damaged files are kept in\n" +
			"data_dir/damaged-<time>. An event without its bytes becomes failed/corrupt and is never forwarded; one that may have been\ndelivered before is marked. 'run --accept-loss' does the same and starts."}
	cmd.Flags().StringVar(&to, "to", "", "make the usable journal in this new `directory`, and leave the damaged one as it is")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := j.options()
		if err != nil {
			return err
		}
		show, clear := j.bar("salvaging")
		owner := ownerOf(o.Dir)
		r, err := embedded.Salvage(cmd.Context(), o, to, show)
		clear()
		if err == nil {
			err = handOver(o.Dir, owner)
		}
		if err == nil && to != "" && !r.Whole() {
			err = handOver(to, owner)
		}
		if err != nil {
			return journalError(err)
		}
		return j.printValue(r, func(w io.Writer) { j.showSalvage(w, r, to) })
	}
	return cmd
}

func (j *journalFlags) showSalvage(w io.Writer, r *embedded.Report, to string) {
	if r.Whole() {
		fmt.Fprintf(w, "%s is whole: nothing was changed\n", r.Dir)
		return
	}
	fmt.Fprintf(w, "%d events are missing, %d changes are lost; %d pending events are corrupt and will not be forwarded, %d may have been delivered before and are marked\n",
		r.MissingEvents, r.MissingChanges, r.Corrupt, r.Doubtful)
	showOlder(w, r)
	switch {
	case to != "":
		fmt.Fprintf(w, "the usable journal is in %s\n", to)
	default:
		fmt.Fprintf(w, "the damaged files are kept in %s\n", r.Kept)
	}
}

// journalError gives an error of a journal's files its exit code, and says where to read on.
func journalError(err error) error {
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, journal.ErrDamaged):
		return fail(exitNotFound, "%w", err)
	}
	return refusal(err)
}
