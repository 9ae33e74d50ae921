package verify

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
)

// signedKiB is a request with a body of 1 KiB, signed for v.
func signedKiB(t testing.TB, v *Verifier) *event.Request {
	t.Helper()
	req := &event.Request{Method: "POST", Target: []byte("/hook"), Body: []byte(`{"id":"evt_1","pad":"` + strings.Repeat("x", 1002) + `"}`)}
	req.Head = req.Head.AppendString("Content-Type", "application/json").AppendString("webhook-id", "msg_1")
	out, err := v.Sign(req, benchTime)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var benchTime = time.Unix(1760000000, 0)

// fieldsSpec is the k=v header of many senders: t=…,v1=….
var fieldsSpec = Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Format: "fields", Fields: []string{"v1"}, Timestamp: "field:t", Signed: "{timestamp}.{body}", Tolerance: 5 * time.Minute}

// taggedSpec is Standard Webhooks.
var taggedSpec = Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "base64", Header: "webhook-signature", Format: "tagged", Fields: []string{"v1"}, Key: "whsec", ID: "webhook-id", Timestamp: "header:webhook-timestamp", Signed: "{id}.{timestamp}.{body}", Tolerance: 5 * time.Minute}

func mustCompile(t testing.TB, spec Spec, secrets ...string) *Verifier {
	t.Helper()
	var list []Secret
	for _, s := range secrets {
		list = append(list, NewSecret([]byte(s)))
	}
	v, err := Compile(spec, list, Options{PublicURL: "https://hooks.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func BenchmarkVerifyFields(b *testing.B) {
	v := mustCompile(b, fieldsSpec, "secret")
	benchmark(b, v)
}

func BenchmarkVerifyTagged(b *testing.B) {
	v := mustCompile(b, taggedSpec, "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v")
	benchmark(b, v)
}

func benchmark(b *testing.B, v *Verifier) {
	req := signedKiB(b, v)
	b.ReportAllocs()
	for b.Loop() {
		if !v.Verify(req, benchTime).OK {
			b.Fatal("refused")
		}
	}
}

func TestVerifyAllocatesAtMostThreeTimes(t *testing.T) {
	if raceEnabled {
		t.Skip("pools do not hold under the race detector")
	}
	for name, v := range map[string]*Verifier{"fields": mustCompile(t, fieldsSpec, "secret"), "tagged": mustCompile(t, taggedSpec, "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v")} {
		req := signedKiB(t, v)
		if n := testing.AllocsPerRun(200, func() { v.Verify(req, benchTime) }); n > 3 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

// BenchmarkBesideBareHMAC compares a verification with the bare keyed hash of the same message, in short interleaved batches: with hmac.New for each
// (x-bare; the bar is 1.3), and with one hash that is reset and used again, as the engine does (x-reset). The fastest batch of each counts, since
// whatever else the machine does only adds to the others.
func BenchmarkBesideBareHMAC(b *testing.B) {
	v := mustCompile(b, fieldsSpec, "secret")
	req := signedKiB(b, v)
	key, stamp := []byte("secret"), []byte("1760000000.")
	again := hmac.New(sha256.New, key)
	var sum [32]byte
	const batch = 50
	best := [3]time.Duration{time.Hour, time.Hour, time.Hour}
	for b.Loop() {
		for i, run := range [3]func(){
			func() {
				h := hmac.New(sha256.New, key)
				h.Write(stamp)
				h.Write(req.Body)
				h.Sum(sum[:0])
			},
			func() {
				again.Reset()
				again.Write(stamp)
				again.Write(req.Body)
				again.Sum(sum[:0])
			},
			func() {
				if !v.Verify(req, benchTime).OK {
					b.Fatal("refused")
				}
			},
		} {
			begin := time.Now()
			for range batch {
				run()
			}
			best[i] = min(best[i], time.Since(begin))
		}
	}
	b.ReportMetric(float64(best[2])/float64(best[0]), "x-bare")
	b.ReportMetric(float64(best[2])/float64(best[1]), "x-reset")
	b.ReportMetric(float64(best[2])/batch, "ns-verify")
}
