package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// files writes certificate and key into dir, and gives their paths.
func (i *issued) files(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, text := range map[string][]byte{key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), cert: i.pem} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func (i *issued) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.cert.Raw}, PrivateKey: i.key}
}

func (i *issued) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.cert)
	return p
}

// secureConsumer serves https on loopback with a certificate.
func secureConsumer(t *testing.T, i *issued) (*hooktest.Consumer, string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{i.pair()}})
	if err != nil {
		t.Fatal(err)
	}
	c := hooktest.NewConsumer()
	go c.Serve(l)
	t.Cleanup(c.Close)
	return c, l.Addr().String()
}

// An https upstream is believed only with the authority of its ca_file and the right name. Another one is an upstream that is not there: the
// event waits, and is delivered once the file is right.
func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	ours, other := issue(t, "Our CA", nil), issue(t, "Other CA", nil)
	c, addr := secureConsumer(t, issue(t, "app.internal", ours))
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	good, _ := ours.files(t, dir, "ours")
	bad, _ := other.files(t, dir, "other")
	ca := filepath.Join(dir, "ca.crt")
	place := func(from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ca, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	place(bad)
	upstream := func(name, url string) string {
		return fmt.Sprintf("  %s: {url: %q, ca_file: %q, breaker: {failures: 100000}}\n", name, url, ca)
	}
	g := startGateway(t, "upstreams:\n"+upstream("app", "https://127.0.0.1:"+port)+upstream("named", "https://localhost:"+port)+
		"sources:\n"+source("s", "delivery: {mode: hybrid, upstream: app, "+quick+"}")+source("n", "delivery: {mode: proxy, upstream: named}"))
	g.want("an authority that is not ours", g.ask("/s", custom("evt_1", "", "")), 202, "accepted")
	if r := g.becomes("s", "evt_1", "pending/retrying"); r == nil || !strings.Contains(fmt.Sprint(r["last_error"]), "tls") {
		t.Errorf("the record does not say that TLS failed: %v", r)
	}
	place(good)
	if a := g.call("POST", "/v1/config/reload", "{}"); a.status != 200 {
		t.Fatalf("reload: %+v", a)
	}
	g.becomes("s", "evt_1", "delivered/")
	g.want("the right authority", g.ask("/s", custom("evt_2", "", "")), 200, "delivered")
	g.want("the right authority, another name", g.ask("/n", custom("evt_3", "", "")), 502, "returned")
	if n := len(c.Seen()); n != 2 {
		t.Errorf("the consumer saw %d requests, want 2", n)
	}
}

// The TLS port under load: its certificate is exchanged by a changed file and by a reload, and no connection is dropped; what is too old, or
// comes without the certificate that is asked for, is refused.
func TestTLSListener(t *testing.T) {
	ca := issue(t, "CA", nil)
	_, addr := consumer(t)
	g := prepareGateway(t, sources(addr, source("s", "delivery: {mode: hybrid, upstream: app}")), "warn")
	cert, key := issue(t, "first.example", ca).files(t, g.dir, "tls")
	authority, _ := ca.files(t, g.dir, "ca")
	text, err := os.ReadFile(g.file())
	if err != nil {
		t.Fatal(err)
	}
	settings := func(extra string) string {
		return strings.Replace(string(text), "\nupstreams:", fmt.Sprintf("\ntls: {cert: %q, key: %q%s}\nupstreams:", cert, key, extra), 1)
	}
	g.write(g.file(), settings(""))
	g.launch()

	stop := make(chan struct{})
	var served, failed atomic.Int64
	var wg sync.WaitGroup
	for s := range 8 { // two of them keep their connection
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: s > 1, TLSClientConfig: &tls.Config{RootCAs: ca.pool()}}}
		wg.Go(func() {
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond): // handshakes are dear, and the gateway looks at its files every five seconds
				}
				r := custom(fmt.Sprintf("tls-%d-%d", s, i), "", "")
				req, err := http.NewRequest(http.MethodPost, "https://"+g.public+"/s", bytes.NewReader(r.Body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header, req.GetBody = r.Header, nil
				resp, err := client.Do(req)
				if err != nil {
					failed.Add(1)
					t.Errorf("after %d: %v", i, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if served.Add(1); resp.StatusCode != 200 {
					t.Errorf("%s", resp.Status)
				}
			}
		})
	}
	shown := func(cfg *tls.Config) (string, error) {
		cfg.RootCAs = ca.pool()
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", g.public, cfg)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
	}
	for i, name := range []string{"second.example", "third.example"} {
		issue(t, name, ca).files(t, g.dir, "tls")
		if i%2 == 1 {
			if a := g.call("POST", "/v1/config/reload", "{}"); a.status != 200 && a.status != 422 { // 422: between certificate and key
				t.Fatalf("reload: %+v", a)
			}
		}
		g.await(name+" is shown", 30*time.Second, func() bool {
			now, err := shown(&tls.Config{})
			return err == nil && now == name
		})
	}
	close(stop)
	wg.Wait()
	if served.Load() < 20 {
		t.Errorf("only %d requests were served", served.Load())
	}

	g.write(g.file(), settings(fmt.Sprintf(", min_version: \"1.3\", client_ca: %q", authority)))
	if a := g.call("POST", "/v1/config/reload", "{}"); a.status != 200 {
		t.Fatalf("reload: %+v", a)
	}
	mine := issue(t, "sender.example", ca).pair()
	if _, err := shown(&tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{mine}}); err == nil {
		t.Error("TLS 1.2 is spoken below min_version 1.3")
	}
	ask := func(cfg *tls.Config) int {
		cfg.RootCAs = ca.pool()
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg}}
		resp, err := client.Post("https://"+g.public+"/nowhere", "", nil)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if status := ask(&tls.Config{Certificates: []tls.Certificate{mine}}); status != 404 {
		t.Errorf("with a certificate: %d", status)
	}
	for what, cfg := range map[string]*tls.Config{"without a certificate": {}, "with one of another authority": {Certificates: []tls.Certificate{issue(t, "x", issue(t, "Other", nil)).pair()}}} {
		if status := ask(cfg); status != 0 {
			t.Errorf("%s: %d", what, status)
		}
	}
	t.Logf("%d requests, %d failed", served.Load(), failed.Load())
}
