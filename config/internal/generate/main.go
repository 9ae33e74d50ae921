// Command generate writes what follows from the Config structs: config.example.yaml and docs/hooktender.schema.json, and the copies of
// them that the binary carries. Run it with: go generate ./config
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hooktender/hooktender/packed"
)

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func write() error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	files, err := generate(root)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(root, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate gives every generated file by its path from the root of the module.
func generate(root string) (map[string][]byte, error) {
	src := &sources{root: root}
	c, err := seedConfig()
	if err != nil {
		return nil, err
	}
	example, schema := exampleFile(c, src), schemaFile(c, src)
	if src.err != nil {
		return nil, src.err
	}
	files := map[string][]byte{"config.example.yaml": example, "docs/hooktender.schema.json": schema}
	for name, text := range map[string][]byte{"config/example.yaml.gz": example, "config/schema.json.gz": compact(schema)} { // Schema indents it again
		if files[name], err = packed.Pack(text); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// compact is JSON without white space. What schemaFile writes is JSON.
func compact(b []byte) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		panic(err)
	}
	return out.Bytes()
}
