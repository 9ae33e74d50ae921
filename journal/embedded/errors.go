package embedded

import (
	"fmt"
	"os"

	"github.com/hooktender/hooktender/journal"
)

// damaged is journal.ErrDamaged for a file.
func damaged(path, what string) error {
	return fmt.Errorf("%w: %s: %s", journal.ErrDamaged, path, what)
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
