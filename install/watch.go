package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// recheck is the longest time between two looks at the node, whatever the
// kernel tells of changes.
const recheck = 10 * time.Second

// watch sends to the channel that it returns soon after something changes in
// the directories, and at least as often as said, until ctx ends. Without inotify
// (a node can run out of instances) the timer is all.
func watch(ctx context.Context, log *slog.Logger, every time.Duration, dirs ...string) <-chan struct{} {
	out := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no file notifications, looking on a timer", "every", every, "err", err)
		w = &fsnotify.Watcher{}
	}
	follow(w, dirs)
	go func() {
		defer func() {
			if w.Events != nil {
				w.Close()
			}
		}()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-w.Events:
			case err := <-w.Errors:
				// Also when the queue overflowed: look, then.
				log.Warn("file notifications", "err", err)
			}
			follow(w, dirs)
			select {
			case out <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return out
}

// follow watches the directories, again where they were made anew or are links
// that lead elsewhere now, of which the directories above tell; and those
// behind symbolic links in them, as of a directory that is swapped through
// ..data.
func follow(w *fsnotify.Watcher, dirs []string) {
	if w.Events == nil {
		return
	}
	for _, dir := range dirs {
		_ = w.Add(filepath.Dir(dir))
		_ = w.Add(dir) // what does not exist yet may later
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Type()&os.ModeSymlink == 0 {
				continue
			}
			if target, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name())); err == nil {
				if info, err := os.Stat(target); err == nil && !info.IsDir() {
					target = filepath.Dir(target)
				}
				_ = w.Add(target)
			}
		}
	}
}

// wait returns after d, at the end of ctx, or when something comes from wake.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}
