package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// node is process 1 of a node: it sets up the node's mounts and network, starts the
// daemons and restarts those that exit.
func node(n int, _ []string) error {
	d, err := theDistro()
	if err != nil {
		return err
	}
	for _, f := range []func(int) error{mounts, settle, settings, network} {
		if err := f(n); err != nil {
			return err
		}
	}
	if err := d.install(); err != nil {
		return err
	}
	return supervise(n, daemons(n))
}

// mounts gives the node its own /run, and overlays for its changes to /etc, /opt and
// /var. None of it is visible outside, and all of it is gone with the node.
func mounts(n int) error {
	// Private first: /run/netns is a shared mount, and unmounting here would unmount
	// on the machine.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	// The node must not keep the machine's network namespaces alive.
	_ = syscall.Unmount("/run/netns", syscall.MNT_DETACH)

	dir := nodeDir(n)
	for _, d := range []string{"etc", "etc.work", "opt", "opt.work", "var", "var.work", "containerd", "kubelet", "sysctl"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	overlay := func(d string) string {
		return fmt.Sprintf("lowerdir=/%[2]s,upperdir=%[1]s/%[2]s,workdir=%[1]s/%[2]s.work", dir, d)
	}
	list := []struct {
		source, target, fs string
		flags              uintptr
		data               string
	}{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		// A user namespace may mount /proc only where a complete one is visible;
		// on the first one some files will be covered.
		{"proc", "/run/proc", "proc", 0, ""},
		{"etc", "/etc", "overlay", 0, overlay("etc")},
		{"opt", "/opt", "overlay", 0, overlay("opt")},
		{"var", "/var", "overlay", 0, overlay("var")},
		// containerd's overlays cannot lie on an overlay.
		{dir + "/containerd", "/var/lib/containerd", "", syscall.MS_BIND, ""},
		{dir + "/kubelet", "/var/lib/kubelet", "", syscall.MS_BIND, ""},
		{"", "/", "", syscall.MS_REC | syscall.MS_SHARED, ""}, // pods see what is mounted later
	}
	for _, m := range list {
		if _, err := os.Stat(m.target); err != nil {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return err
			}
		}
		if err := syscall.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// settings are files that the node's programs read or write. The kubelet sets sysctls
// of the whole machine: it gets files of ours in their place, with the values that it
// wants.
func settings(n int) error {
	name := fmt.Sprintf("node%d", n)
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	files := map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost " + name + "\n::1 localhost\n",
		"/etc/resolv.conf": "",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for sysctl, value := range map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		path := filepath.Join(nodeDir(n), "sysctl", filepath.Base(sysctl))
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(path, "/proc/sys/"+sysctl, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", sysctl, err)
		}
	}
	return configure(n)
}

// network waits for the node's link, then sets its addresses and the routes to the
// other nodes' pods.
func network(n int) error {
	err := eventually(10*time.Second, "eth0", func() error { _, err := net.InterfaceByName("eth0"); return err })
	if err != nil {
		return err
	}
	lines := []string{
		"ip link set lo up",
		"ip link set eth0 up",
		"ip addr add " + nodeIP(n) + "/24 dev eth0",
		"ip addr add " + nodeIP6(n) + "/64 dev eth0 nodad",
		"ip route add default via 172.30.0.254",
		"ip -6 route add default via fd00:30::254",
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
	}
	for m := 1; m <= nodes; m++ {
		if m != n {
			lines = append(lines, fmt.Sprintf("ip route add 10.244.%d.0/24 via %s", m, nodeIP(m)),
				fmt.Sprintf("ip -6 route add fd00:244:%d::/64 via %s", m, nodeIP6(m)))
		}
	}
	return shell(lines...)
}

// supervise starts every daemon and restarts those that exit; their order does not
// matter. It also reaps orphans such as containerd's shims.
func supervise(n int, daemons [][]string) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil { // else children get the old one
		return os.NewSyscallError("setrlimit", err)
	}
	var mu sync.Mutex // a child may end before it is written down
	running := map[int][]string{}
	begin := func(args []string) error {
		mu.Lock()
		defer mu.Unlock()
		log, err := os.OpenFile(fmt.Sprintf("%s/node%d-%s.log", logDir, n, args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer log.Close()
		pid, err := syscall.ForkExec(filepath.Join(binDir, args[0]), args, &syscall.ProcAttr{
			Env:   append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH")),
			Files: []uintptr{0, log.Fd(), log.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return fmt.Errorf("start %s: %w", args[0], err)
		}
		running[pid] = args
		return nil
	}
	for _, args := range daemons {
		if err := begin(args); err != nil {
			return err
		}
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("wait4", err)
		}
		mu.Lock()
		args, ours := running[pid]
		delete(running, pid)
		mu.Unlock()
		if ours {
			time.AfterFunc(300*time.Millisecond, func() {
				if err := begin(args); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			})
		}
	}
}

// enter execs args in the namespaces and cgroups of a node, or of lan.
func enter(n int, args []string) error {
	if n == 0 {
		pid, err := alive(lanPid)
		if err != nil {
			return err
		}
		return become(append([]string{"nsenter", "-t", fmt.Sprint(pid), "-n", "--"}, args...))
	}
	pid, err := alive(nodeDir(n) + ".pid")
	if err != nil {
		return err
	}
	d, err := theDistro()
	if err != nil {
		return err
	}
	os.Setenv("PATH", binDir+":"+os.Getenv("PATH"))
	os.Setenv("CONTAINERD_ADDRESS", d.containerd+"/containerd.sock") // for ctr
	return join(n, append([]string{"nsenter", "-t", fmt.Sprint(pid), "-m", "-n", "-p", "-u", "-i", "-C", "--"}, args...))
}

// nodeNumber is the number of the node on which this program runs.
func nodeNumber() (n int) {
	name, _ := os.Hostname()
	_, _ = fmt.Sscanf(name, "node%d", &n)
	return n
}
