// Package explain says in words what happens to a pod's inbound connections: from
// facts that others have gathered it makes a report with checks, the story of one
// connection, a verdict and one next step. It asks neither the kernel nor the
// runtime; package gather does.
//
//	facts.go       what can be known of a pod
//	story.go       one connection: where its packets went
//	judge.go       which of the situations it is, and what mends it
//	next.go        next steps, for pods and for bare namespaces
//	report.go      the report, as JSON
//	checks.go      its lines
//	print.go       the report on a terminal
package explain

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// Facts are what could be found out about a pod. A zero value means that nothing is
// known of it, or that it is not so; Unknown has what should be known and is not.
// Texts are as they were found: the report makes them printable.
type Facts struct {
	Namespace, Name string // of the pod; both empty where only NetNS was given
	NetNS           string // path of its network namespace
	Node            string
	Plugin          string // version of the plugin's binary on the node
	Addrs           []netip.Addr

	HostNetwork bool   // it has no network namespace of its own
	Stack       string // "gVisor", where the network stack is not the namespace's
	Source      string // what Config.Mode comes from: "annotation mode=nat"
	ByDefault   bool   // it has no annotation of the plugin: what it asks for is the node's default
	Invalid     string // why the pod's settings are none
	Config      intercept.Config

	Programmed bool     // something that ADD makes is there
	Table      bool     // and the table that intercepts is among it
	Drift      []string // how it differs from what ADD makes, a sentence each
	Missing    []string // what the kernel lacks for the mode; looked for where something is wrong
	Counters   []Counter
	Guard      contract.Guard    // the packet guard in force; empty where it is not known
	Others     []intercept.Other // rules of other software that take connections

	Entry   Entry
	Created time.Time // the pod

	Listeners []Listener
	Sidecar   *Container // of the pod; nil where the runtime was not asked
	Ready     *Ready     // nil where the health port did not answer
	Conntrack Usage      // entries of the pod's namespace and the limit of the node

	Client   netip.Addr // asked for; else the zero value
	Port     uint16     // asked for or chosen; 0 where the application has none
	Replaced []Replaced // connections to the pod whose client was replaced on this node
	Story    *Story     // nil where no connection was followed
	NoStory  string     // why not

	Unknown []string
}

// Counter is one of the counters in the pod's rules.
type Counter struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
}

// Entry is the plugin's entry in the node's CNI configuration.
type Entry struct {
	Looked  bool
	File    string // "" where no list names the plugin
	Changed time.Time
}

// Listener is a listening TCP socket of the pod.
type Listener struct {
	Addr    netip.AddrPort
	V6Only  bool
	UID     uint32
	PID     int    // of a process that has it open; 0 where not known
	Process string // its name
	Queue   uint32 // connections that wait for accept(2)
	Limit   uint32 // how many may wait before the queue is full
}

// Full reports whether the kernel drops new connections: it compares the queue like
// this (sk_acceptq_is_full).
func (l Listener) Full() bool { return l.Queue > l.Limit }

// Container is the sidecar's.
type Container struct {
	Found    bool
	Name     string
	Running  bool
	Restarts uint32
}

// Ready is what the sidecar's health port says.
type Ready struct {
	OK      bool
	Text    string // without "ready: " or "not ready: "
	Cure    string // what to do, as the sidecar says; "" where it does not
	Version string // of the sidecar; "" where it does not say
}

// Usage is how many there are of what is limited; the zero value is not known.
type Usage struct{ Count, Limit uint64 }

// Replaced is a connection whose source was rewritten before it came to the pod.
type Replaced struct {
	From, To netip.AddrPort // as the client sent it
	As       netip.AddrPort // the source that the pod sees
	Pod      netip.AddrPort
}

// Asks reports whether the pod is to be intercepted.
func (f Facts) Asks() bool {
	return f.Config.Mode == contract.ModeNAT || f.Config.Mode == contract.ModeTProxy
}

// leftAlone reports whether the pod is one that the installer's repair leaves as it is:
// it came before the node's default mode, perhaps without a sidecar.
func (f Facts) leftAlone() bool { return f.Asks() && f.ByDefault && !f.Programmed && !f.Table }

// sidecar are the listeners on the sidecar's port.
func (f Facts) sidecar() []Listener {
	return filter(f.Listeners, func(l Listener) bool { return l.Addr.Port() == f.Config.ProxyPort })
}

// Application are the pod's other listeners that clients could reach, without those
// on loopback.
func (f Facts) Application() []Listener {
	return filter(f.Listeners, func(l Listener) bool { return f.other(l) && !l.Addr.Addr().IsLoopback() })
}

// Sidecars reports whether the sidecar's user listens on a port, and nobody else.
func (f Facts) Sidecars(port uint16) bool {
	on := filter(f.Listeners, func(l Listener) bool { return l.Addr.Port() == port })
	return len(on) > 0 && !slices.ContainsFunc(on, func(l Listener) bool { return l.UID != f.Config.ProxyUID })
}

// other reports whether a listener is not the sidecar's: neither its two ports nor those
// that it opens for a moment to check the pod.
func (f Facts) other(l Listener) bool {
	return l.UID != f.Config.ProxyUID && l.Addr.Port() != f.Config.ProxyPort && l.Addr.Port() != f.Config.AdminPort
}

// onPort are the listeners that could serve Port in the client's family, and those on
// the port that can not.
func (f Facts) onPort() (fit, unfit []Listener) {
	for _, l := range f.Listeners {
		if l.Addr.Port() != f.Port {
			continue
		}
		if f.serves(l) {
			fit = append(fit, l)
		} else {
			unfit = append(unfit, l)
		}
	}
	return fit, unfit
}

// serves reports whether a client's connection can reach l.
func (f Facts) serves(l Listener) bool {
	at, c := l.Addr.Addr(), f.client()
	switch {
	case at.IsLoopback():
		return false
	case !c.IsValid():
		return true
	case at.Is4():
		return c.Is4()
	case at.IsUnspecified():
		return c.Is6() || !l.V6Only
	}
	return c.Is6()
}

// Serves reports whether a connection to an address and port of the pod finds a
// listener that a client can reach.
func (f Facts) Serves(to netip.Addr, port uint16) bool {
	f.Client, f.Port, f.Story = to, port, nil
	fit, _ := f.onPort()
	return slices.ContainsFunc(fit, func(l Listener) bool { return l.Addr.Addr().IsUnspecified() || l.Addr.Addr() == to })
}

// Intercepts reports whether the settings have connections to a port intercepted, but
// for excluded clients.
func (f Facts) Intercepts(port uint16) bool {
	f.Port, f.Config.ExcludeSources = port, nil
	why, _ := f.exempt()
	return why == ""
}

// client is the one asked for or followed; it may be unknown.
func (f Facts) client() netip.Addr {
	if !f.Client.IsValid() && f.Story != nil {
		return f.Story.Client.Addr()
	}
	return f.Client
}

// exempt is why the settings leave a connection alone, and the setting's name; both
// are empty for one that is intercepted.
func (f Facts) exempt() (why, setting string) {
	has := func(ranges []intercept.PortRange) bool {
		return slices.ContainsFunc(ranges, func(r intercept.PortRange) bool { return r.Low <= f.Port && f.Port <= r.High })
	}
	c := f.client()
	by := func(p netip.Prefix) bool { return p.Contains(c) }
	switch {
	case f.Port == 0:
	case f.Port == f.Config.AdminPort:
		return "is the health port", "admin-port"
	case has(f.Config.ExcludePorts):
		return "is excluded", "exclude-inbound-ports"
	case len(f.Config.IncludePorts) > 0 && !has(f.Config.IncludePorts):
		return "is not among the included", "include-inbound-ports"
	case slices.ContainsFunc(f.Config.ExcludeSources, by):
		i := slices.IndexFunc(f.Config.ExcludeSources, by)
		return f.Config.ExcludeSources[i].String(), "exclude-source-cidrs"
	}
	return "", ""
}

// lacksFamily reports whether the pod has no address of the client's family.
func (f Facts) lacksFamily() bool {
	return f.Client.IsValid() && len(f.Addrs) > 0 &&
		!slices.ContainsFunc(f.Addrs, func(a netip.Addr) bool { return a.Is4() == f.Client.Is4() })
}

func filter[T any](list []T, keep func(T) bool) (kept []T) {
	for _, x := range list {
		if keep(x) {
			kept = append(kept, x)
		}
	}
	return kept
}
