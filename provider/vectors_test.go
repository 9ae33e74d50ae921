package provider

import (
	"encoding/json"
	"os"
	"testing"
)

const vectorsFile = "../verify/testdata/vectors.json"

func loadVectors(t testing.TB) []Vector {
	t.Helper()
	b, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var list []Vector
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	return list
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
