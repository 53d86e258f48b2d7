package explain

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// State says how bad it is.
type State string

// The states. As it was asked for is fine, too: a pod without the annotation.
const (
	Fine    State = "fine"
	Fault   State = "fault"
	Unclear State = "unknown"
)

// Verdict is which situation a pod is in and what happens to its clients.
type Verdict struct {
	Code  string `json:"code"`
	State State  `json:"state"`
	Text  string `json:"text"`

	next Next
}

// situation looks for one situation; nil if the pod is not in it.
type situation func(Facts) *Verdict

// situations are in order: what explains more comes before its consequences. The
// first that holds is the verdict.
var situations = []situation{
	hostNetwork, invalid, notAsked, otherStack, lacksKernel, leftAlone, notProgrammed, // what should be there
	firewalled, taken, others, drifted, // what is there
	noFamily, noListener, exemptPort, exemptClient, // the connection in question
	wrongUID, noSidecar, sidecarFull, sidecarNotReady, // the sidecar
	applicationFull, conntrackFull, replaced, // what is around it
	storyFault,                  // what a connection met
	unreadable, healthy, untold, // what is left
}

// Judge finds the situation. Exactly one next step belongs to it.
func Judge(f Facts) (Verdict, Next) {
	for _, s := range situations {
		if v := s(f); v != nil {
			return *v, v.next
		}
	}
	panic("the last situation holds always")
}

// JudgeStory is the verdict on one connection alone. The facts' listeners must be of
// its time.
func JudgeStory(f Facts, s *Story) (Verdict, Next) {
	f.Story, f.Client, f.Port = s, s.Client.Addr(), s.Server.Port()
	ways := []situation{firewalled, taken, noListener, exemptPort, exemptClient, wrongUID, noSidecar, others, storyFault, healthy}
	if end, _ := s.End(); end == Reached {
		ways = []situation{replaced, healthy}
	}
	for _, s := range ways {
		if v := s(f); v != nil {
			return *v, v.next
		}
	}
	panic("the last situation holds for every story")
}

func fine(code, text string, next Next) *Verdict  { return &Verdict{code, Fine, text, next} }
func fault(code, text string, next Next) *Verdict { return &Verdict{code, Fault, text, next} }
func unclear(code, text string, next Next) *Verdict {
	return &Verdict{code, Unclear, text, next}
}

func hostNetwork(f Facts) *Verdict {
	switch {
	case !f.HostNetwork:
		return nil
	case f.Asks() || f.Invalid != "":
		return fault("host_network", "this pod uses the node's own network, which is never programmed: its annotation does nothing",
			Next{Text: "remove hostNetwork: true from the pod's template, or the annotation"})
	}
	return fine("host_network", "this is the node's own network, which is never programmed", nothing)
}

func invalid(f Facts) *Verdict {
	if f.Invalid == "" {
		return nil
	}
	return fault("settings_invalid", "the plugin refuses the settings: "+printable.Line(f.Invalid),
		f.choose(Next{Text: "mend the setting in the pod's template; new pods follow it"}, Next{Text: "give valid settings"}))
}

func notAsked(f Facts) *Verdict {
	if f.Asks() {
		return nil
	}
	return fine("not_asked", "this pod does not ask for interception: clients reach it directly", f.choose(
		Next{Text: "nothing to do; to have it intercepted, annotate its template with " + contract.AnnotationPrefix + "mode: nat"},
		Next{Text: "nothing to do; to compare with what should be there, give --mode"}))
}

func otherStack(f Facts) *Verdict {
	if f.Stack == "" {
		return nil
	}
	return fault("other_stack", fmt.Sprintf("the network stack of %s is not the namespace's: the rules cannot reach it, and an annotated pod has no network", printable.Short(f.Stack)),
		f.choose(Next{Text: "remove runtimeClassName from the pod's template, or the annotation " + contract.AnnotationPrefix + "mode"},
			Next{Text: "use a runtime that shares the node's kernel"}))
}

func lacksKernel(f Facts) *Verdict {
	if len(f.Missing) == 0 {
		return nil
	}
	return fault("kernel", fmt.Sprintf("this kernel cannot do mode %s: it lacks %s", f.Config.Mode, printable.List(lines(f.Missing), ", ")),
		Next{Text: "give the node a kernel with the options of docs/REFERENCE.md, or load their modules; then make the pod anew"})
}

func leftAlone(f Facts) *Verdict {
	if !f.leftAlone() {
		return nil
	}
	return fine("left_alone", "clients reach the application directly, past the sidecar: the pod has no annotation and is older than the node's default mode, and is left alone",
		Next{"nothing to do, if this is meant; otherwise delete the pod, so that a new one is programmed", f.kubectl("delete pod", "")})
}

func notProgrammed(f Facts) *Verdict {
	const past = "clients reach the application directly, past the sidecar: "
	switch e := f.Entry; {
	case f.Table:
		return nil
	case f.Programmed:
		return fault("not_programmed", past+"the plugin's table is gone", f.program(nil))
	case e.Looked && e.File == "":
		return fault("not_in_chain", past+"no CNI list of this node has the plugin",
			Next{"install the plugin on this node, then make the pod anew", "kubectl apply -k k8s/install/DISTRIBUTION"})
	case e.Looked && !f.Created.IsZero() && f.Created.Before(e.Changed):
		return fault("older_than_entry", fmt.Sprintf(past+"the pod is older than the entry in %s (%s < %s)",
			printable.Word(e.File), clock(f.Created), clock(e.Changed)), f.program(nil))
	}
	return fault("not_programmed", past+"there is no table and no rule of the plugin", f.program(nil))
}

func taken(f Facts) *Verdict {
	if f.Story == nil {
		return nil
	}
	end, step := f.Story.End()
	if end != Taken {
		return nil
	}
	family, table, _ := strings.Cut(step.Table, " ")
	words := foreign(f.Story.first("SYN", false), step)
	return fault("other_interceptor", "clients do not get to the sidecar: "+words+"; the two cannot share a pod", f.choose(
		Next{Text: removeOther},
		Next{"remove the other rule", f.nft("delete", "rule", family, table, step.Chain, "handle", strconv.FormatUint(step.Handle, 10))}))
}

// others is for rules that take connections, where no connection has shown which does.
func others(f Facts) *Verdict {
	if f.Story != nil {
		if end, _ := f.Story.End(); end != Undecided && end != Refused && end != Direct {
			return nil // it takes other connections
		}
	}
	for _, o := range f.Others {
		return fault("other_interceptor", "clients do not get to the sidecar: "+printable.Line(o.String())+"; the two cannot share a pod", f.choose(
			Next{Text: removeOther},
			Next{"remove the other rule", f.show(o)}))
	}
	return nil
}

const removeOther = "remove the other injection from the pod's template, or set the annotation " + contract.AnnotationPrefix + "mode to none"

func drifted(f Facts) *Verdict {
	if len(f.Drift) == 0 {
		return nil
	}
	text := "the pod is not as ADD made it: " + printable.Line(f.Drift[0])
	if n := len(f.Drift) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return fault("drifted", text, f.program(nil))
}

func noFamily(f Facts) *Verdict {
	if !f.lacksFamily() {
		return nil
	}
	name := "IPv4"
	if f.Client.Is6() {
		name = "IPv6"
	}
	return fault("no_family", fmt.Sprintf("%s cannot reach the pod: it has no %s address", f.Client, name),
		Next{Text: fmt.Sprintf("let the client use the pod's other family, or make the cluster's network dual-stack and give the pod an %s address", name)})
}

func noListener(f Facts) *Verdict {
	fit, unfit := f.onPort()
	switch {
	case len(fit) > 0:
		return nil
	case f.Port == 0:
		return fault("no_listener", "clients are refused: no application listens in the pod",
			f.application("let the application start; its log may say why it does not"))
	case len(unfit) > 0:
		return fault("listens_elsewhere", fmt.Sprintf("clients are refused: on port %d the application listens on %s only", f.Port, unfit[0].Addr.Addr()),
			f.application("let the application listen on all addresses of both families, [::]"))
	}
	return fault("no_listener", fmt.Sprintf("clients are refused: no application listens on port %d", f.Port),
		f.application(fmt.Sprintf("let the application listen on %d; its log may say why it does not", f.Port)))
}

func exemptPort(f Facts) *Verdict {
	why, setting := f.exempt()
	if why == "" || setting == "exclude-source-cidrs" {
		return nil
	}
	next := f.annotate(setting, "", func(c *intercept.Config) { c.ExcludePorts, c.IncludePorts = nil, nil })
	if setting == "admin-port" {
		next = nothing
	} else {
		next.Text = "nothing to do, if this is meant; otherwise " + next.Text
	}
	return fine("exempt_port", fmt.Sprintf("clients reach the application directly, past the sidecar: port %d %s (%s)", f.Port, why, setting), next)
}

func exemptClient(f Facts) *Verdict {
	why, setting := f.exempt()
	if setting != "exclude-source-cidrs" {
		return nil
	}
	next := f.annotate(setting, "", func(c *intercept.Config) { c.ExcludeSources = nil })
	next.Text = "nothing to do, if this is meant; otherwise " + next.Text
	return fine("exempt_client", fmt.Sprintf("%s reaches the application directly, past the sidecar: it is in %s (%s)", f.client(), why, setting), next)
}

func lines(list []string) (out []string) {
	for _, s := range list {
		out = append(out, printable.Line(s))
	}
	return out
}
