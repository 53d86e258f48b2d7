// Package conflist edits CNI network configurations as bytes: what is not ours
// keeps every byte, because whoever wrote it may compare it, and because
// decoding and encoding again loses numbers, order and unknown fields.
package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// ErrAlone says that a list holds no plugin but ours: taking ours out would
// leave a list that no runtime loads.
var ErrAlone = errors.New("the list holds no plugin but " + contract.PluginType)

// List is a network configuration list and where its plugins stand in it.
type List struct {
	Name       string
	CNIVersion string
	Plugins    []Plugin

	data []byte
	open int // offset behind the "[" of plugins
}

// Plugin is one element of a list.
type Plugin struct {
	Type       string
	start, end int // its bytes in the list
}

// Parse reads a list and accepts what libcni accepts, with two exceptions: it
// wants the plugins inline, so that ours can be one of them, and the key
// "plugins" once, so that there is no doubt which array the runtime takes.
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
		return nil, errors.New("the list has no plugins inline")
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
			return errors.New(`the key "plugins" is there twice`)
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

// element passes over one value and tells where it begins and ends.
func element(dec *json.Decoder) (start, end int, err error) {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return 0, 0, err
	}
	end = int(dec.InputOffset())
	return end - len(raw), end, nil
}

// Has tells whether the list has an entry of ours, right or wrong.
func (l *List) Has() bool { return slices.ContainsFunc(l.Plugins, ours) }

func ours(p Plugin) bool { return p.Type == contract.PluginType }

// First is the type of the first plugin that is not ours: the one that makes
// the pod's interface.
func (l *List) First() string {
	for _, p := range l.Plugins {
		if !ours(p) {
			return p.Type
		}
	}
	return ""
}

// Fault is what is wrong with our entry in a list.
type Fault string

// The faults that Insert repairs.
const (
	None      Fault = ""
	Missing   Fault = "entry missing"
	Duplicate Fault = "entry duplicated"
	Position  Fault = "entry before the interface plugin"
	Changed   Fault = "entry changed"
)

// Check compares our entry in the list with the one it should be, as values:
// others may reformat it. Any place behind the interface plugin is right: a
// second chained plugin may want to be last, too, and neither would rest.
func (l *List) Check(entry []byte) Fault {
	at := slices.IndexFunc(l.Plugins, ours)
	switch {
	case at < 0:
		return Missing
	case slices.ContainsFunc(l.Plugins[at+1:], ours):
		return Duplicate
	case at == 0:
		return Position
	case !Equal(l.data[l.Plugins[at].start:l.Plugins[at].end], entry):
		return Changed
	}
	return None
}

// Equal tells whether two JSON values are the same, numbers as they are
// written: as floating point large ones would be the same as their neighbours.
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

// Insert gives the list exactly one entry of ours. A list that has it right
// comes back as it is; a wrong one is replaced where it stands; a new one is
// added as the last plugin, set off like the one before it.
func Insert(data, entry []byte) ([]byte, error) {
	l, err := Parse(data)
	if err != nil {
		return nil, err
	}
	switch l.Check(entry) {
	case None:
		return data, nil
	case Changed:
		at := l.Plugins[slices.IndexFunc(l.Plugins, ours)]
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

// Remove takes every entry of ours out, with the comma and the space that
// Insert put before it: of a list that Insert changed it gives back the bytes.
func Remove(data []byte) ([]byte, error) {
	for {
		l, err := Parse(data)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(l.Plugins, ours)
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

// splice is data with the bytes from start to end replaced; data stays as it
// is, for others hold it.
func splice(data []byte, start, end int, by []byte) []byte {
	return slices.Concat(data[:start], by, data[end:])
}

// Convert makes a list of a single plugin's configuration and our entry. The
// plugin's bytes are kept; the name and the version that they also hold are
// those which libcni sets in every plugin of the list anyway.
func Convert(conf, entry []byte) ([]byte, error) {
	c, err := ParseConf(conf)
	if err != nil {
		return nil, err
	}
	var list bytes.Buffer
	list.WriteString("{\n")
	if c.CNIVersion != "" {
		fmt.Fprintf(&list, "  \"cniVersion\": %s,\n", quote(c.CNIVersion))
	}
	fmt.Fprintf(&list, "  \"name\": %s,\n  \"plugins\": [\n", quote(c.Name))
	fmt.Fprintf(&list, "%s,\n%s\n  ]\n}\n", bytes.TrimSpace(conf), entry)
	if _, err := Parse(list.Bytes()); err != nil {
		return nil, err
	}
	return list.Bytes(), nil
}

// Converted tells whether list is conf converted and our entry in it is right.
// More plugins behind conf are right, too: others chain into the list.
func Converted(list, conf, entry []byte) bool {
	l, err := Parse(list)
	if err != nil || l.Check(entry) != None {
		return false
	}
	c, err := ParseConf(conf)
	return err == nil && l.Name == c.Name && l.CNIVersion == c.CNIVersion &&
		Equal(list[l.Plugins[0].start:l.Plugins[0].end], conf)
}

// Conf is the configuration of a single plugin, a file that ends in .conf or
// .json.
type Conf struct{ Name, CNIVersion, Type string }

// ParseConf reads one, as libcni does. It wants the name, without which no
// runtime can use it.
func ParseConf(data []byte) (*Conf, error) {
	loaded, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	c := &Conf{Name: loaded.Network.Name, CNIVersion: loaded.Network.CNIVersion, Type: loaded.Network.Type}
	if c.Name == "" {
		return nil, errors.New("the configuration has no name")
	}
	return c, nil
}

func quote(s string) []byte {
	b, _ := json.Marshal(s) // a string always has a JSON form
	return b
}
