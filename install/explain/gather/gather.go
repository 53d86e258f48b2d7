// Package gather finds out, on the node and as root, what happens to a pod's inbound
// connections: the facts that package explain judges. It needs nothing of the sidecar.
// It changes nothing, but for the table of package trace while a connection is
// followed, and one connection of its own to the application where that is allowed.
//
//	gather.go     the facts of a namespace, in order; gatherer.go what all use
//	listeners.go  who listens in it, and how long the queues are
//	process.go    which processes those are
//	conntrack.go  whose address was replaced on this node
//	story.go      follows one connection
//	watch.go      follows many
package gather

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// Fill adds to f what can be found out about f.NetNS: all but what the runtime and
// the node's files say. f has the namespace's path, the Config, Client and Port. What
// could not be found out is in f.Unknown; an error means that there is no such
// namespace, that it cannot be entered, or that its tables and sockets cannot be read.
// It needs root in the node's namespaces.
func Fill(ctx context.Context, f *explain.Facts, o Options) error {
	own, err := intercept.IsOwn(f.NetNS)
	if err != nil {
		return err
	}
	if f.HostNetwork = f.HostNetwork || own; f.HostNetwork || f.Invalid != "" || !f.Asks() {
		return nil
	}
	pod, err := ns.GetNS(f.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	g := gatherer{pod, f, f.Port}
	g.try("addresses", g.addresses)
	if err := g.tables(); err != nil {
		return fmt.Errorf("list the pod's tables: %w", err)
	}
	g.try("the packet guard", func() (err error) {
		if g.Table {
			g.Guard, err = intercept.Guard(g.NetNS, g.Config.Interface)
		}
		return err
	})
	g.check()
	if err := g.listeners(); err != nil {
		return fmt.Errorf("list the pod's listeners: %w", err)
	}
	g.try("conntrack", g.conntrack)
	g.choosePort()
	g.ready(ctx)
	rewritten := func() { g.try("connections that this node has rewritten", g.replaced) }
	rewritten()
	if f.Stack == "" && f.Table && o.Follow {
		g.try("the way of a connection", func() error { return g.story(ctx, o) })
	}
	if f.Story != nil && !f.Story.Synthetic {
		rewritten() // this one, too
	}
	g.try("counters", g.counters) // the story's, too
	return nil
}

// addresses completes what the runtime knows, and finds the signs of a sandbox whose
// network stack is not the namespace's.
func (g gatherer) addresses() error {
	h, err := netlink.NewHandleAt(netns.NsHandle(g.pod.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		// Kata's tap device, to which it mirrors the pod's interface.
		if g.Stack == "" && strings.HasPrefix(l.Attrs().Name, "tap") && strings.HasSuffix(l.Attrs().Name, "_kata") {
			g.Stack = "Kata Containers"
		}
	}
	if len(g.Addrs) > 0 {
		return nil
	}
	link, err := h.LinkByName(g.Config.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", g.Config.Interface, err)
	}
	list, err := h.AddrList(link, unix.AF_UNSPEC)
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.IsLinkLocalUnicast() {
			g.Addrs = append(g.Addrs, addr.Unmap())
		}
	}
	return err
}

// tables looks for ours, and for other traces of ADD.
func (g gatherer) tables() (err error) {
	if g.Programmed, err = intercept.Programmed(g.NetNS, g.Config.Interface); err != nil {
		return err
	}
	nft, err := nftables.New(nftables.WithNetNSFd(int(g.pod.Fd())))
	if err != nil {
		return err
	}
	all, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
	g.Table = slices.ContainsFunc(all, func(t *nftables.Table) bool { return t.Name == contract.Table })
	return err
}

// check compares with what ADD makes; what it could make is asked of the kernel only
// where something is wrong.
func (g gatherer) check() {
	err := intercept.Check(g.NetNS, g.Config, g.Addrs)
	g.try("other software's rules", func() (err error) {
		g.Others, err = intercept.Others(g.NetNS, g.Config)
		return err
	})
	foreign := func(text string) bool {
		return slices.ContainsFunc(g.Others, func(o intercept.Other) bool { return strings.HasPrefix(text, o.String()) })
	}
	var drift intercept.Drift
	switch {
	case err == nil || foreign(err.Error()): // other software's rules alone
		return
	case errors.As(err, &drift):
		// These are no drift that programming again would mend.
		if g.Drift = slices.DeleteFunc([]string(drift), foreign); len(g.Drift) == 0 {
			return
		}
	default:
		g.Unknown = append(g.Unknown, explain.Unchecked(err))
	}
	var guard intercept.Guarded
	if g.Missing, guard, err = intercept.Preflight(g.Config.Mode); err != nil {
		g.Unknown = append(g.Unknown, "what the kernel lacks: "+err.Error())
	} else if guard.Guard != contract.GuardNFT && g.Config.PacketGuard == contract.PacketGuardRequired {
		g.Missing = append(g.Missing, intercept.EgressHook)
	}
}

// counters are those of the rules, in the order in which a connection meets them.
func (g gatherer) counters() error {
	packets, err := intercept.Counters(g.NetNS)
	for _, c := range intercept.CounterMeanings {
		if n, ok := packets[c.Name]; ok {
			g.Counters = append(g.Counters, explain.Counter{Name: c.Name, Packets: n})
		}
	}
	return err
}

// choosePort takes a port that clients use: one that is intercepted, if there is one.
func (g gatherer) choosePort() {
	if g.Port != 0 {
		return
	}
	var ports []uint16
	for _, l := range g.Application() {
		ports = append(ports, l.Addr.Port())
	}
	slices.Sort(ports)
	for _, p := range ports {
		if g.Port == 0 || g.Intercepts(p) && !g.Intercepts(g.Port) {
			g.Port = p
		}
	}
}

// conntrack takes the fuller of two tables: the pod's own and the node's.
func (g gatherer) conntrack() error {
	const dir = "/proc/sys/net/netfilter/nf_conntrack_"
	read := func(name string) (uint64, error) {
		b, err := os.ReadFile(dir + name)
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil // no conntrack
		}
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	most, err := read("max")
	if err != nil || most == 0 {
		return err
	}
	here, err := read("count")
	if err != nil {
		return err
	}
	var there uint64
	err = g.pod.Do(func(ns.NetNS) (err error) {
		there, err = read("count")
		return err
	})
	g.Conntrack = explain.Usage{Count: max(here, there), Limit: most}
	return err
}
