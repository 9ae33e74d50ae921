package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/config"
)

// The sources that docs/ordering.md recommends are valid, each and all together.
func TestOrderingByTheBook(t *testing.T) {
	raw, err := os.ReadFile("../docs/ordering.md")
	if err != nil {
		t.Fatal(err)
	}
	all, n := "version: 1\nsources:\n", 0
	for rest := string(raw); ; n++ {
		_, block, ok := strings.Cut(rest, "```yaml\n")
		if !ok {
			break
		}
		block, rest, _ = strings.Cut(block, "```")
		all += block
	}
	cfg, err := config.Parse("ordering.md", []byte(all), func(string) (string, bool) { return "a-secret-of-32-bytes-0123456789abc", true })
	if err != nil {
		t.Fatal(err)
	}
	if n < 5 || len(cfg.Sources) != n {
		t.Errorf("%d sources in %d blocks", len(cfg.Sources), n)
	}
	for _, w := range cfg.Warnings {
		if !strings.Contains(w.String(), "admin") {
			t.Errorf("a warning: %s", w)
		}
	}
}
