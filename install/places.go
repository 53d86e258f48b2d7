package main

import (
	"cmp"
	"os"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
)

// Where a command that only shows the node finds what it was not told. In the
// installer's container the node's directories are where its manifest mounts them;
// in a container of `kubectl debug node/…` the node is below /host; else this is the
// node. The places of one platform come before the usual ones, which may be there
// beside them: podman writes to /etc/cni/net.d, Docker's containerd has the usual socket.
var (
	confDirs = []string{
		"/host/cni/conf",
		"/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/snap/microk8s/current/args/cni-network", "/etc/kubernetes/cni/net.d",
		"/etc/cni/net.d",
	}
	binDirs = []string{
		"/host/cni/bin",
		"/var/lib/rancher/k3s/data/cni", "/var/snap/microk8s/current/opt/cni/bin", "/home/kubernetes/bin", "/var/lib/cni/bin",
		"/opt/cni/bin",
	}
	sockets = []string{
		"/run/cri/containerd.sock", "/run/cri/crio.sock",
		"/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock", "/var/snap/microk8s/common/run/containerd.sock", "/run/crio/crio.sock",
		"/run/containerd/containerd.sock",
	}
)

// findPlaces fills in what no flag has said: the first place that is there. The
// directories are the usual ones where there is none, and the socket empty.
func (c *config) findPlaces() {
	c.confDir = cmp.Or(c.confDir, firstThere(confDirs), confDirs[len(confDirs)-1])
	c.binDir = cmp.Or(c.binDir, firstThere(binDirs), binDirs[len(binDirs)-1])
	c.criSocket = cmp.Or(c.criSocket, firstThere(sockets))
}

// firstThere is empty where none is.
func firstThere(paths []string) string {
	for _, root := range []string{"", pods.HostRoot} {
		for _, p := range paths {
			if _, err := os.Stat(root + p); err == nil {
				return root + p
			}
		}
	}
	return ""
}
