package proxy

import (
	"net"
	"syscall"
)

// quiet lets nobody new knock: the kernel drops what would begin a connection (SYN without ACK, RFC 9293 §3.1), while those that it has
// answered already come into the backlog. Whoever is late tries again by itself and is then refused, before anything was sent. Without it
// a connection that comes between the last look at the backlog and the listener's end would be reset with its request.
func quiet(ln net.Listener) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	const flags, syn, synAck = 13, 0x02, 0x12 // of the TCP header
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.AttachLsf(int(fd), []syscall.SockFilter{ // where it cannot be done, the window stays open as everywhere
			*syscall.LsfStmt(syscall.BPF_LD|syscall.BPF_B|syscall.BPF_ABS, flags),
			*syscall.LsfStmt(syscall.BPF_ALU|syscall.BPF_AND|syscall.BPF_K, synAck),
			*syscall.LsfJump(syscall.BPF_JMP|syscall.BPF_JEQ|syscall.BPF_K, syn, 0, 1),
			*syscall.LsfStmt(syscall.BPF_RET|syscall.BPF_K, 0),
			*syscall.LsfStmt(syscall.BPF_RET|syscall.BPF_K, 0xffff),
		})
	})
}
