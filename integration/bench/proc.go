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
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// usage is what the processes of a proxy have of the machine.
type usage struct {
	memory float64       // bytes of their own: not of files, shared pages by their part
	cpu    time.Duration // of the threads that are there
	files  int
}

// usageOf adds up a process and its children, such as nginx' workers.
func usageOf(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
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
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return u, err
	}
	u.files = len(files)
	tasks, err := filepath.Glob(filepath.Join(dir, "task/*"))
	if err != nil {
		return u, err
	}
	for _, task := range tasks {
		var ns int64
		if text, err := os.ReadFile(filepath.Join(task, "schedstat")); err == nil {
			fmt.Sscan(string(text), &ns)
		}
		u.cpu += time.Duration(ns)
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

// listeners asks the kernel of a namespace for listening TCP sockets alone:
// /proc/net/tcp would list all connections with them.
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

// on tells whether something listens on the port for IPv6, which all proxies
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
