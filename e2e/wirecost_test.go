package e2e

import (
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var profiled = flag.Int("profiled", 2, "seconds of load that are profiled for the cost of the wire checks")

// The strict checks of the wire cost at most 6 % of the CPU that a request takes without them: their share of the real binary's profile
// under load, senders one by one and in chunks.
func TestWireChecksAreCheap(t *testing.T) {
	_, addr := consumer(t)
	g := prepareGateway(t, "upstreams: {app: {url: \"http://"+addr+"\"}}\nsources:\n"+source("s", "delivery: {mode: hybrid, upstream: app}"), "warn")
	text, err := os.ReadFile(g.file())
	if err != nil {
		t.Fatal(err)
	}
	g.write(g.file(), strings.Replace(string(text), "admin: {", "admin: {debug: true, ", 1))
	g.launch()
	tr := load(g, "/s", "w", 32)
	defer tr.end()
	share := 0.0
	for range 3 { // a profile has few samples
		if share = g.wireShare(t); share <= 6 {
			break
		}
	}
	t.Logf("the checks take %.1f %% of the CPU that the rest takes", share)
	if share > 6 {
		t.Errorf("the wire checks cost %.1f %%, want at most 6", share)
	}
}

// wireShare takes a profile, and gives the time of the checks in per cent of the time of all else.
func (g *gatewayProcess) wireShare(t *testing.T) float64 {
	t.Helper()
	resp, err := g.client.Get("http://" + g.admin + "/debug/pprof/profile?seconds=" + strconv.Itoa(*profiled))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %.100s %v", resp.StatusCode, raw, err)
	}
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "tool", "pprof", "-top", "-cum", "-nodefraction=0", "-nodecount=100000", file).CombinedOutput()
	if err != nil {
		t.Skipf("no pprof: %v %s", err, out)
	}
	checks, seen := 0.0, false
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // flat flat% sum% cum cum% name
		if len(f) < 6 {
			continue
		}
		cum, err := strconv.ParseFloat(strings.TrimSuffix(f[4], "%"), 64)
		seen = seen || err == nil && strings.HasSuffix(f[5], "proxy.(*Server).serve")
		if err == nil && (strings.HasSuffix(f[5], "proxy.(*wireHead).parse") || strings.HasSuffix(f[5], "proxy.(*chunker).feed")) {
			checks += cum
		}
	}
	if !seen {
		t.Fatalf("the profile shows no server:\n%.2000s", out)
	}
	return 100 * checks / (100 - checks)
}
