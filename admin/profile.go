package admin

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"strings"
	"time"

	"github.com/hooktender/hooktender/admin/api"
)

// maxProfile bounds how long a profile or a trace may be taken.
const maxProfile = 60 * time.Second

// debugRoutes serve the runtime's profiles as `go tool pprof` and `go tool trace` fetch them. They show memory, so they need the scope admin.
// Package net/http/pprof would do it with 170 KiB more of a binary, for the difference of two profiles and a page of links.
func debugRoutes() []route {
	row := func(path string, h func(*call) error) route {
		return route{method: http.MethodGet, path: split("/debug/pprof/" + path), scope: api.ScopeAdmin, debug: true, handle: h}
	}
	return []route{
		row("", listProfiles),
		row("cmdline", func(c *call) error {
			_, _ = io.WriteString(c.plain(), strings.Join(os.Args, "\x00"))
			return nil
		}),
		row("profile", func(c *call) error { return c.record(30, pprof.StartCPUProfile, pprof.StopCPUProfile) }),
		row("trace", func(c *call) error { return c.record(1, trace.Start, trace.Stop) }),
		row("{name}", lookUpProfile),
	}
}

// plain begins an answer that is text.
func (c *call) plain() http.ResponseWriter {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return c.w
}

func listProfiles(c *call) error {
	w := c.plain()
	_, _ = fmt.Fprintln(w, "cmdline\nprofile\ntrace")
	for _, p := range pprof.Profiles() {
		_, _ = fmt.Fprintln(w, p.Name())
	}
	return nil
}

// lookUpProfile answers with what the runtime has gathered since the start, as text where debug=1 (or 2) is asked for; gc=1 collects garbage first.
func lookUpProfile(c *call) error {
	v, err := c.query("debug", "gc")
	if err != nil {
		return err
	}
	p := pprof.Lookup(c.args[0])
	if p == nil {
		return fail(http.StatusNotFound, "no such profile; /debug/pprof/ lists them")
	}
	if p.Name() == "heap" && v.Get("gc") == "1" {
		runtime.GC()
	}
	debug, _ := strconv.Atoi(v.Get("debug"))
	if debug > 0 {
		c.plain()
	} else {
		c.w.Header().Set("Content-Type", "application/octet-stream")
	}
	c.unhurried()
	_ = p.WriteTo(c.w, debug)
	return nil
}

// record answers with what start and stop have written meanwhile: for as many seconds as the query says, at most maxProfile, or until the caller goes.
func (c *call) record(seconds int, start func(io.Writer) error, stop func()) error {
	v, err := c.query("seconds", "debug")
	if err != nil {
		return err
	}
	if given := v.Get("seconds"); given != "" {
		if seconds, err = strconv.Atoi(given); err != nil || seconds < 1 || seconds > int(maxProfile/time.Second) {
			return fail(http.StatusBadRequest, "seconds must be 1 to 60")
		}
	}
	c.unhurried()
	c.w.Header().Set("Content-Type", "application/octet-stream")
	if err := start(c.w); err != nil {
		return fail(http.StatusConflict, err.Error())
	}
	defer stop()
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
	case <-c.r.Context().Done():
	}
	return nil
}

// unhurried gives the answer as much time as a profile may take.
func (c *call) unhurried() {
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(now().Add(maxProfile + writeTimeout))
}
