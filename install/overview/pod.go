package overview

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

func (f Facts) pod(p Pod) PodReport {
	r := PodReport{
		Namespace: printable.Word(p.Namespace), Name: printable.Word(p.Name), Sandbox: printable.Word(p.ID),
		Mode: string(p.Finding.Mode), State: p.Finding.State,
	}
	for _, d := range p.Finding.Drift {
		r.Differences = append(r.Differences, printable.Line(d))
	}
	if p.Finding.Err != nil {
		r.Error = printable.Line(p.Finding.Err.Error())
	}
	r.Sidecar, r.Redirected, r.Guard = p.sidecar(), p.Redirected, string(p.Guard)
	r.Line = f.judge(p, r)
	return r
}

// judge says in one line what the pod is.
func (f Facts) judge(p Pod, r PodReport) Line {
	switch r.State {
	case state.Intercepted:
		return f.intercepted(p, r)
	case state.CameFirst:
		return Line{
			Fault, "came first: it is older than the plugin's entry; clients reach the application past the sidecar",
			"delete the pod, or run the installer with --repair",
		}
	case state.Drifted:
		text := "drifted: " + r.Differences[0]
		if n := len(r.Differences); n > 1 {
			text += fmt.Sprintf(" (and %d more)", n-1)
		}
		return Line{Fault, text, "run the installer with --repair, or delete the pod"}
	case state.Contested:
		return Line{Fault, "another interceptor: " + r.Differences[0], "remove the other injection, or set the pod's mode to none"}
	case state.LeftAlone:
		return Line{Note, "it has no annotation, and is older than the node's default mode: left alone", ""}
	case state.HostNetwork:
		return Line{
			Fault, "hostNetwork: it has no network namespace of its own and is never intercepted",
			"take hostNetwork or the annotation out of the pod",
		}
	case state.OtherStack:
		return Line{
			Fault, r.Error + "; it cannot be intercepted, and has no network",
			"take the annotation out of the pod, or give it a RuntimeClass of runc",
		}
	case state.Invalid:
		return Line{Fault, "its settings: " + r.Error, "mend the annotation and delete the pod"}
	case state.NotReady:
		return Line{Note, "not ready: its sandbox is stopped", ""}
	}
	next := "run this as root, in the node's network namespace"
	if none := (intercept.NoNetNS{}); errors.As(p.Finding.Err, &none) || errors.Is(p.Finding.Err, fs.ErrNotExist) {
		next = "look again, on the node itself: the pod may be ending"
	}
	return Line{Unknown, "unknown: " + cmp.Or(r.Error, string(r.State)), next}
}

// intercepted judges a pod whose rules are right.
func (f Facts) intercepted(p Pod, r PodReport) Line {
	uid := p.Finding.Config.ProxyUID
	switch side := r.Sidecar; {
	case side == nil && p.uidsKnown():
		return Line{
			Fault, fmt.Sprintf("intercepted, but no container runs as uid %d: clients are refused", uid),
			"give the pod the sidecar (tproxy-install inject), or the annotation proxy-uid of the one it has",
		}
	case side == nil:
		return Line{OK, "intercepted" + r.more(), ""}
	case !side.Running:
		next := fmt.Sprintf("kubectl logs -n %s %s -c %s", r.Namespace, r.Name, side.Container)
		if side.attempt > 0 { // else there is no log of one before it
			next += " --previous"
		}
		return Line{
			Fault, fmt.Sprintf("intercepted, but the sidecar (container %s) does not run: clients are refused", side.Container),
			next,
		}
	case older(f.Sight.Version, side.Version):
		return Line{
			Note, fmt.Sprintf("intercepted; the plugin %s is older than the sidecar %s", firstWord(f.Sight.Version), side.Version),
			"update the installer, then delete the pod or use --repair",
		}
	case side.Version != "":
		return Line{OK, "intercepted, sidecar " + side.Version + r.more(), ""}
	}
	return Line{OK, "intercepted" + r.more(), ""}
}

// more goes on with a line: with connections where the rules count, and with the packet
// guard where it is not the whole one.
func (r PodReport) more() (text string) {
	if r.Redirected != nil {
		text = fmt.Sprintf(", %d connections so far", *r.Redirected)
	}
	if r.Guard != "" && r.Guard != contract.GuardNFT {
		text += ", packet guard " + r.Guard
	}
	return text
}

// sidecar is the pod's container with the user whom the rules let spoof.
func (p Pod) sidecar() *Sidecar {
	c, found := pods.OfUser(p.Containers, p.Finding.Config.ProxyUID)
	if !found {
		return nil
	}
	return &Sidecar{printable.Word(c.Name), printable.Word(c.Image), tag(c.Image), c.Running, c.Attempt}
}

// uidsKnown reports whether the runtime has said of every container as whom it runs.
func (p Pod) uidsKnown() bool {
	for _, c := range p.Containers {
		if c.UID < 0 {
			return false
		}
	}
	return len(p.Containers) > 0
}

// tag is the tag of an image's name, empty where it is no version.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	at := strings.LastIndexByte(image, ':')
	if at < 0 || numbers(image[at+1:]) == nil {
		return ""
	}
	return image[at+1:]
}

var release = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})$`)

// numbers are those of a version such as v1.2.3; nil for any other text, such as a
// prerelease's, whose order is not told.
func numbers(version string) []int {
	m := release.FindStringSubmatch(version)
	if m == nil {
		return nil
	}
	var all []int
	for _, text := range m[1:] {
		n, _ := strconv.Atoi(text)
		all = append(all, n)
	}
	return all
}

// older reports whether the plugin, by its --version, is older than the sidecar. It
// is false where that cannot be told.
func older(plugin, sidecar string) bool {
	p, s := numbers(firstWord(plugin)), numbers(sidecar)
	return p != nil && s != nil && slices.Compare(p, s) < 0
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}
