package admin

import (
	"bytes"
	"os"
	"testing"

	"github.com/hooktender/hooktender/packed"
)

func TestThePackedDescriptionIsTheDescription(t *testing.T) {
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := packed.Embedded(openAPI); !bytes.Equal(got, want) {
		t.Fatal("openapi.json.gz is stale (run: go generate ./admin)")
	}
}
