package cli

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
)

// waitTimeout is how long waits take unless --timeout says otherwise; waitStep is the most that one call of the API waits, and
// waitGrace how long the answer behind it may take to come where --timeout is given.
const (
	waitTimeout = 60 * time.Second
	waitStep    = 30 * time.Second
	waitGrace   = 5 * time.Second
	replayStep  = time.Second // in place of waitStep where a decision ends the wait: the API waits on behind one
)

func eventsWaitCommand(e *env) *cobra.Command {
	var source, until string
	cmd := &cobra.Command{Use: "wait <id>", Short: "Wait until an event has come to its end, also one that was not received yet", Args: cobra.ExactArgs(1),
		Example: "  hooktender events wait evt_1 --until delivered --timeout 10s"}
	e.sourceFlag(cmd, &source)
	cmd.Flags().StringVar(&until, "until", "terminal", "terminal, or delivered")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if until != "terminal" && until != "delivered" {
			return usage("--until must be terminal or delivered, not %q", until)
		}
		ev, raw, err := e.wait(cmd.Context(), source, args[0], until == "delivered", "")
		if raw == nil {
			return err
		}
		show := func(w io.Writer) {
			if ev != nil {
				e.showEvent(w, ev)
			}
		}
		if printed := e.print(raw, show); printed != nil {
			return printed
		}
		return err
	}
	return cmd
}

// wait asks until the event has come to its end or time is up. It gives the record as it is, if there is one, also with an error; else what
// the API says of one that was not received. A gateway that has answered once may restart meanwhile. With replay, which the gateway has
// started, the wait also ends where that replay left the event waiting for a decision.
func (e *env) wait(ctx context.Context, source, id string, delivered bool, replay string) (*api.Event, []byte, error) {
	c, err := e.client()
	if err != nil {
		return nil, nil, err
	}
	left, grace := e.timeout, waitGrace
	if left == 0 {
		left, grace = waitTimeout, callTimeout
	}
	end := e.now().Add(left)
	answered, most := replay != "", waitStep
	if answered {
		most = replayStep
	}
	for {
		step := min(end.Sub(e.now()), most)
		var raw []byte
		call, cancel := context.WithTimeout(client.Capture(ctx, &raw), max(step, 0)+grace)
		ev, err := c.Event(call, source, id, client.Wait{For: max(step, time.Millisecond), Delivered: delivered})
		cancel()
		if err == nil && (ended(&ev, delivered) || undecided(&ev, replay)) {
			return &ev, raw, nil
		}
		switch {
		case err == nil || never(err) != nil:
			answered = true
		case !answered || !away(err) || !e.now().Before(end):
			return nil, nil, err
		default:
			e.note("the gateway does not answer; going on (%v)", err)
			if err := pause(ctx, min(reconnect, end.Sub(e.now()))); err != nil {
				return nil, nil, err
			}
			continue
		}
		if !e.now().Before(end) {
			if err != nil {
				return nil, never(err), fail(exitTimeout, "event %s: still not received after %s", id, left)
			}
			return &ev, raw, fail(exitTimeout, "event %s: still %s after %s", id, stateCell(&ev).text, left)
		}
	}
}

// away says that no gateway answers now, as while it restarts.
func away(err error) bool {
	if _, ok := errors.AsType[*client.Unreachable](err); ok {
		return true
	}
	p, ok := errors.AsType[*client.Problem](err)
	return ok && p.Status == http.StatusServiceUnavailable
}

// pause returns after d, or with ctx's error when that ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func ended(ev *api.Event, delivered bool) bool {
	if delivered {
		return ev.State == "delivered" || ev.State == "replayed"
	}
	return ev.State != "pending"
}

// undecided says that replay has ended without an outcome.
func undecided(ev *api.Event, replay string) bool {
	return replay != "" && string(ev.ReplayID) == replay && ev.Reason == "waiting_for_decision"
}
