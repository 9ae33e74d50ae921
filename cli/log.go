package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A logWriter writes the log to a pipe, socket or terminal, which whoever reads it may leave full: a line waits for at most patience then, and once one has waited in vain lines are
// left out until there is room. Senders and deliveries, which write a line each, would wait with it for good. Safe for concurrent use: as the process ends with an error, lines of the log
// may still come beside it.
type logWriter struct {
	to       *os.File
	poll     [1]unix.PollFd // asks for room in it
	patience time.Duration
	now      func() time.Time

	mu      sync.Mutex
	leftOut int  // lines, since the last one that was written
	cut     bool // the last one written has no end
}

// atOnce is what a pipe takes without waiting once it says that it takes anything: a page.
const atOnce = 4096

// logTo is w, or a logWriter to it where w is no regular file.
func logTo(w io.Writer, now func() time.Time) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	info, err := f.Stat()
	if err != nil || info.Mode().IsRegular() {
		return w
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return w
	}
	l := &logWriter{to: f, patience: time.Second, now: now}
	err = raw.Control(func(fd uintptr) { // not Fd, which changes how a file is written to
		l.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
		if info.Mode()&os.ModeCharDevice == 0 {
			return
		}
		// A terminal says that it has room where it takes a byte, and a write waits for the rest: opened once more, apart from the shell's, it can have a deadline.
		if own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err == nil {
			l.to = own
		}
	})
	if err != nil {
		return w
	}
	return l
}

// put writes what may take as long as patience, where the file knows deadlines.
func (l *logWriter) put(b []byte) (int, error) {
	_ = l.to.SetWriteDeadline(time.Now().Add(l.patience))
	return l.to.Write(b)
}

// Write implements io.Writer; b is a line. Before it stands how many lines were left out.
func (l *logWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, patience := b, l.patience
	if l.leftOut > 0 {
		text, patience = append(l.notice(), b...), 0
	}
	notice := len(text) - len(b)
	for at := 0; at < len(text); patience = l.patience {
		n, err := 0, os.ErrDeadlineExceeded
		if l.room(patience) {
			n, err = l.put(text[at:min(at+atOnce, len(text))])
		}
		at += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if at >= notice { // it was told how many before this one
				l.leftOut = 0
			}
			if l.leftOut++; at > 0 {
				l.cut = at != notice
			}
			return len(b), nil
		}
		if err != nil {
			return 0, err
		}
	}
	l.leftOut, l.cut = 0, false
	return len(b), nil
}

// notice says how many lines were left out.
func (l *logWriter) notice() []byte {
	end := ""
	if l.cut {
		end = "\n"
	}
	return fmt.Appendf(nil, "%s{\"time\":%q,\"level\":\"WARN\",\"msg\":\"lines of the log are left out: nobody read it\",\"left_out\":%d}\n", end, l.now().Format(time.RFC3339Nano), l.leftOut)
}

// room waits for room. What cannot be asked has it: the error of the write says more.
func (l *logWriter) room(patience time.Duration) bool {
	for end := l.now().Add(patience); ; patience = max(0, end.Sub(l.now())) {
		if n, err := unix.Poll(l.poll[:], int(patience.Milliseconds())); err != unix.EINTR {
			return n > 0 || err != nil
		}
	}
}
