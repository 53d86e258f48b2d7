package integration

import (
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
)

// acceptPort is where the attacker is an application.
const acceptPort = 7000

// containerRoot is root as in a container, without the capabilities to become the
// sidecar's user.
var containerRoot = lab.User{Caps: []string{"net_raw"}}

// TestGuard: no packet with a foreign source leaves the pod, whatever user sends it;
// without the guard all do, which proves that each attack works.
func TestGuard(t *testing.T) {
	sidecar := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	attackers := []struct {
		list string
		user lab.User
	}{{"user", app}, {"user", sidecar}, {"root", containerRoot}}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.Pod.Sysctl("net.ipv4.ping_group_range", "0 2147483647") // as runtimes set it
		p.Pod.Sysctl("net.ipv4.ip_forward", "1")                  // as docker in the pod sets it
		p.Pod.Sysctl("net.ipv6.conf.all.forwarding", "1")
		for _, by := range attackers {
			limits := limits(by.list)
			for _, a := range p.attackCable(t, by.list, by.user) {
				if a.frame != nil && limits[a.name] == "" {
					t.Errorf("uid %d: %s from %s came out: %x", by.user.UID, a.name, a.src, a.frame)
				}
			}
		}
		p.Pod.Run("nft", "insert", "rule", "inet", contract.Table, "output", "oifname", "!=", "lo", "accept")
		p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "egress", "accept")
		p.Pod.Run("nft", "insert", "rule", "netdev", contract.Table, "ingress_lo", "accept")
		p.Pod.Run("nft", "insert", "rule", "inet", contract.Table, "forward", "accept")
		p.Pod.Run("ip", "route", "del", "local", "default", "dev", "eth0", "table", fmt.Sprint(contract.RouteTable))
		for _, by := range attackers {
			for _, a := range p.attackCable(t, by.list, by.user) {
				if a.frame == nil {
					t.Errorf("uid %d: %s from %s does not work without the guard either: %s", by.user.UID, a.name, a.src, a.verdict)
				}
			}
		}
	})
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
		tried[i].frame = wire.with(tried[i].src.AsSlice())
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
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for name, by := range map[string]struct {
			list string
			user lab.User
		}{"user": {"lo", app}, "root": {"lo", containerRoot}, "root with NET_RAW": {"lo root", containerRoot}} {
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
		frames := p.attackLo(t, "lo root", containerRoot)
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
