package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// own is this thread's network namespace; the main thread's, /proc/self/ns/net,
// may be one of package lab's.
const own = "/proc/thread-self/ns/net"

// TestNotNode only compares: the node's network must never be programmed.
func TestNotNode(t *testing.T) {
	if err := checkNotNode(own, own); err == nil || !strings.Contains(err.Error(), "the node's own network namespace") {
		t.Errorf("own: %v", err)
	}
	lab.Need(t)
	if err := checkNotNode(lab.New(t, "pod").Path(), own); err != nil {
		t.Errorf("another: %v", err)
	}
}

// TestNetNSPath: the info of runtimes about a sandbox, irrelevant parts shortened:
// containerd 2.1 as `crictl inspectp` shows it; CRI-O 1.34 after its
// server/sandbox_status.go, with an infra container and, by default, without.
func TestNetNSPath(t *testing.T) {
	const namespaces = `"linux":{"resources":{"cpu":{"shares":2}},"cgroupsPath":"kubepods","namespaces":[` +
		`{"type":"pid"},{"type":"network","path":"PATH"},{"type":"uts","path":"/var/run/utsns/46775c43"}],"maskedPaths":["/proc/acpi"]}`
	path := filepath.Join(t.TempDir(), "46775c43-417c-4b84-891b-0053bc45c006")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"containerd": `{"pid":4711,"processStatus":"running","netNamespaceClosed":false,"image":"pause:3.10","snapshotKey":"a","snapshotter":"overlayfs",` +
			`"runtimeHandler":"","runtimeType":"io.containerd.runc.v2","runtimeOptions":null,"config":{"metadata":{"name":"web"},"linux":{"cgroup_parent":"kubepods"}},` +
			`"runtimeSpec":{"ociVersion":"1.2.1","annotations":{"io.kubernetes.cri.sandbox-id":"a"},` + namespaces + `},` +
			`"cniResult":{"Interfaces":{"eth0":{"IPConfigs":[{"IP":"192.168.1.1"}],"Sandbox":"PATH"}}}}`,
		"CRI-O, infra container": `{"image":"registry.k8s.io/pause:3.10","pid":4711,"runtimeSpec":{"ociVersion":"1.2.1","process":{"args":["/pause"]},` + namespaces + `}}`,
		"CRI-O":                  `{"runtimeSpec":{"ociVersion":"1.2.1","annotations":{"io.kubernetes.cri-o.Spoofed":"true"},` + namespaces + `}}`,
	} {
		got, err := netNSPath(map[string]string{"info": strings.ReplaceAll(text, "PATH", path)}, own)
		if err != nil || got != path {
			t.Errorf("%s: %q %v", name, got, err)
		}
		// On the node /var/run is a link to /run, which the image lacks.
		_, err = netNSPath(map[string]string{"info": strings.ReplaceAll(text, "PATH", "/var/run/netns/gone")}, own)
		if err == nil || !strings.Contains(err.Error(), " /run/netns/gone:") {
			t.Errorf("%s, gone: %v", name, err)
		}
	}
	for text, want := range map[string]string{
		"":   "has no info of the sandbox",
		"{}": "names no network namespace", // CRI-O 1.20, which lacks the annotations, too
		`{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}]}}}`: "names no network namespace",
		`[`: "read the runtime's info",
	} {
		if _, err := netNSPath(map[string]string{"info": text}, own); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", text, err)
		}
	}
}
