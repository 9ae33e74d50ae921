package provider

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hooktender/hooktender/verify"
)

// Errors of Enrolments.
var (
	ErrEnrolled     = errors.New("the source has a secret already: it is never overwritten")
	ErrNoEnrolment  = errors.New("the sender of this source delivers no secret")
	ErrWindowClosed = errors.New("nobody waits for a secret")
)

// MaxWindow bounds how long a window may stay open.
const MaxWindow = 24 * time.Hour

// Enrolments keeps the secrets that senders deliver in their first request, one file a source. A secret is taken only in a window
// that an operator opened, the first one that comes closes it, and none is ever overwritten: remove its file to begin again. It is
// safe for concurrent use.
type Enrolments struct {
	dir string

	mu   sync.Mutex
	open map[string]time.Time // until when, by source
}

// NewEnrolments keeps secrets in dir, which is made when the first one comes.
func NewEnrolments(dir string) *Enrolments {
	return &Enrolments{dir: dir, open: map[string]time.Time{}}
}

// Path is the file of a source's secret.
func (e *Enrolments) Path(source string) string { return filepath.Join(e.dir, source) }

// Secret gives what a source's sender delivered; false if nothing was. A file that cannot be read or does not hold a secret is an error.
func (e *Enrolments) Secret(source string) (verify.Secret, bool, error) {
	b, err := os.ReadFile(e.Path(source))
	if errors.Is(err, fs.ErrNotExist) {
		return verify.Secret{}, false, nil
	}
	if err != nil {
		return verify.Secret{}, false, fmt.Errorf("enrolled secret: %w", err)
	}
	text := strings.TrimSuffix(string(b), "\n")
	if !enrollable(text) {
		return verify.Secret{}, false, fmt.Errorf("enrolled secret: %s does not hold one", e.Path(source))
	}
	return verify.NewSecret([]byte(text)), true, nil
}

// Open opens the window of a source, at most MaxWindow long, and says when it closes. ErrEnrolled if there is a secret.
func (e *Enrolments) Open(source string, d time.Duration, now time.Time) (until time.Time, err error) {
	if _, has, err := e.Secret(source); err != nil || has {
		return time.Time{}, errors.Join(err, ErrEnrolled)
	}
	until = now.Add(min(d, MaxWindow))
	e.mu.Lock()
	e.open[source] = until
	e.mu.Unlock()
	return until, nil
}

// Take keeps a secret, durably, and closes the window. ErrWindowClosed if none is open, ErrEnrolled if there is a secret.
func (e *Enrolments) Take(source string, secret verify.Secret, now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	until, open := e.open[source]
	switch {
	case !open || now.After(until):
		delete(e.open, source)
		return ErrWindowClosed
	case !enrollable(string(secret.Bytes())):
		return errors.New("what was delivered is no secret: 8 to 512 printable characters")
	}
	if err := e.keep(source, secret); err != nil {
		return err
	}
	delete(e.open, source)
	return nil
}

// enrollable bounds what is taken for a secret.
func enrollable(s string) bool {
	return len(s) >= 8 && len(s) <= 512 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// keep writes the file whole or not at all: a link never replaces one that is there.
func (e *Enrolments) keep(source string, secret verify.Secret) error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(e.dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(secret.Bytes()[:len(secret.Bytes()):len(secret.Bytes())], '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), e.Path(source)); errors.Is(err, fs.ErrExist) {
		return ErrEnrolled
	} else if err != nil {
		return err
	}
	d, err := os.Open(e.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Enrolls says whether the sender delivers its secret in its first request.
func (p Preset) Enrolls() bool { return p.Handshake == "enroll" }
