package node

import (
	"cmp"
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
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// A single plugin's configuration (.conf) cannot hold a second plugin. It stays
// as it is, and beside it the installer writes a list of that plugin and this
// one, under a name that sorts just before it: '-' comes before the '.' of its
// suffix. So the file that a runtime finds is valid at every moment; the owner
// may go on rewriting its own file; and deleting the converted list restores the
// node byte for byte. No state is kept other than the names.
const convertedSuffix = "-" + contract.PluginType + ".conflist"

func convertedName(single string) string {
	return strings.TrimSuffix(single, filepath.Ext(single)) + convertedSuffix
}

func isConverted(name string) bool { return strings.HasSuffix(name, convertedSuffix) }

// settle is how long an invalid file may be one that is just being written: k3s
// and others do not write atomically.
const settle = 10 * time.Second

// fresh reports whether the file has just been written. A modification time in
// the future, from a clock that was set back, does not count.
func (f configFile) fresh(now time.Time) bool {
	age := now.Sub(f.modified)
	return age >= 0 && age < settle
}

// plan is what to change on the node.
type plan struct {
	changes []change
	list    string   // the file that has the entry afterwards
	notes   []string // what an administrator should know
	waiting error    // why there is no such file; the changes are still made
}

// change is a file to write or, without data, to remove.
type change struct {
	name     string
	old, new []byte // old nil: there was no such file
	why      string
	like     string // the file whose mode and owner a new file gets
}

// fits returns why the entry must not get into the named file: version is its
// CNI version, first the plugin that makes the interface.
type fits func(name, version, first string) error

// loadable returns why libcni, and so every runtime, refuses the file, or nil.
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

// shown is a file's name for messages: others choose it.
func (f configFile) shown() string { return printable.Word(f.name) }

func (f configFile) unreadable() error {
	return fmt.Errorf("%s cannot be read by the installer (the runtime may be able to): %w", f.shown(), f.err)
}

func find(files []configFile, name string) *configFile {
	i := slices.IndexFunc(files, func(f configFile) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &files[i]
}

// original is the file that a converted list was made from, nil if it is gone.
func original(files []configFile, converted string) *configFile {
	for i, f := range files {
		if filepath.Ext(f.name) != ".conflist" && convertedName(f.name) == converted {
			return &files[i]
		}
	}
	return nil
}

// planInstall decides how the entry gets into the configuration that runtimes
// use: the first of files that is valid and has the name of the network, if one is given.
func planInstall(files []configFile, uses uses, entry []byte, fits fits, now time.Time) (p plan) {
	target, notes, err := first(files, uses.network, now)
	p.notes = notes
	keep := "" // the converted list that belongs to target
	switch {
	case err != nil:
		p.waiting = err
	case filepath.Ext(target.name) == ".conflist":
		p.waiting = p.insert(*target, entry, fits)
	case uses.several:
		p.waiting = fmt.Errorf("%s is a single plugin's, and containerd's max_conf_num is not 1: the list that the installer would make beside it is one network more, "+
			"and every pod would get one interface more: make it a list (a .conflist with \"plugins\"), or set max_conf_num = 1", target.shown())
	default:
		keep = convertedName(target.name)
		p.waiting = p.convert(*target, find(files, keep), entry, fits)
	}
	for _, f := range files {
		if !isConverted(f.name) || f.name == keep {
			continue
		}
		switch {
		case uses.several: // it would be a network of its own
			p.changes = append(p.changes, change{name: f.name, old: f.data, why: "one network more"})
		// A list whose original is there but broken keeps the node working
		// as long as nothing else is valid.
		case p.waiting == nil || original(files, f.name) == nil:
			p.changes = append(p.changes, change{name: f.name, old: f.data, why: "original gone"})
		}
	}
	return p
}

// uses is what the runtime takes from the directory.
type uses struct {
	network string // of this name; empty: the first
	several bool   // and further ones
}

// first is the file that a runtime uses, converted lists aside. The notes name
// the invalid files before it; the error says why there is none.
func first(files []configFile, network string, now time.Time) (*configFile, []string, error) {
	var notes, others []string
	for i, f := range files {
		if isConverted(f.name) {
			continue
		}
		if f.err != nil {
			// For example a link that leads nowhere in this container only.
			return nil, notes, f.unreadable()
		}
		err := loadable(f)
		if err == nil && network != "" && f.network() != network {
			others = append(others, fmt.Sprintf("%s in %s", printable.Word(f.network()), f.shown()))
			continue
		}
		if err == nil {
			return &files[i], append(notes, namesakes(files[i:], network)...), nil
		}
		note := fmt.Sprintf("%s is invalid (%s)", f.shown(), printable.Line(err.Error()))
		if f.fresh(now) {
			return nil, notes, errors.New(note + ": waiting until it is completely written")
		}
		notes = append(notes, note+": CRI-O skips it, containerd loads no configuration while it is there")
	}
	switch {
	case len(others) > 0:
		return nil, notes, fmt.Errorf("no network configuration is named %s, as --network-name wants: there is %s",
			printable.Word(network), printable.List(others, ", "))
	case len(notes) > 0:
		return nil, notes, errors.New("no valid network configuration: " + printable.List(notes, "; "))
	}
	return nil, nil, errors.New("no network configuration: the cluster's network plugin has not written one yet")
}

// network is the name of the network that a valid file configures; CRI-O takes the
// file's where there is none.
func (f configFile) network() (name string) {
	if filepath.Ext(f.name) == ".conflist" {
		if l, err := libcni.NetworkConfFromBytes(f.data); err == nil {
			name = l.Name
		}
	} else if c, err := libcni.NetworkPluginConfFromBytes(f.data); err == nil {
		name = c.Network.Name
	}
	return cmp.Or(name, f.name)
}

// namesakes are notes on the files behind the first one that also have the name of the
// network that is to be used.
func namesakes(files []configFile, network string) (notes []string) {
	for _, f := range files[1:] {
		if network != "" && !isConverted(f.name) && loadable(f) == nil && f.network() == network {
			notes = append(notes, fmt.Sprintf("%s is also named %s: CRI-O uses the first of them, %s", f.shown(), printable.Word(network), files[0].shown()))
		}
	}
	return notes
}

// insert puts the entry into the list f.
func (p *plan) insert(f configFile, entry []byte, fits fits) error {
	l, err := conflist.Parse(f.data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.shown(), err)
	}
	if err := fits(f.name, l.CNIVersion, l.First()); err != nil {
		return err
	}
	fault := l.Check(entry)
	data, err := conflist.Insert(f.data, entry)
	if err != nil {
		return fmt.Errorf("%s: %w", f.shown(), err)
	}
	if p.list = f.name; fault != conflist.None {
		p.changes = append(p.changes, change{name: f.name, old: f.data, new: data, why: string(fault), like: f.name})
	}
	return nil
}

// convert makes a list of single and the entry; have is the one that is there.
func (p *plan) convert(single configFile, have *configFile, entry []byte, fits fits) error {
	c, err := conflist.ParseConf(single.data)
	if err != nil {
		return fmt.Errorf("%s: %w", single.shown(), err)
	}
	if c.Type == contract.PluginType {
		return fmt.Errorf("%s: %w", single.shown(), conflist.ErrAlone)
	}
	if err := fits(single.name, c.CNIVersion, c.Type); err != nil {
		return err
	}
	if generatedByMultus(c.Type, single.data) {
		return fmt.Errorf("%s: Multus' entrypoint would use a list made from it as the network to delegate to, and call itself in an endless loop: "+
			"use Multus' daemon (multus-shim), or a network of cniVersion 1.0.0, for which the entrypoint writes a list", single.shown())
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

// generatedByMultus reports whether a single configuration is of the kind that
// Multus' entrypoint (cmd/thin_entrypoint) writes: from the first file of the
// directory whose name does not begin with "00-multus.conf", again whenever
// that file changes. A converted list would be that file, because it sorts
// first. The daemon, whose plugin is multus-shim, skips every 00-multus file.
func generatedByMultus(plugin string, data []byte) bool {
	var c struct{ Delegates []json.RawMessage }
	return plugin == "multus" && json.Unmarshal(data, &c) == nil && len(c.Delegates) > 0
}
