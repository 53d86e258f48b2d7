package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	nodes = 2

	// runDir holds all state of the running cluster. It must be on a real
	// disk or a tmpfs: containerd's layers are overlays, and an overlay
	// cannot lie on another.
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

// up makes the whole cluster out of whatever of it is there, and waits until
// both nodes are ready.
func up(distro string) error {
	if _, ok := distros[distro]; !ok {
		return fmt.Errorf("no distribution %q", distro)
	}
	if worn, err := os.ReadFile(filepath.Join(runDir, "distro")); err == nil && string(worn) != distro {
		return fmt.Errorf("the cluster that is up is %s: end it first", worn)
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

// starting is held while something is started, and for good by who ends the
// cluster meanwhile.
var starting sync.Mutex

// startLAN starts the process that is everything beside the nodes. The API
// server's way in is a socket that it has inherited: the process itself is in
// a network of its own.
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

// startNode starts a node's first process, unless it runs, and plugs the node
// into the network. A node that ran before is thereby booted again.
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
		// The cgroup namespace's root is the cgroup in which it is made: first
		// join, then unshare.
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
	// Booted again, a node has the hardware address that its neighbours know.
	_ = shell(fmt.Sprintf("%s del n%d", inLAN, n)) // of a node that has just ended
	return shell(fmt.Sprintf("%s add n%d type veth peer name eth0 address 02:00:ac:1e:00:%02d netns %d", inLAN, n, n, pid),
		fmt.Sprintf("%s set n%d master br0 up", inLAN, n))
}

// start starts cmd with its output in a log, and leaves it running. The pid
// file tells the process from another that has its pid later.
func start(pidFile string, cmd *exec.Cmd) error {
	// It outlives us: what our caller left open, a lock for one, is not its own.
	const closeRange, cloexec = 436, 4
	if _, _, errno := syscall.Syscall(closeRange, 3, math.MaxUint32, cloexec); errno != 0 {
		return os.NewSyscallError("close_range", errno)
	}
	log, err := os.Create(filepath.Join(logDir, filepath.Base(pidFile)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	return os.WriteFile(pidFile, []byte(fmt.Sprint(cmd.Process.Pid, " ", startTime(cmd.Process.Pid))), 0o644)
}

// alive returns the pid of the process that a pid file names.
func alive(pidFile string) (int, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	var pid int
	var since string
	if _, err := fmt.Sscan(string(text), &pid, &since); err != nil {
		return 0, err
	}
	if startTime(pid) != since {
		return 0, errors.New("not running")
	}
	return pid, nil
}

// startTime is when a process began, "none" if there is none.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if err != nil || len(f) < 20 || f[0] == "Z" {
		return "none"
	}
	return f[19]
}

// kubectl runs kubectl and returns what it complains about.
func kubectl(args ...string) error {
	cmd := exec.Command(filepath.Join(binDir, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// eventually calls f until it succeeds, and returns its last error when that
// takes too long.
func eventually(within time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, after %v: %w", what, within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// shell runs lines of words.
func shell(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}
