package gateway

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hooktender/hooktender/proxy"
)

// A renewed certificate that the gateway may not read yet is looked at again once it may: nothing else of the file changes then.
func TestAFileThatMayBeReadNowIsAnother(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(cert, []byte("renewed"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(&proxy.TLSConfig{Cert: cert})
	if err := os.Chmod(cert, 0o640); err != nil {
		t.Fatal(err)
	}
	if fingerprint(&proxy.TLSConfig{Cert: cert}) == before {
		t.Error("the change is not seen")
	}
}
