package lab

import "strings"

// Addresses of the topology that the package comment draws.
const (
	Client4, Client6           = "192.168.1.2", "fd00:1::2"
	OtherClient4, OtherClient6 = "192.168.1.3", "fd00:1::3" // also the client's
	Node4, Node6               = "192.168.1.1", "fd00:1::1" // on the client's side
	Gateway4, Gateway6         = "192.168.2.1", "fd00:2::1" // on the pod's side
	Pod4, Pod6                 = "192.168.2.2", "fd00:2::2"
	PodNet4, PodNet6           = "192.168.2.0/24", "fd00:2::/64"
)

// Net is a client, a node that forwards, and a pod.
type Net struct {
	Client, Node, Pod *NS
}

// NewNet makes the topology without the pod's link, which is the CNI plugins'
// work, or that of Wire.
func NewNet(t TB) *Net {
	t.Helper()
	n := &Net{Client: New(t, "client").Up(), Node: New(t, "node").Up(), Pod: New(t, "pod")}
	n.Node.Sysctl("net.ipv4.ip_forward", "1")
	n.Node.Sysctl("net.ipv6.conf.all.forwarding", "1")
	Veth(n.Client, "eth0", n.Node, "client0")
	n.Client.Addr("eth0", Client4+"/24", OtherClient4+"/24", Client6+"/64", OtherClient6+"/64")
	n.Node.Addr("client0", Node4+"/24", Node6+"/64")
	n.Client.Route("default", Node4)
	n.Client.Route("default", Node6)
	return n
}

// Wire gives the pod its link and both addresses without any CNI plugin.
func (n *Net) Wire() {
	n.Pod.Up()
	Veth(n.Pod, "eth0", n.Node, "pod0")
	n.Pod.Addr("eth0", Pod4+"/24", Pod6+"/64")
	n.Node.Addr("pod0", Gateway4+"/24", Gateway6+"/64")
	n.Pod.Route("default", Gateway4)
	n.Pod.Route("default", Gateway6)
}

// Veth joins two namespaces by a cable with the named ends and sets both up.
func Veth(a *NS, aName string, b *NS, bName string) {
	a.t.Helper()
	a.Run("ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", b.name)
	a.Run("ip", "link", "set", aName, "up")
	b.Run("ip", "link", "set", bName, "up")
}

// Addr adds addresses with their prefix length to a link. IPv6 ones are usable
// at once: nothing else is on the cable that duplicate detection could find.
func (ns *NS) Addr(link string, addrs ...string) {
	ns.t.Helper()
	for _, a := range addrs {
		args := []string{"ip", "addr", "add", a, "dev", link}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		ns.Run(args...)
	}
}

// Route adds a route through a gateway; "default" is of the gateway's family.
func (ns *NS) Route(to, via string) {
	ns.t.Helper()
	family := "-4"
	if strings.Contains(via, ":") {
		family = "-6"
	}
	ns.Run("ip", family, "route", "add", to, "via", via)
}
