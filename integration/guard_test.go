package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/lacks"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// acceptPort is where the attacker is an application.
const acceptPort = 7000

// containerRoot is root as in a container, without the capabilities to become the
// sidecar's user. Where the kernel asks for CAP_NET_ADMIN before it marks a packet, root
// has that, too: otherwise the rules would not meet the attacks that a newer kernel allows.
func containerRoot(t *testing.T) lab.User {
	t.Helper()
	if !lab.Has(t, lab.RawMark) {
		return lab.User{Caps: []string{"net_raw", "net_admin"}}
	}
	return lab.User{Caps: []string{"net_raw"}}
}

// TestGuard: no packet with a foreign source leaves the pod, whatever user sends it;
// without the guard all do, which proves that each attack works. On a kernel without the
// hook for the whole packet guard, the one in its place lets out what getsPast says, and
// no more.
func TestGuard(t *testing.T) {
	needProtocols(t, "user", "root")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.wantGuarded(t)
		p.wantOpen(t)
	})
}

// TestLesserGuards is TestGuard on this kernel as if it lacked the hook, and then tc,
// too.
func TestLesserGuards(t *testing.T) {
	for _, features := range programs.Lacking {
		t.Run("lacks "+features, func(t *testing.T) {
			inModes(t, setup{lacks: features, entry: map[string]any{"packetGuard": contract.PacketGuardBestEffort}}, func(t *testing.T, p *pod) {
				want := map[bool]contract.Guard{false: contract.GuardTC, true: contract.GuardNone}[strings.Contains(features, lacks.TC)]
				if got := p.guard(t); got != want {
					t.Errorf("packet guard %q, want %s", got, want)
				}
				p.wantReported(t, want)
				before := p.counters(t)["frames_dropped"]
				p.wantGuarded(t)
				if n := p.counters(t)["frames_dropped"] - before; want == contract.GuardTC && n < 20 {
					t.Errorf("%d frames were counted as dropped", n) // a few are on lo
				}
				p.wantOpen(t)
			})
		})
	}
}

// wantReported: the sidecar, which has no privilege, says which guard is in force.
func (p *pod) wantReported(t *testing.T, want contract.Guard) {
	t.Helper()
	for path, text := range map[string]string{
		"/readyz": "packet guard: " + string(want), "/metrics": `tproxy_proxy_packet_guard{guard="` + string(want) + `"} 1`,
		"/status": `"packet_guard":"` + string(want) + `"`,
	} {
		_, body, err := p.Pod.Get("http://" + addr(v4.lo, contract.AdminPort) + path)
		if err != nil || !strings.Contains(strings.ReplaceAll(body, `": "`, `":"`), text) {
			t.Errorf("%s lacks %s: %v\n%s", path, text, err, body)
		}
	}
}

// guard is the packet guard in force in the pod.
func (p *pod) guard(t *testing.T) contract.Guard {
	t.Helper()
	g, err := intercept.Guard(p.Pod.Path(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// getsPast reports whether an attack of rootAttacks gets past a packet guard.
func getsPast(attack string, g contract.Guard) bool {
	packetSocket := strings.Contains(attack, "frame") || strings.Contains(attack, "arp") || attack == "obsolete packet socket"
	switch {
	case attack == "frame for lo to forward":
		return false // that guard is on lo
	case g == contract.GuardTC:
		return attack == "frame past the queue" // PACKET_QDISC_BYPASS
	}
	return g == contract.GuardNone && packetSocket
}

// guardAttacker is who attacks the packet guard, by a list.
type guardAttacker struct {
	list string
	user lab.User
}

func guardAttackers(t *testing.T) []guardAttacker {
	t.Helper()
	return []guardAttacker{{"user", app}, {"user", lab.User{UID: contract.ProxyUID, NoNewPrivs: true}}, {"root", containerRoot(t)}}
}

// wantGuarded: nothing comes out but what gets past the pod's packet guard.
func (p *pod) wantGuarded(t *testing.T) {
	t.Helper()
	p.Pod.Sysctl("net.ipv4.ping_group_range", "0 2147483647") // as runtimes set it
	p.Pod.Sysctl("net.ipv4.ip_forward", "1")                  // as docker in the pod sets it
	p.Pod.Sysctl("net.ipv6.conf.all.forwarding", "1")
	guard := p.guard(t)
	for _, by := range guardAttackers(t) {
		limits := limits(by.list)
		for _, a := range p.attackCable(t, by.list, by.user) {
			past := by.list == "root" && getsPast(a.name, guard)
			if limits[a.name] == "" && (a.frame != nil) != past {
				t.Errorf("uid %d, packet guard %s: %s from %s came out: %x, want %v", by.user.UID, guard, a.name, a.src, a.frame, past)
			}
		}
	}
}

// wantOpen: everything comes out once the rules let it, after wantGuarded.
func (p *pod) wantOpen(t *testing.T) {
	t.Helper()
	p.Pod.Run("nft", "insert", "rule", "inet", contract.Table, "output", "oifname", "!=", "lo", "accept")
	switch p.guard(t) {
	case contract.GuardNFT:
		p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "egress", "accept")
	case contract.GuardTC:
		p.Pod.Run("tc", "filter", "del", "dev", "eth0", "egress")
	}
	p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "ingress_lo", "accept")
	p.Pod.Run("nft", "insert", "rule", "inet", contract.Table, "forward", "accept")
	p.Pod.Run("ip", "route", "del", "local", "default", "dev", "eth0", "table", fmt.Sprint(contract.RouteTable))
	for _, by := range guardAttackers(t) {
		for _, a := range p.attackCable(t, by.list, by.user) {
			if a.frame == nil {
				t.Errorf("uid %d: %s from %s does not work without the guard either: %s", by.user.UID, a.name, a.src, a.verdict)
			}
		}
	}
}

// needProtocols has a part for each attack of these lists by a protocol that some kernels
// lack: it is skipped where the attack cannot be made.
func needProtocols(t *testing.T, lists ...string) {
	t.Helper()
	for _, list := range lists {
		for _, a := range attackLists[list] {
			if a.needs != nil {
				t.Run(a.name, func(t *testing.T) { lab.NeedKernel(t, *a.needs) })
			}
		}
	}
}

// limits are the attacks of a list that the rules do not stop, and why.
func limits(list string) map[string]string {
	all := map[string]string{}
	for _, a := range attackLists[list] {
		all[a.name] = a.limit
	}
	return all
}

// attempt is an attack that was made.
type attempt struct {
	name    string
	src     netip.Addr
	verdict string // of the kernel
	frame   []byte // in which the source came out, if it did
}

// isIn reports whether a frame is the attack's. There is one ::1 for an attack that writes
// its frame itself and one that does not, so that these are told by the hardware address.
func (a attempt) isIn(frame []byte) bool {
	if a.src == netip.IPv6Loopback() && bytes.Contains(frame, forgedMAC) != strings.Contains(a.name, "frame") {
		return false
	}
	return bytes.Contains(frame, a.src.AsSlice())
}

// attackCable runs a list of attacks and captures at the node's end of the veth.
func (p *pod) attackCable(t *testing.T, list string, user lab.User) []attempt {
	t.Helper()
	wire := newCapture(t, p.Node, p.nodeLink())
	tried, end := p.attack(t, list, user)
	defer end()
	// A harmless packet after all others: once it has arrived, they have.
	for _, f := range p.fams() {
		p.honest(t, wire, f, "honest "+f.name)
	}
	for i := range tried {
		tried[i].frame = wire.first(tried[i].isIn)
	}
	return tried
}

// honest sends a packet with the text out of the pod and waits for it: all packets sent
// before have arrived then.
func (p *pod) honest(t *testing.T, wire *capture, f family, text string) {
	t.Helper()
	conn, err := p.Pod.Dial("udp", f.pod, addr(f.client, discard))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	wire.wait(t, []byte(text))
}

// attack runs a list of attacks in the pod. Their sockets stay open until end.
func (p *pod) attack(t *testing.T, list string, user lab.User) (tried []attempt, end func()) {
	t.Helper()
	text, err := json.Marshal(order{List: list, Aims: p.aims(t), Accept: acceptPort})
	if err != nil {
		t.Fatal(err)
	}
	proc := p.hold(t, p.Pod, user.Args(attacker(t), attackArg, string(text))...).WaitLog("listening")
	for _, f := range p.fams() {
		for range acceptedPerFamily {
			// The attacker may have reset it already.
			if conn, err := p.Client.Dial("tcp", f.client, addr(f.pod, acceptPort)); err == nil {
				t.Cleanup(func() { conn.Close() })
			}
		}
	}
	proc.WaitLog("done")
	for _, line := range strings.Split(proc.Output(), "\n") {
		if f := strings.Split(line, "|"); len(f) == 3 {
			tried = append(tried, attempt{name: f[0], src: addrOf(f[1]), verdict: f[2]})
		}
	}
	if len(tried) == 0 {
		t.Fatalf("no attack was made:\n%s", proc.Output())
	}
	return tried, proc.Kill
}

// aims are the attacker's, one a family.
func (p *pod) aims(t *testing.T) (all []aim) {
	t.Helper()
	err := p.Node.Do(func() error {
		node, err := net.InterfaceByName(p.nodeLink())
		if err != nil {
			return err
		}
		for _, f := range p.fams() {
			all = append(all, aim{Own: addrOf(f.pod), Dst: addrOf(f.client), Via: addrOf(f.gateway), MAC: node.HardwareAddr, Dev: "eth0"})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// attacker is the test binary where every user can run it.
func attacker(t *testing.T) string {
	t.Helper()
	path, err := copyAttacker()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var copyAttacker = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(work, "attacker")
	if out, err := exec.Command("install", "-m", "755", self, path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy the attacker: %w\n%s", err, out)
	}
	return path, nil
})

// TestGuardOnLo: only the sidecar's user can connect to the application from a foreign
// source.
func TestGuardOnLo(t *testing.T) {
	needProtocols(t, "lo", "lo root")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for name, by := range map[string]struct {
			list string
			user lab.User
		}{"user": {"lo", app}, "root": {"lo", containerRoot(t)}, "root with NET_RAW": {"lo root", containerRoot(t)}} {
			if tried := p.attackLo(t, by.list, by.user); len(tried) > 0 {
				t.Errorf("%s: %v", name, tried)
			}
		}
		sidecar := p.attackLo(t, "lo", lab.User{UID: contract.ProxyUID})
		for _, f := range p.fams() {
			for _, name := range []string{"tcp", "accepted socket"} {
				if !contains(sidecar, name, addrOf(f.pod).Is4()) {
					t.Errorf("%s over %s does not work without the guard either: %v", name, f.name, sidecar)
				}
			}
		}
		p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "ingress_lo", "accept")
		frames := p.attackLo(t, "lo root", containerRoot(t))
		for _, f := range p.fams() {
			if !contains(frames, "frame on lo", addrOf(f.pod).Is4()) {
				t.Errorf("a frame on lo over %s does not work without the guard either: %v", f.name, frames)
			}
		}
	})
}

func contains(tried []attempt, name string, is4 bool) bool {
	for _, a := range tried {
		if a.name == name && a.src.Is4() == is4 {
			return true
		}
	}
	return false
}

// attackLo returns the attacks whose connections got beyond their own SYN.
func (p *pod) attackLo(t *testing.T, list string, user lab.User) (open []attempt) {
	t.Helper()
	tried, end := p.attack(t, list, user)
	defer end()
	p.inFamilies(t, p.wantExact) // what was sent over lo before has arrived
	sockets := strings.Split(p.Pod.Run("ss", "-Htan"), "\n")
	for _, a := range tried {
		for _, line := range sockets {
			if strings.Contains(line, a.src.String()) && !strings.HasPrefix(line, "SYN-SENT") && !strings.HasPrefix(line, "UNCONN") {
				a.verdict = line
				open = append(open, a)
				break
			}
		}
	}
	return open
}
