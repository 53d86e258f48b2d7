package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// usage is what the processes of a proxy use.
type usage struct {
	memory float64       // bytes of anonymous and shared memory (PSS), without files
	cpu    time.Duration // of the running threads
	files  int
}

// usageOf adds up a process and its descendants, such as nginx' workers. procfs has
// neither the anonymous part of PSS nor the list of children.
func usageOf(pid int) (u usage, err error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(rollup)) {
		f := strings.Fields(line)
		if f[0] == "Pss_Anon:" || f[0] == "Pss_Shmem:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			u.memory += kb * 1024
		}
	}
	p, err := procfs.NewProc(pid)
	if err != nil {
		return u, err
	}
	if u.files, err = p.FileDescriptorsLen(); err != nil {
		return u, err
	}
	threads, err := procfs.AllThreads(pid)
	if err != nil {
		return u, err
	}
	for _, t := range threads {
		if s, err := t.Schedstat(); err == nil { // else it has ended
			u.cpu += time.Duration(s.RunningNanoseconds)
		}
	}
	for _, child := range children(pid) {
		c, err := usageOf(child)
		if err != nil {
			return u, err
		}
		u.memory, u.cpu, u.files = u.memory+c.memory, u.cpu+c.cpu, u.files+c.files
	}
	return u, nil
}

func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

// listeners asks the kernel for a namespace's listening TCP sockets only;
// /proc/net/tcp would list all connections, too.
type listeners struct{ conn *netlink.Conn }

func newListeners(ns *lab.NS) (*listeners, error) {
	f, err := os.Open(ns.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: int(f.Fd())})
	return &listeners{conn}, err
}

// on reports whether a process listens on the port over IPv6, which all proxies
// serve last or together with IPv4.
func (l *listeners) on(port uint16) (bool, error) {
	const (
		sockDiagByFamily = 20 // from linux/sock_diag.h
		stateListen      = 1 << 10
	)
	// struct inet_diag_req_v2: family, protocol, two bytes for more answers,
	// the states as a set, and which socket: any. In the answer, struct
	// inet_diag_msg, the port is at 4, in network order.
	req := make([]byte, 56)
	req[0], req[1] = unix.AF_INET6, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], stateListen)
	answers, err := l.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return false, fmt.Errorf("list listeners: %w", err)
	}
	for _, a := range answers {
		if len(a.Data) > 6 && binary.BigEndian.Uint16(a.Data[4:]) == port {
			return true, nil
		}
	}
	return false, nil
}

func (l *listeners) close() { _ = l.conn.Close() }
