package integration

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestFaultConntrack: the pod's table of connections is full, as after a flood. New clients
// get no answer, as without a sidecar, until there is room again. Running connections go
// on, and the kubelet and Prometheus still reach the sidecar, whose metrics say why. In
// tproxy mode nothing depends on the table.
func TestFaultConntrack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "curl", "nginx", "socat")
	p := newPod(t, setup{mode: contract.ModeNAT})
	p.nginx(t)
	p.Pod.StartAs(app, "socat", "TCP6-LISTEN:9000,ipv6only=0,fork,reuseaddr", "PIPE").WaitListen(9000)
	var running []net.Conn
	for _, f := range p.fams() {
		conn := p.dial(t, f, 9000)
		if err := talks(conn); err != nil {
			t.Fatal(err)
		}
		running = append(running, conn)
	}
	limit := atoi(t, strings.TrimSpace(p.Pod.Run("cat", "/proc/sys/net/netfilter/nf_conntrack_max")))
	empty := p.fillConntrack(t, limit+1)
	f := results.Fault{Name: "conntrack's table is full (nat mode)", What: "new connections"}
	for range lab.Faults(3) {
		for _, fam := range p.fams() {
			f.Injected, f.Of = f.Injected+1, f.Of+1
			conn := p.knock(fam.client, addr(fam.pod, webPort))
			if conn == nil {
				f.Lost++
				continue
			}
			conn.Close()
		}
	}
	if f.Lost < f.Of {
		t.Errorf("of %d clients %d are served: the table is not full", f.Of, f.Of-f.Lost)
	}
	for _, conn := range running {
		if err := talks(conn); err != nil {
			t.Errorf("a running connection: %v", err)
		}
	}
	now := p.scrape(t)
	if now["conntrack_limit"] != float64(limit) || now["conntrack_entries"] < float64(limit) {
		t.Errorf("the metrics say %g of %g", now["conntrack_entries"], now["conntrack_limit"])
	}
	p.waitReady()
	empty()
	p.inFamilies(t, p.wantExact)
	f.Report(t)
}

// Attributes of linux/netfilter/nfnetlink_conntrack.h, of which package unix has none.
const (
	ctTupleOrig, ctTupleReply, ctStatus, ctProtoInfo, ctTimeout, ctMark, ctMarkMask = 1, 2, 3, 4, 7, 8, 21

	ctTupleIP, ctTupleProto                    = 1, 2
	ctIPv4Src, ctIPv4Dst                       = 1, 2
	ctProtoNum, ctProtoSrcPort, ctProtoDstPort = 1, 2, 3
	ctProtoInfoTCP, ctTCPState                 = 1, 1
)

// fillerMark is in the entries that fillConntrack makes.
const fillerMark = 0x7777

// fillConntrack makes n entries of connections that are established, which the kernel does
// not evict for new ones, and returns what takes them out again.
func (p *pod) fillConntrack(t *testing.T, n int) (empty func()) {
	t.Helper()
	ns, err := netns.GetFromName(p.Pod.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	conn, err := mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(ns)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	const batch = 256
	var messages []mnl.Message
	for i := range n {
		m, err := filler(uint32(i))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
		if len(messages) == batch || i == n-1 {
			if _, err := conn.SendMessages(messages); err != nil {
				t.Fatal(err)
			}
			messages = messages[:0]
		}
	}
	return func() {
		t.Helper()
		a := mnl.NewAttributeEncoder()
		a.ByteOrder = binary.BigEndian
		a.Uint32(ctMark, fillerMark)
		a.Uint32(ctMarkMask, 0xffffffff)
		const deletes = 2 // IPCTNL_MSG_CT_DELETE: all that match
		m, err := conntrackMessage(deletes, mnl.Request|mnl.Acknowledge, a)
		if err == nil {
			_, err = conn.Send(m)
		}
		for err == nil || errors.Is(err, unix.ENOBUFS) { // the kernel has told of entries that found no room
			var answers []mnl.Message
			if answers, err = conn.Receive(); len(answers) > 0 {
				return
			}
		}
		t.Fatal(err)
	}
}

// filler is the message that makes the ith entry.
func filler(i uint32) (mnl.Message, error) {
	a := mnl.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	client, server := 10<<24|i, uint32(10<<24|255<<16|1)
	tuple := func(from, to uint32, fromPort, toPort uint16) func(*mnl.AttributeEncoder) error {
		return func(a *mnl.AttributeEncoder) error {
			a.Nested(ctTupleIP, func(a *mnl.AttributeEncoder) error {
				a.Uint32(ctIPv4Src, from)
				a.Uint32(ctIPv4Dst, to)
				return nil
			})
			a.Nested(ctTupleProto, func(a *mnl.AttributeEncoder) error {
				a.Uint8(ctProtoNum, unix.IPPROTO_TCP)
				a.Uint16(ctProtoSrcPort, fromPort)
				a.Uint16(ctProtoDstPort, toPort)
				return nil
			})
			return nil
		}
	}
	a.Nested(ctTupleOrig, tuple(client, server, 40000, 80))
	a.Nested(ctTupleReply, tuple(server, client, 80, 40000))
	a.Uint32(ctTimeout, uint32(time.Hour/time.Second))
	const seenReply, assured, confirmed = 1 << 1, 1 << 2, 1 << 3 // enum ip_conntrack_status
	a.Uint32(ctStatus, seenReply|assured|confirmed)
	a.Uint32(ctMark, fillerMark)
	a.Nested(ctProtoInfo, func(a *mnl.AttributeEncoder) error {
		a.Nested(ctProtoInfoTCP, func(a *mnl.AttributeEncoder) error {
			const established = 3 // enum tcp_conntrack
			a.Uint8(ctTCPState, established)
			return nil
		})
		return nil
	})
	return conntrackMessage(0, mnl.Request|mnl.Create, a) // IPCTNL_MSG_CT_NEW
}

func conntrackMessage(kind int, flags mnl.HeaderFlags, a *mnl.AttributeEncoder) (mnl.Message, error) {
	const subsystem = 1 // NFNL_SUBSYS_CTNETLINK
	attributes, err := a.Encode()
	return mnl.Message{
		Header: mnl.Header{Type: mnl.HeaderType(subsystem<<8 | kind), Flags: flags},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attributes...), // struct nfgenmsg
	}, err
}
