package gateway_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/config"
	"github.com/hooktender/hooktender/gateway"
)

// BenchmarkRequest is one request of 1 KiB on a kept connection through all rooms, with sockets, signature and journal (not synced), in each mode; what
// sender and consumer allocate is nothing.
func BenchmarkRequest(b *testing.B) {
	for _, mode := range []string{"proxy", "hybrid", "store"} {
		b.Run(mode, func(b *testing.B) { benchRequests(b, mode, true) })
	}
	b.Run("duplicate", func(b *testing.B) { benchRequests(b, "hybrid", false) })
}

func benchRequests(b *testing.B, mode string, fresh bool) {
	addr := benchGateway(b, mode)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	s := newBenchSender()
	answer := make([]byte, 4096)
	send := func(n int) {
		if _, err := c.Write(s.request(n)); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 20")) {
			b.Fatalf("%q %v", answer[:n], err)
		}
	}
	send(0)
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		if !fresh {
			n = 0
		}
		send(n)
	}
}

// benchGateway runs a gateway in front of a consumer that answers 200, and gives its address.
func benchGateway(b *testing.B, mode string) string {
	b.Helper()
	consumer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go benchConsumer(consumer)
	text := strings.NewReplacer("127.0.0.1:3000", consumer.Addr().String(), "mode: hybrid", "mode: "+mode).Replace(sources)
	cfg, err := config.Parse("bench.yaml", fmt.Appendf(nil, "version: 1\nlisten: \"127.0.0.1:0\"\nadmin: {listen: \"127.0.0.1:0\"}\ndata_dir: %q\njournal: {min_free: 0, sync: none, allow_tmpfs: true}\n%s", b.TempDir(), text), env)
	if err != nil {
		b.Fatal(err)
	}
	g, err := gateway.New(cfg, gateway.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		_ = consumer.Close()
	})
	public, _ := g.Addrs()
	return public.String()
}

func benchConsumer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf, have := make([]byte, 16<<10), 0
			for {
				n, err := c.Read(buf[have:])
				if err != nil {
					return
				}
				if have += n; !bytes.HasSuffix(buf[:have], []byte(benchEnd)) {
					continue
				}
				have = 0
				if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
		}()
	}
}

const benchEnd = `"end":true}`

// benchSender writes requests without allocating.
type benchSender struct {
	text      []byte
	number    int // where its digits go
	signature int
	body      int
	timestamp string
	sum       []byte
}

func newBenchSender() *benchSender {
	body := `{"id":"evt_00000000","type":"invoice.paid","resource":"in_1","pad":"` + strings.Repeat("x", 1024-80) + `",` + benchEnd
	ts := fmt.Sprint(time.Now().Unix())
	head := fmt.Sprintf("POST /s HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Timestamp: %s\r\nX-Signature: sha256=", len(body), ts)
	text := head + strings.Repeat("0", 64) + "\r\n\r\n" + body
	s := &benchSender{text: []byte(text), signature: len(head), body: len(text) - len(body), timestamp: ts + "."}
	s.number = s.body + len(`{"id":"evt_`)
	return s
}

var benchMAC = hmac.New(sha256.New, []byte(secret))

func (s *benchSender) request(n int) []byte {
	for i := s.number + 7; i >= s.number; i-- {
		s.text[i] = byte('0' + n%10)
		n /= 10
	}
	benchMAC.Reset()
	_, _ = io.WriteString(benchMAC, s.timestamp)
	_, _ = benchMAC.Write(s.text[s.body:])
	s.sum = benchMAC.Sum(s.sum[:0])
	hex.Encode(s.text[s.signature:s.signature+64], s.sum)
	return s.text
}
