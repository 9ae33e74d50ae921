//go:build !linux || (!amd64 && !arm64) || race

package socket

import "syscall"

// The race detector sees these calls, and what they order.

func recv(fd uintptr, p []byte) (uintptr, syscall.Errno) { return plain(syscall.Read(int(fd), p)) }

func send(fd uintptr, p []byte) (uintptr, syscall.Errno) { return plain(syscall.Write(int(fd), p)) }

func plain(n int, err error) (uintptr, syscall.Errno) {
	errno, _ := err.(syscall.Errno)
	return uintptr(max(n, 0)), errno
}
