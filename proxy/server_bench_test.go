package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/proxy"
)

// BenchmarkServer is one request of 1 KiB on a kept connection, with a Handler that does nothing; the client's side is in the figures.
func BenchmarkServer(b *testing.B) {
	reply := []byte("ok")
	addr := newServer(b, proxy.ServerConfig{}, handlerFunc(func(_ context.Context, _ *event.Request, a *proxy.Answer) { a.Status, a.Body = 200, reply }))
	benchRequests(b, addr)
}

// BenchmarkForward adds a forward.Client and a recording upstream.
func BenchmarkForward(b *testing.B) {
	benchRequests(b, newFrontend(b, "http://"+newRecorder(b).Addr, proxy.ServerConfig{}))
}

func benchRequests(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	req := []byte("POST /hook HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nX-Signature: sha256=00112233445566778899\r\nContent-Length: 1024\r\n\r\n" + string(bytes.Repeat([]byte("x"), 1024)))
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil && err != io.EOF || !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 ")) {
			b.Fatalf("%q %v", buf[:n], err)
		}
	}
}
