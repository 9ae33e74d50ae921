package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/internal/admintest"
)

func dial(t *testing.T, address, token string) *client.Client {
	t.Helper()
	c, err := client.New(address, token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the admin port writes, the types read and write again to the byte: nothing is lost between them.
func TestEveryAnswerSurvivesTheTypes(t *testing.T) {
	g := admintest.Start(t, nil)
	g.Receive(t, "stripe", "evt_ok", nil)
	g.Receive(t, "stripe", "evt_dead", admintest.Dead)
	rec := g.Receive(t, "stripe", "evt_tried", admintest.Queued)
	g.Change(t, rec.ID, &event.Attempt{N: 1, Trigger: event.TriggerInitial, StartedAt: time.Now(), Outcome: event.OutcomeUnknown, ErrKind: "timeout", ErrText: "<slow>", Upstream: "app"},
		func(r *event.Record) { r.Attempts = 1 })
	c := dial(t, g.URL, "")
	for name, call := range map[string]func(context.Context) (any, error){
		"events":  func(ctx context.Context) (any, error) { return c.Events(ctx, client.Query{Limit: 2, Asc: true}) },
		"event":   func(ctx context.Context) (any, error) { return c.Event(ctx, "", "evt_ok", client.Wait{}) },
		"payload": func(ctx context.Context) (any, error) { return c.Payload(ctx, "stripe", "evt_ok") },
		"replay":  func(ctx context.Context) (any, error) { return c.Replay(ctx, "", "evt_ok", api.ReplayRequest{}) },
		"resolve": func(ctx context.Context) (any, error) { return c.Resolve(ctx, "", "evt_dead", "by hand") },
		"dry run": func(ctx context.Context) (any, error) {
			return c.StartReplay(ctx, api.ReplaySpec{Filter: &api.Filter{}, DryRun: true})
		},
		"start": func(ctx context.Context) (any, error) {
			return c.StartReplay(ctx, api.ReplaySpec{IDs: []string{"evt_ok"}})
		},
		"pause":       func(ctx context.Context) (any, error) { return c.Pause(ctx, "github", "") },
		"enroll":      func(ctx context.Context) (any, error) { return c.Enroll(ctx, "asana", api.EnrollRequest{}) },
		"resume":      func(ctx context.Context) (any, error) { return c.Resume(ctx, "github", "") },
		"whoami":      func(ctx context.Context) (any, error) { return c.Whoami(ctx) },
		"reload":      func(ctx context.Context) (any, error) { return c.Reload(ctx, "") },
		"sources":     listed(c.Sources),
		"upstreams":   listed(c.Upstreams),
		"replays":     listed(c.Replays),
		"checkpoints": listed(func(ctx context.Context) ([]api.Checkpoint, error) { return c.Checkpoints(ctx, "") }),
		"attempts":    listed(func(ctx context.Context) ([]api.Attempt, error) { return c.Attempts(ctx, "", "evt_tried") }),
	} {
		var raw []byte
		v, err := call(client.Capture(context.Background(), &raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := api.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(raw), string(again)); diff != "" {
			t.Errorf("%s: -sent +understood\n%s", name, diff)
		}
	}
}

// listed puts the answer back into the list it came in.
func listed[T any](call func(context.Context) ([]T, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		data, err := call(ctx)
		return api.Page[T]{Data: data}, err
	}
}

func TestErrorsHaveTypes(t *testing.T) {
	g := admintest.Start(t, func(o *admin.Options) {
		o.Tokens = []admin.Token{{Name: "reader", Hash: admin.HashToken([]byte("reader-token-0123456")), Scopes: []string{api.ScopeEventsRead, api.ScopeReplayWrite}}}
	})
	g.Receive(t, "stripe", "evt_1", nil)
	ctx := context.Background()
	if _, err := dial(t, g.URL, "").Sources(ctx); !is[*client.Unauthorized](err) {
		t.Errorf("no token: %v", err)
	}
	c := dial(t, g.URL, "reader-token-0123456")
	if _, err := c.Drain(ctx, ""); !is[*client.Unauthorized](err) {
		t.Errorf("no scope: %v", err)
	}
	_, err := c.Event(ctx, "", "evt_none", client.Wait{})
	if missing, ok := errors.AsType[*client.NotFound](err); !ok || missing.Problem.WasReceived != "no" || !is[*client.Problem](err) {
		t.Errorf("unknown id: %v", err)
	}
	_, err = c.Resolve(ctx, "", "evt_1", "x")
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != 409 || !json.Valid(p.Raw) {
		t.Errorf("no dead letter: %v", err)
	}
	if _, err := dial(t, "127.0.0.1:1", "").Sources(ctx); !is[*client.Unreachable](err) {
		t.Errorf("nobody there: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Sources(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up: %v", err)
	}
	for _, bad := range []string{"ftp://x", "http://", "http://a b"} {
		if _, err := client.New(bad, ""); err == nil {
			t.Errorf("%q was taken as an address", bad)
		}
	}
}

// What answers 404 for every path is no admin port, and knows nothing of an event: its sender must not take that for "never received".
func TestWhatIsNoGatewayIsSaidToBeNone(t *testing.T) {
	for kind, body := range map[string]string{
		"text/html":                "<h1>Not Found</h1>",
		"application/json":         `{"was_received":"no"}`,
		"application/problem+json": `{"type":"about:blank","title":"no such path","status":404}`, // the public port
	} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(body))
		}))
		defer other.Close()
		if _, err := dial(t, other.URL, "").Event(context.Background(), "", "evt_1", client.Wait{}); !is[*client.Unreachable](err) || is[*client.NotFound](err) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func TestWhatAnswersEverythingIsNotReady(t *testing.T) {
	for _, body := range []string{"ok", "{}", `{"status":"ok"}`} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		defer other.Close()
		if err := dial(t, other.URL, "").Ready(context.Background()); err == nil {
			t.Errorf("%q was taken for a gateway that takes events", body)
		}
	}
	if err := dial(t, admintest.Start(t, nil).URL, "").Ready(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestATokenDoesNotFollowARedirect(t *testing.T) {
	seen := make(chan string, 1)
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Authorization") }))
	defer thief.Close()
	lure := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer lure.Close()
	if _, err := dial(t, lure.URL, "secret-token").Sources(context.Background()); err == nil {
		t.Error("a redirect was followed")
	}
	select {
	case got := <-seen:
		t.Errorf("the other side got %q", got)
	default:
	}
}

func TestOddIdsReachTheirEvent(t *testing.T) {
	g := admintest.Start(t, nil)
	c := dial(t, g.URL, "")
	for _, id := range []string{"a/b", "..", ".", "100%", "x?y#z", "é ☃", "attempts"} {
		g.Receive(t, "stripe", id, nil)
		if e, err := c.Event(context.Background(), "stripe", id, client.Wait{}); err != nil || string(e.EventID) != id {
			t.Errorf("%q: %q %v", id, e.EventID, err)
		}
		var body bytes.Buffer
		if err := c.Body(context.Background(), "stripe", id, &body); err != nil || body.String() != "{}" {
			t.Errorf("%q: %q %v", id, body.String(), err)
		}
	}
}

func TestTheStreamIsReadAsItComes(t *testing.T) {
	g := admintest.Start(t, nil)
	c := dial(t, g.URL, "")
	rec := g.Receive(t, "stripe", "evt_1", admintest.Queued)
	for _, reason := range []event.Reason{event.Retrying, event.Held} {
		g.Change(t, rec.ID, nil, func(r *event.Record) { r.Reason = reason })
	}
	enough := errors.New("enough")
	var got []string
	err := c.Stream(context.Background(), "", "0", func(ch client.Change) error {
		got = append(got, ch.Cursor+" "+string(ch.Event.Reason))
		if len(got) == 2 {
			return enough
		}
		return nil
	})
	if diff := cmp.Diff([]string{"1 retrying", "2 held"}, got); diff != "" || err != enough {
		t.Errorf("%v %s", err, diff)
	}
	if err := c.Stream(context.Background(), "", "nonsense", nil); !is[*client.Problem](err) {
		t.Errorf("a bad cursor: %v", err)
	}
}

// A stream that breaks says where it goes on: before the first change too, and never past a change that was cut off.
func TestABrokenStreamSaysWhereItGoesOn(t *testing.T) {
	for sent, want := range map[string]string{
		"":                                      "3",
		": alive\n\n":                           "3",
		"id: 7\n\n: alive\n\n":                  "7",
		"id: 7\n\nevent: state\nid: 8\ndata: {": "7",
		"id: 7\n\nid: 8\ndata: {}\n\nid: 9":     "8",
		"id: 8\ndata: {}\n\n: alive\n\nid: 9\n": "8",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte(sent))
		}))
		err := dial(t, s.URL, "").Stream(t.Context(), "", "3", func(client.Change) error { return nil })
		s.Close()
		if u, ok := errors.AsType[*client.Unreachable](err); !ok || u.Cursor != want {
			t.Errorf("%q: %#v, want to go on after %s", sent, err, want)
		}
	}
}

// What answers everything with 200 is no stream that broke: its reader would come back for ever.
func TestWhatIsNoStreamIsNotTakenForABrokenOne(t *testing.T) {
	s := canned(http.StatusOK, "ok")
	defer s.Close()
	err := dial(t, s.URL, "").Stream(t.Context(), "", "3", func(client.Change) error { return nil })
	if err == nil || is[*client.Unreachable](err) {
		t.Errorf("%v", err)
	}
}

// A list of ids that has turned out empty selects nothing: it is refused, not left out of the request.
func TestAReplayOfNoIDsIsRefused(t *testing.T) {
	g := admintest.Start(t, nil)
	g.Receive(t, "stripe", "evt_dead", admintest.Dead)
	job, err := dial(t, g.URL, "").StartReplay(t.Context(), api.ReplaySpec{IDs: []string{}, Filter: &api.Filter{Source: "stripe"}})
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != http.StatusUnprocessableEntity {
		t.Errorf("%+v, %v", job, err)
	}
}

// A full disk is not the gateway's.
func TestABodyThatCannotBeWrittenIsNoFaultOfTheGateway(t *testing.T) {
	g := admintest.Start(t, nil)
	g.Receive(t, "stripe", "evt_1", nil)
	r, w := io.Pipe()
	_ = r.CloseWithError(io.ErrShortWrite) // never fails
	if err := dial(t, g.URL, "").Body(t.Context(), "", "evt_1", w); err != io.ErrShortWrite {
		t.Errorf("%v", err)
	}
}
