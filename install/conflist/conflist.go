// Package conflist edits CNI network configurations as bytes: all but the
// plugin's entry keeps every byte, because its owner may compare it, and because
// decoding and encoding again loses numbers, order and unknown fields.
//
// The entry is the JSON object of type contract.PluginType in the list's plugins.
package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// ErrAlone says that a list holds no plugin except this one: without its entry
// it would be a list that no runtime loads.
var ErrAlone = errors.New("the list holds no plugin except " + contract.PluginType)

// List is a network configuration list and where its plugins are in it.
type List struct {
	Name       string
	CNIVersion string
	Plugins    []Plugin

	data []byte
	open int // offset after the "[" of plugins
}

// Plugin is one element of a list.
type Plugin struct {
	Type       string
	start, end int // offsets of its bytes in the list
}

// Parse reads a list and accepts what libcni accepts, with three exceptions, which
// are errors as libcni's are: it wants a name, without which no runtime uses the
// list; the plugins inline, so that an entry can be added; and the key "plugins"
// once, so that it is clear which array the runtime takes.
func Parse(data []byte) (*List, error) {
	loaded, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	if loaded.Name == "" {
		return nil, errors.New("the list has no name")
	}
	l := &List{Name: loaded.Name, CNIVersion: loaded.CNIVersion, data: data}
	if err := l.locate(); err != nil {
		return nil, err
	}
	if len(l.Plugins) != len(loaded.Plugins) || len(l.Plugins) == 0 {
		return nil, errors.New("the list has no inline plugins")
	}
	for i, p := range loaded.Plugins {
		l.Plugins[i].Type = p.Network.Type
	}
	return l, nil
}

// locate finds the elements of the top-level array "plugins". The data is
// valid JSON already: libcni has decoded it.
func (l *List) locate() error {
	dec := json.NewDecoder(bytes.NewReader(l.data))
	if _, err := dec.Token(); err != nil { // {
		return err
	}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		if key != "plugins" {
			if _, _, err := element(dec); err != nil {
				return err
			}
			continue
		}
		if found {
			return errors.New(`the key "plugins" appears twice`)
		}
		found = true
		if _, err := dec.Token(); err != nil { // [
			return err
		}
		l.open = int(dec.InputOffset())
		for dec.More() {
			start, end, err := element(dec)
			if err != nil {
				return err
			}
			l.Plugins = append(l.Plugins, Plugin{start: start, end: end})
		}
		if _, err := dec.Token(); err != nil { // ]
			return err
		}
	}
	return nil
}

// element skips one value and returns where it begins and ends.
func element(dec *json.Decoder) (start, end int, err error) {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return 0, 0, err
	}
	end = int(dec.InputOffset())
	return end - len(raw), end, nil
}

// Has reports whether the list has an entry of the plugin, correct or not.
func (l *List) Has() bool { return slices.ContainsFunc(l.Plugins, isEntry) }

func isEntry(p Plugin) bool { return p.Type == contract.PluginType }

// First is the type of the first plugin other than this one: the one that makes
// the pod's interface. It is empty if there is none.
func (l *List) First() string {
	for _, p := range l.Plugins {
		if !isEntry(p) {
			return p.Type
		}
	}
	return ""
}

// Fault is what is wrong with the entry in a list.
type Fault string

// The faults that Insert repairs.
const (
	None      Fault = ""
	Missing   Fault = "entry missing"
	Duplicate Fault = "entry duplicated"
	Position  Fault = "entry before the interface plugin"
	Changed   Fault = "entry changed"
)

// Check compares the entry in the list with the given one, as JSON values: other
// programs may reformat it. Any place after the interface plugin is correct: if
// two chained plugins insisted on the last one, each would move the other forever.
func (l *List) Check(entry []byte) Fault {
	at := slices.IndexFunc(l.Plugins, isEntry)
	switch {
	case at < 0:
		return Missing
	case slices.ContainsFunc(l.Plugins[at+1:], isEntry):
		return Duplicate
	case at == 0:
		return Position
	case !Equal(l.data[l.Plugins[at].start:l.Plugins[at].end], entry):
		return Changed
	}
	return None
}

// Entry is the first entry's object as it stands in the list, nil if there is none.
func (l *List) Entry() []byte {
	at := slices.IndexFunc(l.Plugins, isEntry)
	if at < 0 {
		return nil
	}
	return l.data[l.Plugins[at].start:l.Plugins[at].end]
}

// Equal reports whether two JSON values are the same. Numbers are compared as
// they are written, because large ones are not exact as floating point. What is
// not JSON equals nothing.
func Equal(a, b []byte) bool {
	x, xerr := value(a)
	y, yerr := value(b)
	return xerr == nil && yerr == nil && reflect.DeepEqual(x, y)
}

func value(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// Insert returns the list with exactly one entry. A list with a correct one comes
// back as it is; an incorrect one is replaced in place; a new one is added as the
// last plugin, with the white space of the one before it. The error is ErrAlone
// for a list that holds no other plugin, or one of Parse.
func Insert(data, entry []byte) ([]byte, error) {
	l, err := Parse(data)
	if err != nil {
		return nil, err
	}
	switch l.Check(entry) {
	case None:
		return data, nil
	case Changed:
		at := l.Plugins[slices.IndexFunc(l.Plugins, isEntry)]
		return splice(data, at.start, at.end, entry), nil
	case Duplicate, Position:
		if data, err = Remove(data); err != nil {
			return nil, err
		}
		if l, err = Parse(data); err != nil {
			return nil, err
		}
	}
	last := l.Plugins[len(l.Plugins)-1]
	from := l.open
	if n := len(l.Plugins); n > 1 {
		from = l.Plugins[n-2].end + bytes.IndexByte(data[l.Plugins[n-2].end:], ',') + 1
	}
	added := slices.Concat([]byte(","), data[from:last.start], entry)
	return splice(data, last.end, last.end, added), nil
}

// Remove returns the list without any entry, and without the comma and the white
// space that Insert put before it: it restores the bytes of a list that Insert
// changed. A list without an entry comes back as it is. The error is ErrAlone for
// a list that holds nothing else, or one of Parse.
func Remove(data []byte) ([]byte, error) {
	for {
		l, err := Parse(data)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(l.Plugins, isEntry)
		switch {
		case at < 0:
			return data, nil
		case len(l.Plugins) == 1:
			return nil, ErrAlone
		case at == 0:
			data = splice(data, l.Plugins[0].start, l.Plugins[1].start, nil)
		default:
			data = splice(data, l.Plugins[at-1].end, l.Plugins[at].end, nil)
		}
	}
}

// splice returns data with the bytes from start to end replaced. It does not
// change data, which the caller keeps.
func splice(data []byte, start, end int, by []byte) []byte {
	return slices.Concat(data[:start], by, data[end:])
}
