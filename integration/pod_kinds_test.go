package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// wantUnseen checks that the sidecar has logged no connection since before.
func (p *pod) wantUnseen(t *testing.T, before int) {
	t.Helper()
	if log := p.sidecar.Output()[before:]; strings.Contains(log, "msg=accepted") || strings.Contains(log, "msg=connection") {
		t.Errorf("intercepted:\n%s", log)
	}
}

// loud makes a pod whose sidecar logs each connection when it is accepted.
func loud(t *testing.T, mode string) *pod {
	t.Helper()
	p := newPod(t, setup{mode: mode, bare: true})
	p.start("--log-level", "debug")
	return p
}

// TestSecondInterface: connections on an interface that was added after ADD, as Multus
// does, have its own addresses and are not intercepted.
func TestSecondInterface(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		p := loud(t, mode)
		peer := lab.New(t, "peer").Up()
		lab.Veth(p.Pod, "net1", peer, "eth0")
		p.Pod.Addr("net1", "10.99.0.2/24", "fd00:99::2/64")
		peer.Addr("eth0", "10.99.0.1/24", "fd00:99::1/64")
		for _, ips := range [][2]string{{"10.99.0.2", "10.99.0.1"}, {"fd00:99::2", "fd00:99::1"}} {
			wantTalk(t, end{p.Pod, ips[0]}, end{peer, ips[1]})
			wantTalk(t, end{peer, ips[1]}, end{p.Pod, ips[0]})
		}
		p.wantUnseen(t, 0)
	})
}

// TestHostUsersFalse: a pod with a user namespace of its own is intercepted like any other.
func TestHostUsersFalse(t *testing.T) {
	inModes(t, setup{ownUsers: true}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.wantStable(t)
		p.mustCNI("del")
		p.wantKernelRules(t)
	})
}

// TestForwarded: what the pod forwards for another namespace, as docker in
// docker does, is not intercepted, with and without NAT.
func TestForwarded(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		p := loud(t, mode)
		p.nginx(t)
		inner := lab.New(t, "inner").Up()
		lab.Veth(inner, "eth0", p.Pod, "docker0")
		p.Pod.Sysctl("net.ipv4.ip_forward", "1")
		p.Pod.Sysctl("net.ipv6.conf.all.forwarding", "1")
		inner.Addr("eth0", "172.18.0.2/24", "fd00:18::2/64")
		p.Pod.Addr("docker0", "172.18.0.1/24", "fd00:18::1/64")
		inner.Route("default", "172.18.0.1")
		inner.Route("default", "fd00:18::1")
		p.Node.Route("172.18.0.0/24", v4.pod)
		p.Node.Route("fd00:18::/64", v6.pod)

		for _, f := range p.fams() {
			in := end{inner, innerAddr(f)}
			wantTalk(t, in, end{p.Client, f.client})
			wantTalk(t, end{p.Client, f.client}, in)
			wantTalk(t, in, end{p.Pod, f.pod})
		}
		p.wantNAT(t, inner)
		p.wantUnseen(t, 0)
		p.inFamilies(t, p.wantExact)
	})
}

// wantNAT is docker's way: masquerade what goes out, publish a port.
func (p *pod) wantNAT(t *testing.T, inner *lab.NS) {
	t.Helper()
	p.Pod.Run("nft", `
		add table inet docker
		add chain inet docker out { type nat hook postrouting priority srcnat; }
		add rule inet docker out oifname "eth0" iifname "docker0" masquerade
		add chain inet docker in { type nat hook prerouting priority dstnat; }
		add rule inet docker in iifname "eth0" tcp dport 8082 dnat ip to 172.18.0.2:80
		add rule inet docker in iifname "eth0" tcp dport 8082 dnat ip6 to [fd00:18::2]:80`)
	for _, f := range p.fams() {
		in := end{inner, innerAddr(f)}
		wantTalkAs(t, in, end{p.Client, f.client}, f.pod)
		l, err := inner.Listen("tcp", addr(in.ip, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn := p.dial(t, f, 8082)
		peer, err := acceptFrom(l)
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if peer.RemoteAddr().String() != conn.LocalAddr().String() {
			t.Errorf("published port: %s seen as %s", conn.LocalAddr(), peer.RemoteAddr())
		}
	}
}

// innerAddr is the address of the namespace behind the pod.
func innerAddr(f family) string {
	return map[string]string{v4.name: "172.18.0.2", v6.name: "fd00:18::2"}[f.name]
}

// TestUntouched: the pod's calls to itself, its calls to others, UDP, ICMP and
// neighbour discovery are not touched.
func TestUntouched(t *testing.T) {
	lab.Need(t, "curl", "ndisc6", "arping")
	inBothModes(t, func(t *testing.T, mode string) {
		p := loud(t, mode)
		p.nginx(t)
		before := len(p.sidecar.Output())
		for _, f := range p.fams() {
			for _, self := range []string{f.pod, f.lo} {
				out := p.Pod.Run("curl", "-sS", "http://"+addr(self, webPort))
				if !strings.HasPrefix(out, self+" ") {
					t.Errorf("the pod connects to itself at %s and sees %q", self, out)
				}
			}
			wantTalk(t, end{p.Pod, f.pod}, end{p.Client, f.client})
			wantTalk(t, end{p.Pod, f.pod}, end{p.Node, f.gateway})
			if err := udpTalk(end{p.Client, f.client}, end{p.Pod, f.pod}, f.client); err != nil {
				t.Error(err)
			}
			p.Client.Run("ping", "-c1", "-W5", f.pod)
		}
		p.Node.Run("ip", "neigh", "flush", "all")
		p.Node.Run("arping", "-c1", "-w5", "-I", p.nodeLink(), v4.pod)
		p.Node.Run("ndisc6", "-1", "-w", "5000", v6.pod, p.nodeLink())
		p.wantUnseen(t, before)
		p.inFamilies(t, p.wantExact)
		lab.Eventually(t, "a log line for each connection", func() error {
			if got := strings.Count(p.sidecar.Output()[before:], "msg=accepted"); got != len(p.fams()) {
				return fmt.Errorf("%d connections, want %d", got, len(p.fams()))
			}
			return nil
		})
	})
}

// TestMoreAddresses: an address on lo that existed at ADD, and addresses added to the
// pod's interface later, are served and may be a source.
func TestMoreAddresses(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode string) {
		p := prepare(t, setup{mode: mode})
		p.Pod.Up().Addr("lo", "192.168.7.1/32", "fd00:7::1/128")
		p.add()
		p.Pod.Addr("eth0", "192.168.7.2/32", "fd00:7::2/128")
		p.start()
		p.nginx(t)
		for _, more := range []struct {
			f  family
			ip string
		}{{v4, "192.168.7.1"}, {v6, "fd00:7::1"}, {v4, "192.168.7.2"}, {v6, "fd00:7::2"}} {
			p.Node.Run("ip", "route", "add", more.ip, "via", more.f.pod)
			wantTalk(t, end{p.Pod, more.ip}, end{p.Client, more.f.client})
			p.wantExactAt(t, more.f.client, addr(more.ip, webPort))
		}
	})
}

// TestReversePath: interception works with any setting of the reverse path filter and of
// forwarding, and changes neither.
func TestReversePath(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for n := range 12 {
			filter, mark, forward := fmt.Sprint(n%3), fmt.Sprint(n/3%2), fmt.Sprint(n/6)
			for _, link := range []string{"all", "lo", "eth0"} {
				p.Pod.Sysctl("net.ipv4.conf."+link+".rp_filter", filter)
				p.Pod.Sysctl("net.ipv4.conf."+link+".src_valid_mark", mark)
			}
			p.Pod.Sysctl("net.ipv4.ip_forward", forward)
			p.Pod.Sysctl("net.ipv6.conf.all.forwarding", forward)
			for _, f := range p.fams() {
				if p.wantExact(t, f); t.Failed() {
					t.Fatalf("rp_filter %s, src_valid_mark %s, forwarding %s", filter, mark, forward)
				}
			}
		}
		err := p.Pod.Do(func() error {
			files, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/route_localnet")
			for _, file := range files {
				if text, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(text)) != "0" {
					t.Errorf("%s: %s (%v)", file, text, err)
				}
			}
			if len(files) == 0 {
				t.Error("no file tells of route_localnet")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestClaimsNothing: the pod answers ARP and neighbour discovery for no foreign address,
// and packets routed to it for one are not delivered.
func TestClaimsNothing(t *testing.T) {
	lab.Need(t, "arping", "ndisc6")
	inBothModes(t, func(t *testing.T, mode string) {
		p := loud(t, mode)
		p.nginx(t)
		link := p.nodeLink()
		if out, err := p.Node.Try("arping", "-c1", "-w1", "-I", link, v4.foreign); err == nil {
			t.Errorf("the pod answers for %s: %s", v4.foreign, out)
		}
		if out, err := p.Node.Try("ndisc6", "-1", "-r1", "-w", "300", v6.foreign, link); err == nil {
			t.Errorf("the pod answers for %s: %s", v6.foreign, out)
		}
		before := len(p.sidecar.Output())
		for _, f := range p.fams() {
			p.Node.Run("ip", "route", "add", f.foreign, "via", f.pod)
			server, err := listenUDP(end{p.Pod, f.any})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			_, port, _ := net.SplitHostPort(server.LocalAddr().String())
			for _, to := range []string{f.foreign, f.pod} {
				conn, err := p.Client.Dial("udp", f.client, net.JoinHostPort(to, port))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.Write([]byte("to " + to)); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 100)
			n, _, err := server.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "to "+f.pod {
				t.Errorf("delivered: %q (%v)", buf[:n], err)
			}
			if conn := p.knock(f.client, addr(f.foreign, webPort)); conn != nil {
				conn.Close()
				t.Errorf("%s is served", f.foreign)
			}
		}
		p.wantUnseen(t, before)
	})
}

// knock tries to connect where no answer should come.
func (p *pod) knock(from, to string) (conn net.Conn) {
	_ = p.Client.Do(func() (err error) {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err = d.Dial("tcp", to)
		return err
	})
	return conn
}

// inBothModes is inModes for a story that makes its own pod.
func inBothModes(t *testing.T, story func(*testing.T, string)) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			story(t, mode)
		})
	}
}
