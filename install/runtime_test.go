package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// fakeRuntime answers the two calls of CRI that repair makes.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	mu   sync.Mutex
	pods []fakePod
}

type fakePod struct {
	name, netns string
	annotations map[string]string
	host        bool
}

func (r *fakeRuntime) set(pods ...fakePod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods = pods
}

func (r *fakeRuntime) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.GetFilter().GetState().GetState() != cri.PodSandboxState_SANDBOX_READY {
		return nil, fmt.Errorf("asked for other than ready pods")
	}
	out := &cri.ListPodSandboxResponse{}
	for _, p := range r.pods {
		out.Items = append(out.Items, &cri.PodSandbox{
			Id: "id-" + p.name, Annotations: p.annotations, Metadata: &cri.PodSandboxMetadata{Name: p.name, Namespace: "test"},
		})
	}
	return out, nil
}

func (r *fakeRuntime) PodSandboxStatus(_ context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
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
				Network: &cri.PodSandboxNetworkStatus{Ip: lab.Pod4, AdditionalIps: []*cri.PodIP{{Ip: lab.Pod6}}},
				Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: network}}},
			},
			// As containerd 2 tells it, shortened.
			Info: map[string]string{"info": fmt.Sprintf(
				`{"pid":4711,"runtimeSpec":{"ociVersion":"1.2.1","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":%q}]}}}`, p.netns)},
		}, nil
	}
	return nil, fmt.Errorf("no sandbox %s", q.PodSandboxId)
}

// serveRuntime returns the socket.
func serveRuntime(t *testing.T, r *fakeRuntime) string {
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
