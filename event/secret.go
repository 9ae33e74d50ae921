package event

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
