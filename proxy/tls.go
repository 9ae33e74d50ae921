package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// LoadTLS reads the files that c names. The text of an error begins with the name of the key; it never quotes a file.
func LoadTLS(c *TLSConfig) (*tls.Config, error) {
	switch {
	case c.Cert == "":
		return nil, errors.New("cert: is missing")
	case c.Key == "":
		return nil, errors.New("key: is missing")
	}
	cert, err := os.ReadFile(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("cert: cannot be read: %w", err)
	}
	key, err := os.ReadFile(c.Key)
	if err != nil {
		return nil, fmt.Errorf("key: cannot be read: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cert: does not go with the key, or is no certificate: %w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.MinVersion == "1.3" {
		cfg.MinVersion = tls.VersionTLS13
	}
	if c.ClientCA != "" {
		pem, err := os.ReadFile(c.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("client_ca: cannot be read: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("client_ca: holds no certificate")
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.SessionTicketsDisabled = true // every connection shows its certificate, also after a change of authorities
	}
	return cfg, nil
}

// sameClients says whether a and b ask for TLS, and for the same client certificates.
func sameClients(a, b *tls.Config) bool {
	if a == b || a == nil || b == nil {
		return a == b
	}
	return a.ClientAuth == b.ClientAuth && a.ClientCAs.Equal(b.ClientCAs)
}
