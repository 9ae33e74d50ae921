// Package e2e runs the real binary with real sockets: under load, kill -9 and bad input. Sizes are flags: small by default, large in .ci/run.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

var (
	kills = flag.Int("kills", 2, "cycles of SIGKILL under load, per delivery mode")
	ids   = flag.Int("ids", 20, "ids that 64 senders fight for")
)

const secret = "e2e-secret-0123456789abcdef"

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if name := os.Getenv(attackEnv); name != "" {
		os.Exit(attackMain(name, os.Getenv("E2E_TARGET")))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if binary = os.Getenv("HOOKTENDER_BIN"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "hooktender-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "hooktender")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", binary, "github.com/hooktender/hooktender")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	return m.Run()
}

// gatewayProcess is one `hooktender run` on files and ports that survive it.
type gatewayProcess struct {
	t             *testing.T
	dir           string
	public, admin string
	cmd           *exec.Cmd
	stderr        *os.File
	logLevel      string
	descriptors   int      // the most that it may have open; 0 = as many as the test
	extra         []string // arguments of the next launch
	client        *http.Client
}

// startGateway is prepareGateway and launch.
func startGateway(t *testing.T, sources string) *gatewayProcess {
	t.Helper()
	g := prepareGateway(t, sources, "warn")
	g.launch()
	return g
}

// prepareGateway writes the configuration.
func prepareGateway(t *testing.T, sources, logLevel string) *gatewayProcess {
	t.Helper()
	g := &gatewayProcess{t: t, logLevel: logLevel, dir: t.TempDir(), public: freeAddr(t), admin: freeAddr(t),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128}}}
	g.write(g.file(), g.text(sources))
	var err error
	if g.stderr, err = os.Create(filepath.Join(g.dir, "stderr")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.kill()
		g.client.CloseIdleConnections()
		_ = g.stderr.Close()
		if t.Failed() {
			raw, _ := os.ReadFile(g.stderr.Name())
			t.Logf("stderr:\n%s", raw[max(0, len(raw)-4000):])
		}
	})
	return g
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := hooktest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// launch starts the gateway and waits until it is ready.
func (g *gatewayProcess) launch() {
	g.t.Helper()
	g.begin()
	g.ready()
}

// begin starts the gateway.
func (g *gatewayProcess) begin() {
	g.t.Helper()
	g.cmd = exec.Command(binary, append([]string{"run", "--config", g.file(), "--log-level", g.logLevel}, g.extra...)...)
	if g.descriptors > 0 {
		g.cmd = exec.Command("sh", append([]string{"-c", fmt.Sprintf("ulimit -n %d && exec \"$@\"", g.descriptors), "sh"}, g.cmd.Args...)...)
	}
	g.cmd.Env = append(os.Environ(), "E2E_SECRET="+secret)
	g.cmd.Stderr = g.stderr
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
}

// ready waits until the gateway is ready.
func (g *gatewayProcess) ready() {
	g.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := g.client.Get("http://" + g.admin + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				return
			}
		}
	}
	raw, _ := os.ReadFile(g.stderr.Name())
	g.t.Fatalf("not ready:\n%s", raw)
}

// kill is SIGKILL, by pid, and waits until the process is gone.
func (g *gatewayProcess) kill() {
	if g.cmd != nil {
		_ = g.cmd.Process.Signal(syscall.SIGKILL)
		_ = g.cmd.Wait()
		g.cmd = nil
		g.client.CloseIdleConnections()
	}
}

// post sends a request and gives status and outcome; status 0 = no answer.
func (g *gatewayProcess) post(ctx context.Context, path string, r hooktest.Request) (status int, outcome string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.public+path, bytes.NewReader(r.Body))
	if err != nil {
		return 0, ""
	}
	req.Header = r.Header.Clone()
	resp, err := g.client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Hooktender-Outcome")
}

// record asks the admin port; nil = no record.
func (g *gatewayProcess) record(source, id string) map[string]any {
	resp, err := g.client.Get("http://" + g.admin + "/v1/events/" + url.PathEscape(id) + "?source=" + source)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var m map[string]any
	if resp.StatusCode != 200 || json.NewDecoder(resp.Body).Decode(&m) != nil {
		return nil
	}
	return m
}

// source is one source block that hooktest.Custom signs for.
func source(name, rest string) string {
	return fmt.Sprintf(`  %[1]s:
    path: /%[1]s
    provider: custom
    secrets: [{env: E2E_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource", version: "json:version"}
    %[2]s
`, name, rest)
}

func consumer(t *testing.T) (*hooktest.Consumer, string) {
	t.Helper()
	c := hooktest.NewConsumer()
	addr, err := c.Listen("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, addr
}
