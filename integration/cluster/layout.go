package main

import (
	"fmt"
	"os"
	"time"
)

const (
	nodes = 2

	// runDir has all state of the running cluster. It must be on a disk or a tmpfs:
	// containerd's layers are overlays, and an overlay cannot lie on another.
	runDir = "/tmp/tproxy-cni-cluster"

	binDir     = runDir + "/bin"
	logDir     = runDir + "/logs"
	kubeconfig = runDir + "/pki/admin.conf"
	lanPid     = runDir + "/lan.pid"
)

func nodeDir(n int) string { return fmt.Sprintf("%s/node%d", runDir, n) }

// nodeIP is a node's IPv4 address on the network between the nodes.
func nodeIP(n int) string { return fmt.Sprintf("172.30.0.%d", 10+n) }

// nodeIP6 is its IPv6 address there.
func nodeIP6(n int) string { return fmt.Sprintf("fd00:30::%d", 10+n) }

// say reports progress, with the time since the program began.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

var began = time.Now()
