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
	fast := strings.Replace(string(text), "min_free: 64MiB", "min_free: 64MiB, sync: none", 1) // or there is little to see where the disk is slow
	g.write(g.file(), strings.Replace(fast, "admin: {", "admin: {debug: true, ", 1))
	g.launch()
	tr := load(g, "/s", "w", 32)
	defer tr.end()
	share, profiles := 0.0, []string(nil)
	for range 3 { // a profile has few samples
		profiles = append(profiles, g.profile(t))
		if share = wireShare(t, profiles); share <= 6 {
			break
		}
	}
	t.Logf("the checks take %.1f %% of the CPU that the rest takes", share)
	if share > 6 {
		t.Errorf("the wire checks cost %.1f %%, want at most 6", share)
	}
}

// profile takes a profile and gives its file.
func (g *gatewayProcess) profile(t *testing.T) string {
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
	return file
}

// wireShare gives the time of the checks in per cent of the time of all else, of all the profiles.
func wireShare(t *testing.T, profiles []string) float64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"tool", "pprof", "-top", "-cum", "-nodefraction=0", "-nodecount=100000"}, profiles...)...).CombinedOutput()
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
