package settings

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// ExemptNamespaces is the flag and ExemptKey the conflist key of the namespaces to
// which the node's default mode does not apply. There is no such annotation: a pod
// exempts itself with mode none.
const (
	ExemptNamespaces = "exempt-namespaces"
	ExemptKey        = "exemptNamespaces"
	ExemptUsage      = "`namespaces`, also as PREFIX*, to whose pods the default mode does not apply: by default kube-*,openshift-*"

	wantExempt = "names of namespaces, or PREFIX*"
)

// defaultExempt are the namespaces that distributions reserve for what a cluster
// cannot do without. Nothing there has a sidecar unless somebody gave it one, with
// the annotation.
var defaultExempt = []string{"kube-*", "openshift-*"}

// exemptName is a DNS label, or the beginning of one and a star.
var exemptName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$|^[a-z0-9][-a-z0-9]{0,61}\*$`)

// Namespace says which namespace the pod is in; empty if that is not known, as
// outside Kubernetes.
func (s *Settings) Namespace(name string) { s.namespace = name }

// Exempted reports whether the pod would have the node's default mode, and its
// namespace is exempt from that.
func (s *Settings) Exempted() bool {
	return s.ByDefault() && slices.ContainsFunc(s.exempt, func(e string) bool {
		prefix, many := strings.CutSuffix(e, "*")
		return s.namespace == e || many && strings.HasPrefix(s.namespace, prefix)
	})
}

// ByDefault reports whether a mode that intercepts comes from the node's default.
func (s *Settings) ByDefault() bool {
	return s.config.Mode != contract.ModeNone && s.origin["mode"].source == Conflist
}

// DefaultMode is the mode that was read last, exempt or not.
func (s *Settings) DefaultMode() contract.Mode { return s.config.Mode }

// Exempt are the exempt namespaces, with commas, as they may be shown.
func (s *Settings) Exempt() string {
	if len(s.exempt) == 0 {
		return "none"
	}
	return printable.List(s.exempt, ",")
}

// mode is the pod's.
func (s *Settings) mode() contract.Mode {
	if s.Exempted() {
		return contract.ModeNone
	}
	return s.config.Mode
}

// setExempt takes the list from an entry or a flag.
func (s *Settings) setExempt(src Source, elements []string, shown string) {
	names := []string{}
	var problems []string
	for _, e := range elements {
		if e = strings.TrimSpace(e); !exemptName.MatchString(e) {
			problems = append(problems, printable.Quote(e)+" is no namespace")
		}
		names = append(names, e)
	}
	if len(problems) > 0 {
		s.fault(src, src.subject(ExemptNamespaces, ExemptKey), shown, printable.List(problems, ", "), wantExempt)
		return
	}
	s.exempt = names
}

// exemptEntry reads the key of a conflist entry.
func (s *Settings) exemptEntry(raw json.RawMessage) {
	elements, problem, want := Setting{form: array, want: wantExempt}.decode(raw)
	if problem != "" {
		s.fault(Conflist, Conflist.subject(ExemptNamespaces, ExemptKey), printable.Short(string(raw)), problem, want)
		return
	}
	s.setExempt(Conflist, elements, printable.Short(string(raw)))
}

// encodeExempt is the key and its value for a conflist, with a comma before them.
func encodeExempt(text string) (string, error) {
	value, err := Setting{form: array}.encode(text)
	return "," + strconv.Quote(ExemptKey) + ":" + string(value), err
}
