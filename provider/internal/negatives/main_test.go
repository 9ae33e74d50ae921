package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheNegativesAreUpToDate(t *testing.T) {
	const dir = "../../../verify/testdata/"
	want, err := negatives(dir+"vectors.json", dir+"more.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + "negatives.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("negatives.json is stale (run: go generate ./provider): %v", err)
	}
}
