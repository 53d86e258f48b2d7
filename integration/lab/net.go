package lab

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

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

// NewNet makes the topology without the pod's link, which CNI plugins add, or
// Wire.
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

// Veth joins two namespaces with a veth pair of these names and sets both ends up.
func Veth(a *NS, aName string, b *NS, bName string) {
	a.t.Helper()
	a.links("add veth "+aName, func() error {
		peer, err := netns.GetFromName(b.name)
		if err != nil {
			return err
		}
		defer peer.Close()
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: bName, PeerNamespace: netlink.NsFd(peer)}
		veth.Name = aName
		return errors.Join(netlink.LinkAdd(veth), setUp(aName))
	})
	b.links("set "+bName+" up", func() error { return setUp(bName) })
}

// Addr adds addresses with their prefix length to a link. IPv6 ones are usable
// at once: duplicate address detection has no other host to find.
func (ns *NS) Addr(link string, addrs ...string) {
	ns.t.Helper()
	ns.links(fmt.Sprintf("add %v to %s", addrs, link), func() error {
		l, err := netlink.LinkByName(link)
		for _, text := range addrs {
			a, perr := netlink.ParseAddr(text)
			if err = errors.Join(err, perr); err != nil {
				break
			}
			if a.IP.To4() == nil {
				a.Flags |= unix.IFA_F_NODAD
			}
			err = netlink.AddrAdd(l, a)
		}
		return err
	})
}

// Route adds a route through a gateway; "default" is of the gateway's family.
func (ns *NS) Route(to, via string) {
	ns.t.Helper()
	ns.links("add route to "+to, func() (err error) {
		r := &netlink.Route{Gw: net.ParseIP(via)}
		if to != "default" {
			r.Dst, err = netlink.ParseIPNet(to)
		}
		return errors.Join(err, netlink.RouteAdd(r))
	})
}

// setUp sets a link of the thread's namespace up.
func setUp(link string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// links changes the namespace's links, without starting a program for it:
// hundreds of tests each make a dozen such changes.
func (ns *NS) links(what string, change func() error) {
	ns.t.Helper()
	if err := ns.Do(change); err != nil {
		ns.t.Fatalf("%s in %s: %v", what, ns.name, err)
	}
}
