package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/journal/embedded"
)

// exportedEvent is one line of an export.
type exportedEvent struct {
	ID           string            `json:"id"`
	EventID      string            `json:"event_id"`
	Source       string            `json:"source"`
	Type         string            `json:"type"`
	Resource     string            `json:"resource"`
	Version      string            `json:"version"`
	State        string            `json:"state"`
	Reason       string            `json:"reason"`
	ReceivedAt   api.Time          `json:"received_at"`
	DeliveredAt  api.Time          `json:"delivered_at"`
	AttemptCount int               `json:"attempt_count"`
	Duplicates   uint32            `json:"duplicates"`
	Conflicts    uint32            `json:"conflicts"`
	BodyBytes    int               `json:"body_bytes"`
	BodySHA256   string            `json:"body_sha256"`
	Attempts     []exportedAttempt `json:"attempts"`
	Payload      *api.Payload      `json:"payload"`
	PayloadError string            `json:"payload_error,omitempty"`
}

type exportedAttempt struct {
	N          int      `json:"n"`
	Trigger    string   `json:"trigger"`
	StartedAt  api.Time `json:"started_at"`
	DurationMS int64    `json:"duration_ms"`
	Outcome    string   `json:"outcome"`
	StatusCode int      `json:"status_code"`
	Error      string   `json:"error"`
	Upstream   string   `json:"upstream"`
}

func (j *journalFlags) export() *cobra.Command {
	var to string
	var secrets bool
	cmd := &cobra.Command{Use: "export", Short: "Write every event that can be read as NDJSON, also of a damaged journal", Args: cobra.NoArgs,
		Long: "Write every event that can be read, one JSON object a line with its attempts and payload, in the order received; also of a damaged journal and\n" +
			"beside a running gateway. It changes nothing. Values of headers that carry credentials are left out unless --secrets is given.\nExits 74, after everything is written, if something is damaged."}
	cmd.Flags().StringVar(&to, "to", "", "`file` to write (default, and -: stdout); it must not exist")
	cmd.Flags().BoolVar(&secrets, "secrets", false, "write the values of Authorization, Cookie and the like, too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := j.options()
		if err != nil {
			return err
		}
		hide := j.credential
		if secrets {
			hide = func(string) bool { return false }
		}
		var n int
		var r *embedded.Report
		write := func(out io.Writer) (err error) {
			n, r, err = j.exportTo(cmd.Context(), out, o, hide)
			return err
		}
		if to != "" && to != "-" {
			err = newFile(to, write)
		} else {
			err = write(j.stdout)
		}
		if err != nil {
			return err
		}
		j.note("%d events written", n)
		if !r.Whole() {
			return fail(exitJournal, "the journal is damaged: %d events are missing; see %sthe-journal-is-damaged", r.MissingEvents, operations)
		}
		return nil
	}
	return cmd
}

// exportTo writes the lines, and says how many.
func (j *journalFlags) exportTo(ctx context.Context, out io.Writer, o embedded.Options, hide func(header string) bool) (n int, r *embedded.Report, err error) {
	buf := bufio.NewWriterSize(out, 1<<16)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	show, clear := j.bar("reading")
	r, err = embedded.Export(ctx, o.Dir, o.Keys, show, func(x *embedded.Exported) error {
		clear()
		n++
		return enc.Encode(exportLine(x, hide))
	})
	clear()
	if err == nil {
		err = buf.Flush()
	}
	if err != nil {
		return n, r, journalError(err)
	}
	return n, r, nil
}

// newFile makes a file that must not exist yet; it is not left behind half written, where it would be in the way of the next try.
func newFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func exportLine(x *embedded.Exported, hide func(name string) bool) *exportedEvent {
	r := &x.Record
	e := &exportedEvent{ID: r.ID.String(), EventID: r.EventID, Source: r.Source, Type: r.Type, Resource: r.Resource, Version: r.Version,
		State: r.State.String(), Reason: r.Reason.String(), ReceivedAt: api.Time{Time: r.ReceivedAt}, DeliveredAt: api.Time{Time: r.DeliveredAt},
		AttemptCount: r.Attempts, Duplicates: r.Duplicates, Conflicts: r.Conflicts, BodyBytes: r.BodyBytes, BodySHA256: hex.EncodeToString(r.BodySHA256[:]),
		Attempts: []exportedAttempt{}}
	for _, a := range x.Attempts {
		e.Attempts = append(e.Attempts, exportedAttempt{N: a.N, Trigger: a.Trigger.String(), StartedAt: api.Time{Time: a.StartedAt},
			DurationMS: a.Duration.Milliseconds(), Outcome: a.Outcome.String(), StatusCode: a.Status, Error: a.ErrKind, Upstream: a.Upstream})
	}
	if x.Err != nil {
		e.PayloadError = x.Err.Error()
	}
	if p := x.Payload; p != nil {
		shown := admin.ShowPayload(p, hide)
		e.Payload = &shown
	}
	return e
}
