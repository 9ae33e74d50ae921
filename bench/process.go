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
)

// processes are the children of this run; stop ends exactly these.
type processes struct {
	dir  string
	cmds []*exec.Cmd
}

// start starts a child and waits (≤ 15 s) until it listens on addr.
func (p *processes) start(addr string, env []string, name string, args ...string) (int, error) {
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr, cmd.Dir = append(os.Environ(), env...), &stderr, p.dir
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	p.cmds = append(p.cmds, cmd)
	for range 1500 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
			return cmd.Process.Pid, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("%s does not listen on %s: %s", filepath.Base(name), addr, stderr.String())
}

func (p *processes) stop() {
	for _, c := range p.cmds {
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range p.cmds {
		done := make(chan struct{})
		go func() { _ = c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
	}
}

// startNginx starts nginx as a plain proxy and gives the pid of its worker.
func startNginx(p *processes, nginx, addr, sink string) (int, error) {
	conf := filepath.Join(p.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log stderr error;
events { worker_connections 1024; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_body_buffer_size 64k; keepalive_requests 100000000;
  upstream sink { server %[3]s; keepalive 128; keepalive_requests 100000000; }
  server { listen %[2]s; location / { proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
`, p.dir, addr, sink)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return 0, err
	}
	master, err := p.start(addr, nil, nginx, "-c", conf, "-e", "stderr")
	if err != nil {
		return 0, err
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
	if err != nil {
		return master, nil
	}
	fields := strings.Fields(string(raw))
	if len(fields) == 0 {
		return master, nil
	}
	return strconv.Atoi(fields[0])
}

// cpuSeconds is the CPU time that a process has used (user and system), from /proc.
func cpuSeconds(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(raw, ')')
	f := strings.Fields(string(raw[i+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // USER_HZ
}

// residentBytes is the resident memory of a process.
func residentBytes(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(raw))
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
