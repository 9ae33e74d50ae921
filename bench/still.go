//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stillness knows for how long the machine as a whole stood still: where a virtual machine or a container may use only so much CPU time in each period (often
// 100 ms), nothing in it runs from where that is used up until the next one begins. Every request under way waits for those milliseconds, whoever it is meant
// for, and the CPU clock of whoever is at work runs on. It is a process of its own, which has nothing else to do.
type stillness struct {
	ask   io.WriteCloser
	reply *bufio.Reader
}

const (
	stillTick = 2 * time.Millisecond
	stillFrom = 2 * time.Millisecond // what a tick must be late by
)

// startStillness starts the process; it ends with this one, or with close.
func startStillness(self string) (*stillness, error) {
	cmd := exec.Command(self, "-role", "still")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ask, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	reply, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait() }()
	return &stillness{ask, bufio.NewReader(reply)}, nil
}

// seconds is for how long the machine has stood still so far; negative where nobody can know.
func (s *stillness) seconds() (float64, error) {
	if _, err := s.ask.Write([]byte{'\n'}); err != nil {
		return 0, err
	}
	line, err := s.reply.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(line), 64)
}

func (s *stillness) close() { _ = s.ask.Close() }

// runStill answers each line of stdin with the seconds so far, until that ends.
func runStill() error {
	var nanos atomic.Int64
	ready := make(chan bool)
	go watchStill(&nanos, ready)
	known := <-ready
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		seconds := -1.0
		if known {
			seconds = time.Duration(nanos.Load()).Seconds()
		}
		if _, err := fmt.Println(seconds); err != nil {
			return err
		}
	}
	return nil
}

// watchStill adds up by how much a thread that everybody has to make way for (SCHED_FIFO) comes back late from short sleeps. It says whether it may be one.
func watchStill(nanos *atomic.Int64, ready chan<- bool) {
	runtime.LockOSThread()
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Flags: unix.SCHED_FLAG_RESET_ON_FORK, Priority: 1}, 0)
	ready <- err == nil
	if err != nil {
		return
	}
	tick := unix.NsecToTimespec(int64(stillTick))
	for last := time.Now(); ; {
		_ = unix.Nanosleep(&tick, nil) // no timer of the runtime, which another thread would have to notice
		now := time.Now()
		if late := now.Sub(last) - stillTick; late > stillFrom {
			nanos.Add(int64(late))
		}
		last = now
	}
}
