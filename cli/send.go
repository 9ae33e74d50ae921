package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/selector"
	"github.com/hooktender/hooktender/verify"
)

// sending holds the flags of send.
type sending struct {
	captured
	source           string
	id, typ          string
	resource         string
	version          int
	count, duplicate int
	shuffle, tamper  bool
}

func sendCommand(e *env) *cobra.Command {
	var s sending
	cmd := &cobra.Command{Use: "send", Short: "Sign test events as a provider does, and send them to the gateway", Args: cobra.NoArgs,
		Long: "Sign test events as a provider does, and send them. With --source everything is taken from the configuration. Exits 1 if any\nwas refused.",
		Example: "  hooktender send --provider stripe --secret whsec_test --url http://127.0.0.1:8080/webhooks/stripe --duplicate 1\n" +
			"  hooktender send --source orders --count 5 --shuffle"}
	fs := cmd.Flags()
	e.sourceFlag(cmd, &s.source)
	fs.StringVar(&s.provider, "provider", "", "sign as this preset; custom signs {timestamp}.{body} with HMAC-SHA256 in X-Signature: sha256=…")
	fs.StringArrayVar(&s.secrets, "secret", nil, "the shared `secret` (with --source: in place of the configured ones)")
	fs.StringArrayVar(&s.secretEnv, "secret-env", nil, "`name` of an environment variable that holds the secret")
	fs.StringToStringVar(&s.params, "param", nil, "`name=value` of what a preset asks for")
	fs.StringVar(&s.url, "url", "", "where to send to (with --source: the configured listener and path)")
	fs.StringVar(&s.publicURL, "public-url", "", "public_url of the gateway, for senders that sign the URL (default: the beginning of --url)")
	fs.StringVar(&s.id, "id", "", "event `id`; with --count each gets a number (default: random)")
	fs.StringVar(&s.typ, "type", "hooktender.test", "event type")
	fs.StringVar(&s.resource, "resource", "", "resource (default: one of its own for each event)")
	fs.IntVar(&s.version, "version", 1, "version of the first event; the next are one higher each")
	fs.IntVar(&s.count, "count", 1, "how many events")
	fs.IntVar(&s.duplicate, "duplicate", 0, "so many extra sends of each event")
	fs.BoolVar(&s.shuffle, "shuffle", false, "send in random order")
	fs.BoolVar(&s.tamper, "tamper", false, "change the body after signing: the gateway must refuse it")
	_ = cmd.RegisterFlagCompletionFunc("provider", completeProviders) // the flag is there
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return e.send(cmd.Context(), &s) }
	return cmd
}

// customPreset signs and identifies as the help of --provider says.
func customPreset(p provider.Preset) provider.Preset {
	p.Verify.Header, p.Verify.Prefix, p.Verify.Signed, p.Verify.Timestamp = "X-Signature", "sha256=", "{timestamp}.{body}", "header:X-Timestamp"
	p.Identity = selector.IdentitySpec{ID: selector.Texts{"json:id"}, Type: selector.Texts{"json:type"}, Resource: selector.Texts{"json:resource"}, Version: selector.Texts{"json:version"}}
	return p
}

// signer is made of the flags, or of a source of the configuration.
func (e *env) signer(s *sending) (*signer, error) {
	if (s.source == "") == (s.provider == "") {
		return nil, usage("one of --provider and --source is needed")
	}
	if s.source != "" {
		return e.sourceSigner(s)
	}
	p, err := preset(s.provider)
	if err != nil {
		return nil, err
	}
	if p.ID == "custom" {
		p = customPreset(p)
	}
	if v := p.Verify; v.Scheme == "public_key" || v.Scheme == "jwt" && !strings.HasPrefix(v.Algorithms[0], "HS") {
		return nil, usage("%s: %w: its sender has a private key", p.ID, verify.ErrCannotSign)
	}
	if s.url == "" {
		return nil, usage("--url is needed: where the gateway takes the events of this sender")
	}
	secrets, err := s.readSecrets()
	if err != nil {
		return nil, err
	}
	if len(p.Identity.ID) == 0 {
		p.Identity.ID = selector.Texts{"json:id"}
	}
	out, err := newSigner(p.Verify, p.Identity, secrets, verify.Options{PublicURL: s.public(), Params: s.params})
	if err != nil {
		return nil, usage("%s: %w", p.ID, err)
	}
	return out, nil
}

// public is the public URL that is signed.
func (s *sending) public() string {
	if s.publicURL != "" {
		return s.publicURL
	}
	if u, err := url.Parse(s.url); err == nil && u.Host != "" {
		return u.Scheme + "://" + u.Host
	}
	return ""
}

func (e *env) sourceSigner(s *sending) (*signer, error) {
	cfg, err := e.load()
	if err != nil {
		return nil, err
	}
	src := cfg.Sources[s.source]
	if src == nil {
		return nil, fail(exitNotFound, "no source %q in %s", s.source, e.config)
	}
	if s.url == "" {
		s.url = localURL(cfg, src)
	}
	if s.publicURL == "" {
		s.publicURL = cfg.PublicURL
	}
	secrets, err := s.secretsOr(src.Secrets)
	if err != nil {
		return nil, err
	}
	params := src.Params()
	maps.Copy(params, s.params)
	out, err := newSigner(src.Verify, src.Identity, secrets, verify.Options{PublicURL: s.public(), PublicKeys: src.PublicKeys, Params: params, Keys: src.Preset.KeySources(params)})
	if err != nil {
		return nil, fail(exitFailed, "source %s: %w", s.source, err)
	}
	return out, nil
}

// localURL is where a gateway with this configuration listens, as seen from this host.
func localURL(cfg *config.Config, src *config.Source) string {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil || host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + src.Path
}

// sent is what came of one request.
type sent struct {
	N          int      `json:"n"`
	EventID    string   `json:"event_id"`
	Status     int      `json:"status"`
	Outcome    api.Text `json:"outcome"`
	ID         api.Text `json:"id"`
	DurationMS int64    `json:"duration_ms"`
}

// maxSends bounds the requests of one command: what came of each is kept until the end.
const maxSends = 1_000_000

func (e *env) send(ctx context.Context, s *sending) error {
	if s.count < 1 || s.count > maxSends || s.duplicate < 0 || s.duplicate > 1000 || s.count*(1+s.duplicate) > maxSends {
		return usage("--count must be at least 1, --duplicate between 0 and 1000, and at most %d are sent in all", maxSends)
	}
	sign, err := e.signer(s)
	if err != nil {
		return err
	}
	target, host, _, err := splitURL(s.url)
	if err != nil {
		return usage("--url: %w", err)
	}
	events := s.samples(e.now())
	order := make([]int, 0, len(events)*(1+s.duplicate))
	for i := range events {
		for range 1 + s.duplicate {
			order = append(order, i)
		}
	}
	if s.shuffle {
		mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	page := api.Page[sent]{Data: []sent{}}
	bar := e.progress("sending", int64(len(order)))
	refused := 0
	var broke error
	for n, i := range order {
		events[i].at = e.now()
		req, err := sign.sign(&events[i], http.MethodPost, target, host)
		if err != nil {
			return err
		}
		if s.tamper {
			tamper(req)
		}
		one, err := e.post(ctx, s.url, req)
		if err != nil {
			broke = fail(exitFailed, "%s could not be sent, and %d after it: %w", events[i].id, len(order)-n-1, err)
			break
		}
		one.N, one.EventID = n+1, events[i].id
		if one.Status >= 400 {
			refused++
		}
		page.Data = append(page.Data, one)
		bar.set(int64(n+1), "")
	}
	bar.clear()
	if broke != nil && len(page.Data) == 0 {
		return broke
	}
	if err := e.printValue(page, func(w io.Writer) { e.showSent(w, page.Data) }); err != nil {
		return err
	}
	if broke != nil {
		return broke
	}
	if refused > 0 {
		return fail(exitFailed, "%d of %d were refused", refused, len(order))
	}
	return nil
}

// samples are the events of the flags.
func (s *sending) samples(at time.Time) []sample {
	base := s.id
	if base == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		base = "evt_test_" + hex.EncodeToString(b[:])
	}
	out := make([]sample, s.count)
	for i := range out {
		id, resource := base, s.resource
		if s.count > 1 {
			id += "-" + strconv.Itoa(i+1)
		}
		if resource == "" {
			resource = "resource-of-" + id
		}
		out[i] = sample{id: id, typ: s.typ, resource: resource, version: strconv.Itoa(s.version + i), account: "acct_test", at: at}
	}
	return out
}

// tamper changes the body as somebody on the way would.
func tamper(req *event.Request) {
	if len(req.Body) == 0 {
		req.Body = []byte("tampered")
		return
	}
	i := bytes.IndexByte(req.Body, 't')
	req.Body = bytes.Clone(req.Body)
	req.Body[max(i, 0)] ^= 1
}

// plainHTTP sends without proxies, redirects and compression: what is signed is what arrives.
var plainHTTP = &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// post makes one request of a signed one. The signature may have changed the query, so the target is taken from it.
func (e *env) post(ctx context.Context, base string, req *event.Request) (sent, error) {
	ctx, cancel := e.limited(ctx, callTimeout)
	defer cancel()
	u, err := url.Parse(base)
	if err != nil {
		return sent{}, err
	}
	out, err := http.NewRequestWithContext(ctx, req.Method, u.Scheme+"://"+u.Host+string(req.Target), bytes.NewReader(req.Body))
	if err != nil {
		return sent{}, err
	}
	out.Header = http.Header{"User-Agent": {"hooktender-send"}}
	for name, value := range req.Head.All() {
		out.Header[string(name)] = append(out.Header[string(name)], string(value))
	}
	began := time.Now()
	resp, err := plainHTTP.Do(out)
	if err != nil {
		return sent{}, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 8<<20)) // only the head is of interest
	return sent{Status: resp.StatusCode, Outcome: api.Text(resp.Header.Get("Hooktender-Outcome")), ID: api.Text(resp.Header.Get("Hooktender-Id")),
		DurationMS: time.Since(began).Milliseconds()}, nil
}

func (e *env) showSent(w io.Writer, list []sent) {
	t := e.table("N", "EVENT", "STATUS", "OUTCOME", "ID", "TOOK")
	for _, s := range list {
		paint := green
		if s.Status >= 400 {
			paint = red
		}
		t.row(s.N, s.EventID, cell{strconv.Itoa(s.Status), paint}, string(s.Outcome), string(s.ID), fmt.Sprintf("%dms", s.DurationMS))
	}
	t.writeTo(w)
}
