package event

import (
	"bytes"
	"testing"
)

// Each byte at each place of texts around the eight that are looked at together, alone and between bytes that make the arithmetic carry.
func TestIsText(t *testing.T) {
	for _, fill := range []byte{' ', '\t', 'x', 0x7e, 0x80, 0xff} {
		for n := range 20 {
			for at := range n {
				for c := range 256 {
					b := bytes.Repeat([]byte{fill}, n)
					b[at] = byte(c)
					if got, want := IsText(b), c == '\t' || c >= ' ' && c != 0x7f; got != want {
						t.Fatalf("%q: %t", b, got)
					}
				}
			}
		}
	}
	if !IsText(nil) {
		t.Error("nothing is text")
	}
}
