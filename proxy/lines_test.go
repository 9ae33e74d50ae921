package proxy

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/hooktender/hooktender/event"
	"github.com/hooktender/hooktender/verify"
)

// Anybody can send what is refused, as fast as the network takes it, and each time was a line: a stranger could fill the disk that the log is on.
func TestRefusedRequestsWriteFewLines(t *testing.T) {
	v, err := verify.Compile(verify.Spec{Scheme: "hmac", Algorithm: "sha256", Encoding: "hex", Header: "X-Signature", Signed: "{body}"}, []verify.Secret{verify.NewSecret([]byte("a secret of enough bytes"))}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	p := NewPipeline(nil, nil, nil, slog.New(slog.NewJSONHandler(&said, nil)))
	s := &Source{Name: "s", Verifier: v}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	forge := func(at time.Time, n int, head event.Head) {
		t.Helper()
		for range n {
			r, done := p.verify(&visit{src: s, req: &event.Request{Head: head}, began: at})
			if !done || r.status != 401 || r.outcome != "rejected" {
				t.Fatalf("%v, %d %s", done, r.status, r.outcome)
			}
		}
	}
	const linesAMinute = 20
	now := time.Now()
	forged := event.Head(nil).AppendString("X-Signature", "00")
	forge(now, 1000, forged)
	forge(now, 1, nil) // another reason has lines of its own
	forge(now.Add(time.Minute), 1, forged)
	var lines, left int
	by := map[string]int{}
	for d := json.NewDecoder(&said); d.More(); lines++ {
		var line struct {
			Check string
			Left  int `json:"left_out"`
		}
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		by[line.Check]++
		left += line.Left
	}
	if lines != linesAMinute+2 || left != 1000-linesAMinute || by["missing"] != 1 {
		t.Errorf("%d lines %v, %d left out", lines, by, left)
	}
}
