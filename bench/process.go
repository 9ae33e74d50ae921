//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hooktender/hooktender/hooktest"
)

// processes are the children of this run; stop ends exactly these.
type processes struct {
	dir  string
	cmds []*exec.Cmd
}

// start starts a child and waits (≤ 60 s) until it listens on addr.
func (p *processes) start(addr string, env []string, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr, cmd.Dir = append(os.Environ(), env...), &stderr, p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.cmds = append(p.cmds, cmd)
	for range 6000 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
			return cmd, nil
		}
		if !running(cmd.Process.Pid) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.end(cmd)
	return nil, fmt.Errorf("%s does not listen on %s: %s", filepath.Base(name), addr, stderr.String())
}

// running says whether a child has not ended yet (a zombie has).
func running(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(raw, ')')
	return i+2 < len(raw) && raw[i+2] != 'Z'
}

// stop ends all children.
func (p *processes) stop() {
	for _, c := range p.cmds {
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	for len(p.cmds) > 0 {
		p.end(p.cmds[0])
	}
}

// end ends one child: SIGTERM, and SIGKILL after 15 s.
func (p *processes) end(c *exec.Cmd) {
	for i := range p.cmds {
		if p.cmds[i] == c {
			p.cmds = append(p.cmds[:i], p.cmds[i+1:]...)
			break
		}
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = c.Process.Kill()
		<-done
	}
}

// usage is what a process has used so far.
type usage struct {
	cpu     float64 // seconds, user and system
	written int64   // bytes that went to the disk's queue
}

func usageOf(pid int) usage { return usage{cpu: cpuSeconds(pid), written: writtenBytes(pid)} }

// cpuSeconds is the CPU time that a process has used; 0 if it has gone.
func cpuSeconds(pid int) float64 {
	used, _ := hooktest.CPU(pid)
	return used.Seconds()
}

// writtenBytes is what a process has had written to disk; 0 where the kernel does not say.
func writtenBytes(pid int) int64 {
	return field(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
}

// anonymousBytes is the resident memory of a process that is its own, without mapped files.
func anonymousBytes(pid int) int64 {
	return field(fmt.Sprintf("/proc/%d/status", pid), "RssAnon:") << 10
}

// residentBytes is the resident memory of a process.
func residentBytes(pid int) int64 { return field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:") << 10 }

// field reads the first number after a name in a file of /proc.
func field(path, name string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				return n
			}
		}
	}
	return 0
}
