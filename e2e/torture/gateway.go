package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

const secret = "torture-secret-0123456789abcdef"

// gateway is one `hooktender run` on files and ports that survive it.
type gateway struct {
	binary, dir   string
	data          string
	public, admin string
	env           []string // beside that of this process
	cmd           *exec.Cmd
	gone          chan struct{} // closed when the process has ended
	goneAt        time.Time
	client        *http.Client
}

// newGateway writes the configuration. data is the data_dir; journal the `journal:` block.
func newGateway(b *bench, data, journal, delivery, upstream string) (*gateway, error) {
	g := &gateway{binary: b.binary, dir: b.dir, data: data, client: &http.Client{Timeout: 20 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 128, DisableCompression: true}}}
	var err error
	if g.public, err = hooktest.FreeAddr(); err != nil {
		return nil, err
	}
	if g.admin, err = hooktest.FreeAddr(); err != nil {
		return nil, err
	}
	source := func(name, ordering string) string {
		return fmt.Sprintf(`  %[1]s:
    path: /%[1]s
    provider: custom
    secrets: [{env: TORTURE_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
    ordering: {policy: %[2]s}
    delivery: {%[3]s, upstream: app, retry: {base: 50ms, factor: 1, max_attempts: 100000, max_elapsed: 24h}}
    limits: {pending: 1000000}
`, name, ordering, delivery)
	}
	text := fmt.Sprintf("version: 1\nlisten: %q\nadmin: {listen: %q}\ndata_dir: %q\njournal: {%s, sync: %s}\nupstreams: {app: {url: \"http://%s\", timeout: 5s, max_in_flight: 64, breaker: {failures: 1000000}}}\nsources:\n%s%s",
		g.public, g.admin, data, journal, b.sync, upstream, source("s", "none"), source("o", "reject_stale"))
	return g, os.WriteFile(filepath.Join(g.dir, "hooktender.yaml"), []byte(text), 0o600)
}

// start starts the process and waits for nothing.
func (g *gateway) start() error {
	log, err := os.OpenFile(filepath.Join(g.dir, "stderr"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.binary, "run", "--config", filepath.Join(g.dir, "hooktender.yaml"), "--log-level", "warn")
	cmd.Env, cmd.Stderr = append(append(os.Environ(), "TORTURE_SECRET="+secret), g.env...), log
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	g.cmd, g.gone = cmd, gone
	go func() {
		_ = cmd.Wait()
		g.goneAt = time.Now()
		close(gone)
	}()
	return nil
}

// ready waits until the process takes events and says how long that took; an error if it ends first.
func (g *gateway) ready(within time.Duration) (time.Duration, error) {
	began := time.Now()
	for time.Since(began) < within {
		select {
		case <-g.gone:
			return 0, fmt.Errorf("the process ended by itself, %s:\n%s", g.ended(), g.stderr())
		default:
		}
		if g.status("/readyz") == 200 && g.alive() {
			return time.Since(began), nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, fmt.Errorf("not ready after %s:\n%s", within, g.stderr())
}

func (g *gateway) launch() (time.Duration, error) {
	if err := g.start(); err != nil {
		return 0, err
	}
	return g.ready(60 * time.Second)
}

// ended says how the process ended.
func (g *gateway) ended() string {
	s := g.cmd.ProcessState
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return "by signal " + ws.Signal().String()
	}
	return fmt.Sprint("with exit code ", s.ExitCode())
}

func (g *gateway) alive() bool {
	if g.cmd == nil {
		return false
	}
	select {
	case <-g.gone:
		return false
	default:
		return true
	}
}

// kill is SIGKILL, by pid, and waits until the process is gone.
func (g *gateway) kill() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		<-g.gone
		g.client.CloseIdleConnections()
	}
}

// terminate is SIGTERM, by pid; the process must end with 0.
func (g *gateway) terminate() error {
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-g.gone:
	case <-time.After(20 * time.Second):
		return errors.New("20 s after SIGTERM it still runs")
	}
	if how := g.ended(); how != "with exit code 0" {
		return errors.Join(fmt.Errorf("after SIGTERM it ended %s", how), g.panics(), errors.New(g.stderr()))
	}
	return nil
}

// stderr is the end of what the process wrote.
func (g *gateway) stderr() string {
	raw, _ := os.ReadFile(filepath.Join(g.dir, "stderr"))
	return string(raw[max(0, len(raw)-1000):])
}

// panics says what must never be in the log.
func (g *gateway) panics() error {
	raw, _ := os.ReadFile(filepath.Join(g.dir, "stderr"))
	for _, bad := range []string{"unexpected fault address", "panic:", "SIGBUS", "fatal error:", "goroutine 1 ["} {
		if i := strings.Index(string(raw), bad); i >= 0 {
			return fmt.Errorf("in the log: %.2500s", raw[i:])
		}
	}
	return nil
}

func (g *gateway) status(path string) int {
	resp, err := g.client.Get("http://" + g.admin + path)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (g *gateway) get(path string, into any) error {
	resp, err := g.client.Get("http://" + g.admin + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("GET %s: %d %s", path, resp.StatusCode, text)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// states lists the journal: "state/reason" by the sender's id. A zero time lists everything.
func (g *gateway) states(since time.Time) (map[string]string, error) {
	out := map[string]string{}
	q := url.Values{"limit": {"500"}, "order": {"asc"}}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	for {
		var page struct {
			Data []struct {
				EventID string  `json:"event_id"`
				State   string  `json:"state"`
				Reason  *string `json:"reason"`
			} `json:"data"`
			Next *string `json:"next_cursor"`
		}
		if err := g.get("/v1/events?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		for _, r := range page.Data {
			reason := ""
			if r.Reason != nil {
				reason = *r.Reason
			}
			if other, twice := out[r.EventID]; twice {
				return nil, fmt.Errorf("two records of %s: %s and %s/%s", r.EventID, other, r.State, reason)
			}
			out[r.EventID] = r.State + "/" + reason
		}
		if page.Next == nil || *page.Next == "" {
			return out, nil
		}
		q.Set("cursor", *page.Next)
	}
}

// has says whether there is a record of a sender's event id.
func (g *gateway) has(id string) bool { return g.status("/v1/events/"+url.PathEscape(id)) == 200 }

// pending is how many events wait.
func (g *gateway) pending() (int, error) {
	var page struct {
		Data []struct {
			Counts map[string]int `json:"counts"`
		} `json:"data"`
	}
	if err := g.get("/v1/sources", &page); err != nil {
		return 0, err
	}
	n := 0
	for _, s := range page.Data {
		n += s.Counts["pending"]
	}
	return n, nil
}

// drained waits until nothing is pending.
func (g *gateway) drained(within time.Duration) error {
	began := time.Now()
	for {
		n, err := g.pending()
		switch {
		case err != nil:
			return err
		case n == 0:
			return nil
		case time.Since(began) > within:
			return fmt.Errorf("%d events are still pending after %s", n, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
