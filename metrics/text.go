package metrics

import (
	"os"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strconv"
	"strings"
	"syscall"
)

// ContentType is that of AppendText: Prometheus' text exposition format
// (https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4. The format is a few lines of code; a library for it
// weighs half a MiB in the binary.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// text is an exposition that is being written.
type text struct{ b []byte }

// head begins a metric. help must hold no line feed and no backslash.
func (t *text) head(name, help string, k kind) {
	t.b = append(append(append(append(append(t.b, "# HELP "...), name...), ' '), help...), '\n')
	t.b = append(append(append(append(append(t.b, "# TYPE "...), name...), ' '), k...), '\n')
}

// sample writes one line.
func (t *text) sample(name string, v float64, names, values []string) {
	t.b = append(t.b, name...)
	for i, n := range names {
		t.b = append(t.b, "{,"[min(i, 1)])
		t.b = append(append(append(t.b, n...), "=\""...), escape.Replace(strings.ToValidUTF8(values[i], "\ufffd"))...)
		t.b = append(t.b, '"')
	}
	if len(names) > 0 {
		t.b = append(t.b, '}')
	}
	t.b = append(append(append(t.b, ' '), number(v)...), '\n')
}

// escape is for label values.
var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// runtime writes the usual metrics of a Go process, under the names that dashboards know.
func (t *text) runtime() {
	one := func(name, help string, k kind, v float64) {
		t.head(name, help, k)
		t.sample(name, v, nil, nil)
	}
	read := []runtimemetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	runtimemetrics.Read(read)
	one("go_goroutines", "Goroutines that exist.", gauge, float64(runtime.NumGoroutine()))
	one("go_memstats_alloc_bytes", "Bytes in heap objects, dead ones that are not swept yet included.", gauge, float64(read[0].Value.Uint64()))
	one("go_memstats_sys_bytes", "Bytes obtained from the system.", gauge, float64(read[1].Value.Uint64()))
	one("go_gc_cycles_total", "Completed garbage collections.", counter, float64(read[2].Value.Uint64()))
	t.head("go_info", "The Go version.", gauge)
	t.sample("go_info", 1, []string{"version"}, []string{runtime.Version()})
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) == nil {
		seconds := func(v syscall.Timeval) float64 { return float64(v.Nano()) / 1e9 }
		one("process_cpu_seconds_total", "User and system CPU time.", counter, seconds(use.Utime)+seconds(use.Stime))
	}
	if raw, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(raw)); len(f) > 1 {
			pages, _ := strconv.ParseFloat(f[1], 64)
			one("process_resident_memory_bytes", "Resident memory.", gauge, pages*float64(os.Getpagesize()))
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		one("process_open_fds", "Open file descriptors.", gauge, float64(len(fds)))
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		one("process_max_fds", "The most file descriptors that may be open.", gauge, float64(limit.Cur))
	}
	one("process_start_time_seconds", "When the process began, in Unix seconds.", gauge, float64(began.UnixNano())/1e9)
}
