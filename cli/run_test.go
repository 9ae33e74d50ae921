package cli

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hooktender/hooktender/gateway"
	"github.com/hooktender/hooktender/journal"
)

// The gateway ended with 74 as its disk failed, and stderr did not name a section of the page on operations, as that says of it.
func TestExit74NamesASection(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := "\n" + strings.ReplaceAll(strings.ToLower(string(page)), " ", "-")
	names := func(err error, section string) {
		t.Helper()
		if !strings.HasSuffix(err.Error(), operations+section) || !strings.Contains(headings, "\n##-"+section+"\n") {
			t.Errorf("%v\nnames another section than %q, or the page has none of that name", err, section)
		}
	}
	for _, r := range refusals {
		names(refusal(r.is), r.section)
	}
	names(failure(fmt.Errorf("%w: fsync: %w", gateway.ErrJournal, syscall.EIO)), "the-disk-fails")
	names(failure(fmt.Errorf("%w: %w", gateway.ErrJournal, journal.ErrDamaged)), "the-journal-is-damaged")
}
