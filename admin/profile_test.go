package admin_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hooktender/hooktender/admin"
)

func TestProfilesNeedDebugAndScope(t *testing.T) {
	p := start(t, func(o *admin.Options) { tokens(o); o.Debug = true })
	for token, status := range map[string]int{"": 401, "reader-token-01234567": 403, "ops-token-0123456789": 200} {
		p.token = token
		for _, path := range []string{"", "goroutine", "cmdline"} {
			p.want(status, "GET", "/debug/pprof/"+path, "")
		}
	}
}

func TestProfiles(t *testing.T) {
	p := start(t, func(o *admin.Options) { o.Debug = true })
	list := string(p.want(200, "GET", "/debug/pprof/", "").body)
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		if !strings.Contains(list, name+"\n") {
			t.Errorf("%s is not listed", name)
		}
		if a := p.want(200, "GET", "/debug/pprof/"+name+"?gc=1", ""); !strings.HasPrefix(string(a.body), "\x1f\x8b") { // gzip, as the format wants
			t.Errorf("%s: %.20q", name, a.body)
		}
	}
	if a := p.want(200, "GET", "/debug/pprof/goroutine?debug=2", ""); !strings.Contains(string(a.body), "TestProfiles") || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Errorf("as text: %v %.200s", a.header, a.body)
	}
	for _, name := range []string{"profile", "trace"} {
		if a := p.want(200, "GET", "/debug/pprof/"+name+"?seconds=1", ""); len(a.body) == 0 {
			t.Errorf("%s is empty", name)
		}
		for _, seconds := range []string{"0", "-1", "61", "x"} {
			p.want(400, "GET", "/debug/pprof/"+name+"?seconds="+seconds, "")
		}
	}
	p.want(404, "GET", "/debug/pprof/secrets", "")
	p.want(400, "GET", "/debug/pprof/heap?seconds=1", "") // the difference of two is not offered
}

// One is taken at a time, and only as long as its caller waits.
func TestAProfileEndsWithItsCaller(t *testing.T) {
	p := start(t, func(o *admin.Options) { o.Debug = true })
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil { // until it is the one that is taken
			if req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/debug/pprof/profile?seconds=60", nil); err == nil {
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			}
		}
	}()
	const one = "/debug/pprof/profile?seconds=1"
	for p.do("GET", one, "").status != 409 { // the other has begun
	}
	leave()
	<-gone
	for end := time.Now().Add(30 * time.Second); p.do("GET", one, "").status != 200; {
		if time.Now().After(end) {
			t.Fatal("a profile goes on without its caller")
		}
	}
}
