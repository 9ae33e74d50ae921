package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// What go test prints is read right, and a stage that allocates over 10 % more than committed is named.
func TestAStageThatAllocatesMoreIsNamed(t *testing.T) {
	got := map[string]figure{}
	out := "goos: linux\nBenchmarkKnown-2   \t 300\t 282.7 ns/op\t 64 B/op\t 22 allocs/op\nBenchmarkKnown-2   \t 300\t 300 ns/op\t 64 B/op\t 23 allocs/op\n" +
		"BenchmarkRequest/hybrid-16 \t 300\t 1234 ns/op\t 40.4 cpu-µs/event\t 64 B/op\t 52 allocs/op\nPASS\n"
	if err := parse("dedup", []byte(out), got); err != nil {
		t.Fatal(err)
	}
	if f := got["dedup Known"]; f.allocs != 22 || f.ns != 282.7 {
		t.Errorf("Known: %+v", f)
	}
	if f := got["dedup Request/hybrid"]; f.allocs != 52 {
		t.Errorf("Request/hybrid: %+v", f)
	}
	want := map[string]int64{}
	for _, s := range stages {
		got[key(s.pkg, s.bench)], want[key(s.pkg, s.bench)] = figure{allocs: 22}, 20
	}
	if err := compare(io.Discard, got, want); err != nil {
		t.Errorf("10 %% more: %v", err)
	}
	got["dedup Known"] = figure{allocs: 23}
	if err := compare(io.Discard, got, want); err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "dedup Known allocates 23") {
		t.Errorf("15 %% more in one stage: %v", err)
	}
	delete(want, "dedup New")
	if err := compare(io.Discard, got, want); err == nil || !strings.Contains(err.Error(), "dedup New is not in") {
		t.Errorf("a new stage: %v", err)
	}
}

// The committed file has every stage.
func TestBaselineIsComplete(t *testing.T) {
	raw, err := os.ReadFile("baseline.txt")
	if err != nil {
		t.Fatal(err)
	}
	want, err := read(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stages {
		if _, ok := want[key(s.pkg, s.bench)]; !ok {
			t.Errorf("%s %s is missing", s.pkg, s.bench)
		}
	}
}
