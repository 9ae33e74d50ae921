package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/hooktender/hooktender/event"
)

// Config of the embedded journal.
type Config struct {
	// always: an answer waits until its event has been fsynced; none: only until the operating system has it (a power cut may lose it).
	Sync string `yaml:"sync" enum:"always,none"`
	// Free disk space below which new events are refused with 503 while deliveries go on.
	MinFree int64 `yaml:"min_free" unit:"bytes"`
	// Memory budget of the index; at least 16MiB.
	Memory int64 `yaml:"memory" unit:"bytes"`
	// Allow a data_dir in memory (tmpfs), where nothing survives a reboot.
	AllowTmpfs bool `yaml:"allow_tmpfs"`
	// Encrypt the journal at rest: {env: NAME} or {file: path}, each at least 32 bytes. The first key encrypts, all of them decrypt (rotation); none: it is not encrypted.
	EncryptionKeys []event.Secret `yaml:"encryption_keys"`
}

// Default is the configuration of a file that gives none.
func Default() Config { return Config{Sync: "always", MinFree: 1 << 30, Memory: 64 << 20} }

// Check joins all faults; the text of each begins with the name of the key.
func (c *Config) Check() error {
	var errs []error
	if c.MinFree < 0 {
		errs = append(errs, fmt.Errorf("min_free: must not be negative"))
	}
	if c.Memory < 16<<20 {
		errs = append(errs, fmt.Errorf("memory: must be at least 16MiB"))
	}
	for i, k := range c.EncryptionKeys {
		if len(k.Bytes()) < 32 {
			errs = append(errs, fmt.Errorf("encryption_keys[%d]: must be at least 32 bytes; 'openssl rand -hex 32' makes one", i))
		}
	}
	return errors.Join(errs...)
}

// Retention says how long what is remembered.
type Retention struct {
	// How long an event id counts as known after it was received.
	Dedup time.Duration `yaml:"dedup"`
	// How long headers and body are kept after the event was delivered or rejected.
	Payload time.Duration `yaml:"payload"`
	// How long the record and its attempts are kept after the event has ended; those of an event that failed at least as long as its id counts as known.
	Record time.Duration `yaml:"record"`
	// How long a dead letter keeps its payload and can be replayed.
	DeadLetter time.Duration `yaml:"dead_letter"`
}

// DefaultRetention is the retention of a file that gives none.
func DefaultRetention() Retention {
	return Retention{Dedup: 168 * time.Hour, Payload: 72 * time.Hour, Record: 168 * time.Hour, DeadLetter: 720 * time.Hour}
}

// Check joins all faults; the text of each begins with the name of the key.
func (r *Retention) Check() error {
	var errs []error
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"dedup", r.Dedup}, {"payload", r.Payload}, {"record", r.Record}, {"dead_letter", r.DeadLetter}} {
		if f.d < time.Second {
			errs = append(errs, fmt.Errorf("%s: must be at least 1s", f.name))
		}
	}
	return errors.Join(errs...)
}
