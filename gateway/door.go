package gateway

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/proxy"
)

// door is the public port's configuration; it reads the certificate's files.
func (g *Gateway) door(cfg *config.Config) (proxy.ServerConfig, error) {
	trusted, err := proxy.ParsePrefixes(cfg.TrustedProxies)
	if err != nil {
		return proxy.ServerConfig{}, fmt.Errorf("trusted_proxies: %w", err)
	}
	l := &cfg.Limits
	c := proxy.ServerConfig{MaxConns: l.Connections, MaxPerIP: l.ConnectionsPerIP, MaxRequests: l.InFlight, MaxBytes: l.InFlightBytes,
		Trusted: trusted, ProxyProtocol: cfg.ProxyProtocol, OnRefused: g.refused}
	if cfg.TLS.On() {
		print := fingerprint(&cfg.TLS) // before the files: a change in between is seen at the next look
		if c.TLS, err = proxy.LoadTLS(&cfg.TLS); err != nil {
			return c, fmt.Errorf("tls.%w", err)
		}
		g.files.set(print)
	}
	return c, nil
}

// fileInterval is how often the certificate's files are looked at.
const fileInterval = 5 * time.Second

// fileWatch remembers which files the certificate in use came from.
type fileWatch struct {
	mu    sync.Mutex
	print string
}

func (w *fileWatch) set(print string) {
	w.mu.Lock()
	w.print = print
	w.mu.Unlock()
}

// changed says whether print is new; it is not the next time.
func (w *fileWatch) changed(print string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.print
	w.print = print
	return print != was
}

// fingerprint changes when one of the certificate's files is another, or may be read by others, or a link to one leads elsewhere.
func fingerprint(c *proxy.TLSConfig) string {
	var b strings.Builder
	for _, path := range []string{c.Cert, c.Key, c.ClientCA} {
		if info, err := os.Stat(path); path != "" && err == nil {
			fmt.Fprintf(&b, "%d %d %s", info.Size(), info.ModTime().UnixNano(), info.Mode())
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(&b, " %d %d", st.Ino, uint64(st.Uid)<<32|uint64(st.Gid))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// watchFiles takes a renewed certificate into use. One that cannot be read, or does not go with its key, keeps the old one.
func (g *Gateway) watchFiles(ctx context.Context) {
	every(ctx, fileInterval, g.renew)
}

func (g *Gateway) renew() {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.mu.Lock()
	cfg := g.cfg
	g.mu.Unlock()
	if !cfg.TLS.On() || !g.files.changed(fingerprint(&cfg.TLS)) {
		return
	}
	c, err := g.door(cfg)
	if err != nil {
		g.log.Error("certificate not renewed: the old one stays", "error", err)
		return
	}
	g.server.Configure(c)
	g.log.Info("certificate renewed", "cert", cfg.TLS.Cert)
}
