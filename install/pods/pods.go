// Package pods finds the node's pods through the container runtime: which there
// are, what they ask for, and where their network namespaces are. It only asks
// (CRI's List and Status calls) and needs nothing but access to the runtime's
// socket.
//
//	runtime, err := pods.Dial("/run/containerd/containerd.sock")
//	list, err := runtime.List(ctx)                      // or Find(ctx, "default", "web")
//	sandbox, err := runtime.Sandbox(ctx, list[0].ID)    // addresses, kind of network
//	path, err := sandbox.NetNS("/proc/1/ns/net")        // for package intercept
//	containers, err := runtime.Containers(ctx, list[0].ID)
//
// What the runtime says of a pod is foreign text: names, annotations and paths
// must go through package printable before they are shown.
package pods

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Interface is what the kubelet's runtimes call a pod's first interface.
const Interface = "eth0"

// maxAnswer, in bytes, is the kubelet's limit for an answer, and the runtimes'
// own; gRPC's default of 4 MiB is too little for a list of many pods with large
// annotations.
const maxAnswer = 16 << 20

// Runtime is a client of the node's container runtime. Its methods may be called
// from several goroutines. They connect when they are called, and again after a
// restart of the runtime; their errors are the runtime's, or of reaching it.
type Runtime struct {
	conn *grpc.ClientConn
	api  cri.RuntimeServiceClient
}

// Dial returns a client for the runtime's socket, an absolute path. It does not
// connect yet: the error says that no client can be made for such a path.
func Dial(socket string) (*Runtime, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	return &Runtime{conn, cri.NewRuntimeServiceClient(conn)}, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// Pod is a pod's sandbox, as the runtime lists it. Nothing of it changes but
// Ready: a pod that is made anew has another ID.
type Pod struct {
	ID              string
	Namespace, Name string
	Annotations     map[string]string // as they were when the sandbox was made
	Created         time.Time
	Ready           bool   // its network is made, and it has not been stopped
	Handler         string // the runtime handler of its RuntimeClass; empty for the default
}

// String is "NAMESPACE/NAME", as it may be shown.
func (p Pod) String() string { return printable.Word(p.Namespace + "/" + p.Name) }

// Asks reports whether the pod has one of the plugin's annotations.
func (p Pod) Asks() bool {
	for key := range p.Annotations {
		if strings.HasPrefix(key, contract.AnnotationPrefix) {
			return true
		}
	}
	return false
}

// List are the node's pods: those that are ready.
func (r *Runtime) List(ctx context.Context) ([]Pod, error) {
	return r.list(ctx, &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}})
}

// ListAll are the node's pods, and those that are not ready: stopped, or lost in a
// restart of the node. Of the sandboxes that a pod has had only the newest counts.
func (r *Runtime) ListAll(ctx context.Context) ([]Pod, error) {
	all, err := r.list(ctx, nil)
	slices.SortStableFunc(all, func(a, b Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name),
			b.Created.Compare(a.Created))
	})
	return slices.CompactFunc(all, func(a, b Pod) bool { return a.Namespace == b.Namespace && a.Name == b.Name }), err
}

// NotFound is the error for a pod that the node does not have.
type NotFound struct{ Namespace, Name string }

func (e NotFound) Error() string {
	return fmt.Sprintf("no pod %s on this node", printable.Word(e.Namespace+"/"+e.Name))
}

// Find is the newest sandbox of the pod of that name, ready or not. Its error is a
// NotFound, or the runtime's.
func (r *Runtime) Find(ctx context.Context, namespace, name string) (Pod, error) {
	all, err := r.ListAll(ctx)
	if err != nil {
		return Pod{}, err
	}
	i := slices.IndexFunc(all, func(p Pod) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return Pod{}, NotFound{namespace, name}
	}
	return all[i], nil
}

func (r *Runtime) list(ctx context.Context, filter *cri.PodSandboxFilter) ([]Pod, error) {
	answer, err := r.api.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, plain("ListPodSandbox", err)
	}
	all := make([]Pod, 0, len(answer.GetItems()))
	for _, p := range answer.GetItems() {
		all = append(all, Pod{
			ID: p.GetId(), Namespace: p.GetMetadata().GetNamespace(), Name: p.GetMetadata().GetName(),
			Annotations: p.GetAnnotations(), Created: time.Unix(0, p.GetCreatedAt()),
			Ready: p.GetState() == cri.PodSandboxState_SANDBOX_READY, Handler: p.GetRuntimeHandler(),
		})
	}
	return all, nil
}
