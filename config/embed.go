package config

import (
	"bytes"
	_ "embed" // for the generated files
	"encoding/json"

	"github.com/hooktender/hooktender/packed"
)

//go:generate go run ./internal/generate

//go:embed example.yaml.gz
var example []byte

//go:embed schema.json.gz
var schema []byte

// Example is config.example.yaml: every key with its documentation and default. It loads when ORDERS_SECRET and HOOKTENDER_TOKEN are
// set in the environment.
func Example() []byte { return packed.Embedded(example) }

// Schema is the JSON Schema (2020-12) of the file.
func Schema() []byte {
	var out bytes.Buffer
	_ = json.Indent(&out, packed.Embedded(schema), "", "  ") // generated, and tested: it is JSON
	return append(out.Bytes(), '\n')
}
