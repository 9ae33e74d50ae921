// Package client is a Go client of hooktender's admin API (SPEC §8). Every call takes a context, makes one request, and returns what the
// gateway answered or a typed error: *Unreachable, *Unauthorized, *NotFound, or *Problem for every other refusal. Nothing is retried:
// a mutation that must not happen twice carries an idempotency key (see WithIdempotencyKey).
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hooktender/hooktender/admin/api"
)

// DefaultAddress is where the gateway's admin port is unless it was configured elsewhere.
const DefaultAddress = "http://127.0.0.1:9090"

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 256 << 20

// Client calls one gateway. Safe for concurrent use. Create with New.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New makes a client of the admin port at address: a URL, or host:port, or "" for DefaultAddress. The token may be empty where the port
// is open to this host. It connects to nothing.
func New(address, token string) (*Client, error) {
	if address == "" {
		address = DefaultAddress
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("admin address %q: want a URL as in %s", address, DefaultAddress)
	}
	if strings.ContainsAny(token, "\r\n") {
		return nil, errors.New("the token holds a line break")
	}
	base := u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/")
	// No redirects: a token goes to the address that it was meant for.
	hc := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Client{base: base, token: token, http: hc}, nil
}

// Address is the URL of the admin port.
func (c *Client) Address() string { return c.base }

type contextKey int

const (
	captureKey contextKey = iota
	idempotencyKey
)

// Capture makes calls under the returned context also leave the bytes of their answer in raw, as they came.
func Capture(ctx context.Context, raw *[]byte) context.Context {
	return context.WithValue(ctx, captureKey, raw)
}

// WithIdempotencyKey makes mutations under the returned context carry the key: made again with the same key, they change nothing and
// get the first answer (for 24 hours). At most 255 bytes.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey, key)
}

// get asks for path and decodes the answer into out.
func (c *Client) get(ctx context.Context, path string, q url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, q, nil, out)
}

// post sends in as JSON to path and decodes the answer into out.
func (c *Client) post(ctx context.Context, path string, q url.Values, in, out any) error {
	if in == nil {
		in = struct{}{}
	}
	body, err := api.Encode(in)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, q, body, out)
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, body []byte, out any) error {
	resp, err := c.send(ctx, method, path, q, body, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.transport(ctx, err)
	}
	if keep, ok := ctx.Value(captureKey).(*[]byte); ok {
		*keep = raw
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what hooktender says: %w", method, path, err)
	}
	return nil
}

// send makes one request. The caller closes the body of a successful answer; any other answer is read and becomes an error.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body []byte, accept string) (*http.Response, error) {
	target := c.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "hooktender-client")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		if key, ok := ctx.Value(idempotencyKey).(string); ok && key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transport(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// transport says that no answer came, unless it was the caller who gave up.
func (c *Client) transport(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Unreachable{Address: c.base, Err: err}
}

// refusal reads a problem; an answer that is none becomes one by its status.
func (c *Client) refusal(resp *http.Response) error {
	p := &Problem{}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	stranger := kind != "application/problem+json" || json.Unmarshal(raw, &p.Problem) != nil
	if stranger {
		p.Problem = api.Problem{Title: http.StatusText(resp.StatusCode), Detail: "the answer is not hooktender's: is this its admin port?"}
	}
	p.Status = resp.StatusCode
	p.Raw = raw
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return &Unauthorized{p}
	case http.StatusNotFound:
		if stranger || strings.HasPrefix(p.Error(), api.NoPath) { // says nothing of what was asked for
			return &Unreachable{Address: c.base, Err: errors.New(p.Error())}
		}
		return &NotFound{p}
	}
	return p
}

// waitText is a wait as the gateway reads it.
func waitText(d time.Duration) string { return d.Round(time.Millisecond).String() }
