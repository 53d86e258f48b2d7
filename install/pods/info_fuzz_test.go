package pods

import (
	"os"
	"testing"
)

// FuzzInfo: what a runtime says of a sandbox, which has parts that a pod's author
// chose, is read or refused, and never leads to the node's own network.
func FuzzInfo(f *testing.F) {
	f.Add("runc", `{"runtimeType":"io.containerd.runc.v2","runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/var/run/netns/cni-1"}]}}}`)
	f.Add("kata-qemu", `{"runtimeType":"io.containerd.kata.v2"}`)
	f.Add("", `{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/proc/self/ns/net"},{"type":7}]}}}`)
	f.Add("\x1b", `{"runtimeSpec":null}`)
	f.Fuzz(func(t *testing.T, handler, info string) {
		switch stackOf(handler, info) {
		case "", "Kata Containers", "gVisor":
		default:
			t.Error(stackOf(handler, info))
		}
		const node = "/proc/self/ns/net"
		path, err := netNSPath(map[string]string{"info": info}, node)
		if err != nil {
			return
		}
		found, err := os.Stat(path)
		own, err2 := os.Stat(node)
		if err != nil || err2 != nil || os.SameFile(found, own) {
			t.Errorf("%q is the node's, or is not there: %v, %v", path, err, err2)
		}
	})
}
