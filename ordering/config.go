package ordering

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"time"
)

// Config says in which order the events of one resource reach the upstream (SPEC §5).
type Config struct {
	// none | serial | reject_stale | in_sequence | window
	Policy string `yaml:"policy" enum:"none,serial,reject_stale,in_sequence,window"`
	// enforce, or observe: let everything pass and tell the upstream what would have been done (Hooktender-Order).
	Mode string `yaml:"mode" enum:"enforce,observe"`
	// Event types that supersede each other, as globs (* stands for anything, also a slash); events of other types pass untouched.
	Types []string `yaml:"types"`
	// How versions compare: integer (any number of digits), timestamp (RFC 3339, or with +0100 for its offset, or as in
	// 2026-01-02 15:04:05 UTC, or seconds or milliseconds since 1970), lexicographic.
	Compare string `yaml:"compare" enum:"integer,timestamp,lexicographic"`
	// What happens to a version equal to the cursor: forward | reject.
	Ties string `yaml:"ties" enum:"forward,reject"`
	// in_sequence: the first version expected of a new resource; first_seen takes whichever comes first.
	Start string `yaml:"start"`
	// in_sequence: how long an early version waits for the gap before it; window: how long every version waits.
	MaxWait time.Duration `yaml:"max_wait"`
	// Events that may be held per resource, behind a gap or in their window; beyond it the sender gets 503. What fills a gap or waits for one before
	// it that is on its way is never refused for this.
	MaxHeld int `yaml:"max_held"`
	// in_sequence, when max_wait has passed: release (deliver what waits, marked) | dead_letter.
	OnGap string `yaml:"on_gap" enum:"release,dead_letter"`
	// block: a later version never passes one that is still being retried; continue: it may.
	OnFailure string `yaml:"on_failure" enum:"block,continue"`
	// A version further ahead than this, counted from the newest that was delivered or is on its way, is quarantined; 0 = off. Needs compare: integer.
	MaxJump int64 `yaml:"max_jump"`
}

// Default is the configuration of a source that gives none.
func Default() Config {
	return Config{Policy: "none", Mode: "enforce", Types: []string{"*"}, Compare: "integer", Ties: "forward", Start: "first_seen",
		MaxWait: 30 * time.Second, MaxHeld: 100, OnGap: "release", OnFailure: "block"}
}

var integer = regexp.MustCompile(`^-?[0-9]+$`)

// Check joins all faults; the text of each begins with the name of the key.
func (c *Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Start != "first_seen" && !integer.MatchString(c.Start) {
		bad("start: must be first_seen or an integer")
	}
	if c.Policy == "in_sequence" && c.Compare != "integer" {
		bad("compare: in_sequence needs integer versions")
	}
	if c.MaxWait < time.Millisecond {
		bad("max_wait: must be at least 1ms")
	}
	if c.MaxHeld < 1 {
		bad("max_held: must be at least 1")
	}
	if c.MaxJump < 0 {
		bad("max_jump: must not be negative")
	}
	if c.MaxJump > 0 && c.Compare != "integer" {
		bad("max_jump: needs compare: integer")
	}
	if len(c.Types) == 0 {
		bad("types: must not be empty")
	}
	for _, t := range c.Types {
		if _, err := path.Match(t, ""); err != nil || t == "" {
			bad("types: %q is no glob", t)
		}
	}
	return errors.Join(errs...)
}

// NeedsVersion says whether the policy compares versions.
func (c *Config) NeedsVersion() bool { return c.Policy != "none" && c.Policy != "serial" }
