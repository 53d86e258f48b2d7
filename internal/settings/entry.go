package settings

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// cniKeys are the keys that the CNI specification gives to every plugin's
// object, and those that runtimes add. "cni.dev/…" are its extensions.
var cniKeys = []string{
	"args", "capabilities", "cniVersion", "disableCheck", "disableGC", "dns",
	"ipMasq", "ipam", "name", "prevResult", "runtimeConfig", "type",
}

const cniExtension = "cni.dev/"

// Entry reads the plugin's entry in a conflist, or the configuration that a
// runtime makes of it for the plugin. Keys are compared exactly, unlike in
// encoding/json.
func (s *Settings) Entry(data []byte) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		s.fault(Conflist, "conflist object", printable.Short(string(data)), "not a JSON object", `{"type": "`+contract.PluginType+`", ...}`)
		return
	}
	known := slices.Clone(cniKeys)
	var keys []string
	for _, d := range list {
		keys = append(keys, d.Key)
		raw, ok := object[d.Key]
		if !ok {
			continue
		}
		elements, problem, want := d.decode(raw)
		if problem != "" {
			subject := Conflist.subject(d.Name, d.Key)
			s.fault(Conflist, subject, printable.Short(string(raw)), problem, want)
			s.origin[d.Name] = origin{Conflist, subject, printable.Short(string(raw)), false}
			continue
		}
		s.set(Conflist, d, elements, printable.Short(string(raw)))
	}
	keys = append(keys, ExemptKey)
	if raw, ok := object[ExemptKey]; ok {
		s.exemptEntry(raw)
	}
	for _, key := range unknown(object, append(known, keys...)) {
		if !strings.HasPrefix(key, cniExtension) {
			s.fault(Conflist, Conflist.subject(key, key), printable.Short(string(object[key])), "unknown", strings.Join(keys, ", ")+" and CNI's own keys")
		}
	}
}

// decode makes elements of a JSON value of the setting's form. Pointers keep null
// and the empty string apart, which encoding/json would otherwise treat alike.
func (d Setting) decode(raw json.RawMessage) (elements []string, problem, want string) {
	switch d.form {
	case number:
		var n *json.Number
		// encoding/json takes a quoted json.Number, too.
		if json.Unmarshal(raw, &n) != nil || n == nil || raw[0] == '"' {
			return nil, "not a JSON number", d.want
		}
		return []string{n.String()}, "", ""
	case array:
		var texts []*string
		if json.Unmarshal(raw, &texts) != nil || texts == nil || slices.Contains(texts, nil) {
			return nil, "not a JSON array of strings", "an array of " + d.want
		}
		for _, t := range texts {
			elements = append(elements, *t)
		}
		return elements, "", ""
	}
	var text *string
	if json.Unmarshal(raw, &text) != nil || text == nil {
		return nil, "not a JSON string", "a string: " + d.want
	}
	return d.split(*text), "", ""
}

// NewEntry returns the plugin's entry for a conflist, with these settings as the
// node's defaults, given as for Flags. Its error is all Faults in them.
func NewEntry(flags map[string]string) (json.RawMessage, error) {
	s := New()
	s.Flags(flags)
	if _, err := s.Config("", nil); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`{"type":` + strconv.Quote(contract.PluginType))
	for _, d := range list {
		text, ok := flags[d.Name]
		if !ok {
			continue
		}
		value, err := d.encode(text)
		if err != nil {
			return nil, err
		}
		b.WriteString(`,"` + d.Key + `":` + string(value))
	}
	if text, ok := flags[ExemptNamespaces]; ok {
		value, err := encodeExempt(text)
		if err != nil {
			return nil, err
		}
		b.WriteString(value)
	}
	b.WriteString(`,"capabilities":{"` + contract.AnnotationsCapability + `":true}}`)

	check := New()
	check.Entry(b.Bytes())
	_, err := check.Config("", nil)
	return b.Bytes(), err
}

// encode is the inverse of decode, for a valid text.
func (d Setting) encode(text string) ([]byte, error) {
	switch text = strings.TrimSpace(text); d.form {
	case number:
		n, err := strconv.ParseUint(text, 10, 64) // JSON has no leading zeros
		return strconv.AppendUint(nil, n, 10), err
	case array:
		elements := []string{}
		for _, e := range d.split(text) {
			elements = append(elements, strings.TrimSpace(e))
		}
		return json.Marshal(elements)
	}
	return json.Marshal(text)
}
