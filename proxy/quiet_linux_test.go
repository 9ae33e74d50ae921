package proxy

import (
	"net"
	"testing"
	"time"
)

// While a server ends, whoever knocks anew is refused in the end, never reset with its request.
func TestQuietListenerAnswersNobodyNew(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	quiet(ln)
	if c, err := net.DialTimeout("tcp", ln.Addr().String(), 200*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a new connection was taken")
	}
}
