package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/provider"
	"github.com/hooktender/hooktender/verify"
)

// captured holds the flags that describe a captured request.
type captured struct {
	provider, source, url, method, bodyFile, publicURL string
	secrets, secretEnv, keyFiles, headers              []string
	params                                             map[string]string
	at                                                 int64
	vectors                                            string
}

func verifyCommand(e *env) *cobra.Command {
	var c captured
	cmd := &cobra.Command{Use: "verify", Short: "Say whether a captured request is genuine, and if not, what is wrong with it", Args: cobra.NoArgs,
		Long: "Say whether a captured request is genuine: which check failed and by how much. Exits 0 if it is valid, 6 if not.\n" +
			"With --vectors it judges a corpus, one verdict a line.",
		Example: "  hooktender verify --provider stripe --secret-env STRIPE_WEBHOOK_SECRET -H 'Stripe-Signature: t=…,v1=…' --body-file body.json --at 1760000000"}
	fs := cmd.Flags()
	fs.StringVar(&c.provider, "provider", "", "`name` of the preset")
	fs.StringVar(&c.source, "source", "", "`name` of a source of the configuration file, with its secrets, in place of --provider")
	fs.StringArrayVar(&c.secrets, "secret", nil, "the shared `secret`; all that are given are tried (with --source: in place of the configured ones)")
	fs.StringArrayVar(&c.secretEnv, "secret-env", nil, "`name` of an environment variable that holds the secret")
	fs.StringArrayVar(&c.keyFiles, "public-key-file", nil, "`file` with a public key")
	fs.StringToStringVar(&c.params, "param", nil, "`name=value` of what a preset asks for, as in audience=…")
	fs.StringVar(&c.url, "url", "https://hooks.example.com/", "the `URL` that the sender called")
	fs.StringVar(&c.publicURL, "public-url", "", "public_url, if it is not the beginning of --url")
	fs.StringVar(&c.method, "method", "POST", "its method")
	fs.StringArrayVarP(&c.headers, "header", "H", nil, "`Name: value` of a header line; repeat for each")
	fs.StringVar(&c.bodyFile, "body-file", "", "`file` with the raw body; - is stdin; empty = no body")
	fs.Int64Var(&c.at, "at", 0, "judge as of this Unix `time` (default now)")
	fs.StringVar(&c.vectors, "vectors", "", "judge every request of a JSON `file` instead; - is stdin")
	_ = cmd.RegisterFlagCompletionFunc("provider", completeProviders) // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("source", e.completeSources)
	cmd.RunE = func(*cobra.Command, []string) error {
		if c.vectors != "" {
			return e.judgeVectors(c.vectors)
		}
		return e.explainRequest(&c)
	}
	return cmd
}

// explanation is the verdict in JSON.
type explanation struct {
	Provider string    `json:"provider"`
	Verdict  string    `json:"verdict"` // valid | invalid
	Why      api.Text  `json:"why"`     // which check failed
	Binds    api.Text  `json:"binds"`
	SignedAt api.Time  `json:"signed_at"`
	Findings []finding `json:"findings"`
}

type finding struct {
	OK    bool     `json:"ok"`
	Check api.Text `json:"check"`
	Text  string   `json:"text"`
}

func (e *env) explainRequest(c *captured) error {
	name, v, err := e.verifierOf(c)
	if err != nil {
		return err
	}
	req, err := e.capturedRequest(c)
	if err != nil {
		return err
	}
	at := e.now()
	if c.at != 0 {
		at = time.Unix(c.at, 0)
	}
	verdict := v.Verify(req, at)
	out := explanation{Provider: name, Verdict: "invalid", Why: api.Text(verdict.Check.String()), SignedAt: api.Time{Time: verdict.SignedAt}, Findings: []finding{}}
	if verdict.OK {
		out.Verdict, out.Binds = "valid", api.Text(verdict.Binds)
	}
	for _, f := range v.Explain(req, at) {
		out.Findings = append(out.Findings, finding{OK: f.OK, Check: api.Text(f.Check.String()), Text: f.Text})
	}
	if err := e.printValue(out, func(w io.Writer) { e.showExplanation(w, &out) }); err != nil {
		return err
	}
	if !verdict.OK {
		return &exitError{code: exitUnsafe, err: errShown}
	}
	return nil
}

// verifierOf makes the verifier of a preset or of a configured source, and says which provider it is.
func (e *env) verifierOf(c *captured) (string, *verify.Verifier, error) {
	switch {
	case c.provider == "" && c.source == "":
		return "", nil, usage("--provider, --source or --vectors is needed")
	case c.provider != "" && c.source != "":
		return "", nil, usage("one of --provider and --source, not both")
	case c.provider != "":
		p, err := preset(c.provider)
		if err != nil {
			return "", nil, err
		}
		v, err := c.compile(&p)
		return p.ID, v, err
	}
	cfg, err := e.load()
	if err != nil {
		return "", nil, err
	}
	src := cfg.Sources[c.source]
	if src == nil {
		return "", nil, fail(exitNotFound, "no source %q in %s", c.source, e.config)
	}
	secrets, err := c.secretsOr(src.Secrets)
	if err != nil {
		return "", nil, err
	}
	params := src.Params()
	v, err := verify.Compile(src.Verify, secrets, verify.Options{PublicURL: cfg.PublicURL, PublicKeys: src.PublicKeys, Keys: src.Preset.KeySources(params), Params: params})
	if err != nil {
		return "", nil, fail(exitFailed, "source %s: %w", c.source, err)
	}
	return src.Provider, v, nil
}

func (e *env) showExplanation(w io.Writer, x *explanation) {
	t := &table{colour: coloured(e.stdout)}
	head := cell{x.Verdict, red}
	if x.Verdict == "valid" {
		head.paint = green
	}
	t.row(head, x.Provider)
	for _, f := range x.Findings {
		mark := string(f.Check)
		if f.OK {
			mark = "ok"
		} else if mark == "" {
			mark = "hint"
		}
		t.row(cell{mark, grey}, f.Text)
	}
	t.writeTo(w)
}

// compile makes the verifier of a preset with what the flags give; faults are about usage.
func (c *captured) compile(p *provider.Preset) (*verify.Verifier, error) {
	secrets, err := c.readSecrets()
	if err != nil {
		return nil, err
	}
	opts := verify.Options{PublicURL: c.publicURL, Params: c.params, Keys: p.KeySources(c.params)}
	if u, err := url.Parse(c.url); err == nil && opts.PublicURL == "" && u.Host != "" {
		opts.PublicURL = u.Scheme + "://" + u.Host
	}
	for _, f := range c.keyFiles {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, usage("--public-key-file: %w", err)
		}
		opts.PublicKeys = append(opts.PublicKeys, string(bytes.TrimRight(b, "\r\n")))
	}
	v, err := verify.Compile(p.Verify, secrets, opts)
	if err != nil {
		return nil, usage("%s: %w", p.ID, err)
	}
	return v, nil
}

func (c *captured) readSecrets() ([]verify.Secret, error) {
	var out []verify.Secret
	for _, s := range c.secrets {
		out = append(out, verify.NewSecret([]byte(s)))
	}
	for _, name := range c.secretEnv {
		s, ok := os.LookupEnv(name)
		if !ok {
			return nil, usage("--secret-env: %s is not set", name)
		}
		out = append(out, verify.NewSecret([]byte(s)))
	}
	return out, nil
}

// secretsOr gives the secrets of the flags, or a source's own where no flag gives any.
func (c *captured) secretsOr(own []verify.Secret) ([]verify.Secret, error) {
	given, err := c.readSecrets()
	if len(given) > 0 || err != nil {
		return given, err
	}
	return own, nil
}

// capturedRequest builds the request as it would have come in.
func (e *env) capturedRequest(c *captured) (*event.Request, error) {
	target, host, tls, err := splitURL(c.url)
	if err != nil {
		return nil, usage("--url: %w", err)
	}
	req := &event.Request{Method: c.method, Target: target, Host: []byte(host), TLS: tls}
	for _, h := range c.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" || strings.ContainsAny(h, "\r\n\x00") || strings.ContainsAny(name, " \t") {
			return nil, usage("-H %q is no header line (Name: value)", h)
		}
		req.Head = req.Head.AppendString(name, strings.Trim(value, " \t"))
	}
	if c.bodyFile == "" {
		return req, nil
	}
	req.Body, err = e.readFile(c.bodyFile)
	if err != nil {
		return nil, usage("--body-file: %w", err)
	}
	return req, nil
}

// splitURL cuts an absolute URL into what stands on the request line, and the host.
func splitURL(text string) (target []byte, host string, tls bool, err error) {
	rest, tls := strings.CutPrefix(text, "https://")
	if !tls {
		var plain bool
		if rest, plain = strings.CutPrefix(text, "http://"); !plain {
			return nil, "", false, fmt.Errorf("%q does not begin with http:// or https://", text)
		}
	}
	rest, _, _ = strings.Cut(rest, "#")
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest, path = rest[:i], rest[i:]
	}
	if rest == "" {
		return nil, "", false, fmt.Errorf("%q has no host", text)
	}
	if path[0] == '?' {
		path = "/" + path
	}
	return []byte(path), rest, tls, nil
}

// maxFile bounds what is read from a file or stdin, in bytes.
const maxFile = 256 << 20

// readFile reads a file; - is stdin.
func (e *env) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(e.stdin, maxFile))
	}
	return os.ReadFile(name)
}

// judgeVectors prints a verdict for each element of a corpus.
func (e *env) judgeVectors(name string) error {
	raw, err := e.readFile(name)
	if err != nil {
		return usage("--vectors: %w", err)
	}
	page := api.Page[provider.Judged]{Data: []provider.Judged{}}
	for j, err := range provider.JudgeVectors(bytes.NewReader(raw)) {
		if err != nil {
			return err
		}
		page.Data = append(page.Data, j)
	}
	return e.printValue(page, func(w io.Writer) {
		t := e.table("PROVIDER", "NAME", "VERDICT", "WHY")
		for _, j := range page.Data {
			paint := green
			if j.Verdict != "valid" {
				paint = red
			}
			t.row(j.Provider, j.Name, cell{j.Verdict, paint}, j.Why)
		}
		t.writeTo(w)
	})
}
