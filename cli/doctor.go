package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hooktender/hooktender/admin/api"
	"github.com/hooktender/hooktender/client"
	"github.com/hooktender/hooktender/config"
)

// check is one line of a diagnosis.
type check struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"` // ok | warning | problem
	Detail  string `json:"detail"`
}

func doctorCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Look for what could be wrong: configuration, disk, upstreams, the running gateway", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := &doctor{env: e}
		d.configuration(cmd.Context())
		d.gateway(cmd.Context())
		page := api.Page[check]{Data: d.checks}
		if err := e.printValue(page, func(w io.Writer) { e.showChecks(w, d.checks) }); err != nil {
			return err
		}
		if d.code != exitOK {
			return &exitError{code: d.code, err: errShown}
		}
		return nil
	}
	return cmd
}

// doctor collects a diagnosis; code is that of the first problem.
type doctor struct {
	*env
	listen string // admin.listen, as configured
	checks []check
	code   int
}

func (d *doctor) ok(name, format string, args ...any) { d.add(name, "ok", format, args...) }
func (d *doctor) warn(name, format string, args ...any) {
	d.add(name, "warning", format, args...)
}

//go:noinline // many callers, none in a hurry
func (d *doctor) problem(code int, name, format string, args ...any) {
	d.add(name, "problem", format, args...)
	if d.code == exitOK {
		d.code = code
	}
}

func (d *doctor) add(name, verdict, format string, args ...any) {
	d.checks = append(d.checks, check{Name: name, Verdict: verdict, Detail: strings.ReplaceAll(fmt.Sprintf(format, args...), "\n ", ";")})
}

func (d *doctor) configuration(ctx context.Context) {
	cfg, err := d.load()
	if faults, ok := errors.AsType[*config.Errors](err); ok {
		for _, p := range faults.Problems {
			d.problem(exitConfig, "configuration", "%s", p.String())
		}
		return
	}
	if err != nil {
		d.problem(exitConfig, "configuration", "%v", err)
		return
	}
	d.listen = cfg.Admin.Listen
	d.ok("configuration", "%s: %d sources, %d upstreams", d.config, len(cfg.Sources), len(cfg.Upstreams))
	for _, w := range cfg.Warnings {
		d.warn("configuration", "%s", w.String())
	}
	d.dataDir(cfg.DataDir)
	d.disk(cfg)
	for _, name := range sortedNames(cfg.Upstreams) {
		d.dial(ctx, name, cfg.Upstreams[name].URL)
	}
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// dataDir says whether the journal's directory, or the one that it would be made in, can be written.
func (d *doctor) dataDir(dir string) {
	at := existing(dir)
	f, err := os.CreateTemp(at, ".hooktender-doctor-*")
	if err != nil {
		d.problem(exitFailed, "data_dir", "%s cannot be written: %v", at, err)
		return
	}
	_ = f.Close()
	_ = os.Remove(f.Name())
	d.ok("data_dir", "%s can be written", dir)
}

// existing is a directory, or its nearest parent that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// dial says whether an upstream takes connections. It may be down for a while, so that is a warning.
func (d *doctor) dial(ctx context.Context, name, address string) {
	u, err := url.Parse(address)
	if err != nil {
		d.problem(exitConfig, "upstream "+name, "%v", err)
		return
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		d.warn("upstream "+name, "%s takes no connection now: %v", address, err)
		return
	}
	_ = conn.Close()
	d.ok("upstream "+name, "%s takes connections", address)
}

// gateway asks the running gateway, if there is one: at the address that was given, else at the configured one.
func (d *doctor) gateway(ctx context.Context) {
	ctx, cancel := d.limited(ctx, callTimeout)
	defer cancel()
	if host, port, err := net.SplitHostPort(d.listen); err == nil && d.admin == "" && os.Getenv("HOOKTENDER_ADMIN") == "" {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		d.admin = net.JoinHostPort(host, port)
	}
	c, err := d.client()
	if err != nil {
		d.problem(exitUsage, "gateway", "%v", err)
		return
	}
	err = c.Ready(ctx)
	if p, ok := errors.AsType[*client.Problem](err); ok {
		d.problem(exitFailed, "gateway", "not ready: %s", p.Error())
	} else if err != nil {
		d.problem(exitCode(err), "gateway", "%s", explain(err))
		return
	} else {
		d.ok("gateway", "%s is ready", c.Address())
	}
	sources, err := c.Sources(ctx)
	if err != nil {
		d.problem(exitCode(err), "gateway", "%s", explain(err))
		return
	}
	checkpoints, err := c.Checkpoints(ctx, "")
	if err != nil {
		d.problem(exitCode(err), "gateway", "%s", explain(err))
		return
	}
	dead := map[string]int64{}
	for i := range checkpoints {
		dead[checkpoints[i].Source] = checkpoints[i].Failed
	}
	for i := range sources {
		d.source(&sources[i], dead[sources[i].Name])
	}
	upstreams, err := c.Upstreams(ctx)
	if err != nil {
		return
	}
	for _, u := range upstreams {
		if u.Breaker != "closed" {
			d.warn("upstream "+u.Name, "its breaker is %s after %d failures", u.Breaker, u.ConsecutiveFailures)
		}
	}
}

// stuck is the age from which a pending event deserves attention.
const stuck = 15 * time.Minute

// source says what of a source deserves attention; dead are its failed events that nobody has settled, and that were not returned to the sender.
func (d *doctor) source(s *api.Source, dead int64) {
	name := "source " + s.Name
	if s.Paused {
		d.warn(name, "it is paused: events are accepted and not delivered")
	}
	if dead > 0 {
		d.warn(name, "%d events failed and wait for you; 'hooktender dead list --source %s' shows them", dead, s.Name)
	}
	if age := d.now().Sub(s.OldestPendingAt.Time); !s.OldestPendingAt.IsZero() && age > stuck {
		d.warn(name, "its oldest pending event is %s old", short(age))
	}
}

func (e *env) showChecks(w io.Writer, checks []check) {
	t := e.table("CHECK", "VERDICT", "DETAIL")
	for _, c := range checks {
		paint := map[string]colour{"ok": green, "warning": yellow, "problem": red}[c.Verdict]
		t.row(c.Name, cell{c.Verdict, paint}, c.Detail)
	}
	t.writeTo(w)
}
