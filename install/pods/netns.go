package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// netNSPath finds the path of a sandbox's network namespace in the info that
// runtimes add to a verbose status; CRI itself has no field for it. Both put the
// OCI specification into the same place: containerd (sbserver's SandboxInfo)
// among much else, CRI-O (server/sandbox_status.go, createSandboxInfo) beside
// image and pid, or alone where the pod has no infra container. The error says
// that there is none, or that it is nodeNetNS.
func netNSPath(info map[string]string, nodeNetNS string) (string, error) {
	if info["info"] == "" {
		return "", errors.New("the runtime has no info of the sandbox")
	}
	var verbose struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
	}
	if err := json.Unmarshal([]byte(info["info"]), &verbose); err != nil {
		return "", fmt.Errorf("read the runtime's info of the sandbox: %w", err)
	}
	for _, ns := range verbose.RuntimeSpec.Linux.Namespaces {
		if ns.Type != "network" || ns.Path == "" {
			continue
		}
		path := here(ns.Path)
		return path, checkNotNode(path, nodeNetNS)
	}
	return "", errors.New("the runtime's info of the sandbox names no network namespace")
}

// HostRoot is where a container of `kubectl debug node/…` has the node's root.
const HostRoot = "/host"

// here is where this process finds a path of the node's. On the node /var/run is a
// link to /run, which the installer's image lacks.
func here(path string) string {
	short := strings.TrimPrefix(path, "/var")
	for _, p := range []string{path, short, HostRoot + short} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return short
}

// checkNotNode fails if path is the node's own network namespace, which must
// never be programmed.
func checkNotNode(path, nodeNetNS string) error {
	pod, err := os.Stat(path)
	if err != nil {
		return err
	}
	node, err := os.Stat(nodeNetNS)
	if err != nil {
		return fmt.Errorf("the node's network namespace: %w", err)
	}
	if os.SameFile(pod, node) {
		return fmt.Errorf("%s is the node's own network namespace", printable.Word(path))
	}
	return nil
}
