package admin_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/metrics"
)

// What is served and what is described are the same list.
func TestEveryRouteIsDescribedAndEveryDescribedRouteIsServed(t *testing.T) {
	p := start(t, func(o *admin.Options) { o.Metrics = metrics.New().AppendText })
	described := p.contract.Operations()
	for _, op := range described {
		method, path, _ := strings.Cut(op, " ")
		for _, name := range []string{"{id}", "{name}", "{source}", "{resource}"} {
			path = strings.ReplaceAll(path, name, "x")
		}
		if path == "/v1/stream" {
			path += "?cursor=no-cursor"
		}
		// A path that is not served is a 404 without these; one with another method is a 405.
		if got := p.do(method, path, ""); got.status == 405 || got.status == 404 && strings.Contains(string(got.body), "no such path") {
			t.Errorf("%s is described and not served: %s", op, got.body)
		}
	}
	for _, route := range p.Server.Routes() {
		if !slices.Contains(described, route) && !strings.Contains(route, "/debug/pprof") {
			t.Errorf("%s is served and not described", route)
		}
	}
	if len(described) < 25 {
		t.Errorf("only %d operations are described", len(described))
	}
}
