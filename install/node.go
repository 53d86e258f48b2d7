package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// node is the node's two directories and what is to be in them.
type node struct {
	disk    disk
	confDir string
	plugin  binary
	entry   []byte        // our object in the conflist
	timer   time.Duration // the longest time between two looks

	// The runtime looks for plugins in other directories, too.
	morePluginDirs bool
}

// outcome is what was found and done.
type outcome struct {
	list    string   // the file that holds our entry
	patches []string // what was wrong and is right now, by its reason
	notes   []string
}

// trouble is why the node is not as it should be. kind is one of few words,
// for a metric's label.
type trouble struct {
	kind string
	error
}

func (t trouble) Unwrap() error { return t.error }

const (
	atConfDir = "conf-dir" // the directory of configurations cannot be read or written
	atBinary  = "binary"   // the plugin's program cannot be put or does not run
	atWaiting = "waiting"  // there is no configuration that we can use
)

// install makes node as it should be: first the program, then the entry, for a
// list that names a program which is not there fails every pod. Everything is
// derived from the disk, as it is now.
func (n *node) install(ctx context.Context) (o outcome, err error) {
	err = n.locked(ctx, func() error {
		why, err := n.plugin.put(ctx, n.disk)
		if why != "" {
			o.patches = append(o.patches, why)
		}
		if err != nil {
			return trouble{atBinary, err}
		}
		return n.apply(&o, func(files []configFile) plan {
			return planInstall(files, n.entry, n.fits, time.Now())
		})
	})
	return o, err
}

// uninstall takes our entry out and then, unless keep is set, the program.
func (n *node) uninstall(ctx context.Context, keep bool) (o outcome, err error) {
	err = n.locked(ctx, func() error {
		err := n.apply(&o, func(files []configFile) plan { return planUninstall(files, time.Now()) })
		o.notes = append(o.notes, n.setAside()...)
		if err != nil || keep {
			return err
		}
		if _, err := os.Lstat(n.plugin.path()); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err := n.disk.remove(n.plugin.path()); err != nil {
			return trouble{atBinary, err}
		}
		o.patches = append(o.patches, "binary removed")
		return nil
	})
	return o, err
}

// fits keeps our entry out of a list in whose version it would refuse every
// pod, and out of one whose runtime would not find our program, because it
// looks elsewhere. A list without a version has the specification's first one.
func (n *node) fits(name, version, first string) error {
	if version == "" {
		version = "0.1.0"
	}
	if !slices.Contains(n.plugin.supported, version) {
		return fmt.Errorf("%s has cniVersion %s, the plugin speaks %s: raise it there", name, version, strings.Join(n.plugin.supported, ", "))
	}
	// Not Stat: what is a link there may lead nowhere in our container.
	if _, err := os.Lstat(filepath.Join(n.plugin.dir, first)); err != nil && !n.morePluginDirs {
		return fmt.Errorf("%s: its plugin %q is not in %s: is --cni-bin-dir the runtime's? (--more-plugin-dirs if it is one of several)", name, first, n.plugin.dir)
	}
	return nil
}

// errDeleted: a bind mount stays on a directory that was deleted and perhaps
// made anew. Only a new container mounts the new one.
var errDeleted = errors.New("was deleted on the node")

// there fails for a directory that has no name any more.
func there(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 0 {
		err = fmt.Errorf("%s %w", dir, errDeleted)
	}
	return err
}

// setAside are notes on configurations that name our program and that no
// runtime loads now: Cilium's cni.exclusive renames others' lists so.
func (n *node) setAside() (notes []string) {
	paths, _ := filepath.Glob(filepath.Join(n.confDir, "*.cilium_bak"))
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && namesOurs(data) {
			notes = append(notes, filepath.Base(path)+" has our entry: take it out before anybody puts that file back")
		}
	}
	return notes
}

// locked calls f while no other installer works on this node.
func (n *node) locked(ctx context.Context, f func() error) error {
	if err := there(n.confDir); err != nil {
		return trouble{atConfDir, err}
	}
	if err := there(n.plugin.dir); err != nil {
		return trouble{atBinary, err}
	}
	patience, cancel := context.WithTimeout(ctx, recheck) // then it is told, and tried again
	defer cancel()
	unlock, err := lock(patience, n.confDir)
	if err != nil {
		return trouble{atConfDir, err}
	}
	defer unlock()
	for _, dir := range n.confDirs() {
		if err := n.disk.sweep(dir); err != nil {
			return trouble{atConfDir, err}
		}
	}
	if err := n.disk.sweep(n.plugin.dir); err != nil {
		return trouble{atBinary, err}
	}
	return f()
}

// confDirs are the directories that we write configurations to: also those
// behind links, of which an owner swaps one for another.
func (n *node) confDirs() []string {
	dirs := []string{n.confDir}
	entries, _ := os.ReadDir(n.confDir) // whoever reads the files says what is wrong
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := behind(filepath.Join(n.confDir, e.Name()))
		if dir := filepath.Dir(target); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// apply reads, decides and writes until nothing is to do any more, which is
// also the proof that it worked. Others may write at the same time.
func (n *node) apply(o *outcome, decide func([]configFile) plan) error {
	const most = 10
	var lost []string
	for range most {
		files, err := readConfigs(n.confDir)
		if err != nil {
			return trouble{atConfDir, err}
		}
		p := decide(files)
		o.list, o.notes = p.list, nil
		err = n.write(o, p.changes)
		lost = append(lost, o.notes...)
		o.notes = slices.Concat(lost, p.notes)
		switch {
		case errors.Is(err, errMoved):
			continue
		case err != nil:
			return trouble{atConfDir, err}
		case p.waiting != nil:
			return trouble{atWaiting, p.waiting}
		case len(p.changes) == 0:
			return nil
		}
	}
	return trouble{atConfDir, fmt.Errorf("somebody keeps changing %s", n.confDir)}
}

func (n *node) write(o *outcome, changes []change) error {
	for _, ch := range changes {
		path := filepath.Join(n.confDir, ch.name)
		if ch.new == nil {
			if err := still(path, ch.old); err != nil {
				return err
			}
			if err := n.disk.remove(path); err != nil {
				return err
			}
		} else {
			c := n.content(path, ch)
			if err := n.disk.replace(path, c); err != nil {
				return err
			}
			if uid, gid, err := owner(path); err == nil && (uid != c.uid || gid != c.gid) {
				o.notes = append(o.notes, fmt.Sprintf("%s was %d:%d's and is %d:%d's now: the installer lacks CAP_CHOWN", ch.name, c.uid, c.gid, uid, gid))
			}
		}
		o.patches = append(o.patches, ch.why)
	}
	return nil
}

// content has the mode and the owner of the file that it replaces or that it
// is made of.
func (n *node) content(path string, ch change) content {
	c := content{data: ch.new, mode: 0o600, uid: os.Geteuid(), gid: os.Getegid(), follow: true}
	c.ready = func(string) error { return still(path, ch.old) }
	like := filepath.Join(n.confDir, ch.like)
	if info, err := os.Stat(like); err == nil {
		c.mode = info.Mode().Perm()
	}
	if uid, gid, err := owner(like); err == nil {
		c.uid, c.gid = uid, gid
	}
	return c
}

func owner(path string) (uid, gid int, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid), nil
}
