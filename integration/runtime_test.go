package integration

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criPod is a container runtime that has one pod, as the runtime's CRI shows it.
type criPod struct {
	cri.UnimplementedRuntimeServiceServer
	netns       string
	addrs       []string
	annotations map[string]string
	created     time.Time
	host        bool
	handler     string
}

// serve returns the runtime's socket.
func (r *criPod) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s, r)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return path
}

func (r *criPod) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: []*cri.PodSandbox{{
		Id: "a1", Metadata: &cri.PodSandboxMetadata{Namespace: "demo", Name: "echo-1"}, Annotations: r.annotations,
		CreatedAt: r.created.UnixNano(), State: cri.PodSandboxState_SANDBOX_READY, RuntimeHandler: r.handler,
	}}}, nil
}

func (r *criPod) PodSandboxStatus(context.Context, *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	network := &cri.PodSandboxNetworkStatus{Ip: r.addrs[0]}
	for _, a := range r.addrs[1:] {
		network.AdditionalIps = append(network.AdditionalIps, &cri.PodIP{Ip: a})
	}
	mode := cri.NamespaceMode_POD
	if r.host {
		mode = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxStatusResponse{
		Status: &cri.PodSandboxStatus{
			State: cri.PodSandboxState_SANDBOX_READY, Network: network, RuntimeHandler: r.handler,
			Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: mode}}},
		},
		Info: map[string]string{"info": fmt.Sprintf(`{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":%q}]}}}`, r.netns)},
	}, nil
}

func (r *criPod) ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: []*cri.Container{{Id: "c1", Metadata: &cri.ContainerMetadata{Name: "tproxy-proxy", Attempt: 2}}}}, nil
}

func (r *criPod) ContainerStatus(context.Context, *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_RUNNING}}, nil
}
