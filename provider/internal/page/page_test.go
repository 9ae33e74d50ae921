package main

import (
	"bytes"
	"os"
	"regexp"
	"testing"
)

func TestThePageIsCurrentAndItsRecipesAreThere(t *testing.T) {
	got, err := os.ReadFile("../../../docs/providers/README.md")
	if err != nil || !bytes.Equal(got, page()) {
		t.Fatalf("docs/providers/README.md is stale (run: go generate ./provider): %v", err)
	}
	links := regexp.MustCompile(`\]\(([a-z-]+\.md)\)`).FindAllSubmatch(got, -1)
	if len(links) < 15 {
		t.Errorf("only %d recipes", len(links))
	}
	for _, l := range links {
		if _, err := os.Stat("../../../docs/providers/" + string(l[1])); err != nil {
			t.Error(err)
		}
	}
}
