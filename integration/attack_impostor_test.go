package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// impostorArg is the first argument of a test binary that runs in a pod as root
// with NET_RAW and has a whole TCP connection with the application from a foreign
// address: it sends the client's segments and captures the answers.
const impostorArg = "impostor"

// impostors are ways to give the kernel a segment that arrives on lo.
var impostors = map[string]func(s segment) error{
	// AF_XDP gives a frame to lo's driver, past every hook of the way out.
	"xdp": func(s segment) error {
		kind := uint16(unix.ETH_P_IP)
		if s.to.Addr().Is6() {
			kind = unix.ETH_P_IPV6
		}
		frame := slices.Concat(make([]byte, 12), []byte{byte(kind >> 8), byte(kind)}, s.ip())
		for {
			// The only queue, and the memory, stay busy for a while after the
			// last socket is closed.
			err := sendXDP(aim{Dev: "lo"}.ifindex(), frame)
			if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
	},
	// A broadcast address is not local anywhere, so "local on lo" does not see it.
	"raw": func(s segment) error {
		return aim{Own: s.to.Addr(), Dst: s.to.Addr()}.rawIP(s.ip(), marked())
	},
}

func impostorMain(args []string) {
	send := impostors[args[0]]
	from, to := netip.AddrPortFrom(addrOf(args[1]), 45678), netip.MustParseAddrPort(args[2])
	ears, err := packetSocket("eth0")
	if err == nil {
		// On every interface, what is sent included.
		err = unix.Bind(ears, &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ALL)})
	}
	if err == nil {
		err = ignoring(send(segment{from: from, to: to, seq: 1, flags: 0x02}), unix.EPERM) // the rules dropped it
	}
	if err != nil {
		fmt.Println("not sent:", err)
		os.Exit(2)
	}
	fmt.Println("sent")
	asked := false
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(ears, buf, 0)
		if err != nil || n < 14 {
			continue
		}
		s, err := parseSegment(buf[14:n])
		switch {
		case err != nil || s.to != from || s.from != to:
		case s.flags == 0x12 && !asked:
			asked = true
			fmt.Println("heard")
			request := []byte("GET / HTTP/1.0\r\n\r\n")
			if err := send(segment{from: from, to: to, seq: 2, ack: s.seq + 1, flags: 0x18, data: request}); err != nil {
				fmt.Println("not asked:", err)
			}
		}
	}
}

// impersonations are the ways, with the address that each uses.
var impersonations = []struct{ way, from, to string }{
	{"xdp", "192.168.1.77", v4.pod},
	{"xdp", "fd00:1::77", v6.pod},
	{"raw", "192.168.2.255", v4.pod},
}

// TestImpostor: root with NET_RAW cannot reach the application from a foreign address
// by a frame handed to lo's driver, nor from a broadcast address; without the rules
// against it, it can.
func TestImpostor(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		d, _ := p.nginx(t)
		pose := func(way, from, to string) *lab.Proc {
			return p.hold(t, p.Pod, containerRoot(t).Args(attacker(t), impostorArg, way, from, addr(to, webPort))...).WaitLog("sent\n")
		}
		for _, by := range impersonations {
			proc := pose(by.way, by.from, by.to)
			p.inFamilies(t, p.wantExact) // what was sent over lo before has arrived
			if sockets := p.Pod.Run("ss", "-Htan"); strings.Contains(sockets, by.from) {
				t.Errorf("%s: the application heard of %s:\n%s", by.way, by.from, sockets)
			}
			proc.Kill()
		}
		p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "ingress_lo", "accept")
		p.Pod.Run("nft", "flush", "chain", "inet", contract.Table, "other4")
		for _, by := range impersonations {
			proc := pose(by.way, by.from, by.to).WaitLog("heard")
			lab.Eventually(t, "the application serves "+by.from, func() error {
				if log := accessLog(t, d); !strings.Contains("\n"+log, "\n"+by.from+" ") {
					return errors.New(log)
				}
				return nil
			})
			proc.Kill()
		}
	})
}
