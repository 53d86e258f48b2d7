package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Watcher reports changes in directories, through inotify as long as the node
// has instances and watches left, and on a timer.
type Watcher struct {
	// Changed receives a value soon after something changed in the
	// directories, and at least as often as NewWatcher was told.
	Changed <-chan struct{}

	changed chan struct{}
	log     *slog.Logger
	every   time.Duration
	dirs    []string
	logged  string // the last error, which is logged once

	inotify *fsnotify.Watcher // nil while the node has no instance left
}

// NewWatcher watches dirs and what is behind the links in them from now on. Run
// sends to Changed.
func NewWatcher(log *slog.Logger, every time.Duration, dirs ...string) *Watcher {
	changed := make(chan struct{}, 1)
	w := &Watcher{Changed: changed, changed: changed, log: log, every: every, dirs: dirs}
	w.follow()
	return w
}

// Run sends to Changed until ctx ends, and then returns nil. The error says that
// inotify's events ended before that.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.close()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		events, errs := w.channels()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case e, ok := <-events:
			if !ok {
				return errors.New("file notifications ended")
			}
			if filepath.Base(e.Name) == disk.LockName {
				continue // the change made under the lock has its own event
			}
		case err, ok := <-errs:
			if !ok {
				return errors.New("file notifications ended")
			}
			// Look at the directories also if the event queue overflowed.
			w.log.Warn("file notification error", "err", printable.Line(err.Error()))
		}
		w.follow()
		select {
		case w.changed <- struct{}{}:
		default: // one is waiting already
		}
	}
}

func (w *Watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.inotify == nil {
		return nil, nil
	}
	return w.inotify.Events, w.inotify.Errors
}

func (w *Watcher) close() {
	if w.inotify != nil {
		w.inotify.Close()
	}
}

// follow watches the directories and the ways to them; again if they were made anew or
// a link on the way leads elsewhere now; and the directories behind symbolic links in
// them, as those swapped through ..data.
func (w *Watcher) follow() {
	if w.inotify == nil {
		var err error
		if w.inotify, err = fsnotify.NewWatcher(); err != nil {
			w.inotify = nil
			w.logOnce(err)
			return
		}
	}
	var failed error
	for _, dir := range w.dirs {
		for _, d := range wayTo(dir) {
			failed = cmp.Or(failed, w.add(d))
		}
		failed = cmp.Or(failed, w.add(dir))
		links, _ := disk.Entries(dir, isLink)
		for _, e := range links {
			if target, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name())); err == nil {
				if info, err := os.Stat(target); err == nil && !info.IsDir() {
					target = filepath.Dir(target)
				}
				failed = cmp.Or(failed, w.add(target))
			}
		}
	}
	w.logOnce(failed)
}

// mostLinks is how many links the kernel follows on a path.
const mostLinks = 40

// wayTo are the directories whose entries decide where dir leads: its parent, those
// that hold a symbolic link on the way, also behind other links, and the last one that
// exists. MicroK8s and k3s move a link named current in the middle of the path to
// another release.
func wayTo(dir string) []string {
	ways := []string{filepath.Dir(dir)}
	at, rest := "/", strings.Split(filepath.Clean(dir), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, name) // ".." of a link's text leads up from at, which has no link
		to, err := os.Readlink(next)
		switch {
		case err == nil:
			if links++; links > mostLinks {
				return ways
			}
			ways = append(ways, at)
			if filepath.IsAbs(to) {
				at = "/"
			}
			rest = append(strings.Split(to, "/"), rest...)
		case errors.Is(err, fs.ErrNotExist):
			return append(ways, at)
		default:
			at = next
		}
	}
	return ways
}

// add watches dir. A directory that does not exist may come later.
func (w *Watcher) add(dir string) error {
	switch err := w.inotify.Add(dir); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("watch %s: no inotify watch is left (fs.inotify.max_user_watches): %w", printable.Word(dir), err)
	default:
		return fmt.Errorf("watch %s: %w", printable.Word(dir), err)
	}
}

func (w *Watcher) logOnce(err error) {
	text := ""
	if err != nil {
		text = printable.Line(err.Error())
	}
	if text != "" && text != w.logged {
		w.log.Warn("no file notifications, checking on a timer", "every", w.every, "err", text)
	}
	w.logged = text
}
