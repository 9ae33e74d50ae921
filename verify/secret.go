// Package verify judges signatures: bytes in, verdict out. It knows schemes (a MAC, a digest, a token, a public-key
// signature, a JWT, RFC 9421), no vendors; it does no I/O of its own and starts nothing.
//
// Rules that hold for every scheme: the raw bytes are what is signed; a header that matters is there exactly once;
// a header is at most MaxHeader bytes and names at most MaxCandidates signatures; base64 is strict, hex may be in either
// case; MACs and tokens are compared in constant time, all secrets and candidates are tried, and the signature is judged
// before its age.
package verify

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is key material. Whatever prints it writes "[secret]".
type Secret struct{ b []byte }

const redacted = "[secret]"

// NewSecret copies b.
func NewSecret(b []byte) Secret { return Secret{append([]byte(nil), b...)} }

// Bytes is the material itself. The caller must not change it.
func (s Secret) Bytes() []byte { return s.b }

// String is "[secret]".
func (s Secret) String() string { return redacted }

// GoString is "[secret]".
func (s Secret) GoString() string { return redacted }

// Format writes "[secret]" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText gives "[secret]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON gives "[secret]" in quotes.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML gives "[secret]".
func (s Secret) MarshalYAML() (any, error) { return redacted, nil }

// LogValue gives "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
