//go:build linux

package main

import (
	"syscall"
	"time"
	"unsafe"
)

// The loops of sink and load read and write sockets that never block, so they need not tell the scheduler: that saves a good part of a system call.

func rawRead(fd int, b []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err == syscall.EINTR {
		return rawRead(fd, b)
	}
	return int(n), err
}

func rawWrite(fd int, b []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err == syscall.EINTR {
		return rawWrite(fd, b)
	}
	return int(n), err
}

const sysEpollPwait2 = 441 // Linux 5.11: the only one with a timeout below a millisecond

// epollWait waits at most d for events.
func epollWait(epoll int, events []syscall.EpollEvent, d time.Duration) (int, error) {
	ts := syscall.NsecToTimespec(int64(d))
	for {
		n, _, err := syscall.Syscall6(sysEpollPwait2, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		switch err {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, err
	}
}
