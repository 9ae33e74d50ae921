//go:build !portable

package embedded

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An fsyncer does what fdatasync(2) does, but has the kernel do it (IOCB_CMD_FDSYNC of io_submit(2), Linux 4.18) and waits for the answer as for that
// of a socket: a thread that waits in fdatasync has to be replaced by another each time, and keeps the runtime's monitor looking every 20 µs.
// Where the kernel takes no such request (a container's filter, fs.aio-max-nr used up) it calls fdatasync. The zero value is ready; one goroutine at a
// time uses it.
type fsyncer struct {
	tried     bool
	context   uintptr         // of io_setup(2); 0 = there is none
	event     *os.File        // an eventfd; the kernel adds to it at each completion
	eventFD   uint32          // its descriptor
	readiness syscall.RawConn // of event

	request  iocb
	requests [1]*iocb
	result   ioEvent
}

// iocb and ioEvent are struct iocb and struct io_event of linux/aio_abi.h.
type iocb struct {
	data    uint64
	_       [2]uint32 // of reads and writes
	opcode  uint16
	_       int16
	fd      uint32
	_, _    uint64
	_       int64
	_       uint64
	flags   uint32
	eventFD uint32
}

type ioEvent struct {
	data, request  uint64
	result, second int64
}

const (
	iocbFdsync = 3 // IOCB_CMD_FDSYNC
	iocbEvent  = 1 // IOCB_FLAG_RESFD
)

// sync returns when everything that was written to f before the call is on disk. After an error nobody knows what is.
func (s *fsyncer) sync(f *os.File) error {
	if !s.tried {
		s.tried = true
		s.open()
	}
	if !s.submit(f) {
		return fdatasync(f)
	}
	return s.wait()
}

// open asks for what requests need; where it is not to be had, there is no context.
func (s *fsyncer) open() {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return
	}
	s.event, s.eventFD = os.NewFile(uintptr(fd), "eventfd"), uint32(fd)
	if s.readiness, err = s.event.SyscallConn(); err != nil {
		return
	}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&s.context)), 0); errno != 0 {
		s.context = 0
		return
	}
	if _, errno := s.reap(); errno != 0 { // a filter that lets only the others pass: nobody would hear of an end
		s.destroy()
	}
}

// destroy gives the context back.
func (s *fsyncer) destroy() {
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, s.context, 0, 0)
	s.context = 0
}

// submit says whether the kernel has taken the request. It reads that during the call only, which does not wait for the disk.
func (s *fsyncer) submit(f *os.File) bool {
	if s.context == 0 {
		return false
	}
	s.request = iocb{opcode: iocbFdsync, fd: uint32(f.Fd()), flags: iocbEvent, eventFD: s.eventFD}
	s.requests[0] = &s.request
	n, _, errno := unix.RawSyscall(unix.SYS_IO_SUBMIT, s.context, 1, uintptr(unsafe.Pointer(&s.requests)))
	return errno == 0 && n == 1
}

var errCompletion = errors.New("the kernel does not say whether it has synced")

// reap takes the result, if the request has ended, and says how many that were.
func (s *fsyncer) reap() (n uintptr, errno unix.Errno) {
	n, _, errno = unix.RawSyscall6(unix.SYS_IO_GETEVENTS, s.context, 0, 1, uintptr(unsafe.Pointer(&s.result)), 0, 0)
	return n, errno
}

// wait waits until the request has ended. The eventfd is not read: each completion makes it ready anew, and only its end says that the request has.
func (s *fsyncer) wait() error {
	var errno unix.Errno
	err := s.readiness.Read(func(uintptr) bool {
		var n uintptr
		n, errno = s.reap()
		return n == 1 || errno != 0 && errno != unix.EINTR
	})
	switch {
	case err != nil:
		return errors.Join(errCompletion, err)
	case errno != 0:
		return errors.Join(errCompletion, errno)
	case s.result.result < 0:
		return unix.Errno(-s.result.result)
	}
	return nil
}

// close gives back what open got.
func (s *fsyncer) close() error {
	if s.context != 0 {
		s.destroy()
	}
	if s.event == nil {
		return nil
	}
	return s.event.Close()
}
