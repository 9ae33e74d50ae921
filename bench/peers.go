//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/valyala/fasthttp"
)

// runProxy is the plain proxy: fasthttp in, fasthttp out, nothing between.
func runProxy(addr, upstream string) error {
	client := newPlainClient(upstream)
	return newPlainServer(func(ctx *fasthttp.RequestCtx) { forwardPlain(client, ctx) }).ListenAndServe(addr)
}

func newPlainServer(h fasthttp.RequestHandler) *fasthttp.Server {
	return &fasthttp.Server{NoDefaultServerHeader: true, DisablePreParseMultipartForm: true, Handler: h}
}

func newPlainClient(upstream string) *fasthttp.HostClient {
	return &fasthttp.HostClient{Addr: upstream, MaxConns: 1024, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true}
}

func forwardPlain(client *fasthttp.HostClient, ctx *fasthttp.RequestCtx) {
	ctx.Request.Header.Del("Connection")
	if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
		ctx.Error("bad gateway", fasthttp.StatusBadGateway)
		return
	}
	ctx.Response.Header.Del("Connection")
}

// startNginx starts nginx as a plain proxy in one process.
func startNginx(p *processes, nginx, addr, sink string) (*exec.Cmd, error) {
	conf := filepath.Join(p.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr error;
events { worker_connections 2048; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_body_buffer_size 128k; keepalive_requests 1000000000; tcp_nodelay on;
  upstream sink { server %[3]s; keepalive 512; keepalive_requests 1000000000; }
  server { listen %[2]s; location / { proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
`, p.dir, addr, sink)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return p.start(addr, nil, nginx, "-c", conf, "-e", "stderr")
}

// startHAProxy starts HAProxy as a plain proxy with one thread.
func startHAProxy(p *processes, haproxy, addr, sink string) (*exec.Cmd, error) {
	conf := filepath.Join(p.dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind %s
  default_backend sink
backend sink
  server sink %s
`, addr, sink)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return p.start(addr, nil, haproxy, "-db", "-q", "-f", conf)
}
