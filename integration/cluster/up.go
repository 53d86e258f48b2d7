package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// up starts what is missing of the cluster and waits until both nodes are ready.
func up(distro string) error {
	if _, ok := distros[distro]; !ok {
		return fmt.Errorf("unknown distribution %q", distro)
	}
	if !running() {
		// What a run that was killed with all its processes has left.
		if err := down(); err != nil {
			return err
		}
	}
	if worn, err := os.ReadFile(filepath.Join(runDir, "distro")); err == nil && string(worn) != distro {
		return fmt.Errorf("the running cluster is %s: go run . down first", worn)
	}
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return err
	}
	if err := build(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(runDir, "distro"), []byte(distro), 0o644); err != nil {
		return err
	}
	if err := startLAN(); err != nil {
		return err
	}
	for n := 1; n <= nodes; n++ {
		if err := startNode(n); err != nil {
			return err
		}
	}
	say("nodes started")
	err := eventually(3*time.Minute, "load images", func() error { return load(ownImages, nil) })
	if err != nil {
		return err
	}
	say("images loaded")
	if err := eventually(3*time.Minute, "API server", func() error { return kubectl("get", "--raw", "/readyz") }); err != nil {
		return err
	}
	say("API server ready")
	for n := 1; n <= nodes; n++ {
		node := fmt.Sprintf("node/node%d", n)
		if err := eventually(3*time.Minute, node, func() error { return kubectl("wait", "--for=condition=Ready", "--timeout=30s", node) }); err != nil {
			return err
		}
	}
	err = eventually(3*time.Minute, "service account", func() error { return kubectl("get", "serviceaccount", "default") })
	say("nodes ready")
	return err
}

// starting is held while a process is started, and forever once the cluster is being
// stopped.
var starting sync.Mutex

// startLAN starts the process outside the nodes. It inherits the listener that relays
// to the API server, since its own network namespace has no uplink.
func startLAN() error {
	starting.Lock()
	defer starting.Unlock()
	if _, err := alive(lanPid); err == nil {
		return nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	if err := credentials(ln.Addr().String()); err != nil {
		return err
	}
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer socket.Close()
	err = start(lanPid, &exec.Cmd{
		Path: filepath.Join(binDir, "cluster"), Args: []string{"cluster", "lan"},
		ExtraFiles:  []*os.File{socket},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setsid: true},
	})
	if err != nil {
		return err
	}
	return eventually(time.Minute, "network beside the nodes", func() error {
		return shell(fmt.Sprintf("%s/cluster nx 0 ip link show br0", binDir))
	})
}

// startNode starts a node's first process, unless it runs, and connects the node to the
// network. A node that ran before is booted again.
func startNode(n int) error {
	starting.Lock()
	defer starting.Unlock()
	pidFile := nodeDir(n) + ".pid"
	if _, err := alive(pidFile); err == nil {
		return nil
	}
	if err := makeCgroups(n); err != nil {
		return err
	}
	self := filepath.Join(binDir, "cluster")
	node := fmt.Sprint(n)
	err := start(pidFile, &exec.Cmd{
		// The root of a cgroup namespace is the cgroup in which it is created:
		// join first, then unshare.
		Path: self, Args: []string{"cluster", "join", node, "unshare", "--cgroup", self, "node", node},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC},
	})
	if err != nil {
		return err
	}
	pid, err := alive(pidFile)
	if err != nil {
		return err
	}
	lan, err := alive(lanPid)
	if err != nil {
		return err
	}
	inLAN := fmt.Sprintf("nsenter -t %d -n ip link", lan)
	// After a reboot a node has the same hardware address, which its neighbours know.
	_ = shell(fmt.Sprintf("%s del n%d", inLAN, n)) // of a node that has just ended
	return shell(fmt.Sprintf("%s add n%d type veth peer name eth0 address 02:00:ac:1e:00:%02d netns %d", inLAN, n, n, pid),
		fmt.Sprintf("%s set n%d master br0 up", inLAN, n))
}
