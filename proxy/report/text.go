package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// width is that of a terminal, in columns.
const width = 80

// Text writes a document for people, at most 80 columns wide where a word or an IPv6
// address is not longer. Nothing in it is trusted: another program in the pod may have
// the sidecar's port.
func (d *Document) Text(to io.Writer, colours bool) {
	w := &writer{to: to, colours: colours}
	w.head(d)
	w.counters(d)
	w.queues(d)
	w.kernel(d)
	w.live(d)
}

func (w *writer) head(d *Document) {
	w.line("%s  %s mode on %s, uid %d, up %s", w.paint(bold, printable.Line("tproxy-proxy "+d.Version)),
		printable.Line(d.Mode), printable.Line(d.Address.String()), d.UID, span(d.UptimeSeconds))
	r := d.Readiness
	checked := ", not checked yet"
	if r.Checked != nil {
		checked = fmt.Sprintf(", checked %s ago", span(d.Time.Sub(*r.Checked).Seconds()))
	}
	if r.Ready {
		w.check(good, "ready"+checked)
	} else {
		w.check(fail, fmt.Sprintf("not ready%s (%s): %s", checked, r.Reason, r.Text))
		w.fact("to do", r.Cure)
	}
	w.guard(d.Guard)
}

// guard is a line on the packet guard, if it is known.
func (w *writer) guard(guard string) {
	switch guard {
	case "":
	case contract.GuardNFT:
		w.check(good, "packet guard nft, the whole one")
	case contract.GuardTC:
		w.check(warn, "packet guard tc: frames with PACKET_QDISC_BYPASS get out")
	default:
		w.check(warn, printable.Line("packet guard "+guard+": frames of packet sockets get out"))
	}
}

func (w *writer) counters(d *Document) {
	c, s := &d.Counters, &d.Live.States
	w.heading("CONNECTIONS", fmt.Sprintf("%d of at most %d open, %d accepted", c.Active, c.Limit, c.Accepted))
	states := counts{
		{"relaying", s.Relaying},
		{"awaiting a PROXY header", s.AwaitingHeader},
		{"connecting", s.Connecting},
		{"half-closed by client", s.HalfClosedByClient},
		{"half-closed by application", s.HalfClosedByApplication},
	}.list() + prefixed("; ", counts{{"blocked by client", s.BlockedByClient}, {"blocked by application", s.BlockedByApplication}}.list())
	if d.Live.Incomplete {
		states += " (an event loop did not answer in time)"
	}
	w.fact("now", strings.TrimPrefix(states, "; "))
	w.fact("ended", byCount(c.Closed).list())
	w.fact("bytes", fmt.Sprintf("%s from clients, %s to clients", size(c.RelayedUp), size(c.RelayedDown)))
	w.fact("seen as", counts{
		{"address and port", c.Spoofs["address_port"]}, {"address and another port", c.Spoofs["address"]}, {"the pod itself", c.Spoofs["none"]},
	}.list())
	w.fact("dialling", append(byCount(c.DialErrors), counted{"tried again", c.DialRetries}).list())
	w.fact("waited", byCount(c.Pauses).list())
	w.fact("log", counts{{"lines lost", c.LinesLost}}.list())
	if t := d.Pod.Conntrack; t != nil {
		w.fact("conntrack", fmt.Sprintf("%d of %d entries", t.Entries, t.Limit))
	}
}

// counts are numbers with names.
type counts []counted

type counted struct {
	name string
	n    int64
}

// byCount are those of a map, the greatest first.
func byCount(m map[string]int64) (c counts) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		c = append(c, counted{name, m[name]})
	}
	slices.SortStableFunc(c, func(a, b counted) int { return cmp.Compare(b.n, a.n) })
	return c
}

// list names those that are not 0.
func (c counts) list() string {
	var parts []string
	for _, p := range c {
		if p.n != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", p.name, p.n))
		}
	}
	return strings.Join(parts, ", ")
}

// prefixed is text with something in front, unless it is empty.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func (w *writer) queues(d *Document) {
	lost := "nothing lost"
	if drops := d.Pod.Drops; drops != nil && drops.Drops > 0 {
		lost = fmt.Sprintf("since the pod began %d lost, %d because a queue was full", drops.Drops, drops.Overflows)
	}
	w.heading("ACCEPT QUEUES", lost)
	for _, q := range d.Pod.Queues {
		whose := ""
		switch q.Port {
		case d.Address.Port():
			whose = "  the sidecar"
		case d.AdminAddress.Port():
			whose = "  the sidecar's admin port"
		}
		sign := good
		if q.Length > q.Limit {
			sign = fail // the kernel drops what comes
		} else if 2*q.Length > q.Limit {
			sign = warn
		}
		w.line(" %s :%-5d  %d of %d%s", w.sign(sign), q.Port, q.Length, q.Limit, whose)
	}
	if d.PodError != "" {
		w.check(warn, d.PodError)
	}
}

func (w *writer) kernel(d *Document) {
	w.heading("ROUTING", fmt.Sprintf("of packets with the mark %#x", contract.Mark))
	for _, r := range d.Routing {
		switch {
		case r.Stays:
			w.check(good, r.Family+": "+r.Marked)
		case r.Error != "":
			w.check(fail, r.Family+": "+r.Error)
		default:
			w.check(fail, r.Family+": "+r.Marked+", which is not the plugin's route")
		}
		for _, rule := range r.Rules {
			w.line("      %s", w.paint(faint, printable.Line(rule)))
		}
	}
	w.heading("SYSCTLS", "")
	for _, s := range d.Sysctls {
		switch text := fmt.Sprintf("%s = %s", s.Name, s.Value); {
		case s.OK:
			w.check(good, text)
		case s.Optional:
			w.check(warn, text+", better "+s.Want)
		default:
			w.check(fail, text+", want "+s.Want)
		}
	}
}
