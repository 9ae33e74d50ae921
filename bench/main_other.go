//go:build !linux

// Command bench measures what an event costs. It needs Linux: epoll and /proc.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux (epoll, /proc)")
	os.Exit(1)
}
