package config

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The configurations in the recipes load as they are.
func TestTheRecipesLoad(t *testing.T) {
	files, err := filepath.Glob("../docs/providers/*.md")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d recipes, %v", len(files), err)
	}
	env := func(name string) (string, bool) {
		switch {
		case strings.HasSuffix(name, "DISCORD_PUBLIC_KEY"):
			return strings.Repeat("a1", 32), true
		case strings.HasSuffix(name, "PUBLIC_KEY"):
			return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))), true
		case name == "SENDGRID_VERIFICATION_KEY":
			return "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lfw0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==", true
		case name == "CLERK_WEBHOOK_SECRET", name == "OPENAI_WEBHOOK_SECRET":
			return "whsec_MfKQ9r8HpOcLmi0RWncNPIgZQgCZq83v", true
		}
		return "value-of-" + name, true
	}
	loaded := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			block, _, _ = strings.Cut(block, "```")
			loaded++
			if _, err := Parse(name, []byte(block), env); err != nil {
				t.Errorf("%v", err)
			}
		}
	}
	if loaded < 15 {
		t.Errorf("only %d", loaded)
	}
}
