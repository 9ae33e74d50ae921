package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal that nobody reads says that it has room as long as it takes a byte: a write of a line waited for the rest for good.
func TestATerminalThatNobodyReadsHoldsNobodyUp(t *testing.T) {
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer m.Close()
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip(err)
	}
	fd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	s := os.NewFile(uintptr(fd), "terminal") // it blocks, as a shell's does
	defer s.Close()
	l := logTo(s, time.Now).(*logWriter)
	l.patience = 10 * time.Millisecond
	line := strings.Repeat("l", 301) + "\n"
	for l.leftOut < 20 { // it would stand still here
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
}
