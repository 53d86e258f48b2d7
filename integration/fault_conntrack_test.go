package integration

import (
	"encoding/binary"
	"fmt"
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
// on, and the kubelet and Prometheus still reach the sidecar, whose metrics say why, as do
// the commands in the pod. In tproxy mode nothing depends on the table.
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
	const room = 64 // that comes and goes: what the filler has not taken again
	table := p.fillConntrack(t, limit-room)
	full := table.keepFull(t)
	lab.Eventually(t, "the metrics", func() error {
		now := p.scrape(t)
		if now["conntrack_limit"] != float64(limit) || int(now["conntrack_entries"]) < limit-room {
			return fmt.Errorf("%g of %g", now["conntrack_entries"], now["conntrack_limit"])
		}
		return nil
	})
	f := results.Fault{Name: "conntrack's table is full (nat mode)", What: "new connections"}
	before := p.refusedEntries(t)
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
	if refused := p.refusedEntries(t) - before; f.Lost < f.Of || refused < f.Of {
		t.Errorf("of %d clients %d are served, and conntrack had no room for %d: the table is not full", f.Of, f.Of-f.Lost, refused)
	}
	for _, conn := range running {
		if err := talks(conn); err != nil {
			t.Errorf("a running connection: %v", err)
		}
	}
	p.wantProbes(t)
	full()
	table.empty(t)
	p.wantProbes(t)
	if tracked := p.Pod.Run("conntrack", "-L", "-p", "tcp"); strings.Contains(tracked, fmt.Sprintf("port=%d ", contract.AdminPort)) {
		t.Errorf("conntrack has of the health port\n%s", tracked)
	}
	p.inFamilies(t, p.wantExact)
	f.Report(t)
}

// wantProbes: the health port answers the kubelet and the pod itself, however often.
func (p *pod) wantProbes(t *testing.T) {
	t.Helper()
	for _, f := range p.fams() {
		for range 10 {
			for _, from := range []struct {
				*lab.NS
				ip string
			}{{p.Node, f.pod}, {p.Pod, f.lo}} {
				if out, err := from.Try("curl", "-sSf", "-m", "5", "http://"+addr(from.ip, contract.AdminPort)+"/readyz"); err != nil {
					t.Errorf("a probe by %s: %v\n%s", f.name, err, out)
				}
			}
		}
	}
	if out, err := p.Pod.Try(bin(t, "tproxy-proxy"), "ready"); err != nil {
		t.Errorf("the startup probe: %v\n%s", err, out)
	}
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

// refusedEntries is how often conntrack had no room in the pod.
func (p *pod) refusedEntries(t *testing.T) (n int) {
	t.Helper()
	for _, word := range strings.Fields(p.Pod.Run("conntrack", "-S")) {
		if drop, ok := strings.CutPrefix(word, "drop="); ok {
			n += atoi(t, drop)
		}
	}
	return n
}

// conntrackTable is a pod's table with entries of our own.
type conntrackTable struct {
	conn *mnl.Conn
	next uint32 // entry
}

// fillConntrack makes n entries of connections that are established, which the kernel does
// not evict for new ones.
func (p *pod) fillConntrack(t *testing.T, n int) *conntrackTable {
	t.Helper()
	ns, err := netns.GetFromName(p.Pod.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c := &conntrackTable{}
	if c.conn, err = mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(ns)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	for n > 0 {
		some := min(n, 256)
		if err := c.add(some); err != nil {
			t.Fatal(err)
		}
		n -= some
	}
	return c
}

// add makes so many entries more, as far as there is room.
func (c *conntrackTable) add(n int) error {
	messages := make([]mnl.Message, n)
	for i := range messages {
		var err error
		if messages[i], err = filler(c.next); err != nil {
			return err
		}
		c.next++
	}
	_, err := c.conn.SendMessages(messages)
	return err
}

// keepFull takes all room that there is and that comes, until the returned function ends it.
func (c *conntrackTable) keepFull(t *testing.T) (end func()) {
	t.Helper()
	if err := c.add(256); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(10 * time.Millisecond): // entries end by time
			}
			if err := c.add(8); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		t.Helper()
		close(stop)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// empty takes all of them out again.
func (c *conntrackTable) empty(t *testing.T) {
	t.Helper()
	a := mnl.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	a.Uint32(ctMark, fillerMark)
	a.Uint32(ctMarkMask, 0xffffffff)
	const deletes = 2 // IPCTNL_MSG_CT_DELETE: all that match
	m, err := conntrackMessage(deletes, mnl.Request, a)
	if err == nil {
		_, err = c.conn.Send(m)
	}
	if err != nil {
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
