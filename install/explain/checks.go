package explain

import (
	"fmt"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/term"
)

// Check is one line of the report.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Text  string `json:"text"`
	warn  bool   // worth knowing, and no fault
}

func (c Check) mark() term.Mark {
	switch {
	case c.warn || c.State == Unclear:
		return term.Note
	case c.State == Fault:
		return term.Bad
	}
	return term.OK
}

// checks are the lines, in the order of a packet's way.
func checks(f Facts) (list []Check) {
	add := func(name string, ok bool, format string, args ...any) {
		state := Fault
		if ok {
			state = Fine
		}
		list = append(list, Check{Name: name, State: state, Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case f.Invalid != "":
		add("settings", false, "settings: %s", printable.Line(f.Invalid))
	case f.Source != "":
		add("settings", true, "%s", printable.Short(f.Source))
	}
	if f.HostNetwork {
		add("network", !f.Asks(), "hostNetwork: no namespace of its own")
	}
	if f.Stack != "" {
		add("network", !f.Asks(), "network stack of %s", printable.Short(f.Stack))
	}
	if !f.HostNetwork && f.Asks() && f.Invalid == "" {
		list = append(list, f.rules()...)
		if !f.leftAlone() {
			list = append(list, f.sockets()...)
		}
	}
	for _, o := range f.Others {
		list = append(list, Check{"interceptors", Fault, printable.Line(o.String()), f.leftAlone()})
	}
	if f.Asks() && len(f.Others) == 0 && f.Table && len(f.Unknown) == 0 {
		add("interceptors", true, "no other interceptor")
	}
	for i, r := range f.Replaced {
		if i == maxReplaced {
			break
		}
		list = append(list, Check{"conntrack", Fault, fmt.Sprintf("conntrack of this node: %s > %s became %s > %s", r.From, r.To, r.As, r.Pod), true})
	}
	for _, u := range f.Unknown {
		list = append(list, Check{"unknown", Unclear, "not known: " + printable.Line(u), false})
	}
	return list
}

// maxReplaced is how many connections with a replaced client are shown.
const maxReplaced = 3

// rules are the lines on what ADD made.
func (f Facts) rules() (list []Check) {
	switch {
	case len(f.Missing) > 0:
		list = append(list, Check{"kernel", Fault, "this kernel lacks " + printable.List(lines(f.Missing), ", "), false})
	case !f.Programmed:
		text := "no table and no ip rule of the plugin"
		if f.Entry.Looked && f.Entry.File == "" {
			text += "; no CNI list of this node has the plugin"
		} else if f.Entry.Looked && !f.Created.IsZero() {
			text += fmt.Sprintf("; pod made at %s, entry in %s at %s", clock(f.Created), printable.Word(f.Entry.File), clock(f.Entry.Changed))
		}
		list = append(list, Check{"rules", Fault, text, f.leftAlone()})
	case !f.Table:
		list = append(list, Check{"rules", Fault, "the plugin's table is gone; ip rules are left", false})
	case len(f.Drift) == 0 && !f.unchecked():
		list = append(list, Check{"rules", Fine, "rules, routes and sysctls as ADD made them", false})
	}
	if f.Table && f.Guard != "" && f.Guard != contract.GuardNFT {
		list = append(list, Check{"packet_guard", Fine, intercept.Guarded{Guard: f.Guard}.String(), true})
	}
	if f.Table {
		for i, d := range lines(f.Drift) {
			if i == printable.MaxItems {
				list = append(list, Check{"rules", Fault, fmt.Sprintf("and %d more", len(f.Drift)-i), false})
				break
			}
			list = append(list, Check{"rules", Fault, d, false})
		}
	}
	return list
}

// unchecked reports whether CHECK could not compare.
func (f Facts) unchecked() bool {
	for _, u := range f.Unknown {
		if strings.HasPrefix(u, uncheckedPrefix) {
			return true
		}
	}
	return false
}

// uncheckedPrefix begins what Unchecked says.
const uncheckedPrefix = "cannot compare the rules: "

// Unchecked is what belongs into Facts.Unknown where CHECK could not compare.
func Unchecked(err error) string { return uncheckedPrefix + err.Error() }

// sockets are the lines on who listens.
func (f Facts) sockets() (list []Check) {
	sidecar := f.sidecar()
	for _, l := range sidecar {
		ok := l.UID == f.Config.ProxyUID && !l.Full()
		list = append(list, Check{"sidecar", state(ok), fmt.Sprintf("sidecar%s uid %d on :%d, queue %d/%d", process(l), l.UID, l.Addr.Port(), l.Queue, l.Limit), false})
	}
	if len(sidecar) == 0 {
		text := fmt.Sprintf("sidecar: nothing listens on :%d", f.Config.ProxyPort)
		if s := f.Sidecar; s != nil && !s.Found {
			text += fmt.Sprintf("; the pod has no container tproxy-proxy, and none of uid %d", f.Config.ProxyUID)
		} else if s != nil && s.Restarts > 0 {
			text += fmt.Sprintf("; its container was started again %d times", s.Restarts)
		}
		list = append(list, Check{"sidecar", Fault, text, false})
	}
	if r := f.Ready; r != nil && !r.OK {
		list = append(list, Check{"readiness", Fault, "sidecar not ready: " + printable.Line(r.Text), false})
	}
	fit, unfit := f.onPort()
	for _, l := range fit {
		list = append(list, Check{"application", state(!l.Full()), fmt.Sprintf("application%s on %s, queue %d/%d", process(l), listens(l), l.Queue, l.Limit), false})
	}
	for _, l := range unfit {
		list = append(list, Check{"application", state(len(fit) > 0), fmt.Sprintf("application%s on %s, out of this client's reach", process(l), l.Addr), len(fit) > 0})
	}
	if f.Port == 0 {
		list = append(list, Check{"application", Fault, "application: nothing listens", false})
	} else if len(fit)+len(unfit) == 0 {
		list = append(list, Check{"application", Fault, fmt.Sprintf("application: nothing listens on :%d", f.Port), false})
	}
	return list
}

// listens is a listener's address; a wildcard is left out.
func listens(l Listener) string {
	if l.Addr.Addr().IsUnspecified() {
		return fmt.Sprintf(":%d", l.Addr.Port())
	}
	return l.Addr.String()
}

func state(ok bool) State {
	if ok {
		return Fine
	}
	return Fault
}
