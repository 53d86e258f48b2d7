package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// This file reads the node and changes nothing.

// inspect is an attempt that finds nothing to change, and so does not take the
// lock. done is false if a full attempt is needed.
func (n *Node) inspect(decide func([]configFile) plan) (o Outcome, done bool, err error) {
	if checkMounted(n.ConfDir) != nil || checkMounted(n.Binary.Dir) != nil || n.hasLeftovers() {
		return o, false, nil
	}
	files, notes, err := readConfDir(n.ConfDir)
	if err != nil {
		return o, false, nil
	}
	p := decide(files)
	if len(p.changes) > 0 {
		return o, false, nil
	}
	o.List, o.Notes = p.list, append(notes, p.notes...)
	if p.waiting != nil {
		return o, true, Failure{Waiting, p.waiting}
	}
	return o, true, nil
}

// hasLeftovers reports whether another installer works on the node, or was
// killed while it did.
func (n *Node) hasLeftovers() bool {
	for _, dir := range append(n.confDirs(), n.Binary.Dir) {
		list, err := disk.Entries(dir, func(e fs.DirEntry) bool { return disk.IsTemp(e) || e.Name() == disk.LockName })
		if err != nil || len(list) > 0 {
			return true
		}
	}
	return false
}

// ErrDeleted says that a directory was deleted on the node, and perhaps made
// again: a bind mount stays on the deleted one, and only a new container mounts
// the new one.
var ErrDeleted = errors.New("was deleted on the node")

// checkMounted fails with ErrDeleted for a directory that no path leads to any
// more.
func checkMounted(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 0 {
		err = fmt.Errorf("%s %w", dir, ErrDeleted)
	}
	return err
}

// setAside returns notes on configurations that name the plugin and that no
// runtime loads now: Cilium's cni.exclusive renames lists of others this way.
func (n *Node) setAside() (notes []string) {
	list, err := disk.Entries(n.ConfDir, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".cilium_bak") })
	if errors.Is(err, disk.ErrTooMany) {
		notes = append(notes, fmt.Sprintf("files *.cilium_bak: %v, the rest was not checked", err))
	}
	for _, e := range list {
		if data, _, err := disk.Read(filepath.Join(n.ConfDir, e.Name()), largestConfig); err == nil && namesPlugin(data) {
			notes = append(notes, printable.Word(e.Name())+" has the plugin's entry: take it out before that file is put back")
		}
	}
	return notes
}

// confDirs are the directories in which configurations are written: also those
// behind links, whose owner may swap one for another.
func (n *Node) confDirs() []string {
	dirs := []string{n.ConfDir}
	links, _ := disk.Entries(n.ConfDir, isLink) // readConfDir reports the error
	for _, e := range links {
		target, err := disk.ResolveLink(filepath.Join(n.ConfDir, e.Name()))
		if dir := filepath.Dir(target); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func isLink(e fs.DirEntry) bool { return e.Type()&fs.ModeSymlink != 0 }
