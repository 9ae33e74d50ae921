package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must stay as it is before it counts as changed: editors and kubelets write in several steps.
const settle = 100 * time.Millisecond

// Watch calls changed each time the file at path has other content, or is another file behind a symlink; it never calls twice at
// once. It blocks until ctx ends and then returns nil; an error means that the file cannot be watched. A file that is absent for a
// while is not a change.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %q: %w", path, err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch %q: %w", path, err)
	}
	addLinks(w, path)
	last := Fingerprint(path)
	seen := last // at the last look
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := true // the timer runs: events of other files in the directory, a log perhaps, must not put the look off
	look := func() {
		if !soon {
			soon = true
			timer.Reset(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			look()
		case _, ok := <-w.Errors: // events were lost: look for ourselves
			if !ok {
				return nil
			}
			look()
		case <-timer.C:
			soon = false
			_ = w.Add(filepath.Dir(path)) // again: it may be another directory now
			addLinks(w, path)
			now := Fingerprint(path)
			switch {
			case now == "": // nobody tells of a directory that is made again
				look()
			case now == last:
			case now != seen: // it may still be written
				look()
			default:
				last = now
				changed()
			}
			seen = now
		}
	}
}

// addLinks watches the directory of every symlink on the way to the file, a directory's too (current/hooktender.yaml, current → release-7),
// and the file itself: its directory is not told of what is written under another name, as into a file that is mounted into a container.
// What cannot be watched is left out: the file's own directory is watched in any case.
func addLinks(w *fsnotify.Watcher, path string) {
	for range 32 {
		link, rest := firstLink(path)
		_ = w.Add(filepath.Dir(link))
		target, err := os.Readlink(link)
		if err != nil { // no link is left
			_ = w.Add(path)
			return
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, rest)
	}
}

// firstLink cuts path behind its first symlink; link is the whole path if there is none.
func firstLink(path string) (link, rest string) {
	for i := range path {
		if i == 0 || path[i] != filepath.Separator {
			continue
		}
		if info, err := os.Lstat(path[:i]); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return path[:i], path[i+1:]
		}
	}
	return path, ""
}

// Fingerprint changes with the file's content and with the file that path leads to; "" = it cannot be read now.
func Fingerprint(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	data, err := readFile(real)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %x", real, sha256.Sum256(data))
}
