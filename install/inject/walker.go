package inject

import (
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Options say which sidecar to add.
type Options struct {
	// Mode is contract.ModeNAT or contract.ModeTProxy, for pods that do not
	// choose one themselves; ModeNAT if empty.
	Mode string

	// Image is the sidecar's image, or only its tag, as for `make images`;
	// DefaultImage if empty.
	Image string

	// Sidecar is another proxy's; the built-in one if nil. Image is then for its
	// containers whose image is tproxy-cni.
	Sidecar Sidecar

	// Notes gets a line for all that a person should know of and that is no error:
	// what changed in a sidecar that was there, kinds that are not known. May be nil.
	Notes io.Writer
}

// DefaultImage is the image that this program was built for: the linker sets it
// (k8s/images), and it is what `make images` builds by default.
var DefaultImage = imageName + ":latest"

const (
	imageName = "tproxy-cni"

	// Container is the name of the sidecar's container.
	Container = "tproxy-proxy"

	// Label asks for the sidecar and names its mode. It overrides the
	// annotation `mode`, as in the admission policy.
	Label = contract.AnnotationPrefix + "inject"
)

// modeKey is the annotation that asks the plugin.
const modeKey = contract.AnnotationPrefix + "mode"

// templates says where an object has its pod, by group and kind. A kind of the
// same name in another group is a different one.
var templates = map[string][]string{
	"/Pod":                   {},
	"/PodTemplate":           {"template"},
	"/ReplicationController": {"spec", "template"},
	"apps/Deployment":        {"spec", "template"},
	"apps/StatefulSet":       {"spec", "template"},
	"apps/DaemonSet":         {"spec", "template"},
	"apps/ReplicaSet":        {"spec", "template"},
	"batch/Job":              {"spec", "template"},
	"batch/CronJob":          {"spec", "jobTemplate", "spec", "template"},
}

// walker goes through one document.
type walker struct {
	o      Options
	undo   bool
	report *report
	place  string
	edit   *editor

	who string     // the object at hand
	key *yaml.Node // of its pod, nil for none on a line of its own
}

func (w *walker) note(text string) { w.report.note(w.place + w.who + ": " + text) }
