// Package settings reads a pod's settings from their three sources: the node's
// defaults in the plugin's conflist entry, the pod's annotations, and the flags of
// an init container. All three have the same settings with the same syntax and are
// validated by the same code, which finds every fault and not only the first.
package settings

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Source is where a setting comes from; a later one overrides an earlier.
type Source int

const (
	Conflist   Source = iota // the plugin's entry in the conflist
	Annotation               // the pod's annotations
	Flag                     // a command line
)

// subject is how a fault names a setting of the source. The name is as it was
// written there, which may be anything.
func (src Source) subject(name, key string) string {
	switch src {
	case Conflist:
		return "conflist key " + printable.Word(key)
	case Annotation:
		return "annotation " + printable.Word(contract.AnnotationPrefix+name)
	default:
		return "flag " + printable.Word("--"+name)
	}
}

// Fault is one thing wrong in the settings. Its text names the setting, its
// value, what is wrong with that and what is allowed.
type Fault struct {
	Source  Source
	Subject string // "annotation tproxy-cni.io/proxy-port"
	Value   string // as it is written there
	Problem string
	Want    string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s %s: %s (want %s)", f.Subject, f.Value, f.Problem, f.Want)
}

// Faults are all of them, in the order in which they were read. Their text has
// a line for each of the first ones.
type Faults []*Fault

func (fs Faults) Error() string {
	texts := make([]string, len(fs))
	for i, f := range fs {
		texts[i] = f.Error()
	}
	return printable.List(texts, "\n")
}

// From reports whether one of them is of the source.
func (fs Faults) From(src Source) bool {
	return slices.ContainsFunc(fs, func(f *Fault) bool { return f.Source == src })
}

// Settings gathers the sources, which must be read in their order.
type Settings struct {
	config intercept.Config
	origin map[string]origin // by a setting's name; absent for built-in defaults
	faults Faults

	sidecar []string // SidecarFlags

	namespace string   // the pod's
	exempt    []string // namespaces to which a mode in the conflist does not apply
}

// origin is where a setting's value comes from.
type origin struct {
	source         Source
	subject, value string
	valid          bool
}

// New returns the defaults: mode none, the rest as package contract has it.
func New() *Settings {
	return &Settings{config: intercept.Default(contract.ModeNone), origin: map[string]origin{}, exempt: defaultExempt}
}

// Annotations reads a pod's annotations. Only those with our prefix count; an
// unknown one of these is a fault, so that a typo never leaves a pod without its
// proxy unnoticed.
func (s *Settings) Annotations(all map[string]string) {
	prefixed := map[string]string{}
	for key, value := range all {
		if name, ok := strings.CutPrefix(key, contract.AnnotationPrefix); ok {
			prefixed[name] = value
		}
	}
	// What a node's entry requires, and not only the default does, no pod takes back.
	// A pod that asks for less has more then, which is no fault of its settings.
	o := s.origin[packetGuard]
	floor := o.source == Conflist && o.valid && s.config.PacketGuard == contract.PacketGuardRequired
	s.texts(Annotation, prefixed)
	if floor {
		s.config.PacketGuard = contract.PacketGuardRequired
	}
}

// Flags reads the flags that were given, by their names.
func (s *Settings) Flags(given map[string]string) { s.texts(Flag, given) }

func (s *Settings) texts(src Source, values map[string]string) {
	var known []string
	for _, d := range list {
		known = append(known, d.Name)
		if text, ok := values[d.Name]; ok {
			s.set(src, d, d.split(text), printable.Quote(text))
		}
	}
	if src == Annotation {
		s.sidecarTexts(values)
		for _, d := range forSidecar {
			known = append(known, d.name)
		}
	}
	if src == Flag {
		known = append(known, ExemptNamespaces)
		if text, ok := values[ExemptNamespaces]; ok {
			s.setExempt(src, Setting{form: array}.split(text), printable.Quote(text))
		}
	}
	for _, name := range unknown(values, known) {
		problem, want := "unknown", strings.Join(known, ", ")
		if name == injectLabel {
			problem, want = "this is a label, not an annotation", "it in metadata.labels"
		}
		s.fault(src, src.subject(name, name), printable.Quote(values[name]), problem, want)
	}
}

// set takes one setting from one source. An invalid value sets nothing.
func (s *Settings) set(src Source, d Setting, elements []string, shown string) {
	o := origin{src, src.subject(d.Name, d.Key), shown, true}
	if problems := d.set(&s.config, elements); len(problems) > 0 {
		o.valid = false
		s.fault(src, o.subject, shown, printable.List(problems, ", "), d.want)
	}
	s.origin[d.Name] = o
}

func (s *Settings) fault(src Source, subject, value, problem, want string) {
	s.faults = append(s.faults, &Fault{src, subject, value, problem, want})
}

// Config returns what the sources come to, or all Faults, and no other error.
// Its mode is contract.ModeNone for a pod that is left alone. own are the pod's
// addresses as far as they are known: a CIDR of a family that the pod does not have
// is a fault. It needs no privilege: it asks nothing of the system.
func (s *Settings) Config(ifname string, own []netip.Addr) (intercept.Config, error) {
	s.config.Interface = ifname
	faults := slices.Concat(s.faults, s.ports(), s.families(own))
	c := s.config
	if c.Mode = s.mode(); len(faults) == 0 {
		return c, nil
	}
	return c, faults
}

// ports finds the fault of one port for the proxy and its health endpoint.
func (s *Settings) ports() Faults {
	proxy, admin := s.origin[proxyPort], s.origin[adminPort]
	given := proxy.subject != "" || admin.subject != ""
	valid := (proxy.valid || proxy.subject == "") && (admin.valid || admin.subject == "")
	if !given || !valid || s.config.ProxyPort != s.config.AdminPort {
		return nil
	}
	// The one to blame is the one that was set last.
	blame, other := admin, proxy
	problem := "this is the proxy port"
	if admin.subject == "" || proxy.subject != "" && proxy.source > admin.source {
		blame, other = proxy, admin
		problem = "this is the admin port"
	}
	if other.subject == "" {
		problem += " by default"
	} else {
		problem += fmt.Sprintf(", by %s %s", other.subject, other.value)
	}
	return Faults{{blame.source, blame.subject, blame.value, problem, "two different ports"}}
}

// families finds CIDRs of a family that the pod has no address of.
func (s *Settings) families(own []netip.Addr) (faults Faults) {
	o := s.origin[excludeSources]
	if s.mode() == contract.ModeNone || len(own) == 0 || !o.valid {
		return nil
	}
	has := func(is4 bool) bool {
		return slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 })
	}
	for _, p := range s.config.ExcludeSources {
		name, other := "IPv4", "IPv6"
		if p.Addr().Is6() {
			name, other = other, name
		}
		if !has(p.Addr().Is4()) {
			problem := fmt.Sprintf("%s matches nothing: the pod has no %s address", p, name)
			faults = append(faults, &Fault{o.source, o.subject, o.value, problem, other + " CIDRs only"})
		}
	}
	return faults
}

// unknown are the keys of m that are not known, in order.
func unknown[V any](m map[string]V, known []string) (names []string) {
	for name := range m {
		if !slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
