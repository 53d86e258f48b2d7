package settings

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// cniKeys are the keys that the CNI specification gives to every plugin's
// object, and those that runtimes add. "cni.dev/…" are its extensions.
var cniKeys = []string{
	"args", "capabilities", "cniVersion", "disableCheck", "disableGC", "dns",
	"ipMasq", "ipam", "name", "prevResult", "runtimeConfig", "type",
}

const cniExtension = "cni.dev/"

// Entry reads our object in a conflist, or what a runtime makes of it for the
// plugin. Keys are compared exactly, as the other plugins' are.
func (s *Settings) Entry(data []byte) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		s.fault(Conflist, "conflist object", short(string(data)), "no JSON object", `{"type": "`+contract.PluginType+`", …}`)
		return
	}
	known := slices.Clone(cniKeys)
	var ours []string
	for _, d := range list {
		ours = append(ours, d.Key)
		raw, ok := object[d.Key]
		if !ok {
			continue
		}
		elements, problem, want := d.decode(raw)
		if problem != "" {
			subject := Conflist.subject(d.Name, d.Key)
			s.fault(Conflist, subject, short(string(raw)), problem, want)
			s.origin[d.Name] = origin{Conflist, subject, string(raw), false}
			continue
		}
		s.set(Conflist, d, elements, short(string(raw)))
	}
	for _, key := range unknown(object, append(known, ours...)) {
		if !strings.HasPrefix(key, cniExtension) {
			s.fault(Conflist, "conflist key "+key, short(string(object[key])), "unknown", strings.Join(ours, ", ")+" and CNI's own keys")
		}
	}
}

// decode makes elements of a JSON value of the setting's form. Pointers tell
// null from the empty text, which encoding/json would else take for the same.
func (d Setting) decode(raw json.RawMessage) (elements []string, problem, want string) {
	switch d.form {
	case number:
		var n *json.Number
		// A json.Number may be quoted; ours may not.
		if json.Unmarshal(raw, &n) != nil || n == nil || raw[0] == '"' {
			return nil, "no JSON number", d.want
		}
		return []string{n.String()}, "", ""
	case array:
		var texts []*string
		if json.Unmarshal(raw, &texts) != nil || texts == nil || slices.Contains(texts, nil) {
			return nil, "no JSON array of strings", "an array of " + d.want
		}
		for _, t := range texts {
			elements = append(elements, *t)
		}
		return elements, "", ""
	}
	var text *string
	if json.Unmarshal(raw, &text) != nil || text == nil {
		return nil, "no JSON string", "a string: " + d.want
	}
	return d.split(*text), "", ""
}

// NewEntry is our object for a conflist with these settings as the node's
// defaults, given as for Flags, or every Fault in them.
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
	b.WriteString(`,"capabilities":{"` + contract.AnnotationsCapability + `":true}}`)

	check := New()
	check.Entry(b.Bytes())
	_, err := check.Config("", nil)
	return b.Bytes(), err
}

// encode is decode's inverse, of a valid text.
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
