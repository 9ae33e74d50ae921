package config

import (
	_ "embed" // for the generated files
	"slices"
)

//go:generate go run ./internal/generate

//go:embed example.yaml
var example []byte

//go:embed schema.json
var schema []byte

// Example is config.example.yaml: every key with its documentation and default. It loads when ORDERS_SECRET and HOOKTENDER_TOKEN are
// set in the environment.
func Example() []byte { return slices.Clone(example) }

// Schema is the JSON Schema (2020-12) of the file.
func Schema() []byte { return slices.Clone(schema) }
