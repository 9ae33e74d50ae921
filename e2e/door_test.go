package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

var (
	reloads = flag.Int("reloads", 12, "reloads of the configuration under load")
	stops   = flag.Int("stops", 2, "cycles of SIGTERM under load")
)

// A traffic sends signed events until it is stopped, each id once, and counts what its senders saw.
type traffic struct {
	sent, answered, failed, refused atomic.Int64
	mu                              sync.Mutex
	acked                           []string
	took                            []time.Duration
	why                             []string
	wg                              sync.WaitGroup
	stop                            chan struct{}
}

// load begins traffic of so many senders. A request that gets no answer is failed; whether a refused dial is one is up to the caller.
func load(g *gatewayProcess, path, prefix string, senders int) *traffic {
	return paced(g, path, prefix, senders, 0)
}

// paced is load whose senders pause after each answer.
func paced(g *gatewayProcess, path, prefix string, senders int, pause time.Duration) *traffic {
	tr := &traffic{stop: make(chan struct{})}
	for s := range senders {
		tr.wg.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-tr.stop:
					return
				case <-time.After(pause):
				}
				if !tr.one(client, g, path, fmt.Sprintf("%s-%d-%d", prefix, s, i)) {
					return
				}
			}
		})
	}
	return tr
}

func (tr *traffic) one(client *http.Client, g *gatewayProcess, path, id string) bool {
	r := hooktest.Custom(secret, hooktest.CustomBody(id, "t", "", ""), time.Now())
	req, err := http.NewRequest(http.MethodPost, "http://"+g.public+path, bytes.NewReader(r.Body))
	if err != nil {
		panic(err)
	}
	req.Header = r.Header
	req.GetBody = nil // net/http must not send it again by itself
	begin := time.Now()
	tr.sent.Add(1)
	resp, err := client.Do(req)
	if err != nil {
		if strings.Contains(err.Error(), "connection refused") {
			tr.refused.Add(1)
			return false
		}
		tr.fail(err.Error())
		return true
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	switch {
	case err != nil:
		tr.fail(err.Error())
	case resp.StatusCode/100 == 2:
		tr.answered.Add(1)
		tr.mu.Lock()
		tr.acked = append(tr.acked, id)
		tr.took = append(tr.took, time.Since(begin))
		tr.mu.Unlock()
	default:
		tr.fail(resp.Status)
	}
	return true
}

func (tr *traffic) fail(why string) {
	tr.failed.Add(1)
	tr.mu.Lock()
	tr.why = append(tr.why, why)
	tr.mu.Unlock()
}

// acknowledged are the ids that were answered with a success so far.
func (tr *traffic) acknowledged() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.acked)
}

// end stops the senders and waits for their last answers.
func (tr *traffic) end() {
	close(tr.stop)
	tr.wg.Wait()
}

// p99 of the answers since the last call.
func (tr *traffic) p99() time.Duration {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.took) == 0 {
		return 0
	}
	slices.Sort(tr.took)
	p := tr.took[len(tr.took)*99/100]
	tr.took = tr.took[:0]
	return p
}

// lost are the acknowledged events that never reached the consumer.
func lost(c *hooktest.Consumer, acked []string) (missing []string) {
	seen := map[string]bool{}
	for _, s := range c.Seen() {
		seen[s.Header.Get("Hooktender-Event-Id")] = true
	}
	for _, id := range acked {
		if !seen[id] {
			missing = append(missing, id)
		}
	}
	return missing
}

// Reloads of every kind under load: SIGHUP, the API, a changed file, a swapped link as in a ConfigMap; secrets rotate with overlap; an
// invalid file keeps the old one. Not one request fails.
func TestReloadUnderLoad(t *testing.T) {
	c, addr := consumer(t)
	g := startGateway(t, "upstreams: {app: {url: \"http://"+addr+"\"}}\nsources:\n"+source("s", "delivery: {mode: hybrid, upstream: app}"))
	path := filepath.Join(g.dir, "hooktender.yaml")
	original, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	link(t, path, original, 0)
	g.kill() // the file is a link from here on
	g.launch()
	tr := load(g, "/s", "r", 8)
	for i := range *reloads {
		text := variant(string(original), i)
		switch i % 5 {
		case 0:
			write(t, path, text)
			g.signal(syscall.SIGHUP)
		case 1:
			write(t, path, text)
			if status, body := g.order("/v1/config/reload"); status != 200 {
				t.Fatalf("reload %d: %d %s", i, status, body)
			}
		case 2:
			write(t, path, text)
		case 3:
			link(t, path, []byte(text), i)
		case 4:
			write(t, path, "version: 1\nnonsense: true\n")
			if status, _ := g.order("/v1/config/reload"); status != 422 {
				t.Fatalf("an invalid file: %d", status)
			}
			write(t, path, text)
		}
		time.Sleep(150 * time.Millisecond) // a watched file has to settle
	}
	g.await("enough requests", time.Minute, func() bool { return tr.answered.Load()+tr.failed.Load()+tr.refused.Load() >= 100 })
	tr.end()
	if tr.failed.Load()+tr.refused.Load() > 0 || tr.answered.Load() < 100 {
		t.Errorf("%d answered, %d failed, %d refused: %q", tr.answered.Load(), tr.failed.Load(), tr.refused.Load(), tr.why[:min(3, len(tr.why))])
	}
	if missing := lost(c, tr.acked); len(missing) > 0 {
		t.Errorf("%d acknowledged events never came, the first %s", len(missing), missing[0])
	}
	t.Logf("%d reloads, %d requests, p99 %s", *reloads, tr.answered.Load(), tr.p99())
}

// variant is the configuration with another secret beside the one in use, and other limits.
func variant(text string, i int) string {
	text = strings.Replace(text, "secrets: [{env: E2E_SECRET}]", fmt.Sprintf("secrets: [{value: rotated-secret-%08d}, {env: E2E_SECRET}]", i), 1)
	return strings.Replace(text, "upstream: app}", fmt.Sprintf("upstream: app, deadline: %ds}", 5+i%3), 1)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// link makes path lead to a new file, as a kubelet swaps a ConfigMap: by the rename of a link to a directory.
func link(t *testing.T, path string, text []byte, n int) {
	t.Helper()
	dir := filepath.Dir(path)
	fresh := "..v" + strconv.Itoa(n)
	if err := os.MkdirAll(filepath.Join(dir, fresh), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, fresh, filepath.Base(path)), string(text))
	swap := func(target, name string) {
		if err := os.Symlink(target, name+".tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			t.Fatal(err)
		}
	}
	swap(fresh, filepath.Join(dir, "..data"))
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink == 0 {
		swap("..data/"+filepath.Base(path), path)
	}
}

func (g *gatewayProcess) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// order posts an order without a body to the admin port.
func (g *gatewayProcess) order(path string) (int, string) {
	g.t.Helper()
	resp, err := g.client.Post("http://"+g.admin+path, "application/json", strings.NewReader("{}"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// SIGTERM under load, again and again on one journal: every request that was taken is answered, nothing acknowledged is lost, exit 0.
func TestSigtermUnderLoad(t *testing.T) {
	c, addr := consumer(t)
	c.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: 5 * time.Millisecond} })
	g := startGateway(t, "upstreams: {app: {url: \"http://"+addr+"\", timeout: 5s}}\nsources:\n"+source("s", "delivery: {mode: hybrid, upstream: app}"))
	var acked []string
	for cycle := range *stops {
		if cycle > 0 {
			g.launch()
		}
		tr := load(g, "/s", fmt.Sprintf("t%d", cycle), 16)
		time.Sleep(150*time.Millisecond + time.Duration(cycle%7)*20*time.Millisecond)
		g.signal(syscall.SIGTERM)
		err := g.cmd.Wait()
		g.cmd = nil
		tr.end()
		if err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		if tr.failed.Load() > 0 {
			t.Errorf("cycle %d: %d of %d requests failed: %q", cycle, tr.failed.Load(), tr.sent.Load(), tr.why[:min(3, len(tr.why))])
		}
		acked = append(acked, tr.acked...)
	}
	g.launch()
	for end := time.Now().Add(30 * time.Second); len(lost(c, acked)) > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if missing := lost(c, acked); len(missing) > 0 {
		t.Errorf("%d of %d acknowledged events never came, the first %s", len(missing), len(acked), missing[0])
	}
	t.Logf("%d cycles, %d acknowledged", *stops, len(acked))
}

// A second SIGTERM does not wait: exit 1 at once, although a request is under way.
func TestSecondSigterm(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	c.Plan(func(*hooktest.Seen, int) hooktest.Answer { return hooktest.Answer{Delay: time.Minute} })
	g := startGateway(t, "upstreams: {app: {url: \"http://"+addr+"\", timeout: 50s}}\nsources:\n"+source("s", "delivery: {mode: proxy, upstream: app}"))
	go func() {
		g.post(context.Background(), "/s", hooktest.Custom(secret, hooktest.CustomBody("e", "t", "", ""), time.Now()))
	}()
	g.await("a request is under way", 20*time.Second, func() bool { return len(c.Seen()) > 0 })
	g.signal(syscall.SIGTERM)
	g.await("the first SIGTERM is heard", 20*time.Second, func() bool { return g.call("GET", "/readyz", "").status == 503 }) // two that wait are one
	begin := time.Now()
	g.signal(syscall.SIGTERM)
	_ = g.cmd.Wait()
	if code, d := g.cmd.ProcessState.ExitCode(), time.Since(begin); code != 1 || d > 15*time.Second {
		t.Errorf("exit %d after %s", code, d)
	}
	g.cmd = nil
}

// Every raw request of the corpus ends as its verdict says, with the real binary between.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	cases, err := hooktest.ReadRawCases("../proxy/testdata/rawhttp")
	if err != nil {
		t.Fatal(err)
	}
	up, err := hooktest.NewRecorder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	g := prepareGateway(t, `sources:
  hook:
    path: /hook
    provider: none
    insecure: true
    identity: {id: "body:sha256"}
    dedup: {mode: observe}
    limits: {body: 1MiB}
    delivery: {mode: proxy, upstream: "http://`+up.Addr+`"}
`, "warn")
	text, err := os.ReadFile(g.file())
	if err != nil {
		t.Fatal(err)
	}
	g.write(g.file(), strings.Replace(string(text), "min_free: 64MiB", "min_free: 64MiB, sync: none", 1)) // this is about the wire, not the disk
	g.launch()
	for _, c := range cases {
		for _, wrong := range c.Run(g.public, up) {
			t.Errorf("%s: %s", c.File, wrong)
		}
	}
}

// A traceparent that is none is replaced, and what came with it goes; a good one travels on (W3C Trace Context).
func TestTraceparent(t *testing.T) {
	t.Parallel()
	c, addr := consumer(t)
	g := startGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app}")))
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for id, given := range map[string]string{"good": good, "none": "", "bad": "00-xyz-b7ad6b7169203331-01", "zeros": "00-00000000000000000000000000000000-b7ad6b7169203331-01"} {
		g.want(id, g.ask("/s", custom(id, "", ""), func(r *http.Request) {
			if r.Header.Set("Tracestate", "a=1"); given != "" {
				r.Header.Set("Traceparent", given)
			}
		}), 200, "delivered")
		h := c.Of("s", id)[0].Header
		passed := h.Get("Traceparent") == good && h.Get("Tracestate") == "a=1"
		begun := len(h.Get("Traceparent")) == len(good) && h.Get("Traceparent") != given && h.Get("Tracestate") == ""
		if id == "good" && !passed || id != "good" && !begun {
			t.Errorf("%s: the upstream got %q and %q", id, h.Values("Traceparent"), h.Values("Tracestate"))
		}
	}
}
