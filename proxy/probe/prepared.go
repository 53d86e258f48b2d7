// Package probe finds out, without any privilege, what keeps the sidecar from
// serving its pod: the plugin's rules are missing, or other programs have the ports.
//
// A pod that started before the plugin was in the node's chain must not look healthy
// while its connections are not intercepted. Reading the rules needs CAP_NET_ADMIN,
// so the probe does what a relayed connection does: it connects within the pod from
// an address that no host has. That works only with the routing, the sysctls and the
// nftables table in place, and with the uid that the rules allow. The table is made
// in one transaction, so where its guard works its interception is there, too; only
// the port and the filters that it was given cannot be seen from inside the pod.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
)

// Pod is the pod to probe, from within.
type Pod struct {
	Mode string         // contract.ModeNAT or contract.ModeTProxy
	Addr netip.AddrPort // of the sidecar's listener
	Own  *dial.Addrs

	Listeners *OwnListeners // of the checks

	// Patience bounds a connection of the probe. Within the pod it takes
	// microseconds or is never established.
	Patience time.Duration
}

// Patience is for a pod of which nothing is known yet. A kubelet gives a command that
// is a probe one second by default.
const Patience = 700 * time.Millisecond

// family is what the probe uses of one address family.
type family struct {
	name string

	// nobody is the probe's source: an address for documentation (RFC 5737, RFC
	// 3849), which no client has.
	nobody netip.Addr

	sysctls []string // that the plugin sets to 1
}

var families = []family{
	{
		"IPv4", netip.MustParseAddr("192.0.2.1"),
		[]string{"net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect"},
	},
	{
		"IPv6", netip.MustParseAddr("2001:db8::1"),
		[]string{"net.ipv4.tcp_fwmark_accept", "net.ipv6.fwmark_reflect"}, // the first is for both
	},
}

// Prepared returns nil if the plugin has prepared the pod, else what is missing for
// each family of the pod, with the reason of the first. It takes little longer than p.Patience.
func (p Pod) Prepared(ctx context.Context) *Fault {
	found := make([]error, len(families))
	var all sync.WaitGroup
	checked := 0
	for i, f := range families {
		own, err := p.Own.One(f.nobody.Is6())
		switch {
		case err != nil:
			found[i] = err
		case own.IsValid():
			all.Go(func() { found[i] = p.checkFamily(ctx, f, own) })
		default:
			continue
		}
		checked++
	}
	all.Wait()
	if checked == 0 {
		return fault(NoAddress, "this pod has no address yet")
	}
	return joined(found)
}

// checkFamily goes from what names the cause best to what proves most.
func (p Pod) checkFamily(ctx context.Context, f family, own netip.Addr) error {
	ln, err := p.Listeners.open(ctx, own)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return fault(NoAddress, "the pod's address cannot be used yet") // IPv6's duplicate address detection, say
	}
	if err != nil {
		return err
	}
	defer p.Listeners.close(ln)

	if err := tryBind(ctx, f.nobody); err != nil {
		return refusedSource(err)
	}
	if err := checkSysctls(f.sysctls); err != nil {
		return err
	}
	if err := connect(f, ln, p.Patience); err != nil {
		return err
	}
	return p.checkMode(f)
}

// tryBind finds out whether addr can be a source without IPV6_FREEBIND, with which
// it always could.
func tryBind(ctx context.Context, addr netip.Addr) error {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return err
	}
	return conn.Close()
}

func checkSysctls(keys []string) error {
	for _, key := range keys {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
		if err != nil {
			return fmt.Errorf("read sysctl: %w", err)
		}
		if v := strings.TrimSpace(string(b)); v != "1" {
			return fault(Sysctl, fmt.Sprintf("sysctl %s is %s, not 1", key, v))
		}
	}
	return nil
}
