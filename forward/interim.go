package forward

// INTERIM: stands in until the real transport (client.go …) is here. Whoever writes that deletes this file.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/event"
)

type Options struct {
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS  *tls.Config
}

type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

func New(name string, cfg Config, o Options) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true, DialContext: o.Dial}
	return &Client{cfg: cfg, base: u, http: &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }
func (c *Client) Close()     { c.http.CloseIdleConnections() }

type Exchange struct {
	done chan struct{}
	res  Result
}

func (c *Client) Begin(ctx context.Context, call *Call) *Exchange {
	x := &Exchange{done: make(chan struct{})}
	body := append([]byte(nil), call.Body...)
	h := http.Header{}
	for k, v := range call.Head.All() {
		n := strings.ToLower(string(k))
		if n == "host" || n == "content-length" || n == "connection" || strings.HasPrefix(n, "hooktender-") || strings.HasPrefix(n, "x-forwarded") {
			continue
		}
		h[string(k)] = append(h[string(k)], string(v))
	}
	for k, v := range call.Extra.All() {
		h[http.CanonicalHeaderKey(string(k))] = []string{string(v)}
	}
	target := strings.TrimSuffix(c.cfg.URL, "/") + string(call.Path)
	method := call.Method
	go func() {
		defer close(x.done)
		x.res.StartedAt = time.Now()
		ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
		if err != nil {
			x.res.Outcome, x.res.ErrKind = event.OutcomeNotSent, KindDial
			return
		}
		req.Header = h
		resp, err := c.http.Do(req)
		if err == nil {
			x.res.Body, err = io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
			resp.Body.Close()
		}
		x.res.Duration = time.Since(x.res.StartedAt)
		if err != nil {
			x.res.Outcome, x.res.ErrKind, x.res.ErrText = event.OutcomeUnknown, KindReset, err.Error()
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				x.res.Outcome, x.res.ErrKind = event.OutcomeNotSent, KindRefused
			case errors.Is(err, context.DeadlineExceeded):
				x.res.ErrKind = KindTimeout
			}
			return
		}
		x.res.Status, x.res.Outcome = resp.StatusCode, Classify(resp.StatusCode)
		for k, vs := range resp.Header {
			if k == "Content-Length" || k == "Date" || k == "Connection" || strings.HasPrefix(k, "Hooktender-") {
				continue
			}
			for _, v := range vs {
				x.res.Head = x.res.Head.AppendString(k, v)
			}
		}
		if x.res.Outcome != event.OutcomeDelivered {
			x.res.ErrKind, x.res.ErrText = KindStatus, resp.Status
		}
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			x.res.HasRetry, x.res.RetryAfter = true, time.Duration(n)*time.Second
		}
	}()
	return x
}

func (x *Exchange) Wait(until time.Time) bool {
	if until.IsZero() {
		<-x.done
		return true
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-x.done:
		return true
	case <-t.C:
		return false
	}
}

func (x *Exchange) Result() Result { return x.res }
