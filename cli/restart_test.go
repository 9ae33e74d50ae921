package cli

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

// restarting is an admin port that answers with what comes first, breaks every connection for a while, then answers with what comes last.
func restarting(t *testing.T, first, last string) (address string) {
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch calls.Add(1) {
		case 1:
			_, _ = w.Write([]byte(first))
		case 2, 3: // the client tries again once by itself
			panic(http.ErrAbortHandler)
		default:
			_, _ = w.Write([]byte(last))
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Who waits for an event or a replay does not care that the gateway restarts meanwhile.
func TestWaitsGoOnOverARestart(t *testing.T) {
	for name, c := range map[string]struct {
		args        []string
		first, last string
	}{
		"an event": {[]string{"events", "wait", "evt_1"}, `{"id":"x","state":"pending"}`, `{"id":"x","state":"delivered"}`},
		"a replay": {[]string{"replay", "evt_1"}, `{"result":"started","replay_id":"rp_1"}`, `{"id":"x","state":"replayed"}`},
		"many":     {[]string{"replay", "run", "--ids", "evt_1", "--yes"}, `{"id":"rp_1","state":"running","total":1}`, `{"id":"rp_1","state":"done","total":1,"replayed":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, said bytes.Buffer
			if code := Run(t.Context(), append(c.args, "--admin", restarting(t, c.first, c.last)), nil, &out, &said); code != exitOK {
				t.Errorf("exit %d\n%s%s", code, out.String(), said.String())
			}
		})
	}
}

// A gateway that never answered is not waited for.
func TestAGatewayThatIsNotThereIsNotWaitedFor(t *testing.T) {
	var said bytes.Buffer
	if code := Run(t.Context(), []string{"events", "wait", "evt_1", "--admin", "127.0.0.1:1"}, nil, &said, &said); code != exitUnreachable {
		t.Errorf("exit %d\n%s", code, said.String())
	}
}

// What was sent before the gateway went away, or before somebody pressed ^C, is told all the same.
func TestSendTellsWhatItSentBeforeItBroke(t *testing.T) {
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) > 2 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer s.Close()
	var out, said bytes.Buffer
	code := Run(t.Context(), []string{"send", "--provider", "custom", "--secret", "x", "--url", s.URL, "--id", "e", "--count", "4", "-o", "ndjson"}, nil, &out, &said)
	if n := bytes.Count(out.Bytes(), []byte(`"status":202`)); code != exitFailed || n != 2 || !bytes.Contains(said.Bytes(), []byte("e-3 could not be sent, and 1 after it")) {
		t.Errorf("exit %d, %d told\n%s%s", code, n, out.String(), said.String())
	}
}

// A gateway that takes the connection and says nothing (it is stopped, or another program listens there) is not waited for much longer than --timeout says.
func TestAGatewayThatSaysNothingIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var said bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	for _, args := range [][]string{{"events", "wait", "evt_1"}, {"events", "tail"}} {
		code := Run(ctx, append(args, "--timeout", "10ms", "--admin", l.Addr().String()), nil, &said, &said)
		if code != exitUnreachable || ctx.Err() != nil {
			t.Errorf("%s: exit %d, %v\n%s", args, code, ctx.Err(), said.String())
		}
	}
}

// A stream in which nothing happens is followed for as long as --timeout says, and that is all that was asked for.
func TestAQuietStreamIsNoFailure(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	var said bytes.Buffer
	if code := Run(t.Context(), []string{"events", "tail", "--timeout", "2s", "--admin", s.URL}, nil, &said, &said); code != exitOK {
		t.Errorf("exit %d\n%s", code, said.String())
	}
}

// What was discarded, or told to its sender, waits for nobody.
func TestDoctorNamesTheFailedEventsThatWait(t *testing.T) {
	g := admintest.Start(t, nil)
	g.Receive(t, "stripe", "evt_gone", func(r *event.Record) { r.State, r.Reason = event.Failed, event.Returned })
	doctor := func() string {
		var out bytes.Buffer
		Run(t.Context(), []string{"doctor", "--config", "none.yaml", "--admin", g.URL}, nil, &out, &out)
		return out.String()
	}
	if text := doctor(); !strings.Contains(text, "is ready") || strings.Contains(text, "events failed") {
		t.Errorf("one that was returned:\n%s", text)
	}
	g.Receive(t, "stripe", "evt_dead", admintest.Dead)
	if text := doctor(); !strings.Contains(text, "1 events failed and wait for you") {
		t.Errorf("a dead letter:\n%s", text)
	}
}
