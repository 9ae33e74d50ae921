package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/proxy"
)

// The lines of an answer are made in what the connection's buffer has left: neither the request under way nor the one behind it changes by that,
// however full the buffer is and however many lines there are.
func TestAnswerLinesLeaveRequestsAlone(t *testing.T) {
	addr := newServer(t, proxy.ServerConfig{}, handlerFunc(func(_ context.Context, r *event.Request, a *proxy.Answer) {
		for i := range len(r.Body) % 40 {
			a.Head = a.Head.AppendString(fmt.Sprint("X-Line-", i), strings.Repeat("l", 30))
		}
		a.Status, a.Body = 200, fmt.Appendf(nil, "%s %s %s", r.Target, r.Head, r.Body)
	}))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for size := 3300; size < 4500; size += 37 {
		var out, want []string
		for _, part := range []struct {
			target, fill string
			size         int
		}{{"/first", "a", size}, {"/second", "b", size / 20}, {"/third", "c", 5}} {
			lines := fmt.Sprintf("X-Sent: %s\r\nContent-Length: %d\r\n", part.fill, part.size)
			body := strings.Repeat(part.fill, part.size)
			out = append(out, "POST "+part.target+" HTTP/1.1\r\nHost: a\r\n"+lines+"\r\n"+body)
			want = append(want, part.target+" Host: a\r\n"+lines+" "+body)
		}
		if _, err := io.WriteString(c, strings.Join(out, "")); err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil || string(got) != text {
				t.Fatalf("with %d bytes: %v, got %.80q, want %.80q", size, err, got, text)
			}
		}
	}
}
