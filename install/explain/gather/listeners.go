package gather

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
)

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20
	inetDiagV6Only   = 11 // INET_DIAG_SKV6ONLY

	requestSize = 56 // struct inet_diag_req_v2
	answerSize  = 72 // struct inet_diag_msg
)

// listeners asks the kernel for the namespace's listening TCP sockets alone: of
// connections there may be very many.
func (g gatherer) listeners() error {
	conn, err := mnl.Dial(unix.NETLINK_SOCK_DIAG, &mnl.Config{NetNS: int(g.pod.Fd())})
	if err != nil {
		return err
	}
	defer conn.Close()
	g.Listeners = nil
	inodes := map[uint32]int{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, requestSize)
		request[0], request[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(request[4:], 1<<unix.BPF_TCP_LISTEN)
		replies, err := conn.Execute(mnl.Message{
			Header: mnl.Header{Type: sockDiagByFamily, Flags: mnl.Request | mnl.Dump},
			Data:   request,
		})
		if err != nil {
			return err
		}
		for _, m := range replies {
			l, inode, ok := listener(m.Data)
			if !ok {
				continue
			}
			inodes[inode] = len(g.Listeners)
			g.Listeners = append(g.Listeners, l)
		}
	}
	err = g.processes(func(inode uint32, pid int, name string) {
		if i, ok := inodes[inode]; ok && g.Listeners[i].PID == 0 {
			g.Listeners[i].PID, g.Listeners[i].Process = pid, name
		}
	})
	slices.SortStableFunc(g.Listeners, func(a, b explain.Listener) int { return cmp.Compare(a.Addr.Port(), b.Addr.Port()) })
	return err
}

// listener reads a struct inet_diag_msg: of a listener the queues are accept(2)'s.
func listener(b []byte) (l explain.Listener, inode uint32, ok bool) {
	if len(b) < answerSize || b[1] != unix.BPF_TCP_LISTEN {
		return l, 0, false
	}
	port, at := binary.BigEndian.Uint16(b[4:]), b[8:24]
	addr := netip.AddrFrom16([16]byte(at))
	if b[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(at))
	}
	l = explain.Listener{
		Addr:  netip.AddrPortFrom(addr, port),
		Queue: binary.NativeEndian.Uint32(b[56:]), Limit: binary.NativeEndian.Uint32(b[60:]),
		UID: binary.NativeEndian.Uint32(b[64:]),
	}
	attrs, err := mnl.UnmarshalAttributes(b[answerSize:])
	for _, a := range attrs {
		if a.Type == inetDiagV6Only && len(a.Data) == 1 {
			l.V6Only = a.Data[0] != 0
		}
	}
	return l, binary.NativeEndian.Uint32(b[68:]), err == nil
}
