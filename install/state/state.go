// Package state says what a pod of the node is: intercepted as it asks to be, or
// what keeps it from that. The installer's repair acts on it, and the commands
// show it.
package state

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// State is one of States; the text is for metrics and JSON.
type State string

// The states.
const (
	Intercepted State = "intercepted"  // as ADD programs it
	CameFirst   State = "came_first"   // nothing is programmed: it is older than the plugin's entry
	Drifted     State = "drifted"      // it was programmed, and differs now
	Contested   State = "contested"    // it is as ADD programs it, and another interceptor's rules take its connections
	LeftAlone   State = "left_alone"   // it came before the node's default mode, and has no annotation
	HostNetwork State = "host_network" // it asks, and has no network namespace of its own
	OtherStack  State = "other_stack"  // it asks, and its network stack is not its namespace's: Kata, gVisor
	Invalid     State = "invalid"      // its settings are wrong
	Unknown     State = "unknown"      // it could not be looked at
	NotReady    State = "not_ready"    // its sandbox is gone or stopped, or was lost in a restart of the node
	NotAsked    State = "not_asked"    // it neither asks nor has the node a default mode for it
)

// States are those that a pod which asks can be in.
func States() []State {
	return []State{Intercepted, CameFirst, Drifted, Contested, LeftAlone, HostNetwork, OtherStack, Invalid, Unknown}
}

// Count is how many pods are in a state, by what they ask for.
type Count map[State]map[contract.Mode]int

// Finding is what a look at a pod found.
type Finding struct {
	State State
	Mode  contract.Mode   // that it asks for; contract.ModeNone if Invalid or NotAsked
	Drift intercept.Drift // what differs, if CameFirst, Drifted, Contested or LeftAlone
	Err   error           // why it is Invalid, HostNetwork, OtherStack or Unknown

	// What Compare and Mend need: where the pod is and what it should be.
	Path   string
	Config intercept.Config
	Addrs  []netip.Addr

	namespace   string            // the pod's
	annotations map[string]string // those of the plugin
	seen        *intercept.Seen
}

// Final reports whether the pod's state cannot change: a pod's settings and kind
// of network are those that its sandbox was made with.
func (f Finding) Final() bool {
	switch f.State {
	case HostNetwork, OtherStack, Invalid, NotAsked:
		return true
	}
	return false
}

// Differs reports whether Mend would change the pod, and should.
func (f Finding) Differs() bool { return f.State == CameFirst || f.State == Drifted }

// Right reports whether the pod is as ADD programs it.
func (f Finding) Right() bool { return f.State == Intercepted || f.State == Contested }

// Source is what a Looker needs of a pods.Runtime.
type Source interface {
	Sandbox(ctx context.Context, id string) (pods.Sandbox, error)
}

// Looker looks at pods. It is not for several goroutines.
type Looker struct {
	Runtime   Source
	Entry     []byte // the plugin's entry in the conflist, which has the node's defaults
	NodeNetNS string // path of the network namespace that must never be taken for a pod's

	checker intercept.Checker
}

// Look asks the runtime for a pod and compares it with what its settings ask for.
// Those are the annotations that its sandbox was made with, as at ADD: a change
// of the pod's annotations since counts for the pod that comes after it. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN, and changes nothing.
func (l *Looker) Look(ctx context.Context, p pods.Pod) Finding {
	annotations := ours(p.Annotations)
	f := l.settle(p.Namespace, annotations, nil, nil)
	if f.State == NotAsked || f.State == Invalid {
		return f
	}
	if !p.Ready {
		f.State = NotReady
		return f
	}
	box, err := l.Runtime.Sandbox(ctx, p.ID)
	switch {
	case pods.Gone(err):
		f.State = NotReady
		return f
	case err != nil:
		return f.fail(err)
	case !box.Ready:
		f.State = NotReady
		return f
	case box.HostNetwork && len(annotations) == 0:
		f.State = NotAsked
		return f
	case box.HostNetwork:
		f.State, f.Err = HostNetwork, errors.New("hostNetwork: it has no network namespace of its own")
		return f
	case box.Stack != "":
		f.State, f.Err = OtherStack, errors.New(box.Stack+": its network stack is not that of its network namespace")
		return f
	}
	if f = l.settle(p.Namespace, annotations, box.Addrs, nil); f.State == Invalid {
		return f
	}
	if f.Path, err = box.NetNS(l.NodeNetNS); err != nil {
		return f.fail(err)
	}
	return l.Compare(ctx, f)
}

func (f Finding) fail(err error) Finding {
	f.State, f.Err, f.Drift = Unknown, err, nil
	return f
}

// Compare looks at a pod again that Look has found, without the runtime. If ctx ends
// first the pod is Unknown.
func (l *Looker) Compare(ctx context.Context, f Finding) Finding {
	f = l.compare(ctx, f)
	if f.State != Drifted {
		return f
	}
	old, err := l.asMade(f)
	switch {
	case err != nil:
		return f.fail(err)
	case fmt.Sprintf("%+v", old.Config) == fmt.Sprintf("%+v", f.Config):
		return f
	}
	return l.compare(ctx, old)
}

// compare is Compare with the settings that f has.
func (l *Looker) compare(ctx context.Context, f Finding) Finding {
	f.Drift, f.Err = nil, nil
	if f.seen == nil {
		f.seen = &intercept.Seen{}
	}
	err := l.checker.CheckAgain(ctx, f.Path, f.Config, f.Addrs, f.seen)
	if err == nil {
		f.State = Intercepted
		return f
	}
	var taken intercept.Taken
	if errors.As(err, &taken) {
		f.State, f.Drift = Contested, intercept.Drift{taken.Error()}
		return f
	}
	var drift intercept.Drift
	if !errors.As(err, &drift) {
		return f.fail(err)
	}
	f.Drift = drift
	programmed, err := intercept.Programmed(f.Path, f.Config.Interface)
	if err != nil {
		return f.fail(err)
	}
	switch {
	case programmed:
		f.State = Drifted
	case len(f.annotations) > 0:
		f.State = CameFirst
	default: // a pod without a sidecar, perhaps
		f.State = LeftAlone
	}
	return f
}

// Mend makes a pod what ADD would have made it, and returns what it is then: at best
// Intercepted or, where another interceptor is, Contested.
// Existing connections go on: only new ones are intercepted. It needs the
// privileges of Look.
func (l *Looker) Mend(ctx context.Context, f Finding) Finding {
	if err := intercept.Apply(f.Path, f.Config); err != nil {
		return f.fail(err)
	}
	return l.Compare(ctx, f)
}
