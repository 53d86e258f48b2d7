// Package node puts the plugin's program and its entry in the CNI chain on a
// node, keeps both there, and takes them out again. Every decision is derived
// from what is on the disk now; nothing is remembered between two runs.
package node

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

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Recheck is the longest time between two attempts, whatever inotify reports,
// and how long an attempt waits for another installer's lock.
const Recheck = 10 * time.Second

// maxAttempts is how often one attempt reads and writes again because another
// process changed the directory meanwhile.
const maxAttempts = 10

// Node is a node's two directories and what should be in them.
type Node struct {
	Disk    disk.Disk
	ConfDir string // of CNI configurations, an absolute path
	Binary  Binary
	Entry   []byte // the plugin's object in the conflist, as JSON; not needed to uninstall

	// MorePluginDirs says that the runtime also looks for plugins in
	// directories other than Binary.Dir.
	MorePluginDirs bool

	// Network is the name of the network that the runtime uses, as CRI-O's
	// cni_default_network; if empty, that of the first configuration.
	Network string

	// Several says that the runtime makes a network of each configuration, or of
	// the first ones: containerd with a max_conf_num other than 1.
	Several bool

	// CacheDir is where runtimes keep what each pod was started with, for
	// Uninstall: DefaultCacheDir if empty.
	CacheDir string
}

// Program is what Uninstall does with the plugin's program.
type Program int

// CRI-O and Multus delete a pod with the list that it was started with, whatever the
// directory of configurations has by then: without the program no pod that is older
// than the uninstall could be deleted, annotated or not.
const (
	Keep         Program = iota // it stays
	RemoveUnused                // it goes when no cached configuration names it
	Remove                      // it goes
)

// Outcome is what an attempt found and did.
type Outcome struct {
	List    string   // name of the file that has the plugin's entry; empty if there is none
	Patches []string // the reason of each change made
	Notes   []string // what an administrator should know; may hold text of others
	Left    string   // what Uninstall has left on the node, in words; empty if nothing
}

// Failure is why the node is not as it should be. Kind is one of Kinds, for a
// metric's label.
type Failure struct {
	Kind string
	Err  error
}

func (f Failure) Error() string { return f.Err.Error() }
func (f Failure) Unwrap() error { return f.Err }

// The kinds of failures.
const (
	FailedConfDir = "conf-dir" // the directory of configurations cannot be read or written
	FailedBinary  = "binary"   // the plugin's program cannot be written or does not run
	Waiting       = "waiting"  // there is no configuration that can be used
)

// Kinds are all of them.
func Kinds() []string { return []string{FailedConfDir, FailedBinary, Waiting} }

// Install puts the program on the node and then the entry into its CNI
// configuration: a list that names a missing program, or has settings that the program
// does not know, fails every pod. An entry that only loses settings comes first. It is
// idempotent. The error is a Failure. It needs write permission for both
// directories, unless everything is in place, and CAP_CHOWN to keep the owners
// of files it changes.
func (n *Node) Install(ctx context.Context) (o Outcome, err error) {
	decide := func(files []configFile) plan {
		return planInstall(files, uses{n.Network, n.Several}, n.Entry, n.checkFits, time.Now())
	}
	if n.Binary.inPlace(ctx) {
		if o, done, err := n.inspect(decide); done {
			return o, err
		}
	}
	err = n.locked(ctx, func() error {
		n.shrink(ctx, &o, decide)
		why, err := n.Binary.ensure(ctx, n.Disk)
		if why != "" {
			o.Patches = append(o.Patches, why)
		}
		if err != nil {
			return Failure{FailedBinary, err}
		}
		return n.apply(&o, decide)
	})
	return o, err
}

// Uninstall takes the entry out of every configuration and then does with the
// program what is asked. It is idempotent. The error is a Failure: of kind Waiting
// while a configuration that the installer must not edit still names the program,
// or with RemoveUnused a cached one; it then stays. Privileges as for Install;
// RemoveUnused needs to read CacheDir.
func (n *Node) Uninstall(ctx context.Context, program Program) (o Outcome, err error) {
	decide := func(files []configFile) plan { return planUninstall(files, time.Now()) }
	if !n.hasProgram() || program == Keep {
		if o, done, err := n.inspect(decide); done {
			o.Notes = append(o.Notes, n.setAside()...)
			o.Left = n.left()
			return o, err
		}
	}
	err = n.locked(ctx, func() error {
		err := n.apply(&o, decide)
		o.Notes = append(o.Notes, n.setAside()...)
		if !n.hasProgram() {
			return err
		}
		if len(o.Patches) > 0 && program != Remove {
			if terr := n.Disk.Touch(n.Binary.path()); terr != nil && err == nil {
				err = Failure{FailedBinary, terr}
			}
		}
		if err != nil || program == Keep {
			return err
		}
		if program == RemoveUnused {
			if err := n.checkUnused(); err != nil {
				return Failure{Waiting, err}
			}
		}
		if err := n.Disk.Remove(n.Binary.path()); err != nil {
			return Failure{FailedBinary, err}
		}
		o.Patches = append(o.Patches, "binary removed")
		return nil
	})
	o.Left = n.left()
	return o, err
}

func (n *Node) hasProgram() bool {
	_, err := os.Lstat(n.Binary.path())
	return !errors.Is(err, fs.ErrNotExist)
}

// BinaryPath is where the plugin's program is on the node.
func (n *Node) BinaryPath() string { return n.Binary.path() }

// checkFits refuses a list in whose version the plugin would fail every pod,
// and one whose runtime would not find the plugin because it looks in another
// directory. A list without a version has the specification's first one.
func (n *Node) checkFits(name, version, first string) error {
	if version == "" {
		version = "0.1.0"
	}
	if !slices.Contains(n.Binary.supported, version) {
		return fmt.Errorf("%s has cniVersion %s, the plugin supports %s: raise the cniVersion there", printable.Word(name), printable.Word(version), strings.Join(n.Binary.supported, ", "))
	}
	// Lstat, because a link may lead nowhere in this container only.
	if _, err := os.Lstat(filepath.Join(n.Binary.Dir, first)); err != nil && !n.MorePluginDirs {
		return fmt.Errorf("%s: its plugin %s is not in %s: check that --cni-bin-dir is the runtime's (--more-plugin-dirs if it has several)",
			printable.Word(name), printable.Quote(first), n.Binary.Dir)
	}
	return nil
}

// locked calls f while no other installer works on this node.
func (n *Node) locked(ctx context.Context, f func() error) error {
	if err := checkMounted(n.ConfDir); err != nil {
		return Failure{FailedConfDir, err}
	}
	if err := checkMounted(n.Binary.Dir); err != nil {
		return Failure{FailedBinary, err}
	}
	wait, cancel := context.WithTimeout(ctx, Recheck) // then the failure is reported, and tried again
	defer cancel()
	unlock, err := disk.Lock(wait, n.ConfDir)
	if err != nil {
		return Failure{FailedConfDir, err}
	}
	defer unlock()
	for _, dir := range n.confDirs() {
		if err := n.Disk.Sweep(dir); err != nil {
			return Failure{FailedConfDir, err}
		}
	}
	if err := n.Disk.Sweep(n.Binary.Dir); err != nil {
		return Failure{FailedBinary, err}
	}
	return f()
}

// apply reads, decides and writes until there is nothing left to change, which
// also proves that it worked. Others may write at the same time.
func (n *Node) apply(o *Outcome, decide func([]configFile) plan) error {
	var lost []string
	for range maxAttempts {
		files, skipped, err := readConfDir(n.ConfDir)
		if err != nil {
			return Failure{FailedConfDir, err}
		}
		p := decide(files)
		o.List, o.Notes = p.list, nil
		err = n.write(o, p.changes)
		lost = append(lost, o.Notes...)
		o.Notes = slices.Concat(lost, skipped, p.notes)
		switch {
		case errors.Is(err, errChanged):
			continue
		case err != nil:
			return Failure{FailedConfDir, err}
		case p.waiting != nil:
			return Failure{Waiting, p.waiting}
		case len(p.changes) == 0:
			return nil
		}
	}
	return Failure{FailedConfDir, fmt.Errorf("gave up after %d attempts: %s keeps changing", maxAttempts, n.ConfDir)}
}

func (n *Node) write(o *Outcome, changes []change) error {
	for _, ch := range changes {
		path := filepath.Join(n.ConfDir, ch.name)
		if ch.new == nil {
			if err := checkUnchanged(path, ch.old); err != nil {
				return err
			}
			if err := n.Disk.Remove(path); err != nil {
				return err
			}
		} else {
			c := n.content(path, ch)
			if err := n.Disk.Replace(path, c); err != nil {
				return err
			}
			if uid, gid, err := owner(path); err == nil && (uid != c.UID || gid != c.GID) {
				o.Notes = append(o.Notes, fmt.Sprintf("the owner of %s changed from %d:%d to %d:%d: the installer lacks CAP_CHOWN", printable.Word(ch.name), c.UID, c.GID, uid, gid))
			}
		}
		o.Patches = append(o.Patches, ch.why)
	}
	return nil
}

// content has the mode and the owner of the file that it replaces or that it
// is made from.
func (n *Node) content(path string, ch change) disk.Content {
	c := disk.Content{Data: ch.new, Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), Follow: true}
	c.Ready = func(string) error { return checkUnchanged(path, ch.old) }
	like := filepath.Join(n.ConfDir, ch.like)
	if info, err := os.Stat(like); err == nil {
		c.Mode = info.Mode().Perm()
	}
	if uid, gid, err := owner(like); err == nil {
		c.UID, c.GID = uid, gid
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
