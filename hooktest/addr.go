package hooktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
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
		port := firstPort + (portsFrom+int(portsUsed.Add(1)))%ports
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no free port")
}
