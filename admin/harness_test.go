package admin_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hooktender/hooktender/admin"
	"github.com/hooktender/hooktender/internal/admintest"
)

// port is an admin port under test. Every answer is held against the description.
type port struct {
	*admintest.Gateway
	t        *testing.T
	contract *admintest.Contract
	token    string
}

func start(t *testing.T, change func(*admin.Options)) *port {
	t.Helper()
	p := &port{Gateway: admintest.Start(t, change), t: t}
	resp, err := http.Get(p.URL + "/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	p.contract = admintest.ReadContract(t, raw)
	return p
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	object map[string]any
}

// do calls path. A body is sent as JSON; header pairs override ("" removes), Host sets the host.
func (p *port) do(method, path, body string, header ...string) answer {
	p.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, p.URL+path, r)
	if err != nil {
		p.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for i := 0; i < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			req.Host = header[i+1]
		case header[i+1] == "":
			req.Header.Del(header[i])
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		p.t.Fatal(err)
	}
	_ = json.Unmarshal(a.body, &a.object)
	if method != http.MethodHead && !strings.HasPrefix(path, "/debug/pprof") {
		if why := p.contract.Check(method, req.URL.EscapedPath(), a.status, a.header.Get("Content-Type"), a.body); why != "" {
			p.t.Errorf("%s %s ← %d: the answer breaks the description: %s\n%.600s", method, path, a.status, why, a.body)
		}
	}
	return a
}

// want is do that fails unless the status is as given.
func (p *port) want(status int, method, path, body string, header ...string) answer {
	p.t.Helper()
	a := p.do(method, path, body, header...)
	if a.status != status {
		p.t.Fatalf("%s %s %.200s: want %d, got %d %.600s", method, path, body, status, a.status, a.body)
	}
	return a
}

// at follows keys of objects and indexes of lists.
func (a answer) at(path ...any) any {
	var v any = a.object
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[s]
		case int:
			l, _ := v.([]any)
			if s >= len(l) {
				return nil
			}
			v = l[s]
		}
	}
	return v
}

// ids are the sender's ids of a list.
func (a answer) ids() []string {
	var out []string
	data, _ := a.object["data"].([]any)
	for _, d := range data {
		out = append(out, d.(map[string]any)["event_id"].(string))
	}
	return out
}

// audits are the audit lines so far.
func (p *port) audits() []map[string]any {
	var out []map[string]any
	for line := range bytes.Lines([]byte(p.Log.String())) {
		var m map[string]any
		if json.Unmarshal(line, &m) == nil && m["msg"] == "audit" {
			out = append(out, m)
		}
	}
	return out
}
