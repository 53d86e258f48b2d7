package node

// For tests of package node_test.

const (
	FlappingTimes = flappingTimes
	FlappingSpan  = flappingSpan
)

// Verified reports whether the program needs no further look while its file and
// the source's do not change.
func (b *Binary) Verified() bool { return b.verified != stamps{} }

// Supported are the CNI versions that the program reported.
func (b *Binary) Supported() []string { return b.supported }

// Follow watches the directories again, as after each event.
func (w *Watcher) Follow() { w.follow() }

// Close ends the watch.
func (w *Watcher) Close() { w.close() }

// WatchList are the watched directories.
func (w *Watcher) WatchList() []string { return w.inotify.WatchList() }
