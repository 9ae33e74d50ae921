package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// issued is a certificate with its key; a nil parent makes an authority.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func issue(t *testing.T, name string, parent *issued) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	by := &issued{tpl, key, nil}
	if parent == nil {
		tpl.IsCA, tpl.KeyUsage, tpl.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	} else {
		by = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// The TLS listener asks every sender for a certificate, a source takes one name only, the signature is judged beside it, and an address that is
// not allowed is told so. A header that claims a certificate counts for nothing.
func TestGuardsBesideASignature(t *testing.T) {
	t.Parallel()
	authority, other := issue(t, "Senders CA", nil), issue(t, "Other CA", nil)
	server := issue(t, "hooks.example.com", authority)
	c, addr := consumer(t)
	guarded := func(name, names, limits string) string {
		return fmt.Sprintf(`  %s:
    path: /%[1]s
    provider: custom
    secrets: [{env: E2E_SECRET}]
    verify:
      all:
        - {scheme: client_certificate, location: connection, names: [%s]}
        - {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id"}
    %s
    upstream: http://%s
`, name, names, limits, addr)
	}
	g := prepareGateway(t, "sources:\n"+guarded("ours", "hooks.sender.example", "limits: {allow_ips: [127.0.0.0/8]}")+guarded("elsewhere", "hooks.sender.example", "limits: {allow_ips: [192.0.2.0/24]}"), "warn")
	keyDER, err := x509.MarshalPKCS8PrivateKey(server.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"tls.crt": server.pem, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), "ca.crt": authority.pem} {
		if err := os.WriteFile(filepath.Join(g.dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(g.file())
	if err != nil {
		t.Fatal(err)
	}
	g.write(g.file(), strings.Replace(string(text), "\nsources:", fmt.Sprintf("\ntls: {cert: %[1]s/tls.crt, key: %[1]s/tls.key, client_ca: %[1]s/ca.crt}\nsources:", g.dir), 1))
	g.launch()

	roots := x509.NewCertPool()
	roots.AddCert(authority.cert)
	post := func(as *issued, path, id, key string) (status int, outcome string) {
		cfg := &tls.Config{RootCAs: roots, ServerName: "hooks.example.com"}
		if as != nil {
			cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{as.cert.Raw}, PrivateKey: as.key}}
		}
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
		r := hooktest.Custom(key, hooktest.CustomBody(id, "t", "", ""), time.Now())
		req, err := http.NewRequest(http.MethodPost, "https://"+g.public+path, bytes.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = r.Header
		req.Header.Set("Client-Cert", "hooks.sender.example")
		resp, err := client.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Header.Get("Hooktender-Outcome")
	}
	sender := issue(t, "hooks.sender.example", authority)
	for _, tt := range []struct {
		name      string
		as        *issued
		path, key string
		status    int
		outcome   string
	}{
		{"the sender's certificate and a good signature", sender, "/ours", secret, 200, "delivered"},
		{"the sender's certificate, a forged signature", sender, "/ours", "another-secret", 401, "rejected"},
		{"another's certificate, a good signature", issue(t, "someone.else.example", authority), "/ours", secret, 401, "rejected"},
		{"the name, from an authority that is not ours", issue(t, "hooks.sender.example", other), "/ours", secret, 0, ""},
		{"no certificate", nil, "/ours", secret, 0, ""},
		{"an address that is not allowed", sender, "/elsewhere", secret, 403, "forbidden"},
	} {
		id := "guard-" + strings.ReplaceAll(tt.name, " ", "-")
		if status, outcome := post(tt.as, tt.path, id, tt.key); status != tt.status || outcome != tt.outcome {
			t.Errorf("%s: %d %q, want %d %q", tt.name, status, outcome, tt.status, tt.outcome)
		}
	}
	if n := len(c.Seen()); n != 1 {
		t.Errorf("%d requests reached the consumer, want 1", n)
	}
}
