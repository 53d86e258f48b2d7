package explain

import (
	"fmt"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Next is the one next step: what to do, and a command of the shell that does it or
// shows more, where there is one.
type Next struct {
	Text    string `json:"text"`
	Command string `json:"command,omitempty"`
}

// nothing is the next step of a pod that works.
var nothing = Next{Text: "nothing to do"}

// isPod reports whether the runtime named a pod, so that Kubernetes' words apply.
func (f Facts) isPod() bool { return f.Name != "" }

// choose is one step for a pod and another for a bare namespace.
func (f Facts) choose(pod, bare Next) Next {
	if f.isPod() {
		return pod
	}
	return bare
}

// kubectl is a command about the pod.
func (f Facts) kubectl(verb, rest string) string {
	text := fmt.Sprintf("kubectl -n %s %s %s", quote(f.Namespace), verb, quote(f.Name))
	if rest != "" {
		text += " " + rest
	}
	return text
}

// inside is a command in the namespace.
func (f Facts) inside(command string) string {
	return "nsenter --net=" + quote(f.NetNS) + " " + command
}

// nft is a command of nft in the namespace.
func (f Facts) nft(words ...string) string { return f.command("nft", words...) }

// show is the command that shows the chain with another's rule, by the program that
// sees it.
func (f Facts) show(o intercept.Other) string {
	switch {
	case o.Legacy && o.Family == "ip6":
		return f.command("ip6tables-legacy", "-t", o.Table, "-S", o.In)
	case o.Legacy:
		return f.command("iptables-legacy", "-t", o.Table, "-S", o.In)
	}
	return f.nft("-a", "list", "chain", o.Family, o.Table, o.In)
}

// command is a command in the namespace; none where a name, which a process of the pod
// has chosen, could be taken for more than a name.
func (f Facts) command(program string, words ...string) string {
	for _, w := range words {
		if printable.Word(w) != w {
			return ""
		}
	}
	return f.inside(program + " " + strings.Join(words, " "))
}

// program makes the pod what ADD would have made it.
func (f Facts) program(change func(*intercept.Config)) Next {
	c := f.Config
	if change != nil {
		change(&c)
	}
	return f.choose(
		Next{"delete the pod, so that a new one is programmed, or run the installer with --repair", f.kubectl("delete pod", "")},
		Next{"program the namespace", f.inside(setup(c))},
	)
}

// annotate mends a setting of the pod, for which a new one is needed.
func (f Facts) annotate(setting, value string, change func(*intercept.Config)) Next {
	text := fmt.Sprintf("set the annotation %s%s to %s in the pod's template; new pods follow it", contract.AnnotationPrefix, setting, value)
	if value == "" {
		text = fmt.Sprintf("change the annotation %s%s in the pod's template; new pods follow it", contract.AnnotationPrefix, setting)
	}
	return f.choose(Next{Text: text}, Next{"program the namespace without it", f.inside(setup(changed(f.Config, change)))})
}

func changed(c intercept.Config, change func(*intercept.Config)) intercept.Config {
	change(&c)
	return c
}

// startSidecar is for a pod whose sidecar is not there.
func (f Facts) startSidecar() Next {
	bare := Next{"start the sidecar", f.inside(f.sidecarCommand())}
	switch s := f.Sidecar; {
	case !f.isPod():
		return bare
	case s != nil && !s.Found:
		return Next{"add the sidecar to the pod's template and apply it", "tproxy-install inject -f FILE | kubectl apply -f -"}
	case s == nil || s.Restarts == 0: // there is no log of one before it
		return Next{"the log of the sidecar says why it does not listen", f.sidecarLogs()}
	}
	return Next{"the log of the sidecar says why it ended", f.sidecarLogs() + " --previous"}
}

// sidecarLogs is the command that shows the log of the sidecar's container.
func (f Facts) sidecarLogs() string {
	name := "tproxy-proxy"
	if f.Sidecar != nil && f.Sidecar.Found {
		name = f.Sidecar.Name
	}
	return f.kubectl("logs", "-c "+quote(name))
}

// sidecarCommand starts the sidecar as the user that the rules expect.
func (f Facts) sidecarCommand() string {
	caps := ""
	if f.Config.Mode == contract.ModeTProxy {
		caps = " --inh-caps=-all,+net_raw --ambient-caps=-all,+net_raw"
	}
	text := fmt.Sprintf("setpriv --reuid=%[1]d --regid=%[1]d --clear-groups%[2]s tproxy-proxy --mode %[3]s", f.Config.ProxyUID, caps, f.Config.Mode)
	if f.Config.ProxyPort != contract.ProxyPort {
		text += fmt.Sprintf(" --addr :%d", f.Config.ProxyPort)
	}
	if f.Config.AdminPort != contract.AdminPort {
		text += fmt.Sprintf(" --admin :%d", f.Config.AdminPort)
	}
	return text
}

// application is what to look at where the application is at fault.
func (f Facts) application(text string) Next {
	return f.choose(Next{text, f.kubectl("logs", "--all-containers --tail=20")}, Next{Text: text})
}

// setup is the command that programs c.
func setup(c intercept.Config) string {
	text := "tproxy-install setup --mode " + string(c.Mode)
	add := func(use bool, flag string, value any) {
		if use {
			text += fmt.Sprintf(" --%s %v", flag, value)
		}
	}
	add(c.Interface != "eth0", "interface", quote(c.Interface))
	add(c.ProxyPort != contract.ProxyPort, "proxy-port", c.ProxyPort)
	add(c.AdminPort != contract.AdminPort, "admin-port", c.AdminPort)
	add(c.ProxyUID != contract.ProxyUID, "proxy-uid", c.ProxyUID)
	add(c.PacketGuard == contract.PacketGuardBestEffort, "packet-guard", c.PacketGuard)
	add(len(c.IncludePorts) > 0, "include-inbound-ports", ranges(c.IncludePorts))
	add(len(c.ExcludePorts) > 0, "exclude-inbound-ports", ranges(c.ExcludePorts))
	var cidrs []string
	for _, p := range c.ExcludeSources {
		cidrs = append(cidrs, p.String())
	}
	add(len(cidrs) > 0, "exclude-source-cidrs", strings.Join(cidrs, ","))
	return text
}

func ranges(list []intercept.PortRange) string {
	var texts []string
	for _, r := range list {
		if r.Low == r.High {
			texts = append(texts, fmt.Sprint(r.Low))
		} else {
			texts = append(texts, fmt.Sprintf("%d-%d", r.Low, r.High))
		}
	}
	return strings.Join(texts, ",")
}

// quote is a word of the shell. What is not plain is printed in a form that the
// shell takes for one word, but need not find.
func quote(s string) string {
	if w := printable.Word(s); w == s {
		return s
	}
	return "'" + strings.ReplaceAll(printable.Short(s), "'", "?") + "'"
}
