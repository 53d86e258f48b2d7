package node

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
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// planUninstall takes the entry out of every list, and deletes the lists that
// were converted from a single plugin.
func planUninstall(files []configFile, now time.Time) (p plan) {
	for _, f := range files {
		if f.err != nil { // it may name the plugin
			p.waiting = errors.Join(p.waiting, f.unreadable())
			continue
		}
		if filepath.Ext(f.name) != ".conflist" {
			continue
		}
		l, err := conflist.Parse(f.data)
		o := original(files, f.name)
		if isConverted(f.name) && (o == nil || loadable(*o) == nil) {
			p.changes = append(p.changes, change{name: f.name, old: f.data, why: "uninstalled"})
			if g := guests(l); g != nil {
				p.notes = append(p.notes, fmt.Sprintf("removing %s also removes the plugins that others chained into it: %s", f.shown(), printable.List(g, ", ")))
			}
			continue
		}
		if isConverted(f.name) { // without it the node would have no network
			p.waiting = errors.Join(p.waiting, fmt.Errorf("%s stays until %s is valid", f.shown(), o.shown()))
		}
		switch {
		case err != nil:
			p.skipInvalid(f, now)
		case l.Has():
			if data, err := conflist.Remove(f.data); err == nil {
				p.changes = append(p.changes, change{name: f.name, old: f.data, new: data, why: "uninstalled", like: f.name})
			}
		}
	}
	p.waitForNames(files)
	return p
}

// namesPlugin reports whether a configuration names the plugin as the type of
// any object in it.
func namesPlugin(data []byte) bool {
	var v any
	return json.Unmarshal(data, &v) == nil && hasType(v)
}

func hasType(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			if e == contract.PluginType && strings.EqualFold(key, "type") || hasType(e) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, hasType)
	}
	return false
}

// waitForNames sets waiting while a configuration that stays names the plugin, as
// Multus writes the plugins of others into its delegates: without the program
// every pod would fail.
func (p *plan) waitForNames(files []configFile) {
	for _, f := range files {
		if i := slices.IndexFunc(p.changes, func(ch change) bool { return ch.name == f.name }); i >= 0 {
			f.data = p.changes[i].new
		}
		if loadable(f) == nil && namesPlugin(f.data) {
			p.waiting = errors.Join(p.waiting, fmt.Errorf(
				"%s still names %s, alone or in a delegate: its owner has to rewrite it", f.shown(), contract.PluginType))
		}
	}
}

// skipInvalid handles a list that cannot be edited. One that no runtime loads
// does no harm, once it is clear that it is not just being written.
func (p *plan) skipInvalid(f configFile, now time.Time) {
	invalid := loadable(f)
	switch {
	case invalid != nil && f.fresh(now):
		p.waiting = errors.Join(p.waiting, fmt.Errorf("%s is invalid (%w): waiting until it is completely written", f.shown(), invalid))
	case invalid != nil:
		p.notes = append(p.notes, fmt.Sprintf("%s is invalid (%s) and is left as it is", f.shown(), printable.Line(invalid.Error())))
	}
}

// guests are the plugins that others chained into a converted list.
func guests(l *conflist.List) (types []string) {
	if l == nil {
		return nil
	}
	for _, pl := range l.Plugins[1:] {
		if pl.Type != contract.PluginType {
			types = append(types, printable.Word(pl.Type))
		}
	}
	return types
}
