package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hooktender/hooktender/packed"
)

func TestGeneratedFilesAreFresh(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err == nil && filepath.Ext(name) == ".gz" { // another version of Go may pack it otherwise
			want = packed.Embedded(want)
			got, err = packed.Unpack(got)
		}
		if err != nil {
			t.Errorf("%v; run: go generate ./config", err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is stale; run: go generate ./config", name)
		}
	}
}
