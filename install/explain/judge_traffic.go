package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// The situations of a pod whose rules are right.

func wrongUID(f Facts) *Verdict {
	for _, l := range f.sidecar() {
		if l.UID == f.Config.ProxyUID {
			continue
		}
		stop := Next{Text: fmt.Sprintf("stop what listens there; the sidecar must run as uid %d", f.Config.ProxyUID)}
		if l.PID != 0 {
			stop.Command = fmt.Sprintf("kill %d", l.PID)
		}
		return fault("wrong_uid", fmt.Sprintf("clients are refused: uid %d%s listens on the sidecar's port %d, and the rules expect uid %d",
			l.UID, process(l), f.Config.ProxyPort, f.Config.ProxyUID), f.choose(
			Next{Text: fmt.Sprintf("set runAsUser: %d in the sidecar's securityContext, and let no other container listen on %d", f.Config.ProxyUID, f.Config.ProxyPort)},
			stop))
	}
	return nil
}

func noSidecar(f Facts) *Verdict {
	if len(f.sidecar()) > 0 {
		return nil
	}
	return fault("no_sidecar", fmt.Sprintf("clients are refused: no sidecar listens on :%d; nothing reaches the application unseen", f.Config.ProxyPort), f.startSidecar())
}

func sidecarFull(f Facts) *Verdict {
	for _, l := range f.sidecar() {
		if l.Full() {
			return fault("sidecar_full", fmt.Sprintf("clients wait: the sidecar does not accept, its queue is full (%d/%d)", l.Queue, l.Limit),
				f.choose(Next{"the log of the sidecar says why it does not accept", f.sidecarLogs()}, resume(l, "sidecar")))
		}
	}
	return nil
}

func sidecarNotReady(f Facts) *Verdict {
	if f.Ready == nil || f.Ready.OK {
		return nil
	}
	next := f.choose(Next{"the log of the sidecar has the same reason", f.sidecarLogs()},
		Next{Text: "remove the reason that the sidecar gives"})
	if f.Ready.Cure != "" {
		next = Next{Text: "the sidecar says: " + printable.Line(f.Ready.Cure)}
	}
	return fault("sidecar_not_ready", "the sidecar is not ready: "+printable.Line(f.Ready.Text), next)
}

func applicationFull(f Facts) *Verdict {
	fit, _ := f.onPort()
	for _, l := range fit {
		if l.Full() {
			next := resume(l, "application")
			if f.isPod() {
				next = f.application("the application's log may say why it does not accept")
			}
			return fault("application_full", fmt.Sprintf("clients wait: the application%s does not accept, its queue on port %d is full (%d/%d)",
				process(l), f.Port, l.Queue, l.Limit), next)
		}
	}
	return nil
}

// resume is what a process needs that does not accept.
func resume(l Listener, what string) Next {
	text := fmt.Sprintf("let the %s accept: go on if it was stopped, else start it again", what)
	if l.PID == 0 {
		return Next{Text: text}
	}
	return Next{text, fmt.Sprintf("kill -CONT %d", l.PID)}
}

func conntrackFull(f Facts) *Verdict {
	if c := f.Conntrack; f.Config.Mode != contract.ModeNAT || c.Limit == 0 || c.Count < c.Limit {
		return nil
	}
	return fault("conntrack_full", fmt.Sprintf("new connections are dropped: the table of conntrack is full (%d/%d)", f.Conntrack.Count, f.Conntrack.Limit),
		Next{"raise the limit on the node, or use mode tproxy, which needs no conntrack", fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*f.Conntrack.Limit)})
}

func replaced(f Facts) *Verdict {
	for _, r := range f.Replaced {
		if !f.concerns(r) {
			continue
		}
		return fault("client_replaced", fmt.Sprintf("the client's address was replaced before the pod, and the sidecar passes on what arrives: %s > %s became %s > %s",
			r.From, r.To, r.As, r.Pod),
			Next{Text: "set externalTrafficPolicy: Local in the Service, or use a load balancer that speaks the PROXY protocol"})
	}
	return nil
}

// concerns reports whether r is of the connection that was followed or, where that is
// none of a client's, of the client that was asked for; every one is where none was.
func (f Facts) concerns(r Replaced) bool {
	switch {
	case f.Story != nil && !f.Story.Synthetic:
		return r.As == f.Story.Client
	case f.Client.IsValid():
		return r.As.Addr() == f.Client || r.From.Addr() == f.Client
	}
	return true
}

// storyFault is what a followed connection met although nothing else is wrong.
func storyFault(f Facts) *Verdict {
	if f.Story == nil {
		return nil
	}
	end, step := f.Story.End()
	logs := f.choose(Next{"the log of the sidecar has a line for the connection", f.sidecarLogs()},
		Next{Text: "read the log of the sidecar: it has a line for the connection"})
	again := f.choose(Next{"if it is refused again, delete the pod, so that a new one is programmed", f.kubectl("delete pod", "")},
		Next{"if it is refused again, program the namespace", f.inside(setup(f.Config))})
	switch end {
	case Unseen:
		return fault("unseen", fmt.Sprintf("a connection from this node (%s) does not come to the pod: something between them drops it", f.Story.Client),
			f.choose(Next{"look for a NetworkPolicy that allows nothing from the node, and at the CNI's own log", fmt.Sprintf("kubectl -n %s get networkpolicy", quote(f.Namespace))},
				Next{"look at the route from here to the pod", "ip route get " + f.Story.Server.Addr().String()}))
	case Refused:
		return fault("refused", fmt.Sprintf("%s is refused by chain %s, which %s", f.Story.Client, printable.Word(step.Chain), printable.Short(step.Comment)), again)
	case Dropped:
		return fault("dropped", "the sidecar's connection to the application is dropped: "+Place(step)+" "+printable.Short(step.Comment), again)
	case Silent:
		return fault("silent", "the sidecar has accepted the connection and does not connect to the application", logs)
	case Closed:
		return fault("closed", fmt.Sprintf("the application's port %d refuses the sidecar", f.Port), logs)
	case Unanswered:
		return fault("unanswered", fmt.Sprintf("the application's port %d does not answer the sidecar", f.Port), logs)
	case Direct, Undecided:
		return fault("direct", "the connection reaches the application directly, past the sidecar", f.program(nil))
	}
	return nil
}

// firewalled is a story that ends where a rule or a policy of other software drops a
// packet.
func firewalled(f Facts) *Verdict {
	if f.Story == nil {
		return nil
	}
	end, step := f.Story.End()
	i := slices.IndexFunc(f.Story.Packets, func(p *trace.Packet) bool { return slices.Contains(p.Steps, step) })
	if step.Verdict != trace.Drop || own(step) || i < 0 {
		return nil
	}
	p := f.Story.Packets[i]
	who, which, port := "clients do", "dport", p.Now.Dst.Port() // as the chain had it
	if end == Dropped {
		who = "the sidecar does"
	}
	if p.Kind() == "SYN-ACK" {
		which, port = "sport", p.Now.Src.Port()
	}
	text := fmt.Sprintf("let the firewall in the pod allow TCP port %d", port)
	family, table, _ := strings.Cut(step.Table, " ")
	return fault("firewall", who+" not get through: "+foreign(p, step), f.choose(
		Next{Text: text + "; a container with NET_ADMIN has set it up"},
		Next{text, f.nft("insert", "rule", family, table, step.Chain, "tcp", which, fmt.Sprint(port), "accept")}))
}

func unreadable(f Facts) *Verdict {
	if len(f.Unknown) == 0 || f.Story != nil {
		return nil
	}
	return unclear("unreadable", "not all could be read: "+printable.Line(f.Unknown[0]),
		Next{Text: "run it as root on the node, in its network and process namespaces"})
}

func healthy(f Facts) *Verdict {
	if f.Story == nil {
		return nil
	}
	seen := f.Story.Seen()
	text := fmt.Sprintf("the application sees %s", seen)
	if seen.Port() != f.Story.Client.Port() {
		text += fmt.Sprintf(", the client's address with another port than its %d", f.Story.Client.Port())
	}
	return fine("healthy", text, nothing)
}

func untold(f Facts) *Verdict {
	why := "no connection was followed"
	if f.NoStory != "" {
		why = printable.Line(f.NoStory)
	}
	return unclear("not_tried", "all that can be seen without a connection is right; whether one gets through is not known: "+why,
		Next{Text: "let a client connect while this runs, with --watch, or let this command connect from the node"})
}

func process(l Listener) string {
	if l.Process == "" {
		return ""
	}
	return " (" + printable.Word(l.Process) + ")"
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05") }
