// Package overview is the report on a node and on the pods that ask for
// interception on it: what is as it should be, what is not, and what to do next.
// It only judges what others have found out.
package overview

import (
	"encoding/json"
	"io"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Facts are what was found out.
type Facts struct {
	Node      string // the node's name
	Kernel    string // its release
	Installer string // this program's version
	Sight     node.Sight

	Kernels   []preflight.Verdict // what the kernel can do, by mode
	KernelErr error               // why that is not known

	Socket     string // of the runtime; empty if none was found
	RuntimeErr error  // why the pods are not known
	Pods       []Pod
}

// Pod is what was found of one pod.
type Pod struct {
	pods.Pod
	Finding    state.Finding
	Containers []pods.Container // none where the runtime did not say
	Redirected *uint64          // connections given to the sidecar since ADD; nil where the rules do not count
	Guard      contract.Guard   // in force; empty where it is not known
}

// Verdict is how a line of the report is meant.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Fault   Verdict = "fault"   // clients are refused, or reach the application past the sidecar
	Note    Verdict = "note"    // worth knowing
	Unknown Verdict = "unknown" // it could not be found out
)

// Line is one thing that the report says. Its texts are printable.
type Line struct {
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
	Next    string  `json:"next,omitempty"` // what to do; each fault has one
}

// Report is the report. docs/REFERENCE.md describes its JSON, whose names are
// stable.
type Report struct {
	Node    NodeReport  `json:"node"`
	Runtime Runtime     `json:"runtime"`
	Pods    []PodReport `json:"pods"`
	Summary Summary     `json:"summary"`
}

// NodeReport is about the node itself.
type NodeReport struct {
	Name             string              `json:"name"`
	Kernel           string              `json:"kernel"`
	InstallerVersion string              `json:"installer_version"`
	PluginVersion    string              `json:"plugin_version,omitempty"`
	Plugin           string              `json:"plugin"` // path
	ConfDir          string              `json:"conf_dir"`
	List             string              `json:"list,omitempty"`
	Entry            json.RawMessage     `json:"entry,omitempty"`
	DefaultMode      string              `json:"default_mode"`
	PacketGuard      string              `json:"packet_guard"` // the node's default: required or best-effort
	Modes            []preflight.Verdict `json:"modes"`
	Checks           []Check             `json:"checks"`
}

// Check is a Line about one of entry, plugin, version, kernel and configuration.
type Check struct {
	Check string `json:"check"`
	Line
}

// Runtime is the container runtime that was asked for the pods.
type Runtime struct {
	Socket string `json:"socket,omitempty"`
	Line
}

// PodReport is about one pod.
type PodReport struct {
	Namespace   string      `json:"namespace"`
	Name        string      `json:"name"`
	Sandbox     string      `json:"sandbox"`
	Mode        string      `json:"mode"` // none where the settings are invalid
	State       state.State `json:"state"`
	Differences []string    `json:"differences,omitempty"` // from what ADD programs
	Error       string      `json:"error,omitempty"`
	Sidecar     *Sidecar    `json:"sidecar,omitempty"`
	Redirected  *uint64     `json:"redirected,omitempty"`   // connections given to the sidecar since ADD
	Guard       string      `json:"packet_guard,omitempty"` // in force: nft, tc or none; of intercepted pods
	Line
}

// Sidecar is the container that runs as the user whom the rules let spoof.
type Sidecar struct {
	Container string `json:"container"`
	Image     string `json:"image"`
	Version   string `json:"version,omitempty"` // as its image's tag has it
	Running   bool   `json:"running"`

	attempt uint32 // how often it was started again
}

// Summary counts the lines of the report.
type Summary struct {
	Pods        int `json:"pods"`
	Intercepted int `json:"intercepted"`
	Faults      int `json:"faults"`
	Unknown     int `json:"unknown"`
	ExitStatus  int `json:"exit_status"` // 0 fine, 1 fault, 3 unknown
}

// New judges facts.
func New(f Facts) Report {
	r := Report{Node: f.node(), Runtime: f.runtime(), Pods: []PodReport{}}
	for _, p := range f.Pods {
		if p.Finding.State != state.NotAsked {
			r.Pods = append(r.Pods, f.pod(p))
		}
	}
	r.summarize()
	return r
}

func (r *Report) summarize() {
	s := &r.Summary
	count := func(v Verdict) {
		switch v {
		case Fault:
			s.Faults++
		case Unknown:
			s.Unknown++
		}
	}
	for _, c := range r.Node.Checks {
		count(c.Verdict)
	}
	count(r.Runtime.Verdict)
	for _, p := range r.Pods {
		count(p.Verdict)
		if s.Pods++; p.State == state.Intercepted {
			s.Intercepted++
		}
	}
	switch {
	case s.Faults > 0:
		s.ExitStatus = 1
	case s.Unknown > 0:
		s.ExitStatus = 3
	}
}

// JSON writes the report as one JSON object.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
