//go:build linux

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A request is signed as the gateway wants it, for every number and size, and its body is one JSON value of about the size asked for.
func TestRequestsAreSigned(t *testing.T) {
	for _, size := range []int{300, 1024, 8 << 10, 64 << 10} {
		f := newRequestForm("/bench", 7, size, time.Unix(1769000000, 0))
		for _, n := range []uint64{0, 1, 999_999_999_999} {
			raw := f.write(bytes.Clone(f.text), n)
			head, body, _ := bytes.Cut(raw, headEnd)
			if !json.Valid(body) || len(body) < size-64 || len(body) > size+64 {
				t.Fatalf("%d bytes: %d are JSON: %t", size, len(body), json.Valid(body))
			}
			h := hmac.New(sha256.New, []byte(secret))
			_, _ = io.WriteString(h, "1769000000.")
			_, _ = h.Write(body)
			if !strings.Contains(string(head)+"\r\n", "X-Signature: sha256="+hex.EncodeToString(h.Sum(nil))+"\r\n") {
				t.Fatalf("event %d of %d bytes is signed otherwise", n, size)
			}
			if got, ok := decimal(body[len(body)-2-idDigits : len(body)-2]); !ok || got != n {
				t.Fatalf("event %d says %d", n, got)
			}
		}
	}
}

func TestHistogramIsWithinOnePercent(t *testing.T) {
	var h histogram
	for i := range 100_000 {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 0.999: 99900 * time.Microsecond} {
		if got := h.at(q); got < want*99/100 || got > want*101/100 {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
}

func subjectOf(name string, cpu, rps float64, more ...float64) *subject {
	s := &subject{target: &target{name: name, admin: "x"}, name: name, rounds: []sample{{cpu: cpu, rps: rps}, {cpu: cpu, rps: rps}}}
	for _, m := range more {
		s.rounds = append(s.rounds, sample{cpu: cpu * m, rps: rps / m})
	}
	return s
}

func TestNoisyRunPrintsNothing(t *testing.T) {
	if err := noisy("", subjectOf("proxy", 1, 1, 1.2), 0.25); err != nil {
		t.Error(err)
	}
	if err := noisy("", subjectOf("proxy", 1, 1, 1.3), 0.25); !errors.Is(err, errNoisy) {
		t.Error(err)
	}
}

// A black hole is judged against two gateways without one, and not where those two differ as much.
func TestBlackHoleIsJudgedBesideAControl(t *testing.T) {
	quiet, loud := []float64{1, 1.02, 0.98, 1.01, 1, 0.99, 1, 1.01, 1}, []float64{1, 3, 0.4, 2, 1, 0.5, 1, 1.8, 0.6}
	flat := slices.Repeat([]float64{1}, len(quiet))
	slower := slices.Repeat([]float64{1.2}, len(quiet))
	for _, c := range []struct {
		again, hole []float64
		want        error
	}{{quiet, quiet, nil}, {quiet, slower, errBar}, {loud, slower, errNoisy}, {slower, slower, errNoisy}} {
		if err := judgeHole(flat, c.again, c.hole); !errors.Is(err, c.want) {
			t.Errorf("without %v, black hole %v: %v", c.again, c.hole, err)
		}
	}
}

func TestMissedBarsAndDearerTargetsAreNamed(t *testing.T) {
	proxy := subjectOf("proxy", 1, 1)
	if err := check(io.Discard, "saturation", []*subject{proxy, subjectOf("hybrid", 2.9, 0.43)}); err != nil {
		t.Error(err)
	}
	if err := check(io.Discard, "saturation", []*subject{proxy, subjectOf("hybrid", 3.1, 0.43)}); !errors.Is(err, errBar) || !strings.Contains(err.Error(), "CPU per request × proxy is 3.10") {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "ratios.txt")
	if err := os.WriteFile(path, []byte("# comment\nsaturation hybrid 2.00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := readRatios(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.against(io.Discard, "saturation", []*subject{proxy, subjectOf("hybrid", 2.29, 1)}); err != nil {
		t.Error(err)
	}
	if err := r.against(io.Discard, "saturation", []*subject{proxy, subjectOf("hybrid", 2.31, 1)}); !errors.Is(err, errDearer) {
		t.Error(err)
	}
}
