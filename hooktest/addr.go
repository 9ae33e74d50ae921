package hooktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Ports that FreeAddr takes: below those that a system gives away by itself (from 32768 on, on Linux), so that one that is free while a gateway is down stays free.
const (
	firstPort = 11_000
	ports     = 20_000
)

var (
	portsFrom = rand.IntN(ports) // processes that run side by side begin elsewhere
	portsUsed atomic.Int64
)

// FreeAddr is a loopback address that nobody listens on. A process gets another one each time. Safe for concurrent use.
func FreeAddr() (string, error) {
	for range 1000 {
		if l, err := listenOnce(fmt.Sprintf("127.0.0.1:%d", firstPort+(portsFrom+int(portsUsed.Add(1)))%ports), true); err == nil {
			return l.Addr().String(), nil
		}
	}
	return "", errors.New("no free port")
}

// listen listens on an address that was closed before, perhaps a moment ago: a process that was being started has it for as long as its exec takes.
func listen(addr string) (l net.Listener, err error) {
	for range 100 {
		if l, err = listenOnce(addr, false); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return l, err
}

// listenOnce listens, for a moment only if probe is set, while no process is being started: a child has what is open here.
func listenOnce(addr string, probe bool) (net.Listener, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := net.Listen("tcp", addr)
	if err == nil && probe {
		err = l.Close()
	}
	return l, err
}
