package pods

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fake is a runtime's API with fixed answers.
type fake struct {
	cri.RuntimeServiceClient
	sandboxes  []*cri.PodSandbox
	containers []*cri.Container
	statuses   map[string]*cri.ContainerStatusResponse
}

func (f fake) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest, _ ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	out := &cri.ListPodSandboxResponse{}
	for _, p := range f.sandboxes {
		if s := q.GetFilter().GetState(); s == nil || s.State == p.State {
			out.Items = append(out.Items, p)
		}
	}
	return out, nil
}

func (f fake) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: f.containers}, nil
}

func (f fake) ContainerStatus(_ context.Context, q *cri.ContainerStatusRequest, _ ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	if s := f.statuses[q.ContainerId]; s != nil && q.Verbose {
		return s, nil
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

func sandbox(id, name string, created int64, state cri.PodSandboxState) *cri.PodSandbox {
	return &cri.PodSandbox{Id: id, CreatedAt: created, State: state, Metadata: &cri.PodSandboxMetadata{Namespace: "ns", Name: name}}
}

// TestList: a pod that was made anew counts once, as what it is now.
func TestList(t *testing.T) {
	const ready, not = cri.PodSandboxState_SANDBOX_READY, cri.PodSandboxState_SANDBOX_NOTREADY
	r := &Runtime{api: fake{sandboxes: []*cri.PodSandbox{
		sandbox("1", "web", 10, not), sandbox("2", "web", 30, ready), sandbox("3", "web", 20, not),
		sandbox("4", "db", 40, not), sandbox("5", "a", 50, ready),
	}}}
	ids := func(list []Pod, err error) string {
		if err != nil {
			t.Error(err)
		}
		var all []string
		for _, p := range list {
			all = append(all, p.ID)
		}
		return strings.Join(all, " ")
	}
	if got := ids(r.List(t.Context())); got != "2 5" {
		t.Errorf("ready: %s", got)
	}
	if got := ids(r.ListAll(t.Context())); got != "5 4 2" {
		t.Errorf("all: %s", got)
	}
	if p, err := r.Find(t.Context(), "ns", "db"); err != nil || p.ID != "4" || p.Ready {
		t.Errorf("%+v %v", p, err)
	}
	_, err := r.Find(t.Context(), "ns", "x\n")
	if none := (NotFound{}); !errors.As(err, &none) || err.Error() != `no pod "ns/x\n" on this node` {
		t.Error(err)
	}
}

// TestContainers: uid and pid as runtimes tell them, containerd 2.1 and CRI-O in
// their info, newer ones the uid in a field of CRI; the newest of each name.
func TestContainers(t *testing.T) {
	const info = `{"pid":%d,"runtimeSpec":{"ociVersion":"1.2.1","process":{"user":{"uid":%d,"gid":0},"args":["/x"]}}}`
	c := func(id, name string, created int64) *cri.Container {
		return &cri.Container{Id: id, CreatedAt: created, Metadata: &cri.ContainerMetadata{Name: name}}
	}
	answer := func(info, image, specified string) *cri.ContainerStatusResponse {
		return &cri.ContainerStatusResponse{
			Status: &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_RUNNING, Image: &cri.ImageSpec{Image: image, UserSpecifiedImage: specified}},
			Info:   map[string]string{"info": info},
		}
	}
	field := answer(`[`, "sha256:2", "")
	field.Status.User = &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: 0}}
	r := &Runtime{api: fake{
		containers: []*cri.Container{c("old", "proxy", 1), c("new", "proxy", 2), c("app", "app", 1), c("gone", "gone", 1), c("mute", "mute", 1)},
		statuses: map[string]*cri.ContainerStatusResponse{
			"old": answer("", "", ""), "new": answer(fmt.Sprintf(info, 4711, 7089), "sha256:1", "x/proxy:v1"), "app": field, "mute": answer("{}", "", ""),
		},
	}}
	got, err := r.Containers(t.Context(), "id")
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprint(c.ID, " ", c.Image, " ", c.UID, " ", c.PID, " ", c.Running))
	}
	if want := []string{"new x/proxy:v1 7089 4711 true", "app sha256:2 0 0 true", "mute  -1 0 true"}; err != nil || !slices.Equal(lines, want) {
		t.Errorf("%q %v", lines, err)
	}
}

// TestOfUser: what runs now comes before what has ended, such as an init container of
// the same user.
func TestOfUser(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	check, proxy := Container{Name: "check", UID: 7089, Created: at(2)}, Container{Name: "proxy", UID: 7089, Created: at(1)}
	app := Container{Name: "app", UID: 0, Running: true, Created: at(9)}
	running := proxy
	running.Running = true
	newer := proxy
	newer.Created = at(3)
	for want, all := range map[string][]Container{
		"proxy true": {app, check, running}, "proxy false": {check, newer, app}, "check false": {app, check, proxy}, " false": {app},
	} {
		if c, found := OfUser(all, 7089); fmt.Sprint(c.Name, " ", c.Running) != want || found != (c.Name != "") {
			t.Errorf("%+v of %+v, want %s", c, all, want)
		}
	}
}

// TestStack: whose network stack is not the namespace's.
func TestStack(t *testing.T) {
	for _, tt := range []struct{ handler, info, want string }{
		{"", `{"runtimeType":"io.containerd.runc.v2"}`, ""},
		{"kata-like", `{"runtimeType":"io.containerd.runc.v2"}`, ""},
		{"vm", `{"runtimeType":"io.containerd.kata.v2"}`, "Kata Containers"},
		{"gvisor", `{"runtimeType":"io.containerd.runsc.v1"}`, "gVisor"},
		{"kata-qemu", `{}`, "Kata Containers"},
		{"runsc", "", "gVisor"},
		{"", "[", ""},
	} {
		if got := stackOf(tt.handler, tt.info); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// TestErrors: what goes wrong with the runtime is said without gRPC's words, and a
// pod that is gone is told apart.
func TestErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	r, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.List(t.Context()); err == nil || err.Error() != "ListPodSandbox: dial unix "+path+": connect: no such file or directory" || Gone(err) {
		t.Error(err)
	}
	err = plain("PodSandboxStatus", status.Error(codes.NotFound, "no such sandbox"))
	if err.Error() != "PodSandboxStatus: no such sandbox" || !Gone(err) || Gone(nil) || plain("x", nil) != nil {
		t.Error(err)
	}
}
