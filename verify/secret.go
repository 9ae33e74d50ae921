// Package verify judges signatures: bytes in, verdict out. It knows schemes (a MAC, a digest, a token, a public-key
// signature, a JWT, RFC 9421), no vendors; it does no I/O of its own and starts nothing.
//
// Rules that hold for every scheme: the raw bytes are what is signed; a header that matters is there exactly once;
// a header is at most MaxHeader bytes and names at most MaxCandidates signatures; base64 is strict, hex may be in either
// case; MACs and tokens are compared in constant time, all secrets and candidates are tried, and the signature is judged
// before its age.
package verify

import "github.com/hooktender/hooktender/event"

// Secret is key material. Whatever prints it writes "[secret]".
type Secret = event.Secret

// NewSecret copies b.
func NewSecret(b []byte) Secret { return event.NewSecret(b) }
