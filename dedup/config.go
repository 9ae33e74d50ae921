package dedup

import (
	"errors"
	"fmt"
)

// Config bounds the cache in front of the journal.
type Config struct {
	// Entries of the LRU in front of the journal; about 100 bytes each.
	Cache int `yaml:"cache"`
}

// Default is the configuration of a file that gives none.
func Default() Config { return Config{Cache: 100_000} }

// Check joins all faults; the text of each begins with the name of the key.
func (c *Config) Check() error {
	var errs []error
	if c.Cache < 1 || c.Cache > 50_000_000 {
		errs = append(errs, fmt.Errorf("cache: must be between 1 and 50000000"))
	}
	return errors.Join(errs...)
}

// SourceConfig says what a known id means for one source.
type SourceConfig struct {
	// enforce: a known id is answered and goes no further; observe: count and log it, and let it pass.
	Mode string `yaml:"mode" enum:"enforce,observe"`
	// The same id with another body: flag (answer as a duplicate, marked and counted) | reject (409).
	OnConflict string `yaml:"on_conflict" enum:"flag,reject"`
}

// DefaultSource is the configuration of a source that gives none.
func DefaultSource() SourceConfig { return SourceConfig{Mode: "enforce", OnConflict: "flag"} }
