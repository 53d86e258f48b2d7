package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
)

// Convert makes a list of a single plugin's configuration and the entry. The
// plugin's bytes are kept; the name and the version in them are those that libcni
// sets in every plugin of a list anyway. The error is one of ParseConf or Parse.
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

// Converted reports whether list is conf converted, with a correct entry. It may
// have further plugins, which others chained into it.
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

// ParseConf reads the configuration of a single plugin. The error is libcni's, or
// says that it has no name, without which no runtime can use it.
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
