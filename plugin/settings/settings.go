// Package settings reads what a pod is to be like from where it is said: the
// node's defaults in our object of the conflist, the pod's annotations, and
// the flags of an init container. All three say the same things in the same
// words and are validated by the same code; all faults are found, not only the
// first.
package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// Source is a place where settings are said; a later one wins over an earlier.
type Source int

const (
	Conflist   Source = iota // our object in the conflist
	Annotation               // the pod's annotations
	Flag                     // a command line
)

// subject is how a fault names a setting of the source.
func (src Source) subject(name, key string) string {
	switch src {
	case Conflist:
		return "conflist key " + key
	case Annotation:
		return "annotation " + contract.AnnotationPrefix + name
	default:
		return "flag --" + name
	}
}

// Fault is one thing wrong in the settings. Its text names the setting, what
// it says, what is wrong and what is allowed.
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

// Settings gathers what the sources say, in the order in which they are read.
type Settings struct {
	config redirect.Config
	origin map[string]origin // by a setting's name; absent for our defaults
	faults []error
}

// origin is where a setting's value is said.
type origin struct {
	source         Source
	subject, value string
	valid          bool
}

// New is what holds where nothing is said: the pod is left alone, and the rest
// is as package contract has it.
func New() *Settings {
	return &Settings{config: redirect.Default(contract.ModeNone), origin: map[string]origin{}}
}

// Annotations reads a pod's annotations. Those of others are left alone; one of
// ours that does not exist is a fault, so that a typing error never leaves a
// pod without its proxy in silence.
func (s *Settings) Annotations(all map[string]string) {
	ours := map[string]string{}
	for key, value := range all {
		if name, ok := strings.CutPrefix(key, contract.AnnotationPrefix); ok {
			ours[name] = value
		}
	}
	s.texts(Annotation, ours)
}

// Flags reads the flags that were given, by their names.
func (s *Settings) Flags(given map[string]string) { s.texts(Flag, given) }

func (s *Settings) texts(src Source, values map[string]string) {
	var known []string
	for _, d := range list {
		known = append(known, d.Name)
		if text, ok := values[d.Name]; ok {
			s.set(src, d, d.split(text), quote(text))
		}
	}
	for _, name := range unknown(values, known) {
		problem, want := "unknown", strings.Join(known, ", ")
		if name == injectLabel {
			problem, want = "this is a label", "metadata.labels in its place"
		}
		s.fault(src, src.subject(name, name), quote(values[name]), problem, want)
	}
}

// set lets one source say one setting. What is invalid sets nothing.
func (s *Settings) set(src Source, d Setting, elements []string, shown string) {
	o := origin{src, src.subject(d.Name, d.Key), shown, true}
	if problems := d.set(&s.config, elements); len(problems) > 0 {
		o.valid = false
		s.fault(src, o.subject, shown, strings.Join(problems, ", "), d.want)
	}
	s.origin[d.Name] = o
}

func (s *Settings) fault(src Source, subject, value, problem, want string) {
	s.faults = append(s.faults, &Fault{src, subject, value, problem, want})
}

// Config is the outcome, or every Fault, joined. Its mode is contract.ModeNone
// for a pod that is left alone. own are the pod's addresses as far as they are
// known: a CIDR of a family that the pod has not is a fault.
func (s *Settings) Config(ifname string, own []netip.Addr) (redirect.Config, error) {
	s.config.Interface = ifname
	faults := slices.Concat(s.faults, s.ports(), s.families(own))
	return s.config, errors.Join(faults...)
}

// ports: the proxy and its health endpoint cannot share one.
func (s *Settings) ports() []error {
	proxy, admin := s.origin[proxyPort], s.origin[adminPort]
	said := proxy.subject != "" || admin.subject != ""
	valid := (proxy.valid || proxy.subject == "") && (admin.valid || admin.subject == "")
	if !said || !valid || s.config.ProxyPort != s.config.AdminPort {
		return nil
	}
	// The one to blame is the one that was said last.
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
	return []error{&Fault{blame.source, blame.subject, blame.value, problem, "two different ports"}}
}

// families: a CIDR whose family no address of the pod has excludes nobody.
func (s *Settings) families(own []netip.Addr) (faults []error) {
	o := s.origin[excludeSources]
	if s.config.Mode == contract.ModeNone || len(own) == 0 || !o.valid {
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
			problem := fmt.Sprintf("%s fits nothing, the pod has no %s address", p, name)
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

// quote shows a text as it was written, up to a length that a message bears.
func quote(text string) string { return fmt.Sprintf("%q", short(text)) }

func short(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
