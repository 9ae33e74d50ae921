package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

const module = "github.com/hooktender/hooktender"

// moduleRoot is the directory of go.mod, at or above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", fmt.Errorf("no go.mod at or above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// sources reads the comments of struct fields. The first error is kept.
type sources struct {
	root string
	docs map[string]map[string]string // by import path; "Type.Field" → its comment
	err  error
}

// lines is the comment above a struct field, line by line. A field without one is an error: its documentation is that comment.
func (s *sources) lines(t reflect.Type, field string) []string {
	if s.docs[t.PkgPath()] == nil {
		s.read(t.PkgPath())
	}
	doc := s.docs[t.PkgPath()][t.Name()+"."+field]
	if doc == "" && s.err == nil {
		s.err = fmt.Errorf("%s.%s of %s has no comment", t.Name(), field, t.PkgPath())
	}
	return strings.Split(doc, "\n")
}

// text is lines as one line.
func (s *sources) text(t reflect.Type, field string) string {
	return strings.Join(s.lines(t, field), " ")
}

func (s *sources) read(path string) {
	if s.docs == nil {
		s.docs = map[string]map[string]string{}
	}
	docs := map[string]string{}
	s.docs[path] = docs
	files, err := filepath.Glob(filepath.Join(s.root, strings.TrimPrefix(path, module), "*.go"))
	if err != nil {
		s.err = err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			s.err = err
			return
		}
		collect(f, docs)
	}
}

// collect notes the comments of all fields of all structs in f.
func collect(f *ast.File, docs map[string]string) {
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return false
		}
		for _, field := range st.Fields.List {
			for _, name := range field.Names {
				docs[spec.Name.Name+"."+name.Name] = strings.TrimSpace(field.Doc.Text())
			}
		}
		return false
	})
}
