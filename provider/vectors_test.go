package provider

import (
	"encoding/json"
	"os"
	"testing"
)

// vectorFiles are the corpus, and what the project adds to it: further senders, forms in parts, the examples of RFC 9421, bounds; and genuine
// requests spoiled in every way that their schemes define, for rows that the other two give few negatives (internal/negatives makes them).
var vectorFiles = []string{"../verify/testdata/vectors.json", "../verify/testdata/more.json", "../verify/testdata/negatives.json"}

func loadVectors(t testing.TB) []Vector {
	t.Helper()
	var all []Vector
	for _, name := range vectorFiles {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var list []Vector
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, list...)
	}
	return all
}

func TestEveryVectorIsJudgedAsExpected(t *testing.T) {
	bad := 0
	for _, v := range loadVectors(t) {
		if got := v.Judge(); got.Verdict != v.Expect {
			bad++
			t.Errorf("%s/%s: %s (%s), want %s: %s", v.Provider, v.Name, got.Verdict, got.Why, v.Expect, v.Why)
		}
	}
	t.Logf("%d disagree", bad)
}
