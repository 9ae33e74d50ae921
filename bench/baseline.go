//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// cpuAllowed is how much more CPU per request, as a ratio to the plain proxy, a change may cost before it shows.
const cpuAllowed = 1.15

// errDearer: something costs more than committed.
var errDearer = errors.New("costs more than committed")

// ratios are CPU ratios to the plain proxy, by "scenario target".
type ratios map[string]float64

func readRatios(path string) (ratios, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := ratios{}
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: %q", path, sc.Text())
		}
		if out[f[0]+" "+f[1]], err = strconv.ParseFloat(f[2], 64); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out, sc.Err()
}

// writeRatios prints what a baseline file would say.
func writeRatios(w io.Writer, scenario string, subjects []*subject) {
	for _, s := range subjects[1:] {
		if s.admin != "" {
			fmt.Fprintf(w, "%s %s %.2f\n", scenario, s.name, ratio(s, subjects[0], cpu))
		}
	}
}

// against says which targets cost over cpuAllowed times what is committed. A target that the file does not know is not judged.
func (r ratios) against(w io.Writer, scenario string, subjects []*subject) error {
	var faults []error
	for _, s := range subjects[1:] {
		want, ok := r[scenario+" "+s.name]
		if !ok {
			continue
		}
		got := ratio(s, subjects[0], cpu)
		fmt.Fprintf(w, "committed: %s: CPU × %s %.2f, now %.2f\n", s.name, subjects[0].name, want, got)
		if got > want*cpuAllowed {
			faults = append(faults, fmt.Errorf("%w: %s, %s: CPU × %s was %.2f, is %.2f", errDearer, scenario, s.name, subjects[0].name, want, got))
		}
	}
	return errors.Join(faults...)
}
