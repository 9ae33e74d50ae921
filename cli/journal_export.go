package cli

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
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
		out, file := j.stdout, (*os.File)(nil)
		if to != "" && to != "-" {
			if file, err = os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
				return err
			}
			defer file.Close()
			out = file
		}
		buf := bufio.NewWriterSize(out, 1<<16)
		n, enc := 0, json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		show, clear := j.bar("reading")
		r, err := embedded.Export(cmd.Context(), o.Dir, o.Keys, show, func(x *embedded.Exported) error {
			clear()
			n++
			return enc.Encode(exportLine(x, hide))
		})
		clear()
		if err != nil {
			return journalError(err)
		}
		if err := buf.Flush(); err != nil {
			return err
		}
		if file != nil {
			if err := file.Sync(); err != nil {
				return err
			}
		}
		j.note("%d events written", n)
		if !r.Whole() {
			return fail(exitJournal, "the journal is damaged: %d events are missing; see %sthe-journal-is-damaged", r.MissingEvents, operations)
		}
		return nil
	}
	return cmd
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
