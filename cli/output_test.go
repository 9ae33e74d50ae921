package cli

import (
	"errors"
	"io"
	"testing"

	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/internal/admintest"
)

var errFullDisk = errors.New("no space left on device")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFullDisk }

// What cannot be written ends a command with an error, whatever the format.
func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	for _, format := range []string{"table", "json", "ndjson"} {
		e := newEnv(nil, fullDisk{}, io.Discard)
		e.output = format
		if err := e.printChange(&client.Change{Raw: []byte("{}")}); !errors.Is(err, errFullDisk) {
			t.Errorf("tail -o %s: %v", format, err)
		}
		g := admintest.Start(t, nil)
		g.Receive(t, "stripe", "evt_dead", admintest.Dead)
		e.admin = g.URL
		if err := e.replayOne(t.Context(), "", "evt_dead", &replayFlags{}); !errors.Is(err, errFullDisk) {
			t.Errorf("replay -o %s: %v", format, err)
		}
	}
}
