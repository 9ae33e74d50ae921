package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

var zoo = flag.Int("zoo", 1000, "deliveries to an upstream that misbehaves; the bar is 100,000")

// No event is credited with another's answer, or with one that was not whole, and each attempt is one wire request, whatever the upstream
// does on its connections.
func TestZoo(t *testing.T) {
	z := hooktest.NewZoo(7, 20*time.Second)
	addr, err := z.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Close)
	g := startGateway(t, "upstreams: {app: {url: \"http://"+addr+"\", timeout: 2s, breaker: {failures: 1000000}}}\nsources:\n"+source("s", "delivery: {mode: proxy, upstream: app}"))
	var next, delivered, wrong atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(*zoo) {
					return
				}
				id := fmt.Sprintf("zoo-%06d", i)
				status, outcome, body := g.exchange(t, "/s", id)
				ok := outcome == "delivered"
				if ok {
					delivered.Add(1)
				}
				if ok != (status/100 == 2) {
					wrong.Add(1)
					t.Errorf("%s: %d %s", id, status, outcome)
				}
				if why := z.Judge(id, ok, body); why != "" {
					wrong.Add(1)
					t.Error(why)
				}
			}
		})
	}
	wg.Wait()
	if n := delivered.Load(); n < int64(*zoo)*6/10 {
		t.Errorf("only %d of %d delivered", n, *zoo)
	}
	t.Logf("%d deliveries, %d delivered, %d wrong; %d requests in doubt", *zoo, delivered.Load(), wrong.Load(), z.Doubtful())
}

// exchange posts one event and gives the whole answer.
func (g *gatewayProcess) exchange(t *testing.T, path, id string) (status int, outcome, body string) {
	r := hooktest.Custom(secret, hooktest.CustomBody(id, "t", "", ""), time.Now())
	req, err := http.NewRequest(http.MethodPost, "http://"+g.public+path, bytes.NewReader(r.Body))
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	req.Header = r.Header
	resp, err := g.client.Do(req)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Hooktender-Outcome"), string(b)
}
