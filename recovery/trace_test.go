package recovery

import (
	"strings"
	"testing"

	"github.com/hooktender/hooktender/event"
)

// The cases of W3C Trace Context §3.2 and §4.3. What is no traceparent is as good as none.
func TestTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for value, want := range map[string]bool{
		good: true, " " + good + "\t": true, strings.Replace(good, "-01", "-ff", 1): true, "cc" + good[2:]: true, "01" + good[2:] + "-what-comes-later": true,
		"": false, good[:54]: false, good + "-00": false, "01" + good[2:] + "x": false, "ff" + good[2:]: false, strings.ToUpper(good): false, strings.Replace(good, "-01", "-0x", 1): false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false, "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		strings.Replace(good, "-", "_", 1): false, good + "," + good: false, "0" + good: false, strings.Replace(good, "af", "g7", 1): false, "-0" + good[2:]: false,
	} {
		if got := givenBy(event.Head("Traceparent:" + value + "\r\n")).traceparent; got != want {
			t.Errorf("%q: %t, want %t", value, got, want)
		}
	}
	if givenBy(event.Head("traceparent: " + good + "\r\nTRACEPARENT: " + good + "\r\n")).traceparent {
		t.Error("two of them are none")
	}
}

// A request id that the sender's Connection line takes out of its request is none: the consumer gets ours.
func TestRequestIDForOneHopOnly(t *testing.T) {
	for head, want := range map[string]bool{
		"X-Request-Id: r\r\n": true, "Connection: close\r\nX-Request-Id: r\r\n": true, "X-Request-Id:\r\n": false,
		"X-Request-Id: r\r\nConnection: keep-alive, x-request-id\r\n": false,
	} {
		if got := givenBy(event.Head(head)).requestID; got != want {
			t.Errorf("%q: %t, want %t", head, got, want)
		}
	}
}
