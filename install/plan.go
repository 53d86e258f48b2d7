package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// A single plugin's configuration cannot hold ours. It stays as it is, and
// beside it comes a list with the plugin and ours, under a name that sorts
// just before it: '-' comes before the '.' of its suffix. So whichever of the
// two a runtime finds is valid, at every moment; its owner may go on rewriting
// its own file; and to restore it byte for byte is to delete ours. All that
// there is to know of it is in the names.
const convertedSuffix = "-" + contract.PluginType + ".conflist"

func convertedName(single string) string {
	return strings.TrimSuffix(single, filepath.Ext(single)) + convertedSuffix
}

func isConverted(name string) bool { return strings.HasSuffix(name, convertedSuffix) }

// settle is for how long a file that no runtime can load is taken for one that
// somebody is just writing: k3s and others do not write atomically.
const settle = 10 * time.Second

// fresh files have just been written. One from the future, of a clock that was
// set back, would be fresh for as long.
func (f configFile) fresh(now time.Time) bool {
	age := now.Sub(f.modified)
	return age >= 0 && age < settle
}

// plan is what to change so that the node is as it should be.
type plan struct {
	changes []change
	list    string   // the file in which our entry is, then
	notes   []string // what an administrator should know
	waiting error    // why there is no such file; the changes are to be done nevertheless
}

// change is a file to write or, without data, to remove.
type change struct {
	name     string
	old, new []byte // old nil: there was no such file
	why      string
	like     string // whose mode and owner a new file gets
}

// fits says why our entry must not get into the named file: version is its CNI
// version, first the plugin that makes the interface.
type fits func(name, version, first string) error

// loadable tells whether libcni, and so every runtime, takes the file.
func loadable(f configFile) error {
	if f.err != nil {
		return f.err
	}
	if filepath.Ext(f.name) == ".conflist" {
		l, err := libcni.NetworkConfFromBytes(f.data)
		if err == nil && len(l.Plugins) == 0 && l.LoadOnlyInlinedPlugins {
			err = errors.New("no plugins")
		}
		return err
	}
	_, err := libcni.NetworkPluginConfFromBytes(f.data)
	return err
}

func find(files []configFile, name string) *configFile {
	i := slices.IndexFunc(files, func(f configFile) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &files[i]
}

// original is the file that a converted list stands for, nil if it is gone.
func original(files []configFile, converted string) *configFile {
	for i, f := range files {
		if filepath.Ext(f.name) != ".conflist" && convertedName(f.name) == converted {
			return &files[i]
		}
	}
	return nil
}

// planInstall decides how our entry gets into the configuration that runtimes
// use: the first of files that is valid. fits says why our entry must not get
// into it.
func planInstall(files []configFile, entry []byte, fits fits, now time.Time) (p plan) {
	target, notes, err := first(files, now)
	p.notes = notes
	keep := "" // the converted list that is right
	switch {
	case err != nil:
		p.waiting = err
	case filepath.Ext(target.name) == ".conflist":
		p.waiting = p.insert(*target, entry, fits)
	default:
		keep = convertedName(target.name)
		p.waiting = p.convert(*target, find(files, keep), entry, fits)
	}
	for _, f := range files {
		if !isConverted(f.name) || f.name == keep {
			continue
		}
		// While nothing else is valid, a list whose original is there, if
		// broken, is what keeps the node going.
		if p.waiting == nil || original(files, f.name) == nil {
			p.changes = append(p.changes, change{name: f.name, old: f.data, why: "original gone"})
		}
	}
	return p
}

// first is the file that a runtime uses, not counting converted lists.
func first(files []configFile, now time.Time) (*configFile, []string, error) {
	var notes []string
	for i, f := range files {
		if isConverted(f.name) {
			continue
		}
		if f.err != nil {
			// As a link that leads nowhere only in our container.
			return nil, notes, fmt.Errorf("%s cannot be read here, the runtime may: %w", f.name, f.err)
		}
		err := loadable(f)
		if err == nil {
			return &files[i], notes, nil
		}
		note := fmt.Sprintf("%s is invalid (%v)", f.name, err)
		if f.fresh(now) {
			return nil, notes, errors.New(note + ": waiting for whoever is writing it")
		}
		notes = append(notes, note+": CRI-O passes over it, containerd loads nothing while it is there")
	}
	if len(notes) > 0 {
		return nil, notes, errors.New("no valid network configuration: " + strings.Join(notes, "; "))
	}
	return nil, nil, errors.New("no network configuration: the cluster's network plugin has not written one yet")
}

func (p *plan) insert(f configFile, entry []byte, fits fits) error {
	l, err := conflist.Parse(f.data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	if err := fits(f.name, l.CNIVersion, l.First()); err != nil {
		return err
	}
	fault := l.Check(entry)
	data, err := conflist.Insert(f.data, entry)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	if p.list = f.name; fault != conflist.None {
		p.changes = append(p.changes, change{name: f.name, old: f.data, new: data, why: string(fault), like: f.name})
	}
	return nil
}

func (p *plan) convert(single configFile, have *configFile, entry []byte, fits fits) error {
	c, err := conflist.ParseConf(single.data)
	if err != nil {
		return fmt.Errorf("%s: %w", single.name, err)
	}
	if c.Type == contract.PluginType {
		return fmt.Errorf("%s: %w", single.name, conflist.ErrAlone)
	}
	if err := fits(single.name, c.CNIVersion, c.Type); err != nil {
		return err
	}
	if generatedByMultus(c.Type, single.data) {
		return fmt.Errorf("%s: Multus' entrypoint would take a list made of it for the network to delegate to, and call itself without end: "+
			"use Multus' daemon (multus-shim), or a network of cniVersion 1.0.0, for which the entrypoint writes a list", single.name)
	}
	p.list = convertedName(single.name)
	ch := change{name: p.list, why: string(conflist.Missing), like: single.name}
	if have != nil {
		if conflist.Converted(have.data, single.data, entry) {
			return nil
		}
		ch.old, ch.why = have.data, "original changed"
		if l, err := conflist.Parse(have.data); err == nil && l.Check(entry) != conflist.None {
			ch.why = string(l.Check(entry))
		}
	}
	ch.new, err = conflist.Convert(single.data, entry)
	p.changes = append(p.changes, ch)
	return err
}

// generatedByMultus tells whether a single configuration is of the kind that
// Multus' entrypoint (cmd/thin_entrypoint) writes: from the first file of the
// directory whose name does not begin with "00-multus.conf", again whenever
// that file changes. Our list would be that file, because it sorts before. The
// daemon, whose plugin is multus-shim, passes over every 00-multus.
func generatedByMultus(plugin string, data []byte) bool {
	var c struct{ Delegates []json.RawMessage }
	return plugin == "multus" && json.Unmarshal(data, &c) == nil && len(c.Delegates) > 0
}
