package integration

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// rebindArg is the first argument of a test binary that is the attacker of
// TestLearning.
const rebindArg = "rebind"

// rebindMain makes the kernel deliver packets for a foreign address, without any
// privilege: a connected UDP socket remembers the route by which a packet came in,
// and keeps it when it is bound to another address. The packets of its peer are
// then delivered by that route (early demultiplexing), whatever their destination.
func rebindMain(args []string) {
	own, peer, foreign := addrOf(args[0]), addrOf(args[1]), addrOf(args[2])
	a := aim{Own: own}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check := func(what string, err error) {
		if err != nil {
			fmt.Println(what, err)
			os.Exit(2)
		}
	}
	check("socket", err)
	buf := make([]byte, 100)
	receive := func() {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		check("recvfrom", err)
		fmt.Println("received", string(buf[:n]))
	}
	check("connect", unix.Connect(fd, a.sockaddr(peer, rebindPeer)))
	local, err := unix.Getsockname(fd)
	check("getsockname", err)
	fmt.Println("port", local.(*unix.SockaddrInet4).Port)
	receive()
	check("disconnect", disconnect.do(fd))
	check("bind", unix.Bind(fd, a.sockaddr(foreign, rebindPort)))
	check("connect", unix.Connect(fd, a.sockaddr(peer, rebindPeer)))
	fmt.Println("bound")
	receive()
}

const rebindPeer, rebindPort = 7101, 7102

// TestLearning: an IPv4 address that was added after ADD is learned from packets to it,
// but only if an interface has it: a process that makes the kernel deliver packets for
// another address does not make that one the pod's.
func TestLearning(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		if poisoned := p.rebind(t, v4.foreign); poisoned {
			t.Errorf("learned: %s", p.learned())
		}
		p.Pod.Run("nft", "insert rule inet "+contract.Table+" input ip daddr != @own4 fib daddr type local add @learned4 { ip daddr }")
		const another = "203.0.113.10"
		if poisoned := p.rebind(t, another); !poisoned {
			t.Errorf("the attack does not work: learned %s", p.learned())
		}
	})
}

// TestLearned: an interface that was added after ADD is reachable, and its answers leave
// by the pod's first one where the routes say so, as with Multus.
func TestLearned(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		far := lab.New(t, "far").Up()
		lab.Veth(p.Pod, "net1", far, "eth0")
		p.Pod.Addr("net1", "10.99.0.2/24")
		far.Addr("eth0", "10.99.0.1/24", "10.98.0.1/32")
		lab.Veth(far, "eth1", p.Node, "far0")
		far.Addr("eth1", "10.97.0.2/24")
		p.Node.Addr("far0", "10.97.0.1/24")
		p.Node.Route("10.98.0.1/32", "10.97.0.2")
		for _, ns := range []*lab.NS{p.Pod, p.Node, far} {
			ns.Sysctl("net.ipv4.conf.all.rp_filter", "0")
			ns.Sysctl("net.ipv4.ip_forward", "1")
		}
		// From 10.98.0.1 to net1's address through net1; back through eth0 and the node.
		wantTalk(t, end{far, "10.98.0.1"}, end{p.Pod, "10.99.0.2"})
		if got := p.learned(); !strings.Contains(got, "10.99.0.2") {
			t.Errorf("learned: %s", got)
		}
	})
}

func (p *pod) learned() string {
	return p.Pod.Run("nft", "list", "set", "inet", contract.Table, "learned4")
}

// rebind runs the attack and reports whether the address was learned as the pod's.
func (p *pod) rebind(t *testing.T, foreign string) bool {
	t.Helper()
	mac := strings.Fields(p.Pod.Run("ip", "-br", "link", "show", "eth0"))[2]
	p.Node.Run("ip", "route", "add", foreign, "dev", p.nodeLink())
	p.Node.Run("ip", "neigh", "add", foreign, "lladdr", mac, "dev", p.nodeLink())
	proc := p.hold(t, p.Pod, app.Args(attacker(t), rebindArg, v4.pod, v4.gateway, foreign)...).WaitLog("port ")
	send := func(to, text string) {
		t.Helper()
		conn, err := p.Node.Dial("udp", addr(v4.gateway, rebindPeer), to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send(net.JoinHostPort(v4.pod, firstLine(proc.Output(), "port ")), "honest")
	proc.WaitLog("bound")
	send(addr(foreign, rebindPort), "foreign")
	proc.WaitLog("received foreign")
	return strings.Contains(p.learned(), foreign)
}
