// Pack writes FILE.gz beside each FILE. Run it with go generate.
package main

import (
	"fmt"
	"os"

	"github.com/hooktender/hooktender/packed"
)

func main() {
	for _, name := range os.Args[1:] {
		if err := pack(name); err != nil {
			fmt.Fprintln(os.Stderr, "pack:", err)
			os.Exit(1)
		}
	}
}

func pack(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b, err := packed.Pack(text)
	if err != nil {
		return err
	}
	return os.WriteFile(name+".gz", b, 0o644)
}
