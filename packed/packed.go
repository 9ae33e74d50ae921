// Package packed is for texts that the binary carries compressed, because there every byte counts.
package packed

import (
	"bytes"
	"compress/gzip"
	"io"
)

// Pack compresses a text (gzip, RFC 1952), the same way each time.
func Pack(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(text); err != nil {
		return nil, err
	}
	if err = w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Unpack gives the text that Pack was given. The error tells of bytes that Pack did not make.
func Unpack(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Embedded is Unpack for what is in the binary and tested there; it panics where that is no packed text.
func Embedded(b []byte) []byte {
	text, err := Unpack(b)
	if err != nil {
		panic("packed: " + err.Error())
	}
	return text
}
