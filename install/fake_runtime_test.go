package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// fakeRuntime answers the calls of CRI that package pods makes.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	mu   sync.Mutex
	pods []fakePod
	info map[string]string // of Status

	asked   map[string]int             // how often for a pod's status
	onAsked func(name string, nth int) // called before the answer; may be nil
}

type fakePod struct {
	name, netns string
	annotations map[string]string
	handler     string
	host        bool
	stopped     bool
	containers  []fakeContainer
}

type fakeContainer struct {
	name, image string
	uid         int
}

func (p fakePod) state() cri.PodSandboxState {
	if p.stopped {
		return cri.PodSandboxState_SANDBOX_NOTREADY
	}
	return cri.PodSandboxState_SANDBOX_READY
}

func (r *fakeRuntime) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Info: r.info}, nil
}

func (r *fakeRuntime) set(pods ...fakePod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods = pods
}

func (r *fakeRuntime) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, p := range r.pods {
		if f := q.GetFilter().GetState(); f != nil && f.State != p.state() {
			continue
		}
		out.Items = append(out.Items, &cri.PodSandbox{
			Id: "id-" + p.name, State: p.state(), RuntimeHandler: p.handler, CreatedAt: 1, Annotations: p.annotations, Metadata: &cri.PodSandboxMetadata{Name: p.name, Namespace: "test"},
		})
	}
	return out, nil
}

func (r *fakeRuntime) PodSandboxStatus(_ context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	if r.asked == nil {
		r.asked = map[string]int{}
	}
	r.asked[q.PodSandboxId]++
	nth, hook := r.asked[q.PodSandboxId], r.onAsked
	r.mu.Unlock()
	if hook != nil {
		hook(strings.TrimPrefix(q.PodSandboxId, "id-"), nth)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		if "id-"+p.name != q.PodSandboxId || !q.Verbose {
			continue
		}
		network := cri.NamespaceMode_POD
		if p.host {
			network = cri.NamespaceMode_NODE
		}
		return &cri.PodSandboxStatusResponse{
			Status: &cri.PodSandboxStatus{
				State: p.state(), RuntimeHandler: p.handler,
				Network: &cri.PodSandboxNetworkStatus{Ip: lab.Pod4, AdditionalIps: []*cri.PodIP{{Ip: lab.Pod6}}},
				Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: network}}},
			},
			// As containerd 2 tells it, shortened.
			Info: map[string]string{"info": fmt.Sprintf(
				`{"pid":4711,"runtimeSpec":{"ociVersion":"1.2.1","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":%q}]}}}`, p.netns)},
		}, nil
	}
	return nil, rpc.Errorf(codes.NotFound, "no sandbox %s", q.PodSandboxId)
}

func (r *fakeRuntime) ListContainers(_ context.Context, q *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &cri.ListContainersResponse{}
	for _, p := range r.pods {
		for _, c := range p.containers {
			if q.GetFilter().GetPodSandboxId() == "id-"+p.name {
				out.Containers = append(out.Containers, &cri.Container{Id: p.name + "/" + c.name, Metadata: &cri.ContainerMetadata{Name: c.name}})
			}
		}
	}
	return out, nil
}

func (r *fakeRuntime) ContainerStatus(_ context.Context, q *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		for _, c := range p.containers {
			if q.ContainerId == p.name+"/"+c.name {
				return &cri.ContainerStatusResponse{
					Status: &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_RUNNING, Image: &cri.ImageSpec{Image: c.image}},
					Info:   map[string]string{"info": fmt.Sprintf(`{"runtimeSpec":{"process":{"user":{"uid":%d}}}}`, c.uid)},
				}, nil
			}
		}
	}
	return nil, rpc.Errorf(codes.NotFound, "no container %s", q.ContainerId)
}

// serveRuntime returns the socket.
func serveRuntime(t testing.TB, r *fakeRuntime) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	ln, err := net.Listen("unix", path)
	must(t, err)
	s := grpc.NewServer(grpc.MaxSendMsgSize(16 << 20)) // containerd's
	cri.RegisterRuntimeServiceServer(s, r)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return path
}
