package hooktest

import (
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that a process has taken so far, user and system, all its threads: its CPU clock (clock_getcpuclockid(3)). Where others
// share the machine it says more than the time of day. The error says that there is no such process.
func CPU(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
