package probe

import (
	"errors"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
)

// Reason is a word for what keeps the sidecar from serving clients. The set is closed:
// it is also a label of metrics.
type Reason string

const (
	Checking   Reason = "checking"   // the first check has not ended
	Draining   Reason = "draining"   // SIGTERM has come
	NoAddress  Reason = "no_address" // the pod has none yet, or it cannot be used yet
	Unprepared Reason = "unprepared" // the kernel refuses a foreign source: the plugin was not here, or its routes are gone
	Sysctl     Reason = "sysctl"     // one that the plugin sets has another value
	Routing    Reason = "routing"    // an ip rule or route of the plugin is missing
	Rules      Reason = "rules"      // the nftables rules are missing or changed
	UID        Reason = "uid"        // the rules are for another user
	Mode       Reason = "mode"       // the rules are of the other mode
	Port       Reason = "port"       // the rules send clients to another port
	Ports      Reason = "ports"      // other programs have the ports for clients
	Failed     Reason = "error"      // the check itself failed
)

// Reasons is the whole set.
var Reasons = []Reason{Checking, Draining, NoAddress, Unprepared, Sysctl, Routing, Rules, UID, Mode, Port, Ports, Failed}

// Fault is what keeps the sidecar from serving clients.
type Fault struct {
	Reason Reason
	Text   string // one line
	Cure   string // what to do, one line; empty if only waiting helps
}

func (f *Fault) Error() string { return f.Text }

// repair is the cure where the plugin's work is not there any more.
const repair = "delete the pod, or run the installer with --repair"

var cures = map[Reason]string{
	Unprepared: dial.Cure,
	Sysctl:     repair,
	Routing:    repair,
	Rules:      repair,
	UID:        "run the sidecar as the user that the pod's annotation " + contract.AnnotationPrefix + "proxy-uid names, and check as the same",
	Mode:       "give this process's --mode and the pod's annotation " + contract.AnnotationPrefix + "mode the same value; the annotation counts when the pod starts",
	Port:       "give this process's --addr the port of the pod's annotation " + contract.AnnotationPrefix + "proxy-port; the annotation counts when the pod starts",
	Ports:      "stop that process",
}

// fault makes a Fault with the cure for its reason.
func fault(r Reason, text string) *Fault { return &Fault{Reason: r, Text: text, Cure: cures[r]} }

// joined is one Fault of what was found for each of families, nil if that is nothing. It
// has the first reason and cure, but Failed only if there is no other: a check that
// failed itself does not hide what another has found.
func joined(found []error) *Fault {
	var first *Fault
	var texts []string
	names := map[string]string{} // of the families, by the text
	for i, err := range found {
		if err == nil {
			continue
		}
		f := fault(Failed, err.Error())
		errors.As(err, &f)
		if first == nil || first.Reason == Failed && f.Reason != Failed {
			first = f
		}
		if names[f.Text] == "" {
			texts = append(texts, f.Text)
			names[f.Text] = families[i].name
		} else {
			names[f.Text] += " and " + families[i].name
		}
	}
	if first == nil {
		return nil
	}
	for i, t := range texts {
		texts[i] = names[t] + ": " + t
	}
	text := strings.ReplaceAll(strings.Join(texts, "; "), "\n", "; ")
	return &Fault{Reason: first.Reason, Text: text, Cure: first.Cure}
}
