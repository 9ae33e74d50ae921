package proxy_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/proxy"
)

// An authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key, a.pem = issue(t, nil, "authority", true)
	return a
}

func issue(t testing.TB, by *authority, name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// write puts a new certificate and its key into dir.
func (a *authority) write(t testing.TB, dir, name string) (cert, key string) {
	t.Helper()
	_, k, text := issue(t, a, name, false)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, data := range map[string][]byte{cert: text, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), filepath.Join(dir, "ca.crt"): a.pem} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func serverTLS(t testing.TB, a *authority, name string, clients bool, version string) *tls.Config {
	t.Helper()
	dir := t.TempDir()
	cert, key := a.write(t, dir, name)
	c := &proxy.TLSConfig{Cert: cert, Key: key, MinVersion: version}
	if clients {
		c.ClientCA = filepath.Join(dir, "ca.crt")
	}
	cfg, err := proxy.LoadTLS(c)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func dialTLS(t *testing.T, addr string, cfg *tls.Config) (*client, error) {
	t.Helper()
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { nc.Close() })
	return newClientOn(t, nc), nil
}

func newClientOn(t *testing.T, nc net.Conn) *client {
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{nc, t, bufio.NewReader(nc)}
}

// scheme answers with how the request came in.
func scheme(_ context.Context, r *event.Request, a *proxy.Answer) {
	a.Status, a.Body = 200, fmt.Appendf(nil, "%v %s %d", r.TLS, r.Peer, len(r.Body))
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	addr, srv := startServer(t, proxy.ServerConfig{TLS: serverTLS(t, a, "first", false, "1.2")}, handlerFunc(scheme))
	c, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.send(post).want(200, "true 127.0.0.1 2")
	}
	c.send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n"+strings.Repeat("x", 60000)).want(200, "true 127.0.0.1 60000")

	// A renewed certificate serves new connections; the old connection goes on.
	srv.Configure(proxy.ServerConfig{TLS: serverTLS(t, a, "second", false, "1.2")})
	d, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool()})
	if err != nil {
		t.Fatal(err)
	}
	if name := d.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; name != "second" {
		t.Errorf("the certificate is %q", name)
	}
	d.send(post).want(200, "true 127.0.0.1 2")
	c.send(post).want(200, "true 127.0.0.1 2")

	if _, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool(), MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	srv.Configure(proxy.ServerConfig{TLS: serverTLS(t, a, "third", false, "1.3")})
	if _, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("min_version 1.3, and TLS 1.2 is spoken")
	}
	c.send("POST /a HTTP/1.1\r\nHost : h\r\n\r\n").want(400, "*")
	c.wantEnd()
	dial(t, addr).send(post).want(400, "*") // plain HTTP
}

func TestClientCertificates(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	addr := newServer(t, proxy.ServerConfig{TLS: serverTLS(t, a, "server", true, "1.2")}, handlerFunc(scheme))
	pair := func(by *authority) []tls.Certificate {
		cert, key := by.write(t, t.TempDir(), "client")
		p, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{p}
	}
	for name, certs := range map[string][]tls.Certificate{"ours": pair(a), "none": nil, "another's": pair(other)} {
		c, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool(), Certificates: certs})
		if err == nil { // TLS 1.3 tells of a refusal only on reading
			_, _ = io.WriteString(c.Conn, post)
			_, err = c.br.Peek(1)
		}
		if (err == nil) != (name == "ours") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who has shaken hands as nobody may any more, ends: a kept connection is no way around new authorities. A renewed certificate alone ends none.
func TestConnectionsEndWithTheirAuthorities(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	anybody := func() proxy.ServerConfig {
		return proxy.ServerConfig{TLS: serverTLS(t, a, "server", false, "1.2")}
	}
	for name, to := range map[string]func() proxy.ServerConfig{
		"nobody without one": func() proxy.ServerConfig { return proxy.ServerConfig{TLS: serverTLS(t, a, "server", true, "1.2")} },
		"no TLS":             func() proxy.ServerConfig { return proxy.ServerConfig{} },
	} {
		t.Run(name, func(t *testing.T) {
			in, let := make(chan struct{}), make(chan struct{})
			addr, srv := startServer(t, anybody(), handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
				if string(r.Target) == "/slow" {
					in <- struct{}{}
					<-let
				}
				scheme(ctx, r, a)
			}))
			dialled := func() *client {
				c, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool()})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			idle, fresh, busy := dialled(), dialled(), dialled()
			opening := dial(t, addr)
			time.Sleep(50 * time.Millisecond) // it is being waited for
			idle.send(post).want(200, "true 127.0.0.1 2")
			busy.send("POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
			<-in
			srv.Configure(anybody())
			idle.send(post).want(200, "true 127.0.0.1 2")
			srv.Configure(to())
			idle.wantEnd()
			fresh.wantEnd()
			late := tls.Client(opening, &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"})
			if err := late.Handshake(); err != nil {
				t.Fatal(err)
			}
			newClientOn(t, late).wantEnd()
			close(let)
			busy.want(200, "true 127.0.0.1 0")
			busy.wantEnd()
		})
	}
	with := proxy.ServerConfig{TLS: serverTLS(t, a, "server", true, "1.2")}
	addr, srv := startServer(t, with, handlerFunc(scheme))
	cert, key := a.write(t, t.TempDir(), "client")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool(), Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	c.send(post).want(200, "true 127.0.0.1 2")
	srv.Configure(proxy.ServerConfig{TLS: serverTLS(t, a, "renewed", true, "1.2")})
	c.send(post).want(200, "true 127.0.0.1 2")
	srv.Configure(proxy.ServerConfig{TLS: serverTLS(t, b, "another's", true, "1.2")})
	c.wantEnd()
}

// hooked is a listener whose connections call once, as the server first looks at one's socket.
type hooked struct {
	net.Listener
	once func()
}

type hookedConn struct {
	*net.TCPConn
	once func()
}

func (l hooked) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &hookedConn{nc.(*net.TCPConn), l.once}, nil
}

func (c *hookedConn) SyscallConn() (syscall.RawConn, error) {
	c.once()
	return c.TCPConn.SyscallConn()
}

// One that comes in while TLS is being switched on is not overlooked.
func TestConnectionBetweenTwoConfigurations(t *testing.T) {
	a := newAuthority(t)
	srv := proxy.NewServer(proxy.ServerConfig{}, handlerFunc(scheme), slog.New(slog.DiscardHandler))
	ln, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	with := proxy.ServerConfig{TLS: serverTLS(t, a, "server", true, "1.2")}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(t.Context(), hooked{ln, sync.OnceFunc(func() { srv.Configure(with) })}) }()
	c := dial(t, ln.Addr().String())
	time.Sleep(100 * time.Millisecond)
	c.wantEnd()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A handshake that does not come on is bounded like a head.
func TestSlowHandshake(t *testing.T) {
	a := newAuthority(t)
	addr := newServer(t, proxy.ServerConfig{TLS: serverTLS(t, a, "server", false, "1.2"), HeadTimeout: 100 * time.Millisecond}, handlerFunc(scheme))
	begin := time.Now()
	c := dial(t, addr).send("\x16\x03\x01")
	_, _ = io.Copy(io.Discard, c.br)
	if d := time.Since(begin); d > 4*time.Second { // by default it would be five
		t.Errorf("it took %s", d)
	}
}

// Renewed certificates under load: not one request fails, on connections old and new.
func TestCertificateReloadUnderLoad(t *testing.T) {
	a := newAuthority(t)
	addr, srv := startServer(t, proxy.ServerConfig{TLS: serverTLS(t, a, "0", false, "1.2")}, handlerFunc(scheme))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			var c *client
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if c == nil || i%2 == 0 && n%10 == 0 {
					var err error
					if c, err = dialTLS(t, addr, &tls.Config{RootCAs: a.pool()}); err != nil {
						t.Error(err)
						return
					}
				}
				c.send(post).want(200, "true 127.0.0.1 2")
			}
		})
	}
	for i := range 20 {
		srv.Configure(proxy.ServerConfig{TLS: serverTLS(t, a, fmt.Sprint(i), false, "1.2")})
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
}

// Proxies keep their connections: whether they are trusted is a matter of the present configuration, not of the connection's age.
func TestTrustFollowsTheConfiguration(t *testing.T) {
	trusting := proxy.ServerConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	addr, srv := startServer(t, proxy.ServerConfig{}, handlerFunc(scheme))
	c := dial(t, addr)
	const request = "POST /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.9\r\nContent-Length: 0\r\n\r\n"
	for range 2 {
		c.send(request).want(200, "false 127.0.0.1 0")
		srv.Configure(trusting)
		c.send(request).want(200, "false 203.0.113.9 0")
		srv.Configure(proxy.ServerConfig{})
	}
}

func TestProxyProtocol(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	const header = "PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n"
	t.Run("from a trusted proxy", func(t *testing.T) {
		addr := newServer(t, proxy.ServerConfig{Trusted: loopback, ProxyProtocol: true}, handlerFunc(scheme))
		c := dial(t, addr).send(header + post + post)
		c.want(200, "false 203.0.113.9 2")
		c.want(200, "false 203.0.113.9 2")
		c.send(post).want(200, "false 203.0.113.9 2")
		c = dial(t, addr).send("PROXY TCP4 203.0")
		c.send(".113.9 10.0.0.1 4711 80\r\nPOST /a HTTP/1.1\r\nHost: h\r\n")
		c.send("X-Forwarded-For: 198.51.100.1\r\nContent-Length: 0\r\n\r\n").want(200, "false 203.0.113.9 0") // a client's own word
		dial(t, addr).send("PROXY UNKNOWN\r\n"+post).want(200, "false 127.0.0.1 2")
		dial(t, addr).send(post).want(400, "*")
	})
	t.Run("from elsewhere", func(t *testing.T) {
		addr := newServer(t, proxy.ServerConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ProxyProtocol: true}, handlerFunc(scheme))
		dial(t, addr).send(post).want(200, "false 127.0.0.1 2")
		dial(t, addr).send(header+post).want(400, "*")
	})
	t.Run("in front of TLS", func(t *testing.T) {
		a := newAuthority(t)
		addr := newServer(t, proxy.ServerConfig{Trusted: loopback, ProxyProtocol: true, TLS: serverTLS(t, a, "server", false, "1.2")}, handlerFunc(scheme))
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, header); err != nil {
			t.Fatal(err)
		}
		c := newClientOn(t, tls.Client(nc, &tls.Config{RootCAs: a.pool(), ServerName: "localhost"}))
		c.send(post).want(200, "true 203.0.113.9 2")
	})
	t.Run("addresses behind it are counted", func(t *testing.T) {
		addr := newServer(t, proxy.ServerConfig{Trusted: loopback, ProxyProtocol: true, MaxPerIP: 1}, handlerFunc(scheme))
		dial(t, addr).send(header+post).want(200, "*")
		dial(t, addr).send(header+post).want(429, "*")
		dial(t, addr).send("PROXY TCP4 203.0.113.10 10.0.0.1 4711 80\r\n"+post).want(200, "*")
	})
}

// A connection that never said anything makes room before one that did.
func TestSilentConnectionsMakeRoomFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, end := bubbled(t, proxy.ServerConfig{MaxConns: 3})
		defer end()
		used := dial().send(post)
		used.want(200, "*")
		dial()
		dial()
		for range 5 {
			dial().send(post).want(200, "*")
			time.Sleep(time.Second)
			used.send(post).want(200, "*")
			time.Sleep(time.Second)
		}
	})
}

// One that never gets on with its handshake makes room as well, however little it has been looked at yet.
func TestHandshakesMakeRoom(t *testing.T) {
	a := newAuthority(t)
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		addr := newServer(t, proxy.ServerConfig{MaxConns: 2, HeadTimeout: time.Minute, TLS: serverTLS(t, a, "server", false, "1.2")}, handlerFunc(scheme))
		for range 6 {
			dial(t, addr)
			time.Sleep(wait)
		}
		c, err := dialTLS(t, addr, &tls.Config{RootCAs: a.pool()})
		if err != nil {
			t.Fatalf("%s: %v", wait, err)
		}
		c.send(post).want(200, "true 127.0.0.1 2")
	}
}

// Requests beyond the bound are shed at once; the connection stays.
func TestRequestsInFlight(t *testing.T) {
	release, in := make(chan struct{}), make(chan struct{}, 9)
	addr := newServer(t, proxy.ServerConfig{MaxRequests: 1}, handlerFunc(func(ctx context.Context, r *event.Request, a *proxy.Answer) {
		in <- struct{}{}
		<-release
		echo(ctx, r, a)
	}))
	a := dial(t, addr).send(post)
	<-in
	b := dial(t, addr).send(post)
	if resp := b.want(503, "*"); resp.Header.Get("Retry-After") == "" || resp.Header.Get("Hooktender-Outcome") != "unavailable" {
		t.Error(resp.Header)
	}
	close(release)
	a.want(200, "*")
	b.send(post).want(200, "*")
}

// What is announced and does not come takes no memory: bodies are counted as they come in.
func TestAnnouncedBodiesTakeNoRoom(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{MaxBytes: 100 << 10}, handlerFunc(echo))
	for range 20 {
		dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 65000\r\n\r\nx")
	}
	dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n"+strings.Repeat("x", 60000)).want(200, "POST /a 60000")
	addr = newServer(t, proxy.ServerConfig{MaxBytes: 20 << 10}, handlerFunc(echo))
	for _, framing := range []string{"Content-Length: 60000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nea60\r\n"} { // what does come is counted
		dial(t, addr).send("POST /a HTTP/1.1\r\nHost: h\r\n"+framing+strings.Repeat("x", 60000)).want(503, "*")
	}
}

// A body that has memory of its own may have come with its head, and another request behind it.
func TestLargeBodyThatCameAtOnce(t *testing.T) {
	request := func(head, body int) string {
		return fmt.Sprintf("POST /a HTTP/1.1\r\nHost: h\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s", strings.Repeat("x", head), body, strings.Repeat("x", body))
	}
	c := dial(t, newServer(t, proxy.ServerConfig{}, handlerFunc(echo)))
	next := request(1, 17000) + post
	c.send(request(15000, 16000)+next[:20]).want(200, "POST /a 16000") // its buffer has grown
	c.send(next[20:]).want(200, "POST /a 17000")
	c.want(200, "POST /a 2")
}
