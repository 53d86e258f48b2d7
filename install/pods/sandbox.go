package pods

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandbox is what the runtime says of one pod.
type Sandbox struct {
	Ready       bool         // its network is made, and it has not been stopped
	HostNetwork bool         // it has no network namespace of its own
	Stack       string       // "Kata Containers" or "gVisor" where the network stack is not the namespace's; else empty
	Addrs       []netip.Addr // of the pod, as far as the runtime knows them

	info map[string]string // the runtime's own, for NetNS
}

// Sandbox asks for a pod by its ID. For a pod that is gone the error is one of
// which Gone is true.
func (r *Runtime) Sandbox(ctx context.Context, id string) (Sandbox, error) {
	answer, err := r.api.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return Sandbox{}, plain("PodSandboxStatus", err)
	}
	s := answer.GetStatus()
	return Sandbox{
		Ready:       s.GetState() == cri.PodSandboxState_SANDBOX_READY,
		HostNetwork: s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE,
		Stack:       stackOf(s.GetRuntimeHandler(), answer.GetInfo()["info"]),
		Addrs:       addrsOf(s.GetNetwork()),
		info:        answer.GetInfo(),
	}, nil
}

// NetNS is the path of the pod's network namespace, as seen from this process.
// nodeNetNS is the path of the one that must never be taken for a pod's; the error
// says that it would be, that the path leads nowhere, or that the runtime does not
// name one.
func (s Sandbox) NetNS(nodeNetNS string) (string, error) { return netNSPath(s.info, nodeNetNS) }

// stackOf is the Stack of a Sandbox. containerd says which shim it is
// (io.containerd.kata.v2, io.containerd.runsc.v1), CRI-O has only the handler's
// name, which an administrator chooses.
func stackOf(handler, info string) string {
	var verbose struct{ RuntimeType string }
	_ = json.Unmarshal([]byte(info), &verbose) // netNSPath reports what it is not
	kind := verbose.RuntimeType
	if kind == "" {
		kind = handler
	}
	switch kind = strings.ToLower(kind); {
	case strings.Contains(kind, "kata"):
		return "Kata Containers"
	case strings.Contains(kind, "runsc"), strings.Contains(kind, "gvisor"):
		return "gVisor"
	}
	return ""
}

func addrsOf(n *cri.PodSandboxNetworkStatus) (addrs []netip.Addr) {
	texts := []string{n.GetIp()}
	for _, ip := range n.GetAdditionalIps() {
		texts = append(texts, ip.GetIp())
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// Container is one container of a pod.
type Container struct {
	ID, Name string
	Image    string // as the pod names it, where the runtime knows; else its digest
	Created  time.Time
	Running  bool
	Attempt  uint32 // 0 for the first, and one more for each restart
	UID      int64  // of its first process as it starts; -1 where the runtime does not say
	PID      int    // of its first process, on the node; 0 where the runtime does not say
}

// OfUser is the container that runs as a user: of several the newest that runs or, where
// none does, the newest. An init container may have run as the same user and ended.
func OfUser(all []Container, uid uint32) (best Container, found bool) {
	for _, c := range all {
		if c.UID == int64(uid) && (!found || c.Running && !best.Running || c.Running == best.Running && c.Created.After(best.Created)) {
			best, found = c, true
		}
	}
	return best, found
}

// Containers are those of a pod, init containers included, of each name the
// newest.
func (r *Runtime) Containers(ctx context.Context, podID string) ([]Container, error) {
	answer, err := r.api.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: podID}})
	if err != nil {
		return nil, plain("ListContainers", err)
	}
	newest := map[string]*cri.Container{}
	var names []string
	for _, c := range answer.GetContainers() {
		name := c.GetMetadata().GetName()
		switch old, ok := newest[name]; {
		case !ok:
			names = append(names, name)
			newest[name] = c
		case c.GetCreatedAt() > old.GetCreatedAt():
			newest[name] = c
		}
	}
	var all []Container
	for _, name := range names {
		c, err := r.container(ctx, newest[name])
		if Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (r *Runtime) container(ctx context.Context, c *cri.Container) (Container, error) {
	answer, err := r.api.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.GetId(), Verbose: true})
	if err != nil {
		return Container{}, plain("ContainerStatus", err)
	}
	s := answer.GetStatus()
	out := Container{
		ID: c.GetId(), Name: c.GetMetadata().GetName(), Attempt: c.GetMetadata().GetAttempt(),
		Image: s.GetImage().GetUserSpecifiedImage(), Created: time.Unix(0, c.GetCreatedAt()),
		Running: s.GetState() == cri.ContainerState_CONTAINER_RUNNING, UID: -1,
	}
	if out.Image == "" {
		out.Image = s.GetImage().GetImage()
	}
	// containerd (internal/cri/server/container_status.go) and CRI-O
	// (server/container_status.go) both add pid and OCI specification; a user in
	// CRI's own field is newer than 1.31.
	var verbose struct {
		PID         int
		RuntimeSpec struct {
			Process *struct{ User struct{ UID int64 } }
		}
	}
	if json.Unmarshal([]byte(answer.GetInfo()["info"]), &verbose) == nil {
		out.PID = verbose.PID
		if p := verbose.RuntimeSpec.Process; p != nil {
			out.UID = p.User.UID
		}
	}
	if u := s.GetUser().GetLinux(); u != nil {
		out.UID = u.GetUid()
	}
	return out, nil
}
