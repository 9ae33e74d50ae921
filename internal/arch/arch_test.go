// Package arch holds the house rules that a machine can check: who may import whom, and who owns which dependency.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hooktender/hooktender/"

// floors: a room imports only from floors below its own (docs/architecture.md).
var floors = map[string]int{
	"event": 0, "metrics": 0, "packed": 0, "memory": 0, "socket": 0,
	"selector": 1, "journal": 1, "journal/embedded": 2, "journal/journaltest": 2, "verify": 2, "admin/api": 1,
	"provider": 3, "dedup": 3, "ordering": 3, "forward": 3, "recovery": 4,
	"proxy": 5, "admin": 5, "config": 6, "client": 5,
	"gateway":  7,
	"hooktest": 8, "cli/demo": 9, "cli": 10, "bench": 9, "e2e": 9, "": 11,
}

// owners: only these rooms may import a dependency.
var owners = map[string][]string{
	"github.com/dgraph-io/badger/":     {"journal/embedded"},
	"github.com/hashicorp/golang-lru/": {"dedup", "bench"},
	"github.com/valyala/fasthttp":      {"proxy", "forward", "bench"},
	"go.yaml.in/yaml/":                 {"config", "provider"},
	"github.com/prometheus/":           {"metrics"}, // its parser, in tests
	"github.com/spf13/cobra":           {"cli"},
	"github.com/fsnotify/fsnotify":     {"config"},
}

func TestImportsOnlyGoDown(t *testing.T) {
	each(t, func(file, room string, imports []string) {
		own, ok := floors[room]
		if !ok {
			t.Errorf("%s: room %q is not on the plan", file, room)
			return
		}
		for _, imp := range imports {
			if other, inside := strings.CutPrefix(imp, module); inside {
				if strings.HasPrefix(other, room+"/internal/") {
					continue // a room's own back room
				}
				if floor, known := floors[other]; !known {
					t.Errorf("%s imports %s, which is not on the plan", file, other)
				} else if floor >= own && other != room {
					t.Errorf("%s (floor %d) imports %s (floor %d): imports only go down", file, own, other, floor)
				}
				continue
			}
			for dependency, rooms := range owners {
				if strings.HasPrefix(imp, dependency) && !slices.Contains(rooms, room) {
					t.Errorf("%s imports %s, which belongs to %v", file, imp, rooms)
				}
			}
		}
	})
}

// A room starts no goroutine of its own accord, and no room has an init or sleeps.
func TestHouseRules(t *testing.T) {
	each(t, func(file, room string, imports []string) {
		if slices.Contains(imports, "math/rand") {
			t.Errorf("%s: math/rand, use math/rand/v2", file)
		}
		for _, bad := range []string{"utils", "common", "helpers", "types"} {
			if strings.Contains("/"+room+"/", "/"+bad+"/") {
				t.Errorf("%s: no room is called %s", file, bad)
			}
		}
	})
}

// each parses every file of the product that is no test.
func each(t *testing.T, f func(file, room string, imports []string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "data" || strings.HasPrefix(rel, "internal") || strings.Contains(rel, "/internal")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		room := filepath.ToSlash(filepath.Dir(rel))
		if room == "." {
			room = ""
		}
		for top := range map[string]bool{"bench": true, "e2e": true, "hooktest": true} {
			if strings.HasPrefix(room, top+"/") {
				room = top
			}
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, p)
		}
		n++
		f(rel, room, imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 20 {
		t.Fatalf("only %d files found: the walk is wrong", n)
	}
}
