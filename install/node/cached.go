package node

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// DefaultCacheDir is libcni's cache: results/ has a file for each network of each
// pod, with the list that the pod was started with; multus/ has Multus' delegates,
// a file for each pod, and a results/ of its own; cri-dockerd has its own in cache/.
//
// CRI-O and Multus delete a pod with these, and not with what the directory of
// configurations has now. containerd takes the list of the day.
const DefaultCacheDir = "/var/lib/cni"

// starting is how long a pod may be starting with a list that has changed meanwhile:
// the kubelet's limit on making its sandbox. Only then it is in the cache.
const starting = 2 * time.Minute

// Limits on what is read from the cache. A pod's annotations are in it, up to
// 1.5 MiB as JSON.
const (
	largestCached = 4 << 20 // bytes of one file
	mostCached    = 100_000 // files
	deepestCached = 4       // directories below each other
)

// cachedPod is a pod whose cached configuration names the plugin.
type cachedPod struct {
	name string // NAMESPACE/NAME, empty if the cache does not say
	file string // one of its files
}

// cached are the pods by the id of their sandbox.
type cached map[string]cachedPod

// findCached finds the pods that may be deleted with the plugin: by what is cached
// below dir. The error says why that is not known.
func findCached(dir string) (cached, error) {
	pods, left := cached{}, mostCached
	err := walkFiles(dir, deepestCached, func(path string) error {
		if left--; left < 0 {
			return fmt.Errorf("%s has more than %d files", dir, mostCached)
		}
		if !beginsAsJSON(path) { // a program, for one: OpenShift's are below the cache, too
			return nil
		}
		data, _, err := disk.Read(path, largestCached)
		switch {
		case errors.Is(err, fs.ErrNotExist): // its pod has just been deleted
			return nil
		case err != nil:
			return err
		}
		pods.add(path, data)
		return nil
	})
	return pods, err
}

// beginsAsJSON reports whether a file may hold an object or an array, also if it cannot
// be read.
func beginsAsJSON(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	start := make([]byte, 64)
	n, err := io.ReadFull(f, start)
	text := bytes.TrimSpace(start[:n])
	return err != nil && n == 0 && !errors.Is(err, io.EOF) || n > 0 && (len(text) == 0 || text[0] == '{' || text[0] == '[')
}

// walkFiles calls f with each regular file below dir; links in it are not followed.
func walkFiles(dir string, depth int, f func(path string) error) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		some, err := d.ReadDir(256)
		for _, e := range some {
			path := filepath.Join(dir, e.Name())
			var err error
			switch {
			case e.Type().IsRegular():
				err = f(path)
			case e.IsDir() && depth > 0:
				if err = walkFiles(path, depth-1, f); errors.Is(err, fs.ErrNotExist) {
					err = nil
				}
			case e.IsDir():
				err = fmt.Errorf("%s: there are more directories below each other than any runtime makes", printable.Word(path))
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// add takes a file of the cache.
func (c cached) add(path string, data []byte) {
	var v any
	if json.Unmarshal(data, &v) != nil || !cachedType(v) {
		return
	}
	var info struct { // libcni's
		ContainerID string      `json:"containerId"`
		CNIArgs     [][2]string `json:"cniArgs"`
	}
	_ = json.Unmarshal(data, &info)
	id := info.ContainerID
	if id == "" {
		id = filepath.Base(path) // Multus'
	}
	pod := c[id]
	args := map[string]string{}
	for _, a := range info.CNIArgs {
		args[a[0]] = a[1]
	}
	if name := args["K8S_POD_NAME"]; name != "" {
		pod.name = args["K8S_POD_NAMESPACE"] + "/" + name
	}
	pod.file = path
	c[id] = pod
}

// cachedType is hasType for a cached configuration, which has other configurations
// in it as base64.
func cachedType(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if cachedType(e) {
				return true
			}
		}
		return hasType(v)
	case []any:
		return slices.ContainsFunc(v, cachedType)
	case string:
		data, err := base64.StdEncoding.DecodeString(v)
		return err == nil && namesPlugin(data)
	}
	return false
}

// String counts the pods and names the first ones.
func (c cached) String() string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(c)) {
		name := c[id].name
		if name == "" {
			name = id
		}
		names = append(names, printable.Word(name))
	}
	slices.Sort(names)
	count := "1 pod"
	if len(c) != 1 {
		count = fmt.Sprintf("%d pods", len(c))
	}
	if len(c) == 0 {
		return "no pod"
	}
	return count + " (" + printable.List(names, ", ") + ")"
}

// oneFile is a file of any of the pods, for an example.
func (c cached) oneFile() string {
	for _, id := range slices.Sorted(maps.Keys(c)) {
		return printable.Word(c[id].file)
	}
	return ""
}

// left says what Uninstall has left on the node.
func (n *Node) left() string {
	if !n.hasProgram() {
		return ""
	}
	const way = "uninstall --remove-binary takes it out when no pod needs it"
	switch c, err := findCached(n.cacheDir()); {
	case err != nil:
		return fmt.Sprintf("%s stays: how many pods were started with it is not known (%s); %s", n.Binary.path(), printable.Line(err.Error()), way)
	case len(c) == 0:
		return fmt.Sprintf("%s stays, and no cached configuration names it; %s", n.Binary.path(), way)
	default:
		return fmt.Sprintf("%s stays: %s of this node were started with it, and CRI-O and Multus delete them with it; %s", n.Binary.path(), c, way)
	}
}

// checkUnused returns an error while a pod may be deleted with the program: what is
// cached tells, of pods that are not just starting.
func (n *Node) checkUnused() error {
	const force = "--force removes it in spite of that, which is right for containerd without Multus: it deletes pods by the list of the day"
	if n.justTakenOut() {
		return fmt.Errorf("%s stays for two minutes: the entry has just been taken out, and pods may still be starting with it; %s", n.Binary.path(), force)
	}
	dirs := append([]string{n.cacheDir()}, n.otherCaches()...)
	for _, dir := range dirs {
		switch c, err := findCached(dir); {
		case err != nil:
			return fmt.Errorf("%s stays, because it is not known whether a pod needs it: %w: %s", n.Binary.path(), err, force)
		case len(c) > 0:
			return fmt.Errorf("%s stays until %s of this node are gone: they were started with it, and CRI-O and Multus delete them with it. "+
				"Delete the cached file of a pod that the runtime does not know any more, such as %s; %s", n.Binary.path(), c, c.oneFile(), force)
		}
	}
	return nil
}

// justTakenOut reports whether pods may still be starting with the program. Its
// modification time is that of its last write or, if later, of the moment at which
// Uninstall took the entry out; one in the future, from a clock that was set back, does
// not count.
func (n *Node) justTakenOut() bool {
	info, err := os.Lstat(n.Binary.path())
	if err != nil {
		return false
	}
	age := time.Since(info.ModTime())
	return age >= 0 && age < starting
}

func (n *Node) cacheDir() string { return cmp.Or(n.CacheDir, DefaultCacheDir) }

// otherCaches are the directories that Multus' configurations name (cniDir), those
// below the cache's left out.
func (n *Node) otherCaches() (dirs []string) {
	files, _, _ := readConfDir(n.ConfDir) // its error is apply's
	for _, f := range files {
		var v any
		if json.Unmarshal(f.data, &v) == nil {
			dirs = append(dirs, cniDirs(v)...)
		}
	}
	slices.Sort(dirs)
	return slices.DeleteFunc(slices.Compact(dirs), func(dir string) bool {
		return strings.HasPrefix(dir+"/", n.cacheDir()+"/") || strings.HasPrefix(dir+"/", DefaultCacheDir+"/")
	})
}

func cniDirs(v any) (dirs []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			if dir, ok := e.(string); ok && strings.EqualFold(key, "cniDir") && filepath.IsAbs(dir) {
				dirs = append(dirs, filepath.Clean(dir))
			}
			dirs = append(dirs, cniDirs(e)...)
		}
	case []any:
		for _, e := range v {
			dirs = append(dirs, cniDirs(e)...)
		}
	}
	return dirs
}
