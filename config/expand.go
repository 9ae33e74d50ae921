package config

import (
	"errors"
	"regexp"
	"strings"
)

var (
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	errUnclosed = errors.New("${env: without its closing }")
	errEnvName  = errors.New("${env:…} needs the name of an environment variable")
)

// expand replaces ${env:NAME} and ${env:NAME:-default} in s; $${ stands for ${. The default serves where the variable is unset or empty.
// What a variable holds is not expanded again. missing names the first variable that is unset and has no default.
func expand(s string, env func(string) (string, bool)) (out, missing string, err error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${env:")
		if !found {
			b.WriteString(s)
			return b.String(), "", nil
		}
		if literal, ok := strings.CutSuffix(before, "$"); ok {
			b.WriteString(literal + "${env:")
			s = rest
			continue
		}
		b.WriteString(before)
		expr, tail, closed := strings.Cut(rest, "}")
		if !closed {
			return "", "", errUnclosed
		}
		name, fallback, hasFallback := strings.Cut(expr, ":-")
		if !envName.MatchString(name) {
			return "", "", errEnvName
		}
		value, set := env(name)
		switch {
		case hasFallback && value == "":
			value = fallback
		case !set:
			return "", name, nil
		}
		b.WriteString(value)
		s = tail
	}
}
