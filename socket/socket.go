// Package socket reads from and writes to sockets without ever waiting. The runtime, which makes room for another thread around each system call
// because it may block, is told nothing of these calls: they cost it nothing, and a thread that the kernel takes its time with is not replaced.
package socket

import "syscall"

// Read reads what is there. The error is syscall.EAGAIN where nothing is; n is 0 with any error and at the end of the stream.
func Read(fd uintptr, p []byte) (n int, err error) {
	for {
		if n, errno := recv(fd, p); errno != syscall.EINTR {
			return result(n, errno)
		}
	}
}

// Write writes what there is room for. The error is syscall.EAGAIN where there is none; n is 0 with any error.
func Write(fd uintptr, p []byte) (n int, err error) {
	for {
		if n, errno := send(fd, p); errno != syscall.EINTR {
			return result(n, errno)
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, eagain
	}
	return 0, errno
}

// eagain is an error made once: it comes often.
var eagain error = syscall.EAGAIN
