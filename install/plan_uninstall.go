package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// planUninstall takes our entry out of every list, and deletes those that we
// made of a single plugin.
func planUninstall(files []configFile, now time.Time) (p plan) {
	for _, f := range files {
		if filepath.Ext(f.name) != ".conflist" {
			continue
		}
		l, err := conflist.Parse(f.data)
		o := original(files, f.name)
		if isConverted(f.name) && (o == nil || loadable(*o) == nil) {
			p.changes = append(p.changes, change{name: f.name, old: f.data, why: "uninstalled"})
			if g := guests(l); g != nil {
				p.notes = append(p.notes, fmt.Sprintf("with %s go the plugins that others chained into it: %s", f.name, strings.Join(g, ", ")))
			}
			continue
		}
		if isConverted(f.name) { // without it the node would have no network
			p.waiting = errors.Join(p.waiting, fmt.Errorf("%s stays until %s is valid", f.name, o.name))
		}
		switch {
		case err != nil:
			p.unread(f, now)
		case l.Has():
			if data, err := conflist.Remove(f.data); err == nil {
				p.changes = append(p.changes, change{name: f.name, old: f.data, new: data, why: "uninstalled", like: f.name})
			}
		}
	}
	p.named(files)
	return p
}

// namesOurs tells whether our program is named anywhere in a configuration.
func namesOurs(data []byte) bool {
	var v any
	return json.Unmarshal(data, &v) == nil && names(v)
}

func names(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			if e == contract.PluginType && strings.EqualFold(key, "type") || names(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, names)
	}
	return false
}

// named waits while a configuration that stays names our program, as Multus
// writes others' plugins into its delegates: without it every pod would fail.
func (p *plan) named(files []configFile) {
	for _, f := range files {
		if i := slices.IndexFunc(p.changes, func(ch change) bool { return ch.name == f.name }); i >= 0 {
			f.data = p.changes[i].new
		}
		if loadable(f) == nil && namesOurs(f.data) {
			p.waiting = errors.Join(p.waiting, fmt.Errorf(
				"%s still names %s, alone or in a delegate: its owner has to write it anew", f.name, contract.PluginType))
		}
	}
}

// unread is a list that we cannot edit. One that no runtime loads does no
// harm, once it is clear that nobody is just writing it.
func (p *plan) unread(f configFile, now time.Time) {
	invalid := loadable(f)
	switch {
	case invalid != nil && f.fresh(now):
		p.waiting = errors.Join(p.waiting, fmt.Errorf("%s is invalid (%w): waiting for whoever is writing it", f.name, invalid))
	case invalid != nil:
		p.notes = append(p.notes, fmt.Sprintf("%s is invalid (%v) and stays as it is", f.name, invalid))
	}
}

// guests are the plugins in a converted list besides the original's and ours.
func guests(l *conflist.List) (types []string) {
	if l == nil {
		return nil
	}
	for _, pl := range l.Plugins[1:] {
		if pl.Type != contract.PluginType {
			types = append(types, pl.Type)
		}
	}
	return types
}
