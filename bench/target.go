//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hooktender/hooktender/hooktest"
)

// target is one process under load.
type target struct {
	name     string
	addr     string
	path     string
	admin    string // of hooktender; "" for plain proxies
	pid      int
	cmd      *exec.Cmd
	answered []uint64 // the last numbers that it answered, for repeats
	at       int
}

const remembered = 20_000 // well within dedup.cache, well above what is in flight

func (t *target) remember(n uint64) {
	if len(t.answered) < remembered {
		t.answered = append(t.answered, n)
		return
	}
	t.answered[t.at] = n
	t.at = (t.at + 1) % remembered
}

func (t *target) recall() uint64 { return t.answered[rand.IntN(len(t.answered))] }

// modes are hooktender as it is measured.
var modes = []struct{ name, mode, sync string }{
	{"nosync", "hybrid", "none"}, {"proxy-mode", "proxy", "always"}, {"hybrid", "hybrid", "always"}, {"store", "store", "always"},
}

func modeNames() []string {
	out := make([]string, len(modes))
	for i, m := range modes {
		out[i] = m.name
	}
	return out
}

// peerStarts are the proxies that -peers may name.
var peerStarts = map[string]func(p *processes, binary, addr, sink string) (*exec.Cmd, error){
	"nginx": startNginx, "haproxy": startHAProxy, "skeleton": startSkeleton("skeleton"), "skeleton-nosync": startSkeleton("skeleton-nosync"),
}

// fleet is everything that runs.
type fleet struct {
	*processes
	o      options
	self   string
	sink   string
	plain  []*target // the built-in proxy first, then the peers
	byMode []*target
}

// newFleet starts the sink, the plain proxies and hooktender in each mode.
func newFleet(o options, dir string) (*fleet, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &fleet{processes: &processes{dir: dir}, o: o, self: self}
	if err := f.startAll(); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f *fleet) startAll() error {
	if f.o.binary == "" {
		f.o.binary = filepath.Join(f.dir, "hooktender")
		build := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", f.o.binary, "github.com/hooktender/hooktender")
		build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	binary, err := filepath.Abs(f.o.binary)
	if err != nil {
		return err
	}
	f.o.binary = binary
	if f.sink, err = hooktest.FreeAddr(); err != nil {
		return err
	}
	if _, err := f.start(f.sink, nil, f.self, "-role", "sink", "-listen", f.sink); err != nil {
		return err
	}
	if err := f.startPlain("proxy", f.self, func(p *processes, binary, addr, sink string) (*exec.Cmd, error) {
		return p.start(addr, nil, binary, "-role", "proxy", "-listen", addr, "-upstream", sink)
	}); err != nil {
		return err
	}
	for _, name := range list(f.o.peers) {
		start := peerStarts[name]
		if start == nil {
			return fmt.Errorf("no peer is called %q", name)
		}
		binary := f.self
		if !strings.HasPrefix(name, "skeleton") {
			var err error
			if binary, err = exec.LookPath(name); err != nil {
				return fmt.Errorf("-peers %s: %w", name, err)
			}
		}
		if err := f.startPlain(name, binary, start); err != nil {
			return err
		}
	}
	for _, m := range modes {
		if f.o.only != "" && !slices.Contains(list(f.o.only), m.name) {
			continue
		}
		t, err := f.startGateway(f.o.binary, m.name, filepath.Join(f.dir, m.name), m.mode, m.sync)
		if err != nil {
			return err
		}
		f.byMode = append(f.byMode, t)
		if f.o.other == "" {
			continue
		}
		other, err := filepath.Abs(f.o.other)
		if err != nil {
			return err
		}
		if t, err = f.startGateway(other, m.name+otherSuffix, filepath.Join(f.dir, "other-"+m.name), m.mode, m.sync); err != nil {
			return err
		}
		f.byMode = append(f.byMode, t)
	}
	return nil
}

// list splits a flag's value.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func (f *fleet) startPlain(name, binary string, start func(p *processes, binary, addr, sink string) (*exec.Cmd, error)) error {
	addr, err := hooktest.FreeAddr()
	if err != nil {
		return err
	}
	cmd, err := start(f.processes, binary, addr, f.sink)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	f.plain = append(f.plain, &target{name: name, addr: addr, path: "/bench", pid: cmd.Process.Pid, cmd: cmd})
	return nil
}

// otherSuffix is behind the mode's name where the binary is that of -other.
const otherSuffix = ", other"

// startGateway starts hooktender with its journal in dir, which may have been filled.
func (f *fleet) startGateway(binary, name, dir, mode, sync string) (*target, error) {
	addr, err := hooktest.FreeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := hooktest.FreeAddr()
	if err != nil {
		return nil, err
	}
	path := dir + ".yaml"
	nobody, err := hooktest.FreeAddr()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, []byte(gatewayConfig(addr, admin, dir, f.sink, nobody, mode, sync)), 0o600); err != nil {
		return nil, err
	}
	cmd, err := f.start(addr, []string{"BENCH_SECRET=" + secret}, binary, "run", "--config", path, "--log-level", "warn")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &target{name: name, addr: addr, path: "/bench", admin: admin, pid: cmd.Process.Pid, cmd: cmd}, nil
}

// gatewayConfig has the source that is measured, the same with lanes, and backlog, whose consumer does not listen.
func gatewayConfig(addr, admin, data, sink, nobody, mode, sync string) string {
	return fmt.Sprintf(`version: 1
listen: %[1]q
data_dir: %[2]q
admin: {listen: %[3]q}
journal: {min_free: 64MiB, sync: %[4]s}
upstreams:
  sink: {url: "http://%[5]s", max_in_flight: 256}
  nobody: {url: "http://%[6]s"}
sources:
  bench:
    path: /bench
    provider: custom
    secrets: [{env: BENCH_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource"}
    delivery: {mode: %[7]s, upstream: sink}
    limits: {pending: 1000000}
  lanes:
    path: /lanes
    provider: custom
    secrets: [{env: BENCH_SECRET}]
    verify: {scheme: hmac, algorithm: sha256, encoding: hex, header: X-Signature, prefix: "sha256=", signed: "{timestamp}.{body}", timestamp: "header:X-Timestamp", tolerance: 5m}
    identity: {id: "json:id", type: "json:type", resource: "json:resource"}
    ordering: {policy: serial}
    delivery: {mode: %[7]s, upstream: sink}
    limits: {pending: 1000000}
  backlog:
    path: /backlog
    provider: none
    insecure: true
    identity: {id: "json:id"}
    delivery: {mode: store, upstream: nobody}
    limits: {pending: 2000000}
`, addr, data, admin, sync, sink, nobody, mode)
}
