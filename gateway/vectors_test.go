package gateway_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/hooktest"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
)

// -corpus sends all of it: a vector whose path many others have needs a gateway of its own.
var corpus = flag.Bool("corpus", false, "send every vector through a gateway, not only the first two of each path")

// A corpus vector, sent to a whole gateway: its source, its bytes, and when.
type sent struct {
	provider.Vector
	source string // YAML
	path   string
	base   string // public_url
}

// asSource writes the source that the vector is meant for: the preset, secrets and keys, and nothing else but what the preset asks for.
func asSource(v *provider.Vector) (s sent, err error) {
	u, err := url.Parse(v.URL)
	if err != nil {
		return s, err
	}
	quote := func(x any) string { b, _ := json.Marshal(x); return string(b) }
	var keys []string
	if v.PublicKey != "" {
		keys = append(keys, v.PublicKey)
	}
	for _, raw := range v.RemoteKeys { // what the sender publishes, pinned
		var pem string
		if json.Unmarshal(raw, &pem) != nil {
			pem = string(raw)
		}
		keys = append(keys, pem)
	}
	secrets := []any{}
	for _, x := range v.Secrets {
		secrets = append(secrets, map[string]string{"value": x})
	}
	params, more, base := map[string]string{}, "", u.Scheme+"://"+u.Host
	for k, x := range v.Config {
		if text, ok := x.(string); ok {
			params[k] = text
		}
	}
	if p := params["public_url"]; p != "" {
		base = p
		delete(params, "public_url")
	}
	if v.Provider == "rfc9421" {
		more = fmt.Sprintf("    verify: {components: %s, algorithm: %q, key_id: %q}\n", quote(v.Config["required"]), params["alg"], params["keyid"])
		params = nil
	}
	text := fmt.Sprintf("  s:\n    path: %q\n    methods: [%s]\n    provider: %s\n    secrets: %s\n    public_keys: %s\n    handshake: %s\n%s    upstream: app\n",
		cmp.Or(u.EscapedPath(), "/"), v.Method, v.Provider, quote(secrets), quote(keys), quote(params), more)
	return sent{Vector: *v, source: text, path: cmp.Or(u.EscapedPath(), "/"), base: base}, nil
}

// raw is the request on the wire.
func (s *sent) raw(t *testing.T) []byte {
	req, err := s.Request()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nConnection: close\r\n", req.Method, req.Target)
	if _, n := req.Head.Get("Host"); n == 0 {
		fmt.Fprintf(&b, "Host: %s\r\n", req.Host)
	}
	if _, n := req.Head.Get("Content-Length"); n == 0 && (len(req.Body) > 0 || req.Method == "POST") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(req.Body))
	}
	b.Write(req.Head)
	b.WriteString("\r\n")
	b.Write(req.Body)
	return b.Bytes()
}

// send gives the answer to raw bytes on a connection of their own.
func send(b *hooktest.Bubble, raw []byte) (*http.Response, string, error) {
	return sendFor(b, http.MethodPost, raw)
}

// sendFor is send for a request of any method: the answer to HEAD has no body.
func sendFor(b *hooktest.Bubble, method string, raw []byte) (*http.Response, string, error) {
	c, err := b.Net.Dial(context.Background(), "tcp", hooktest.PublicAddr)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	go func() { _, _ = c.Write(raw) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// identified says whether the request carries the id that its preset looks for; the corpus is about signatures, and leaves it out at times.
func (s *sent) identified(t *testing.T) bool {
	p, _ := provider.Get(s.Provider)
	id, err := selector.CompileIdentity(p.Identity)
	if err != nil {
		t.Fatal(err)
	}
	req, err := s.Request()
	if err != nil {
		t.Fatal(err)
	}
	_, err = id.Extract(req, nil)
	return err == nil
}

// The whole corpus goes through a whole gateway: what is valid is delivered once and then a duplicate, what is not never reaches the
// consumer. Every preset is used as `provider: name` and secrets, and nothing else.
func TestEveryVectorThroughTheGateway(t *testing.T) {
	var list []provider.Vector
	for _, name := range []string{"vectors", "more", "negatives"} {
		list = append(list, readCorpus[provider.Vector](t, "../verify/testdata/"+name+".json")...)
	}
	type round struct {
		base string
		now  int64
		n    int // vectors on one path go into rounds of their own
	}
	rounds, taken, refused := map[round][]sent{}, map[string]int{}, 0
	for i := range list {
		s, err := asSource(&list[i])
		if err != nil {
			t.Fatal(err)
		}
		_, err = config.Parse("v.yaml", []byte("version: 1\npublic_url: "+s.base+"\nupstreams: {app: {url: \"http://127.0.0.1:3000\"}}\nsources:\n"+s.source), env)
		if err != nil {
			if s.Expect == "valid" {
				t.Errorf("%s/%s is refused at load: %v", s.Provider, s.Name, err)
			}
			refused++
			continue
		}
		k := fmt.Sprint(s.base, s.Now, s.path)
		r := round{s.base, s.Now, taken[k]}
		if taken[k]++; r.n >= 2 && !*corpus {
			continue
		}
		rounds[r] = append(rounds[r], s)
	}
	keys := make([]round, 0, len(rounds))
	for r := range rounds {
		keys = append(keys, r)
	}
	slices.SortFunc(keys, func(a, b round) int {
		return cmp.Or(cmp.Compare(a.now, b.now), cmp.Compare(a.base, b.base), cmp.Compare(a.n, b.n))
	})
	var delivered, bare atomic.Int32
	t.Run("rounds", func(t *testing.T) {
		for _, r := range keys {
			t.Run(fmt.Sprintf("%s at %d, %d", r.base, r.now, r.n), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { judgeRound(t, r.base, r.now, rounds[r], &delivered, &bare) })
			})
		}
	})
	t.Logf("%d vectors: %d delivered, %d without the preset's id, %d refused at load, the rest on arrival", len(list), delivered.Load(), bare.Load(), refused)
	if delivered.Load() < 120 {
		t.Errorf("only %d were delivered", delivered.Load())
	}
}

// judgeRound sends vectors of different paths to one gateway, as of one time.
func judgeRound(t *testing.T, base string, now int64, list []sent, delivered, bare *atomic.Int32) {
	if now > time.Now().Unix() {
		time.Sleep(time.Until(time.Unix(now, 0)))
	}
	var sources strings.Builder
	for i := range list {
		sources.WriteString(strings.Replace(list[i].source, "  s:\n", fmt.Sprintf("  s%d:\n", i), 1))
	}
	b, err := hooktest.NewBubble(t.TempDir(), "public_url: "+base+"\nupstreams: {app: {url: \"http://127.0.0.1:3000\"}}\nsources:\n"+sources.String(), env)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Up(); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		judge(t, b, &list[i], delivered, bare)
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.Down()
}

func judge(t *testing.T, b *hooktest.Bubble, s *sent, delivered, bare *atomic.Int32) {
	before := len(b.Consumer.Seen())
	resp, _, err := send(b, s.raw(t))
	if err != nil {
		t.Errorf("%s/%s: %v", s.Provider, s.Name, err)
		return
	}
	came, outcome := len(b.Consumer.Seen())-before, resp.Header.Get("Hooktender-Outcome")
	switch {
	case s.Name == "unknown-kid" || s.Name == "expired-key": // the key is pinned here: what a request calls it does not matter
	case s.Expect != "valid":
		if came != 0 || resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s/%s (%s): %d %s, the consumer saw %d", s.Provider, s.Name, s.Why, resp.StatusCode, outcome, came)
		}
	case s.Provider+"/"+s.Name == "aws-sns/subscription-confirmation", s.Provider+"/"+s.Name == "twitch/official-sdk": // challenges
		if came != 0 || resp.StatusCode != 200 {
			t.Errorf("%s/%s: %d, the consumer saw %d", s.Provider, s.Name, resp.StatusCode, came)
		}
	case !s.identified(t):
		if bare.Add(1); came != 0 || resp.StatusCode != 422 || outcome != "unidentified" {
			t.Errorf("%s/%s without an id: %d %s", s.Provider, s.Name, resp.StatusCode, outcome)
		}
	case came != 1 || resp.StatusCode != 200 || outcome != "delivered":
		t.Errorf("%s/%s: %d %s, the consumer saw %d", s.Provider, s.Name, resp.StatusCode, outcome, came)
	default:
		delivered.Add(1)
		p, _ := provider.Get(s.Provider)
		want := s.Provider + ";binds=" + string(p.Binds())
		if got := b.Consumer.Seen()[before].Header.Get("Hooktender-Verified"); got != want && s.Provider != "rfc9421" { // its vectors choose what is covered
			t.Errorf("%s/%s: Hooktender-Verified is %q, want %q", s.Provider, s.Name, got, want)
		}
		again(t, b, s, &p)
	}
}

// again sends the same once more: a duplicate, answered as the sender wants it.
func again(t *testing.T, b *hooktest.Bubble, s *sent, p *provider.Preset) {
	before := len(b.Consumer.Seen())
	resp, body, err := send(b, s.raw(t))
	if err != nil {
		t.Error(err)
		return
	}
	came, outcome := len(b.Consumer.Seen())-before, resp.Header.Get("Hooktender-Outcome")
	if p.Dedup == "observe" {
		if came != 1 || outcome != "delivered" {
			t.Errorf("%s/%s again: %d %s, the consumer saw %d", s.Provider, s.Name, resp.StatusCode, outcome, came)
		}
		return
	}
	want := p.Responses.Duplicate
	if came != 0 || outcome != "duplicate" || resp.StatusCode != cmp.Or(want.Status, 200) || body != want.Body || resp.Header.Get("Content-Type") != want.ContentType {
		t.Errorf("%s/%s again: %d %s %q %q, the consumer saw %d", s.Provider, s.Name, resp.StatusCode, outcome, resp.Header.Get("Content-Type"), body, came)
	}
}
