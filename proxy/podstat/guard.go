package podstat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// ReadGuard is the packet guard that is in force: contract.GuardNFT, GuardTC or GuardNone;
// empty where the pod is not programmed. It needs no privilege. nftables shows nothing
// without one, so GuardNFT is what the plugin has written down in its routes; that
// GuardTC is still there shows rtnetlink. The error is a *os.SyscallError, or says what
// kind of answer came.
func ReadGuard() (contract.Guard, error) {
	programmed, mark := false, byte(0)
	request := make([]byte, unix.SizeofRtMsg)
	request[0] = unix.AF_INET // the plugin marks IPv4's, which every pod has on lo
	err := ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, unix.NLM_F_DUMP, request, "RTM_GETROUTE", func(data []byte) error {
		if len(data) < unix.SizeofRtMsg {
			return fmt.Errorf("RTM_GETROUTE: an answer of %d bytes", len(data))
		}
		a := attributes(data[unix.SizeofRtMsg:])
		if number32(a[unix.RTA_TABLE], 0) != contract.RouteTable {
			return nil
		}
		programmed = true
		if number32(a[unix.RTA_PRIORITY], 0) == contract.GuardMetric {
			mark = data[5] // rtm_protocol
		}
		return nil
	})
	switch {
	case err != nil || !programmed:
		return "", err
	case mark == contract.RouteProtocolGuardNone:
		return contract.GuardNone, nil
	case mark != contract.RouteProtocolGuardTC:
		return contract.GuardNFT, nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if found, err := hasGuardFilter(l.Index); found || err != nil {
			return contract.GuardTC, err
		}
	}
	return contract.GuardNone, nil
}

// hasGuardFilter reports whether the plugin's filter is at the egress of an interface.
func hasGuardFilter(link int) (found bool, err error) {
	const (
		sizeofTcMsg = 20         // struct tcmsg: family and padding, interface, handle, parent, info
		egress      = 0xfffffff3 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
		bpfName     = 7          // TCA_BPF_NAME
	)
	request := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(request[4:], uint32(link))
	binary.NativeEndian.PutUint32(request[12:], egress)
	err = ask(unix.NETLINK_ROUTE, unix.RTM_GETTFILTER, unix.NLM_F_DUMP, request, "RTM_GETTFILTER", func(data []byte) error {
		if len(data) < sizeofTcMsg {
			return fmt.Errorf("RTM_GETTFILTER: an answer of %d bytes", len(data))
		}
		a := attributes(data[sizeofTcMsg:])
		name := attributes(a[unix.TCA_OPTIONS])[bpfName]
		// A packet begins in chain 0.
		found = found || number32(a[unix.TCA_CHAIN], 0) == 0 && string(bytes.TrimRight(name, "\x00")) == contract.Table
		return nil
	})
	return found, err
}
